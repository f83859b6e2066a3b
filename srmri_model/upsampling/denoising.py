"""The network on slices as they lie in a volume, on tiles of them, and on whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from srmri_data.geometry import closest_axes
from srmri_data.slices import StackFrame
from srmri_model.samplers import Denoises
from srmri_model.training.slices import neighbour_offsets
from srmri_model.types import Images, ImagesOrVolumes, ImagesShown, Planes, Sigmas
from srmri_model.upsampling.workers import ALONE, Stopped, Workers

Evaluation = Callable[[], Images]
"""Computes what one evaluation gives."""


class Tiled:
    """A denoiser that sees an image in overlapping tiles.

    Tiles are blended with weights that fall linearly over the overlap. All tiles have one size,
    so that the network's normalisation sees the same area everywhere.

    Parameters
    ----------
    denoiser : callable
        Of images of any size.
    tile : int
        Edge of a tile; an image that is no larger is seen whole.
    overlap : int, optional
        Pixels two neighbours share at least; by default a quarter of a tile.

    Examples
    --------
    >>> tiled = Tiled(lambda x, sigma, plane=None: x, tile=8)
    >>> x = torch.rand(1, 1, 20, 13)
    >>> torch.allclose(tiled(x, 0.1), x)
    True
    """

    def __init__(self, denoiser: Denoises, tile: int, overlap: int | None = None) -> None:
        self.denoiser = denoiser
        self.tile = tile
        self.overlap = tile // 4 if overlap is None else overlap

    def __call__(
        self, x: ImagesShown, sigma: Sigmas | float, plane: Planes | None = None
    ) -> Images:
        """Denoise.

        Parameters
        ----------
        x : (B, C, rows, cols) Tensor
            Noisy images, and their neighbours as further channels.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Plane of each image.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            Denoised images.
        """
        rows, cols = (tile_starts(n, self.tile, self.overlap) for n in x.shape[-2:])
        if len(rows) == len(cols) == 1:
            return self.denoiser(x, sigma, plane)
        height, width = (min(n, self.tile) for n in x.shape[-2:])
        down, across = _ramps(height, self.overlap, x), _ramps(width, self.overlap, x)
        total, weight = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:1, :1])
        for top in rows:
            for left in cols:
                box = (..., slice(top, top + height), slice(left, left + width))
                share = down[:, None] * across
                total[box] += share * self.denoiser(x[box], sigma, plane)
                weight[box] += share
        return total / weight


def tile_starts(size: int, tile: int, overlap: int) -> list[int]:
    """Place tiles of one size along a line, evenly.

    Parameters
    ----------
    size : int
        Length of the line.
    tile : int
        Length of a tile.
    overlap : int
        Pixels neighbours share at least, less than `tile`.

    Returns
    -------
    list of int
        First pixel of each tile.

    Examples
    --------
    >>> tile_starts(100, 40, 10), tile_starts(30, 40, 10)
    ([0, 30, 60], [0])
    """
    if size <= tile:
        return [0]
    count = -(-(size - overlap) // (tile - overlap))
    return [round(n * (size - tile) / (count - 1)) for n in range(count)]


def _ramps(size: int, overlap: int, like: Tensor) -> Tensor:
    """Weights of a tile along one axis: rising, 1, falling."""
    at = torch.arange(size, dtype=like.dtype, device=like.device)
    edge = torch.minimum(at, size - 1 - at)
    return ((edge + 1) / (overlap + 1)).clamp(max=1)


class OnSlices:
    """A denoiser of anatomical images, for slices as they are stored.

    Parameters
    ----------
    denoiser : callable
        Of images in the directions of training: superior or anterior on top.
    frame : StackFrame
        How the slices lie in the volume.
    label : int, optional
        Plane label of the network.
    at_once : int
        Images it is given at a time.
    neighbours : int
        Slices on either side it is shown with each; the slices have to be a whole stack then.
    workers : Workers
        Compute several such batches side by side.
    """

    def __init__(
        self,
        denoiser: Denoises,
        frame: StackFrame,
        *,
        label: int | None = None,
        at_once: int = 1,
        neighbours: int = 0,
        workers: Workers = ALONE,
    ) -> None:
        self.denoiser = denoiser
        self.label = label
        self.at_once = at_once
        self.workers = workers
        self.axes = stack_axes(frame)
        self._flips = [
            dim
            for dim, axis in ((-2, self.axes[1]), (-1, self.axes[2]))
            if frame.to_voxel[axis, :3].sum() < 0
        ]
        offsets = neighbour_offsets(neighbours)
        self._around = offsets if frame.to_voxel[self.axes[0], :3].sum() > 0 else offsets[::-1]

    def __call__(self, x: Images, sigma: Sigmas | float, plane: Planes | None = None) -> Images:
        """Denoise.

        Parameters
        ----------
        x : (B, 1, rows, cols) Tensor
            Noisy slices; rows and columns run as the stored axes do.
        sigma : float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Not used: the label is known.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            Denoised slices.
        """
        x = x.flip(self._flips)

        def denoise(first: int, _stopped: Stopped = lambda: False) -> Images:
            part, label = self._shown(x, range(first, min(first + self.at_once, len(x)))), None
            if self.label is not None:
                label = torch.full((len(part),), self.label, device=x.device)
            return self.denoiser(part.contiguous(), sigma, label)

        if len(x) <= self.at_once:
            # Also of a slice that is itself drawn by a worker.
            return denoise(0).flip(self._flips)
        parts = dict(self.workers.each(denoise, range(0, len(x), self.at_once)))
        return torch.cat([parts[first] for first in sorted(parts)]).flip(self._flips)

    def _shown(self, stack: Images, numbers: range) -> Tensor:
        """Take slices, with their neighbours where they have them all."""
        part = stack[numbers.start : numbers.stop]
        if not self._around:
            return part
        around = part.new_zeros(len(part), len(self._around), *part.shape[2:])
        reach = max(self._around)
        for place, number in enumerate(numbers):
            if reach <= number < len(stack) - reach:
                around[place] = stack[[number + offset for offset in self._around], 0]
        return torch.cat([part, around], dim=1)


def mirror_of(frame: StackFrame, axes: Sequence[int]) -> int | None:
    """Find the dimension along which left and right lie.

    Parameters
    ----------
    frame : StackFrame
        How slices of an anatomical plane lie in the volume.
    axes : sequence of int
        Stored axes of the images or volumes in question.

    Returns
    -------
    int or None
        Counted from the last (−1); None for sagittal images, and where slices are taken as they
        were acquired and training mirrored none.

    Examples
    --------
    >>> from srmri_data.slices import stack_frame
    >>> frame = stack_frame(np.diag([-0.1, 0.1, 0.5, 1.0]), (10, 20, 30), "coronal")
    >>> mirror_of(frame, (2, 0)), mirror_of(frame, (0, 1, 2)), mirror_of(frame, (1, 2))
    (-1, -3, None)
    """
    world_axis, _ = closest_axes(frame.affine)
    left_right = stack_axes(frame)[int(np.flatnonzero(world_axis == 0)[0])]
    if frame.plane == "acquired" or left_right not in axes:
        return None
    return list(axes).index(left_right) - len(axes)


def stack_axes(frame: StackFrame) -> tuple[int, int, int]:
    """Return the stored axes that are slices, rows and columns.

    Parameters
    ----------
    frame : StackFrame
        Geometry of a stack.

    Returns
    -------
    tuple of int
        A permutation of 0, 1, 2.
    """
    slices, rows, cols = abs(frame.to_voxel[:3, :3]).argmax(axis=0).tolist()
    return slices, rows, cols


class InTurn:
    """A denoiser of volumes that takes their planes in turn, one per evaluation.

    Parameters
    ----------
    planes : sequence of OnSlices
        The network on each plane.
    recall : callable, optional
        ``recall(n, evaluation)`` returns what the n-th evaluation gives, computed or remembered.
    """

    def __init__(
        self,
        planes: Sequence[OnSlices],
        recall: Callable[[int, Evaluation], Images] = lambda _n, evaluation: evaluation(),
    ) -> None:
        self.planes = planes
        self.recall = recall
        self.evaluations = 0

    def __call__(
        self, x: ImagesOrVolumes, sigma: Sigmas | float, plane: Planes | None = None
    ) -> ImagesOrVolumes:
        """Denoise.

        Parameters
        ----------
        x : (1, 1, i, j, k) Tensor
            Noisy volume.
        sigma : float
            Standard deviation of its noise.
        plane : Tensor, optional
            Not used.

        Returns
        -------
        (1, 1, i, j, k) Tensor
            Denoised volume.
        """
        turn, number = self.planes[self.evaluations % len(self.planes)], self.evaluations
        self.evaluations += 1

        def evaluation() -> Images:
            stack = x[0, 0].permute(turn.axes)[:, None]
            denoised = turn(stack, sigma)[:, 0]
            back = [turn.axes.index(axis) for axis in range(3)]
            return denoised.permute(back)[None, None].contiguous()

        return self.recall(number, evaluation)

"""Slices to super-resolve: measurement, noise, masks, and how they lie on HR."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from srmri_data.choices import Grid, OperatorKind
from srmri_data.errors import ResolutionError
from srmri_data.intensity import foreground_threshold
from srmri_model.baselines.interpolation import interpolate
from srmri_model.bench.alignment import Gain, Motion, find_gain, find_motion, moved
from srmri_model.estimate import NoiseEstimate, effective_noise, estimate_noise
from srmri_model.magnitudes import expected_channel
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.rician import rician_remap
from srmri_model.training.pairs import Pairs, SlicePair
from srmri_model.training.validation import spread
from srmri_model.upsampling.trust import regions

_MIN_SIGMA_Y = 1e-3
_MIN_SHARE = 0.05
"""Share of foreground below which slices are not looked at, where there are others."""
_NOISE_SLICES = 64
_ROUNDING = 1e-6

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Physics:
    """How LR comes about, as the samplers assume.

    Parameters
    ----------
    operator : str
        H.
    width : float or None
        Of an operator that has one, in LR voxels.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    """

    operator: OperatorKind
    width: float | None
    grid: Grid


@dataclass(frozen=True, eq=False)
class Task:
    """One slice of a test subject.

    Parameters
    ----------
    pair : SlicePair
        LR, HR and foreground, on HR's scale.
    physics : Physics
        Operator and grid.
    measured : (row, col) ndarray
        LR as the samplers take it: its noise floor brought to that of HR images.
    sigma_y : float
        Its noise, from the data.
    no_signal : float or None
        Value of no signal where LR is taken for magnitudes.
    sigma_high : float
        Noise of the HR scan.
    tissue, inside : (row, col) ndarray of bool
        LR voxels less than three from tissue; and tissue without its outermost voxel.
    motion : Motion
        From LR to HR, of this slice.
    gain : Gain
        LR's intensities on HR's, of the volume.
    """

    pair: SlicePair
    physics: Physics
    measured: Pixels
    sigma_y: float
    no_signal: float | None
    sigma_high: float
    tissue: Mask
    inside: Mask
    motion: Motion = Motion()  # noqa: RUF009 - a tuple
    gain: Gain = Gain()  # noqa: RUF009 - a tuple

    @property
    def high_shape(self) -> tuple[int, int]:
        """Rows and columns of HR."""
        rows, cols = self.pair["high_res"].shape
        return rows, cols

    @property
    def border(self) -> tuple[int, int]:
        """Rows and columns that do not count at every edge: one LR voxel."""
        rows, cols = self.pair["factor"]
        return math.ceil(rows), math.ceil(cols)

    def operator(self, kind: OperatorKind | None = None) -> SeparableOperator:
        """Build H.

        Parameters
        ----------
        kind : str, optional
            Another operator than LR is taken to come from.

        Returns
        -------
        SeparableOperator
            For this slice.
        """
        physics = self.physics
        if kind not in (None, physics.operator):
            physics = replace(physics, operator=kind, width=None)
        return _operator_of(self.pair, physics)

    def around_tissue(self) -> Mask:
        """Return the HR voxels in which tissue may be.

        Returns
        -------
        (row, col) ndarray of bool
            All that the LR voxels near tissue cover.
        """
        low = torch.from_numpy(self.tissue.astype(np.float32))
        return np.asarray(self.operator("box").adjoint(low).numpy() > 0)

    def chi2(self, image: Pixels, kind: OperatorKind | None = None) -> float:
        """Return χ²/m: how well an image explains LR inside the tissue.

        Parameters
        ----------
        image : (row, col) ndarray
            On HR's scale.
        kind : str, optional
            Another operator.

        Returns
        -------
        float
            About 1 for a draw from the posterior; NaN without tissue.
        """
        seen = self.operator(kind).forward(torch.from_numpy(np.ascontiguousarray(image)))
        said = torch.from_numpy(self.measured)
        if self.no_signal is not None:
            said = expected_channel(said, seen, self.sigma_y, self.no_signal)
        residual = (seen - said).numpy()[self.inside].astype(np.float64)
        return float(np.mean((residual / self.sigma_y) ** 2)) if residual.size else math.nan

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all that a result depends on, to know it again."""
        digest = hashlib.sha256()
        arrays = (self.pair["low_res"], self.pair["high_res"], self.pair["foreground"])
        for array in (*arrays, self.measured, self.tissue, self.inside):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        facts = (self.pair["factor"], self.pair["no_signal"], self.sigma_y, self.no_signal)
        more = (self.sigma_high, self.motion, self.gain, self.physics.operator)
        digest.update(repr((facts, more, self.physics.width, self.physics.grid)).encode())
        return digest.hexdigest()


def _operator_of(pair: SlicePair, physics: Physics) -> SeparableOperator:
    rows, cols = pair["high_res"].shape
    kind, grid, width = physics.operator, physics.grid, physics.width
    return _operator(kind, (rows, cols), pair["factor"], grid, width)


@functools.lru_cache(maxsize=64)
def _operator(
    kind: OperatorKind,
    shape: tuple[int, int],
    factor: tuple[float, float],
    grid: Grid,
    width: float | None,
) -> SeparableOperator:
    return make_operator(kind, shape, factor, grid=grid, width=width)


def chosen(pairs: Pairs, subject: str, count: int) -> list[int]:
    """Choose slices of a subject, evenly spread over those with tissue.

    Parameters
    ----------
    pairs : Pairs
        Pairs of several subjects.
    subject : str
        Whose.
    count : int
        How many, at most.

    Returns
    -------
    list of int
        Places among the pairs, ascending.
    """
    places = [n for n, name in enumerate(pairs.subjects) if name == subject]
    filled = [n for n in places if pairs[n]["foreground"].mean() >= _MIN_SHARE] or places
    count = min(count, len(filled))
    return [filled[int((n + 0.5) * len(filled) / count)] for n in range(count)]


def tasks_of(
    pairs: Pairs, subject: str, count: int, physics: Physics, domain: Mapping[str, Any]
) -> list[Task]:
    """Measure a subject and choose slices of it.

    Parameters
    ----------
    pairs : Pairs
        Pairs of several subjects.
    subject : str
        Whose.
    count : int
        Slices, at most.
    physics : Physics
        Operator and grid.
    domain : mapping
        What the score model's checkpoint knows of its training images.

    Returns
    -------
    list of Task
        With noise from all slices, a motion each, and one gain for all.
    """
    places = [n for n, name in enumerate(pairs.subjects) if name == subject]
    whole = [pairs[places[n]] for n in spread(len(places), _NOISE_SLICES)]
    low_noise = _noise_of([(pair["low_res"], pair) for pair in whole])
    high_noise = _noise_of([(pair["high_res"], pair) for pair in whole])
    threshold = _threshold(whole)
    return _aligned(
        [
            _task(pairs[place], physics, low_noise, high_noise, threshold, domain)
            for place in chosen(pairs, subject, count)
        ]
    )


def _noise_of(images: Sequence[tuple[Pixels, SlicePair]]) -> NoiseEstimate | None:
    """Noise of all slices together, as magnitudes: no signal is 0."""
    stacks = [np.asarray(image - pair["no_signal"], np.float64) for image, pair in images]
    shape, _ = Counter(stack.shape for stack in stacks).most_common(1)[0]
    volume = np.stack([stack for stack in stacks if stack.shape == shape])
    # Rounding of the scale would hide that masked voxels are exactly 0.
    volume[np.abs(volume) < _ROUNDING] = 0
    try:
        return estimate_noise(volume)
    except ResolutionError:
        return None


def _threshold(whole: Sequence[SlicePair]) -> float:
    values = np.concatenate([pair["low_res"].ravel() for pair in whole])
    return float(foreground_threshold(values[:, None, None]))


def _task(
    pair: SlicePair,
    physics: Physics,
    low_noise: NoiseEstimate | None,
    high_noise: NoiseEstimate | None,
    threshold: float,
    domain: Mapping[str, Any],
) -> Task:
    """Bring LR to what samplers take, as `srmri upsample` does with a volume."""
    low, zero = pair["low_res"], pair["no_signal"]
    sigma = low_noise.sigma if low_noise else _MIN_SIGMA_Y
    measured, no_signal = low, None
    if low_noise is not None and low_noise.source == "air" and domain:
        model_noise = domain.get("noise")
        if model_noise is None:
            no_signal = zero
        else:
            measured = rician_remap(low - np.float32(zero), sigma, model_noise) + np.float32(zero)
            gain = _operator(
                physics.operator,
                pair["high_res"].shape,
                pair["factor"],
                physics.grid,
                physics.width,
            ).noise_gain
            sigma = effective_noise(sigma, model_noise, gain)
    parts = regions(np.asarray(low > threshold)[None])
    near = parts.foreground | parts.edge
    return Task(
        pair=pair,
        physics=physics,
        measured=np.ascontiguousarray(measured, dtype=np.float32),
        sigma_y=max(sigma, _MIN_SIGMA_Y),
        no_signal=no_signal,
        sigma_high=high_noise.sigma if high_noise else 0.0,
        tissue=ndimage.binary_dilation(near)[0],
        inside=parts.foreground[0],
    )


def _aligned(tasks: Sequence[Task]) -> list[Task]:
    """Give every slice its motion, and the volume its gain."""
    ups, references, motions, masks = [], [], [], []
    for task in tasks:
        pair, grid = task.pair, task.physics.grid
        high, inside = pair["high_res"], pair["foreground"]
        low = task.operator().forward(torch.from_numpy(np.ascontiguousarray(high))).numpy()
        # Both at LR's resolution: against HR itself, bright rims that LR blurs pull at the motion.
        up, reference = (
            interpolate(image, high.shape, pair["factor"], "bicubic", grid=grid)
            for image in (pair["low_res"], low)
        )
        motions.append(find_motion(up, reference, inside))
        references.append(reference)
        ups.append(moved(up, motions[-1]))
        masks.append(inside)
    gain = find_gain(ups, references, masks)
    return [
        replace(task, motion=motion, gain=gain) for task, motion in zip(tasks, motions, strict=True)
    ]

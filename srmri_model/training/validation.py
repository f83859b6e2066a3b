"""How well a denoiser denoises at every noise level: the table v(σ) the samplers need."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data.choices import Plane
from srmri_data.slices import stack_frame
from srmri_model.networks import Denoiser, NetworkConfig
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.sde import geometric_levels
from srmri_model.training.order import standard_normal
from srmri_model.training.ranks import Ranks
from srmri_model.training.slices import (
    CachedVolume,
    Slices,
    neighbour_offsets,
    plane_index,
    with_neighbours,
)

LEVELS = 16
"""Noise levels of the table."""

VOLUME_LEVELS = 8
"""Noise levels of the table of whole volumes, which take long to measure."""


@dataclass(frozen=True)
class NoiseTable:
    """Mean squared error of the denoised image, E|x - D(x + σz, σ)|² per pixel.

    Parameters
    ----------
    sigmas : tuple of float
        Noise levels, ascending.
    foreground, background : tuple of float
        Mean squared error inside and outside the foreground, in squared image units; NaN where
        there are no such pixels. Foreground is what the volume's map takes above 0.
    n_slices : int
        Held-out slices it was measured on.
    seen : tuple of float
        The foreground's error as an LR scan of half the resolution sees it, E‖H (x − D)‖² / ‖H‖²:
        larger, since what noise leaves least certain is coarse. Empty in tables of old.
    """

    sigmas: tuple[float, ...]
    foreground: tuple[float, ...]
    background: tuple[float, ...]
    n_slices: int
    seen: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """Mean of the foreground's error in dB over levels up to 1; lower is better.

        Beyond that level, at which images in [0, 1] are lost, errors differ by chance.
        """
        errors = [e for s, e in zip(self.sigmas, self.foreground, strict=True) if s <= 1]
        return float(np.mean(10 * np.log10(np.maximum(errors or self.foreground, 1e-12))))

    columns = ("step", "sigma", "foreground", "background")
    """Names of the values of `rows`."""

    def rows(self, step: int) -> list[list[float]]:
        """Return the table for ``validation.csv``.

        Parameters
        ----------
        step : int
            Optimiser steps done.

        Returns
        -------
        list of list of float
            A row per noise level.
        """
        values = zip(self.sigmas, self.foreground, self.background, strict=True)
        return [[step, *row] for row in values]

    def scalars(self) -> dict[str, float]:
        """Return what TensorBoard shows.

        Returns
        -------
        dict of str to float
            By name.
        """
        levels = zip(self.sigmas, self.foreground, strict=True)
        return {
            "validation/score_db": self.score,
            **{f"foreground_mse/sigma_{sigma:.4g}": error for sigma, error in levels},
        }

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON types.

        Returns
        -------
        dict
            The fields; values that are not finite are None.
        """
        document = asdict(self)
        for name in ("sigmas", "foreground", "background", "seen"):
            document[name] = [v if math.isfinite(v) else None for v in document[name]]
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> NoiseTable:
        """Read what `to_json` wrote.

        Parameters
        ----------
        document : dict
            The fields.

        Returns
        -------
        NoiseTable
            The table.
        """
        sigmas, foreground, background, seen = (
            tuple(math.nan if v is None else float(v) for v in document.get(name, ()))
            for name in ("sigmas", "foreground", "background", "seen")
        )
        return cls(sigmas, foreground, background, int(document["n_slices"]), seen)


def levels_of(config: NetworkConfig, count: int) -> list[float]:
    """Return the noise levels a table of a network has.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    count : int
        How many.

    Returns
    -------
    list of float
        Over the network's range, ascending, evenly spaced in their logarithms.
    """
    return geometric_levels(config.sigma_min, config.sigma_max, count)


def spread(total: int, count: int) -> list[int]:
    """Choose evenly spread slices.

    Parameters
    ----------
    total : int
        Slices there are.
    count : int
        Slices wanted.

    Returns
    -------
    list of int
        At most `count` indices.

    Examples
    --------
    >>> spread(10, 3)
    [1, 5, 8]
    """
    count = min(total, count)
    return [int((n + 0.5) * total / count) for n in range(count)]


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    slices: Slices,
    sigmas: Sequence[float],
    *,
    count: int = 48,
    neighbours: int = 0,
    ranks: Ranks | None = None,
) -> NoiseTable:
    """Measure the error of a denoiser on fixed slices with fixed noise.

    Parameters
    ----------
    denoiser : Denoiser
        The network to judge, usually with averaged weights.
    slices : Slices
        Held-out slices.
    sigmas : sequence of float
        Noise levels.
    count : int
        Slices to take, evenly spread.
    neighbours : int
        0, or as many as the network knows: it is shown those the slices come with, as noisy.
    ranks : Ranks, optional
        Processes that share the work.

    Returns
    -------
    NoiseTable
        The same on every process.
    """
    ranks = ranks or Ranks()
    device = next(denoiser.network.parameters()).device
    levels = torch.tensor(list(sigmas), dtype=torch.float32, device=device)
    chosen = spread(len(slices), count)
    sums = torch.zeros(2, 3, len(levels), dtype=torch.float64, device=device)
    denoiser.network.eval()
    for place in range(ranks.rank, len(chosen), ranks.world):
        item = slices[chosen[place]]
        image = torch.from_numpy(item["image"]).to(device)[None, None]
        shown = torch.from_numpy(with_neighbours(item, neighbours)).to(device)
        noise = torch.from_numpy(standard_normal(tuple(shown.shape), place)).to(device)
        shown, noise = (each.reshape(1, -1, *image.shape[2:]) for each in (shown, noise))
        if neighbours and "neighbours" not in item:
            noise[:, 1:] = 0
        plane = plane_index([item["plane"]], denoiser.config.n_planes, device)
        inside = image[0, 0] > 0
        operator = _halving(tuple(inside.shape)).to(device=device, dtype=torch.float64)
        # What noise of variance 1 in the foreground would give.
        expected = operator.noise_gain**2 * math.prod(operator.low_shape) * inside.double().mean()
        for n in range(len(levels)):
            sigma = levels[n : n + 1]
            denoised = denoiser(shown + sigma * noise, sigma, plane)
            error = (denoised - image)[0, 0].double()
            for region, mask in enumerate((inside, ~inside)):
                sums[0, region, n] += error[mask].square().sum()
                sums[1, region, n] += mask.sum()
            sums[0, 2, n] += operator.forward(error * inside).square().sum()
            sums[1, 2, n] += expected
    ranks.sum_(sums)
    foreground, background, seen = (sums[0] / sums[1]).cpu().tolist()
    return NoiseTable(
        sigmas=tuple(levels.double().cpu().tolist()),
        foreground=tuple(foreground),
        background=tuple(background),
        n_slices=len(chosen),
        seen=tuple(seen),
    )


@torch.no_grad()
def measure_volumes(
    denoiser: Denoiser,
    volumes: Sequence[CachedVolume],
    planes: Sequence[Plane],
    sigmas: Sequence[float],
    *,
    margin: int = 4,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> NoiseTable:
    """Measure the error on whole volumes, denoised slice by slice in one plane at a time.

    It is that of `measure` but for `seen`: an LR scan of half the resolution along all three axes
    sees coarser errors than one of half the resolution in the slices, and there slices that were
    denoised apart are wrong together.

    Parameters
    ----------
    denoiser : Denoiser
        The network to judge.
    volumes : sequence of CachedVolume
        Held-out volumes.
    planes : sequence of str
        Planes to slice them in; errors are means over these.
    sigmas : sequence of float
        Noise levels.
    margin : int
        Voxels of air that are kept around the foreground.
    progress : callable
        Called as ``progress(done, total)``.

    Returns
    -------
    NoiseTable
        ``n_slices`` counts those of all planes.
    """
    device = next(denoiser.network.parameters()).device
    denoiser.network.eval()
    sums, n_slices = np.zeros((2, 3, len(sigmas))), 0
    total, done = len(volumes) * len(planes) * len(sigmas), 0
    for number, cached in enumerate(volumes):
        truth = _around_foreground(np.load(cached.path, mmap_mode="r"), margin)
        inside = truth > 0
        operator = _halving(truth.shape)
        expected = operator.noise_gain**2 * math.prod(operator.low_shape) * inside.mean()
        for plane in planes:
            frame = stack_frame(np.array(cached.affine), truth.shape, plane)
            n_slices += frame.shape[0]
            for level, sigma in enumerate(sigmas):
                noise = standard_normal(truth.shape, number * len(sigmas) + level)
                found = np.empty_like(truth)
                noisy = np.ascontiguousarray(frame.view(truth + np.float32(sigma) * noise))
                frame.view(found)[:] = _denoised(denoiser, noisy, plane, sigma, device)
                error = (found - truth).astype(np.float64)
                for region, mask in enumerate((inside, ~inside)):
                    sums[0, region, level] += np.square(error[mask]).sum()
                    sums[1, region, level] += mask.sum()
                seen = operator.forward(torch.from_numpy((error * inside).astype(np.float32)))
                sums[0, 2, level] += float(seen.double().square().sum())
                sums[1, 2, level] += expected
                done += 1
                progress(done, total)
    with np.errstate(invalid="ignore"):  # there may be no such voxels
        foreground, background, seen_by = (sums[0] / sums[1]).tolist()
    return NoiseTable(
        sigmas=tuple(float(sigma) for sigma in sigmas),
        foreground=tuple(foreground),
        background=tuple(background),
        n_slices=n_slices,
        seen=tuple(seen_by),
    )


def _denoised(
    denoiser: Denoiser,
    noisy: NDArray[np.float32],
    plane: Plane,
    sigma: float,
    device: torch.device,
) -> NDArray[np.float32]:
    """Denoise a stack, each slice beside its neighbours."""
    reach = denoiser.config.neighbours
    label = plane_index([plane], denoiser.config.n_planes, device)
    offsets = [0, *neighbour_offsets(reach)]
    found = np.empty_like(noisy)
    for number in range(len(noisy)):
        whole = reach <= number < len(noisy) - reach
        numbers = [number + offset for offset in offsets] if whole else [number]
        x = torch.from_numpy(noisy[numbers])[None].to(device)
        found[number] = denoiser(x, sigma, label)[0, 0].cpu().numpy()
    return found


def _around_foreground(volume: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """Cut a volume to its foreground and some air."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero((volume > 0).any(axis=others))
        first, last = (places[0], places[-1]) if len(places) else (0, volume.shape[axis] - 1)
        box.append(slice(max(0, first - margin), last + 1 + margin))
    return np.ascontiguousarray(volume[tuple(box)])


@functools.lru_cache(maxsize=8)
def _halving(shape: tuple[int, ...]) -> SeparableOperator:
    return make_operator("kspace", shape, 2)

"""How well a denoiser denoises at every noise level: the table v(σ) the samplers need."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from srmri_model.networks import Denoiser
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.training.order import standard_normal
from srmri_model.training.ranks import Ranks
from srmri_model.training.slices import Slices, plane_index

LEVELS = 16
"""Noise levels of the table."""


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
        noise = torch.from_numpy(standard_normal(item["image"].shape, place)).to(device)
        plane = plane_index([item["plane"]], denoiser.config.n_planes, device)
        inside = image[0, 0] > 0
        operator = _halving(tuple(inside.shape)).to(device=device, dtype=torch.float64)
        # What noise of variance 1 in the foreground would give.
        expected = operator.noise_gain**2 * math.prod(operator.low_shape) * inside.double().mean()
        for n in range(len(levels)):
            sigma = levels[n : n + 1]
            denoised = denoiser(image + sigma * noise, sigma, plane)
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


@functools.lru_cache(maxsize=8)
def _halving(shape: tuple[int, ...]) -> SeparableOperator:
    return make_operator("kspace", shape, 2)

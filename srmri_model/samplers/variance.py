"""How far a denoised image is from the truth: the width of the data step of `fast`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Variance(NamedTuple):
    """Mean squared error of a denoised image at one noise level.

    Attributes
    ----------
    pixel : float or (B, 1, *size) Tensor
        Per pixel, in squared image units: one number for all, or a map.
    seen : float, Tensor or None
        The same as far as the measurement sees it, E‖H (x − D)‖² / ‖H‖². It is larger: coarse
        detail is what an operator sees, and what noise leaves least certain. None takes `pixel`
        for both. A map where `pixel` is one.
    """

    pixel: float | Tensor
    seen: float | Tensor | None = None


@dataclass(frozen=True)
class VarianceTable:
    """A variance measured at some noise levels, and between them on straight lines in logarithms.

    Below the first level it falls with σ², as it does for every denoiser; above the last it stays.

    Parameters
    ----------
    sigmas : tuple of float
        Noise levels, ascending, > 0.
    pixel : tuple of float
        Mean squared error per pixel at each.
    seen : tuple of float, optional
        The same as far as the measurement sees it; see `Variance`.

    Examples
    --------
    >>> table = VarianceTable((0.01, 1.0), (0.0001, 0.01))
    >>> round(table(0.1).pixel, 6), round(table(0.001).pixel, 9), table(5.0).pixel
    (0.001, 1e-06, 0.01)
    """

    sigmas: tuple[float, ...]
    pixel: tuple[float, ...]
    seen: tuple[float, ...] | None = None

    def __call__(self, sigma: float) -> Variance:
        """Look up.

        Parameters
        ----------
        sigma : float
            Noise level.

        Returns
        -------
        Variance
            Interpolated.
        """
        seen = None if self.seen is None else self._at(sigma, self.seen)
        return Variance(self.pixel_at(sigma), seen)

    def pixel_at(self, sigma: float) -> float:
        """Look up the variance per pixel alone.

        Parameters
        ----------
        sigma : float
            Noise level.

        Returns
        -------
        float
            Interpolated.
        """
        return self._at(sigma, self.pixel)

    def _at(self, sigma: float, values: Sequence[float]) -> float:
        first = self.sigmas[0]
        if sigma < first:
            return values[0] * (sigma / first) ** 2
        if sigma > self.sigmas[-1]:
            return values[-1]
        return math.exp(np.interp(math.log(sigma), np.log(self.sigmas), np.log(values)))


def two_valued(
    foreground: VarianceTable, background: VarianceTable, mask: Tensor
) -> Callable[[float], Variance]:
    """Make a variance map of two tables and a mask.

    Parameters
    ----------
    foreground, background : VarianceTable
        Inside and outside.
    mask : (B, 1, *size) Tensor of bool
        True in the foreground.

    Returns
    -------
    callable
        ``variance(sigma)`` as `fast` takes it. As the measurement sees it, too, where the table of
        the foreground knows that.
    """

    def variance(sigma: float) -> Variance:
        outside = background.pixel_at(sigma)
        filled = torch.full(mask.shape, outside, dtype=torch.float32, device=mask.device)
        pixel, seen = foreground(sigma)
        return Variance(
            filled.masked_fill(mask, pixel),
            None if seen is None else filled.masked_fill(mask, seen),
        )

    return variance

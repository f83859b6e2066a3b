"""Magnitude images: the mean of a Rician distribution, and LR data brought to HR's background."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.special import i0e, i1e

_RAYLEIGH_MEAN = math.sqrt(math.pi / 2)
_NEWTON_STEPS = 6


def rician_mean(signal: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """Return the mean magnitude of a signal with complex noise, R(A; σ).

    Parameters
    ----------
    signal : array_like
        Noise-free magnitude A, >= 0.
    sigma : float
        Standard deviation of the noise in each of the two channels, > 0.

    Returns
    -------
    ndarray
        From 1.25 σ where there is no signal to A + σ²/2A where there is much.

    References
    ----------
    S. O. Rice, Mathematical analysis of random noise, Bell System Technical Journal 24 (1945).

    Examples
    --------
    >>> rician_mean([0.0, 1.0, 10.0], 1.0).round(3)
    array([ 1.253,  1.549, 10.05 ])
    """
    mean, _ = _mean_and_slope((np.asarray(signal, dtype=np.float64) / sigma) ** 2)
    return np.asarray(sigma * mean)


def rician_signal(mean: ArrayLike, sigma: float) -> NDArray[np.float64]:
    """Return the signal of a mean magnitude: the inverse of `rician_mean`.

    Parameters
    ----------
    mean : array_like
        Mean magnitude, >= 0.
    sigma : float
        Standard deviation of the noise in each of the two channels, > 0.

    Returns
    -------
    ndarray
        Noise-free magnitude; 0 where the mean is what noise alone gives, or less.

    Examples
    --------
    >>> rician_signal(rician_mean([0.0, 1.0, 10.0], 1.0), 1.0).round(6)
    array([ 0.,  1., 10.])
    """
    # In squares the curve is nearly straight, with a slope of π/4 to 1: Newton's steps from the
    # low end reach double precision.
    squared = (np.asarray(mean, dtype=np.float64) / sigma) ** 2
    power = np.maximum(squared - math.pi / 2, 0)
    for _ in range(_NEWTON_STEPS):
        value, slope = _mean_and_slope(power)
        power = np.maximum(power - (value**2 - squared) / (2 * value * slope), 0)
    return np.asarray(sigma * np.sqrt(power))


def rician_remap(
    measurement: ArrayLike, sigma_low: float, sigma_high: float
) -> NDArray[np.float32]:
    """Shift LR magnitudes to the mean they would have with the noise of HR images.

    The data step takes noise for Gaussian, y = H x + n, but where there is little signal
    magnitudes of LR lie at 1.25 σ_L and those of HR images, which the model knows, at 1.25 σ_H.
    So y' = y + R(A; σ_H) − R(A; σ_L), with the signal A from the local median of y: where the
    signal is known this is R(R⁻¹(y; σ_L); σ_H), but inverting every voxel on its own cuts off
    the lower half of the noise in air and leaves a bias of a quarter to half of σ_L.

    Parameters
    ----------
    measurement : array_like
        LR magnitudes, two or three axes. Voxels of exactly 0 were masked out and stay 0.
    sigma_low, sigma_high : float
        Noise of LR and of HR images in each channel, in the units of the measurement,
        >= 0; 0 is a scan without noise.

    Returns
    -------
    ndarray of float32
        The shifted measurement, whose noise against H x is `estimate.effective_noise`.
    """
    values = np.asarray(measurement, dtype=np.float64)
    level = ndimage.median_filter(values, 3, mode="nearest")
    signal = rician_signal(level, sigma_low) if sigma_low > 0 else level
    before = rician_mean(signal, sigma_low) if sigma_low > 0 else signal
    after = rician_mean(signal, sigma_high) if sigma_high > 0 else signal
    return np.where(values == 0, 0, values + after - before).astype(np.float32)


def _mean_and_slope(power: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean at σ = 1 of a signal of this power, and its derivative by the power."""
    x = np.asarray(power) / 4
    zeroth, first = i0e(x), i1e(x)
    mean = _RAYLEIGH_MEAN * ((1 + 2 * x) * zeroth + 2 * x * first)
    return np.asarray(mean), np.asarray(_RAYLEIGH_MEAN / 4 * (zeroth + first))

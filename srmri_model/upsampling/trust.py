"""How far a result can be trusted: agreement with the measurement, spread, coverage, sharpness."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage, stats

ROI = 4
"""Edge of the regions whose means are compared, in LR voxels."""

Voxels = Float[np.ndarray, "i j k"]
Samples = Float[np.ndarray, "sample i j k"]
Mask = Bool[np.ndarray, "i j k"]


class Regions(NamedTuple):
    """Parts of an LR volume in which residuals mean different things.

    Attributes
    ----------
    foreground : (i, j, k) ndarray of bool
        Tissue, without its outermost voxel.
    edge : (i, j, k) ndarray of bool
        One voxel to both sides of the tissue's border.
    background : (i, j, k) ndarray of bool
        The rest.
    """

    foreground: Mask
    edge: Mask
    background: Mask


def regions(tissue: Mask) -> Regions:
    """Divide an LR volume.

    Parameters
    ----------
    tissue : (i, j, k) ndarray of bool
        Foreground.

    Returns
    -------
    Regions
        Disjoint, and all of the volume.

    Examples
    --------
    >>> parts = regions(np.pad(np.ones((3, 3, 3), dtype=bool), 2))
    >>> [int(part.sum()) for part in parts]
    [1, 80, 262]
    """
    inside = ndimage.binary_erosion(tissue, border_value=1)
    near = ndimage.binary_dilation(tissue)
    return Regions(inside, near & ~inside, ~near)


def chi2_per_voxel(residual: Voxels, sigma_y: float, mask: Mask) -> float | None:
    """Return χ²/m, the mean square of the residual in units of its noise.

    Parameters
    ----------
    residual : (i, j, k) ndarray
        H x − y of a single sample.
    sigma_y : float
        Standard deviation of the measurement's noise, in the same units.
    mask : (i, j, k) ndarray of bool
        Where to look.

    Returns
    -------
    float or None
        1 for a sample of the exact posterior of a calibrated model; None for an empty mask.
        That of a mean of samples is lower by nature.

    Examples
    --------
    >>> chi2_per_voxel(np.full((2, 2, 2), 0.1), 0.05, np.ones((2, 2, 2), dtype=bool))
    4.0
    """
    inside = residual[mask].astype(np.float64)
    return float(np.mean((inside / sigma_y) ** 2).round(12)) if inside.size else None


def variance_of_mean(count: int, *, opposite: bool) -> float:
    """Return the variance of the mean of draws over that of one draw.

    Parameters
    ----------
    count : int
        Draws.
    opposite : bool
        Whether they come in opposite pairs (`srmri_model.upsampling.noise.antithetic`), whose
        deviations are taken to cancel.

    Returns
    -------
    float
        1/K of independent ones.
    """
    return count % 2 / count**2 if opposite else 1 / count


def share_of_squares(count: int, *, opposite: bool = True) -> float:
    """Return what makes the variance of a draw of the squared deviations from the mean of draws.

    Parameters
    ----------
    count : int
        Draws, at least 2.
    opposite : bool
        Whether they come in opposite pairs.

    Returns
    -------
    float
        1/(K − 1) of independent draws.

    Examples
    --------
    >>> share_of_squares(8), share_of_squares(8, opposite=False)
    (0.125, 0.14285714285714285)
    """
    return 1 / (count * (1 - variance_of_mean(count, opposite=opposite)))


def coverage(
    samples: Samples, truth: Voxels, mask: Mask, *, scale: float = 1.0, opposite: bool = False
) -> float:
    """Return how often the truth lies within the 90 % interval of samples.

    The interval is that of one more draw: mean ± t √(1 + 1/K) s with the 95 percentile t of
    Student's distribution of K − 1 degrees of freedom. Of opposite pairs the mean is taken to be
    exact and every pair to tell of the spread once.

    Parameters
    ----------
    samples : (K, i, j, k) ndarray
        Draws, at least 2.
    truth : (i, j, k) ndarray
        HR volume.
    mask : (i, j, k) ndarray of bool
        Where to look.
    scale : float
        Factor of the standard deviation, such as `fit_std_scale` finds.
    opposite : bool
        Whether the draws come in opposite pairs, as those of `srmri upsample`.

    Returns
    -------
    float
        0.9 for draws from the exact posterior.
    """
    k = len(samples)
    inside = samples[:, mask].astype(np.float64)
    quantile = stats.t.ppf(0.95, max(1, k // 2) if opposite else k - 1)
    variance = (1 + variance_of_mean(k, opposite=opposite)) * _variance(inside, opposite)
    half = quantile * scale * np.sqrt(variance)
    return float(np.mean(np.abs(inside.mean(axis=0) - truth[mask]) <= half))


def fit_std_scale(samples: Samples, truth: Voxels, mask: Mask, *, opposite: bool = False) -> float:
    """Return the factor that brings the standard deviation of samples to their error.

    Parameters
    ----------
    samples : (K, i, j, k) ndarray
        Draws, at least 2, of volumes that are not for testing.
    truth : (i, j, k) ndarray
        HR volume.
    mask : (i, j, k) ndarray of bool
        Where to look.
    opposite : bool
        Whether the draws come in opposite pairs, as those of `srmri upsample`.

    Returns
    -------
    float
        Root mean square of truth − mean, over that of √(1 + 1/K) s (√(1 + 0) s of pairs); kept
        with a checkpoint as ``std_scale``.
    """
    k = len(samples)
    inside = samples[:, mask].astype(np.float64)
    error = np.mean((inside.mean(axis=0) - truth[mask]) ** 2)
    expected = (1 + variance_of_mean(k, opposite=opposite)) * _variance(inside, opposite).mean()
    return float(np.sqrt(error / expected))


def _variance(samples: NDArray[np.float64], opposite: bool) -> NDArray[np.float64]:
    squares = np.sum((samples - samples.mean(axis=0)) ** 2, axis=0)
    return np.asarray(share_of_squares(len(samples), opposite=opposite) * squares)


class Agreement(NamedTuple):
    """Means of regions in the result against those in LR.

    Attributes
    ----------
    low_res, high_res : tuple of float
        Means over the regions.
    gain, offset : float
        high_res ≈ gain · low_res + offset.
    worst : float
        Largest difference, over the mean of LR.
    """

    low_res: tuple[float, ...]
    high_res: tuple[float, ...]
    gain: float
    offset: float
    worst: float


def roi_agreement(low_res: Voxels, averaged: Voxels, inside: Mask) -> Agreement | None:
    """Compare means over blocks of `ROI` voxels.

    Parameters
    ----------
    low_res : (i, j, k) ndarray
        The measurement.
    averaged : (i, j, k) ndarray
        The result, averaged over LR voxels.
    inside : (i, j, k) ndarray of bool
        Tissue; a block counts when three quarters of it are.

    Returns
    -------
    Agreement or None
        None for fewer than three blocks.
    """
    full = _block_means(inside.astype(np.float64)) >= 0.75
    low, high = (_block_means(volume * inside)[full] for volume in (low_res, averaged))
    share = _block_means(inside.astype(np.float64))[full]
    low, high = low / share, high / share
    if low.size < 3 or np.ptp(low) == 0:
        return None
    gain, offset = np.polyfit(low, high, 1)
    worst = np.abs(high - low).max() / low.mean()
    return Agreement(
        tuple(low.tolist()), tuple(high.tolist()), float(gain), float(offset), float(worst)
    )


def _block_means(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over whole blocks; an axis shorter than a block is one block."""
    edges = [min(ROI, n) for n in volume.shape]
    cropped = volume[tuple(slice(n - n % e) for n, e in zip(volume.shape, edges, strict=True))]
    split = [part for n, e in zip(cropped.shape, edges, strict=True) for part in (n // e, e)]
    return np.asarray(cropped.reshape(split).mean(axis=(1, 3, 5), dtype=np.float64))


def sharpness(volume: Voxels, inside: Mask, axes: tuple[int, ...]) -> float:
    """Return the root mean square difference of neighbours inside the tissue.

    Parameters
    ----------
    volume : (i, j, k) ndarray
        Any units.
    inside : (i, j, k) ndarray of bool
        Tissue.
    axes : tuple of int
        Axes along which to look.

    Returns
    -------
    float
        In the units of the volume; 0 without tissue.
    """
    squares, count = 0.0, 0
    for axis in axes:
        both = np.logical_and(
            inside.take(range(1, inside.shape[axis]), axis),
            inside.take(range(inside.shape[axis] - 1), axis),
        )
        steps = np.diff(volume, axis=axis)[both].astype(np.float64)
        squares += float((steps**2).sum())
        count += steps.size
    return math.sqrt(squares / count) if count else 0.0

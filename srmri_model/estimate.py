"""What LR data tell about themselves: noise, intensity scale, and, with HR, their operator."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.optimize import brentq, minimize_scalar

from srmri_data.errors import ResolutionError, UsageError
from srmri_data.intensity import foreground_threshold
from srmri_data.slices import IntensityMap
from srmri_model.axes import apply_per_axis
from srmri_model.operators import (
    GRIDS,
    KINDS,
    Grid,
    Kind,
    degradation_matrix,
    factor_per_axis,
    low_size,
)

# Fourth difference: of the derivatives that stay within five voxels it sees anatomy least.
_DETAIL = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70)
_MAD_OF_NORMAL = 0.6745
_MIN_VOXELS = 200
# Lower over upper quartile of a Rayleigh distribution, and how far air may be from it.
_RAYLEIGH_QUARTILES = math.sqrt(math.log(4 / 3) / math.log(4))
_QUARTILES_TOLERANCE = 0.04
_RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
_RAYLEIGH_SPREAD = math.sqrt(4 / math.pi - 1)
# Edge of the windows in which air is looked for, where an axis has room for them.
_WINDOW, _ROOM = 7, 16
# A weaker correlation of neighbours is not told from none.
_MIN_CORRELATION = 0.05
_WIDTHS = (0.3, 3.0)


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of a magnitude image.

    Parameters
    ----------
    sigma : float
        Standard deviation in each of the two channels, in the units of the data.
    source : {"air", "detail"}
        From the air around the animal, or from the finest detail inside.
    n_voxels : int
        Voxels it was measured in.
    """

    sigma: float
    source: Literal["air", "detail"]
    n_voxels: int


def estimate_noise(low_res: ArrayLike) -> NoiseEstimate:
    """Measure the noise of a magnitude image.

    In air magnitudes follow a Rayleigh distribution, and its median gives σ. Air is sought in
    the darkest windows, away from ghosts. Where there is none, since the animal fills the image
    or what lies outside was set to 0, σ is the median of the finest detail inside, the fourth
    difference along all axes at once. That sees the finest anatomy too, and nothing of noise
    that `zero_filling` has made smooth.

    Parameters
    ----------
    low_res : array_like
        Two or three axes, any unit. Voxels of exactly 0 are taken for masked.

    Returns
    -------
    NoiseEstimate
        The estimate.

    Raises
    ------
    ResolutionError
        If there is neither such air nor enough inside.

    References
    ----------
    D. L. Donoho, I. M. Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81
    (1994) 425-455, for the median of detail; H. Gudbjartsson, S. Patz, The Rician distribution
    of noisy MRI data, Magn. Reson. Med. 34 (1995) 910-914, for air.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> air = np.hypot(*random.standard_normal((2, 64, 64)))
    >>> air[16:48, 16:48] += 20
    >>> round(estimate_noise(air).sigma, 1)
    1.0
    """
    data = np.asarray(low_res, dtype=np.float64)
    # Wide enough that windows of noise are not chosen for being darker than others.
    air = _air(data, spreads=2)
    if air is not None:
        sigma = float(np.median(data[air])) / _RAYLEIGH_MEDIAN
        return NoiseEstimate(sigma, "air", int(air.sum()))
    detail = _finest_detail(data)
    if detail.size < _MIN_VOXELS:
        raise ResolutionError(
            f"the noise can not be measured: there is no air that holds noise alone, and only "
            f"{detail.size} voxels lie deep inside; at least {_MIN_VOXELS} are needed",
            hint="give it with --noise",
        )
    return NoiseEstimate(float(np.median(detail) / _MAD_OF_NORMAL), "detail", detail.size)


def zero_filling(low_res: ArrayLike) -> tuple[float, ...] | None:
    """Measure how many voxels there are for each acquired one, along every axis.

    Scanners fill k-space with zeros to make voxels look smaller. Noise of neighbours is then
    correlated, that of the complex image by sin(π/z) / (π/z) for z voxels to an acquired one,
    and the squares of magnitudes in air by the square of that.

    Parameters
    ----------
    low_res : array_like
        Two or three axes, any unit.

    Returns
    -------
    tuple of float or None
        1 along axes that are not interpolated, or by less than 1.2; None if no air holds noise
        alone.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> acquired = random.standard_normal((64, 96, 2)).view(complex)[..., 0]
    >>> spectrum = np.fft.fftshift(np.fft.fft2(acquired))
    >>> image = abs(np.fft.ifft2(np.pad(spectrum, ((32, 32), (0, 0)))))
    >>> image[40:80, 40:80] += 10
    >>> [round(factor, 1) for factor in zero_filling(image)]
    [2.0, 1.0]
    """
    data = np.asarray(low_res, dtype=np.float64)
    # Choosing the darkest does not correlate neighbours; what is left of ghosts does.
    air = _air(data, spreads=0)
    if air is None:
        return None
    factors = []
    for axis in range(data.ndim):
        quiet, power = np.moveaxis(air, axis, 0), np.moveaxis(data, axis, 0) ** 2
        pairs = quiet[1:] & quiet[:-1]
        correlation = 0.0
        if pairs.sum() >= _MIN_VOXELS:
            correlation = np.corrcoef(power[1:][pairs], power[:-1][pairs])[0, 1]
        factors.append(_voxels_per_acquired(correlation))
    return tuple(factors)


def effective_noise(sigma_low: float, sigma_high: float, noise_gain: float) -> float:
    """Return how far a measurement lies from a degraded HR image.

    Parameters
    ----------
    sigma_low : float
        Noise of the measurement.
    sigma_high : float
        Noise of HR images, which the model takes for part of them.
    noise_gain : float
        What the operator leaves of it: `SeparableOperator.noise_gain`.

    Returns
    -------
    float
        Standard deviation of y − H x.

    Examples
    --------
    >>> effective_noise(0.03, 0.08, 0.5)
    0.05
    """
    return math.hypot(sigma_low, sigma_high * noise_gain)


@dataclass(frozen=True)
class ForegroundLevels:
    """Two marks of an intensity scale.

    Parameters
    ----------
    middle, bright : float
        50 and 90 percentile of the foreground.
    foreground : float
        Threshold of the foreground.
    """

    middle: float
    bright: float
    foreground: float


def foreground_levels(data: ArrayLike) -> ForegroundLevels:
    """Measure the levels of a volume.

    Parameters
    ----------
    data : array_like
        Voxels in any unit.

    Returns
    -------
    ForegroundLevels
        In the same unit.

    Raises
    ------
    ResolutionError
        If the volume is constant.
    """
    values = np.asarray(data)
    threshold = foreground_threshold(values)
    inside = values[values > threshold]
    middle, bright = np.percentile(inside, [50, 90]) if inside.size else (0.0, 0.0)
    if not bright > middle:
        raise ResolutionError(
            "the volume holds one single intensity, so it has no scale",
            hint="look at the scan with `srmri inspect`",
        )
    return ForegroundLevels(float(middle), float(bright), threshold)


def mean_levels(levels: Iterable[ForegroundLevels]) -> ForegroundLevels:
    """Average the levels of several volumes of one scale.

    Parameters
    ----------
    levels : iterable of ForegroundLevels
        For instance of every training volume in [0, 1], degraded by the operator; at least one.

    Returns
    -------
    ForegroundLevels
        What LR volumes of this scale look like.
    """
    table = np.array([(each.middle, each.bright, each.foreground) for each in levels])
    middle, bright, foreground = table.mean(axis=0).tolist()
    return ForegroundLevels(middle, bright, foreground)


def level_map(low_res: ForegroundLevels, reference: ForegroundLevels) -> IntensityMap:
    """Return the map that brings LR's levels to those LR has on the scale of HR.

    LR is darker at its bright end than HR, since fine bright structures are spread out: its own
    percentiles are no scale. Over 16 mice the bright end (99.9 percentile) of LR was 0.72 to
    0.97 of HR's, and its 50 and 90 percentiles kept their ratio to HR's within 0.3 and 1.5 %.

    Parameters
    ----------
    low_res : ForegroundLevels
        Of the LR volume, scanner units.
    reference : ForegroundLevels
        Of degraded HR volumes in [0, 1]: of the training (`mean_levels`), or of the HR scan of
        the same animal when there is one.

    Returns
    -------
    IntensityMap
        Scanner units of LR that are 0 and 1 on the scale of HR.

    Examples
    --------
    >>> level_map(ForegroundLevels(50, 90, 10), ForegroundLevels(0.5, 0.9, 0.1))
    IntensityMap(low=0.0, high=100.0, foreground=10)
    """
    span = (low_res.bright - low_res.middle) / (reference.bright - reference.middle)
    low = low_res.middle - span * reference.middle
    return IntensityMap(low, low + span, low_res.foreground)


@dataclass(frozen=True)
class OperatorFit:
    """How well an operator explains an LR scan by its HR scan.

    Parameters
    ----------
    kind, grid : str
        As in `make_operator`.
    width : float or None
        Fitted width, in LR voxels; None for kinds without one.
    gain, offset : float
        LR ≈ gain · H(HR) + offset.
    residual : float
        Root of the mean squared rest in the foreground, in LR's units.
    """

    kind: Kind
    grid: Grid
    width: float | None
    gain: float
    offset: float
    residual: float


def fit_operator(
    high_res: ArrayLike,
    low_res: ArrayLike,
    factor: float | tuple[float, ...],
    *,
    kinds: Sequence[Kind] = KINDS,
    grids: Sequence[Grid] = GRIDS,
) -> list[OperatorFit]:
    """Find the operator and grid that explain an LR scan by the HR scan of the same animal.

    Parameters
    ----------
    high_res : array_like
        HR, two or three axes, registered: LR's voxels lie where one of the `grids` says.
    low_res : array_like
        LR, ``low_size(n, factor)`` voxels along each axis.
    factor : float or tuple of float
        LR over HR voxel size, for all axes or for each.
    kinds, grids : sequence of str
        Those to try. For "gaussian" and "slice-profile" the width is fitted, the same along all
        axes, from 0.3 to 3 LR voxels.

    Returns
    -------
    list of OperatorFit
        Best first. Operators whose residuals differ by less than the noise allows are equally
        good; a wrong grid shifts by (factor − 1) / 2 HR voxels and stands out.

    Raises
    ------
    UsageError
        If the sizes do not fit the factor.
    ResolutionError
        If LR has no foreground.
    """
    high = torch.from_numpy(np.ascontiguousarray(high_res, dtype=np.float32))
    low = np.asarray(low_res, dtype=np.float64)
    factors = factor_per_axis(high.ndim, factor)
    expected = tuple(low_size(n, f) for n, f in zip(high.shape, factors, strict=True))
    if low.shape != expected:
        raise UsageError(
            f"HR of {tuple(high.shape)} and factor {factor} make LR of {expected}; "
            f"found {low.shape}",
            hint="crop both scans to the field of view they share",
        )
    # In air noise lifts the mean, which no gain explains.
    inside = low > foreground_threshold(low)
    target = low[inside]
    if not target.size:
        raise ResolutionError("LR holds one single intensity, so nothing can be fitted to it")

    def fit(kind: Kind, grid: Grid, width: float | None) -> OperatorFit:
        matrices = [
            None
            if f == 1
            else torch.from_numpy(
                degradation_matrix(kind, n, f, grid=grid, width=width or 1.0)
            ).float()
            for n, f in zip(high.shape, factors, strict=True)
        ]
        degraded = apply_per_axis(high, matrices).numpy()[inside].astype(np.float64)
        centred = degraded - degraded.mean()
        gain = float(centred @ target / (centred @ centred))
        offset = float(target.mean() - gain * degraded.mean())
        residual = float(np.std(target - gain * centred))
        return OperatorFit(kind, grid, width, gain, offset, residual)

    def best_width(kind: Kind, grid: Grid) -> OperatorFit:
        if kind not in ("gaussian", "slice-profile"):
            return fit(kind, grid, None)
        found = minimize_scalar(
            lambda width: fit(kind, grid, width).residual,
            bounds=_WIDTHS,
            method="bounded",
            options={"xatol": 0.005},
        )
        return fit(kind, grid, float(found.x))

    fits = [best_width(kind, grid) for kind, grid in itertools.product(kinds, grids)]
    return sorted(fits, key=lambda fit: fit.residual)


def _air(data: NDArray[np.float64], *, spreads: float) -> NDArray[np.bool_] | None:
    """Voxels of windows outside the animal as dark as the darkest quarter, if all is noise."""
    tissue = data > foreground_threshold(data)
    air = (data != 0) & ~ndimage.binary_dilation(tissue, iterations=2)
    size = [_WINDOW if n >= _ROOM else 1 for n in data.shape]
    share = ndimage.uniform_filter(air.astype(np.float64), size, mode="constant")
    total = ndimage.uniform_filter(np.where(air, data, 0), size, mode="constant")
    air &= share > 0.5
    if air.sum() < _MIN_VOXELS:
        return None
    brightness = total[air] / share[air]
    # In units of the standard deviation of the mean of a window half full of noise.
    margin = spreads * _RAYLEIGH_SPREAD / math.sqrt(math.prod(size) / 2)
    air[air] = brightness <= (1 + margin) * np.quantile(brightness, 0.25)
    if air.sum() < _MIN_VOXELS:
        return None
    lower, upper = np.percentile(data[air], [25, 75])
    return air if abs(lower / upper - _RAYLEIGH_QUARTILES) < _QUARTILES_TOLERANCE else None


def _voxels_per_acquired(correlation: float) -> float:
    """Solve sinc²(1 / z) = correlation."""
    if correlation < _MIN_CORRELATION:
        return 1.0
    root = math.sqrt(min(correlation, 0.99))
    return float(brentq(lambda z: float(np.sinc(1 / z)) - root, 1, 20))


def _finest_detail(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """Size of the finest detail where its whole support is in the foreground."""
    axes = [axis for axis, n in enumerate(data.shape) if n >= _DETAIL.size]
    detail = data
    for axis in axes:
        detail = ndimage.correlate1d(detail, _DETAIL, axis=axis)
    support = [_DETAIL.size if axis in axes else 1 for axis in range(data.ndim)]
    deep = ndimage.binary_erosion(data > foreground_threshold(data), np.ones(support, dtype=bool))
    return np.asarray(np.abs(detail[deep]))

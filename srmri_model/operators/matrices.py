"""The one-dimensional matrices that operators are made of, in float64 and without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from srmri_data.choices import OperatorKind
from srmri_data.errors import UsageError

Kind: TypeAlias = OperatorKind
Grid: TypeAlias = Literal["fourier", "voxel-centre"]
Matrix: TypeAlias = NDArray[np.float64]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""Every kind of operator."""

WIDTH_KINDS: tuple[Kind, ...] = ("box", "gaussian", "slice-profile")
"""Kinds whose width can be chosen: the point spreads."""

GRIDS: tuple[Grid, ...] = get_args(Grid)
"""Where LR voxels lie: `low_positions`."""

EDGE_SHARE = 0.2
"""Width of each edge of a slice profile, as a share of the slice's thickness."""

_FWHM = 2 * math.sqrt(2 * math.log(2))
# A Gaussian is cut off where it has fallen below 4e-10 of its peak.
_GAUSSIAN_REACH = 6.6


def low_size(high_size: int, factor: float) -> int:
    """Return how many LR voxels cover a line of HR voxels.

    Parameters
    ----------
    high_size : int
        HR voxels.
    factor : float
        LR over HR voxel size.

    Returns
    -------
    int
        Rounded.

    Raises
    ------
    UsageError
        If the factor is not a number of at least 1.

    Examples
    --------
    >>> low_size(100, 1.5)
    67
    """
    return round(high_size / _as_fraction(factor))


def low_positions(count: int, factor: float, grid: Grid) -> Matrix:
    """Return where LR voxels lie on the HR grid.

    Parameters
    ----------
    count : int
        LR voxels.
    factor : float
        LR over HR voxel size.
    grid : {"fourier", "voxel-centre"}
        The first LR voxel lies on the first HR voxel, as an inverse Fourier transform of fewer
        samples leaves it; or the edges of both fields of view coincide.

    Returns
    -------
    (count,) ndarray
        HR voxel coordinates, 0-based voxel centres.

    Examples
    --------
    >>> low_positions(3, 2.0, "voxel-centre")
    array([0.5, 2.5, 4.5])
    """
    return np.arange(count, dtype=np.float64) * factor + low_offset(factor, grid)


def low_offset(factor: float, grid: Grid) -> float:
    """Return where the first LR voxel lies on the HR grid.

    Parameters
    ----------
    factor : float
        LR over HR voxel size.
    grid : {"fourier", "voxel-centre"}
        See `low_positions`.

    Returns
    -------
    float
        HR voxel coordinate.
    """
    return (factor - 1) / 2 if grid == "voxel-centre" else 0.0


def degradation_matrix(
    kind: Kind, high_size: int, factor: float, *, grid: Grid = "voxel-centre", width: float = 1.0
) -> Matrix:
    """Return the matrix that makes an LR line of an HR line.

    Every row sums to 1. Outside the field of view the image is continued by reflection about
    its edge, and periodically for ``kspace``.

    Parameters
    ----------
    kind : str
        "bicubic", "bilinear", "lanczos2", "lanczos3": the kernel, widened by the factor, as
        MATLAB's ``imresize`` does. "box": mean over the LR voxel. "gaussian": Gaussian point
        spread. "slice-profile": a slice of finite thickness with soft edges. "kspace":
        frequencies up to LR's highest.
    high_size : int
        HR voxels.
    factor : float
        LR over HR voxel size, at least 1.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    width : float
        Of a point spread, in LR voxels. "box": its edge; "gaussian": full width at half maximum;
        "slice-profile": thickness between the middles of its edges.

    Returns
    -------
    (low_size, high_size) ndarray
        See `low_size`.

    Examples
    --------
    >>> degradation_matrix("box", 4, 2.0)
    array([[0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """
    centres = low_positions(low_size(high_size, factor), factor, grid)
    if kind == "kspace":
        return _band_limited(centres, high_size, factor)
    if kind == "bicubic":
        return resampling_matrix(high_size, centres.size, factor, grid=grid)
    if kind in _KERNELS:
        kernel, support = _KERNELS[kind]
        return _weights(
            centres, high_size, support * factor, lambda distance: kernel(distance / factor)
        )
    below, reach = _SPREADS[kind]
    scale = width * factor
    return _weights(
        centres,
        high_size,
        2 * reach * scale + 1,
        lambda distance: below((distance + 0.5) / scale) - below((distance - 0.5) / scale),
    )


def interpolation_matrix(
    kind: Kind, high_size: int, factor: float, *, grid: Grid = "voxel-centre"
) -> Matrix:
    """Return the matrix that puts an LR line on the HR grid.

    Parameters
    ----------
    kind : str
        "kspace" fills k-space with zeros; every other kind interpolates by cubic convolution.
    high_size : int
        HR voxels.
    factor : float
        LR over HR voxel size, at least 1.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.

    Returns
    -------
    (high_size, low_size) ndarray
        Every row sums to 1.

    References
    ----------
    R. Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29
    (1981) 1153-1160.
    """
    if kind == "kspace":
        filled = degradation_matrix(kind, high_size, factor, grid=grid).T
        # All rows have the same sum, unless the two fields of view differ a little.
        return np.asarray(filled / filled.sum(axis=1, keepdims=True))
    return kernel_interpolation("bicubic", high_size, factor, grid=grid)


def kernel_interpolation(
    kernel: Literal["bicubic", "bilinear", "lanczos2", "lanczos3"],
    high_size: int,
    factor: float,
    *,
    grid: Grid = "voxel-centre",
) -> Matrix:
    """Return the matrix that puts an LR line on the HR grid with a kernel one LR voxel wide.

    Parameters
    ----------
    kernel : {"bicubic", "bilinear", "lanczos2", "lanczos3"}
        What LR voxels are weighed with.
    high_size : int
        HR voxels.
    factor : float
        LR over HR voxel size, at least 1.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.

    Returns
    -------
    (high_size, low_size) ndarray
        Every row sums to 1; beyond its edge the line is reflected.
    """
    function, support = _KERNELS[kernel]
    positions = (np.arange(high_size, dtype=np.float64) - low_offset(factor, grid)) / factor
    return _weights(positions, low_size(high_size, factor), support, function)


def resampling_matrix(
    size: int, count: int, factor: float, *, grid: Grid = "voxel-centre"
) -> Matrix:
    """Return the matrix that takes samples of a line at the places of a coarser grid.

    As `degradation_matrix` of "bicubic", for as many samples as wanted: those beyond the line's
    end see it reflected.

    Parameters
    ----------
    size : int
        Voxels of the line.
    count : int
        Samples.
    factor : float
        Distance of samples in voxels, at least 1.
    grid : {"fourier", "voxel-centre"}
        Where the first sample lies.

    Returns
    -------
    (count, size) ndarray
        Every row sums to 1; the rows of an identity where `factor` is 1.

    Examples
    --------
    >>> resampling_matrix(2, 3, 1.0)
    array([[1., 0.],
           [0., 1.],
           [0., 1.]])
    """
    kernel, support = _KERNELS["bicubic"]
    centres = low_positions(count, factor, grid)
    return _weights(centres, size, support * factor, lambda distance: kernel(distance / factor))


def _weights(
    centres: Matrix, size: int, support: float, weigh: Callable[[Matrix], Matrix]
) -> Matrix:
    """Rows of normalised weights of the distance from each centre, folded at the edges."""
    taps = np.floor(centres - support / 2)[:, None] + np.arange(math.ceil(support) + 2)
    weights = weigh(taps - centres[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    folded = taps.astype(int) % (2 * size)
    folded = np.minimum(folded, 2 * size - 1 - folded)
    matrix = np.zeros((centres.size, size))
    np.add.at(matrix, (np.arange(centres.size)[:, None], folded), weights)
    return matrix


def _as_fraction(factor: float) -> Fraction:
    """Return a factor as the simple fraction it stands for: 4/3, not 1.333…."""
    if not (math.isfinite(factor) and factor >= 1):
        raise UsageError(f"a factor is a number of at least 1; found {factor}")
    return Fraction(factor).limit_denominator(1000)


def _band_limited(centres: Matrix, size: int, factor: float) -> Matrix:
    """Rows that evaluate the Fourier series without what lies beyond LR's Nyquist frequency.

    Half of what lies exactly on it is kept, so that a real image stays real.
    """
    nyquist = Fraction(size) / (2 * _as_fraction(factor))
    frequencies = np.arange(math.floor(nyquist) + 1)
    weights = np.full(frequencies.size, 2.0 / size)
    weights[0] = 1.0 / size
    if nyquist.denominator == 1:
        weights[-1] /= 2
    turn = 2 * np.pi / size * frequencies
    at, of = np.outer(centres, turn), np.outer(np.arange(size), turn)
    return np.asarray((np.cos(at) * weights) @ np.cos(of).T + (np.sin(at) * weights) @ np.sin(of).T)


def _box_below(x: Matrix) -> Matrix:
    return np.clip(x + 0.5, 0, 1)


def _gaussian_below(x: Matrix) -> Matrix:
    return np.asarray(ndtr(x * _FWHM))


def _trapezoid_below(x: Matrix) -> Matrix:
    rise, fall = _ramp_area(x + (1 + EDGE_SHARE) / 2), _ramp_area(x + (1 - EDGE_SHARE) / 2)
    return (rise - fall) / EDGE_SHARE


def _ramp_area(x: Matrix) -> Matrix:
    """Area below the ramp from 0 at 0 to 1 at 1, up to x."""
    inside = np.clip(x, 0, 1)
    return np.asarray(inside**2 / 2 + np.maximum(x - 1, 0))


def _cubic(x: Matrix) -> Matrix:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _triangle(x: Matrix) -> Matrix:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _lanczos(lobes: int) -> Callable[[Matrix], Matrix]:
    return lambda x: np.where(np.abs(x) < lobes, np.sinc(x) * np.sinc(x / lobes), 0)


_KERNELS: Mapping[str, tuple[Callable[[Matrix], Matrix], float]] = MappingProxyType(
    {
        "bicubic": (_cubic, 4.0),
        "bilinear": (_triangle, 2.0),
        "lanczos2": (_lanczos(2), 4.0),
        "lanczos3": (_lanczos(3), 6.0),
    }
)
# Share of a point spread of width 1 below a position, and how far it reaches.
_SPREADS: Mapping[str, tuple[Callable[[Matrix], Matrix], float]] = MappingProxyType(
    {
        "box": (_box_below, 0.5),
        "gaussian": (_gaussian_below, _GAUSSIAN_REACH / _FWHM),
        "slice-profile": (_trapezoid_below, (1 + EDGE_SHARE) / 2),
    }
)

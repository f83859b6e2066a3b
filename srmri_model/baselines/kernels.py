"""Blur kernels of images: what they make of an HR image, on either grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srmri_data.errors import UsageError
from srmri_model.operators.matrices import Grid, Kind, degradation_matrix, low_offset, low_size
from srmri_model.operators.separable import factor_per_axis

Kernel = NDArray[np.float64]
"""Weights of HR pixels about an LR sample as they lie on the image; their sum is 1."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

Stop = Callable[[], bool]
"""Asked before every step; True ends the training there."""

_SPLINE_ORDER: Final = 5


def downscale(
    high_res: NDArray[np.float32],
    kernel: Kernel | None,
    factor: float | tuple[float, ...],
    *,
    grid: Grid = "voxel-centre",
) -> NDArray[np.float32]:
    """Make an LR image of an HR image with a blur kernel.

    Parameters
    ----------
    high_res : (row, col) ndarray of float32
        HR image; beyond its edge it is reflected.
    kernel : (m, n) ndarray, optional
        Weights; the middle of the array, between two pixels where a size is even, comes to lie
        on the LR sample. By default the cubic kernel of `degradation_matrix`.
    factor : float or tuple of float
        LR over HR voxel size, for both axes or each.
    grid : {"fourier", "voxel-centre"}
        Where LR samples lie, see `low_positions`.

    Returns
    -------
    (row, col) ndarray of float32
        LR image of `low_size`.

    Notes
    -----
    The image is blurred on its own grid and then sampled. Where samples fall between pixels, a
    spline of order 5 is laid through the blurred image, so that no position is rounded.

    Examples
    --------
    >>> downscale(np.float32([[0, 2, 4, 6]]), np.full((1, 2), 0.5), (1.0, 2.0))
    array([[1., 5.]], dtype=float32)
    """
    factors = factor_per_axis(2, factor)
    if kernel is None:
        rows, cols = (
            degradation_matrix("bicubic", n, f, grid=grid) if f != 1 else np.eye(n)
            for n, f in zip(high_res.shape, factors, strict=True)
        )
        return np.asarray(rows @ high_res @ cols.T, dtype=np.float32)
    blurred = ndimage.correlate(high_res.astype(np.float64), kernel, mode="reflect")
    # What `correlate` calls the middle of an even number of weights is half a pixel beyond it.
    beyond = [0.5 * (n % 2 == 0) for n in kernel.shape]
    low = ndimage.affine_transform(
        blurred,
        list(factors),
        offset=[low_offset(f, grid) + b for f, b in zip(factors, beyond, strict=True)],
        output_shape=tuple(low_size(n, f) for n, f in zip(high_res.shape, factors, strict=True)),
        order=_SPLINE_ORDER,
        mode="reflect",
    )
    return np.asarray(low, dtype=np.float32)


def operator_kernel(
    kind: Kind, factor: float | tuple[float, ...], size: int = 25, *, width: float = 1.0
) -> Kernel:
    """Return the kernel of an operator, cut off to some pixels.

    Parameters
    ----------
    kind : str
        See `degradation_matrix`.
    factor : float or tuple of float
        LR over HR voxel size, for both axes or each.
    size : int
        Edge of the kernel, an odd number of HR pixels.
    width : float
        Of a point spread, see `degradation_matrix`.

    Returns
    -------
    (size, size) ndarray
        Weights about a sample that lies on a pixel; their sum is 1.

    Raises
    ------
    UsageError
        If the size is even.

    Examples
    --------
    >>> operator_kernel("bilinear", (1.0, 2.0), 3)
    array([[0.  , 0.  , 0.  ],
           [0.25, 0.5 , 0.25],
           [0.  , 0.  , 0.  ]])
    """
    if size % 2 == 0:
        raise UsageError(f"a kernel about a pixel has an odd size; found {size}")

    def line(f: float) -> NDArray[np.float64]:
        if f == 1:
            return np.asarray(np.eye(1, size, size // 2)[0])
        samples = 2 * size
        matrix = degradation_matrix(kind, round(f * samples), f, grid="fourier", width=width)
        middle = round(f * (samples // 2))
        return np.asarray(matrix[samples // 2, middle - size // 2 : middle + size // 2 + 1])

    rows, cols = (line(f) for f in factor_per_axis(2, factor))
    kernel = np.outer(rows, cols)
    return np.asarray(kernel / kernel.sum())


def centre_of_mass(kernel: Kernel) -> NDArray[np.float64]:
    """Return where the mass of a kernel lies, relative to its middle.

    Parameters
    ----------
    kernel : (m, n) ndarray
        Weights; their sum is not 0.

    Returns
    -------
    (2,) ndarray
        Rows and columns.

    Examples
    --------
    >>> centre_of_mass(np.array([[0.0, 0.5, 0.5]]))
    array([0. , 0.5])
    """
    places = [np.arange(n) - (n - 1) / 2 for n in kernel.shape]
    total = kernel.sum()
    return np.array(
        [places[0] @ kernel.sum(axis=1) / total, places[1] @ kernel.sum(axis=0) / total]
    )

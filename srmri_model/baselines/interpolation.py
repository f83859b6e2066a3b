"""Interpolation of LR volumes: what a lab does without a model."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srmri_model.operators.matrices import (
    Grid,
    interpolation_matrix,
    kernel_interpolation,
    low_offset,
    low_size,
)
from srmri_model.operators.separable import factor_per_axis

Interpolation = Literal["bicubic", "lanczos3", "b-spline 3", "b-spline 5", "zero-filled"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


def interpolate(
    low_res: NDArray[np.float32],
    high_shape: tuple[int, ...],
    factor: float | tuple[float, ...],
    method: Interpolation,
    *,
    grid: Grid = "voxel-centre",
) -> NDArray[np.float32]:
    """Put an LR image or volume on the HR grid.

    Parameters
    ----------
    low_res : ndarray
        LR, two or three axes.
    high_shape : tuple of int
        HR voxels along each axis.
    factor : float or tuple of float
        LR over HR voxel size, for all axes or each; an axis of factor 1 is left as it is.
    method : {"bicubic", "lanczos3", "b-spline 3", "b-spline 5", "zero-filled"}
        Cubic convolution; Lanczos' kernel of three lobes; splines through the samples, of order
        3 and 5; more k-space, filled with zeros.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie on the HR grid.

    Returns
    -------
    ndarray of float32
        HR. Beyond its edge LR is reflected, and repeated by "zero-filled".

    Raises
    ------
    ValueError
        If the shapes do not fit the factor.

    Examples
    --------
    >>> interpolate(np.float32([[0, 1], [0, 1]]), (4, 4), 2.0, "bicubic")[0].round(2)
    array([-0.09,  0.2 ,  0.8 ,  1.09], dtype=float32)
    """
    factors = factor_per_axis(len(high_shape), factor, None)
    expected = tuple(low_size(n, f) for n, f in zip(high_shape, factors, strict=True))
    if low_res.shape != expected:
        raise ValueError(f"LR of HR {high_shape} is {expected} large; found {low_res.shape}")
    values = low_res.astype(np.float64)
    if method.startswith("b-spline"):
        values = ndimage.affine_transform(
            values,
            [1 / f for f in factors],
            offset=[-low_offset(f, grid) / f for f in factors],
            output_shape=high_shape,
            order=3 if method == "b-spline 3" else 5,
            mode="reflect",
        )
        return np.asarray(values, dtype=np.float32)
    for axis, (n, f) in enumerate(zip(high_shape, factors, strict=True)):
        if f == 1:
            continue
        if method == "zero-filled":
            matrix = interpolation_matrix("kspace", n, f, grid=grid)
        else:
            matrix = kernel_interpolation(
                "bicubic" if method == "bicubic" else "lanczos3", n, f, grid=grid
            )
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    return np.asarray(values, dtype=np.float32)

"""Bring HR onto the planes of LR.

Until a registration is estimated, the two scans are related by their affines.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.slices import StackFrame, Window
from srmri_data.types import Affine


def aligned_grid(
    low_frame: StackFrame, high_frame: StackFrame, low_window: Window
) -> tuple[Affine, tuple[int, int, int]]:
    """Return the grid of LR's planes at HR's in-plane resolution.

    Parameters
    ----------
    low_frame, high_frame : StackFrame
        Geometry of both stacks, with corresponding axes.
    low_window : Window
        LR slices to follow, and the common field of view in the plane.

    Returns
    -------
    affine : (4, 4) ndarray
        (slice, row, col) of the new grid to world RAS mm. Where LR and HR are
        parallel, its pixels coincide with HR's.
    shape : tuple of int
        Number of slices, rows and columns.
    """
    ratio = np.array(low_frame.spacing) / np.array(high_frame.spacing)
    ratio[0] = 1.0
    # Edge-to-edge box of the LR window, then HR's pixels whose centres lie in it.
    starts = np.array([low_window.slices[0], low_window.rows[0] - 0.5, low_window.cols[0] - 0.5])
    stops = np.array([low_window.slices[1] - 1, low_window.rows[1] - 0.5, low_window.cols[1] - 0.5])
    to_high = np.linalg.inv(high_frame.affine) @ low_frame.affine
    middle = (starts + stops) / 2
    step = np.array([1.0, 1.0, 1.0])
    origin = starts.copy()
    shape = [low_window.shape[0], 0, 0]
    for axis in (1, 2):
        step[axis] = 1 / ratio[axis]
        point = middle.copy()
        point[axis] = starts[axis]
        first = (to_high[:3, :3] @ point + to_high[:3, 3])[axis]
        # Snap to HR's pixel centres so that parallel scans are not interpolated.
        origin[axis] += (np.ceil(first - 1e-6) - first) * step[axis]
        shape[axis] = max(1, int(np.floor((stops[axis] - origin[axis]) / step[axis] + 1e-6)))
        if origin[axis] + shape[axis] * step[axis] <= stops[axis] - 1e-6:
            shape[axis] += 1
    to_low = np.diag([*step, 1.0])
    to_low[:3, 3] = origin
    n_slices, n_rows, n_cols = shape
    return low_frame.affine @ to_low, (n_slices, n_rows, n_cols)


def reslice(
    image: NDArray[Any], matrix: Affine, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Interpolate a volume on another grid.

    Keys' tricubic convolution (a = -1/2): exact at the samples, third order
    between them, without the memory of a B-spline prefilter.

    Parameters
    ----------
    image : (a, b, c) ndarray
        Values; any real dtype and memory layout.
    matrix : (4, 4) ndarray
        Index of the new grid to index of `image`.
    shape : tuple of int
        Size of the new grid.

    Returns
    -------
    values : ndarray of float32
        0 where invalid.
    valid : ndarray of bool
        True where the point lies inside the field of view of `image`.
    """
    values = np.zeros(shape, dtype=np.float32)
    valid = np.zeros(shape, dtype=np.bool_)
    # Imported here: numba takes a second.
    import numba

    from srmri_data.register_kernel import tricubic

    to_image = np.ascontiguousarray(matrix, dtype=np.float64)
    # Threads that share nothing, as the SSIM voter's: see there.
    with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:  # type: ignore[attr-defined]
        list(pool.map(lambda s: tricubic(image, to_image, values, valid, s), range(shape[0])))
    return values, valid

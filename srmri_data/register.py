"""Bring HR onto the planes of LR.

Until a registration is estimated, the two scans are related by their affines.
"""

from __future__ import annotations

from functools import cache
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
    _reslice_kernel()(image, np.ascontiguousarray(matrix, dtype=np.float64), values, valid)
    return values, valid


@cache
def _reslice_kernel() -> Any:
    """Compile the tricubic kernel on first use: numba takes a second to import."""
    import numba

    @numba.njit(cache=True, inline="always")
    def cubic(t: float, weights: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
        weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
        weights[1] = (1.5 * t - 2.5) * t * t + 1.0
        weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
        weights[3] = (0.5 * t - 0.5) * t * t

    @numba.njit(cache=True, parallel=True)
    def kernel(
        image: NDArray[Any],
        matrix: NDArray[np.float64],
        values: NDArray[np.float32],
        valid: NDArray[np.bool_],
    ) -> None:  # pragma: no cover - compiled
        n_a, n_b, n_c = image.shape
        for s in numba.prange(values.shape[0]):
            wa, wb, wc = np.empty(4), np.empty(4), np.empty(4)
            for r in range(values.shape[1]):
                for c in range(values.shape[2]):
                    a = matrix[0, 0] * s + matrix[0, 1] * r + matrix[0, 2] * c + matrix[0, 3]
                    b = matrix[1, 0] * s + matrix[1, 1] * r + matrix[1, 2] * c + matrix[1, 3]
                    d = matrix[2, 0] * s + matrix[2, 1] * r + matrix[2, 2] * c + matrix[2, 3]
                    if (
                        a < -0.5
                        or b < -0.5
                        or d < -0.5
                        or a > n_a - 0.5
                        or b > n_b - 0.5
                        or d > n_c - 0.5
                    ):
                        continue
                    # A header's rounding must not turn a sample into an interpolation.
                    if abs(a - np.rint(a)) < 1e-6:
                        a = np.rint(a)
                    if abs(b - np.rint(b)) < 1e-6:
                        b = np.rint(b)
                    if abs(d - np.rint(d)) < 1e-6:
                        d = np.rint(d)
                    ia, ib, ic = int(np.floor(a)), int(np.floor(b)), int(np.floor(d))
                    cubic(a - ia, wa)
                    cubic(b - ib, wb)
                    cubic(d - ic, wc)
                    total = 0.0
                    for u in range(4):
                        if wa[u] == 0.0:
                            continue
                        pa = min(max(ia + u - 1, 0), n_a - 1)
                        for v in range(4):
                            if wb[v] == 0.0:
                                continue
                            pb = min(max(ib + v - 1, 0), n_b - 1)
                            line = 0.0
                            for w in range(4):
                                if wc[w] != 0.0:
                                    pc = min(max(ic + w - 1, 0), n_c - 1)
                                    line += wc[w] * image[pa, pb, pc]
                            total += wa[u] * wb[v] * line
                    values[s, r, c] = total
                    valid[s, r, c] = True

    return kernel

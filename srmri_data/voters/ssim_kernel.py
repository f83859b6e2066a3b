"""Compiled loops of the SSIM voter. Importing this module imports numba.

The window is written out: eleven taps, symmetric, `weights` from its centre outwards.
"""

from __future__ import annotations

from typing import TypeAlias, no_type_check

import numpy as np
from jaxtyping import Float32, Float64
from numba import njit

from srmri_data.voters.ssim import TAPS

Window: TypeAlias = tuple[float, ...]


@njit(cache=True, nogil=True, inline="always")
def _smooth_rows(weights, ring, top, line):  # type: ignore[no-untyped-def]
    """Weigh the eleven rows kept in a ring, the oldest at `top`, into one line."""
    w0, w1, w2, w3, w4, w5 = weights
    r0 = ring[top]
    r1 = ring[(top + 1) % TAPS]
    r2 = ring[(top + 2) % TAPS]
    r3 = ring[(top + 3) % TAPS]
    r4 = ring[(top + 4) % TAPS]
    r5 = ring[(top + 5) % TAPS]
    r6 = ring[(top + 6) % TAPS]
    r7 = ring[(top + 7) % TAPS]
    r8 = ring[(top + 8) % TAPS]
    r9 = ring[(top + 9) % TAPS]
    r10 = ring[(top + 10) % TAPS]
    for c in range(line.size):
        line[c] = (
            w0 * r5[c]
            + w1 * (r4[c] + r6[c])
            + w2 * (r3[c] + r7[c])
            + w3 * (r2[c] + r8[c])
            + w4 * (r1[c] + r9[c])
            + w5 * (r0[c] + r10[c])
        )


@njit(cache=True, nogil=True, inline="always")
def _smooth_column(weights, line, c):  # type: ignore[no-untyped-def]
    """Weigh eleven neighbours of a line, the first at `c`."""
    w0, w1, w2, w3, w4, w5 = weights
    return (
        w0 * line[c + 5]
        + w1 * (line[c + 4] + line[c + 6])
        + w2 * (line[c + 3] + line[c + 7])
        + w3 * (line[c + 2] + line[c + 8])
        + w4 * (line[c + 1] + line[c + 9])
        + w5 * (line[c] + line[c + 10])
    )


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
@no_type_check  # numba checks; a run-time checker could not be compiled
def local_moments(
    weights: Window,
    image: Float32[np.ndarray, "row col"],
    mean: Float64[np.ndarray, "inner_row inner_col"],
    variance: Float32[np.ndarray, "inner_row inner_col"],
) -> None:
    """Fill in the Gaussian-weighted mean and population variance around every inner pixel.

    Parameters
    ----------
    weights : tuple of float
        Half of the window, from its centre outwards.
    image : (row, col) ndarray of float32
        The slice, at least 11 x 11.
    mean : (row - 10, col - 10) ndarray of float64
        Overwritten. Its rounding would not cancel in a covariance, hence double precision.
    variance : (row - 10, col - 10) ndarray of float32
        Overwritten.
    """
    n_rows, n_cols = image.shape
    values = np.empty((TAPS, n_cols))
    squares = np.empty((TAPS, n_cols))
    line = np.empty(n_cols)
    for row in range(n_rows):
        slot = row % TAPS
        for c in range(n_cols):
            value = np.float64(image[row, c])
            values[slot, c] = value
            squares[slot, c] = value * value
        if row < TAPS - 1:
            continue
        inner = row - (TAPS - 1)
        top = (row + 1) % TAPS
        _smooth_rows(weights, values, top, line)
        for c in range(n_cols - TAPS + 1):
            mean[inner, c] = _smooth_column(weights, line, c)
        _smooth_rows(weights, squares, top, line)
        for c in range(n_cols - TAPS + 1):
            variance[inner, c] = _smooth_column(weights, line, c) - mean[inner, c] * mean[inner, c]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
@no_type_check  # numba checks; a run-time checker could not be compiled
def mean_ssim(
    weights: Window,
    a: Float32[np.ndarray, "row col"],
    a_mean: Float64[np.ndarray, "inner_row inner_col"],
    a_variance: Float32[np.ndarray, "inner_row inner_col"],
    b: Float32[np.ndarray, "row col"],
    b_mean: Float64[np.ndarray, "inner_row inner_col"],
    b_variance: Float32[np.ndarray, "inner_row inner_col"],
    c1: float,
    c2: float,
) -> float:
    """Return the SSIM of two slices, averaged over the pixels with a whole window.

    Only the cross term is computed here: products, smoothing and the SSIM map pass through
    a ring of eleven rows that stays in the first-level cache.

    Parameters
    ----------
    weights : tuple of float
        Half of the window, from its centre outwards.
    a : (row, col) ndarray of float32
        One slice.
    a_mean : (row - 10, col - 10) ndarray of float64
        Its local means.
    a_variance : (row - 10, col - 10) ndarray of float32
        Its local variances.
    b, b_mean, b_variance : ndarray
        The same of the other slice.
    c1, c2 : float
        Stabilizing constants, (K L)**2.

    Returns
    -------
    float
        Mean SSIM, at most 1.
    """
    n_rows, n_cols = a.shape
    products = np.empty((TAPS, n_cols))
    line = np.empty(n_cols)
    total = 0.0
    for row in range(n_rows):
        slot = row % TAPS
        for c in range(n_cols):
            products[slot, c] = np.float64(a[row, c]) * np.float64(b[row, c])
        if row < TAPS - 1:
            continue
        inner = row - (TAPS - 1)
        _smooth_rows(weights, products, (row + 1) % TAPS, line)
        for c in range(n_cols - TAPS + 1):
            mean_a = a_mean[inner, c]
            mean_b = b_mean[inner, c]
            mean_ab = mean_a * mean_b
            covariance = _smooth_column(weights, line, c) - mean_ab
            total += ((2.0 * mean_ab + c1) * (2.0 * covariance + c2)) / (
                (mean_a * mean_a + mean_b * mean_b + c1)
                * (a_variance[inner, c] + b_variance[inner, c] + c2)
            )
    return total / a_mean.size

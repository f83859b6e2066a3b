"""Compiled loop of the tricubic reslicing. Importing this module imports numba."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
@no_type_check
def _weights(t, weights):
    """Keys' cubic at distance `t` from the second of four samples."""
    weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
    weights[1] = (1.5 * t - 2.5) * t * t + 1.0
    weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
    weights[3] = (0.5 * t - 0.5) * t * t


@njit(cache=True, nogil=True, inline="always")
@no_type_check
def _snap(coordinate):
    """Keep a header's rounding from turning a sample into an interpolation."""
    nearest = np.rint(coordinate)
    return nearest if abs(coordinate - nearest) < 1e-6 else coordinate


@njit(cache=True, nogil=True)
@no_type_check
def tricubic(image, matrix, values, valid, s):
    """Fill slice `s` of `values` and `valid`.

    Parameters
    ----------
    image : (a, b, c) ndarray
        Samples.
    matrix : (4, 4) ndarray
        Index of the new grid to index of `image`.
    values, valid : (slice, row, col) ndarray
        The new grid; left as they are where the point is outside.
    s : int
        Slice to fill.
    """
    n_a, n_b, n_c = image.shape
    weights_a, weights_b, weights_c = np.empty(4), np.empty(4), np.empty(4)
    for r in range(values.shape[1]):
        for column in range(values.shape[2]):
            a, b, c = (
                _snap(matrix[0, 0] * s + matrix[0, 1] * r + matrix[0, 2] * column + matrix[0, 3]),
                _snap(matrix[1, 0] * s + matrix[1, 1] * r + matrix[1, 2] * column + matrix[1, 3]),
                _snap(matrix[2, 0] * s + matrix[2, 1] * r + matrix[2, 2] * column + matrix[2, 3]),
            )
            if min(a, b, c) < -0.5 or a > n_a - 0.5 or b > n_b - 0.5 or c > n_c - 0.5:
                continue
            first_a, first_b, first_c = int(np.floor(a)), int(np.floor(b)), int(np.floor(c))
            _weights(a - first_a, weights_a)
            _weights(b - first_b, weights_b)
            _weights(c - first_c, weights_c)
            total = 0.0
            # On a sample three of four weights are zero: most of the work when scans are parallel.
            for u in range(4):
                if weights_a[u] == 0.0:
                    continue
                at_a = min(max(first_a + u - 1, 0), n_a - 1)
                for v in range(4):
                    if weights_b[v] == 0.0:
                        continue
                    at_b = min(max(first_b + v - 1, 0), n_b - 1)
                    line = 0.0
                    for w in range(4):
                        if weights_c[w] != 0.0:
                            at_c = min(max(first_c + w - 1, 0), n_c - 1)
                            line += weights_c[w] * image[at_a, at_b, at_c]
                    total += weights_a[u] * weights_b[v] * line
            values[s, r, column] = total
            valid[s, r, column] = True

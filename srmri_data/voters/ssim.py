"""The SSIM voter: structural similarity of every LR slice to every HR slice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import Final, Literal

import numpy as np

from srmri_data.errors import UsageError
from srmri_data.types import Band, DistanceMatrix, HighResStack, LowResStack
from srmri_data.voters.stacks import Progress, check_stacks, whole_band

K1 = 0.01
K2 = 0.03
WINDOW: Final = "gaussian"

SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels."""

DATA_RANGE = 1.0
"""Span of the intensities."""

TAPS = 11
"""Side of the Gaussian window in pixels, and so the smallest side of a slice."""

_HR_BLOCK = 8
"""HR slices whose local moments are held at a time: it bounds memory, not the result."""


def ssim_distances(
    low_res: LowResStack,
    high_res: HighResStack,
    *,
    band: Band | None = None,
    window: Literal["gaussian", "uniform"] = WINDOW,
    data_range: float = DATA_RANGE,
    progress: Progress | None = None,
) -> DistanceMatrix:
    """Compare slices by 1 − SSIM.

    Parameters
    ----------
    low_res : (n_lr, row, col) ndarray of float32
        LR slices, nominally in [0, 1], at least 11 x 11 pixels.
    high_res : (n_hr, row, col) ndarray of float32
        HR slices resized to the in-plane size of the LR slices, nominally in [0, 1].
    band : (n_lr, 2) ndarray of int, optional
        Half-open range of candidates to compare each LR slice with; all by default.
    window : {"gaussian", "uniform"}
        Weights of the 11 x 11 pixels that are compared at a time.
    data_range : float
        Span L of the intensities in the constants (K L)².
    progress : callable, optional
        Called with (HR slices done, all HR slices).

    Returns
    -------
    (n_lr, n_hr) ndarray of float32
        1 − mean SSIM, in [0, 2]; smaller is more alike. NaN outside the band.

    Raises
    ------
    InputError
        If the stacks can not be compared or the slices are smaller than the window.
    UsageError
        If `data_range` is not positive.

    Notes
    -----
    The default window is the one of Wang et al.: Gaussian, σ = 1.5, 11 taps, K1 = 0.01, K2 = 0.03,
    population covariance, averaged over the pixels whose window lies inside the slice. This is
    ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. Means and variances are computed once per slice, only the
    covariance per pair. Arithmetic is float64: E[ab] − E[a]E[b] in float32 is off by up to 1e-4
    in flat bright regions.

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error
    visibility to structural similarity", IEEE Trans. Image Process. 13 (2004) 600–612.
    """
    check_stacks(low_res, high_res, voter="SSIM", smallest_side=TAPS)
    if not data_range > 0:
        raise UsageError(f"SSIM needs a positive data_range, not {data_range}")

    import numba

    from srmri_data.voters.ssim_kernel import local_moments, mean_ssim

    sigma = SIGMA if window == "gaussian" else np.inf
    half = np.exp(-0.5 * (np.arange(TAPS // 2 + 1) / sigma) ** 2)
    weights = tuple(float(w) for w in half / (half[0] + 2 * half[1:].sum()))
    low_res, high_res = np.ascontiguousarray(low_res), np.ascontiguousarray(high_res)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    n_lr, n_hr = len(low_res), len(high_res)
    inner = tuple(side - TAPS + 1 for side in low_res.shape[1:])
    low_mean = np.empty((n_lr, *inner))
    low_variance = np.empty((n_lr, *inner), np.float32)
    high_mean = np.empty((min(_HR_BLOCK, n_hr), *inner))
    high_variance = np.empty(high_mean.shape, np.float32)
    similarity = np.full((n_lr, n_hr), np.nan)
    band = whole_band(low_res, high_res, band)

    moments = partial(local_moments, weights)

    def compare_row(i: int, start: int, stop: int) -> None:
        for j in range(max(start, band[i, 0]), min(stop, band[i, 1])):
            similarity[i, j] = mean_ssim(
                weights,
                low_res[i], low_mean[i], low_variance[i],
                high_res[j], high_mean[j - start], high_variance[j - start],
                c1, c2,
            )  # fmt: skip

    n_threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    # Threads rather than numba's own: the kernels release the GIL, and no threading layer has to
    # share a process with torch's OpenMP. NUMBA_NUM_THREADS limits them all the same.
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(moments, low_res, low_mean, low_variance))
        for start in range(0, n_hr, _HR_BLOCK):
            stop = min(start + _HR_BLOCK, n_hr)
            list(pool.map(moments, high_res[start:stop], high_mean, high_variance))
            list(pool.map(compare_row, range(n_lr), repeat(start), repeat(stop)))
            if progress is not None:
                progress(stop, n_hr)
    # Rounding takes the similarity of equal slices past 1.
    return np.maximum(1.0 - similarity, 0.0).astype(np.float32)

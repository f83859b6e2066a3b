"""What is tissue and what is air: one threshold per volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BINS = 512
_SAMPLE = 2_000_000


def foreground_threshold(data: ArrayLike) -> float:
    """Return the intensity above which a voxel counts as tissue.

    Otsu's threshold alone would cut off dark tissue such as white matter on
    T2* images. So it only splits air from tissue first, and the threshold is
    then set by the air: six robust standard deviations above its median, but at
    least 15 % of the median tissue (the ringing around a skull-stripped brain
    reaches that far) and never above Otsu's.

    Parameters
    ----------
    data : array_like
        Intensities of any shape, in any unit; NaN and infinity are ignored.
        Large arrays are sampled regularly.

    Returns
    -------
    float
        Foreground is ``data > threshold``. For a constant array this is its
        value, so that nothing is foreground.

    Raises
    ------
    ValueError
        If no value is finite.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE
    Trans. SMC 9 (1979) 62-66.

    Examples
    --------
    >>> foreground_threshold([0, 0, 0, 0, 0, 0, 90, 100, 110, 40])
    15.0
    """
    flat = np.asarray(data).reshape(-1, order="A")
    sample = np.asarray(flat[:: max(1, flat.size // _SAMPLE)], dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise ValueError("no intensity is finite")
    split = _otsu(sample)
    air, tissue = sample[sample <= split], sample[sample > split]
    if tissue.size == 0:
        return float(sample.max())
    middle, bright = float(np.median(air)), float(np.median(tissue))
    floor = 0.15 * bright
    if middle > 0.6 * bright:
        # Both sides are tissue: the field of view holds no air to speak of.
        return min(split, floor)
    spread = 1.4826 * float(np.median(np.abs(air - middle)))
    return float(min(split, max(middle + 6 * spread, floor)))


def foreground_mask(data: ArrayLike) -> NDArray[np.bool_]:
    """Return where there is tissue.

    Parameters
    ----------
    data : array_like
        Intensities of any shape.

    Returns
    -------
    ndarray of bool
        ``data > foreground_threshold(data)``, of the same shape.

    Raises
    ------
    ValueError
        If no value is finite.
    """
    values = np.asarray(data)
    return np.asarray(values > foreground_threshold(values))


def _otsu(sample: NDArray[np.float64]) -> float:
    """Upper edge of the histogram bin that parts the sample best in two."""
    low, high = sample.min(), np.percentile(sample, 99.9)
    if not high > low:
        # A few bright voxels in a constant background.
        high = sample.max()
    if not high > low:
        return float(low)
    counts, edges = np.histogram(np.minimum(sample, high), bins=_BINS, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = sample.size - below
    sums = np.cumsum(counts * centres)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return float(edges[1 + np.argmax(below * above * gap**2)])

"""What is tissue, what is air and what is padding: one threshold and one box per volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BINS = 512
_SAMPLE = 2_000_000


def foreground_threshold(data: ArrayLike) -> float:
    """Return the intensity above which a voxel counts as tissue.

    Otsu's threshold alone would cut off dark tissue such as white matter on
    T2* images. So it only splits air from tissue first, and the threshold is
    then set by the air: six robust standard deviations above its median, but at
    least 15 % of the way from there to the median tissue (the ringing around a
    skull-stripped brain reaches that far) and never above Otsu's. An offset of
    all intensities moves the threshold and changes nothing else.

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
    sample = regular_sample(np.asarray(data), _SAMPLE).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        raise ValueError("no intensity is finite")
    split = _otsu(sample)
    air, tissue = sample[sample <= split], sample[sample > split]
    if tissue.size == 0:
        return float(sample.max())
    middle, bright = float(np.median(air)), float(np.median(tissue))
    spread = 1.4826 * float(np.median(np.abs(air - middle)))
    if middle > 0.6 * bright and spread > 0.2 * (bright - middle):
        # Both sides are tissue: the field of view holds no air to speak of.
        return min(split, 0.15 * bright)
    floor = middle + 0.15 * (bright - middle)
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


def content_box(data: NDArray[Any]) -> tuple[slice, ...]:
    """Return the smallest box that holds everything but constant borders.

    What a scanner or a tool padded an image with says nothing about the animal, and must not
    change what is found in it.

    Parameters
    ----------
    data : ndarray
        Voxels.

    Returns
    -------
    tuple of slice
        One per axis; the whole array if it is constant.

    Examples
    --------
    >>> content_box(np.pad([[1, 2, 3], [4, 5, 6]], ((1, 2), (0, 4))))
    (slice(1, 3, None), slice(0, 3, None))
    """
    box = [slice(0, n) for n in data.shape]

    def is_border(axis: int, at: int) -> bool:
        plane = np.moveaxis(data[tuple(box)], axis, 0)[at - box[axis].start]
        return bool((plane == plane.flat[0]).all())

    shrunk = True
    while shrunk:
        shrunk = False
        for axis in range(data.ndim):
            low, high = box[axis].start, box[axis].stop
            while low < high and is_border(axis, low):
                low += 1
            if low == high:
                return tuple(slice(0, n) for n in data.shape)
            while is_border(axis, high - 1):
                high -= 1
            shrunk |= high - low < box[axis].stop - box[axis].start
            box[axis] = slice(low, high)
        # One pass is the rule; a border that only shows once another has gone takes a second.
    return tuple(box)


def regular_sample(data: NDArray[Any], n_most: int) -> NDArray[Any]:
    """Return about `n_most` voxels or fewer on a regular lattice, whatever their memory order.

    Parameters
    ----------
    data : ndarray
        Voxels.
    n_most : int
        How many to aim at.

    Returns
    -------
    (n,) ndarray
        All of them if there are no more.
    """
    step = int(np.ceil((data.size / n_most) ** (1 / max(1, data.ndim)) - 1e-9))
    return np.asarray(data[(slice(None, None, max(1, step)),) * data.ndim]).ravel()


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

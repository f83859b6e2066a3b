"""Where a method's image lies on HR: one motion per slice and one intensity map per volume.

Both are found once, from interpolated LR, and used for every method alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage, optimize

Image = Float[np.ndarray, "row col"]
Mask = Bool[np.ndarray, "row col"]
Values: TypeAlias = NDArray[np.float64]

_ORDER: Literal[5] = 5
"""Of the splines that move images: those of order 3 would blur what is judged."""
_FAR = 0.15
"""A motion by a larger share of the frame is a failure, not an alignment."""
_STEP = 0.05
"""Of the differences that slopes are taken from, in pixels."""
_FLAT = 1e-6
_SMALLEST = 100
"""Pixels of foreground below which nothing is estimated."""


class Motion(NamedTuple):
    """A rigid motion of an image about its middle.

    Attributes
    ----------
    rows, cols : float
        Shift in HR pixels.
    angle : float
        In radians.
    """

    rows: float = 0.0
    cols: float = 0.0
    angle: float = 0.0


class Gain(NamedTuple):
    """What brings a method's intensities to HR's: (value − offset) / gain.

    Attributes
    ----------
    gain : float
        LR's contrast over HR's.
    offset : float
        On HR's scale.
    """

    gain: float = 1.0
    offset: float = 0.0

    def applied(self, image: Image) -> Image:
        """Correct an image.

        Parameters
        ----------
        image : (row, col) ndarray
            Of a method.

        Returns
        -------
        (row, col) ndarray of float32
            On HR's scale.
        """
        return np.asarray((image - self.offset) / self.gain, dtype=np.float32)


def moved(image: Image, motion: Motion) -> Image:
    """Move an image.

    Parameters
    ----------
    image : (row, col) ndarray
        What to move.
    motion : Motion
        By how much.

    Returns
    -------
    (row, col) ndarray of float32
        The image itself for no motion; beyond its edge it is repeated.

    Examples
    --------
    >>> dot = np.zeros((5, 5), dtype=np.float32)
    >>> dot[2, 2] = 1
    >>> [int(n) for n in np.argwhere(moved(dot, Motion(1, -1)).round(3) == 1)[0]]
    [3, 1]
    """
    if motion == Motion():
        return np.asarray(image, dtype=np.float32)
    return np.asarray(_sampled(_coefficients(image), motion), dtype=np.float32)


def _coefficients(image: Image) -> NDArray[np.float64]:
    values = np.asarray(image, dtype=np.float64)
    return np.asarray(ndimage.spline_filter(values, _ORDER, mode="nearest"), dtype=np.float64)


def _sampled(coefficients: NDArray[np.float64], motion: Motion) -> NDArray[np.float64]:
    cosine, sine = math.cos(motion.angle), math.sin(motion.angle)
    back = np.array([[cosine, sine], [-sine, cosine]])
    middle = (np.array(coefficients.shape) - 1) / 2
    offset = middle - back @ (middle + np.array([motion.rows, motion.cols]))
    return np.asarray(
        ndimage.affine_transform(
            coefficients, back, offset, order=_ORDER, mode="nearest", prefilter=False
        )
    )


def find_motion(image: Image, truth: Image, inside: Mask) -> Motion:
    """Find the motion that brings an image to the truth, to a fraction of a pixel.

    Cross-correlation gives whole pixels; from there the squared error in the foreground, after
    the gain and offset that are best for it, is brought down.

    Parameters
    ----------
    image : (row, col) ndarray
        Interpolated LR.
    truth : (row, col) ndarray
        HR at LR's resolution, interpolated the same way.
    inside : (row, col) ndarray of bool
        Foreground of HR.

    Returns
    -------
    Motion
        None where there is too little foreground, or no alignment better than none was found.

    References
    ----------
    M. Guizar-Sicairos, S. Thurman, J. Fienup, Efficient subpixel image registration algorithms,
    Optics Letters 33 (2008) 156-158, for the start.
    """
    from skimage.registration import phase_cross_correlation

    if int(inside.sum()) < _SMALLEST or image[inside].std() < _FLAT:
        return Motion()
    coefficients = _coefficients(image)
    target = np.asarray(truth, dtype=np.float64)[inside]
    centred = target - target.mean()
    # Angles are told in shifts of the frame's edge.
    units = np.array([1.0, 1.0, 2 / max(image.shape)])

    def motion(values: Values) -> Motion:
        return Motion(*(values * units).tolist())

    def rest(values: Values, /) -> Values:
        seen = _sampled(coefficients, motion(values))[inside]
        seen = seen - seen.mean()
        power = float(seen @ seen)
        return np.asarray(centred - (seen @ centred / power if power else 0.0) * seen)

    def slopes(values: Values, /) -> NDArray[np.float64]:
        steps = _STEP * np.eye(3)
        pairs = [(rest(values + step), rest(values - step)) for step in steps]
        return np.stack([after - before for after, before in pairs], axis=1) / (2 * _STEP)

    shift, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        truth, image, upsample_factor=10, normalization=None
    )
    starts = [np.zeros(3), np.array([*shift, 0.0])]
    best = min(starts, key=lambda start: float(np.square(rest(start)).sum()))
    fit = optimize.least_squares(rest, best, jac=slopes, max_nfev=30)
    far = float(np.abs(fit.x).max()) > _FAR * min(image.shape)
    worse = float(np.square(fit.fun).sum()) >= float(np.square(rest(np.zeros(3))).sum())
    return Motion() if far or worse else motion(fit.x)


def find_gain(images: Sequence[Image], references: Sequence[Image], masks: Sequence[Mask]) -> Gain:
    """Find one gain and offset for all slices of a volume.

    Parameters
    ----------
    images : sequence of (row, col) ndarray
        Interpolated LR, aligned.
    references : sequence of (row, col) ndarray
        HR at LR's resolution, interpolated the same way: what it would be without noise and with
        HR's intensities.
    masks : sequence of (row, col) ndarray of bool
        Foregrounds.

    Returns
    -------
    Gain
        By least squares, with noise in LR alone; no change where nothing can be fitted.

    Examples
    --------
    >>> reference = np.arange(400, dtype=np.float32).reshape(20, 20) / 400
    >>> found = find_gain([2 * reference + 1], [reference], [reference >= 0])
    >>> round(found.gain, 4), round(found.offset, 4)
    (2.0, 1.0)
    """
    seen, wanted = (
        np.concatenate([image[mask] for image, mask in zip(stack, masks, strict=True)])
        for stack in (images, references)
    )
    if seen.size < _SMALLEST or np.ptp(wanted) == 0:
        return Gain()
    gain, offset = np.polyfit(wanted.astype(np.float64), seen.astype(np.float64), 1)
    return Gain(float(gain), float(offset)) if gain > 0 else Gain()

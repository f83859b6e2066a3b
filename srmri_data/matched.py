"""HR as LR would have shown it: slices on LR's planes, at LR's resolution, at HR's slice numbers.

Voters that compare a sharp slice with a blurred one vote for sharpness. Here HR is resliced
parallel to LR's planes, a plane for every HR slice number, averaged over LR's slice thickness and
brought to LR's pixels; its intensities go through the mean of LR's at the same places. What is left
to tell neighbouring planes apart is anatomy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srmri_data.geometry import apply_affine
from srmri_data.register import aligned_grid, reslice
from srmri_data.rigid import matched_intensities
from srmri_data.slices import IntensityMap, StackFrame, Window, resize_matrix
from srmri_data.types import Affine, HighResStack, LowResStack

_CHUNK = 16
# Smoothing of the coil's sensitivity: LR slices and pixels.
_GAIN_SIGMA = 6.0
# Mapped intensity above which a pixel shows tissue.
_SHOWN = 0.05


@dataclass(frozen=True, eq=False)
class PlaneGeometry:
    """How LR's slices cut HR under a map.

    Parameters
    ----------
    to_high : (4, 4) ndarray
        LR (slice, row, col) to HR (slice, row, col) index.
    slope, offset : float
        *r* and *b* of *j = r i + b*, the HR slice coordinate of LR slice *i* in the middle of
        the window.
    centre : tuple of float
        Row and column of that middle.
    """

    to_high: Affine
    slope: float
    offset: float
    centre: tuple[float, float]

    @classmethod
    def of(
        cls, matrix: Affine, low_frame: StackFrame, high_frame: StackFrame, window: Window
    ) -> PlaneGeometry:
        """Work it out from a map of the world.

        Parameters
        ----------
        matrix : (4, 4) ndarray
            LR world to HR world, RAS mm.
        low_frame, high_frame : StackFrame
            Geometry of both stacks.
        window : Window
            LR window whose middle counts.

        Returns
        -------
        PlaneGeometry
            Slope, offset and the whole map.
        """
        to_high = np.linalg.inv(high_frame.affine) @ matrix @ low_frame.affine
        row, col = ((a + b - 1) / 2 for a, b in (window.rows, window.cols))
        offset = float(apply_affine(to_high, [0.0, row, col])[0])
        return cls(to_high, float(to_high[0, 0]), offset, (row, col))

    def at(self, slices: NDArray[Any]) -> NDArray[np.float64]:
        """Return the HR slice coordinate of LR slices in the middle of the window.

        Parameters
        ----------
        slices : (n,) ndarray
            LR slice numbers.

        Returns
        -------
        (n,) ndarray
            HR slice coordinates.
        """
        return self.slope * np.asarray(slices, dtype=np.float64) + self.offset

    def at_points(self, slices: NDArray[Any], points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the HR slice coordinate of points in LR slices.

        Parameters
        ----------
        slices : (n,) ndarray
            LR slice numbers.
        points : (n, 2) ndarray
            Row and column of each.

        Returns
        -------
        (n,) ndarray
            HR slice coordinates.
        """
        mapped: NDArray[np.float64] = apply_affine(self.to_high, np.column_stack([slices, points]))
        return mapped[:, 0]


def matched_slices(
    high: NDArray[Any],
    geometry: PlaneGeometry,
    low_frame: StackFrame,
    high_frame: StackFrame,
    low_window: Window,
    numbers: tuple[int, int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Reslice HR parallel to LR's planes, at LR's resolution.

    Parameters
    ----------
    high : (slice, row, col) ndarray
        All HR slices, scanner units.
    geometry : PlaneGeometry
        The map from LR to HR.
    low_frame, high_frame : StackFrame
        Geometry of both stacks.
    low_window : Window
        LR window whose rows and columns the result takes.
    numbers : tuple of int
        Start and stop of the HR slice numbers: plane *q* crosses HR slice *q* in the middle of the
        window.
    progress : callable, optional
        Called with (planes done, all planes).

    Returns
    -------
    (stop - start, rows, cols) ndarray of float32
        HR's scanner units; 0 where HR was not measured.
    """
    # The slice profile needs planes beyond the ends.
    wide = max(1.0, abs(geometry.slope))
    margin = int(np.ceil(2 * wide)) if wide > 1.01 else 0
    first, last = numbers[0] - margin, numbers[1] + margin
    to_low, (n_rows, n_cols) = _planes(geometry, low_frame, high_frame, low_window, first)
    to_high = geometry.to_high @ to_low
    matrices = []
    for axis, (start, stop) in ((1, low_window.rows), (2, low_window.cols)):
        step = 1 / to_low[axis, axis]
        origin = (start - to_low[axis, 3]) * step
        size = n_rows if axis == 1 else n_cols
        matrices.append(resize_matrix(stop - start, size, start=float(origin), step=float(step)))
    row_matrix, col_matrix = matrices
    images = np.empty((last - first, len(row_matrix), len(col_matrix)), dtype=np.float32)
    for n in range(0, last - first, _CHUNK):
        at = to_high.copy()
        at[:3, 3] += n * at[:3, 0]
        count = min(_CHUNK, last - first - n)
        values, _ = reslice(high, at, (count, n_rows, n_cols))
        images[n : n + count] = row_matrix @ values @ col_matrix.T
        if progress is not None:
            progress(min(last - first, n + count), last - first)
    if margin:
        profile = resize_matrix(
            numbers[1] - numbers[0], last - first, start=margin, step=1.0, blur=wide
        )
        shape = images.shape[1:]
        images = (profile @ images.reshape(len(images), -1)).reshape(-1, *shape)
    return images


def plane(
    high: NDArray[Any],
    geometry: PlaneGeometry,
    low_frame: StackFrame,
    high_frame: StackFrame,
    low_window: Window,
    number: int,
) -> NDArray[np.float32]:
    """Reslice HR along one plane parallel to LR's, at HR's own resolution.

    Parameters
    ----------
    high : (slice, row, col) ndarray
        All HR slices, scanner units.
    geometry : PlaneGeometry
        The map from LR to HR.
    low_frame, high_frame : StackFrame
        Geometry of both stacks.
    low_window : Window
        LR window whose field of view the result takes.
    number : int
        HR slice that the plane crosses in the middle of the window.

    Returns
    -------
    (row, col) ndarray of float32
        HR's scanner units.
    """
    to_low, shape = _planes(geometry, low_frame, high_frame, low_window, number)
    values, _ = reslice(high, geometry.to_high @ to_low, (1, *shape))
    image: NDArray[np.float32] = values[0]
    return image


def on_low_res_planes(
    high: NDArray[Any],
    geometry: PlaneGeometry,
    low_frame: StackFrame,
    high_frame: StackFrame,
) -> NDArray[np.float32]:
    """Reslice all of HR along LR's planes, so that the headers alone relate what comes out.

    Parameters
    ----------
    high : (slice, row, col) ndarray
        All HR slices, scanner units.
    geometry : PlaneGeometry
        The map from LR to HR.
    low_frame, high_frame : StackFrame
        Geometry of both stacks.

    Returns
    -------
    (slice, row, col) ndarray of float32
        Of HR's shape: plane *q* crosses HR slice *q* in the middle of the window, and its pixels
        are where HR's headers put them on LR's.
    """
    in_plane = np.linalg.inv(low_frame.affine) @ high_frame.affine
    middle = (np.array(high_frame.shape) - 1) / 2
    to_low = np.eye(4)
    to_low[0] = 1 / geometry.slope, 0.0, 0.0, -geometry.offset / geometry.slope
    for axis in (1, 2):
        # A tilt between the headers belongs to the map already.
        step = in_plane[axis, axis]
        to_low[axis, axis] = step
        to_low[axis, 3] = apply_affine(in_plane, middle)[axis] - step * middle[axis]
    values, _ = reslice(high, geometry.to_high @ to_low, high_frame.shape)
    return values


def _planes(
    geometry: PlaneGeometry,
    low_frame: StackFrame,
    high_frame: StackFrame,
    low_window: Window,
    first: int,
) -> tuple[Affine, tuple[int, int]]:
    """Grid of planes from HR slice `first` on, to LR index; and its rows and columns."""
    grid, (_, n_rows, n_cols) = aligned_grid(low_frame, high_frame, low_window)
    to_low: Affine = np.linalg.inv(low_frame.affine) @ grid
    to_low[:, 0] = 1 / geometry.slope, 0.0, 0.0, 0.0
    to_low[0, 3] = (first - geometry.offset) / geometry.slope
    return to_low, (n_rows, n_cols)


def like_low_res(
    images: NDArray[np.float32],
    intensity: IntensityMap,
    low_images: LowResStack,
    nearest: NDArray[np.intp],
) -> HighResStack:
    """Give matched slices the intensities that LR has at the same places.

    Parameters
    ----------
    images : (n, row, col) ndarray of float32
        From `matched_slices`, scanner units.
    intensity : IntensityMap
        HR's intensity map.
    low_images : (n_lr, row, col) ndarray of float32
        LR slices in [0, 1].
    nearest : (n_lr,) ndarray of int
        Index into `images` of the plane at each LR slice; negative for none.

    Returns
    -------
    (n, row, col) ndarray of float32
        In [0, 1].
    """
    # Not clipped before the curve is found: bright HR voxels may have darker LR partners.
    span = np.float32(intensity.high - intensity.low)
    scaled: NDArray[np.float32] = (images - np.float32(intensity.low)) / span
    paired = nearest >= 0
    if not paired.any():
        return np.clip(scaled, 0, 1)
    at, mean = matched_intensities(low_images[paired], scaled[nearest[paired]])
    mapped: NDArray[np.float64] = np.interp(scaled, at, mean)
    return np.clip(mapped, 0, 1).astype(np.float32)


def even_gain(
    low_images: LowResStack, high_images: HighResStack, nearest: NDArray[np.intp]
) -> LowResStack:
    """Take the receive coil's uneven sensitivity out of LR, relative to HR.

    Parameters
    ----------
    low_images : (n_lr, row, col) ndarray of float32
        LR slices in [0, 1].
    high_images : (n, row, col) ndarray of float32
        Matched planes in [0, 1].
    nearest : (n_lr,) ndarray of int
        Index of the plane at each LR slice; negative for none.

    Returns
    -------
    (n_lr, row, col) ndarray of float32
        LR divided by the smooth ratio of both, in [0, 1]; unchanged where there is no plane.
    """
    paired = nearest >= 0
    if not paired.any():
        return low_images
    reference = np.zeros_like(low_images)
    reference[paired] = high_images[nearest[paired]]
    shown = (reference > _SHOWN).astype(np.float32)
    sums = [
        ndimage.gaussian_filter(image * shown, _GAIN_SIGMA, truncate=3)
        for image in (low_images, reference)
    ]
    gain = (sums[0] + _SHOWN / 50) / (sums[1] + _SHOWN / 50)
    evened = np.clip(low_images / np.clip(gain, 0.25, 4), 0, 1)
    evened[~paired] = low_images[~paired]
    return np.ascontiguousarray(evened, dtype=np.float32)


def similarity(
    low_images: LowResStack, high_images: HighResStack, nearest: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Correlate LR slices with the planes at their places.

    Parameters
    ----------
    low_images : (n_lr, row, col) ndarray of float32
        LR slices.
    high_images : (n, row, col) ndarray of float32
        Matched planes.
    nearest : (n_lr,) ndarray of int
        Index of the plane at each LR slice; negative for none.

    Returns
    -------
    (n_lr,) ndarray
        Pearson correlation; NaN without a plane, or where an image is constant.
    """
    found = np.full(len(low_images), np.nan)
    for row, index in enumerate(nearest):
        if index >= 0:
            a, b = low_images[row].ravel(), high_images[index].ravel()
            if a.std() > 0 and b.std() > 0:
                found[row] = np.corrcoef(a, b)[0, 1]
    return found


def enlarged(
    images: NDArray[np.float32], low_frame: StackFrame, high_frame: StackFrame
) -> NDArray[np.float32]:
    """Interpolate slices at LR's pixels to HR's pixel spacing.

    Parameters
    ----------
    images : (n, row, col) ndarray of float32
        Slices at LR's pixels.
    low_frame, high_frame : StackFrame
        Geometry of both stacks.

    Returns
    -------
    (n, row, col) ndarray of float32
        The same field of view with HR's pixel spacing; cubic interpolation.
    """
    matrices = []
    for axis in (1, 2):
        ratio = max(1.0, low_frame.spacing[axis] / high_frame.spacing[axis])
        size = round(images.shape[axis] * ratio)
        start = (1 / ratio - 1) / 2
        matrices.append(resize_matrix(size, images.shape[axis], start=start, step=1 / ratio))
    row_matrix, col_matrix = matrices
    sized = np.empty((len(images), len(row_matrix), len(col_matrix)), dtype=np.float32)
    # Slice by slice: at once, what lies in between would be the largest arrays of a whole run.
    for image, larger in zip(images, sized, strict=True):
        np.clip(row_matrix @ image @ col_matrix.T, 0, 1, out=larger)
    return sized

"""From volumes to comparable slices: planes, common field of view, trimming, intensity.

Every slice number in srmri is *untrimmed and 0-based*, counted along a
`StackFrame`. For an anatomical plane it grows towards right, anterior or
superior; for ``acquired`` it is the stored third axis of the LR volume. The HR
stack always follows the LR stack's axes and directions, so that slice numbers
of a pair grow together; `StackFrame.to_voxel` leads back to the stored voxel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srmri_data.choices import Plane
from srmri_data.errors import ResolutionError, TrimError, UsageError
from srmri_data.geometry import PLANE_AXES, apply_affine, closest_axes, voxel_spacing
from srmri_data.intensity import content_box, foreground_threshold, regular_sample
from srmri_data.types import Affine, SliceArray, VoxelArray

MIN_SLICES = 5
"""Fewest slices worth pairing after trimming."""

# A slice whose foreground covers less than this share of the largest slice's
# foreground shows the tip of the animal or nothing: no voter can place it.
_EMPTY_SHARE = 0.05

_INTENSITY_SAMPLE = 4_000_000


@dataclass(frozen=True, eq=False)
class StackFrame:
    """Geometry of a stack of slices cut from a volume, without the voxels.

    Parameters
    ----------
    plane : {"coronal", "axial", "sagittal", "acquired"}
        Anatomical plane of the slices.
    shape : tuple of int
        Number of slices, rows and columns.
    to_voxel : (4, 4) ndarray
        (slice, row, col) index to stored voxel (i, j, k).
    affine : (4, 4) ndarray
        (slice, row, col) index to world RAS mm.
    """

    plane: Plane
    shape: tuple[int, int, int]
    to_voxel: Affine
    affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of slices, rows and columns in mm."""
        return voxel_spacing(self.affine)

    def view(self, data: VoxelArray) -> NDArray[Any]:
        """Return the voxels as (slice, row, col) without copying them.

        Parameters
        ----------
        data : (i, j, k) ndarray
            The volume's voxels in stored order.

        Returns
        -------
        (slice, row, col) ndarray
            A view.
        """
        axes = np.abs(self.to_voxel[:3, :3]).argmax(axis=0)
        view = np.transpose(data, axes)
        flips = tuple(
            slice(None, None, -1 if self.to_voxel[axis, n] < 0 else 1)
            for n, axis in enumerate(axes)
        )
        return view[flips]


def stack_frame(
    affine: Affine,
    shape: tuple[int, int, int],
    plane: Plane,
    *,
    like: StackFrame | None = None,
) -> StackFrame:
    """Choose which voxel axes become slices, rows and columns.

    Parameters
    ----------
    affine : (4, 4) ndarray
        Voxel to world RAS mm, any of the 48 orientations, also oblique.
    shape : tuple of int
        Matrix size (i, j, k).
    plane : {"coronal", "axial", "sagittal", "acquired"}
        Plane of the slices. ``acquired`` keeps the stored order: slices along k,
        rows along j, columns along i.
    like : StackFrame, optional
        Follow this stack's axes and directions instead (the partner volume).

    Returns
    -------
    StackFrame
        Geometry of the stack.

    Examples
    --------
    >>> frame = stack_frame(np.diag([-0.1, 0.1, 0.5, 1.0]), (10, 20, 30), "coronal")
    >>> frame.shape
    (20, 30, 10)
    """
    if like is not None:
        # The partner's axes play the world's part: each of its axes takes the
        # voxel axis that points most nearly along it.
        relative = np.linalg.inv(_unit_axes(like.affine)) @ affine
        world_axis, sign = closest_axes(relative)
        targets: tuple[tuple[int, int], ...] = ((0, 1), (1, 1), (2, 1))
    elif plane == "acquired":
        world_axis, sign = np.arange(3), np.ones(3, dtype=np.intp)
        targets = ((2, 1), (1, 1), (0, 1))
    else:
        world_axis, sign = closest_axes(affine)
        targets = PLANE_AXES[plane]
    to_voxel = np.zeros((4, 4))
    to_voxel[3, 3] = 1
    stack_shape = [0, 0, 0]
    for n, (axis, direction) in enumerate(targets):
        voxel_axis = int(np.flatnonzero(world_axis == axis)[0])
        step = direction * int(sign[voxel_axis])
        to_voxel[voxel_axis, n] = step
        if step < 0:
            to_voxel[voxel_axis, 3] = shape[voxel_axis] - 1
        stack_shape[n] = shape[voxel_axis]
    n_slices, n_rows, n_cols = stack_shape
    return StackFrame(plane, (n_slices, n_rows, n_cols), to_voxel, affine @ to_voxel)


def _unit_axes(affine: Affine) -> Affine:
    """Return the rotation part of an affine, its axes scaled to length one."""
    rotation = np.eye(4)
    rotation[:3, :3] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return rotation


@dataclass(frozen=True)
class Window:
    """A box of a stack, as half-open index ranges of slices, rows and columns.

    Parameters
    ----------
    slices, rows, cols : tuple of int
        Start and stop.
    """

    slices: tuple[int, int]
    rows: tuple[int, int]
    cols: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns in the box."""
        return (
            self.slices[1] - self.slices[0],
            self.rows[1] - self.rows[0],
            self.cols[1] - self.cols[0],
        )

    @property
    def index(self) -> tuple[slice, slice, slice]:
        """The box as a numpy index."""
        return slice(*self.slices), slice(*self.rows), slice(*self.cols)

    @property
    def slice_numbers(self) -> NDArray[np.int32]:
        """Untrimmed 0-based numbers of the slices in the box."""
        return np.arange(*self.slices, dtype=np.int32)


def common_field_of_view(low: StackFrame, high: StackFrame) -> tuple[Window, Window]:
    """Crop two stacks to the field of view they share according to their affines.

    Parameters
    ----------
    low, high : StackFrame
        LR and HR stacks with corresponding axes (`stack_frame` with ``like``).

    Returns
    -------
    low_window, high_window : Window
        Voxels whose centres lie inside the other volume.

    Raises
    ------
    ResolutionError
        If the volumes do not overlap along some axis.
    """
    windows = []
    for frame, other in ((low, high), (high, low)):
        corners = _field_of_view_in(other, frame)
        ranges = []
        for axis, size in enumerate(frame.shape):
            # 1e-3 voxel: two headers may round the same edge differently.
            start = max(0, math.ceil(corners[0, axis] - 1e-3))
            stop = min(size, math.floor(corners[1, axis] + 1e-3) + 1)
            if stop <= start:
                raise ResolutionError(
                    "LR and HR share no field of view along the "
                    f"{('slice', 'row', 'column')[axis]} axis of the {low.plane} plane",
                    hint="check the scans with `srmri inspect`; a wrong position can be set with "
                    "--lr-subject-position or --hr-subject-position",
                )
            ranges.append((start, stop))
        windows.append(Window(*ranges))
    return windows[0], windows[1]


def _field_of_view_in(frame: StackFrame, target: StackFrame) -> NDArray[np.float64]:
    """Return the edges of `frame`'s field of view in index coordinates of `target`."""
    between = np.linalg.inv(target.affine) @ frame.affine
    centre = (np.asarray(frame.shape) - 1) / 2
    middle = apply_affine(between, centre)
    # Edges along corresponding axes only: an oblique box would otherwise grow.
    half = np.abs(np.diag(between)[:3]) * np.asarray(frame.shape) / 2
    return np.stack([middle - half, middle + half])


@dataclass(frozen=True)
class Trim:
    """How much to leave out at each end of a stack.

    Parameters
    ----------
    value : float
        Amount.
    unit : {"slices", "mm"}
        Slices are counted per volume, as in the paper; millimetres remove the
        same anatomy from both.
    """

    value: float
    unit: Literal["slices", "mm"]

    @classmethod
    def parse(cls, text: str) -> Trim:
        """Read ``15``, ``0.375mm`` or ``375um``.

        Parameters
        ----------
        text : str
            As given on the command line.

        Returns
        -------
        Trim
            The amount.

        Raises
        ------
        UsageError
            If it is none of these.

        Examples
        --------
        >>> Trim.parse("375um")
        Trim(value=0.375, unit='mm')
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|um|µm)?\s*", text)
        if match is None or (match[2] is None and "." in match[1]):
            raise UsageError(
                f"--trim {text!r} is neither a number of slices nor a length",
                hint="for instance --trim 15, --trim 0.375mm or --trim 375um",
            )
        number = float(match[1])
        if match[2] is None:
            return cls(number, "slices")
        return cls(number if match[2] == "mm" else number / 1000, "mm")

    def __str__(self) -> str:
        return f"{self.value:g}" if self.unit == "slices" else f"{self.value:g}mm"

    def n_slices(self, spacing: float) -> int:
        """Return the slices to leave out at each end of a stack.

        Parameters
        ----------
        spacing : float
            Slice distance in mm.

        Returns
        -------
        int
            Number of slices.
        """
        return round(self.value if self.unit == "slices" else self.value / spacing)


def trim_window(window: Window, frame: StackFrame, trim: Trim, *, name: str) -> Window:
    """Leave out the first and last slices of a volume.

    Parameters
    ----------
    window : Window
        What is left after cropping to the common field of view.
    frame : StackFrame
        The whole stack; the trim counts from its ends.
    trim : Trim
        How much.
    name : str
        ``LR`` or ``HR``, for the message.

    Returns
    -------
    Window
        The window with fewer slices.

    Raises
    ------
    TrimError
        If fewer than `MIN_SLICES` remain.
    """
    total, cut = frame.shape[0], trim.n_slices(frame.spacing[0])
    start = max(window.slices[0], cut)
    stop = min(window.slices[1], total - cut)
    if stop - start < MIN_SLICES:
        raise TrimError(
            f"trimming {cut} slices from each end leaves {max(0, stop - start)} of {name}'s "
            f"{total} {frame.plane} slices ({window.shape[0]} in the common field of view); "
            f"at least {MIN_SLICES} are needed",
            hint="use --trim 0, a smaller --trim, or another --plane",
        )
    return replace(window, slices=(start, stop))


@dataclass(frozen=True)
class IntensityMap:
    """One affine intensity map per volume: robust range of the foreground to [0, 1].

    Parameters
    ----------
    low, high : float
        Scanner units that map to 0 and 1.
    foreground : float
        Scanner units above which a voxel counts as foreground.
    """

    low: float
    high: float
    foreground: float

    def apply(self, values: ArrayLike) -> NDArray[np.float32]:
        """Map scanner units to [0, 1]; what lies outside is clipped.

        Parameters
        ----------
        values : array_like
            Scanner units.

        Returns
        -------
        ndarray of float32
            For the voters and for display; measurements are never stored this way.
        """
        mapped = np.asarray(values, dtype=np.float32) - np.float32(self.low)
        mapped /= np.float32(self.high - self.low)
        return np.clip(mapped, 0, 1, out=mapped)


def intensity_map(data: VoxelArray) -> IntensityMap:
    """Fit the intensity map of a volume: 0.1 to 99.9 percentile of its foreground.

    Parameters
    ----------
    data : (i, j, k) ndarray
        Scanner units.

    Returns
    -------
    IntensityMap
        The same for every slice of the volume, so that slices do not flicker.

    Raises
    ------
    ResolutionError
        If the volume is constant: there is nothing to compare.
    """
    # A regular sample is deterministic and far below the noise of a percentile.
    sample = regular_sample(data[content_box(data)], _INTENSITY_SAMPLE).astype(np.float32)
    threshold = float(foreground_threshold(sample))
    low, high = (
        np.percentile(sample[sample > threshold], [0.1, 99.9])
        if (sample > threshold).any()
        else (0.0, 0.0)
    )
    if not high > low:
        raise ResolutionError(
            "the volume holds one single intensity; it shows nothing",
            hint="look at the scan with `srmri inspect`",
        )
    return IntensityMap(float(low), float(high), threshold)


def reference_points(
    slices: SliceArray, foreground: float, *, origin: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each slice's reference point and whether the slice is near-empty.

    Parameters
    ----------
    slices : (n, rows, cols) ndarray
        Scanner units.
    foreground : float
        Threshold of the foreground in scanner units.
    origin : tuple of int
        Row and column of the full frame where the slices were cropped.

    Returns
    -------
    points : (n, 2) ndarray
        Row and column of the foreground's centroid, in the full frame; that of
        the whole stack where a slice has no foreground.
    empty : (n,) ndarray of bool
        True where the foreground is less than 5 % of the largest slice's.
    """
    n_slices, n_rows, n_cols = slices.shape
    rows, cols = np.arange(n_rows), np.arange(n_cols)
    sums = np.empty((n_slices, 2))
    area = np.empty(n_slices)
    for n, image in enumerate(slices):
        mask = image > foreground
        area[n] = mask.sum()
        sums[n] = mask.sum(1) @ rows, mask.sum(0) @ cols
    if not area.any():
        points = np.tile([(n_rows - 1) / 2, (n_cols - 1) / 2], (n_slices, 1))
    else:
        # Not the middle of the image, which moves when somebody pads it.
        points = np.where(area[:, None] > 0, sums, sums.sum(axis=0))
        points /= np.where(area > 0, area, area.sum())[:, None]
    return points + np.asarray(origin), area < max(1.0, _EMPTY_SHARE * area.max())


def copied_slices(slices: SliceArray) -> NDArray[np.int64]:
    """Find slices whose voxels are those of another one, which noise never gives.

    Parameters
    ----------
    slices : (n, rows, cols) ndarray
        Any units.

    Returns
    -------
    (n,) ndarray of int
        Index of another slice with equal voxels, -1 without one; slices of one single value
        are not compared.

    Examples
    --------
    >>> stack = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    >>> stack[2] = stack[0]
    >>> copied_slices(stack).tolist()
    [2, -1, 0]
    """
    alike: dict[bytes, list[int]] = {}
    for n, image in enumerate(slices):
        if image.min() < image.max():
            alike.setdefault(sha256(np.ascontiguousarray(image).data).digest(), []).append(n)
    copies = np.full(len(slices), -1)
    for group in alike.values():
        for n in group if len(group) > 1 else ():
            copies[n] = next(other for other in group if other != n)
    return copies


def resize_matrix(
    n_out: int, n_in: int, *, start: float, step: float, blur: float | None = None
) -> NDArray[np.float32]:
    """Return the matrix of a one-dimensional antialiased cubic resize.

    Output sample *m* sits at input position ``start + step * m``. The kernel is
    Keys' cubic with a = -1/2, stretched by `step` when that shrinks the image,
    as MATLAB's ``imresize`` does; rows sum to one and edges are replicated.

    Parameters
    ----------
    n_out, n_in : int
        Number of samples.
    start : float
        Input coordinate of the first output sample.
    step : float
        Input samples per output sample, > 0.
    blur : float, optional
        Input samples that the kernel is stretched to, at least 1, when the resolution wanted
        is not that of the output samples. By default `step`.

    Returns
    -------
    (n_out, n_in) ndarray
        float32.

    References
    ----------
    .. [1] R. Keys, "Cubic convolution interpolation for digital image
       processing", IEEE Trans. ASSP 29 (1981) 1153-1160.

    Examples
    --------
    >>> np.allclose(resize_matrix(4, 4, start=0, step=1), np.eye(4))
    True
    """
    stretch = max(step if blur is None else blur, 1.0)
    reach = math.ceil(2 * stretch)
    positions = start + step * np.arange(n_out)
    taps = np.floor(positions)[:, None] + np.arange(-reach, reach + 2)
    distance = np.abs(positions[:, None] - taps) / stretch
    weights = np.where(
        distance <= 1,
        (1.5 * distance - 2.5) * distance**2 + 1,
        np.where(distance < 2, ((-0.5 * distance + 2.5) * distance - 4) * distance + 2, 0),
    )
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((n_out, n_in))
    rows = np.broadcast_to(np.arange(n_out)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, n_in - 1).astype(np.intp)), weights)
    return matrix.astype(np.float32)


def resize_to_low_res(
    high: NDArray[Any],
    high_frame: StackFrame,
    low_frame: StackFrame,
    low_window: Window,
    high_slices: tuple[int, int],
    intensity: IntensityMap,
) -> Iterator[NDArray[np.float32]]:
    """Bring HR slices to the pixels of the LR window, one after the other.

    The pixel positions come from both affines, so fields of view of different
    size and non-integer voxel ratios line up to a fraction of a pixel.

    Parameters
    ----------
    high : (slice, row, col) ndarray
        All HR slices, scanner units (`StackFrame.view`).
    high_frame, low_frame : StackFrame
        Geometry of both stacks.
    low_window : Window
        LR window whose rows and columns the result takes.
    high_slices : tuple of int
        Start and stop of the HR slices.
    intensity : IntensityMap
        HR's intensity map.

    Yields
    ------
    (rows, cols) ndarray
        float32 in [0, 1], of the LR window's size.
    """
    between = np.linalg.inv(high_frame.affine) @ low_frame.affine
    middle = [
        (start + stop - 1) / 2
        for start, stop in (low_window.slices, low_window.rows, low_window.cols)
    ]
    matrices = []
    for axis, (start, stop) in ((1, low_window.rows), (2, low_window.cols)):
        point = np.array(middle)
        point[axis] = start
        matrices.append(
            resize_matrix(
                stop - start,
                high_frame.shape[axis],
                start=float(apply_affine(between, point)[axis]),
                step=float(between[axis, axis]),
            )
        )
    row_matrix, col_matrix = matrices
    for number in range(*high_slices):
        image = intensity.apply(high[number])
        yield np.clip(row_matrix @ image @ col_matrix.T, 0, 1)

"""Pictures that show whether two scans lie on each other: planes through both, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from srmri_data.geometry import apply_affine
from srmri_data.matched import PlaneGeometry, matched_slices, plane
from srmri_data.register import reslice
from srmri_data.slices import IntensityMap, StackFrame, Window
from srmri_data.types import Affine

# The underscores let images of different sizes stand in one call.
Image = Float32[np.ndarray, "_row _col"]

# World axes (RAS) of rows and columns, and of the direction looked along. Rows run downwards.
_VIEWS = {"Coronal": (2, 0, 1), "Axial": (1, 0, 2), "Sagittal": (2, 1, 0)}
_LONGEST = 400
_BORDER = 0.06
_TILES = 9
# Intensity above which a pixel shows tissue.
_SHOWN = 0.08


@dataclass(frozen=True, eq=False)
class PlaneView:
    """One plane through the middle of the animal, LR against HR.

    Parameters
    ----------
    name : str
        ``Coronal``, ``Axial`` or ``Sagittal``.
    by_headers : (row, col) ndarray
        Checkerboard of LR and of HR placed by the headers, in [0, 1].
    by_registration : (row, col) ndarray or None
        The same with HR placed by the registration; None without one.
    correlation : tuple of float
        Of LR with HR inside the animal, by the headers and by the registration; NaN where
        there is nothing to compare.
    """

    name: str
    by_headers: Image
    by_registration: Image | None
    correlation: tuple[float, float]


def checkerboard(first: Image, second: Image, *, tiles: int = _TILES) -> Image:
    """Alternate square patches of two images of one size.

    Parameters
    ----------
    first, second : (row, col) ndarray
        The images; `first` has the upper left patch.
    tiles : int
        Patches along the longer side.

    Returns
    -------
    (row, col) ndarray
        The patchwork.
    """
    edge = max(1, round(max(first.shape) / tiles))
    row, col = np.indices(first.shape) // edge
    return np.where((row + col) % 2 == 0, first, second).astype(np.float32)


def like(reference: Image, image: Image, shown: NDArray[np.bool_] | None = None) -> Image:
    """Give an image the brightness of another by the best factor, which leaves air dark.

    Parameters
    ----------
    reference, image : (row, col) ndarray
        Images of one size.
    shown : (row, col) ndarray of bool, optional
        Pixels that count.

    Returns
    -------
    (row, col) ndarray
        In [0, 1]; unchanged where nothing is shown.
    """
    factor = _factor(reference, image, np.ones(image.shape, bool) if shown is None else shown)
    return np.clip(factor * image, 0, 1).astype(np.float32)


def _factor(reference: Image, image: Image, shown: NDArray[np.bool_]) -> float:
    x, y = image[shown].astype(np.float64), reference[shown].astype(np.float64)
    power = float(x @ x)
    return float(x @ y) / power if power > 0 and x @ y > 0 else 1.0


def plane_views(
    low: NDArray[Any],
    low_affine: Affine,
    low_intensity: IntensityMap,
    high: NDArray[Any],
    high_affine: Affine,
    high_intensity: IntensityMap,
    matrix: Affine | None,
) -> list[PlaneView]:
    """Cut both scans along three planes through the middle of the animal.

    Parameters
    ----------
    low : (slice, row, col) ndarray
        LR stack, scanner units.
    low_affine : (4, 4) ndarray
        Index to world, RAS mm.
    low_intensity : IntensityMap
        Scanner units to [0, 1].
    high : (slice, row, col) ndarray
        HR stack, scanner units.
    high_affine : (4, 4) ndarray
        Index to world, RAS mm.
    high_intensity : IntensityMap
        Scanner units to [0, 1].
    matrix : (4, 4) ndarray or None
        LR world to HR world, RAS mm; None without a registration.

    Returns
    -------
    list of PlaneView
        Coronal, axial and sagittal; empty if LR shows nothing.
    """
    step = max(1, round((low.size / 2_000_000) ** (1 / 3)))
    found = np.argwhere(low[::step, ::step, ::step] > low_intensity.foreground) * float(step)
    if not len(found):
        return []
    world = apply_affine(low_affine, found)
    start, stop = np.percentile(world, [0.5, 99.5], axis=0)
    border = _BORDER * (stop - start).max()
    start, stop = start - border, stop + border
    middle = world.mean(axis=0)
    finest = min(float(np.linalg.norm(high_affine[:3, axis])) for axis in range(3))
    spacing = max(finest, float((stop - start).max()) / _LONGEST)
    views = []
    for name, (down, across, along) in _VIEWS.items():
        shape = tuple(max(1, int((stop[axis] - start[axis]) / spacing)) for axis in (down, across))
        grid = np.zeros((4, 4))
        grid[3, 3] = 1
        grid[along, 0], grid[down, 1], grid[across, 2] = spacing, -spacing, spacing
        grid[along, 3], grid[down, 3], grid[across, 3] = middle[along], stop[down], start[across]

        def cut(
            stack: NDArray[Any], to_index: Affine, intensity: IntensityMap, grid: Affine = grid,
            shape: tuple[int, ...] = shape,
        ) -> tuple[Image, NDArray[np.bool_]]:  # fmt: skip
            values, valid = reslice(stack, to_index @ grid, (1, shape[0], shape[1]))
            return np.where(valid[0], intensity.apply(values[0]), 0).astype(np.float32), valid[0]

        low_image, low_valid = cut(low, np.linalg.inv(low_affine), low_intensity)
        to_high = np.linalg.inv(high_affine)
        placed = [cut(high, to_high, high_intensity)]
        if matrix is not None:
            placed.append(cut(high, to_high @ matrix, high_intensity))
        # One brightness for both, found where they lie on each other best.
        best, valid = placed[-1]
        factor = _factor(low_image, best, low_valid & valid)
        tissue = low_image[low_image > _SHOWN]
        bright = float(np.percentile(tissue, 99)) if tissue.size else 1.0
        boards, correlations = [], []
        for image, valid in placed:
            board = checkerboard(low_image, factor * image) / bright
            boards.append(np.clip(board, 0, 1).astype(np.float32))
            shown = low_valid & valid & (np.maximum(low_image, image) > _SHOWN)
            varied = shown.sum() > 2 and low_image[shown].std() > 0 and image[shown].std() > 0
            correlations.append(
                float(np.corrcoef(low_image[shown], image[shown])[0, 1]) if varied else np.nan
            )
        views.append(
            PlaneView(
                name,
                boards[0],
                boards[1] if len(boards) > 1 else None,
                (correlations[0], correlations[-1] if len(boards) > 1 else np.nan),
            )
        )
    return views


def partner_images(
    high: NDArray[Any],
    intensity: IntensityMap,
    geometry: PlaneGeometry,
    low_frame: StackFrame,
    high_frame: StackFrame,
    low_window: Window,
    position: float,
) -> tuple[Image, Image]:
    """Cut HR along a plane parallel to LR's, between HR's slices where need be.

    Parameters
    ----------
    high : (slice, row, col) ndarray
        All HR slices, scanner units.
    intensity : IntensityMap
        HR's.
    geometry : PlaneGeometry
        The map from LR to HR.
    low_frame, high_frame : StackFrame
        Geometry of both stacks.
    low_window : Window
        LR window whose field of view the images take.
    position : float
        HR slice coordinate at which the plane crosses the middle of the window.

    Returns
    -------
    sharp, matched : (row, col) ndarray
        At HR's resolution; at LR's resolution and pixels. Both in [0, 1].
    """
    number = round(position)
    # Plane `number` of this geometry lies at `position` of the given one.
    shifted = replace(geometry, offset=geometry.offset - (position - number))
    frames = (low_frame, high_frame, low_window)
    sharp = plane(high, shifted, *frames, number)
    matched = matched_slices(high, shifted, *frames, (number, number + 1))[0]
    return intensity.apply(sharp), intensity.apply(matched)

"""Images of all methods beside each other, with an inset and the error, as the paper shows them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from srmri_data.reports.pictures import colour, grey
from srmri_data.safe_io import atomic_write
from srmri_model.baselines.interpolation import interpolate
from srmri_model.bench.cells import Cell
from srmri_model.bench.results import Results
from srmri_model.bench.tasks import Task

ZOOM = 3
"""The inset shows one part in so many of both axes."""

_MARK = (255, 176, 0)
_GAP = 3
_COLUMNS = 3
_LEAST_LIMIT = 0.05
_DPI = 110

Pixels = NDArray[np.uint8]


class Tile(NamedTuple):
    """One method's image of a slice.

    Attributes
    ----------
    name, label : str
        The method, in options and in tables.
    caption : str
        Its figures.
    pixels : (row, col, 3) ndarray of uint8
        The image with the inset's frame, the inset, and the error.
    """

    name: str
    label: str
    caption: str
    pixels: Pixels


class View(NamedTuple):
    """What is shown of a slice, the same for every method.

    Attributes
    ----------
    box : tuple of slice
        The inset.
    white : float
        Intensity that is shown white.
    limit : float
        Error that is shown at full colour.
    """

    box: tuple[slice, slice]
    white: float
    limit: float


def view_of(task: Task) -> View:
    """Choose the inset: where interpolation is furthest from the truth inside the tissue.

    Parameters
    ----------
    task : Task
        The slice.

    Returns
    -------
    View
        Inset and ranges.
    """
    pair = task.pair
    truth, inside = pair["high_res"], pair["foreground"]
    up = interpolate(
        pair["low_res"], task.high_shape, pair["factor"], "bicubic", grid=task.physics.grid
    )
    error = np.where(inside, np.abs(up - truth), 0)
    sizes = [max(8, n // ZOOM) for n in truth.shape]
    density = ndimage.uniform_filter(error**2, sizes, mode="constant")
    middle = np.unravel_index(int(density.argmax()), density.shape)
    box = []
    for place, size, n in zip(middle, sizes, truth.shape, strict=True):
        start = int(min(max(0, int(place) - size // 2), n - size))
        box.append(slice(start, start + size))
    if not inside.any():
        return View((box[0], box[1]), 1.0, _LEAST_LIMIT)
    white = float(np.percentile(truth[inside], 99))
    limit = float(np.percentile(error[inside], 98))
    return View((box[0], box[1]), max(white, _LEAST_LIMIT), max(limit, _LEAST_LIMIT))


def tile_pixels(image: NDArray[np.floating], task: Task, view: View, *, error: bool) -> Pixels:
    """Draw one method.

    Parameters
    ----------
    image : (row, col) ndarray
        On HR's scale.
    task : Task
        The slice.
    view : View
        Inset and ranges.
    error : bool
        Whether the error is shown, or black in its place: LR and the truth have none.

    Returns
    -------
    (row, col, 3) ndarray of uint8
        Image, inset and error, side by side.
    """
    truth = task.pair["high_res"]
    shades = grey(np.asarray(image, dtype=np.float32) / view.white)
    whole = np.repeat(shades[..., None], 3, axis=2)
    rows, cols = view.box
    inset = whole[view.box].repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    frame = np.zeros(truth.shape, dtype=bool)
    frame[view.box] = True
    frame[rows.start + 1 : rows.stop - 1, cols.start + 1 : cols.stop - 1] = False
    whole[frame] = _MARK
    # Blue is too dark, as in other reports.
    difference = np.asarray(image, dtype=np.float32) - truth
    third = colour(0.5 - difference / (2 * view.limit), "RdBu") if error else np.zeros_like(whole)
    parts = [whole, inset, third]
    height = max(part.shape[0] for part in parts)
    space = np.zeros((height, _GAP, 3), dtype=np.uint8)
    shown: list[Pixels] = []
    for part in parts:
        below = ((0, height - part.shape[0]), (0, 0), (0, 0))
        shown += [np.pad(part, below), space]
    return np.concatenate(shown[:-1], axis=1)


def tiles_of(results: Results, task: Task, names: Sequence[str]) -> list[Tile]:
    """Draw LR, the truth and methods.

    Parameters
    ----------
    results : Results
        What was found.
    task : Task
        The slice.
    names : sequence of str
        Methods; those without an image are left out.

    Returns
    -------
    list of Tile
        LR first, then the truth, then the methods.
    """
    view, pair = view_of(task), task.pair
    rows, cols = (
        np.minimum((np.arange(n) / f).astype(int), m - 1)
        for n, f, m in zip(task.high_shape, pair["factor"], pair["low_res"].shape, strict=True)
    )
    low = pair["low_res"][np.ix_(rows, cols)]
    tiles = [
        Tile("lr", "LR", "as measured", tile_pixels(low, task, view, error=False)),
        Tile("hr", "HR", "the truth", tile_pixels(pair["high_res"], task, view, error=False)),
    ]
    for name in names:
        cell = results.cell_of(name, task)
        if cell is not None:
            pixels = tile_pixels(cell.image, task, view, error=True)
            tiles.append(Tile(name, results.named[name].label, caption_of(cell), pixels))
    return tiles


def caption_of(cell: Cell) -> str:
    """Show a slice's own figures.

    Parameters
    ----------
    cell : Cell
        A method on it.

    Returns
    -------
    str
        PSNR and LPIPS in the foreground.
    """
    (score,) = (s for s in cell.scores if (s.mask, s.registered) == ("foreground", "no"))
    return f"{score.psnr:.2f} dB, LPIPS {score.lpips:.3f}"


def shown_tasks(results: Results) -> list[Task]:
    """Choose the slice to show of every subject: the middle one.

    Parameters
    ----------
    results : Results
        What was found.

    Returns
    -------
    list of Task
        One per subject.
    """
    by_subject: dict[str, list[Task]] = {}
    for task in results.tasks:
        by_subject.setdefault(task.pair["subject"], []).append(task)
    return [tasks[len(tasks) // 2] for tasks in by_subject.values()]


def write_panels(results: Results, folder: Path) -> list[Path]:
    """Write a picture per table and subject.

    Parameters
    ----------
    results : Results
        What was found.
    folder : Path
        Where to.

    Returns
    -------
    list of Path
        PNG files.
    """
    written = []
    for task in shown_tasks(results):
        subject = re.sub(r"[^A-Za-z0-9-]", "_", task.pair["subject"])
        for key, table in results.config.tables.items():
            tiles = tiles_of(results, task, table.methods)
            path = folder / f"table{key}-{subject}.png"
            with atomic_write(path) as file:
                file.write(_panel(tiles, f"{table.title}: {task.pair['subject']}"))
            written.append(path)
    return written


def _panel(tiles: Sequence[Tile], title: str) -> bytes:
    """Lay tiles out on white, with their names above."""
    from matplotlib.figure import Figure

    lines = -(-len(tiles) // _COLUMNS)
    height, width = (max(tile.pixels.shape[axis] for tile in tiles) for axis in (0, 1))
    across, down = 13.0, 0.0
    inches = across / _COLUMNS * height / width
    down = lines * (inches + 0.35) + 0.5
    figure = Figure(figsize=(across, down), facecolor="white")
    figure.suptitle(title, x=0.01, y=1 - 0.1 / down, ha="left", va="top", weight="bold", size=13)
    for n, tile in enumerate(tiles):
        row, column = divmod(n, _COLUMNS)
        top = 1 - (0.5 + row * (inches + 0.35) + 0.3) / down
        axes = figure.add_axes(
            (column / _COLUMNS + 0.006, top - inches / down, 1 / _COLUMNS - 0.012, inches / down)
        )
        axes.imshow(tile.pixels, interpolation="nearest", aspect="equal")
        axes.set_anchor("NW")
        axes.set_axis_off()
        axes.set_title(f"{tile.label}  ·  {tile.caption}", loc="left", size=10, pad=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()

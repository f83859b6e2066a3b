"""Which pairs a person should look at, and their pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from srmri_data.reports.planes import Image, checkerboard, like
from srmri_data.reports.series import PairFloats, PairSeries, ReportInputs

Rows = Int64[np.ndarray, " chosen"]

_CONTRAST = 1.5
"""Grey levels of a difference picture per unit of intensity."""

_EDGES = (560, 480, 400, 320, 240, 160)
"""Longest side of a picture in pixels: the first that fits the byte budget is used."""


@dataclass(frozen=True, eq=False)
class Tile:
    """One pair to look at.

    Parameters
    ----------
    row : int
        Row of the pair table.
    why : str
        Why this pair is shown.
    low_res, high_res : (rows, cols) ndarray
        The two slices in [0, 1]; `high_res` is None when no partner was chosen.
    checker, difference : (rows, cols) ndarray or None
        Patches of LR and HR in turn, and LR minus HR about mid-grey, both at LR's pixels.
    """

    row: int
    why: str
    low_res: Image
    high_res: Image | None
    checker: Image | None = None
    difference: Image | None = None

    @property
    def images(self) -> list[Image]:
        """All pictures there are, LR first."""
        found = (self.low_res, self.high_res, self.checker, self.difference)
        return [image for image in found if image is not None]


@dataclass(frozen=True, eq=False)
class TileGroup:
    """Tiles shown under one heading.

    Parameters
    ----------
    name : str
        Short name, also part of the file name.
    title, note : str
        Heading, and how the pairs were picked.
    tiles : sequence of Tile
        The pairs.
    """

    name: str
    title: str
    note: str
    tiles: Sequence[Tile]


def tile_groups(inputs: ReportInputs, series: PairSeries, *, count: int = 6) -> list[TileGroup]:
    """Pick random, worst and disagreeing pairs.

    Parameters
    ----------
    inputs : ReportInputs
        The run; only the slices that are shown are asked for.
    series : PairSeries
        The same run as arrays.
    count : int
        Pairs per group, at most.

    Returns
    -------
    list of TileGroup
        Groups that have at least one pair. A pair among the worst is not
        repeated among the disagreeing; the random ones are a fair sample of all.
    """
    usable = np.flatnonzero(~series.empty)
    generator = np.random.default_rng(inputs.seed)
    random = np.sort(generator.permutation(usable)[:count])
    worst = _worst(series, usable, count)
    disagreeing = _disagreeing(series, usable, count, shown=set(worst))
    shown = [
        TileGroup(
            "random",
            "Random pairs",
            "A fair sample of all slices: this is what a typical pair looks like.",
            _tiles(inputs, series, {int(row): "random" for row in random}),
        ),
        TileGroup(
            "worst",
            "Worst pairs",
            "The lowest confidence, and the votes farthest from the rest of the run."
            if series.by_registration
            else "The smallest margins between best and next candidate, and the positions "
            "farthest from the rest of the run.",
            _tiles(inputs, series, worst),
        ),
        TileGroup(
            "disagreeing",
            "Pairs the voters disagree on",
            "The widest spread of votes among the slices that are not shown above.",
            _tiles(inputs, series, disagreeing),
        ),
    ]
    return [group for group in shown if group.tiles]


def png_images(images: Sequence[Image], *, max_bytes: int) -> list[bytes]:
    """Encode pictures as 8-bit grey PNG, small enough to travel together.

    Parameters
    ----------
    images : sequence of (rows, cols) ndarray
        Intensities in [0, 1]; all are shown with this one window.
    max_bytes : int
        Largest total size. Large pictures are reduced step by step to fit; the
        smallest step is used even if it does not.

    Returns
    -------
    list of bytes
        PNG files.
    """
    encoded: list[bytes] = []
    for edge in _EDGES:
        encoded = [_png(image, edge) for image in images]
        if sum(map(len, encoded)) <= max_bytes:
            break
    return encoded


def _worst(series: PairSeries, usable: Rows, count: int) -> dict[int, str]:
    residual = series.residual_um(series.judged)
    if np.isfinite(residual[usable]).any():
        residual = residual - np.nanmedian(residual[usable])
    # A margin near zero is no fault where positions come from the geometry: neighbours tie there.
    doubt, word = (
        (series.confidence, "low confidence") if series.by_registration
        else (series.margin, "small margin")
    )  # fmt: skip
    by_doubt = _ordered(doubt, usable)
    by_residual = _ordered(-np.abs(residual), usable)
    # A residual of less than one HR slice is the rounding of the vote, not a finding.
    by_residual = by_residual[np.abs(residual[by_residual]) > series.high_res_um]
    chosen: dict[int, str] = {}
    for rank in range(max(len(by_doubt), len(by_residual), 0)):
        if rank < len(by_doubt):
            row = int(by_doubt[rank])
            chosen.setdefault(row, f"{word}, {doubt[row]:.3g}")
        if rank < len(by_residual):
            row = int(by_residual[rank])
            chosen.setdefault(row, f"{abs(residual[row]):.0f} µm from the run's median offset")
        if len(chosen) >= count:
            break
    return dict(list(chosen.items())[:count])


def _disagreeing(
    series: PairSeries, usable: Rows, count: int, *, shown: set[int]
) -> dict[int, str]:
    split = usable[series.spread[usable] > 0]
    rows = [int(row) for row in _ordered(-series.spread, split) if int(row) not in shown]
    reasons = {}
    for row in rows[:count]:
        apart = round(series.spread[row])
        reasons[row] = f"votes {apart} HR slice{'' if apart == 1 else 's'} apart"
    return reasons


def _ordered(values: PairFloats, rows: Rows) -> Int64[np.ndarray, " kept"]:
    """Rows by ascending value, those without a value left out."""
    finite: Rows = rows[np.isfinite(values[rows])]
    ordered: Rows = finite[np.argsort(values[finite], kind="stable")]
    return ordered


def _tiles(inputs: ReportInputs, series: PairSeries, rows: dict[int, str]) -> list[Tile]:
    tiles = []
    for row, why in rows.items():
        low_res = inputs.low_res[row]
        if not np.isfinite(series.high_res_slice[row]):
            tiles.append(Tile(row, why, low_res, None))
            continue
        high_res, matched = inputs.partner(row)
        matched = like(low_res, matched)
        difference = np.clip(0.5 + _CONTRAST * (low_res - matched), 0, 1).astype(np.float32)
        tiles.append(Tile(row, why, low_res, high_res, checkerboard(low_res, matched), difference))
    return tiles


def _png(image: Image, edge: int) -> bytes:
    import PIL.Image

    picture = PIL.Image.fromarray(np.nan_to_num(image).astype(np.float32))
    longest = max(picture.size)
    if longest > edge:
        width, height = (max(1, round(side * edge / longest)) for side in picture.size)
        picture = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
    grey = np.rint(np.clip(np.asarray(picture), 0.0, 1.0) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(grey).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

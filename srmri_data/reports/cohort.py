"""The page of a cohort: how far it is, what is unusual, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from srmri_data.reports.figures import PALETTE, Chart, Palette, svg
from srmri_data.reports.html import render
from srmri_data.safe_io import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE, _NARROW = 1000, 380
_STRIP_HEIGHT = 96
_MAX_LABELS = 3
_MISSING = "\u2013"
_WORDS = {
    "done": "Paired",
    "failed": "Failed",
    "running": "Running",
    "interrupted": "Interrupted",
    "waiting": "Not started",
}


class KeyFigure(NamedTuple):
    """One number that is compared between subjects.

    Attributes
    ----------
    label, unit : str
        For people.
    scale : float
        Factor from the value in ``cohort.tsv`` to `unit`.
    digits : int
        Digits behind the point.
    least : float
        Smallest deviation from the median that is worth a mark, in the units of
        ``cohort.tsv``.
    """

    label: str
    unit: str
    scale: float
    digits: int
    least: float


def write_cohort_page(
    out: Path, document: Mapping[str, Any], figures: Mapping[str, KeyFigure]
) -> Path:
    """Write ``index.html`` of a cohort.

    Parameters
    ----------
    out : Path
        Folder of the cohort; runs are linked relative to it.
    document : mapping
        ``cohort.json``.
    figures : mapping of str to KeyFigure
        How its figures are shown, in their order.

    Returns
    -------
    Path
        The page: one file that needs no other and no network.
    """
    from markupsafe import Markup

    units = document["units"]
    shown = [name for name in figures if any(row[name] is not None for row in units)]
    chart = strips(units, {name: figures[name] for name in shown})
    drawings: list[Markup] = []
    if chart is not None:
        # The drawing is ours; the names in it are letters, digits, hyphens and underscores.
        drawings = [Markup(svg(chart, width)) for width in chart.widths]  # noqa: S704
    rows = [_table_row(row, shown, figures) for row in units]
    page = render(
        "cohort.html.j2",
        {
            "palette": PALETTE,
            "name": out.absolute().name,
            "counts": document["counts"],
            "origin": document["origin"],
            "version": document["srmri"],
            "problems": document["problems"],
            "failed": [row for row in units if row["state"] == "failed"],
            "open_ended": [row for row in units if row["state"] not in ("done", "failed")],
            "waiting_for_review": [row for row in units if row["queued"]],
            "outliers": [_outlier(row, figures) for row in units if row["outlier_in"]],
            "columns": [(figures[n].label, figures[n].unit) for n in shown],
            "rows": rows,
            "words": _WORDS,
            "chart": chart,
            "drawings": drawings,
        },
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def strips(units: Sequence[Mapping[str, Any]], figures: Mapping[str, KeyFigure]) -> Chart | None:
    """Draw every key figure of all units side by side.

    Parameters
    ----------
    units : sequence of mapping
        Rows of ``cohort.json``.
    figures : mapping of str to KeyFigure
        What to draw.

    Returns
    -------
    Chart or None
        One strip per figure; None when fewer than two units have figures.
    """
    drawn = {
        name: figure
        for name, figure in figures.items()
        if sum(row[name] is not None for row in units) > 1
    }
    if not drawn:
        return None
    marked = ", ".join(row["unit"] for row in units if row["outlier_in"])
    return Chart(
        "strips",
        "One strip per key figure with a dot for every subject and a line at the median. "
        + (f"Outliers: {marked}." if marked else "No outliers."),
        partial(_draw_strips, units, drawn),
        (_WIDE, _NARROW),
    )


def _draw_strips(
    units: Sequence[Mapping[str, Any]],
    figures: Mapping[str, KeyFigure],
    palette: Palette,
    width: int,
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = 1 if width < _WIDE else 2
    down = -(-len(figures) // across)
    figure = Figure(
        figsize=(width / 72, down * _STRIP_HEIGHT / 72),
        layout=ConstrainedLayoutEngine(w_pad=8 / 72, h_pad=5 / 72),
    )
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, shown) in zip(grid, figures.items(), strict=False):
        _draw_strip(axes, units, name, shown, palette)
    for axes in grid[len(figures) :]:
        axes.set_axis_off()
    return figure


def _draw_strip(
    axes: Axes,
    units: Sequence[Mapping[str, Any]],
    name: str,
    shown: KeyFigure,
    palette: Palette,
) -> None:
    rows = [row for row in units if row[name] is not None]
    values = np.array([float(row[name]) for row in rows]) * shown.scale
    outlying = np.array([name in row["outlier_in"] for row in rows])
    # Golden-ratio steps keep dots of equal value apart, the same way every time.
    height = (np.arange(len(rows)) * 0.618034) % 1 - 0.5
    middle = float(np.median(values))
    axes.axvline(middle, color=palette["band"], lw=3)
    axes.plot(
        values[~outlying], height[~outlying], color=palette["accept"], ls="none", marker="o",
        ms=7, mew=0, alpha=0.75,
    )  # fmt: skip
    axes.plot(
        values[outlying], height[outlying], color=palette["review"], ls="none", marker="D",
        ms=7.5, mew=0,
    )  # fmt: skip
    lowest, highest = float(values.min()), float(values.max())
    # Differences too small to matter are not blown up.
    room = max(0.08 * (highest - lowest), shown.least * shown.scale)
    axes.set_xlim(lowest - room, highest + room)
    axes.set_ylim(-1.0, 1.15)
    far = sorted(np.flatnonzero(outlying), key=lambda i: -abs(values[i] - middle))
    for index in far[:_MAX_LABELS]:
        right = values[index] > (lowest + highest) / 2
        axes.annotate(
            _short(rows[index]["unit"]), (values[index], height[index]),
            (-7 if right else 7, 7), textcoords="offset points", size=11,
            ha="right" if right else "left", color=palette["review"], annotation_clip=False,
        )  # fmt: skip
    unit = f", {shown.unit}" if shown.unit else ""
    axes.set_title(f"{shown.label}{unit}", pad=3)
    axes.set_title(f"median {_number(middle, shown.digits)}", loc="right", pad=3,
                   color=palette["muted"], weight="normal", size=11.5)  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)


def _table_row(
    row: Mapping[str, Any], names: Sequence[str], figures: Mapping[str, KeyFigure]
) -> dict[str, Any]:
    cells = []
    for name in names:
        value = row[name]
        text = _MISSING
        if value is not None:
            text = _number(float(value) * figures[name].scale, figures[name].digits)
        cells.append((text, name in row["outlier_in"]))
    return {**row, "cells": cells}


def _outlier(row: Mapping[str, Any], figures: Mapping[str, KeyFigure]) -> dict[str, Any]:
    facts = []
    for name in row["outlier_in"]:
        shown = figures[name]
        value = _number(float(row[name]) * shown.scale, shown.digits)
        facts.append(f"{shown.label.lower()} {value} {shown.unit}".strip())
    return {**row, "facts": ", ".join(facts)}


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "\u2212")

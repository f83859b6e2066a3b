"""Charts of the tables: quality against evaluations, subjects one by one, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from srmri_data.reports.figures import Chart, Palette, new_figure
from srmri_model.bench.cells import Cell
from srmri_model.bench.methods import Family
from srmri_model.bench.plan import FAST_STEPS, PAPER_SHARES
from srmri_model.bench.results import Results
from srmri_model.bench.summary import Quality, Row, over_subjects

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE, _NARROW = 1000, 380
_LINE = 22
_TICKS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_SHADES: Mapping[Family, str] = {
    "interpolation": "muted",
    "unsupervised": "accept",
    "supervised": "review",
    "ceiling": "truth",
}
_TITLES: Mapping[Quality, str] = {
    "psnr": "PSNR, dB",
    "lpips": "LPIPS (lower is better)",
}
_MARKS: Mapping[str, tuple[str, str]] = {
    "score-sde": ("Score-SDE", "P"),
    "dps": ("DPS", "^"),
    "mcg": ("MCG", "v"),
    "ddnm": ("DDNM", "X"),
    "diffpir": ("DiffPIR", "*"),
}


class Point(NamedTuple):
    """A method in the plane of cost and quality.

    Attributes
    ----------
    evaluations : float
        Forward and backward.
    value : float
        Mean over subjects.
    """

    evaluations: float
    value: float


def charts_of(results: Results) -> list[Chart]:
    """Build the charts there are data for.

    Parameters
    ----------
    results : Results
        What was found.

    Returns
    -------
    list of Chart
        Quality against evaluations, subjects, calibration.
    """
    charts = []
    curves = {name: points for name in _TITLES if (points := _points(results, name))}
    if curves:
        charts.append(
            Chart(
                "evaluations",
                "PSNR and LPIPS in the foreground of samplers against how often they evaluate the "
                "score model.",
                partial(_draw_evaluations, curves),
                (_WIDE, _NARROW),
            )
        )
    rows = {row.name: row for key in ("1", "2") for row in results.rows.get(key, ()) if row.slices}
    ordered = sorted(rows.values(), key=lambda row: list(_SHADES).index(row.family))
    if rows:
        charts.append(
            Chart(
                "subjects",
                "PSNR and LPIPS in the foreground of every method, a dot per subject, with mean "
                "and standard deviation: interpolations, unsupervised and supervised methods, and "
                "the ceiling last.",
                partial(_draw_subjects, ordered),
                (_WIDE, _NARROW),
            )
        )
    spread = [cell for cell in results.cells.get("fast-mean", ()) if cell.spread]
    if spread:
        charts.append(
            Chart(
                "calibration",
                "Error of the mean of draws against their standard deviation, bins of equally "
                "many pixels; the diagonal is perfect calibration.",
                partial(_draw_calibration, spread),
                (_WIDE // 2, _NARROW),
            )
        )
    return charts


def _points(results: Results, quality: Quality) -> dict[str, list[Point]]:
    """Points of every sampler that was computed, by evaluations."""
    lines = {
        "fast": ["fast", *(f"fast-n{steps}" for steps in FAST_STEPS)],
        "paper": ["paper-k2", *(f"paper-k2-n/{share}" for share in PAPER_SHARES)],
        **{name: [name] for name in _MARKS},
    }
    found = {}
    for line, names in lines.items():
        points = [_point(results.cells[name], quality) for name in names if name in results.cells]
        kept = sorted(point for point in points if math.isfinite(point.value))
        if kept:
            found[line] = kept
    return found


def _point(cells: Sequence[Cell], quality: Quality) -> Point:
    values = [
        (cell.subject, float(getattr(score, quality)))
        for cell in cells
        for score in cell.scores
        if (score.mask, score.registered) == ("foreground", "no")
    ]
    spent = float(np.mean([cell.nfe + cell.nbe for cell in cells]))
    return Point(spent, over_subjects(values).mean)


def _panels(width: int, height: int) -> tuple[Figure, Sequence[Axes]]:
    """Two panels side by side, or one above the other where there is no room."""
    if width < _WIDE:
        figure = new_figure(width, 2 * height)
        return figure, list(figure.subplots(2, 1))
    figure = new_figure(width, height)
    return figure, list(figure.subplots(1, 2))


def _draw_evaluations(
    curves: Mapping[Quality, Mapping[str, Sequence[Point]]], palette: Palette, width: int
) -> Figure:
    figure, panels = _panels(width, 380)
    for axes, (quality, lines) in zip(panels, curves.items(), strict=False):
        for name, points in lines.items():
            spent, values = zip(*points, strict=True)
            if name in _MARKS:
                label, mark = _MARKS[name]
                axes.plot(
                    spent, values, ls="", marker=mark, ms=8, mew=0, color=palette["muted"],
                    label=label,
                )  # fmt: skip
            else:
                shade = palette["accept" if name == "fast" else "review"]
                label, mark = ("srmri fast", "o") if name == "fast" else ("SRMRI, k = 2", "s")
                axes.plot(spent, values, color=shade, lw=2, marker=mark, ms=6, label=label)
        axes.set_xscale("log")
        every = [point.evaluations for points in lines.values() for point in points]
        ticks = [tick for tick in _TICKS if min(every) / 1.3 <= tick <= 1.3 * max(every)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(_TITLES[quality])
        axes.set_xlabel("evaluations, forward + backward")
        axes.margins(x=0.08, y=0.1)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2 if width < _WIDE else len(labels)
    )
    return figure


def _draw_subjects(rows: Sequence[Row], palette: Palette, width: int) -> Figure:
    figure, panels = _panels(width, _LINE * len(rows) + 70)
    places = np.arange(len(rows))[::-1]
    for axes, quality in zip(panels, _TITLES, strict=True):
        for place, row in zip(places, rows, strict=True):
            spread, shade = row.of(quality), palette[_SHADES[row.family]]
            dots = [value for value in spread.by_subject.values() if math.isfinite(value)]
            if not dots:
                continue
            axes.plot(dots, [place] * len(dots), ls="", marker="o", ms=5, mew=0, alpha=0.55,
                      color=shade)  # fmt: skip
            if math.isfinite(spread.mean):
                error = None if math.isnan(spread.sd) else spread.sd
                axes.errorbar(spread.mean, place, xerr=error, color=shade, marker="|", ms=13,
                              mew=2.2, lw=1.4)  # fmt: skip
        axes.set_title(_TITLES[quality])
        axes.set_yticks(places, [row.label for row in rows])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
    if width >= _WIDE:
        panels[1].tick_params(labelleft=False)
    return figure


def _draw_calibration(cells: Sequence[Cell], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 360)
    axes = figure.subplots()
    subjects = list(dict.fromkeys(cell.subject for cell in cells))
    largest = 0.0
    for subject in subjects:
        mine = [cell.spread for cell in cells if cell.subject == subject]
        bins = min(len(found["std"]) for found in mine)
        std, error = (
            np.sqrt(np.mean([np.square(found[name][:bins]) for found in mine], axis=0))
            for name in ("std", "error")
        )
        largest = max(largest, float(std.max()), float(error.max()))
        axes.plot(std, error, color=palette["accept"], lw=1.6, marker="o", ms=4, alpha=0.75,
                  label="a subject" if subject == subjects[0] else None)  # fmt: skip
    axes.plot([0, largest], [0, largest], color=palette["review"], ls="--", lw=1.5, label="equal")
    axes.set_title("Spread of draws and error of their mean")
    axes.set_xlabel("standard deviation, [0, 1] scale")
    axes.set_ylabel("root mean square error")
    axes.legend(loc="upper left")
    axes.locator_params(nbins=6)
    return figure

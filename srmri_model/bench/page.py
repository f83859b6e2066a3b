"""The page of the tables: one file, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srmri_data.reports.figures import PALETTE, svg
from srmri_data.reports.html import render
from srmri_data.reports.pictures import data_uri
from srmri_data.safe_io import write_text
from srmri_model.bench.charts import charts_of
from srmri_model.bench.panels import ZOOM, shown_tasks, tiles_of
from srmri_model.bench.plan import TABLES
from srmri_model.bench.results import Results
from srmri_model.bench.summary import QUALITIES, Row, best_of
from srmri_model.bench.tables import (
    LEGEND,
    WAYS,
    cost_text,
    difference_text,
    number,
    paper_text,
    seconds_text,
    spread_text,
)

_GALLERIES = 2
"""Subjects whose images are on the page; those of the others are files beside it."""


def write_page(results: Results, out: Path) -> Path:
    """Draw the page.

    Parameters
    ----------
    results : Results
        What was found.
    out : Path
        Folder of the results.

    Returns
    -------
    Path
        One file that needs no other and no network.
    """
    from markupsafe import Markup

    page = render(
        "tables.html.j2",
        {
            "palette": PALETTE,
            "verdict": _verdict(results),
            "smoke": results.config.smoke,
            "tiles": _tiles(results),
            "tables": [_table(key, rows) for key, rows in results.rows.items() if rows],
            "ways": [name for name, _, _ in WAYS],
            # The drawings are ours and hold no text from outside.
            "charts": [
                (chart, [Markup(svg(chart, width)) for width in chart.widths])  # noqa: S704
                for chart in charts_of(results)
            ],
            "coverage": _coverage(results),
            "galleries": _galleries(results),
            "zoom": ZOOM,
            "failures": [
                (results.named[name].label, reason) for name, reason in results.failures.items()
            ],
            "conditions": results.conditions,
            "legend": LEGEND,
        },
        package="srmri_model.bench",
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _verdict(results: Results) -> str:
    subjects = len({task.pair["subject"] for task in results.tasks})
    numbers = ((len(results.tasks), "slice"), (subjects, "subject"))
    slices, of = (f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in numbers)
    return f"{len(results.cells)} methods on {slices} of {of}"


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    """Name the best method by each measure, and what a repeat reaches."""
    rows = {row.name: row for found in results.rows.values() for row in found}
    tiles = []
    for quality in QUALITIES:
        best = best_of(list(rows.values()), quality)
        if best is not None:
            tiles.append(
                (
                    f"Best {quality.upper()}",
                    spread_text(best.of(quality), quality).split(" ")[0],
                    best.label,
                )
            )
    if "hr-repeat" in rows:
        repeat = rows["hr-repeat"].of("psnr")
        tiles.append(
            ("HR repeat", spread_text(repeat, "psnr").split(" ")[0], "PSNR of a second HR scan")
        )
    tiles.append(("Failed", str(len(results.failures)), "methods with missing cells"))
    return tiles


def _table(key: str, rows: Sequence[Row]) -> dict[str, Any]:
    best = {quality: best_of(rows, quality) for quality in QUALITIES}
    return {
        "key": key,
        "title": TABLES[key].title,
        "note": TABLES[key].note,
        "rows": [
            {
                "label": row.label,
                "family": row.family,
                "failure": row.failure,
                "quality": [
                    (spread_text(row.of(quality), quality), best[quality] is row)
                    for quality in QUALITIES
                ],
                "chi2": number(row.chi2, 2),
                "cost": cost_text(row),
                "seconds": seconds_text(row.seconds),
                "memory": number(row.peak_mb),
                "differences": [difference_text(row, quality) for quality in ("psnr", "lpips")],
                "paper": paper_text(row.paper),
                "ways": [
                    " / ".join(
                        spread_text(row.of(quality, mask, registered), quality)
                        for quality in QUALITIES
                    )
                    for _, mask, registered in WAYS
                ],
            }
            for row in rows
        ],
        "rivals": _rivals(rows),
    }


def _rivals(rows: Sequence[Row]) -> str:
    """Say whom the differences are to."""
    best = {quality: best_of(rows, quality) for quality in ("psnr", "lpips")}
    named = [f"{quality.upper()}: {row.label}" for quality, row in best.items() if row is not None]
    return "; ".join(named)


def _coverage(results: Results) -> list[tuple[str, ...]]:
    """Coverage of the 90 % interval, by subject."""
    found: dict[str, list[dict[str, Any]]] = {}
    for cell in results.cells.get("fast-mean", ()):
        if cell.spread:
            found.setdefault(cell.subject, []).append(cell.spread)
    return [
        (subject, *(_mean(spreads, name) for name in ("coverage", "scaled", "draws")))
        for subject, spreads in found.items()
    ]


def _mean(spreads: Sequence[dict[str, Any]], name: str) -> str:
    value = math.fsum(spread[name] for spread in spreads) / len(spreads)
    return f"{value:.0f}" if name == "draws" else f"{value:.3f}"


def _galleries(results: Results) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(n for table in TABLES.values() for n in table.methods))
    return [
        {
            "title": f"{task.pair['subject']}, slice {task.pair['slice_index']}",
            "tiles": [
                (tile.label, tile.caption, data_uri(tile.pixels), *tile.pixels.shape[1::-1])
                for tile in tiles_of(results, task, names)
            ],
        }
        for task in shown_tasks(results)[:_GALLERIES]
    ]

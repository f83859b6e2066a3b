"""The page: collects what a reader decides by, and writes it with its pictures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srmri_data import safe_io
from srmri_data.reports.figures import PALETTE, Chart, mosaic_png, png, run_charts, svg
from srmri_data.reports.html import render
from srmri_data.reports.methods import methods
from srmri_data.reports.mosaic import TileGroup, png_images, tile_groups
from srmri_data.reports.series import (
    VOTERS,
    PairSeries,
    ReportInputs,
    agreement,
    agreement_figures,
    error_table,
    pair_series,
    voter_bias,
)
from srmri_data.reports.what_if import what_if, windows

_PAGE_BYTES = 8_000_000
"""Size the page is kept below, so that it can be mailed and opens at once."""

_TEMPLATE = "index.html.j2"
_MISSING = "\u2013"
_TABLE_COLUMNS: Mapping[str, tuple[str, int]] = {
    "lr_slice": ("LR slice", 0),
    "hr_slice": ("HR slice", 0),
    "hr_position": ("HR position", 2),
    "offset_um": ("Offset, µm", 1),
    "vote_pca": ("PCA", 0),
    "vote_lpips": ("LPIPS", 0),
    "vote_ssim": ("SSIM", 0),
    "n_votes": ("Votes", 0),
    "spread": ("Spread", 1),
    "margin": ("Margin", 3),
    "confidence": ("Confidence", 3),
    "geom_position": ("Registration", 2),
    "position_error": ("± slices", 2),
    "similarity": ("Similarity", 2),
    "path_slice": ("Path", 0),
    "truth_position": ("Truth", 2),
    "error_slices": ("Error, slices", 2),
    "status": ("Status", 0),
    "reason": ("Reason", 0),
}
"""Columns of the pair table: heading, and digits behind the point."""

_SETTINGS = {
    "method": "Method",
    "plane": "Plane",
    "trim": "Trimmed at each end",
    "voters": "Voters",
    "voxel_ratio": "Voxel ratio LR : HR",
    "geometry": "HR slice by geometry",
    "config": "Registration",
    "seconds": "Time taken",
}
_UNITS = {"mm": " mm", "um": " µm"}
"""Endings of names in the summary that are units."""


class Key(NamedTuple):
    """One key figure.

    Attributes
    ----------
    label : str
        What it is.
    value : str
        How much.
    note : str
        What it is out of.
    tone : str
        ``review`` to draw attention, or empty.
    """

    label: str
    value: str
    note: str
    tone: str = ""


def write_report(run_dir: Path, inputs: ReportInputs) -> Path:
    """Write the figures of a run and its page.

    The same inputs give the same bytes. Every file appears whole, the page last.

    Parameters
    ----------
    run_dir : Path
        Folder of the run; ``figures/*.png`` and ``index.html`` go into it.
    inputs : ReportInputs
        What the run found.

    Returns
    -------
    Path
        ``run_dir/index.html``: one file that needs no other and no network.

    Raises
    ------
    OSError
        If the folder can not be written.
    """
    run_dir = Path(run_dir)
    series = pair_series(inputs)
    charts = _charts(inputs, series)
    groups = tile_groups(inputs, series)
    page = render(_TEMPLATE, _context(inputs, series, charts, groups, name=run_dir.name))
    for chart in charts.values():
        _write_bytes(run_dir / "figures" / f"{chart.name}.png", png(chart))
    for group in groups:
        picture = mosaic_png(group, series, pixel_aspect=inputs.pixel_aspect)
        _write_bytes(run_dir / "figures" / f"mosaic_{group.name}.png", picture)
    safe_io.write_text(run_dir / "index.html", page)
    return run_dir / "index.html"


def render_page(inputs: ReportInputs, *, name: str) -> str:
    """Build the page of a run without writing anything.

    Parameters
    ----------
    inputs : ReportInputs
        What the run found.
    name : str
        Name of the run where the summary gives none.

    Returns
    -------
    str
        A complete HTML document.
    """
    series = pair_series(inputs)
    groups = tile_groups(inputs, series)
    return render(_TEMPLATE, _context(inputs, series, _charts(inputs, series), groups, name=name))


def _charts(inputs: ReportInputs, series: PairSeries) -> dict[str, Chart]:
    return run_charts(
        series,
        inputs.votes,
        voted_offset_um=_voted_offset_um(inputs),
        reliability=(inputs.certificate or {}).get("reliability") or (),
    )


def _write_bytes(path: Path, content: bytes) -> None:
    with safe_io.atomic_write(path) as file:
        file.write(content)


def _context(
    inputs: ReportInputs,
    series: PairSeries,
    charts: Mapping[str, Chart],
    groups: Sequence[TileGroup],
    *,
    name: str,
) -> dict[str, Any]:
    from markupsafe import Markup

    summary = inputs.summary
    checks = sorted(summary.get("checks") or [], key=lambda check: check.get("level") == "ok")
    run = str(summary.get("run") or name)
    columns = [
        name for name in _TABLE_COLUMNS if name in inputs.pairs and inputs.pairs[name].notna().any()
    ]
    # The drawings are ours and hold no text from outside: the only markup that is not escaped.
    drawings = {
        name: [Markup(svg(chart, width)) for width in chart.widths]  # noqa: S704
        for name, chart in charts.items()
    }
    rows = _table(inputs, columns)
    # base64 makes four bytes of three; every cell of the table comes with its tags.
    room = _PAGE_BYTES - sum(len(text) for texts in drawings.values() for text in texts)
    room -= sum(len(cell) + 12 for row in rows for cell in row)
    planes = _plane_views(inputs)
    room -= sum(len(text) for view in planes for text in (view["before"], view["after"]))
    rejected = int((inputs.pairs["status"] == "rejected").sum())
    return {
        "palette": PALETTE,
        "run": run,
        "paired": int(series.paired.sum()),
        "waiting": int(series.review.sum()),
        "waiting_empty": int((series.review & series.empty).sum()),
        "rejected": rejected,
        "left_out": len(series.paired) - int((series.paired | series.review).sum()) - rejected,
        "total": len(series.paired),
        "subtitle": _subtitle(summary),
        "keys": _keys(summary, series),
        "checks": checks,
        "warnings": sum(check.get("level") != "ok" for check in checks),
        "charts": {name: (charts[name], drawings[name]) for name in charts},
        "residual_note": _residual_note(series),
        "objections": list((summary.get("registration") or {}).get("objections") or ()),
        "registration": _registration(summary, series),
        "by_registration": series.by_registration,
        "registered": series.registered,
        "reference": series.reference,
        "planes": planes,
        "figures": _agreement_rows(inputs, series),
        "bias": [
            (
                row.voter,
                str(row.slices),
                _signed(row.mean_um, 0),
                _number(row.sd_um, 0),
                _percent(row.within),
            )
            for row in voter_bias(series)
        ],
        "tolerance": f"{series.tolerance:g}",
        "tolerance_um": f"{series.tolerance * series.high_res_um:.4g}",
        "what_if": _what_if(inputs, series),
        "certificate": _certificate(inputs),
        "methods": methods(inputs, series),
        "errors": error_table(series) if series.has_truth else [],
        "wrongly_accepted": summary.get("wrongly_accepted"),
        "reviewers": _reviewers(summary),
        "groups": _tile_views(inputs, series, groups, max_bytes=room * 3 // 4),
        "settings": _settings(summary),
        "scans": _scans(summary),
        "versions": _flat(summary.get("versions") or {}),
        "command": _plain(summary["command"]) if summary.get("command") else "",
        "columns": [(name, _TABLE_COLUMNS[name][0]) for name in columns],
        "rows": rows,
    }


def _subtitle(summary: Mapping[str, Any]) -> str:
    parts = []
    if summary.get("method"):
        parts.append(f"Method {summary['method']}")
    if summary.get("plane"):
        parts.append(f"{summary['plane']} slices")
    if summary.get("voters"):
        parts.append("voters " + ", ".join(VOTERS.get(v, str(v)) for v in summary["voters"]))
    return " · ".join(parts)


def _keys(summary: Mapping[str, Any], series: PairSeries) -> list[Key]:
    judged = ~series.empty
    keys = []
    registration = summary.get("registration") or {}
    if series.registered and registration.get("shift_um"):
        turn = max(map(abs, registration["angles_deg"]))
        shift = float(np.linalg.norm(registration["shift_um"]))
        keys.append(
            Key("Animal moved", f"{shift:.0f} µm", f"and turned {turn:.1f}° between the scans")
        )
    levels = agreement(series)
    if levels and judged.any():
        # Counted here, not taken from the summary: the chart leaves near-empty slices out too.
        close = int(np.sum(series.spread[judged] <= 1))
        best = "Voters confirm" if series.by_registration else "Unanimous"
        for label, count in ((best, levels[0][1]), ("Votes within 1", close)):
            share = _percent(count / int(judged.sum()))
            keys.append(Key(label, str(count), f"{share} of slices with signal"))
    residual = series.residual_um(series.judged)[
        judged if series.by_registration else series.paired
    ]
    residual = residual[np.isfinite(residual)]
    if residual.size and series.by_registration:
        middle = float(np.median(residual))
        within = np.percentile(np.abs(residual), 90)
        keys.append(
            Key(
                "Votes off by",
                f"{_signed(middle, 0)} µm",
                f"in the median; 90\u00a0% within ± {within:.0f} µm of the {series.reference}",
            )
        )
    elif residual.size:
        middle = float(np.median(residual))
        within = np.percentile(np.abs(residual - middle), 90)
        keys.append(
            Key(
                "Median offset",
                f"{_signed(middle, 0)} µm",
                f"to geometry; 90\u00a0% within ± {within:.0f} µm",
            )
        )
    if summary.get("exact") is not None:
        keys.append(Key("Exact", _percent(summary["exact"]), "within ½ HR slice of the truth"))
    if summary.get("mae_um") is not None:
        note = "mean error"
        if summary.get("p95_slices") is not None:
            note += f"; 95\u00a0% within {summary['p95_slices']:.2g} slices"
        keys.append(Key("Error", f"{summary['mae_um']:.0f} µm", note))
    if summary.get("wrongly_accepted") is not None:
        wrong = summary["wrongly_accepted"]
        keys.append(
            Key(
                "Wrongly accepted",
                str(wrong) if isinstance(wrong, int) else _percent(wrong),
                "accepted, but off by more than 1 slice",
                tone="review" if wrong else "",
            )
        )
    return keys


def _reviewers(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the figures of each reviewer as text; a dash where there is nothing to count."""

    def share(row: Mapping[str, Any], name: str, count: str) -> str:
        return "–" if row[name] is None else f"{_percent(row[name])} of {row[count]}"

    return [
        {
            "name": str(row["reviewer"]),
            "answered": str(row["answered"]) + (f", {row['bulk']} together" if row["bulk"] else ""),
            "seconds": "–" if row["seconds"] is None else _number(row["seconds"], 1),
            "exact": share(row, "exact", "catch_trials"),
            "error": "–" if row["mean_error_um"] is None else _number(row["mean_error_um"], 0),
            "same_again": share(row, "same_again", "repeats"),
            "agreement": share(row, "agreement", "shared"),
            "within_1": share(row, "within_1", "shared"),
        }
        for row in (summary.get("review") or {}).get("reviewers") or []
    ]


def _registration(summary: Mapping[str, Any], series: PairSeries) -> list[tuple[str, str]]:
    """Facts of the registration as label and text."""
    found = summary.get("registration") or {}
    if not series.registered or not found.get("n_starts"):
        return []

    def three(values: Sequence[float], digits: int, unit: str) -> str:
        axes = zip(("right", "anterior", "superior"), values, strict=True)
        return ", ".join(f"{axis} {_signed(value, digits)}{unit}" for axis, value in axes)

    rows = [
        ("Shift", three(found["shift_um"], 0, " µm")),
        ("Rotation about", three(found["angles_deg"], 2, "°")),
        ("Metric", str(found["metric"]).replace("-", " ")),
        (
            "Correlation",
            f"{found['score']:.3f} of the locally normalised images; "
            f"noise alone would leave {found['ceiling']:.3f}",
        ),
        (
            "Starts",
            f"{found['n_agreeing']} of {found['n_starts']} agree, "
            f"within {found['spread_um']:.0f} µm of each other",
        ),
        ("Animal inside HR", _percent(found["overlap"])),
        (
            "Scale",
            ", ".join(f"{_signed(100 * (value - 1), 2)}\u00a0%" for value in found["scale"])
            + (" (followed)" if found["is_scaled"] else " (within the error; not followed)"),
        ),
    ]
    error = series.position_error[~series.empty]
    error = error[np.isfinite(error)]
    if error.size:
        rows.append(
            (
                "Standard error",
                f"{np.median(error) * series.high_res_um:.1f} µm of a position in the median, "
                f"{error.max() * series.high_res_um:.1f} µm at most",
            )
        )
    return rows


def _plane_views(inputs: ReportInputs) -> list[dict[str, Any]]:
    views = []
    for view in inputs.planes:
        boards = [view.by_headers]
        if view.by_registration is not None:
            boards.append(view.by_registration)
        before, *after = (_data_uri(image) for image in png_images(boards, max_bytes=600_000))
        views.append(
            {
                "name": view.name,
                "before": before,
                "after": after[0] if after else "",
                "aspect": f"{view.by_headers.shape[1]} / {view.by_headers.shape[0]}",
                "correlation": [_number(value, 2) for value in view.correlation],
            }
        )
    return views


def _agreement_rows(inputs: ReportInputs, series: PairSeries) -> list[tuple[str, str, str]]:
    """Figures of agreement: name, value, and what it does not say."""
    candidates = inputs.votes["hr_slice"].nunique() if len(inputs.votes) else 0
    found = agreement_figures(series, n_candidates=int(candidates))
    if found is None:
        return []
    return [
        (
            "Unanimous",
            _percent(found.unanimous),
            "All name the same slice. A half-slice tie splits voters that are all right.",
        ),
        (
            "Within 1 slice",
            _percent(found.within_1),
            "Largest minus smallest vote. Says nothing about a shift that all voters share.",
        ),
        (
            "Spread",
            f"{found.median_spread_um:.0f} µm",
            f"In the median; 95\u00a0% of slices within {found.p95_spread_um:.0f} µm.",
        ),
        (
            "Gwet\u2019s AC1",
            _number(found.ac1, 3),
            f"Equal picks beyond chance. With {candidates} slices to choose from chance is "
            "next to nothing, so this is nearly the share of equal picks; a neighbour counts "
            "as wrong as any slice.",
        ),
        (
            "Fleiss\u2019 kappa",
            _number(found.kappa, 3),
            "Shown because it is asked for. On slice numbers it misleads both ways: near 1 for "
            "votes that are wrong together, low for perfect pairs with ties.",
        ),
    ]


def _what_if(inputs: ReportInputs, series: PairSeries) -> dict[str, Any] | None:
    rows = what_if(inputs, series)
    if not rows:
        return None
    across = windows(rows)
    cells = {(row.tolerance, row.window): row for row in rows}
    skip = (inputs.summary.get("config") or {}).get("skip") or ()
    return {
        "windows": [None if w is None else f"± {w} HR slices" for w in across],
        "truth": series.has_truth,
        "path": "path" not in skip,
        "rows": [
            {
                "tolerance": f"{tolerance:g}",
                "um": f"{tolerance * series.high_res_um:.4g}",
                "current": tolerance == (series.tolerance if series.by_registration else 0),
                "cells": [
                    None
                    if (cell := cells.get((tolerance, w))) is None
                    else (str(cell.queued), "" if cell.wrong is None else str(cell.wrong))
                    for w in across
                ],
            }
            for tolerance in dict.fromkeys(row.tolerance for row in rows)
        ],
    }


def _certificate(inputs: ReportInputs) -> dict[str, Any] | None:
    """Return the certificate as text; what it lacks is a dash."""
    found = inputs.certificate
    if not found:
        return None

    def value(case: Mapping[str, Any], name: str, digits: int | None = None) -> str:
        given = case.get(name)
        if given is None:
            return _MISSING
        return _plain(given) if digits is None else _number(float(given), digits)

    def share(case: Mapping[str, Any], name: str) -> str:
        return _MISSING if case.get(name) is None else f"{100 * float(case[name]):.1f}\u00a0%"

    columns = (
        "Case", "Runs", "Slices", "Accepted", "Exact", "Mean, µm", "95 % within, µm", "> 3 off",
        "Wrongly accepted",
    )  # fmt: skip
    facts = []
    if found.get("ece") is not None:
        facts.append(("Expected calibration error", share(found, "ece")))
    if found.get("noise_sigma") is not None:
        facts.append(("Noise", f"σ = {_plain(found['noise_sigma'])}, estimated from this LR scan"))
    if found.get("motion"):
        facts.append(("Motion", _plain(found["motion"]).replace("_", " ")))
    return {
        "columns": columns,
        "rows": [
            (
                str(case.get("title") or case.get("name") or _MISSING),
                value(case, "n_runs"),
                value(case, "n_slices"),
                share(case, "accepted"),
                share(case, "exact"),
                value(case, "mae_um", 1),
                value(case, "p95_um", 1),
                value(case, "blunders"),
                value(case, "wrongly_accepted"),
            )
            for case in found.get("cases") or ()
        ],
        "facts": facts,
    }


def _residual_note(series: PairSeries) -> str:
    chosen = ~series.empty if series.by_registration else series.paired
    slices, residual = series.low_res_slice[chosen], series.residual_um(series.judged)[chosen]
    kept = np.isfinite(residual)
    if kept.sum() < 3:
        return ""
    lower, middle, upper = np.percentile(residual[kept], [5, 50, 95])
    text = (
        f"{'The middle votes' if series.by_registration else 'Accepted positions'} lie "
        f"{_signed(middle, 0)} µm from the {series.reference} in the median, "
        f"90\u00a0% of them between {_signed(lower, 0)} and {_signed(upper, 0)} µm"
    )
    slope = float(np.polyfit(slices[kept], residual[kept], 1)[0])
    return f"{text}; a straight line through them drifts by {_signed(slope, 2)} µm per slice."


def _tile_views(
    inputs: ReportInputs, series: PairSeries, groups: Sequence[TileGroup], *, max_bytes: int
) -> list[dict[str, Any]]:
    tiles = [tile for group in groups for tile in group.tiles]
    pictures = [image for tile in tiles for image in tile.images]
    encoded = iter([_data_uri(image) for image in png_images(pictures, max_bytes=max_bytes)])
    reasons = inputs.pairs["reason"].tolist() if "reason" in inputs.pairs else []
    views = []
    for group in groups:
        shown = []
        for tile in group.tiles:
            row = tile.row
            rows, cols = tile.low_res.shape
            shown.append(
                {
                    "why": tile.why,
                    "low_res": next(encoded),
                    "high_res": next(encoded) if tile.high_res is not None else None,
                    "checker": next(encoded) if tile.checker is not None else None,
                    "difference": next(encoded) if tile.difference is not None else None,
                    "aspect": f"{cols} / {rows * inputs.pixel_aspect:.4g}",
                    "lr_slice": _number(series.low_res_slice[row], 0),
                    "hr_slice": _number(series.high_res_slice[row], 0),
                    "position": _number(series.position[row], 2),
                    "offset": _signed(series.residual_um(series.judged)[row], 0),
                    "confidence": _number(series.confidence[row], 3),
                    "margin": _number(series.margin[row], 3),
                    "votes": [
                        (VOTERS[name], _number(vote[row], 0)) for name, vote in series.votes.items()
                    ],
                    "error": _signed((series.position - series.truth)[row], 1),
                    "paired": bool(series.paired[row]),
                    "reason": _plain(reasons[row]) if reasons else "",
                }
            )
        views.append({"group": group, "tiles": shown})
    return views


def _table(inputs: ReportInputs, columns: Sequence[str]) -> list[list[str]]:
    cells = [
        [
            _number(float(value), _TABLE_COLUMNS[name][1])
            if isinstance(value, int | float)
            else _plain(value)
            for value in inputs.pairs[name].tolist()
        ]
        for name in columns
    ]
    return [list(row) for row in zip(*cells, strict=True)]


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, label in _SETTINGS.items():
        value = summary.get(name)
        if value is None:
            continue
        if name == "geometry":
            value = _line(value)
        elif name == "config":
            if summary.get("method") != "geometry":
                continue
            value = _config(value)
        elif name == "voters":
            value = ", ".join(VOTERS.get(v, str(v)) for v in value)
        elif name == "voxel_ratio" and isinstance(value, list | tuple):
            value = " \u00d7 ".join(_plain(entry) for entry in value)
        elif name == "seconds":
            minutes, seconds = divmod(float(value), 60)
            value = f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
        rows.append((label, _plain(value)))
    return rows


def _config(config: Mapping[str, Any]) -> str:
    """Say the settings of ``--method geometry`` in words."""
    names = {
        "tolerance": "tolerance {:g} HR slices",
        "window_mm": "window {:g} mm",
        "metric": "metric {}",
        "n_starts": "{} starts",
        "seed": "seed {}",
    }
    parts = [
        text.format(config[name]) for name, text in names.items() if config.get(name) is not None
    ]
    if config.get("skip"):
        parts.append("without " + ", ".join(map(str, config["skip"])))
    return ", ".join(parts)


def _line(geometry: Mapping[str, Any]) -> str:
    slope, offset = geometry.get("slope"), geometry.get("offset")
    if slope is None or offset is None:
        return _MISSING
    sign = "\u2212" if offset < 0 else "+"
    text = f"{slope:.5g} · LR slice {sign} {abs(offset):.4g}"
    voted = geometry.get("voted_offset")
    return text if voted is None else f"{text} (by the votes {_signed(voted, 2)})"


def _voted_offset_um(inputs: ReportInputs) -> float | None:
    geometry = inputs.summary.get("geometry") or {}
    voted, offset = geometry.get("voted_offset"), geometry.get("offset")
    if voted is None or offset is None:
        return None
    return (float(voted) - float(offset)) * inputs.slice_spacing_um[1]


def _scans(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Facts of the two scans side by side, in the order they are first named."""
    low_res, high_res = summary.get("lr") or {}, summary.get("hr") or {}

    def fact(name: str, value: Any) -> str:
        if name == "window":
            return ", ".join(
                f"{axis} {start}\u2013{stop - 1}" for axis, (start, stop) in value.items()
            )
        if isinstance(value, list | tuple):
            value = " \u00d7 ".join(_plain(entry) for entry in value)
        return _plain(value) + _UNITS.get(name.rpartition("_")[2], "")

    rows = []
    for name in dict.fromkeys([*low_res, *high_res]):
        # A matrix says nothing to a reader; it is in summary.json.
        if name == "to_voxel":
            continue
        stem, _, unit = name.rpartition("_")
        label = (stem if unit in _UNITS else name).replace("_", " ").capitalize()
        low, high = (
            _MISSING if scan.get(name) is None else fact(name, scan[name])
            for scan in (low_res, high_res)
        )
        rows.append((label, low, high))
    return rows


def _flat(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _plain(value)) for name, value in table.items()]


def _plain(value: Any) -> str:
    """Say any JSON value in plain words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else _MISSING
    # pandas' missing value is neither None nor a float, and has no truth value.
    return _MISSING if value is None or str(value) in {"<NA>", "nan", ""} else str(value)


def _number(value: float, digits: int) -> str:
    if not np.isfinite(value):
        return _MISSING
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _signed(value: float, digits: int) -> str:
    if not np.isfinite(value):
        return _MISSING
    rounded = round(float(value), digits) + 0.0
    sign = "+" if rounded > 0 else "\u2212" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")

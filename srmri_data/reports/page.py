"""The page: collects what a reader decides by, and writes it with its pictures."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srmri_data import safe_io
from srmri_data.reports.figures import PALETTE, Chart, mosaic_png, png, run_charts, svg
from srmri_data.reports.mosaic import TileGroup, png_images, tile_groups
from srmri_data.reports.series import (
    VOTERS,
    PairSeries,
    ReportInputs,
    error_table,
    pair_series,
)

_MISSING = "\u2013"
_TABLE_COLUMNS = {
    "lr_slice": "LR slice",
    "hr_slice": "HR slice",
    "hr_position": "HR position",
    "offset_um": "Offset, µm",
    "vote_pca": "PCA",
    "vote_lpips": "LPIPS",
    "vote_ssim": "SSIM",
    "n_votes": "Votes",
    "spread": "Spread",
    "margin": "Margin",
    "confidence": "Confidence",
    "truth_position": "Truth",
    "error_slices": "Error, slices",
    "status": "Status",
    "reason": "Reason",
}
_SETTINGS = {
    "method": "Method",
    "plane": "Plane",
    "trim": "Trimmed at each end",
    "voters": "Voters",
    "voxel_ratio": "Voxel ratio LR : HR",
    "geometry": "HR slice by geometry",
    "seconds": "Time taken",
}
_SCAN_UNITS = {"spacing": "mm", "spacing_mm": "", "fov": "mm"}


class Key(NamedTuple):
    """One key figure: what it is, its value, and what it is out of."""

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
    charts = run_charts(series, inputs.votes, estimated_offset_um=_estimated_offset_um(inputs))
    groups = tile_groups(inputs, series)
    page = _render(_context(run_dir, inputs, series, charts, groups))
    for chart in charts.values():
        _write_bytes(run_dir / "figures" / f"{chart.name}.png", png(chart))
    for group in groups:
        picture = mosaic_png(group, series, pixel_aspect=inputs.pixel_aspect)
        _write_bytes(run_dir / "figures" / f"mosaic_{group.name}.png", picture)
    safe_io.write_text(run_dir / "index.html", page)
    return run_dir / "index.html"


def _write_bytes(path: Path, content: bytes) -> None:
    with safe_io.atomic_write(path) as file:
        file.write(content)


def _render(context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("srmri_data.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(context)


def _context(
    run_dir: Path,
    inputs: ReportInputs,
    series: PairSeries,
    charts: Mapping[str, Chart],
    groups: Sequence[TileGroup],
) -> dict[str, Any]:
    from markupsafe import Markup

    summary = inputs.summary
    checks = sorted(summary.get("checks") or [], key=lambda check: check.get("level") == "ok")
    run = str(summary.get("run") or run_dir.name)
    # The drawings are ours and hold no text from outside: the only markup that is not escaped.
    drawings = {
        name: [Markup(svg(chart, width)) for width in chart.widths]  # noqa: S704
        for name, chart in charts.items()
    }
    return {
        "palette": PALETTE,
        "run": run,
        "review_command": f"srmri review {shlex.quote(run)}",
        "paired": int(series.paired.sum()),
        "waiting": int(series.review.sum()),
        "left_out": len(series.paired) - int((series.paired | series.review).sum()),
        "total": len(series.paired),
        "subtitle": _subtitle(summary),
        "keys": _keys(summary, series),
        "checks": checks,
        "warnings": sum(check.get("level") != "ok" for check in checks),
        "charts": {name: (charts[name], drawings[name]) for name in charts},
        "spacing_um": inputs.slice_spacing_um,
        "residual_note": _residual_note(series),
        "errors": error_table(series) if series.has_truth else [],
        "wrongly_accepted": summary.get("wrongly_accepted"),
        "groups": _tile_views(inputs, series, groups),
        "voters": list(series.votes),
        "voter_labels": VOTERS,
        "settings": _settings(summary),
        "scans": _scans(summary),
        "versions": _flat(summary.get("versions") or {}),
        "command": _plain(summary["command"]) if summary.get("command") else "",
        "columns": [c for c in _TABLE_COLUMNS if c in inputs.pairs],
        "column_labels": _TABLE_COLUMNS,
        "rows": _table(inputs),
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
    judged = int((~series.empty).sum())
    keys = []
    for name, label in (("unanimous", "Unanimous"), ("within_1", "Votes within 1 slice")):
        if summary.get(name) is not None and len(series.votes) > 1:
            count = int(summary[name])
            share = f"{_percent(count / judged)} of slices with signal" if judged else ""
            keys.append(Key(label, str(count), share))
    residual = series.residual_um(series.position)[series.paired]
    residual = residual[np.isfinite(residual)]
    if residual.size:
        middle = float(np.median(residual))
        keys.append(
            Key(
                "Median offset",
                f"{_signed(middle, 0)} µm",
                f"to geometry; 90\u00a0% within ± {np.percentile(np.abs(residual - middle), 90):.0f} µm",
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


def _residual_note(series: PairSeries) -> str:
    slices = series.low_res_slice[series.paired]
    residual = series.residual_um(series.position)[series.paired]
    kept = np.isfinite(residual)
    if kept.sum() < 3:
        return ""
    lower, middle, upper = np.percentile(residual[kept], [5, 50, 95])
    text = (
        f"Accepted positions lie {_signed(middle, 0)} µm from geometry in the median, "
        f"90\u00a0% of them between {_signed(lower, 0)} and {_signed(upper, 0)} µm"
    )
    slope = float(np.polyfit(slices[kept], residual[kept], 1)[0])
    return f"{text}; a straight line through them drifts by {_signed(slope, 2)} µm per slice."


def _tile_views(
    inputs: ReportInputs, series: PairSeries, groups: Sequence[TileGroup]
) -> list[dict[str, Any]]:
    tiles = [tile for group in groups for tile in group.tiles]
    pictures = [p for tile in tiles for p in (tile.low_res, tile.high_res) if p is not None]
    encoded = iter([_data_uri(image) for image in png_images(pictures)])
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
                    "aspect": f"{cols} / {rows * inputs.pixel_aspect:.4g}",
                    "lr_slice": _number(series.low_res_slice[row], 0),
                    "hr_slice": _number(series.high_res_slice[row], 0),
                    "offset": _signed(series.residual_um(series.position)[row], 0),
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


def _table(inputs: ReportInputs) -> list[list[str]]:
    columns = [
        [_cell(value) for value in inputs.pairs[name].tolist()]
        for name in _TABLE_COLUMNS
        if name in inputs.pairs
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if np.isfinite(value) and value == round(value):
            return _number(value, 0)
        return _number(value, 3)
    return _plain(value)


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, label in _SETTINGS.items():
        value = summary.get(name)
        if value is None:
            continue
        if name == "geometry":
            value = _line(value)
        elif name == "voters":
            value = ", ".join(VOTERS.get(v, str(v)) for v in value)
        elif name == "seconds":
            minutes, seconds = divmod(float(value), 60)
            value = f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"
        rows.append((label, _plain(value)))
    return rows


def _line(geometry: Mapping[str, Any]) -> str:
    slope, offset = geometry.get("slope"), geometry.get("offset")
    if slope is None or offset is None:
        return _MISSING
    sign = "\u2212" if offset < 0 else "+"
    text = f"{slope:.5g} · LR slice {sign} {abs(offset):.4g}"
    estimated = geometry.get("estimated_offset")
    return text if estimated is None else f"{text} (by the votes {_signed(estimated, 2)})"


def _estimated_offset_um(inputs: ReportInputs) -> float | None:
    geometry = inputs.summary.get("geometry") or {}
    estimated, offset = geometry.get("estimated_offset"), geometry.get("offset")
    if estimated is None or offset is None:
        return None
    return (float(estimated) - float(offset)) * inputs.slice_spacing_um[1]


def _scans(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Facts of the two scans side by side, in the order they are first named."""
    low_res, high_res = summary.get("lr") or {}, summary.get("hr") or {}

    def fact(scan: Mapping[str, Any], name: str) -> str:
        if scan.get(name) is None:
            return _MISSING
        value, unit = scan[name], _SCAN_UNITS.get(name, "")
        if isinstance(value, list | tuple) and value and name != "path":
            value = " × ".join(_plain(v) for v in value)
        return f"{_plain(value)} {unit}".strip()

    return [
        (name.replace("_", " ").capitalize(), fact(low_res, name), fact(high_res, name))
        for name in dict.fromkeys([*low_res, *high_res])
    ]


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

"""Charts of a run, each drawn once for the page (SVG, themed) and once for slides (PNG).

matplotlib draws with placeholder colours; in the SVG they become CSS variables,
so that one picture follows the reader's light or dark setting.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from srmri_data.reports.mosaic import TileGroup
from srmri_data.reports.series import (
    EXACT_SLICES,
    VOTERS,
    PairFloats,
    PairSeries,
    agreement,
    distance_maps,
    pairwise_agreement,
    score_maps,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Colour(NamedTuple):
    """One colour in both modes.

    Attributes
    ----------
    light, dark : str
        ``#rrggbb``.
    """

    light: str
    dark: str


PALETTE: Mapping[str, Colour] = {
    "paper": Colour("#ffffff", "#1b2026"),
    "ink": Colour("#1d232a", "#e4e8ec"),
    "muted": Colour("#56606b", "#a3adb8"),
    "grid": Colour("#e3e7eb", "#323a43"),
    "band": Colour("#c9d3de", "#4a5663"),
    "accept": Colour("#2f5d8c", "#7fb2e5"),
    "review": Colour("#b45f06", "#f0a840"),
    "truth": Colour("#117733", "#5fd38d"),
    "pca": Colour("#0072b2", "#2585f4"),
    "lpips": Colour("#d55e00", "#f46d34"),
    "ssim": Colour("#882255", "#fcc5dc"),
}
"""Chart colours. The voters' stay apart (CIELAB distance above 25) under protan, deutan and
tritan vision; every voter also has a marker of its own."""

# Nested marks: where voters agree, the small one lies inside the large one and all are seen.
_MARKS: Mapping[str, Mapping[str, Any]] = {
    "pca": {"marker": "o", "ms": 8.5, "mfc": "none", "mew": 1.2},
    "lpips": {"marker": "^", "ms": 6.0, "mew": 0},
    "ssim": {"marker": "s", "ms": 3.8, "mew": 0},
}
_PLACEHOLDERS = {name: f"#fe01{i:02x}" for i, name in enumerate(PALETTE)}
_LIGHT = {name: colour.light for name, colour in PALETTE.items()}

_MARK = "#ffb000"
"""What is drawn on a map, whatever the page's colours."""

_HALF, _WIDE, _NARROW = 500, 1000, 380

Palette = Mapping[str, str]


@dataclass(frozen=True)
class Chart:
    """A chart that can be drawn in any palette and at several widths.

    Parameters
    ----------
    name : str
        File name stem, and prefix of all ids in the SVG.
    alt : str
        What the chart shows, in a sentence, for those who can not see it.
    draw : callable
        ``draw(palette, width) -> Figure``, width in points.
    widths : tuple of int
        Widths the page needs: one, or a wide and a narrow one.
    """

    name: str
    alt: str
    draw: Callable[[Palette, int], Figure]
    widths: tuple[int, ...]


def run_charts(
    series: PairSeries,
    votes: pd.DataFrame,
    *,
    voted_offset_um: float | None = None,
    reliability: Sequence[Mapping[str, float]] = (),
) -> dict[str, Chart]:
    """Build the charts a run has data for.

    Parameters
    ----------
    series : PairSeries
        The run.
    votes : DataFrame
        Columns ``lr_slice, hr_slice, voter, distance``.
    voted_offset_um : float, optional
        Offset the votes ask for beyond the geometry, in µm.
    reliability : sequence of mapping
        ``confidence``, ``share_right`` and ``n`` per bin, from the certificate.

    Returns
    -------
    mapping of str to Chart
        By name: ``correspondence``, and where there is something to draw
        ``scores`` or ``distances``, ``agreement``, ``confidence``, ``margins``, ``errors`` and
        ``reliability``.
    """
    charts = [
        Chart(
            "correspondence",
            "Top: HR position against LR slice, with the votes of each voter and the line by the "
            f"{series.reference}. Bottom: the same as a distance from that line in micrometres.",
            partial(_draw_correspondence, series, voted_offset_um),
            (_WIDE, _NARROW),
        )
    ]
    if agreement(series):
        counts = ", ".join(f"{label.lower()} {count}" for label, count in agreement(series))
        charts.append(
            Chart(
                "agreement",
                f"Bars of how many slices the voters agree on: {counts}; and for every two "
                "voters the share of equal and of neighbouring picks.",
                partial(_draw_agreement, series),
                (_HALF, _NARROW),
            )
        )
    if np.isfinite(series.confidence[~series.empty]).any():
        charts.append(
            Chart(
                "confidence",
                "Histogram of the confidence, accepted slices and slices that wait for review "
                "apart.",
                partial(_draw_confidence, series),
                (_HALF, _NARROW),
            )
        )
    if np.isfinite(series.margin[~series.empty]).any():
        charts.append(
            Chart(
                "margins",
                "Histogram of the margin between best and next candidate, accepted slices and "
                "slices that wait for review apart.",
                partial(_draw_margins, series),
                (_HALF, _NARROW),
            )
        )
    scores = score_maps(votes, series) if series.by_registration else {}
    maps = {} if series.by_registration else distance_maps(votes, series)
    if scores:
        charts.append(
            Chart(
                "scores",
                "Maps of the cost of HR slices near the registration, LR slices downwards: joint "
                "cost of all voters with the monotone path, then each voter with its picks.",
                partial(_draw_scores, series, scores),
                (_WIDE, _NARROW),
            )
        )
    if maps:
        charts.append(
            Chart(
                "distances",
                "One map per voter of the distance between every LR slice and every HR slice, "
                "with the voter's pick of each LR slice as a dot.",
                partial(_draw_distances, series, maps),
                (_WIDE, _NARROW),
            )
        )
    if series.has_truth:
        charts.append(
            Chart(
                "errors",
                "Histogram of the error of the decided positions in HR slices, accepted slices "
                "and slices that wait for review apart.",
                partial(_draw_errors, series),
                (_HALF, _NARROW),
            )
        )
    if reliability:
        charts.append(
            Chart(
                "reliability",
                "Share of pairs that were right against the confidence stated for them, on "
                "simulated scans; the diagonal is perfect calibration.",
                partial(_draw_reliability, reliability),
                (_HALF, _NARROW),
            )
        )
    return {chart.name: chart for chart in charts}


def svg(chart: Chart, width: int) -> str:
    """Draw a chart as an inline SVG element whose colours are CSS variables.

    Parameters
    ----------
    chart : Chart
        What to draw.
    width : int
        Width in points.

    Returns
    -------
    str
        An ``<svg>`` element without external references; ids start with the
        chart's name and width, so several charts can share a page.
    """
    buffer = io.StringIO()
    with _style(_PLACEHOLDERS, salt=f"{chart.name}-{width}"):
        figure = chart.draw(_PLACEHOLDERS, width)
        _settle(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # matplotlib's style sheet speaks of every element of the page; the page's own replaces it.
    text = re.sub(r"<style .*?</style>", "", text, flags=re.S)
    text = re.sub(
        r'<svg[^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1
    )
    text = text.replace("xlink:href", "href")
    prefix = f"{chart.name}-{width}-"
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    for name, placeholder in _PLACEHOLDERS.items():
        text = text.replace(placeholder, f"var(--{name})")
    return re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)


def png(chart: Chart) -> bytes:
    """Draw a chart for a slide: light, on white.

    Parameters
    ----------
    chart : Chart
        What to draw, at its first width.

    Returns
    -------
    bytes
        A PNG file; the same bytes for the same chart.
    """
    with _style(_LIGHT, salt=chart.name):
        return _png_bytes(chart.draw(_LIGHT, chart.widths[0]))


def mosaic_png(group: TileGroup, series: PairSeries, *, pixel_aspect: float) -> bytes:
    """Draw a group of pairs for a slide: LR left, HR right, numbers above.

    Parameters
    ----------
    group : TileGroup
        The pairs.
    series : PairSeries
        The run they come from.
    pixel_aspect : float
        Row spacing over column spacing of an LR pixel.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    per_row = min(3, len(group.tiles))
    lines = -(-len(group.tiles) // per_row)
    rows, cols = group.tiles[0].low_res.shape
    # One drawing area in units of an image's width; twelve of them would take ten times as long.
    height = rows * pixel_aspect / cols
    gap, head = 0.03, 0.16
    across = per_row * (2 + 2 * gap) - gap
    down = lines * (height + head) + head
    with _style(_LIGHT, salt=group.name):
        inches = _WIDE / 72 * per_row / 3
        figure = Figure(figsize=(inches, inches * down / across))
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set_axis_off()
        axes.text(0, 0.4 * head, group.title, weight="bold", size=14, va="center")
        for i, tile in enumerate(group.tiles):
            left = (i % per_row) * (2 + 2 * gap)
            top = head + (i // per_row) * (height + head) + head
            state = "" if series.paired[tile.row] else " (review)"
            pictures = [(f"LR {series.low_res_slice[tile.row]:.0f}", tile.low_res)]
            if tile.high_res is not None:
                label = f"HR {series.high_res_slice[tile.row]:.0f}{state}"
                pictures.append((label, tile.high_res))
            else:
                axes.text(left + 1 + gap, top - 0.3 * head, "no HR partner", va="center")
            for k, (label, picture) in enumerate(pictures):
                start = left + k * (1 + gap / 2)
                axes.text(start, top - 0.3 * head, label, va="center")
                axes.imshow(
                    picture, cmap="gray", vmin=0, vmax=1,
                    extent=(start, start + 1, top + height, top),
                )  # fmt: skip
        axes.set_aspect("auto")
        axes.set_xlim(0, across)
        axes.set_ylim(down, 0)
        return _png_bytes(figure)


def _png_bytes(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    _settle(figure)
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the figure out now: savefig would draw it once more only to do that."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")


def _style(palette: Palette, *, salt: str) -> AbstractContextManager[Any]:
    from matplotlib import rc_context

    return rc_context(
        {
            "figure.dpi": 72,
            "font.family": "DejaVu Sans",
            "font.size": 12.5,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 8,
            "axes.labelsize": 12,
            "xtick.labelsize": 12,
            "ytick.labelsize": 12,
            "legend.fontsize": 12,
            "legend.frameon": False,
            "legend.handletextpad": 0.4,
            "legend.columnspacing": 1.4,
            "figure.facecolor": palette["paper"],
            "axes.facecolor": "none",
            "text.color": palette["ink"],
            "axes.labelcolor": palette["muted"],
            "axes.titlecolor": palette["ink"],
            "axes.edgecolor": palette["band"],
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": palette["grid"],
            "grid.linewidth": 0.8,
            "xtick.color": palette["band"],
            "ytick.color": palette["band"],
            "xtick.labelcolor": palette["muted"],
            "ytick.labelcolor": palette["muted"],
            "hatch.color": palette["paper"],
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "text.parse_math": False,
        }
    )


def new_figure(width: int, height: int) -> Figure:
    """Make a figure that lays itself out.

    Parameters
    ----------
    width, height : int
        In points.

    Returns
    -------
    Figure
        Without axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=6 / 72, h_pad=6 / 72)
    return Figure(figsize=(width / 72, height / 72), layout=layout)


def _draw_correspondence(
    series: PairSeries, voted_offset_um: float | None, palette: Palette, width: int
) -> Figure:
    from matplotlib.markers import CARETDOWN, CARETUP

    narrow = width < _WIDE
    figure = new_figure(width, 640 if narrow else 660)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
    slices = series.low_res_slice

    for axes in (top, bottom):
        _shade_empty(axes, series, palette)
    geometry = "Registration" if series.registered else "Geometry (affines)"
    top.plot(slices, series.expected, color=palette["band"], lw=3, label=geometry)
    bottom.axhline(0, color=palette["band"], lw=3)
    tolerance_um = series.tolerance * series.high_res_um
    unit = "slice" if series.tolerance == 1 else "slices"
    bottom.axhspan(
        -tolerance_um,
        tolerance_um,
        color=palette["grid"],
        lw=0,
        zorder=0.5,
        label=f"± {series.tolerance:g} HR {unit}"
        + (", tolerance" if series.by_registration else ""),
    )
    limit = _residual_limit(series)
    if voted_offset_um is not None and abs(voted_offset_um) < limit:
        bottom.axhline(
            voted_offset_um, color=palette["muted"], lw=1, ls=(0, (6, 3)),
            label="Offset by the votes",
        )  # fmt: skip

    beyond = 0
    shrink = float(np.clip(np.sqrt(100 / len(slices)), 0.6, 1.0)) * (0.8 if narrow else 1.0)
    for name, vote in series.votes.items():
        mark = {"color": palette[name], "mec": palette[name], "ls": "none", **_MARKS[name]}
        mark["ms"] *= shrink
        top.plot(slices, vote, label=VOTERS[name], **mark)
        # What a voter picks for a slice without signal is chance: seen above, not measured here.
        residual = np.where(series.empty, np.nan, series.residual_um(vote))
        out = np.abs(residual) > limit
        beyond += int(out.sum())
        bottom.plot(slices[~out], residual[~out], **mark)
        for sign, caret in ((1, CARETUP), (-1, CARETDOWN)):
            there = out & (np.sign(residual) == sign)
            edge = np.full(int(there.sum()), 0.97 * sign * limit)
            bottom.plot(slices[there], edge, **(mark | {"marker": caret, "ms": 7}))
    for axes, convert in ((top, _same), (bottom, series.residual_um)):
        position = convert(series.position)
        if series.has_truth:
            axes.plot(
                slices, convert(series.truth), color=palette["truth"], lw=1.6, ls=(0, (4, 2)),
                label="Truth",
            )  # fmt: skip
        accepted = np.where(series.paired, position, np.nan)
        axes.plot(slices, accepted, color=palette["ink"], lw=1.2, zorder=1.9, label="Accepted")
        waiting = series.review & np.isfinite(position)
        if axes is bottom:
            waiting &= (np.abs(position) <= limit) & ~series.empty
        axes.plot(
            slices[waiting], position[waiting], ls="none", marker="D", ms=11 * shrink, mfc="none",
            mec=palette["review"], mew=1.6, label="Waits for review",
        )  # fmt: skip
    top.set_title("Position")
    top.set_ylabel("HR slice")
    stray = f"{beyond} vote{'' if beyond == 1 else 's'} beyond" if beyond else ""
    if stray and narrow:
        bottom.set_title(f"Residual to {series.reference}; {stray}")
    else:
        bottom.set_title(f"Residual to {series.reference}")
        bottom.set_title(
            stray and f"{stray} \u00b1 {limit:.0f} µm, at the edge", loc="right",
            color=palette["muted"], weight="normal",
        )  # fmt: skip
    bottom.set_ylabel("µm")
    bottom.set_xlabel("LR slice")
    bottom.set_ylim(-limit, limit)
    _integer_axis(bottom.xaxis)
    bottom.set_xlim(slices.min() - 1, slices.max() + 1)
    found = dict(zip(*reversed(bottom.get_legend_handles_labels()), strict=True))
    found |= dict(zip(*reversed(top.get_legend_handles_labels()), strict=True))
    order = (
        "Geometry",
        "Registration",
        *VOTERS.values(),
        "Accepted",
        "Waits",
        "Truth",
        "± 1",
        "Offset",
        "Near",
    )
    labels = sorted(found, key=lambda label: [label.startswith(word) for word in order].index(True))
    figure.legend(
        [found[label] for label in labels], labels, loc="outside upper left",
        ncols=2 if narrow else 5,
    )  # fmt: skip
    return figure


def _same(position: PairFloats) -> PairFloats:
    return position


def _residual_limit(series: PairSeries) -> float:
    """Half height of the residual panel: decisions and truth fit, stray votes need not."""
    residual = np.abs(series.residual_um(series.position)[series.paired])
    truth = np.abs(series.residual_um(series.truth)[~series.empty])
    votes = [np.abs(series.residual_um(v)[~series.empty]) for v in series.votes.values()]
    pooled = np.concatenate([*votes, np.zeros(1)])
    pooled = pooled[np.isfinite(pooled)]
    reach = [np.percentile(pooled, 80)]
    for values, share in ((residual, 98), (truth, 100)):
        if np.isfinite(values).any():
            reach.append(np.nanpercentile(values, share))
    return float(max(4 * series.high_res_um, 1.25 * max(reach)))


def _shade_empty(axes: Axes, series: PairSeries, palette: Palette) -> None:
    """Shade the stretches of slices that hold hardly any signal."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], series.empty.astype(int), [0]])))
    slices = series.low_res_slice
    for k, (start, stop) in enumerate(edges.reshape(-1, 2)):
        axes.axvspan(
            slices[start] - 0.5,
            slices[stop - 1] + 0.5,
            color=palette["grid"],
            alpha=0.7,
            lw=0,
            label="Near-empty" if k == 0 else None,
        )


def _draw_agreement(series: PairSeries, palette: Palette, width: int) -> Figure:
    counts, voters = agreement(series), pairwise_agreement(series)
    figure = new_figure(width, 330)
    top, bottom = figure.subplots(2, 1, height_ratios=[len(counts), 1.6 * max(1, len(voters))])

    total = max(1, sum(count for _, count in counts))
    shades = [palette["accept"]] * (len(counts) - 1) + [palette["review"]]
    at = np.arange(len(counts))
    values = np.array([count for _, count in counts])
    for i, (value, shade) in enumerate(zip(values, shades, strict=True)):
        top.barh(i, value, 0.62, color=shade, alpha=0.6 if 0 < i < len(counts) - 1 else 1.0)
        top.annotate(
            f"{value}  ({100 * value / total:.0f} %)", (value, i), (5, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
    _bar_axis(top, at, [label for label, _ in counts], limit=1.28 * max(1, values.max()))
    top.set_title(
        f"Voters within {series.tolerance:g} slice{'' if series.tolerance == 1 else 's'} of the "
        f"{series.reference}"
        if series.by_registration
        else "Votes behind each decision, slices"
    )

    at = np.arange(len(voters))
    for shift, height, kind in ((-0.2, 0.36, "exact"), (0.2, 0.36, "within_1")):
        for i, row in enumerate(voters):
            share = getattr(row, kind)
            bottom.barh(
                i + shift, share, height, color=palette["accept"],
                alpha=1.0 if kind == "exact" else 0.45,
            )  # fmt: skip
            text = f"{100 * share:.0f} % " + ("same slice" if kind == "exact" else "within 1")
            bottom.annotate(
                text, (share, i + shift), (5, 0),
                textcoords="offset points", va="center", size=11.5,
            )  # fmt: skip
    _bar_axis(bottom, at, [f"{row.first}\u2013{row.second}" for row in voters], limit=1.36)
    bottom.set_title("Two voters at a time, share of slices")
    return figure


def _bar_axis(axes: Axes, at: np.ndarray, labels: Sequence[str], *, limit: float) -> None:
    axes.set_yticks(at, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, limit)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _draw_margins(series: PairSeries, palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 330)
    axes = figure.subplots()
    kept = ~series.empty & np.isfinite(series.margin)
    top = float(np.percentile(series.margin[kept], 99)) or 1.0
    bottom = min(0.0, float(series.margin[kept].min()))
    edges = np.linspace(bottom, top, 25)
    _stacked(axes, np.clip(series.margin, bottom, top), kept, edges, series, palette)
    figure.legend(loc="outside lower left", ncols=2)
    axes.set_title("Margin of the best candidate over the next")
    axes.set_xlabel("Margin (small: two HR slices fit equally well)")
    return figure


def _draw_confidence(series: PairSeries, palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 330)
    axes = figure.subplots()
    kept = ~series.empty & np.isfinite(series.confidence)
    _stacked(axes, series.confidence, kept, np.linspace(0, 1, 21), series, palette)
    figure.legend(loc="outside lower left", ncols=2)
    axes.set_xlim(0, 1)
    if series.by_registration:
        axes.set_title("Confidence")
        axes.set_xlabel("Chance that the pair is within one HR slice")
    else:
        axes.set_title("Share of voters that agree")
        axes.set_xlabel("Confidence of the paper's vote (not calibrated)")
    return figure


def _draw_reliability(
    reliability: Sequence[Mapping[str, float]], palette: Palette, width: int
) -> Figure:
    figure = new_figure(width, 360)
    axes = figure.subplots()
    stated, right, n = (
        np.array([float(row[key]) for row in reliability])
        for key in ("confidence", "share_right", "n")
    )
    order = np.argsort(stated)
    axes.plot([0, 1], [0, 1], color=palette["band"], lw=3, label="Perfect")
    axes.plot(stated[order], right[order], color=palette["accept"], lw=1.2)
    axes.scatter(
        stated, right, s=25 + 180 * np.sqrt(n / max(1.0, n.max())), color=palette["accept"],
        alpha=0.75, lw=0, label="This scan, simulated (area: pairs)",
    )  # fmt: skip
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.08), xlabel="Confidence stated")
    axes.set_ylabel("Share right")
    axes.set_title("Reliability of the confidence")
    figure.legend(loc="outside lower left", ncols=2 if width > _NARROW else 1)
    return figure


def _draw_scores(
    series: PairSeries,
    maps: Mapping[str, tuple[np.ndarray, tuple[float, float, float, float]]],
    palette: Palette,
    width: int,
) -> Figure:
    narrow = width < _WIDE
    figure = new_figure(width, 760 if narrow else 560)
    shape = (-(-len(maps) // 2), 2) if narrow else (1, len(maps))
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, (picture, edges)) in zip(panels, maps.items(), strict=False):
        left, right, top, bottom = edges
        mesh = axes.imshow(
            picture, extent=(left, right, bottom, top), origin="upper", aspect="auto",
            interpolation="none", cmap=_valley(), vmin=0, vmax=1,
        )  # fmt: skip
        axes.axvline(0, color="#ffffff", lw=1.4, ls=(0, (5, 3)), label="Registration")
        if name == "joint":
            at = np.where(series.empty, np.nan, series.path) - series.expected
            axes.plot(at, series.low_res_slice, color=_MARK, lw=1.8, label="Monotone path")
            axes.set_title("All voters")
        else:
            axes.plot(
                series.votes[name] - series.expected, series.low_res_slice, ls="none", marker="o",
                ms=2.4, mew=0, color=_MARK,
            )  # fmt: skip
            axes.set_title(VOTERS[name])
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.grid(visible=False)
        _integer_axis(axes.yaxis)
        axes.xaxis.set_major_locator(_few_integers())
        axes.label_outer()
    for axes in panels[:: shape[1]]:
        axes.set_ylabel("LR slice")
    label = "Offset, HR slices" if narrow else f"Offset from the {series.reference}, HR slices"
    figure.supxlabel(label, size=12, color=palette["muted"])
    bar = figure.colorbar(
        mesh, ax=list(panels), location="top", aspect=40, shrink=0.5, pad=0.02, ticks=[0, 1]
    )
    bar.ax.set_xticklabels(["best", "median or worse"])
    bar.outline.set_visible(False)
    return figure


def _few_integers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True, symmetric=True)


def _valley() -> Any:
    """One hue, readable beside both page colours; marks on it are its complement."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("valley", ["#08203f", "#2f5d8c", "#86a9cb", "#d5e0ea"])


def _draw_errors(series: PairSeries, palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 330)
    axes = figure.subplots()
    error = series.position - series.truth
    kept = ~series.empty & np.isfinite(error)
    reach = int(np.clip(np.ceil(np.abs(error[kept]).max(initial=0)), 3, 8))
    # One bar per slice, and a tie of half a slice (the usual case) belongs to the inner bar.
    outer = np.arange(reach + 1) + EXACT_SLICES
    edges = np.concatenate([-outer[::-1], outer])
    axes.axvspan(-0.5, 0.5, color=palette["grid"], lw=0, label="Exact (within \u00bd slice)")
    clipped = np.clip(error, edges[0], edges[-1])
    _stacked(axes, clipped, kept, edges, series, palette)
    figure.legend(loc="outside lower left", ncols=3 if width > _NARROW else 2)
    ticks = list(range(-reach, reach + 1))
    labels = [_minus(tick) for tick in ticks]
    if (np.abs(error[kept]) > reach + 0.5).any():
        labels[0], labels[-1] = f"\u2264 {labels[0]}", f"\u2265 {labels[-1]}"
    axes.set_xticks(ticks, labels)
    axes.set_title("Error of the decided positions")
    axes.set_xlabel(f"HR slices (1 slice = {series.high_res_um:g} µm)")
    return figure


def _stacked(
    axes: Axes,
    values: PairFloats,
    kept: np.ndarray,
    edges: np.ndarray,
    series: PairSeries,
    palette: Palette,
) -> None:
    """Stack the histograms of accepted slices and of those that wait, tell them apart by hatch."""
    accepted, _ = np.histogram(values[kept & series.paired], edges)
    waiting, _ = np.histogram(values[kept & ~series.paired], edges)
    centre, bin_width = (edges[:-1] + edges[1:]) / 2, 0.88 * (edges[1] - edges[0])
    axes.bar(centre, accepted, bin_width, color=palette["accept"], label="Accepted")
    axes.bar(
        centre,
        waiting,
        bin_width,
        bottom=accepted,
        color=palette["review"],
        hatch="////",
        lw=0,
        label="Waits for review",
    )
    axes.set_ylabel("Slices")
    axes.grid(visible=False, axis="x")
    _integer_axis(axes.yaxis)
    axes.set_ylim(0, 1.08 * max(1, (accepted + waiting).max()))


def _draw_distances(
    series: PairSeries,
    maps: Mapping[str, tuple[np.ndarray, tuple[float, float, float, float]]],
    palette: Palette,
    width: int,
) -> Figure:
    stacked = width < _WIDE
    figure = new_figure(width, 270 * len(maps) if stacked else 400)
    shape = (len(maps), 1) if stacked else (1, len(maps))
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, (picture, edges)) in zip(panels, maps.items(), strict=True):
        left, right, bottom, top = edges
        thinned, across, up = _thinned(picture)
        mesh = axes.imshow(
            thinned, extent=(left, left + across, bottom, bottom + up), origin="lower",
            aspect="auto", interpolation="none", cmap=_valley(), vmin=0, vmax=1,
        )  # fmt: skip
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.plot(
            series.low_res_slice, series.votes[name], ls="none", marker="o", ms=2.2, mew=0,
            color=_MARK,
        )  # fmt: skip
        axes.set_title(VOTERS[name])
        axes.grid(visible=False)
        if stacked or axes is panels[0]:
            axes.set_ylabel("HR slice")
        if not stacked or axes is panels[-1]:
            axes.set_xlabel("LR slice")
        _integer_axis(axes.xaxis)
        _integer_axis(axes.yaxis)
    bar = figure.colorbar(
        mesh, ax=list(panels), location="bottom", aspect=40, shrink=0.6, pad=0.02, ticks=[0, 1]
    )
    bar.ax.set_xticklabels(["best", "median or worse"])
    bar.outline.set_visible(False)
    return figure


def _thinned(picture: np.ndarray, most: int = 320) -> tuple[np.ndarray, int, int]:
    """Reduce a map to what a screen shows, by the best candidate of each block of slices.

    Returns the picture, and how many columns and rows it stands for.
    """
    high, wide = (-(-size // most) for size in picture.shape)
    rows, cols = (
        -(-size // step) * step for size, step in zip(picture.shape, (high, wide), strict=True)
    )
    padded = np.full((rows, cols), np.nan)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    blocks = padded.reshape(rows // high, high, cols // wide, wide)
    return np.fmin.reduce(np.fmin.reduce(blocks, axis=3), axis=1), cols, rows


def _minus(number: int) -> str:
    return f"{number}".replace("-", "\u2212")


def _integer_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))

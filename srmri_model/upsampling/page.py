"""The page of an upsampled volume: what to look at before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import ANATOMICAL
from srmri_data.reports.figures import PALETTE, Chart, Palette, new_figure, svg
from srmri_data.reports.html import render
from srmri_data.reports.pictures import colour, data_uri, grey
from srmri_data.safe_io import write_text
from srmri_data.slices import StackFrame, stack_frame
from srmri_model.upsampling.plan import UpsamplePlan, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from srmri_model.upsampling.measure import Measured
    from srmri_model.upsampling.results import Result

_WIDE, _NARROW = 500, 380
_SHOWN_SIGMAS = 3.0
_MAX_HEIGHT = 380
_MAX_POINTS = 1500


def write_page(
    plan: UpsamplePlan, measured: Measured, result: Result, sidecar: Mapping[str, Any]
) -> Path:
    """Draw the page of a run.

    Parameters
    ----------
    plan : UpsamplePlan
        Geometry.
    measured : Measured
        LR.
    result : Result
        HR, its spread and residual.
    sidecar : mapping
        What `srmri_model.upsample.run_upsample` returns.

    Returns
    -------
    Path
        One file that needs no other and no network.
    """
    from markupsafe import Markup

    charts = _charts(measured, result)
    page = render(
        "upsample.html.j2",
        {
            "palette": PALETTE,
            "name": plan.out.name,
            "sidecar": sidecar,
            "verdict": _verdict(sidecar),
            "tiles": _tiles(sidecar),
            # The drawings are ours and hold no text from outside.
            "charts": [
                (chart, [Markup(svg(chart, width)) for width in chart.widths])  # noqa: S704
                for chart in charts
            ],
            "planes": _planes(plan, measured, result),
            "agreement": _agreement_rows(sidecar),
            "settings": _settings(sidecar),
            "has_std": result.std is not None,
        },
        package="srmri_model.upsampling",
    )
    write_text(plan.paths["page"], page)
    return plan.paths["page"]


def _verdict(sidecar: Mapping[str, Any]) -> str:
    n = len(sidecar["warnings"])
    shape = " × ".join(str(size) for size in sidecar["high_shape"])
    if not n:
        return f"{shape} voxels that explain the scan"
    return f"{shape} voxels, with {n} warning{'s' if n > 1 else ''}"


def _tiles(sidecar: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    agreement, sharper = sidecar["roi_agreement"], sidecar["sharpness"]["finer_axes"]
    spacing = " × ".join(f"{1000 * mm:.4g}" for mm in sidecar["high_spacing"])
    tiles = [
        ("χ²/m", _number(sidecar["chi2"], 2), "in the tissue; 1 is expected"),
        ("Noise of LR", _number(sidecar["sigma_y"], 3), "σ_y; the tissue's range is 0 to 1"),
        (
            "Regions",
            "–" if agreement is None else f"{agreement['gain']:.3f}",
            "gain of mean intensities against LR",
        ),
        (
            "Sharpness",
            "–" if sharper is None else f"{sharper:.2f}×",
            "steps between voxels against interpolated LR",
        ),
        ("Evaluations", f"{sidecar['nfe']:,}", "of the network, per draw"),
        ("Time", _minutes(sidecar["seconds"]), f"{spacing} µm voxels"),
    ]
    if sidecar["std_mean"] is not None:
        tiles.insert(
            2, ("Spread", _number(sidecar["std_mean"], 3), "mean std of draws in the tissue")
        )
    return tiles


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _agreement_rows(sidecar: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = {
        "foreground": "tissue, without its border",
        "edge": "border of the tissue",
        "background": "background",
        "all": "whole volume",
    }
    rows = [
        (f"χ²/m, {names[name]}", _number(value, 2), "1")
        for name, value in sidecar["chi2_regions"].items()
    ]
    if "chi2_of_mean" in sidecar:
        rows.append(("χ²/m of the mean, tissue", _number(sidecar["chi2_of_mean"], 2), "below 1"))
    agreement, sharpness = sidecar["roi_agreement"], sidecar["sharpness"]
    if agreement is not None:
        rows += [
            (f"Gain over {agreement['regions']:,} regions", f"{agreement['gain']:.4f}", "1"),
            ("Largest difference of a region", f"{agreement['worst']:.2%}", "0 %"),
        ]
    for name, label in (
        ("finer_axes", "Sharpness along the finer axes"),
        ("across_slices", "Change from slice to slice"),
    ):
        if sharpness[name] is not None:
            expected = "above 1" if name == "finer_axes" else "about 1 or a little more"
            rows.append((f"{label}, against interpolated LR", f"{sharpness[name]:.2f}", expected))
    return rows


def _settings(sidecar: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = (
        "sampler", "steps", "samples", "estimate", "operator", "grid", "planes", "plane", "seed",
        "z_correlation", "tile", "device", "precision", "rician_remap", "dtype",
    )  # fmt: skip
    rows = [(name.replace("_", " "), _plain(sidecar[name])) for name in shown]
    rows.append(("factors along i, j, k", " × ".join(f"{f:g}" for f in sidecar["factors"])))
    zero, one = sidecar["intensity"]["zero"], sidecar["intensity"]["one"]
    rows.append(("scanner units at 0 and 1", f"{zero:.6g} and {one:.6g}"))
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in sidecar["versions"].items())))
    rows.append(("model, SHA-256", sidecar["weights_sha256"]))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _planes(plan: UpsamplePlan, measured: Measured, result: Result) -> list[dict[str, Any]]:
    """Cut all volumes in three planes through the middle of the tissue."""
    inside = nearest(plan, measured.regions.foreground)
    low, residual = nearest(plan, measured.volume), nearest(plan, result.residual)
    limit = _SHOWN_SIGMAS * measured.sigma_y
    brightest = 1.0
    if result.std is not None and inside.any():
        brightest = float(np.percentile(result.std[inside], 99.5)) or 1.0
    views = []
    for plane in ANATOMICAL:
        frame = stack_frame(plan.high_affine, plan.high_shape, plane)
        number = _middle(frame, inside)

        def cut(volume: NDArray[Any], frame: StackFrame = frame, number: int = number) -> Any:
            return frame.view(volume)[number]

        images = [
            ("LR", "as measured", data_uri(grey(cut(low)))),
            ("SR", "the result", data_uri(grey(cut(result.estimate)))),
        ]
        if result.std is not None:
            images.append(
                (
                    "Std",
                    f"0 to {brightest:.2g}",
                    data_uri(colour(cut(result.std) / brightest, "magma")),
                )
            )
        images.append(
            (
                "Residual",
                "±3 σ_y, blue: too dark",
                data_uri(colour(0.5 - cut(residual) / (2 * limit), "RdBu")),
            )
        )
        height, width = (n * mm for n, mm in zip(frame.shape[1:], frame.spacing[1:], strict=True))
        views.append(
            {
                "title": plane.capitalize(),
                "number": number,
                "aspect": f"{width / height:.5f}",
                # So that a narrow image is no higher than this.
                "max_width": round(_MAX_HEIGHT * width / height),
                "images": images,
            }
        )
    return views


def _middle(frame: StackFrame, inside: NDArray[np.bool_]) -> int:
    """Return the slice in the middle of the tissue, counted by area."""
    area = frame.view(inside).sum(axis=(1, 2)).cumsum()
    if area[-1] == 0:
        return frame.shape[0] // 2
    return int(np.searchsorted(area, area[-1] / 2))


def _charts(measured: Measured, result: Result) -> list[Chart]:
    charts = []
    inside = measured.regions.foreground
    if inside.any():
        units = result.residual[inside].astype(np.float64) / measured.sigma_y
        charts.append(
            Chart(
                "residual",
                "How often residuals of each size occur in the tissue, in units of the noise, "
                "beside a normal distribution.",
                partial(_draw_residual, units),
                (_WIDE, _NARROW),
            )
        )
    if result.agreement is not None:
        charts.append(
            Chart(
                "regions",
                "Mean intensity of regions in the result against the same regions in LR.",
                partial(_draw_regions, result.agreement.low_res, result.agreement.high_res),
                (_WIDE, _NARROW),
            )
        )
    return charts


def _draw_residual(units: NDArray[np.float64], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    edges = np.linspace(-5, 5, 51)
    counts, _ = np.histogram(units.clip(-5, 5), edges)
    share = counts / (units.size * np.diff(edges))
    axes.stairs(share, edges, color=palette["accept"], lw=2, label="residual")
    at = np.linspace(-5, 5, 201)
    normal = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(at, normal, color=palette["review"], ls="--", lw=1.5, label="expected")
    axes.set_ylim(0, 1.35 * max(float(share.max()), 0.4))
    axes.set_title("Residual in the tissue")
    axes.set_xlabel("(H x − y) / σ_y")
    axes.set_ylabel("Density")
    axes.legend(loc="upper right")
    return figure


def _draw_regions(
    low: tuple[float, ...], high: tuple[float, ...], palette: Palette, width: int
) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    step = max(1, len(low) // _MAX_POINTS)
    ends = [min(low), max(low)]
    axes.plot(ends, ends, color=palette["review"], ls="--", lw=1.5, label="equal")
    axes.plot(
        low[::step], high[::step], ls="", marker="o", ms=3, mew=0, color=palette["accept"],
        alpha=0.6, label="regions",
    )  # fmt: skip
    axes.set_title("Mean intensity of regions")
    axes.set_xlabel("LR, 0 to 1")
    axes.set_ylabel("SR")
    axes.legend(loc="upper left")
    axes.locator_params(nbins=6)
    return figure

"""The page of a training run: how it went, how well the model denoises, what it draws."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data.reports.figures import PALETTE, Chart, Palette, new_figure, png, svg
from srmri_data.reports.html import render
from srmri_data.safe_io import atomic_write, write_text
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.upscaler import load_upscaler
from srmri_model.checkpoints import load_denoiser
from srmri_model.training.logs import read_log
from srmri_model.training.pairs import SlicePair
from srmri_model.training.sampling import SHEET_STEPS, denoising_rows, from_noise, sheet
from srmri_model.training.slices import Slices
from srmri_model.training.validation import spread

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

SHOWN_SIGMAS = (0.05, 0.1, 0.25, 1.0)
"""Noise levels of the denoising sheet, as far as the model goes."""

_WIDE, _NARROW = 500, 380
_IMAGES = 6
_ROWS = 4
_SHEET_SECONDS = 60.0


def write_page(out: Path, summary: Mapping[str, Any], slices: Slices, *, device: str) -> Path:
    """Draw the figures of a run and its ``index.html``.

    Parameters
    ----------
    out : Path
        Folder of the run, with its logs and model.
    summary : mapping
        What `srmri_model.train.run_training` returns.
    slices : Slices
        Held-out slices.
    device : str
        Where to draw images.

    Returns
    -------
    Path
        The page: one file that needs no other and no network.
    """
    pictures = _pictures(Path(out), summary, slices, device)
    words = {
        "verdict": f"A score model after {summary['steps']:,} steps",
        "trained": f"Trained on {summary['n_train']:,} slices and judged on "
        f"{summary['n_validation']} slices of held-out subjects, always with the same noise.",
        "product": "the averaged weights that denoised best",
        "needed": "with the table of errors below, which the samplers need",
        "levels": "All noise levels",
        "explained": "Root mean squared error of the denoised image, images in [0, 1] by their "
        "volumes' maps; foreground is what the map takes above 0.",
    }
    columns = ("σ", "Error, foreground", "Error, background", "Noise taken away, dB")
    charts = [*_loss_chart(Path(out), "Weighted squared error"), *_noise_charts(Path(out))]
    tile = f"steps; mean error {_minus(summary['best']['score_db'])} dB"
    table = (columns, _table(summary))
    return _write(Path(out), summary, charts, pictures, table=table, words=words, best=tile)


def write_upscaling_page(
    out: Path, summary: Mapping[str, Any], pairs: Sequence[SlicePair], *, device: str
) -> Path:
    """Draw the figures of a baseline's run and its ``index.html``.

    Parameters
    ----------
    out : Path
        Folder of the run, with its logs and model.
    summary : mapping
        What `srmri_model.train.run_training` returns.
    pairs : sequence of SlicePair
        Held-out pairs.
    device : str
        Where to compute images.

    Returns
    -------
    Path
        The page: one file that needs no other and no network.
    """
    out = Path(out)
    name, changed = summary["model_name"].upper(), summary["not_as_published"]
    gain = summary["psnr"] - summary["psnr_bicubic"]
    preset = f"the scaled preset: {changed}" if changed else "the published preset"
    words = {
        "verdict": f"{name} after {summary['steps']:,} steps, {gain:+.2f} dB against cubic "
        "interpolation",
        "trained": f"Trained on {summary['n_train']:,} pairs and judged on "
        f"{summary['n_validation']} pairs of held-out subjects, by {preset}.",
        "product": "the averaged weights that came nearest to the truth",
        "needed": "and what it was trained on",
        "levels": "Quality",
        "explained": "Peak signal-to-noise ratio for a range of 1, images in [0, 1] by their "
        "volumes' maps, mean over slices; foreground is what the map takes above 0.",
    }
    columns = ("", "Foreground, dB", "Frame, dB")
    rows = [
        (label, f"{summary['psnr' + key]:.2f}", f"{summary[frame]:.2f}")
        for label, key, frame in (
            (name, "", "psnr_frame"),
            ("Cubic interpolation", "_bicubic", "psnr_bicubic_frame"),
        )
    ]
    charts = [*_loss_chart(out, "Loss"), *_quality_chart(out)]
    tile = f"steps; {-summary['best']['score_db']:.2f} dB in the foreground"
    pictures = _upscaled(out, pairs, device)
    return _write(out, summary, charts, pictures, table=(columns, rows), words=words, best=tile)


def _minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _write(
    out: Path,
    summary: Mapping[str, Any],
    charts: Sequence[Chart],
    pictures: Sequence[Mapping[str, Any]],
    *,
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    words: Mapping[str, str],
    best: str,
) -> Path:
    from markupsafe import Markup

    for chart in charts:
        _write_bytes(out / "figures" / f"{chart.name}.png", png(chart))
    for picture in pictures:
        _write_bytes(out / "figures" / f"{picture['name']}.png", picture["png"])
    page = render(
        "training.html.j2",
        {
            "palette": PALETTE,
            "name": out.absolute().name,
            "summary": summary,
            "words": words,
            "tiles": _tiles(summary, best),
            # The drawings are ours and hold no text from outside.
            "charts": [
                (chart, [Markup(svg(chart, width)) for width in chart.widths])  # noqa: S704
                for chart in charts
            ],
            "pictures": [
                {**p, "uri": "data:image/png;base64," + base64.b64encode(p["png"]).decode()}
                for p in pictures
            ],
            "columns": table[0],
            "rows": table[1],
        },
        package="srmri_model.training",
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _tiles(summary: Mapping[str, Any], note: str) -> list[tuple[str, str, str]]:
    minutes = summary["seconds"] / 60
    best, processes = summary["best"], summary["processes"]
    alone = processes == 1
    return [
        ("Parameters", f"{summary['params'] / 1e6:.2f} M", "that training adjusts"),
        ("Steps", f"{summary['steps']:,}", f"{summary['images']:,} images"),
        ("Time", f"{minutes:.1f} min", "one process" if alone else f"{processes} processes"),
        ("Speed", f"{summary['images_s']:.1f}/s", "images, validation left out"),
        ("Memory", f"{summary['memory_bytes'] / 1e9:.2f} GB", "at most, per process"),
        ("Best after", f"{best['step']:,}", note),
    ]


def _table(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    def root(value: float | None) -> str:
        return "–" if value is None else f"{math.sqrt(value):.4f}"

    return [
        (
            f"{row['sigma']:.4g}",
            root(row["foreground"]),
            root(row["background"]),
            # Adding 0 makes a rounded -0.0 a plain zero.
            "–"
            if row["gain_db"] is None
            else f"{round(row['gain_db'], 1) + 0.0:+.1f}".replace("-", "−"),
        )
        for row in summary["val_by_sigma"]
    ]


def _pictures(
    out: Path, summary: Mapping[str, Any], slices: Slices, device: str
) -> list[dict[str, Any]]:
    denoiser = load_denoiser(out / "model.safetensors", device)
    sigmas = tuple(s for s in SHOWN_SIGMAS if s <= denoiser.config.sigma_max)
    levels = ", ".join(f"{sigma:g}" for sigma in sigmas)
    found = [
        {
            "name": "denoising",
            "title": "Held-out slices, denoised",
            "caption": f"Each row is a slice: clean, then noisy and denoised at σ = {levels}.",
            "png": _png(sheet(denoising_rows(denoiser, slices, sigmas))),
        }
    ]
    # A training image costs about three evaluations.
    affordable = int(3 * summary["images_s"] * _SHEET_SECONDS / SHEET_STEPS)
    count = min(_IMAGES, affordable)
    if count:
        size, _ = Counter(slices.sizes).most_common(1)[0]
        plane = slices[slices.sizes.index(size)]["plane"]
        images = from_noise(denoiser, count, size, plane=plane)
        found.append(
            {
                "name": "samples",
                "title": "Images from noise",
                "caption": f"Drawn from pure noise at σ = {denoiser.config.sigma_max:g} in "
                f"{SHEET_STEPS} steps, without any measurement: what the model takes for a brain.",
                "png": _png(sheet([list(images)])),
            }
        )
    return found


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _upscaled(out: Path, pairs: Sequence[SlicePair], device: str) -> list[dict[str, Any]]:
    upscaler = load_upscaler(out / "model.safetensors", device)
    grid = upscaler.config.grid
    rows = []
    for index in spread(len(pairs), _ROWS):
        pair = pairs[index]
        high = pair["high_res"]
        cubic = interpolate(pair["low_res"], high.shape, pair["factor"], "bicubic", grid=grid)
        low = torch.from_numpy(pair["low_res"]).to(device)[None, None]
        made = upscaler(low, (high.shape[0], high.shape[1]))[0, 0].cpu().numpy()
        errors = [4 * np.abs(image - high) for image in (cubic, made)]
        rows.append([high, cubic, made, *errors])
    return [
        {
            "name": "upscaled",
            "title": "Held-out slices",
            "caption": "Each row is a slice: HR, cubic interpolation of LR, the model, and four "
            "times the error of both.",
            "png": _png(sheet(rows)),
        }
    ]


def _loss_chart(out: Path, label: str) -> list[Chart]:
    training = read_log(out / "log.csv")
    if len(training) < 2:
        return []
    alt = f"Training loss over {len(training)} entries of the log."
    return [Chart("loss", alt, partial(_draw_loss, training, label), (_WIDE, _NARROW))]


def _quality_chart(out: Path) -> list[Chart]:
    validation = read_log(out / "validation.csv")
    alt = "PSNR of the held-out slices, in the foreground, against steps, beside interpolation."
    return [Chart("psnr", alt, partial(_draw_quality, validation), (_WIDE, _NARROW))]


def _noise_charts(out: Path) -> list[Chart]:
    validation = read_log(out / "validation.csv")
    charts = []
    if validation:
        charts.append(
            Chart(
                "gain",
                "How much noise the model takes away, in dB, against the noise level, at the "
                "first, a middle and the last validation.",
                partial(_draw_gain, validation),
                (_WIDE, _NARROW),
            )
        )
        charts.append(
            Chart(
                "error",
                "Root mean squared error of the denoised image against the noise level, inside "
                "and outside the foreground, at the last validation.",
                partial(_draw_error, validation),
                (_WIDE, _NARROW),
            )
        )
        if len({row["step"] for row in validation}) > 1:
            charts.append(
                Chart(
                    "progress",
                    "Mean error of the held-out slices over all noise levels against steps.",
                    partial(_draw_progress, validation),
                    (_WIDE, _NARROW),
                )
            )
    return charts


def _draw_quality(rows: Sequence[Mapping[str, float]], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    steps = [row["step"] for row in rows]
    for name, label, colour, line in (
        ("psnr", "model", palette["accept"], "-"),
        ("psnr_bicubic", "cubic interpolation", palette["review"], "--"),
    ):
        values = [row[name] for row in rows]
        axes.plot(steps, values, color=colour, ls=line, lw=2, marker="o", ms=4, label=label)
    axes.set_title("Held-out slices, foreground")
    axes.set_xlabel("Step")
    axes.set_ylabel("PSNR, dB")
    axes.legend(loc="lower right")
    axes.locator_params(axis="x", nbins=6)
    return figure


def _draw_loss(
    rows: Sequence[Mapping[str, float]], label: str, palette: Palette, width: int
) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    steps = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows])
    axes.plot(steps, loss, color=palette["band"], lw=0.8)
    window = max(1, len(loss) // 30)
    smooth = np.convolve(loss, np.ones(window) / window, "valid")
    axes.plot(steps[window - 1 :], smooth, color=palette["accept"], lw=2)
    axes.set_ylim(0, 1.15 * float(np.percentile(loss, 97)))
    axes.set_title("Training loss")
    axes.set_xlabel("Step")
    axes.set_ylabel(label)
    axes.locator_params(axis="x", nbins=6)
    return figure


def _draw_gain(rows: Sequence[Mapping[str, float]], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    steps = sorted({row["step"] for row in rows})
    shown = list(dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]]))
    styles = [(palette["accept"], "-"), (palette["review"], "--"), (palette["muted"], ":")]
    for step, (colour, line) in zip(reversed(shown), styles, strict=False):
        sigma, inside = _columns(rows, step, "foreground")
        gain = 10 * np.log10(sigma**2 / inside)
        axes.plot(sigma, gain, color=colour, ls=line, lw=2, label=f"step {step:,.0f}")
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_title("Noise taken away, foreground")
    axes.set_xlabel("Noise level σ (images are 0 to 1)")
    axes.set_ylabel("dB")
    axes.legend(loc="upper left")
    return figure


def _draw_error(rows: Sequence[Mapping[str, float]], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    last = max(row["step"] for row in rows)
    for name, colour, line in (
        ("foreground", palette["accept"], "-"),
        ("background", palette["review"], "--"),
    ):
        sigma, error = _columns(rows, last, name)
        axes.plot(sigma, np.sqrt(error), color=colour, ls=line, lw=2, label=name)
    axes.plot(sigma, sigma, color=palette["band"], lw=1.5, label="noise itself")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis)
    _plain_numbers(axes.yaxis)
    axes.set_title("Error left, √v(σ)")
    axes.set_xlabel("Noise level σ")
    axes.set_ylabel("Root mean square")
    axes.legend(loc="upper left")
    return figure


def _draw_progress(rows: Sequence[Mapping[str, float]], palette: Palette, width: int) -> Figure:
    figure = new_figure(width, 300)
    axes = figure.subplots()
    steps = sorted({row["step"] for row in rows})
    scores = [np.mean(10 * np.log10(_columns(rows, step, "foreground")[1])) for step in steps]
    axes.plot(steps, scores, color=palette["accept"], lw=2, marker="o", ms=5)
    axes.set_title("Mean error of held-out slices")
    axes.set_xlabel("Step")
    axes.set_ylabel("dB, over noise levels")
    axes.locator_params(axis="x", nbins=6)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Write plain numbers at the powers of ten of a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _columns(
    rows: Sequence[Mapping[str, float]], step: float, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    chosen = [row for row in rows if row["step"] == step]
    return np.array([row["sigma"] for row in chosen]), np.array([row[name] for row in chosen])

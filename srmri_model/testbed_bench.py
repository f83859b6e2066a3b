"""All samplers on the test-bed, beside the exact posterior: table, curves, picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from srmri_data.choices import SamplerName
from srmri_data.errors import UsageError
from srmri_data.safe_io import atomic_write, write_json
from srmri_model.samplers import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    Paper,
    PredictorCorrector,
    Settings,
)
from srmri_model.testbed import TestBed, make_testbed, try_sampler

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGMAS_Y = (0.01, 0.05)
"""Noise of the measurements; the first is the default."""

RHOS = (0.1, 0.3, 1.0, 3.0)
"""Step sizes of the gradient that are tried; the one whose residual is nearest to σ_y is taken."""


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Parameters
    ----------
    sampler : str
        A key of `srmri_model.samplers.SAMPLERS`.
    settings : Settings
        What is chosen, with the steps of the table.
    curve : tuple of int
        Steps of the curve, ascending; those of the table are among them.
    tuned : bool
        Whether ρ is chosen from `RHOS`, at every number of steps.
    """

    sampler: SamplerName
    settings: Settings
    curve: tuple[int, ...]
    tuned: bool = False


_LONG = (25, 50, 100, 200)
_SHORT = (10, 20, 50, 100)
_PC = PredictorCorrector(steps=200)

ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {
        "fast": Entry("fast", Fast(steps=20), (5, 10, 20, 50)),
        "paper": Entry("paper", Paper(steps=200), _LONG, tuned=True),
        "paper-no-fusion": Entry("paper", Paper(steps=200, fusion=False), _LONG, tuned=True),
        "fusion-alone": Entry("paper", Paper(steps=200, k=0), _LONG),
        "dps": Entry("dps", Guided(steps=200), _LONG, tuned=True),
        "mcg": Entry("mcg", Guided(steps=200, rho=0.1), _LONG),
        "score-sde": Entry("score-sde", _PC, _LONG),
        "ddnm": Entry("ddnm", DDNM(steps=100), _SHORT),
        "diffpir": Entry("diffpir", DiffPIR(steps=100), _SHORT),
        "pc": Entry("pc", _PC, _LONG),
    }
)
"""Every sampler, and `paper` in two more ways: k = 2 without fusion, and fusion at every level."""

Curves = dict[str, dict[str, list[dict[str, Any]]]]

TABLE = ("nfe", "nbe", "psnr", "psnr_exact", "std_ratio", "residual")
"""Figures of the table."""


def run_testbed(
    entries: Mapping[str, Entry] = ENTRIES,
    *,
    out: Path | None = None,
    seed: int = 0,
    draws: int = 4,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Try all samplers at both noise levels.

    Parameters
    ----------
    entries : mapping
        Lines of the table by name.
    out : Path, optional
        Folder for ``testbed.json`` and ``testbed.png``.
    seed : int
        Of truths and noise.
    draws : int
        Draws per truth, of which there are four.
    force : bool
        Replace what is there.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        ``samplers`` holds the table for the first σ_y; ``details`` and ``curves`` everything,
        by σ_y.

    Raises
    ------
    UsageError
        If there are results in `out` and `force` is not given.
    """
    if out is not None and (out / "testbed.json").exists() and not force:
        raise UsageError(
            f"{out} holds results already", hint="choose another --out, or give --force"
        )
    curves: Curves = {f"{sigma_y:g}": {name: [] for name in entries} for sigma_y in SIGMAS_Y}
    done, total = 0, len(SIGMAS_Y) * sum(len(entry.curve) for entry in entries.values())
    for sigma_y, rows_of in zip(SIGMAS_Y, curves.values(), strict=True):
        bed = make_testbed(sigma_y, seed=seed)
        for name, entry in entries.items():
            for steps in entry.curve:
                rows_of[name].append(_try(bed, entry, steps, draws=draws, seed=seed))
                done += 1
                if progress is not None:
                    progress("samplers", done, total)
    details = {
        sigma_y: {
            name: rows_of[name][entry.curve.index(entry.settings.steps)]
            for name, entry in entries.items()
        }
        for sigma_y, rows_of in curves.items()
    }
    default = next(iter(details.values()))
    document = {
        "samplers": {
            name: {figure: row[figure] for figure in TABLE} for name, row in default.items()
        },
        "sigma_y": SIGMAS_Y[0],
        "details": details,
        "curves": curves,
    }
    if out is not None:
        write_json(out / "testbed.json", document)
        with atomic_write(out / "testbed.png") as file:
            file.write(draw_curves(curves))
    return document


def _try(bed: TestBed, entry: Entry, steps: int, *, draws: int, seed: int) -> dict[str, Any]:
    """Return the figures at a number of steps, with the best ρ where it is tuned."""
    settings = replace(entry.settings, steps=steps)
    candidates = [settings]
    if entry.tuned and isinstance(settings, Guided):
        candidates = [replace(settings, rho=rho) for rho in RHOS]
    tried = [
        (try_sampler(bed, entry.sampler, candidate, draws=draws, seed=seed), candidate)
        for candidate in candidates
    ]
    quality, chosen = min(tried, key=lambda pair: abs(pair[0].residual - 1))
    figures = asdict(quality) | {"steps": steps}
    if isinstance(chosen, Guided) and quality.nbe:
        figures["rho"] = chosen.rho
    return figures


_STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fast": ("#0072b2", "o"),
        "paper": ("#d55e00", "s"),
        "paper-no-fusion": ("#e69f00", "D"),
        "dps": ("#009e73", "^"),
        "mcg": ("#882255", "v"),
        "score-sde": ("#cc79a7", "P"),
        "ddnm": ("#56b4e9", "X"),
        "diffpir": ("#555555", "*"),
    }
)
"""Colour and marker; `pc` and `fusion-alone` would lie far outside."""

_PANELS = (
    ("psnr", "PSNR − exact (dB)", (-0.25, 0.25), (-2.0, 2.0)),
    ("std_ratio", "std ratio", (0.95, 1.05), (0.5, 1.5)),
    ("residual", "residual / σ_y", (0.95, 1.05), (0.0, 3.0)),
)


def draw_curves(curves: Curves) -> bytes:
    """Draw quality against evaluations.

    Parameters
    ----------
    curves : dict
        As in the document of `run_testbed`: σ_y, sampler, rows.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    grid = figure.subplots(len(_PANELS), len(curves), sharex=True, sharey="row", squeeze=False)
    for column, (sigma_y, rows_of) in enumerate(curves.items()):
        grid[0][column].set_title(f"σ_y = {sigma_y}")
        grid[-1][column].set_xlabel("evaluations per image, forward + backward")
        for axes, (name, label, goal, limits) in zip(grid[:, column], _PANELS, strict=True):
            _draw_panel(axes, rows_of, name, goal, limits)
            if column == 0:
                axes.set_ylabel(label)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle("Draws on the Gaussian test-bed against exact posterior samples")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(
    axes: Axes,
    rows_of: Mapping[str, list[dict[str, Any]]],
    name: str,
    goal: tuple[float, float],
    limits: tuple[float, float],
) -> None:
    axes.axhspan(*goal, color="#c9d3de", zorder=0, label="goal")
    for sampler, rows in rows_of.items():
        if sampler not in _STYLES:
            continue
        colour, marker = _STYLES[sampler]
        spent = [row["nfe"] + row["nbe"] for row in rows]
        values = [row["psnr"] - row["psnr_exact"] if name == "psnr" else row[name] for row in rows]
        # What lies outside is drawn on the edge.
        inside = [min(max(value, limits[0]), limits[1]) for value in values]
        axes.plot(
            spent, inside, color=colour, marker=marker, ms=7, lw=1.6, label=sampler, clip_on=False
        )
    axes.set_xscale("log")
    axes.set_xticks([5, 10, 20, 50, 100, 200, 500], ["5", "10", "20", "50", "100", "200", "500"])
    axes.minorticks_off()
    axes.set_xlim(4, 700)
    axes.set_ylim(*limits)
    axes.grid(color="#e3e7eb")
    axes.spines[["top", "right"]].set_visible(False)

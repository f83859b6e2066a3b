"""How many network evaluations every sampler needs, with one model on the same slices and seeds.

``python -m benchmarks.evaluations sample --model M --data FOLDER --split splits.json --out WORK``
first draws the ``tune`` animals with every step size ρ, then the ``test`` animals with the ρ that
was best there. Cells are kept in WORK and never drawn twice; several of these processes may work
side by side, each on one thread. ``… report --out WORK`` prints the tables and draws the figure.

Slices are coronal, half the k-space in plane, as in `benchmarks.superres`. `fast` and `paper` draw
them one by one; the other samplers four at once, which is one and a half times as fast a slice.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.superres import (
    Job,
    Setting,
    filled_slices,
    mean_of,
    measures,
    volumes_by_subject,
)
from srmri_data.choices import SamplerName

SIGMA_Y = 0.01
RHOS = (0.1, 0.3, 1.0, 2.0, 4.0)
LONG = 2000
"""Levels of the paper, at which ρ is the best at `SHORT` levels, a half or a quarter of it."""
SHORT = 240
TUNE_SLICES, TEST_SLICES = 1, 2
FAST_STEPS = (5, 10, 20, 50)
GUIDED_STEPS = (60, SHORT, LONG)
"""Of `paper` and `dps`; `mcg` is drawn with the first alone."""
RESAMPLED = 10_000
REPEATS = 5


@dataclass(frozen=True)
class Method:
    """A sampler with its settings.

    Parameters
    ----------
    family : str
        Name of its curve.
    sampler : str
        As in `srmri_model.samplers.SAMPLERS`.
    steps : int
        Noise levels.
    settings : tuple of (str, value)
        What differs from the defaults.
    """

    family: str
    sampler: SamplerName
    steps: int
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Name of its folder."""
        parts = [self.family.replace(" ", "-").replace(",", ""), f"N{self.steps}"]
        return "-".join([*parts, *(f"{name}{value:g}" for name, value in self.settings)])


PAPER = Method("paper, k = 2", "paper", SHORT)
DPS = Method("dps", "dps", SHORT)
MCG = Method("mcg", "mcg", SHORT)
GUIDED = {PAPER: GUIDED_STEPS, DPS: GUIDED_STEPS, MCG: GUIDED_STEPS[:1]}
FAST = tuple(Method("fast", "fast", steps) for steps in FAST_STEPS)
PLAIN = (
    *(Method("score-sde", "score-sde", steps) for steps in (60, SHORT)),
    *(Method("ddnm", "ddnm", steps) for steps in (20, 100)),
    *(Method("diffpir", "diffpir", steps) for steps in (20, 100)),
    Method("pc, no measurement", "pc", SHORT),
)
EVERY_K = (
    *(Method(f"paper, k = {k}", "paper", 60, (("k", k),)) for k in (1, 3, 4, 5)),
    Method("paper, k = 2, no fusion", "paper", 60, (("fusion", False),)),
)
"""With ρ of `PAPER`: the rows of the paper's Table 4."""
ALONE = ("fast", "paper")
"""Samplers whose seconds are compared, so they draw one slice at a time."""
TOGETHER = 4
"""Slices that the others draw at once."""


def with_rho(method: Method, steps: int, rho: float) -> Method:
    """Set the number of levels and the step size."""
    return replace(method, steps=steps, settings=(*method.settings, ("rho", rho)))


class Cells:
    """Folder of everything that was drawn.

    Parameters
    ----------
    out : Path
        The folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def folder(self, method: Method, role: str) -> Path:
        """Where a method's slices are."""
        return self.out / role / method.label

    def rows(self, method: Method, role: str) -> list[dict[str, Any]]:
        """Figures of a method's slices, in a fixed order."""
        paths = sorted(self.folder(method, role).glob("*.json"))
        return [json.loads(path.read_text()) for path in paths]

    def candidates(self, method: Method, steps: int) -> tuple[float, ...]:
        """Return the step sizes to try; none while those of fewer levels are not judged."""
        if steps <= SHORT:
            return RHOS
        best = self.tuned(method, SHORT)
        return () if best is None else (best, best / 2, best / 4)

    def tuned(self, method: Method, steps: int) -> float | None:
        """Return the best ρ on `tune`, None while it is not known.

        That is the one of lowest LPIPS among those within 0.3 dB of the best PSNR: with either
        alone a step size can win that the other finds poor.
        """
        found = {}
        for rho in self.candidates(method, steps):
            rows = self.rows(with_rho(method, steps, rho), "tune")
            if len(rows) < 2 * TUNE_SLICES:
                return None
            found[rho] = mean_of(row["figures"] for row in rows)
        if not found:
            return None
        most = max(figures["psnr"] for figures in found.values())
        near = [rho for rho, figures in found.items() if figures["psnr"] >= most - 0.3]
        return min(near, key=lambda rho: found[rho]["lpips"])


def work(cells: Cells) -> Iterator[tuple[Method, str]]:
    """Name what there is to draw, the dearest last; what depends on ρ follows its tuning."""
    yield from ((method, "test") for method in FAST)
    for method, every_steps in GUIDED.items():
        for steps in every_steps:
            yield from (
                (with_rho(method, steps, rho), "tune") for rho in cells.candidates(method, steps)
            )
        for steps in every_steps:
            if (rho := cells.tuned(method, steps)) is not None:
                yield with_rho(method, steps, rho), "test"
        if method == PAPER:
            yield from ((row, "test") for row in PLAIN)
            for row in EVERY_K:
                if (best := cells.tuned(PAPER, row.steps)) is not None:
                    yield with_rho(row, row.steps, best), "test"


def spread(truth: NDArray[np.float32], count: int) -> list[int]:
    """Numbers of slices, evenly spread over those with tissue."""
    filled = filled_slices(truth)
    return [filled[int((n + 0.5) / count * len(filled))] for n in range(count)]


class Animals:
    """The degraded animals, each made when it is first asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.split = json.loads(options.split.read_text())
        self.volumes = volumes_by_subject(options.data)
        self.settings = functools.cache(self._setting)

    def slices(self, role: str) -> Iterator[tuple[str, int]]:
        """Subject and running number of every slice."""
        count = TUNE_SLICES if role == "tune" else TEST_SLICES
        for subject in self.split[role]:
            yield from ((subject, number) for number in range(count))

    def _setting(self, subject: str, role: str) -> Setting:
        setting = Setting(
            Job(
                volume=self.volumes[subject], subject=subject, sigma_y=SIGMA_Y,
                model=self.options.model, out=self.options.out / f"low-{os.getpid()}",
                label="low", planes="single", plane="coronal", sampler="fast", steps=None,
                settings={}, samples=1, slices=2, noise=None,
            )
        )  # fmt: skip
        count = TUNE_SLICES if role == "tune" else TEST_SLICES
        setting.chosen = spread(setting.truth.transpose(setting.axes), count)
        return setting

    def draw(
        self, method: Method, role: str, members: Sequence[tuple[str, int]]
    ) -> list[dict[str, Any]]:
        """Draw slices by one method, at once, and judge them."""
        import torch

        from srmri_model.samplers import SAMPLERS, sample
        from srmri_model.samplers.settings import within
        from srmri_model.upsampling.denoising import OnSlices
        from srmri_model.upsampling.noise import SliceNoise

        settings = [self.settings(subject, role) for subject, _ in members]
        numbers = [s.chosen[number] for s, (_, number) in zip(settings, members, strict=True)]
        drawing = settings[0].drawing
        (alone,) = drawing.on_planes()
        denoiser = OnSlices(
            drawing.denoiser, drawing.plan.frames[0], label=alone.label, at_once=len(members)
        )
        axes = denoiser.axes

        def of_slices(volumes: Iterable[NDArray[Any]]) -> NDArray[Any]:
            pairs = zip(volumes, numbers, strict=True)
            return np.stack([np.transpose(volume, axes)[n] for volume, n in pairs])

        low = of_slices(s.measured.volume for s in settings)
        chosen = replace(SAMPLERS[method.sampler].settings, steps=method.steps)
        chosen = replace(chosen, **dict(method.settings))
        operator = drawing.operator(axes[1:])
        began = time.process_time()
        drawn, trace = sample(
            method.sampler,
            denoiser,
            torch.from_numpy(low)[:, None],
            operator,
            sigma_y=torch.tensor([s.drawing.sigma_y for s in settings]),
            generator=SliceNoise(0, 0, numbers),
            settings=within(chosen, drawing.plan.network.sigma_max),
            variance=drawing.variance_in((numbers[0],), axes) if len(members) == 1 else None,
            no_signal=drawing.no_signal,
            mirror=drawing.mirror(axes[1:]),
        )
        seconds = (time.process_time() - began) / len(members)
        seen = operator.forward(drawn)[:, 0].numpy()
        truths = [s.truth.transpose(s.axes)[n] for s, n in zip(settings, numbers, strict=True)]
        regions = of_slices(s.measured.regions.foreground for s in settings)
        rows = []
        for n, (setting, (subject, _), truth) in enumerate(
            zip(settings, members, truths, strict=True)
        ):
            image = setting.as_truth(drawn[n, 0].numpy())
            residual = replace(setting.measured, volume=low[n]).residual(seen[n])[regions[n]]
            rows.append(
                {
                    "family": method.family,
                    "steps": method.steps,
                    "settings": dict(method.settings),
                    "subject": subject,
                    "slice": numbers[n],
                    "nfe": trace.nfe,
                    "nbe": trace.nbe,
                    "seconds": seconds,
                    "chi2": float(np.mean((residual / setting.measured.sigma_y) ** 2)),
                    "figures": measures(image, truth, truth > 0, perceptual=True),
                }
            )
        return rows


def claimed(path: Path) -> bool:
    """Take a cell, unless it is done or another process that still runs has taken it."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    claim = path.with_suffix(".claim")
    try:
        with open(claim, "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        try:
            os.kill(int(claim.read_text() or 0), 0)
        except (ValueError, ProcessLookupError, FileNotFoundError):
            claim.write_text(str(os.getpid()))
            return True
        return False
    return True


def sample_all(options: argparse.Namespace) -> None:
    """Draw what is missing, until nothing is."""
    import torch

    torch.set_num_threads(1)
    animals, cells = Animals(options), Cells(options.out)
    while (found := next(_open_cells(animals, cells), None)) is not None:
        method, role, paths = found
        rows = animals.draw(method, role, list(paths))
        for path, row in zip(paths.values(), rows, strict=True):
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(row))
            partial.rename(path)
            path.with_suffix(".claim").unlink()
            print(f"{path.relative_to(options.out)} {row['seconds']:.1f} s", flush=True)


def _open_cells(
    animals: Animals, cells: Cells
) -> Iterator[tuple[Method, str, dict[tuple[str, int], Path]]]:
    """Slices that nobody has drawn, and their files: one, or some that are drawn at once."""
    for method, role in work(cells):
        slices = list(animals.slices(role))
        most = 1 if method.sampler in ALONE else TOGETHER
        for first in range(0, len(slices), most):
            paths = {
                (subject, number): cells.folder(method, role) / f"{subject}-{number}.json"
                for subject, number in slices[first : first + most]
            }
            paths = {member: path for member, path in paths.items() if claimed(path)}
            if paths:
                yield method, role, paths


def compare_times(options: argparse.Namespace) -> None:
    """Print processor seconds of the rows of Table 4, in turns on one slice."""
    import torch

    torch.set_num_threads(1)
    animals = Animals(options)
    member = next(animals.slices("tune"))
    rows = [with_rho(row, 20, 1.0) for row in (*EVERY_K, PAPER)]
    seconds: dict[str, list[float]] = {row.family: [] for row in rows}
    for _ in range(REPEATS + 1):
        for row in rows:
            (found,) = animals.draw(row, "tune", [member])
            seconds[row.family].append(found["seconds"])
    for family, spent in sorted(seconds.items()):
        # The first turn warms up.
        print(f"{family:26s} {min(spent[1:]):.2f} s, median {np.median(spent[1:]):.2f} s")


STYLES = {
    "fast": ("#1f5fbf", "o"),
    "paper, k = 2": ("#b3261e", "s"),
    "dps": ("#c77d0a", "^"),
    "mcg": ("#0f8b8d", "X"),
    "score-sde": ("#5b7f3a", "D"),
    "ddnm": ("#7b5ea7", "v"),
    "diffpir": ("#6b7280", "P"),
}
MEASURES = (("psnr", "PSNR (dB)"), ("ssim", "SSIM"), ("lpips", "LPIPS"))

Found = dict[str, Any]
"""A method on the test slices: figures of every slice, and their means."""


def test_table(cells: Cells) -> list[Found]:
    """Mean figures of every method that is complete on the test slices."""
    found = []
    methods = dict.fromkeys(method for method, role in work(cells) if role == "test")
    most = max(len(cells.rows(method, "test")) for method in methods)
    for method in methods:
        rows = cells.rows(method, "test")
        if rows and len(rows) == most:
            means = mean_of(row["figures"] for row in rows)
            costs = mean_of({n: row[n] for n in ("nfe", "nbe", "seconds", "chi2")} for row in rows)
            found.append({"method": method, "rows": rows, **means, **costs})
    return found


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of paired differences, by bootstrap over slices."""
    values = np.asarray(differences)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLED, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def against(found: Found, rival: Found) -> str:
    """Compare two methods slice by slice."""
    parts = []
    for name, label in MEASURES:
        pairs = zip(found["rows"], rival["rows"], strict=True)
        mean, low, high = interval([a["figures"][name] - b["figures"][name] for a, b in pairs])
        parts.append(f"{label} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return " · ".join(parts)


def cheapest(curve: Sequence[Found], psnr: float, lpips: float) -> Found | None:
    """Return the first that comes within 0.1 dB and 5 % of LPIPS of what another reaches."""
    good = [f for f in curve if f["psnr"] >= psnr - 0.1 and f["lpips"] <= 1.05 * lpips]
    return min(good, key=lambda f: f["nfe"] + f["nbe"]) if good else None


def report(cells: Cells, figure: Path | None) -> None:
    """Print what was drawn."""
    for method, every_steps in GUIDED.items():
        for steps in every_steps:
            tried = []
            for rho in cells.candidates(method, steps):
                rows = cells.rows(with_rho(method, steps, rho), "tune")
                if rows:
                    m = mean_of(row["figures"] for row in rows)
                    tried.append(f"ρ {rho:g}: {m['psnr']:.2f}/{m['ssim']:.3f}/{m['lpips']:.3f}")
            print(f"tune, {method.family}, N {steps}: {' · '.join(tried)}")
    table = test_table(cells)
    print(f"\n{'':28s}{'ρ':>6s}   PSNR   SSIM  LPIPS   χ²/m    nfe    nbe  seconds")
    for f in table:
        step_size = dict(f["method"].settings).get("rho")
        print(
            f"{f['method'].family + ', N ' + str(f['method'].steps):28s}"
            f"{'–' if step_size is None else format(step_size, 'g'):>6s}"
            f"{f['psnr']:7.2f}{f['ssim']:7.3f}{f['lpips']:7.4f}{f['chi2']:7.2f}"
            f"{f['nfe']:7.0f}{f['nbe']:7.0f}{f['seconds']:9.1f}"
        )
    curves: dict[str, list[Found]] = {}
    for f in table:
        curves.setdefault(f["method"].family, []).append(f)
    for rival in (f for name in ("paper, k = 2", "dps") for f in curves.get(name, [])):
        print()
        name = f"{rival['method'].family}, N {rival['method'].steps}"
        for f in curves.get("fast", []):
            print(f"fast, N {f['method'].steps} − {name}: {against(f, rival)}")
        reached = cheapest(curves["fast"], rival["psnr"], rival["lpips"])
        if reached is not None:
            spent, own = (f["nfe"] + f["nbe"] for f in (rival, reached))
            print(
                f"within 0.1 dB and 5 % LPIPS of it: fast with {own:.0f} evaluations, "
                f"{spent / own:.0f} × fewer and {rival['seconds'] / reached['seconds']:.0f} × "
                "faster"
            )
    if figure is not None:
        draw_curves(curves, figure)


def draw_curves(curves: Mapping[str, Sequence[Found]], path: Path) -> None:
    """Draw quality against evaluations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplots(1, len(MEASURES))
    for axes, (name, label) in zip(panels, MEASURES, strict=True):
        for family, (colour, marker) in STYLES.items():
            curve = sorted(curves.get(family, []), key=lambda f: f["nfe"])
            spent = [f["nfe"] + f["nbe"] for f in curve]
            values = [f[name] for f in curve]
            axes.plot(spent, values, color=colour, marker=marker, ms=7, lw=1.6, label=family)
        axes.set_xscale("log")
        axes.set_xticks([5, 20, 100, 500, 4000], ["5", "20", "100", "500", "4000"])
        axes.minorticks_off()
        axes.set_title(f"{label}, lower is better" if name == "lpips" else label)
        axes.grid(color="#e3e7eb")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_xlabel("evaluations of the network per image, forward + backward")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Single draws in the foreground of slices of four mice held out, σ_y 0.01")
    figure.savefig(path, dpi=144, metadata={"Software": None})


def main() -> None:
    """Draw, or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("sample", help="draw what is missing")
    turns = commands.add_parser("times", help="print what every k costs, in turns")
    for command in (draw, turns):
        command.add_argument("--data", type=Path, required=True, help="folder of HR volumes")
        command.add_argument("--split", type=Path, required=True, help="JSON, lists of subjects")
        command.add_argument("--model", type=Path, required=True)
    tell = commands.add_parser("report", help="print what was drawn")
    tell.add_argument("--figure", type=Path, help="PNG to draw")
    for command in (draw, turns, tell):
        command.add_argument("--out", type=Path, required=True, help="folder of the cells")
    options = parser.parse_args()
    if options.command == "report":
        report(Cells(options.out), options.figure)
    elif options.command == "times":
        compare_times(options)
    else:
        sample_all(options)


if __name__ == "__main__":
    main()

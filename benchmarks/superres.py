"""How good super-resolved slices and volumes are, beside interpolation, on animals held out.

``python -m benchmarks.superres sample --model M --data FOLDER --split splits.json --role tune
--out WORK`` degrades every animal (k-space truncated by 2, complex noise added in k-space,
magnitude), super-resolves chosen slices and keeps the draws in WORK; what is there is not drawn
again. ``python -m benchmarks.superres report --out WORK`` prints the tables.

Everything is on the scale of the animal's own HR volume ([0, 1] between its 0.1 and 99.9
percentiles), whereas the model's input is scaled from LR alone, as `srmri upsample` does.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import Plane, SamplerName, SlicePlanes

NOISES = (0.01, 0.025)
Image = NDArray[np.float32]
FIGURES = ("chi2", "air bias", "nfe", "nbe", "seconds")
"""Kept of every draw: χ²/m in LR's eroded foreground, mean residual in air over σ_y, cost."""
MIN_SHARE = 0.05
"""Share of foreground below which slices are not looked at."""


@dataclass(frozen=True)
class Job:
    """What to draw, for one animal at one noise."""

    volume: Path
    subject: str
    sigma_y: float
    model: Path
    out: Path
    label: str
    planes: SlicePlanes
    plane: Plane
    sampler: SamplerName
    steps: int | None
    settings: Mapping[str, str]
    samples: int
    slices: int
    noise: float | None
    z_correlation: float = 0.0

    @property
    def folder(self) -> Path:
        """Where the draws are kept."""
        return self.out / self.label / f"{self.subject}-{self.sigma_y:g}"


def filled_slices(truth: Image) -> list[int]:
    """Numbers of the slices with tissue."""
    return [n for n, image in enumerate(truth) if (image > 0).mean() >= MIN_SHARE]


def chosen_slices(truth: Image, count: int) -> list[int]:
    """Numbers of neighbouring pairs of slices, evenly spread over those with tissue."""
    filled = filled_slices(truth)
    pairs = max(1, count // 2)
    starts = [filled[int((n + 0.5) * (len(filled) - 1) / pairs)] for n in range(pairs)]
    return sorted({n for start in starts for n in (start, start + 1) if n < len(truth)})


def degrade(
    volume: Image, span: float, factors: tuple[float, ...], sigma: float, seed: int
) -> Image:
    """Truncate k-space and add complex noise there: white in the LR image, of std `sigma`."""
    import torch

    from srmri_model.operators import make_operator

    low = make_operator("kspace", volume.shape, factors).forward(torch.from_numpy(volume)).numpy()
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *low.shape))
    noisy = np.hypot(low + sigma * span * real, sigma * span * imaginary)
    return np.asarray(noisy, dtype=np.float32)


def write_low(
    path: Path,
    high: Image,
    affine: NDArray[np.float64],
    factors: tuple[float, ...],
    *,
    span: float,
    sigma: float,
    seed: int,
) -> Image:
    """Degrade a volume and write the LR scan where it lies."""
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_model.operators import low_offset

    low = degrade(high, span, factors, sigma, seed)
    to_high = np.diag([*factors, 1.0])
    to_high[:3, 3] = [low_offset(f, "voxel-centre") for f in factors]
    write_nifti(path, low, affine @ to_high)
    return low


def cropped(volume: Image, affine: NDArray[np.float64], margin: int = 4) -> tuple[Image, Any]:
    """Cut the volume around its tissue to even size; with the affine of its first voxel."""
    corner, parts = np.eye(4), []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero((volume > 0).any(axis=others))
        start = max(0, places[0] - margin)
        size = min(volume.shape[axis] - start, places[-1] + 1 + margin - start) // 2 * 2
        parts.append(slice(start, start + size))
        corner[axis, 3] = start
    return np.ascontiguousarray(volume[tuple(parts)]), affine @ corner


class Setting:
    """An animal, degraded, with everything that draws its HR images."""

    def __init__(self, job: Job, edit: Callable[[Image, float], Image] | None = None) -> None:
        """`edit` changes the HR volume, in scanner units, given the scanner units of its range."""
        from srmri_data import ingest
        from srmri_data.slices import intensity_map, stack_frame
        from srmri_model.upsampling.denoising import stack_axes
        from srmri_model.upsampling.draw import prepare
        from srmri_model.upsampling.measure import measure
        from srmri_model.upsampling.plan import UpsampleConfig, plan_upsample

        record, frame = ingest.select(ingest.discover(job.volume), option="--data")
        loaded = ingest.load(record, frame=frame)
        mapping = intensity_map(loaded.data)
        self.job, self.zero = job, mapping.low
        self.span = mapping.high - mapping.low
        high, affine = loaded.data.astype(np.float32), loaded.affine
        if job.planes == "3":
            high, affine = cropped(high, affine)
        if edit is not None:
            high = edit(high, self.span)
        self.truth = (high - np.float32(self.zero)) / np.float32(self.span)
        self.axes = stack_axes(stack_frame(affine, high.shape, job.plane))
        single = job.planes == "single"
        factors = tuple(1.0 if single and axis == self.axes[0] else 2.0 for axis in range(3))
        job.folder.mkdir(parents=True, exist_ok=True)
        path = job.folder / "low.nii.gz"
        # Different noise for every animal, the same for every method.
        low = write_low(
            path, high, affine, factors, span=self.span, sigma=job.sigma_y, seed=int(job.subject)
        )
        config = UpsampleConfig(
            factor=factors,
            sampler=job.sampler,
            steps=job.steps,
            settings=job.settings,
            samples=job.samples,
            planes=job.planes,
            plane=job.plane,
            noise=job.noise,
            z_correlation=job.z_correlation,
            tile=0,
        )
        selected = ingest.select(ingest.discover(path), option="IN")
        self.plan = plan_upsample(selected, job.folder / "sr", job.model, config, force=True)
        self.measured = measure(self.plan, low)
        self.low = (low - np.float32(self.zero)) / np.float32(self.span)
        self.drawing, _, _ = prepare(
            self.plan,
            sigma_y=self.measured.sigma_y,
            tissue=self.measured.around_tissue,
            no_signal=self.measured.no_signal,
        )
        self.chosen = chosen_slices(self.truth.transpose(self.axes), job.slices)

    def stack(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Take the chosen slices of an HR volume."""
        return np.ascontiguousarray(volume.transpose(self.axes)[self.chosen])

    def as_truth(self, drawn: Image) -> Image:
        """From the scale the model worked on, by LR alone, to that of the truth."""
        scanner = drawn * np.float32(self.measured.span) + np.float32(self.measured.intensity.low)
        return np.asarray((scanner - np.float32(self.zero)) / np.float32(self.span))

    def context(self) -> dict[str, Any]:
        """Truth, masks and interpolations of the chosen slices."""
        from srmri_model.baselines.interpolation import INTERPOLATIONS, interpolate
        from srmri_model.upsampling.plan import nearest
        from srmri_model.upsampling.trust import regions

        plan = self.plan
        kinds = self.measured.regions
        # Foreground of LR and the voxels next to it: without these a mask costs every method.
        tissue = nearest(plan, kinds.foreground | kinds.edge)
        found = {
            "truth": self.stack(self.truth),
            "inside": self.stack(self.truth > 0),
            "eroded": self.stack(regions(self.truth > 0).foreground),
            "tissue": self.stack(tissue),
            "chosen": np.array(self.chosen),
            "sigma_y": np.array(self.measured.sigma_y),
            "no_signal": np.array(-self.zero / self.span, dtype=np.float32),
        }
        for name in INTERPOLATIONS:
            volume = interpolate(self.low, self.truth.shape, plan.factors, name)
            found[f"rival {name}"] = self.stack(volume)
        return found

    def draw(self, number: int) -> tuple[Image, dict[str, float]]:
        """One draw of the chosen slices, how it explains LR, and what it cost."""
        began = time.perf_counter()
        if self.job.planes == "3":
            volume, trace = self._draw_volume(number)
            operator = self.drawing.operator()
            axes: tuple[int, ...] = (0, 1, 2)
        else:
            volume, trace = self._draw_slices(number)
            axes = self.axes
            operator = self.drawing.operator(axes[1:])
        seconds = time.perf_counter() - began
        import torch

        kinds = self.measured.regions
        parts = [np.transpose(a, axes) for a in (kinds.foreground, kinds.background)]
        low = np.transpose(self.measured.volume, axes)
        if self.job.planes == "single":
            low, *parts = (a[self.chosen] for a in (low, *parts))
        seen = operator.forward(torch.from_numpy(np.ascontiguousarray(volume))).numpy()
        residual = replace(self.measured, volume=low).residual(seen).astype(np.float64)
        residual /= self.measured.sigma_y
        foreground, background = (residual[part] for part in parts)
        slices = volume if self.job.planes == "single" else self.stack(volume)
        return self.as_truth(slices), {
            "chi2": float(np.mean(foreground**2)),
            "air bias": float(background.mean()),
            **trace,
            "seconds": seconds,
        }

    def _draw_slices(self, number: int) -> tuple[Image, dict[str, float]]:
        import torch

        from srmri_model.samplers import sample
        from srmri_model.upsampling.noise import SliceNoise, antithetic

        drawing, config = self.drawing, self.plan.config
        (denoiser,) = drawing.on_planes()
        stack = np.transpose(self.measured.volume, denoiser.axes)
        images, trace = [], None
        for n in self.chosen:

            def noise_of(number: int, n: int = n) -> SliceNoise:
                return SliceNoise(0, number, [n], correlation=config.z_correlation)

            drawn, trace = sample(
                config.sampler,
                denoiser,
                torch.from_numpy(np.ascontiguousarray(stack[n]))[None, None],
                drawing.operator(denoiser.axes[1:]),
                sigma_y=drawing.sigma_y,
                generator=antithetic(number, noise_of),
                settings=drawing.settings,
                variance=drawing.variance_in((n,), denoiser.axes),
                no_signal=drawing.no_signal,
                mirror=drawing.mirror(denoiser.axes[1:]),
            )
            images.append(drawn[0, 0].numpy())
        assert trace is not None
        return np.stack(images), {"nfe": trace.nfe, "nbe": trace.nbe}

    def _draw_volume(self, number: int) -> tuple[Image, dict[str, float]]:
        from srmri_model.upsampling.draw import draw_volume
        from srmri_model.upsampling.parts import kept_parts

        with kept_parts(self.job.folder / "parts", {"job": repr(self.job)}, anew=True) as parts:
            volume = draw_volume(self.drawing, self.measured.volume, number, parts)
            return volume, {name: parts.trace[name] for name in ("nfe", "nbe")}


def run(job: Job) -> str:
    """Draw what is missing."""
    import torch

    torch.set_num_threads(1)
    done = sorted(int(path.stem[1:]) for path in job.folder.glob("d*.npz"))
    missing = [number for number in range(job.samples) if number not in done]
    if not missing:
        return f"{job.folder}: complete"
    setting = Setting(job)
    if not (job.folder / "context.npz").exists():
        np.savez(job.folder / "context.npz", **setting.context())
    for number in missing:
        slices, found = setting.draw(number)
        partial = job.folder / f"partial-{number}.npz"
        figures = np.array([found[name] for name in FIGURES])
        np.savez(partial, slices=slices, figures=figures)
        partial.rename(job.folder / f"d{number}.npz")
    return f"{job.folder}: {len(missing)} draws"


def measures(image: Image, truth: Image, inside: NDArray[np.bool_], *, perceptual: bool) -> Any:
    """PSNR, SSIM and LPIPS inside the foreground and of the frame, without its border."""
    from srmri_model.metrics import lpips, psnr, ssim

    image, truth = (np.ascontiguousarray(a[2:-2, 2:-2]) for a in (image, truth))
    inside = np.ascontiguousarray(inside[2:-2, 2:-2])
    found = {
        "psnr": psnr(image, truth, inside),
        "psnr frame": psnr(image, truth),
        "ssim": ssim(image, truth, inside),
        "ssim frame": ssim(image, truth),
    }
    if perceptual:
        found["lpips"] = lpips(image, truth, inside)
        found["lpips frame"] = lpips(image, truth)
    return found


def mean_of(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every column."""
    rows = list(rows)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def judged(folder: Path, scale: float) -> dict[str, Any]:
    """Every figure of one animal at one noise."""
    from srmri_model.upsampling.trust import coverage, fit_std_scale

    context = dict(np.load(folder / "context.npz"))
    paths = sorted(folder.glob("d*.npz"), key=lambda path: int(path.stem[1:]))
    drawn = [dict(np.load(path)) for path in paths]
    samples: Image = np.stack([d["slices"] for d in drawn])
    figures = dict(zip(FIGURES, np.mean([d["figures"] for d in drawn], axis=0), strict=True))
    truth, inside, eroded = context["truth"], context["inside"], context["eroded"]

    def over_slices(images: Image, *, perceptual: bool = True) -> dict[str, float]:
        return mean_of(
            measures(*trio, perceptual=perceptual)
            for trio in zip(images, truth, inside, strict=True)
        )

    rivals = {}
    for key in (k for k in context if k.startswith("rival ")):
        name = key.removeprefix("rival ")
        rivals[name] = over_slices(context[key])
        masked = np.where(context["tissue"], context[key], context["no_signal"])
        rivals[f"{name}, masked"] = over_slices(np.asarray(masked, dtype=np.float32))
    eight: list[Image] = list(samples[:8])
    single = mean_of(over_slices(s) for s in eight[:2])
    single |= mean_of(over_slices(s, perceptual=False) for s in eight)

    pairs = [n for n, a in enumerate(context["chosen"][:-1]) if context["chosen"][n + 1] == a + 1]
    both = [eroded[n] & eroded[n + 1] for n in pairs]

    def change(stack: Image) -> float:
        steps = [(stack[n + 1] - stack[n])[m] for n, m in zip(pairs, both, strict=True)]
        return float(np.sqrt(np.mean(np.concatenate(steps).astype(np.float64) ** 2)))

    several = len(samples) > 1
    covers = partial(coverage, samples, truth, inside, opposite=True)
    return {
        "rivals": rivals,
        "single": single,
        "mean": over_slices(samples[:8].mean(axis=0)),
        "coverage": covers(scale=1.0) if several else math.nan,
        "coverage scaled": covers(scale=scale) if several else math.nan,
        "std scale": fit_std_scale(samples, truth, inside, opposite=True) if several else math.nan,
        "z ratio": float(np.mean([change(s) for s in samples])) / change(truth) if pairs else 0.0,
        **{name: float(value) for name, value in figures.items()},
        "seconds": float(figures["seconds"]) / len(truth),
        "sigma_y": float(context["sigma_y"]),
        "draws": len(samples),
    }


def report(out: Path, labels: Sequence[str], scale: float) -> dict[str, Any]:
    """Judge and print everything that was drawn."""
    document: dict[str, Any] = {}
    for label in labels or sorted(p.name for p in out.iterdir() if p.is_dir()):
        cells: dict[str, dict[str, Any]] = {}
        for folder in sorted((out / label).iterdir()):
            if not list(folder.glob("d*.npz")):
                continue
            kept = folder / f"judged-{scale:g}.json"
            count = len(list(folder.glob("d*.npz")))
            found = json.loads(kept.read_text()) if kept.exists() else {}
            if found.get("draws") != count:
                found = judged(folder, scale)
                kept.write_text(json.dumps(found))
            subject, sigma = folder.name.rsplit("-", 1)
            cells.setdefault(sigma, {})[subject] = found
        document[label] = {sigma: summary(found) for sigma, found in cells.items()}
        for sigma, found in document[label].items():
            print(f"\n{label}, σ_y {sigma}, {found['animals']} animals, {found['draws']} draws")
            show(found)
    return document


def summary(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over animals, the best rival of every measure, and gains with their spread."""
    animals = list(cells.values())
    rivals = {name: mean_of(a["rivals"][name] for a in animals) for name in animals[0]["rivals"]}
    best = {}
    for measure in next(iter(rivals.values())):
        found = {name: row[measure] for name, row in rivals.items()}
        choose = min if measure.startswith("lpips") else max
        best[measure] = choose(found, key=found.__getitem__)
    gains = [a["mean"]["psnr"] - a["rivals"][best["psnr"]]["psnr"] for a in animals]
    plain = (
        "chi2",
        "air bias",
        "coverage",
        "coverage scaled",
        "std scale",
        "z ratio",
        "nfe",
        "nbe",
    )
    return {
        "animals": len(animals),
        "draws": min(a["draws"] for a in animals),
        "rivals": rivals,
        "best": best,
        "single": mean_of(a["single"] for a in animals),
        "mean": mean_of(a["mean"] for a in animals),
        "gain_db": [float(np.mean(gains)), float(np.std(gains))],
        "gain_of_mean_db": float(
            np.mean([a["mean"]["psnr"] - a["single"]["psnr"] for a in animals])
        ),
        **mean_of({name: a[name] for name in (*plain, "seconds", "sigma_y")} for a in animals),
    }


def show(found: Mapping[str, Any]) -> None:
    """Print one table."""
    columns = ("psnr", "ssim", "lpips", "psnr frame", "ssim frame", "lpips frame")
    print(f"{'':24s}" + "".join(f"{name:>12s}" for name in columns))
    rows = {**found["rivals"], "single draw": found["single"], "mean of 8": found["mean"]}
    for name, row in rows.items():
        print(f"{name:24s}" + "".join(f"{row[column]:12.3f}" for column in columns))
    best = found["best"]
    rival, perceptual = found["rivals"][best["psnr"]], found["rivals"][best["lpips"]]
    print(
        f"mean {found['gain_db'][0]:+.2f} ± {found['gain_db'][1]:.2f} dB over {best['psnr']}; "
        f"single {found['single']['psnr'] - rival['psnr']:+.2f} dB, LPIPS "
        f"{found['single']['lpips'] / perceptual['lpips']:.2f} × that of {best['lpips']} "
        f"(frame {found['single']['lpips frame'] / perceptual['lpips frame']:.2f} ×); "
        f"mean of 8 gains {found['gain_of_mean_db']:.2f} dB"
    )
    print(
        f"χ²/m {found['chi2']:.3f} · air bias {found['air bias']:+.2f} σ · coverage "
        f"{found['coverage']:.3f}, scaled {found['coverage scaled']:.3f} (scale "
        f"{found['std scale']:.3f}) · z ratio {found['z ratio']:.2f} · "
        f"{found['nfe']:.0f} + {found['nbe']:.0f} evaluations · "
        f"{found['seconds']:.2f} s an image · σ_y found {found['sigma_y']:.4f}"
    )


def volumes_by_subject(folder: Path) -> dict[str, Path]:
    """HR volumes by the subject's number in their names."""
    paths = sorted(folder.glob("*.nii*"))
    return {path.name.split("tp3_")[1].split("_")[0].split(".")[0]: path for path in paths}


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """One job for every animal and noise."""
    split = json.loads(options.split.read_text())
    subjects = options.subjects or split[options.role]
    volumes = volumes_by_subject(options.data)
    settings = dict(text.split("=") for text in options.set)
    return [
        Job(
            volume=volumes[subject],
            subject=subject,
            sigma_y=sigma,
            model=options.model,
            out=options.out,
            label=options.label,
            planes=options.planes,
            plane=options.plane,
            sampler=options.sampler,
            steps=options.steps,
            settings=settings,
            samples=options.samples,
            slices=options.slices,
            noise=None if options.noise_factor is None else sigma * options.noise_factor,
            z_correlation=options.z_correlation,
        )
        for sigma in options.noise
        for subject in subjects
    ]


def sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which animals, how they are degraded and how they are sampled."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the HR volumes")
    parser.add_argument("--split", type=Path, required=True, help="JSON with lists of subjects")
    parser.add_argument("--role", default="tune", help="which list: tune, or once test")
    parser.add_argument("--subjects", nargs="*", help="these instead")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--label", default="fast", help="name of the draws")
    parser.add_argument("--noise", type=float, nargs="*", default=list(NOISES))
    parser.add_argument("--noise-factor", type=float, help="tell σ_y times this, not measured")
    parser.add_argument("--planes", choices=["single", "3"], default="single")
    parser.add_argument("--plane", default="coronal")
    parser.add_argument("--sampler", default="fast")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--z-correlation", type=float, default=0.0)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)


def main() -> None:
    """Draw, or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("sample", help="draw what is missing")
    sampling_options(draw)
    tell = commands.add_parser("report", help="judge and print what was drawn")
    tell.add_argument("labels", nargs="*")
    tell.add_argument("--std-scale", type=float, default=1.0, help="fitted on tune")
    tell.add_argument("--json", type=Path, help="keep the figures here")
    for command in (draw, tell):
        command.add_argument("--out", type=Path, required=True, help="folder of the draws")
    options = parser.parse_args()
    if options.command == "report":
        document = report(options.out, options.labels, options.std_scale)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1))
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers) as pool:
        for line in pool.imap_unordered(run, jobs_of(options)):
            print(line, flush=True)


if __name__ == "__main__":
    main()

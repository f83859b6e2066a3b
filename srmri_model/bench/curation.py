"""`srmri bench curation`: what it is worth to pair well.

Scans with known truth are simulated from training animals that moved, and paired in several ways.
The same network learns from each kind of pairs for as many steps, and is judged on scans of other
animals, whose HR is known.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data.choices import PairSource
from srmri_data.errors import UsageError
from srmri_data.safe_io import read_json, write_json, write_text
from srmri_data.voters import trunk_source
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.upscaler import UPSCALER, Upscaler, load_upscaler
from srmri_model.bench.curation_pairs import (
    FACTOR,
    CurationConfig,
    Gathered,
    PairedSlices,
    Scanned,
)
from srmri_model.checkpoints import Checkpoint, save_checkpoint
from srmri_model.metrics import lpips, psnr, ssim
from srmri_model.training.pairs import PairData, Pairs
from srmri_model.training.ranks import Ranks
from srmri_model.training.slices import CachedVolume, cache_volumes, roles_of
from srmri_model.training.supervised import SupervisedTask
from srmri_model.training.supervised_config import SupervisedConfig

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

SCHEMA_VERSION = 1
"""Layout of ``curation.json``."""

UNTRAINED = "interpolation"
"""Name of the row without a network."""

LABELS: Mapping[str, str] = MappingProxyType(
    {
        UNTRAINED: "no training: bicubic interpolation",
        "paper": "LR scans, --method paper",
        "geometry": "LR scans, --method geometry",
        "bicubic": "no LR scans: HR made smaller, bicubic",
        "truth": "LR scans, known truth",
    }
)
"""What rows are called."""

FIGURES = ("psnr", "ssim", "lpips")
"""What is measured inside the foreground."""

_BORDER = 2
_PHANTOM_SHAPE, _PHANTOM_SPACING = (80, 120, 50), 0.15
# The animals that are judged get noise of their own.
_TEST_NUMBERS = 1000


def run_curation(
    data: Sequence[str],
    out: Path,
    config: CurationConfig,
    *,
    split: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on pairs of several kinds and judge what comes of it.

    What is in `out` already, pairs of an animal, a network, the figures of an animal, is not
    computed again.

    Parameters
    ----------
    data : sequence of str
        HR volumes, or folders of them; none for the phantom.
    out : Path
        Folder for cells and results.
    config : CurationConfig
        The study.
    split : Path, optional
        Which animals train and which are judged, see `srmri_model.training.slices.read_split`; by
        default every eighth animal is judged.
    force : bool
        Replace a study of other settings or data that is in `out`.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        ``curation.json``: settings, and a row for every kind of pairs.

    Raises
    ------
    UsageError
        If there are no animals to train on or to judge, or `out` holds another study.
    WeightsError
        If no trunk of LPIPS is found.
    """
    trunk_source(None)
    step = progress or (lambda *_: None)
    volumes = cache_volumes(
        [Path(source) for source in data or phantoms(out)], out / "cache", progress=progress
    )
    training, judged = _divided(volumes, config, split)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "config": {**asdict(config), "sources": list(config.sources), "voters": [*config.voters]},
        "animals": [volume.subject for volume in training],
        "judged": [volume.subject for volume in judged],
        "volumes": [volume.path.name for volume in (*training, *judged)],
    }
    _claim(out, facts, force=force)
    scans = _Scans(config)
    pairs = {source: _gather(training, source, scans, out, step) for source in config.sources}
    networks: dict[str, Upscaler | None] = {
        source: _train(Gathered(found, config.plane), source, config, out, step)
        for source, found in pairs.items()
    }
    rows = [UNTRAINED, *config.sources]
    scores = _judge(judged, rows, networks, scans, out, step)
    document = {
        **facts,
        "training": _settings(config).to_json(),
        "rows": [_row(name, pairs, scores) for name in rows],
        "scores": scores,
    }
    write_json(out / "curation.json", document)
    write_text(out / "curation.csv", as_csv(document))
    write_text(out / "curation.md", as_markdown(document))
    return document


def phantoms(out: Path, count: int = 4) -> list[str]:
    """Scan animals of the phantom, for a study without data.

    Parameters
    ----------
    out : Path
        Folder of the study; what is there already is kept.
    count : int
        How many.

    Returns
    -------
    list of str
        The folder of their volumes.
    """
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_data.phantom import mouse_brain

    folder = out / "phantom"
    for animal in range(count):
        path = folder / f"phantom{animal}.nii.gz"
        if not path.exists():
            brain = mouse_brain(_PHANTOM_SHAPE, _PHANTOM_SPACING, animal=animal)
            write_nifti(path, np.asarray(brain.data, dtype=np.float32), brain.affine)
    return [str(folder)]


def _divided(
    volumes: Sequence[CachedVolume], config: CurationConfig, split: Path | None
) -> tuple[list[CachedVolume], list[CachedVolume]]:
    """Return the animals to train on, and those to judge on."""
    roles = roles_of([volume.subject for volume in volumes], split)
    role = "validation" if split is None else config.role
    training = [v for v in volumes if roles.get(v.subject) == "train"][: config.animals]
    judged = [v for v in volumes if roles.get(v.subject) == role][: config.test_animals]
    if not training or not judged:
        raise UsageError(
            f"{len(training)} animals to train on and {len(judged)} to judge on "
            f"({role!r}); both are needed",
            hint="give HR volumes of two animals or more, and a --split that names them",
        )
    return training, judged


def _claim(out: Path, facts: Mapping[str, Any], *, force: bool) -> None:
    """Refuse to mix studies."""
    path = out / "study.json"
    if path.exists() and read_json(path) != facts:
        if not force:
            raise UsageError(
                f"{out} holds a study of other settings or data",
                hint="choose another --out, or replace it with --force",
            )
        for folder in ("pairs", "models", "scores"):
            for file in (out / folder).glob("*"):
                file.unlink()
    for folder in ("pairs", "models", "scores"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


def _gather(
    volumes: Sequence[CachedVolume],
    source: PairSource,
    scans: _Scans,
    out: Path,
    step: Progress,
) -> dict[str, PairedSlices]:
    """Pair every training animal's slices."""
    found = {}
    for number, volume in enumerate(volumes):
        step(f"pairs: {source}", number, len(volumes))
        path = out / "pairs" / f"{volume.path.stem}-{source}.npz"
        if not path.exists():
            scans.of(volume, number).examples(source).save(path)
        found[volume.subject] = PairedSlices.load(path)
    step(f"pairs: {source}", len(volumes), len(volumes))
    return found


class _Scans:
    """Scans of animals, simulated when they are first asked for."""

    def __init__(self, config: CurationConfig) -> None:
        self.config = config
        self._made: dict[Path, Scanned] = {}

    def of(self, volume: CachedVolume, number: int) -> Scanned:
        """Return an animal's scans."""
        if volume.path not in self._made:
            moves = number < _TEST_NUMBERS
            self._made[volume.path] = Scanned(volume, self.config, number, moves=moves)
        return self._made[volume.path]


def _settings(config: CurationConfig) -> SupervisedConfig:
    return SupervisedConfig.for_preset(
        config.model, "scaled", steps=config.steps, seed=config.seed, plane=config.plane
    )


def _train(
    pairs: Pairs, source: PairSource, config: CurationConfig, out: Path, step: Progress
) -> Upscaler | None:
    """Train a network, as `srmri train --model` would; None where there is nothing to learn."""
    path = out / "models" / f"{source}.safetensors"
    if not len(pairs):
        return None
    if not path.exists():
        settings = _settings(config)
        task = SupervisedTask(settings)
        task.data = PairData(pairs, pairs, pairs, "voxel-centre", source, (), ((FACTOR, FACTOR),))
        shape = task.shape(None)
        trainer, batches = task.prepare(shape, None, torch.device("cpu"), Ranks())
        with contextlib.closing(batches.following(0)) as following:
            for number in range(config.steps):
                step(f"training: {source}", number, config.steps)
                fraction = number / config.steps
                rate = settings.learning_rate_at(number, fraction)
                trainer.advance(next(following), rate, fraction)
        step(f"training: {source}", config.steps, config.steps)
        weights = dict(trainer.averaged().state_dict())
        metadata = {"trained_on": source, "training": settings.to_json()}
        save_checkpoint(path, Checkpoint(shape, weights, metadata=metadata), UPSCALER)
    return load_upscaler(path)


def _judge(
    volumes: Sequence[CachedVolume],
    rows: Sequence[str],
    networks: Mapping[str, Upscaler | None],
    scans: _Scans,
    out: Path,
    step: Progress,
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every row on every animal; by row and animal."""
    scores: dict[str, dict[str, dict[str, float]]] = {name: {} for name in rows}
    for number, volume in enumerate(volumes):
        step("judging", number, len(volumes))
        for name in rows:
            network = networks.get(name)
            if name != UNTRAINED and network is None:
                continue
            path = out / "scores" / f"{volume.path.stem}-{name}.json"
            if not path.exists():
                examples = scans.of(volume, _TEST_NUMBERS + number).examples("truth")
                write_json(path, _scores(examples, network, scans.config.test_slices))
            scores[name][volume.subject] = read_json(path)
    step("judging", len(volumes), len(volumes))
    return scores


def _scores(examples: PairedSlices, network: Upscaler | None, count: int) -> dict[str, float]:
    """Mean figures over slices, inside the foreground and away from the border."""
    tissue = examples.foreground.mean(axis=(1, 2))
    shown = np.flatnonzero(tissue >= tissue.max() / 4)
    places = np.linspace(0, shown.size - 1, min(count, shown.size)).round()
    found = []
    for number in shown[places.astype(int)]:
        low, high = examples.low_res[number], examples.high_res[number]
        made = _enlarged(low, high.shape, network)
        inner = (slice(_BORDER, -_BORDER),) * 2
        trio = (np.ascontiguousarray(made[inner]), np.ascontiguousarray(high[inner]))
        inside = np.ascontiguousarray(examples.foreground[number][inner])
        found.append([measure(*trio, inside) for measure in (psnr, ssim, lpips)])
    means = np.mean(found, axis=0).tolist()
    return {**dict(zip(FIGURES, means, strict=True)), "slices": len(found)}


def _enlarged(
    low: NDArray[np.float32], shape: tuple[int, ...], network: Upscaler | None
) -> NDArray[np.float32]:
    if network is None:
        return interpolate(low, shape, FACTOR, "bicubic")
    with torch.no_grad():
        made = network(torch.from_numpy(low)[None, None], (shape[0], shape[1]))
    return np.asarray(made[0, 0].numpy())


def _row(
    name: str,
    pairs: Mapping[PairSource, Mapping[str, PairedSlices]],
    scores: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
    """One row of the table: pairs, and mean and standard deviation over animals."""
    row: dict[str, Any] = {"name": name, "label": LABELS[name]}
    animals = [
        found for source, group in pairs.items() if source == name for found in group.values()
    ]
    if animals:
        counts = np.array([len(found.slices) for found in animals])
        row["pairs"] = int(counts.sum())
        row["offered"] = sum(found.offered for found in animals)
        for figure in ("exact", "misplaced"):
            values = np.array([getattr(found, figure) for found in animals])
            used = counts > 0
            row[figure] = (
                float(np.average(values[used], weights=counts[used])) if used.any() else None
            )
    for figure in FIGURES:
        values = np.array([found[figure] for found in scores[name].values()])
        row[figure] = float(values.mean()) if values.size else None
        row[f"{figure}_sd"] = float(values.std(ddof=1)) if values.size > 1 else None
    return row


def as_csv(document: Mapping[str, Any]) -> str:
    """Return a row per kind of pairs and animal.

    Parameters
    ----------
    document : mapping
        From `run_curation`.

    Returns
    -------
    str
        ``source, subject, slices, psnr, ssim, lpips, pairs, offered, exact, misplaced``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_pairs = ("pairs", "offered", "exact", "misplaced")
    writer.writerow(("source", "subject", "slices", *FIGURES, *of_pairs))
    for row in document["rows"]:
        for subject, found in document["scores"][row["name"]].items():
            figures = [round(found[name], 6) for name in FIGURES]
            known = [row.get(name, "") for name in of_pairs]
            writer.writerow((row["name"], subject, found["slices"], *figures, *known))
    return text.getvalue()


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the table, with what it stands on.

    Parameters
    ----------
    document : mapping
        From `run_curation`.

    Returns
    -------
    str
        Markdown.
    """
    config = document["config"]
    lines = [
        f"{config['model'].upper()}, {config['steps']} steps on each kind of pairs, of "
        f"{len(document['animals'])} animals; mean ± sd over {len(document['judged'])} others, "
        f"inside the foreground. LR: k-space truncated by {FACTOR:g} along every axis, complex "
        f"noise at SNR {config['snr']:g}; training animals moved by up to {config['shift']:g} HR "
        f"voxels and {config['tilt']:g}° along and about each axis.",
        "",
        "| trained on | pairs | exact | misplaced in plane | PSNR (dB) | SSIM | LPIPS |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        pairs = f"{row['pairs']} of {row['offered']}" if "pairs" in row else "–"
        exact = _shown(row.get("exact"), "{:.0%}")
        misplaced = _shown(row.get("misplaced"), "{:.2f} voxels")
        figures = [
            _shown(row[name], form) + _shown(row[f"{name}_sd"], " ± " + form, "")
            for name, form in zip(FIGURES, ("{:.2f}", "{:.3f}", "{:.3f}"), strict=True)
        ]
        cells = " | ".join([row["label"], pairs, exact, misplaced, *figures])
        lines.append(f"| {cells} |")
    return "\n".join([*lines, ""])


def _shown(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else form.format(value)

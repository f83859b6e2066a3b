"""What each step has made, read as the next one reads it and held against the known truth.

Every check takes the story's folder, returns what it found in sentences, and raises `StoryError` at
the first thing that is wrong.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.story.reader import read_rows
from srmri_data import ingest
from srmri_data.errors import SrmriError
from srmri_data.geometry import apply_affine
from srmri_data.intensity import foreground_mask
from srmri_data.run_folder import Run, open_run, read_pairs
from srmri_data.safe_io import read_json, sha256_file
from srmri_data.simulate import Truth, read_truth, voxels_sha256
from srmri_data.volumes import Volume

ANIMALS = ("mouse-1", "mouse-2", "mouse-3")
DATASET = "story/phantom-mice"
REVISION = "v1.0.0"

_PAIRED_SHARE = 0.75
# Few steps with a model of minutes leave it between 0.9 and 1.4; what LR contradicts, far above.
_CHI2 = (0.5, 2.0)
_NOISE = (0.85, 1.2)
_CORRELATION = 0.4


class StoryError(SrmriError):
    """A step made something else than it should have."""


def _expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise StoryError(complaint, hint="logs/ holds what the commands said; --force begins anew")


def load_scan(study: Path) -> Volume:
    """Read the one scan of a study as every command does.

    Parameters
    ----------
    study : Path
        ParaVision study or image file.

    Returns
    -------
    Volume
        In scanner units.
    """
    (record,) = ingest.discover(study)
    return ingest.load(record).scaled()


def runs_of(out: Path) -> dict[str, Run]:
    """Return the run folder of every animal, by the name it was scanned under.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    dict
        In the order of the cohort.
    """
    cohort = out / "cohort"
    units = read_json(cohort / "cohort.json")["units"]
    return {unit["subject"]: open_run(cohort / unit["run"]) for unit in units if unit["run"]}


def true_positions(run: Run, truth: Truth) -> NDArray[np.float64]:
    """Return where each LR slice of a run really is.

    Parameters
    ----------
    run : Run
        A pairing.
    truth : Truth
        How its LR scan was made.

    Returns
    -------
    (n,) ndarray
        HR slice coordinate of the reference point of every row of ``pairs``.
    """
    low, high = (np.asarray(run.summary[role]["to_voxel"]) for role in ("lr", "hr"))
    points = read_pairs(run.path)[["lr_slice", "ref_row", "ref_col"]].to_numpy(float)
    return np.asarray(apply_affine(np.linalg.inv(high) @ truth.low_to_high @ low, points)[:, 0])


def animal_truth(out: Path, animal: str) -> Truth:
    """Read the truth about an animal's LR scan.

    Parameters
    ----------
    out : Path
        Folder of the story.
    animal : str
        Its name.

    Returns
    -------
    Truth
        What `srmri simulate` recorded.
    """
    return read_truth(out / "scans" / animal / "lr" / "truth.json")


def check_scans(out: Path) -> list[str]:
    """Read the scans and their truth.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        What there is.
    """
    seen = set()
    folders = [*(out / "scans" / animal for animal in ANIMALS), out / "held-back"]
    for folder in folders:
        low, high = load_scan(folder / "lr"), load_scan(folder / "hr")
        document = read_json(folder / "lr" / "truth.json")
        for file in document["low_res"]["files"]:
            _expect(
                sha256_file(folder / "lr" / file["path"]) == file["sha256"],
                f"{folder.name}: {file['path']} of LR is not the file truth.json speaks of",
            )
        _expect(
            voxels_sha256(high.data) == document["high_res"]["voxels_sha256"],
            f"{folder.name}: the HR scan is not the one LR was simulated from",
        )
        for role, volume in (("low_res", low), ("high_res", high)):
            _expect(
                volume.shape == tuple(document[role]["shape"])
                and np.allclose(volume.affine, document[role]["affine"], atol=1e-5),
                f"{folder.name}: the {role} scan lies elsewhere than truth.json says",
            )
        seen.add(voxels_sha256(high.data))
    _expect(len(seen) == len(folders), "two animals have the same HR scan")
    sizes = " × ".join(map(str, high.shape)), " × ".join(map(str, low.shape))
    return [f"{len(folders)} animals; the last one, HR {sizes[0]} and LR {sizes[1]}, is held back"]


def check_pairs(out: Path) -> list[str]:
    """Hold the pairs against the motion that was simulated; the matcher never knew it.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        Counts and errors.
    """
    counts = read_json(out / "cohort" / "cohort.json")["counts"]
    _expect(
        (counts["units"], counts["done"]) == (len(ANIMALS), len(ANIMALS)),
        f"cohort: {counts['done']} of {counts['units']} units are paired, expected {len(ANIMALS)}",
    )
    runs = runs_of(out)
    _expect(set(runs) == set(ANIMALS), f"cohort: the subjects are {', '.join(sorted(runs))}")
    worst, paired, queued = 0.0, 0, 0
    for animal, run in runs.items():
        pairs = read_pairs(run.path)
        accepted = (pairs["auto_status"] == "auto").to_numpy()
        _expect(
            (len(pairs), int(accepted.sum())) == (run.summary["n_lr"], counts_of(run, "auto")),
            f"{animal}: the table of pairs and the summary do not count alike",
        )
        _expect(
            accepted.mean() >= _PAIRED_SHARE,
            f"{animal}: {accepted.sum()} of {len(pairs)} slices are paired, too few",
        )
        off = np.abs(pairs["auto_hr_position"] - true_positions(run, animal_truth(out, animal)))
        error = float(off[accepted].max())
        _expect(error <= 0.5, f"{animal}: an accepted pair is {error:.2f} HR slices off")
        worst, paired, queued = (
            max(worst, error), paired + int(accepted.sum()), queued + int((~accepted).sum())
        )  # fmt: skip
    _expect(queued > 0, "the queue is empty: there is nothing to review in this story")
    return [f"{paired} pairs, none more than {worst:.3f} HR slices off; {queued} wait for review"]


def counts_of(run: Run, status: str) -> int:
    """Return how many slices the matcher gave a status.

    Parameters
    ----------
    run : Run
        A pairing.
    status : {"auto", "review"}
        Which.

    Returns
    -------
    int
        Rows, as the table had them before any review.
    """
    return int((read_pairs(run.path)["auto_status"] == status).sum())


def check_review(out: Path) -> list[str]:
    """Hold what the reviewers' answers came to against the truth.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        Counts.
    """
    total: Counter[str] = Counter()
    settled = 0
    for animal, run in runs_of(out).items():
        pairs = read_pairs(run.path)
        status = Counter(pairs["status"])
        summary = run.summary
        _expect(
            not status["review"] and not summary["queued"],
            f"{animal}: slices still wait for review",
        )
        _expect(
            (status["auto"], status["decided"], status["rejected"])
            == (summary["n_pairs"], summary["decided"], summary["rejected"]),
            f"{animal}: the table of pairs and the summary do not count alike",
        )
        error = np.abs(pairs["hr_position"] - true_positions(run, animal_truth(out, animal)))
        decided = (pairs["status"] == "decided").to_numpy()
        _expect(bool((error[decided] <= 0.5 + 1e-6).all()), f"{animal}: a reviewer's pair is wrong")
        rejected = pairs[pairs["status"] == "rejected"]
        _expect(bool(rejected["empty"].all()), f"{animal}: a slice with tissue was rejected")
        settled += sum('"adjudicates": true' in line for line in _log(run))
        total += status
    _expect(settled > 0, "no disagreement was adjudicated, and the story has one")
    return [
        f"{total['decided']} decided, {total['rejected']} near-empty slices rejected, none waits; "
        f"{settled} disagreement adjudicated"
    ]


def _log(run: Run) -> list[str]:
    return (run.path / "reviews.jsonl").read_text(encoding="utf-8").splitlines()


def check_dataset(out: Path) -> list[str]:
    """Read the staged dataset, and hold its HR scans against the scanner's.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        Rows.
    """
    from srmri_data.staged import read_staged

    folder = out / "dataset"
    staged = read_staged(folder)
    rows = read_rows(str(folder))
    leaving = Counter(
        status
        for run in runs_of(out).values()
        for status in read_pairs(run.path)["status"]
        if status in ("auto", "decided")
    )
    n_pairs = sum(row["rows"] for row in rows["pairs"].values())
    _expect(
        n_pairs == leaving.total(),
        f"dataset: {n_pairs} pairs, but {leaving.total()} were accepted or decided",
    )
    splits = [row["subjects"] for row in rows["pairs"].values()]
    _expect(
        len(set().union(*splits)) == sum(map(len, splits)) == len(ANIMALS),
        "dataset: an animal is in two splits, or in none",
    )
    scanned = [load_scan(out / "scans" / animal / "hr") for animal in ANIMALS]
    exported = [load_scan(path) for path in sorted(folder.glob("volumes/*/*_hr.nii.gz"))]
    same = np.array([[_same(one, other) for other in exported] for one in scanned])
    _expect(
        bool((same.sum(axis=0) == 1).all() and (same.sum(axis=1) == 1).all()),
        "dataset: its HR volumes are not the ones that were scanned",
    )
    text = "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.*") if p.suffix != ".gz")
    _expect(not any(a in text for a in ANIMALS), "dataset: an animal is called by its own name")
    return [
        f"{n_pairs} pairs of {len(ANIMALS)} animals in {len(splits)} splits, "
        f"{len(staged.files)} files with checksums; HR voxels as scanned"
    ]


def _same(one: Volume, other: Volume) -> bool:
    """Whether two volumes are one scan, written in two formats."""
    return (
        one.shape == other.shape
        and np.allclose(one.affine, other.affine, atol=1e-4)
        and np.allclose(one.data, other.data, rtol=1e-6, atol=1e-6 * float(one.data.max()))
    )


def check_published(out: Path) -> list[str]:
    """Hold what was read from the hub, in a process of its own, against the folder.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        What readers of the hub get.
    """
    served, staged = read_json(out / "hub-rows.json"), read_rows(str(out / "dataset"))
    _expect(served.keys() == staged.keys(), "the hub serves other tables than the dataset has")
    for config, split in product(staged, ("train", "validation", "test")):
        _expect(
            served[config][split] == staged[config][split],
            f"hub: {config}/{split} is not what was staged",
        )
    rows = sum(row["rows"] for splits in served.values() for row in splits.values())
    return [f"{DATASET}@{REVISION}: all {rows} rows read back from the hub, every pixel as staged"]


def check_model(out: Path) -> list[str]:
    """Load the model, and see what it was trained on.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        Steps and hash.
    """
    from srmri_model.checkpoints import load_checkpoint

    path = out / "model" / "model.safetensors"
    load_checkpoint(path)
    sha256 = sha256_file(path)
    summary, config = (read_json(path.parent / f"{name}.json") for name in ("summary", "config"))
    _expect(
        sha256 == summary["weights_sha256"],
        f"{path.name} is not the model that training wrote last",
    )
    _expect(
        config["data"] == [f"{DATASET}@{REVISION}"],
        f"the model was trained on {config['data']}, not on the hub's dataset",
    )
    served = read_json(out / "hub-rows.json")["slices_hr"]["train"]["rows"]
    _expect(
        summary["n_train"] == served,
        f"the model saw {summary['n_train']} slices; the hub serves {served} for training",
    )
    gain = max(row["gain_db"] for row in summary["val_by_sigma"])
    _expect(summary["steps"] > 0 and gain > 0, "the model denoises no better than doing nothing")
    return [
        f"{summary['steps']} steps on {served} slices from the hub, SHA-256 {sha256[:12]}, "
        f"denoises by up to {gain:.0f} dB"
    ]


def check_upsampled(out: Path) -> list[str]:
    """Hold the HR volume against the animal it shows.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    list of str
        Grid, noise, χ² and likeness.
    """
    sidecar = read_json(out / "upsampled" / "held-back.json")
    model = read_json(out / "model" / "summary.json")["weights_sha256"]
    _expect(sidecar["weights_sha256"] == model, "the HR volume was drawn with another model")
    drawn, truth = volumes_of(out)
    _expect(
        drawn.shape == truth.shape and np.allclose(drawn.affine, truth.affine, atol=1e-4),
        f"the HR volume of {drawn.shape} does not lie where the truth of {truth.shape} lies",
    )
    known = read_truth(out / "held-back" / "lr" / "truth.json").noise_sigma
    ratio = sidecar["noise"]["sigma"] / known
    _expect(
        _NOISE[0] <= ratio <= _NOISE[1],
        f"noise was found to be {ratio:.2f} times what was simulated",
    )
    chi2 = sidecar["chi2"] * ratio**2
    _expect(
        _CHI2[0] <= chi2 <= _CHI2[1],
        f"χ²/m is {chi2:.2f} with the noise that was simulated: not what LR allows",
    )
    likeness = _likeness(drawn.data, truth.data)
    best = max(likeness, key=lambda shift: likeness[shift])
    _expect(
        best == (0, 0, 0), f"the HR volume resembles the truth more when moved by {best} voxels"
    )
    _expect(
        likeness[best] >= _CORRELATION,
        f"the HR volume resembles the truth too little: correlation {likeness[best]:.2f}",
    )
    return [
        f"on the truth's grid, χ²/m {chi2:.2f} with the simulated noise, "
        f"correlation with the truth {likeness[best]:.2f} and nowhere better"
    ]


def volumes_of(out: Path) -> tuple[Volume, Volume]:
    """Read the HR volume that was drawn, and what it should show.

    Parameters
    ----------
    out : Path
        Folder of the story.

    Returns
    -------
    drawn, truth : Volume
        In scanner units.
    """
    return (
        load_scan(out / "upsampled" / "held-back.nii.gz"),
        load_scan(out / "held-back" / "truth" / "low_res.nii.gz"),
    )


def _likeness(
    drawn: NDArray[np.float32], truth: NDArray[np.float32]
) -> dict[tuple[int, ...], float]:
    """Correlate in the tissue, as it lies and moved by a voxel along each axis."""
    tissue = foreground_mask(truth)
    moves = [(0, step) for step in (0, 1, -1)] + [(axis, s) for axis in (1, 2) for s in (1, -1)]
    shifts = [tuple(step * (a == axis) for a in range(3)) for axis, step in moves]
    return {
        shift: float(np.corrcoef(np.roll(drawn, shift, (0, 1, 2))[tissue], truth[tissue])[0, 1])
        for shift in shifts
    }


def check_tables(out: Path, methods: tuple[str, ...]) -> list[str]:
    """Read the table of results.

    Parameters
    ----------
    out : Path
        Folder of the story.
    methods : tuple of str
        Those that were asked for.

    Returns
    -------
    list of str
        Rows.
    """
    folder = out / "tables"
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["method"] for row in rows}
    _expect(
        found == set(methods),
        f"tables: {', '.join(sorted(found ^ set(methods)))} missing, or not asked for",
    )
    tested = read_json(out / "hub-rows.json")["pairs"]["test"]["subjects"]
    _expect(
        {row["subject"] for row in rows} == set(tested),
        f"tables: the animal that is for testing, {tested[0]}, is not the one that was tested",
    )
    _expect(
        all(math.isfinite(float(row[name])) for row in rows for name in ("psnr", "ssim", "lpips")),
        "tables: a figure is missing",
    )
    each = Counter(row["method"] for row in rows)
    _expect(len(set(each.values())) == 1, "tables: methods were judged differently often")
    for name in ("index.html", "tables.md", "tables.tex"):
        text = (folder / name).read_text(encoding="utf-8")
        _expect("HR repeat" in text, f"tables: {name} lacks the ceiling")
    return [f"{len(rows)} rows of {len(found)} methods on the test animal of the hub's dataset"]

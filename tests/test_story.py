"""The story: every check notices a product that is damaged, and the whole of it runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_runs import KEY, blob, pair
from upsample_runs import write_checkpoint

from examples.story import checks
from examples.story.__main__ import _open_ledger
from examples.story.checks import ANIMALS, DATASET, REVISION, StoryError
from examples.story.reader import read_rows
from examples.story.steps import METHODS, steps
from srmri_data.errors import UsageError
from srmri_data.export import ExportConfig, plan_export, write_export
from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.formats.paravision_writer import write_paravision_study
from srmri_data.review_merge import decide_at_terminal, export_reviews
from srmri_data.run_folder import open_run, read_pairs, write_pairs
from srmri_data.safe_io import read_json, sha256_file, write_json
from srmri_data.simulate import SimulationConfig, run_simulate

PROJECT = Path(__file__).resolve().parents[1]
SHIFT = (30.0, -60.0, 20.0)


def scan_animals(out: Path) -> None:
    """Scan four soft blobs, each twice."""
    for seed, name in enumerate((*ANIMALS, "held-back")):
        place = out / "scans" / name if name in ANIMALS else out / name
        write_paravision_study(blob(seed), place / "hr", subject_id=name)
        config = SimulationConfig(shift_um=SHIFT, seed=seed, snr=30)
        high = checks.load_scan(place / "hr")
        run_simulate(high, config, place / "lr", format="paravision")
    exact = SimulationConfig(factor=(1.0, 2.0, 1.0), shift_um=SHIFT)
    run_simulate(high, exact, out / "held-back" / "truth", format="nifti")


def pair_animals(out: Path) -> None:
    """Pair as quickly as can be, and put the pairs where a good matcher would."""
    units = []
    for animal in ANIMALS:
        place, name = out / "scans" / animal, f"sub-{animal}"
        run = open_run(pair(place / "lr", place / "hr", out / "cohort" / name))
        truth = checks.animal_truth(out, animal)
        position = checks.true_positions(run, truth) + 0.1
        waits = np.arange(len(position)) < 2
        pairs = read_pairs(run.path).assign(
            hr_slice=position.round().astype("int32"), hr_position=position,
            status=np.where(waits, "review", "auto"), empty=waits,
        )  # fmt: skip
        for column in ("hr_slice", "hr_position", "status"):
            pairs[f"auto_{column}"] = pairs[column]
        write_pairs(run.path, pairs)
        counts = {"n_pairs": int((~waits).sum()), "queued": int(waits.sum())}
        write_json(run.path / "summary.json", {**run.summary, **counts})
        units.append({"subject": animal, "run": name})
    counts = {"units": len(units), "done": len(units)}
    write_json(out / "cohort" / "cohort.json", {"counts": counts, "units": units})


def review_pairs(out: Path) -> None:
    """Settle what waits, once against somebody's doubt."""
    for animal, run in checks.runs_of(out).items():
        for lr_slice in read_pairs(run.path)["lr_slice"][:2]:
            decide_at_terminal(run.path, f"{lr_slice}=none", reviewer="ann")
        if animal == ANIMALS[-1]:
            decide_at_terminal(run.path, f"{lr_slice}=unsure", reviewer="ben")
            decide_at_terminal(run.path, f"{lr_slice}=none", reviewer="cleo", adjudicates=True)
        # One that nobody asked for, so that something is decided.
        sure = read_pairs(run.path).iloc[5]
        decide_at_terminal(run.path, f"{sure['lr_slice']}={sure['hr_slice']}", reviewer="ann")
        export_reviews(run.path)


def export_pairs(out: Path) -> None:
    """Make the dataset, and read it as if from the hub."""
    key = out / "key"
    key.write_text(KEY.hex())
    key.chmod(0o600)
    runs = [run.path for run in checks.runs_of(out).values()]
    config = ExportConfig(license="CC0-1.0", species="Mus musculus", key=key)
    write_export(plan_export(runs, config=config), out / "dataset")
    write_json(out / "hub-rows.json", read_rows(str(out / "dataset")))


def train_model(out: Path) -> None:
    """Leave a model of a few hundred weights."""
    folder = out / "model"
    folder.mkdir()
    path = write_checkpoint(folder / "model.safetensors")
    summary = {
        "steps": 3, "weights_sha256": sha256_file(path), "val_by_sigma": [{"gain_db": 4.0}],
        "n_train": read_json(out / "hub-rows.json")["slices_hr"]["train"]["rows"],
    }  # fmt: skip
    write_json(folder / "summary.json", summary)
    write_json(folder / "config.json", {"data": [f"{DATASET}@{REVISION}"]})


def upsample_scan(out: Path) -> None:
    """Leave an HR volume that is the truth with noise."""
    truth = checks.load_scan(out / "held-back" / "truth" / "low_res.nii.gz")
    noise = np.random.default_rng(0).normal(0, 0.05 * truth.data.max(), truth.shape)
    folder = out / "upsampled"
    folder.mkdir()
    write_nifti(folder / "held-back.nii.gz", (truth.data + noise).astype("f4"), truth.affine)
    sigma = read_json(out / "held-back" / "lr" / "truth.json")["noise_sigma"]
    weights = read_json(out / "model" / "summary.json")["weights_sha256"]
    sidecar = {"chi2": 1.02, "noise": {"sigma": 1.03 * sigma}, "weights_sha256": weights}
    write_json(folder / "held-back.json", sidecar)


def fill_tables(out: Path) -> None:
    """Leave a row for every method."""
    folder = out / "tables"
    folder.mkdir()
    (subject,) = read_json(out / "hub-rows.json")["pairs"]["test"]["subjects"]
    write_rows(folder, [row_of(method, subject) for method in METHODS])
    for name in ("index.html", "tables.md", "tables.tex"):
        (folder / name).write_text("HR repeat (simulated)")


def row_of(method: str, subject: str) -> dict[str, str]:
    return {"method": method, "subject": subject, "psnr": "20", "ssim": ".7", "lpips": ".1"}


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "results.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A story's folder in miniature; tests damage copies of it."""
    out = tmp_path_factory.mktemp("story") / "out"
    for make in (scan_animals, pair_animals):
        make(out)
    # What waits for review is checked before it is settled.
    assert checks.check_pairs(out) == [
        "39 pairs, none more than 0.100 HR slices off; 6 wait for review"
    ]
    for make in (review_pairs, export_pairs, train_model, upsample_scan, fill_tables):
        make(out)
    return out


@pytest.fixture
def story(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "out")


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_pairs(out: Path, change: Callable[[Any], Any]) -> None:
    run = checks.runs_of(out)[ANIMALS[0]]
    write_pairs(run.path, change(read_pairs(run.path)))


def test_every_step_of_a_sound_story_passes_its_check(story):
    found = [sentence for step in steps(2.0) for sentence in step.check(story)]
    assert len(found) == 8
    assert "1 disagreement adjudicated" in found[2]


def swap_scans(out: Path) -> None:
    shutil.rmtree(out / "scans/mouse-1/hr")
    shutil.copytree(out / "scans/mouse-2/hr", out / "scans/mouse-1/hr")


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def move_volume(out: Path, by: int) -> None:
    path = out / "upsampled/held-back.nii.gz"
    volume = checks.load_scan(path)
    write_nifti(path, np.roll(volume.data, by, 2), volume.affine)


def shift_grid(out: Path) -> None:
    path = out / "upsampled/held-back.nii.gz"
    volume = checks.load_scan(path)
    affine = volume.affine.copy()
    affine[0, 3] += 0.05
    write_nifti(path, volume.data, affine)


def lose_method(out: Path) -> None:
    (subject,) = read_json(out / "hub-rows.json")["pairs"]["test"]["subjects"]
    write_rows(out / "tables", [row_of(method, subject) for method in METHODS[1:]])


def name_animal(out: Path) -> None:
    """Put a name into the card, as if de-identification had let it through."""
    card = out / "dataset/README.md"
    card.write_text(card.read_text() + "\nOf mouse-2.\n")
    sums = out / "dataset/checksums.sha256"
    lines = [x for x in sums.read_text().splitlines() if not x.endswith("  README.md")]
    sums.write_text("\n".join([*lines, f"{sha256_file(card)}  README.md"]) + "\n")


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "another animal's HR": ("scan", swap_scans, "the HR scan is not the one"),
    "a changed LR file": (
        "scan", lambda out: flip_byte(out / "scans/mouse-1/lr/1/pdata/1/2dseq"), "2dseq of LR"),
    "an animal that was not paired": (
        "pair", lambda out: edit(out / "cohort/cohort.json", lambda d: d["counts"].update(done=2)),
        "2 of 3 units"),
    "a pair one slice off": (
        "pair", lambda out: edit_pairs(out, lambda p: p.assign(
            auto_hr_position=p["auto_hr_position"] + (p["lr_slice"] == 6))), "slices off"),
    "few pairs": (
        "pair", lambda out: edit_pairs(out, lambda p: p.assign(
            auto_status=["auto" if n > 8 else "review" for n in p["lr_slice"]])), "too few"),
    "a slice that waits": (
        "review", lambda out: edit_pairs(out, lambda p: p.assign(
            status=["review", *p["status"][1:]])), "still wait"),
    "a reviewer's blunder": (
        "review", lambda out: edit_pairs(out, lambda p: p.assign(
            hr_position=p["hr_position"] + 2 * (p["status"] == "decided").astype(float))),
        "pair is wrong"),
    "a rejected slice with tissue": (
        "review", lambda out: edit_pairs(out, lambda p: p.assign(empty=False)), "with tissue"),
    "a lost adjudication": (
        "review", lambda out: [
            (run.path / "reviews.jsonl").write_text("") for run in checks.runs_of(out).values()
        ], "no disagreement"),
    "fewer pairs than were settled": (
        "export", lambda out: edit_pairs(out, lambda p: p.assign(status="auto")), "were accepted"),
    "a dataset of other scans": ("export", swap_scans, "not the ones that were scanned"),
    "an animal's name": ("export", name_animal, "by its own name"),
    "another pixel on the hub": (
        "publish", lambda out: edit(out / "hub-rows.json", lambda d: d["pairs"]["test"].update(
            sha256="0")), "hub: pairs/test"),
    "a table the hub lacks": (
        "publish", lambda out: edit(out / "hub-rows.json", lambda d: d.pop("pairs")),
        "other tables"),
    "another model": (
        "train", lambda out: write_checkpoint(out / "model/model.safetensors", note="another"),
        "not the model"),
    "a model of other data": (
        "train", lambda out: edit(out / "model/config.json", lambda d: d.update(data=["x"])),
        "not on the hub's"),
    "a model that saw fewer slices": (
        "train", lambda out: edit(out / "model/summary.json", lambda d: d.update(n_train=1)),
        "saw 1 slices"),
    "a model that learned nothing": (
        "train", lambda out: edit(out / "model/summary.json", lambda d: d.update(
            val_by_sigma=[{"gain_db": -0.1}])), "no better"),
    "HR drawn with another model": (
        "upsample", lambda out: edit(out / "model/summary.json", lambda d: d.update(
            weights_sha256="0")), "another model"),
    "HR half a voxel off": ("upsample", shift_grid, "does not lie"),
    "HR one voxel off inside its grid": (
        "upsample", lambda out: move_volume(out, 1), r"moved by \(0, 0, -1\)"),
    "HR of something else": (
        "upsample", lambda out: move_volume(out, 11), "resembles the truth"),
    "noise that was not there": (
        "upsample", lambda out: edit(out / "upsampled/held-back.json", lambda d: d["noise"].update(
            sigma=3 * d["noise"]["sigma"])), "times what was simulated"),
    "HR that LR does not allow": (
        "upsample", lambda out: edit(out / "upsampled/held-back.json", lambda d: d.update(chi2=3)),
        "not what LR allows"),
    "a method that is missing": ("tables", lose_method, "bicubic missing"),
    "tables of another animal": (
        "tables", lambda out: write_rows(out / "tables", [row_of(m, "s0") for m in METHODS]),
        "not the one that was tested"),
    "a page without the ceiling": (
        "tables", lambda out: (out / "tables/tables.md").write_text("-"), "lacks the ceiling"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_product_is_noticed_by_the_check_of_its_step(story, damage):
    name, spoil, complaint = DAMAGES[damage]
    (step,) = (step for step in steps(2.0) if step.name == name)
    spoil(story)
    with pytest.raises(StoryError, match=complaint):
        step.check(story)


def test_every_check_has_a_damage_that_it_notices():
    assert {name for name, _, _ in DAMAGES.values()} == {step.name for step in steps(2.0)}


def test_damaged_weights_and_files_of_the_dataset_are_refused(story):
    for path, step in (("model/model.safetensors", "train"), ("dataset/splits.json", "export")):
        flip_byte(story / path)
        (check,) = (each.check for each in steps(2.0) if each.name == step)
        with pytest.raises(ValueError, match=Path(path).name):
            check(story)


def test_a_story_goes_on_unless_it_is_another_and_keeps_out_of_other_folders(tmp_path):
    out = tmp_path / "out"
    begun = _open_ledger(out, 2.0, force=False)
    assert begun["steps"] == {}
    write_json(out / "story.json", {**begun, "steps": {"scan": {"seconds": 1.0}}})
    assert list(_open_ledger(out, 2.0, force=False)["steps"]) == ["scan"]
    assert _open_ledger(out, 3.0, force=False)["steps"] == {}
    write_json(out / "story.json", {**begun, "steps": {"scan": {"seconds": 1.0}}})
    assert _open_ledger(out, 2.0, force=True)["steps"] == {}
    (out / "story.json").unlink()
    with pytest.raises(UsageError, match="no story's folder"):
        _open_ledger(out, 2.0, force=True)


def test_products_that_the_page_links_to_are_named_once():
    paths = [path for step in steps(2.0) for path in step.products]
    assert len(set(paths)) == len(paths)


@pytest.mark.slow
def test_the_whole_story_holds_and_its_page_links_to_what_is_there(tmp_path):
    command = [sys.executable, "-m", "examples.story", "--out", str(tmp_path / "story"),
               "--minutes", "0.3"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "The whole chain holds" in done.stdout
    out = tmp_path / "story"
    page = (out / "index.html").read_text(encoding="utf-8")
    for step in steps(0.3):
        for path in (*step.products, f"logs/{step.name}.txt"):
            assert f'href="{path}"' in page
            assert (out / path).exists()
    again = subprocess.run(
        command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("kept from before") == len(list(steps(0.3))) - 1

"""Every command as a user runs it: output, exit codes, nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cli import app
from srmri_data.run_folder import PAIRS_DTYPES, VOTES_DTYPES, open_run, read_pairs, read_votes

PROJECT = Path(__file__).resolve().parents[1]
FAST = ["--voters", "pca,ssim", "--trim", "0", "-q"]
COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


def srmri(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def run(tiny_pair, tmp_path_factory):
    """One run of the tiny pair with two voters."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--lr", tiny_pair.low, "--hr", tiny_pair.high, "--truth", tiny_pair.truth]
    result = srmri("pair", *arguments, "--out", out, "--json", *FAST)
    assert json.loads(result.stdout) == json.loads(
        (out / "summary.json").read_text(encoding="utf-8")
    )
    return out


def test_help_names_every_command_and_the_exit_codes():
    text = srmri("--help").stdout
    for command in COMMANDS:
        assert command in text
    assert "130 interrupted" in text
    assert srmri("--version").stdout.startswith("srmri ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"srmri {command}" in (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["cli", "srmri_data", "srmri_data.ingest", "srmri_data.pairing"])
def test_import_is_light(module):
    heavy = ("torch", "pandas", "sklearn", "skimage", "matplotlib", "SimpleITK", "numba")
    heavy += ("nibabel", "numpy") if module == "cli" else ()
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert done.stdout.strip() == "[]"


def test_inspect_prints_what_is_there(tiny_pair):
    document = json.loads(srmri("inspect", tiny_pair.high, "--json").stdout)
    (scan,) = document["scans"]
    assert scan["matrix"] == [80, 120, 50]
    assert scan["spacing"] == pytest.approx([0.15] * 3, abs=1e-6)
    assert scan["planes"]["coronal"] == {"count": 120, "rows": 50, "cols": 80}
    assert scan["subject_type"] == "Quadruped"
    assert scan["problems"] == []
    text = srmri("inspect", tiny_pair.high).stdout
    assert "80 × 120 × 50" in text
    assert "coronal 120 of 50×80" in text


def test_pair_writes_the_run_folder(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "pairs.csv", "pairs.parquet", "votes.parquet", "summary.json", "provenance.json",
        "hr_aligned.nii.gz", "hr_aligned_mask.nii.gz", "transform.tfm", "figures", "index.html",
    }  # fmt: skip
    summary = open_run(run).summary
    pairs, votes = read_pairs(run), read_votes(run)
    assert list(pairs.columns) == list(PAIRS_DTYPES)
    assert list(votes.columns) == list(VOTES_DTYPES)
    assert len(pairs) == summary["n_lr"] == summary["n_pairs"] + summary["queued"]
    # Each voter ranks the candidates near the registration, each once.
    for _, ranked in votes.groupby(["lr_slice", "voter"]):
        assert sorted(ranked["rank"]) == list(range(1, len(ranked) + 1))
        assert (np.diff(ranked["hr_slice"]) == 1).all()
    assert set(votes["voter"]) == {"pca", "ssim"}
    assert pairs["vote_lpips"].isna().all()
    text = pd.read_csv(run / "pairs.csv")
    np.testing.assert_allclose(text["hr_position"], pairs["hr_position"], atol=1e-6)
    # Votes are told at the reference point, where the position is, too.
    agreed = pairs[pairs["n_votes"] == 2]
    assert len(agreed) > 0.8 * len(pairs)
    apart = agreed["vote_ssim"].astype(float) - agreed["geom_position"].astype(float)
    assert apart.abs().max() <= 1.5 + 1e-3
    for key in ("exact", "mae_slices", "mae_um", "p95_slices", "blunders", "wrongly_accepted"):
        assert key in summary
    # Two voters without LPIPS is said wherever the result is shown.
    assert summary["voters"] == ["pca", "ssim"]


def test_aligned_volume_lies_on_low_res_planes(run, tiny_pair):
    aligned = nib.load(run / "hr_aligned.nii.gz")
    pairs = read_pairs(run)
    assert aligned.shape[2] == len(pairs)
    assert aligned.get_data_dtype() == np.uint16
    zooms = np.array(aligned.header.get_zooms(), dtype=float)
    np.testing.assert_allclose(zooms, [0.15, 0.15, 0.30], atol=1e-4)
    mask = np.asarray(nib.load(run / "hr_aligned_mask.nii.gz").dataobj)
    assert mask.shape == aligned.shape
    assert 0.9 < mask.mean() <= 1
    # World positions hold: HR sampled at an aligned voxel's place has its value.
    from srmri_data import ingest

    (record,) = ingest.discover(tiny_pair.high)
    high = ingest.load(record)
    values = np.asarray(aligned.dataobj)
    index = np.array([40, 25, 30])
    place = np.linalg.inv(high.affine) @ aligned.affine @ [*index, 1]
    below = np.floor(place[:3] + 1e-4).astype(int)
    neighbours = high.data[tuple(slice(n, n + 2) for n in below)]
    assert neighbours.min() * 0.8 <= values[tuple(index)] <= neighbours.max() * 1.2


def test_same_input_same_decisions(run, tiny_pair, tmp_path):
    out = tmp_path / "again"
    srmri("pair", "--lr", tiny_pair.low, "--hr", tiny_pair.high, "--truth", tiny_pair.truth,
          "--out", out, *FAST)  # fmt: skip
    for name in ("pairs.csv", "votes.parquet", "hr_aligned.nii.gz"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_dry_run_writes_nothing(tiny_pair, tmp_path):
    out = tmp_path / "run"
    result = srmri("pair", "--lr", tiny_pair.low, "--hr", tiny_pair.high, "--out", out,
                   "--dry-run", "--json", *FAST)  # fmt: skip
    document = json.loads(result.stdout)
    assert document["n_lr"] == 60
    assert not out.exists()
    assert os.listdir(tmp_path) == []


def test_existing_run_needs_force(run, tiny_pair, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    arguments = ["pair", "--lr", tiny_pair.low, "--hr", tiny_pair.high, "--out", copy, *FAST]
    before = (copy / "summary.json").read_bytes()
    assert "--force" in srmri(*arguments, code=2).stderr
    assert (copy / "summary.json").read_bytes() == before
    srmri(*arguments, "--force")
    assert (copy / "summary.json").read_bytes() != before
    # A folder that is no run is never replaced.
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("precious")
    arguments[6] = other
    srmri(*arguments, "--force", code=2)
    assert (other / "thesis.doc").read_text(encoding="utf-8") == "precious"


def test_queue_can_fail_the_command(tiny_pair, tmp_path):
    srmri("pair", "--lr", tiny_pair.low, "--hr", tiny_pair.high, "--out", tmp_path / "run",
          "--fail-on-queue", *FAST, code=5)  # fmt: skip
    assert (tmp_path / "run" / "summary.json").is_file()


def test_study_with_both_scans_proposes_the_roles(tiny_pair, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(tiny_pair.high, study)
    (low_scan,) = (p for p in tiny_pair.low.iterdir() if p.is_dir() and p.name.isdigit())
    shutil.copytree(low_scan, study / "7")
    result = srmri("pair", "--study", study, "--dry-run", "--json", *FAST)
    document = json.loads(result.stdout)
    assert (document["lr"]["scan"], document["hr"]["scan"]) == (7, 1)
    # A repeat of HR makes the choice ambiguous: listed, not guessed.
    shutil.copytree(study / "1", study / "9")
    error = srmri("pair", "--study", study, "--dry-run", *FAST, code=2).stderr
    assert "9" in error
    assert "--hr-scan" in error
    srmri("pair", "--study", study, "--hr-scan", "9", "--lr-scan", "7", "--dry-run", *FAST)


def test_report_is_drawn_again_from_moved_scans(run, tiny_pair, tmp_path):
    moved = tmp_path / "archive" / "2024"
    shutil.copytree(tiny_pair.low, moved / tiny_pair.low.name)
    shutil.copytree(tiny_pair.high, moved / tiny_pair.high.name)
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, copy)
    before = (copy / "index.html").read_bytes()
    (copy / "index.html").unlink()
    assert "--sources" in srmri("report", copy, "-q", code=3).stderr
    srmri("report", copy, "--sources", moved, "-q")
    assert (copy / "index.html").read_bytes() == before
    # Other bytes under the same name are refused.
    data = next(moved.rglob("2dseq"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    assert "changed" in srmri("report", copy, "--sources", moved, "-q", code=3).stderr


def test_scan_in_an_archive_is_found_again(tiny_pair, tmp_path):
    archive = tmp_path / "scans" / "lr.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", tiny_pair.low.parent, "lr_study")
    run = tmp_path / "run"
    srmri("pair", "--lr", archive, "--hr", tiny_pair.high, "--out", run, *FAST)
    before = (run / "index.html").read_bytes()
    srmri("report", run, "-q")
    assert (run / "index.html").read_bytes() == before
    moved = tmp_path / "archive"
    shutil.copytree(tiny_pair.high, moved / tiny_pair.high.name)
    shutil.move(archive, moved)
    srmri("report", run, "-q", code=3)
    srmri("report", run, "--sources", moved, "-q")


def test_unknown_schema_version_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    (copy / "summary.json").write_text(json.dumps({**summary, "schema_version": 2}))
    assert "schema_version 2" in srmri("report", copy, "-q", code=3).stderr


def test_simulate_writes_one_nifti_and_its_truth(tiny_pair, tmp_path):
    out = tmp_path / "lr"
    result = srmri("simulate", tiny_pair.high, "--out", out, "--format", "nifti", "--shift-um",
                   "-150", "0", "75", "--tilt-deg", "0", "0", "-1", "--json", "-q")  # fmt: skip
    document = json.loads(result.stdout)
    assert [path.name for path in out.rglob("*.nii.gz")] == [Path(document["low_res"]).name]
    truth = json.loads(Path(document["truth"]).read_text(encoding="utf-8"))
    assert np.array(truth["low_to_high"]).shape == (4, 4)
    assert "--force" in srmri("simulate", tiny_pair.high, "--out", out, "-q", code=2).stderr


# --- bad input: a clear error, the right code, nothing written -------------------------------


def damaged(tiny_pair, tmp_path, name):
    """A copy of the LR study, and the file to damage."""
    study = tmp_path / "in" / "study"
    shutil.copytree(tiny_pair.low, study)
    return study, next(study.rglob(name))


def edit(path: Path, key: str, value: str) -> None:
    """Replace the value of a JCAMP parameter."""
    lines, out, skipping = path.read_text(encoding="utf-8").splitlines(), [], False
    for line in lines:
        if line.startswith(f"##${key}="):
            out.append(f"##${key}={value}")
            skipping = True
        elif line.startswith(("##", "$$")) or not skipping:
            skipping = False
            out.append(line)
    assert out != lines, f"{key} is not in {path}"
    path.write_text("\n".join(out) + "\n")


def zero_bytes(tiny_pair, tmp_path):
    study, path = damaged(tiny_pair, tmp_path, "2dseq")
    path.write_bytes(b"")
    return study, tiny_pair.high, "2dseq"


def truncated(tiny_pair, tmp_path):
    study, path = damaged(tiny_pair, tmp_path, "2dseq")
    path.write_bytes(path.read_bytes()[:-100])
    return study, tiny_pair.high, "2dseq"


def no_visu_pars(tiny_pair, tmp_path):
    study, path = damaged(tiny_pair, tmp_path, "visu_pars")
    path.unlink()
    return study, tiny_pair.high, "visu_pars"


def singular(tiny_pair, tmp_path):
    study, path = damaged(tiny_pair, tmp_path, "visu_pars")
    edit(path, "VisuCoreOrientation", "( 1, 9 )\n1 0 0 1 0 0 0 0 1")
    return study, tiny_pair.high, "singular|orthogonal"


def infinite_slope(tiny_pair, tmp_path):
    study, path = damaged(tiny_pair, tmp_path, "visu_pars")
    edit(path, "VisuCoreDataSlope", "( 1 )\ninf")
    return study, tiny_pair.high, "slope"


def bomb(tiny_pair, tmp_path):
    """A gzip of a NIfTI header that claims gigabytes and has no voxels."""
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = tmp_path / "in" / "bomb.nii.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4))
    return path, tiny_pair.high, r"bomb\.nii\.gz.*(claims|can not hold)"


def bit_flip(tiny_pair, tmp_path):
    rng = np.random.default_rng(0)
    affine = np.diag([0.3, 0.3, 0.3, 1])
    path = tmp_path / "in" / "flip.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(rng.integers(0, 999, (40, 60, 25), dtype=np.int16), affine), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return path, tiny_pair.high, "flip"


def swapped(tiny_pair, tmp_path):
    (tmp_path / "in").mkdir()
    return tiny_pair.high, tiny_pair.low, "swapped"


def other_subject(tiny_pair, tmp_path):
    study, _ = damaged(tiny_pair, tmp_path, "subject")
    for name in ("subject", "visu_pars"):
        for path in study.rglob(name):
            path.write_text(path.read_text(encoding="utf-8").replace("tiny-mouse", "another-mouse"))
    return study, tiny_pair.high, "allow-subject-mismatch"


def empty_folder(tiny_pair, tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in", tiny_pair.high, "no scan|nothing|empty"


def missing_path(tiny_pair, tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "none", tiny_pair.high, "none"


@pytest.mark.parametrize(
    "make",
    [
        zero_bytes, truncated, no_visu_pars, singular, infinite_slope, bomb, bit_flip, swapped,
        other_subject, empty_folder, missing_path,
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, tiny_pair, tmp_path):
    low, high, message = make(tiny_pair, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(
        app, ["pair", "--lr", str(low), "--hr", str(high), "--out", str(tmp_path / "run"), *FAST]
    )
    assert result.exit_code == 3, result.stderr
    assert "error:" in result.stderr
    import re

    assert re.search(message, result.stderr, re.IGNORECASE), result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_subject_mismatch_can_be_allowed(tiny_pair, tmp_path):
    low, high, _ = other_subject(tiny_pair, tmp_path)
    result = srmri("pair", "--lr", low, "--hr", high, "--allow-subject-mismatch", "--dry-run",
                   "--json", *FAST)  # fmt: skip
    assert any("subject" in check["name"] for check in json.loads(result.stdout)["checks"])


def test_too_much_trimming_names_the_way_out(tiny_pair, tmp_path):
    result = srmri("pair", "--lr", tiny_pair.low, "--hr", tiny_pair.high, "--plane", "axial",
                   "--out", tmp_path / "run", "--voters", "ssim", "-q", code=3)  # fmt: skip
    assert "--trim 0" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["pair"],
        ["pair", "--lr", "x"],
        ["pair", "--lr", "x", "--hr", "y", "--trim", "a few"],
        ["pair", "--lr", "x", "--hr", "y", "--voters", "oracle"],
        ["pair", "--lr", "x", "--hr", "y", "--plane", "oblique"],
        ["simulate", "x", "--out", "y", "--factor", "0.5"],
        ["pair", "--lr", "x", "--hr", "y", "--lr-frame", "echo"],
    ],
)
def test_wrong_usage_exits_2(arguments):
    srmri(*arguments, code=2)


def test_interrupt_exits_130_and_leaves_nothing(tiny_pair, tmp_path, monkeypatch):
    import srmri_data.pairing as pairing

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pairing, "geometry_vote", stop)
    result = CliRunner().invoke(
        app,
        ["pair", "--lr", str(tiny_pair.low), "--hr", str(tiny_pair.high),
         "--out", str(tmp_path / "run"), *FAST],
    )  # fmt: skip
    assert result.exit_code == 130
    assert os.listdir(tmp_path) == []


def test_doctor_is_content_here():
    document = json.loads(srmri("doctor", "--json").stdout)
    assert document["ok"], document["findings"]


def test_train_prints_one_document_and_what_it_would_cost(tmp_path, monkeypatch):
    import nibabel as nib
    import train_runs

    from srmri_data.phantom import mouse_brain

    train_runs.shrink(monkeypatch.setattr, monkeypatch.setitem)
    for animal in range(2):
        brain = mouse_brain((32, 45, 24), 0.4, animal=animal)
        nib.save(nib.Nifti1Image(brain.data, brain.affine), tmp_path / f"sub-p{animal}.nii.gz")
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "2"]
    options = ["--patch", "16", "--batch", "1", "--device", "cpu", "--json", "-q"]
    planned = CliRunner().invoke(app, [*arguments, *options, "--dry-run"])
    assert planned.exit_code == 0, planned.stderr
    assert json.loads(planned.stdout)["n_validation"] > 0
    assert not (tmp_path / "out" / "model.safetensors").exists()
    trained = CliRunner().invoke(app, [*arguments, *options])
    assert trained.exit_code == 0, trained.stderr
    document = json.loads(trained.stdout)
    wanted = {"params", "steps", "images_s", "val_by_sigma", "best", "weights_sha256"}
    assert wanted <= document.keys()
    again = CliRunner().invoke(app, [*arguments, *options])
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    wrong = CliRunner().invoke(app, [*arguments, "--model", "srcnn"])
    assert wrong.exit_code == 2


def test_import_checkpoint_reports_every_key(tmp_path):
    from public_layout import write_public_checkpoint

    from srmri_model.networks import NetworkConfig

    config = NetworkConfig(nf=8, ch_mult=(1, 1), blocks=1, attention=(False, False))
    source, out = tmp_path / "checkpoint.pth", tmp_path / "ours.safetensors"
    write_public_checkpoint(source, config)
    report = json.loads(srmri("import-checkpoint", source, "--out", out, "--json").stdout)
    assert report["counts"]["dropped"] == report["counts"]["model"] == 1
    assert len(report["keys"]) == sum(report["counts"].values())
    assert out.is_file()
    assert "exists" in srmri("import-checkpoint", source, "--out", out, code=3).stderr
    text = srmri("import-checkpoint", source, "--out", out, "--force").stdout
    assert "all_modules.3.weight" in text
    assert "not needed: optimizer" in text
    source.write_bytes(b"PK")
    refused = srmri("import-checkpoint", source, "--out", out, "--force", code=3)
    assert "not a zip archive" in refused.stderr

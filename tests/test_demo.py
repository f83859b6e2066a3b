"""The demo, end to end with all three voters, and the example that is committed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from srmri_data.pairing import run_pairing
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.run_folder import open_run, read_pairs
from srmri_data.simulate import read_truth

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One demo, as `make demo` makes it."""
    out = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "--json", "-q"])
    assert result.exit_code == 0, result.stderr
    return out, json.loads(result.stdout)


def test_make_demo_gives_the_command_that_is_tested_here():
    said = subprocess.run(
        ["make", "--dry-run", "--silent", "READY=", "demo"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == [".venv/bin/srmri", "demo", "--out", "srmri-demo", "--force"]


def test_demo_goes_from_two_studies_to_a_report(demo):
    out, result = demo
    assert [scan["matrix"] for scan in result["inspected"]] == [[128, 180, 76], [256, 360, 152]]
    assert all(scan["problems"] == [] for scan in result["inspected"])
    run = open_run(Path(result["run"]))
    assert run.path == out / "pairs"
    assert result["summary"] == run.summary
    page = (run.path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert len(page) < 6_000_000


def test_registration_is_exact_where_the_papers_vote_is_neither_always_nor_never(demo, tmp_path):
    out, result = demo
    summary = result["summary"]
    assert summary["exact"] == 1
    assert summary["mae_slices"] < 0.15
    assert summary["wrongly_accepted"] == 0
    assert summary["n_pairs"] > 0.9 * (summary["n_lr"] - summary["empty"])
    scans = find_scans(ScanRequest(out / "lr_study"), ScanRequest(out / "hr_study"))
    by_vote = run_pairing(
        plan_pairing(*scans, PairingConfig(method="paper", voters=("pca", "ssim"))),
        tmp_path / "paper",
        truth=read_truth(out / "lr_study" / "truth.json"),
    )
    assert 0.2 < by_vote["exact"] < 0.9
    assert 0 < by_vote["unanimous"] < by_vote["n_lr"]
    # Its confidence does not know: wrong pairs are accepted.
    assert by_vote["wrongly_accepted"] > 0


def test_positions_and_errors_follow_their_definitions(demo):
    pairs = read_pairs(demo[0] / "pairs")
    truth = json.loads((demo[0] / "lr_study" / "truth.json").read_text(encoding="utf-8"))
    summary = demo[1]["summary"]
    to_high = np.array(truth["low_to_high"])
    to_voxel = {role: np.array(summary[role]["to_voxel"]) for role in ("lr", "hr")}
    row = pairs.iloc[len(pairs) // 2]
    point = [row["lr_slice"], row["ref_row"], row["ref_col"], 1]
    position = (np.linalg.inv(to_voxel["hr"]) @ to_high @ to_voxel["lr"] @ point)[0]
    assert row["truth_position"] == pytest.approx(position, abs=1e-6)
    np.testing.assert_allclose(
        pairs["error_slices"], pairs["hr_position"] - pairs["truth_position"], atol=1e-9
    )
    shown = pairs[~pairs["empty"]]
    assert summary["exact"] == pytest.approx((shown["error_slices"].abs() <= 0.5 + 1e-6).mean())
    assert summary["mae_um"] == pytest.approx(shown["error_slices"].abs().mean() * 50)


def test_committed_example_is_readable_and_holds_no_foreign_path():
    run = open_run(PROJECT / "pairing_reports" / "example")
    pairs = read_pairs(run.path)
    assert len(pairs) == run.summary["n_lr"]
    text = (run.path / "provenance.json").read_text(encoding="utf-8") + (
        run.path / "index.html"
    ).read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|Users|tmp|root|work)/", text)


def test_runs_stay_out_of_git():
    """pairing_reports ignores everything but the example: scans belong to their users."""

    def ignored(name: str) -> bool:
        path = f"pairing_reports/{name}"
        done = subprocess.run(
            ["git", "check-ignore", "--no-index", "-q", path], cwd=PROJECT, check=False
        )
        return done.returncode == 0

    assert ignored("m01/summary.json")
    assert ignored("m01/hr_aligned.nii.gz")
    assert not ignored("example/summary.json")

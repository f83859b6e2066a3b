"""The run folder appears whole, is refused when unknown, and finds its sources again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from srmri_data.errors import ChecksumError, FormatError, MissingInputError, UsageError
from srmri_data.run_folder import (
    PAIRS_DTYPES,
    REVIEW_DATABASE,
    SCHEMA_VERSION,
    check_destination,
    new_run,
    open_run,
    read_pairs,
    write_pairs,
)
from srmri_data.safe_io import sha256_file, write_json


def pairs_table(rows=3):
    columns = {name: [0] * rows for name in PAIRS_DTYPES}
    columns |= {name: ['a, "quoted"\nµ'] * rows for name in ("method", "status", "reason")}
    columns["vote_lpips"] = [None] * rows
    return pd.DataFrame(columns).astype(PAIRS_DTYPES)


def test_run_appears_when_complete_and_not_before(tmp_path):
    out = tmp_path / "sub" / "run"
    with new_run(out) as run:
        (run / "summary.json").write_text("{}")
        assert not out.exists()
    assert os.listdir(out) == ["summary.json"]
    assert os.listdir(tmp_path / "sub") == ["run"]


def fail_inside(out, force=False):
    with new_run(out, force=force) as run:
        (run / "summary.json").write_text("new")
        raise RuntimeError("half-way")


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="half-way"):
        fail_inside(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_failure_keeps_the_old_run(tmp_path):
    out = tmp_path / "run"
    with new_run(out) as run:
        (run / "summary.json").write_text("old")
    with pytest.raises(RuntimeError, match="half-way"):
        fail_inside(out, force=True)
    assert (out / "summary.json").read_text(encoding="utf-8") == "old"
    with new_run(out, force=True) as run:
        (run / "summary.json").write_text("new")
    assert (out / "summary.json").read_text(encoding="utf-8") == "new"
    assert os.listdir(tmp_path) == ["run"]


def killed_while(out, code):
    """Run a process that kills itself inside `new_run`."""
    program = f"""
import os, signal
from pathlib import Path
from srmri_data.run_folder import new_run
out = Path({str(out)!r})
with new_run(out, force=True) as run:
    (run / "summary.json").write_text("new")
    {code}
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL  # the fault was hit


def test_what_a_killed_process_left_is_swept(tmp_path):
    out = tmp_path / "run"
    killed_while(out, "pass")
    assert not out.exists()
    assert len(os.listdir(tmp_path)) == 1
    with new_run(out) as run:
        (run / "summary.json").write_text("mine")
        # One that is alive is left alone.
        with new_run(out) as other:
            (other / "summary.json").write_text("other")
            assert run.is_dir()
        (out / "summary.json").unlink()
    assert (out / "summary.json").read_text(encoding="utf-8") == "mine"
    assert os.listdir(tmp_path) == ["run"]


def test_kill_between_the_two_renames_loses_nothing(tmp_path):
    out = tmp_path / "run"
    with new_run(out) as run:
        (run / "summary.json").write_text("old")
    killed_while(out, "out.rename(run.parent / 'replaced')")
    assert not out.exists()
    with pytest.raises(UsageError, match="exists"), new_run(out):
        pass
    assert (out / "summary.json").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_destination_that_is_no_run_is_never_replaced(tmp_path):
    (tmp_path / "file").write_text("x")
    for out, force in ((tmp_path, False), (tmp_path, True), (tmp_path / "file", True)):
        with pytest.raises(UsageError):
            check_destination(out, force=force)
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty", force=False)


def test_pairs_keep_types_and_hostile_text(tmp_path):
    write_pairs(tmp_path, pairs_table())
    table = read_pairs(tmp_path)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == PAIRS_DTYPES
    text = pd.read_csv(tmp_path / "pairs.csv")
    assert text["reason"].tolist() == table["reason"].tolist()
    assert text["vote_lpips"].isna().all()


def test_damaged_tables_are_typed_errors(tmp_path):
    with pytest.raises(MissingInputError):
        read_pairs(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(FormatError, match="damaged parquet"):
        read_pairs(tmp_path)
    pairs_table().drop(columns="margin").to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(FormatError, match="'margin' is missing"):
        read_pairs(tmp_path)


@pytest.fixture
def run(tmp_path):
    """A run whose LR source is a folder of two files, its HR one file."""
    scans = tmp_path / "scans"
    (scans / "m01" / "1").mkdir(parents=True)
    (scans / "m01" / "1" / "2dseq").write_bytes(b"voxels")
    (scans / "m01" / "subject").write_bytes(b"mouse")
    (scans / "hr.nii.gz").write_bytes(b"image")

    def entry(path, *names):
        return {
            "path": os.path.relpath(path, tmp_path / "runs" / "a"),
            "files": [
                {"path": name, "sha256": sha256_file(path / name if name != "." else path)}
                for name in names
            ],
        }

    run = tmp_path / "runs" / "a"
    sources = {
        "lr": entry(scans / "m01" / "1", "2dseq", "../subject"),
        "hr": entry(scans / "hr.nii.gz", "."),
    }
    write_json(run / "summary.json", {"schema_version": SCHEMA_VERSION})
    write_json(run / "provenance.json", {"schema_version": SCHEMA_VERSION, "sources": sources})
    return run


def test_sources_are_found_at_their_place_and_elsewhere(run, tmp_path):
    opened = open_run(run)
    assert opened.source_path("lr") == tmp_path / "scans" / "m01" / "1"
    assert opened.source_path("hr") == tmp_path / "scans" / "hr.nii.gz"
    (tmp_path / "scans").rename(tmp_path / "archive")
    with pytest.raises(MissingInputError) as caught:
        opened.source_path("lr")
    assert "--sources" in caught.value.hint
    assert opened.source_path("lr", tmp_path / "archive") == tmp_path / "archive" / "m01" / "1"
    assert opened.source_path("lr", tmp_path / "archive" / "m01").name == "1"
    assert opened.source_path("hr", tmp_path / "archive").name == "hr.nii.gz"


def test_changed_source_is_refused(run, tmp_path):
    (tmp_path / "scans" / "m01" / "subject").write_bytes(b"other")
    with pytest.raises(ChecksumError, match="subject"):
        open_run(run).source_path("lr")


@pytest.mark.parametrize("name", ["summary.json", "provenance.json"])
@pytest.mark.parametrize("found", [None, 0, 2, "1", True])
def test_unknown_schema_is_refused(run, name, found):
    write_json(run / name, {"schema_version": found})
    with pytest.raises(FormatError, match="schema_version"):
        open_run(run)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(MissingInputError, match="not a run folder"):
        open_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    with pytest.raises(MissingInputError, match=r"provenance\.json"):
        open_run(tmp_path)


def test_a_reviewed_run_is_never_replaced(tmp_path):
    out = tmp_path / "run"
    with new_run(out) as run:
        (run / "summary.json").write_text("old")
    check_destination(out, force=True)
    (out / REVIEW_DATABASE).touch()
    with pytest.raises(UsageError, match="has a review") as caught:
        check_destination(out, force=True)
    assert REVIEW_DATABASE in caught.value.hint
    with pytest.raises(UsageError, match="has a review"):
        fail_inside(out, force=True)
    assert (out / "summary.json").read_text(encoding="utf-8") == "old"


def test_pairs_from_before_the_review_stage_are_read(tmp_path):
    table = pairs_table().assign(hr_slice=[4, 5, 6], reason="why", status="auto")
    write_pairs(tmp_path, table)
    kept = list(PAIRS_DTYPES)[:19]
    pd.read_parquet(tmp_path / "pairs.parquet")[kept].to_parquet(tmp_path / "pairs.parquet")
    pairs = read_pairs(tmp_path)
    assert list(pairs) == list(PAIRS_DTYPES)
    assert pairs["auto_hr_slice"].tolist() == [4, 5, 6]
    assert pairs["auto_reason"].tolist() == ["why"] * 3
    assert pairs["reviewed_by_n"].tolist() == [0] * 3
    assert pairs["review_confidence"].isna().all()
    pairs.drop(columns="hr_slice").to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(FormatError, match="'hr_slice' is missing"):
        read_pairs(tmp_path)


def test_a_review_that_began_meanwhile_is_kept(tmp_path):
    out = tmp_path / "run"
    with new_run(out) as run:
        (run / "summary.json").write_text("old")

    def replace_while_somebody_reviews():
        with new_run(out, force=True) as run:
            (run / "summary.json").write_text("new")
            (out / REVIEW_DATABASE).write_text("decisions")

    with pytest.raises(UsageError, match="has a review"):
        replace_while_somebody_reviews()
    assert (out / "summary.json").read_text(encoding="utf-8") == "old"
    assert (out / REVIEW_DATABASE).read_text(encoding="utf-8") == "decisions"
    assert os.listdir(tmp_path) == ["run"]

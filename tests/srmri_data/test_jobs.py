"""One unit: when it is paired, when it is left, and what its status says whatever happens."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmri_data import jobs
from srmri_data.errors import UsageError
from srmri_data.jobs import Shard, Task, pair_unit, plan_tasks, read_status, state_of, why_run
from srmri_data.mapping import Unit
from srmri_data.planning import PairingConfig, ScanRequest
from srmri_data.run_folder import open_run, read_pairs
from srmri_data.slices import Trim
from srmri_data.workers import Ended

CONFIG = PairingConfig(method="paper", voters=("ssim",), trim=Trim(0, "slices"))


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.integers(), max_size=40))
def test_shards_are_the_whole_without_overlap(count, items):
    shares = [Shard(number, count).of(items) for number in range(1, count + 1)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [Shard.parse(f"{n}/{count}").of(items) for n in range(1, count + 1)]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


@pytest.fixture
def task(tiny_pair, tmp_path):
    """A task on copies of the tiny scans, which a test may damage."""
    for name, source in (("lr", tiny_pair.low), ("hr", tiny_pair.high)):
        shutil.copytree(source, tmp_path / "data" / name)
    shutil.copy(tiny_pair.truth, tmp_path / "data" / "truth.json")
    unit = Unit(
        "m01",
        "a",
        ScanRequest(tmp_path / "data" / "lr"),
        ScanRequest(tmp_path / "data" / "hr"),
        truth=tmp_path / "data" / "truth.json",
        sources={"subject": "here"},
    )
    return Task(unit, tmp_path / "out", CONFIG, command=("srmri", "pair-all"))


@pytest.fixture(scope="module")
def finished(tiny_pair, tmp_path_factory):
    """A unit that was paired, with its data; tests copy it."""
    root = tmp_path_factory.mktemp("finished")
    for name, source in (("lr", tiny_pair.low), ("hr", tiny_pair.high)):
        shutil.copytree(source, root / "data" / name)
    unit = Unit("m01", "", ScanRequest(root / "data/lr"), ScanRequest(root / "data/hr"))
    task = Task(unit, root / "out", CONFIG)
    _age(root / "data")
    assert pair_unit(task) == "done"
    return task


@pytest.fixture
def paired(finished, tmp_path):
    """A copy of the paired unit and its data, moved as a whole."""
    shutil.copytree(finished.out.parent, tmp_path / "moved")
    root = tmp_path / "moved"
    unit = replace(
        finished.unit, low=ScanRequest(root / "data/lr"), high=ScanRequest(root / "data/hr")
    )
    return replace(finished, unit=unit, out=root / "out")


def _age(folder: Path) -> None:
    """Set all files back in time: what was written just now is hashed to be sure."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18, 10**18))


def data(task: Task, role: str) -> Path:
    return next((task.out.parent / "data" / role).rglob("2dseq"))


def test_a_unit_is_paired_and_its_status_tells_how(task):
    ticks = iter(range(1_700_000_000, 1_700_001_000))
    assert pair_unit(task, clock=lambda: float(next(ticks))) == "done"
    status = read_status(task.folder)
    assert task.folder == task.out / "sub-m01" / "ses-a"
    assert status["unit"] == "sub-m01_ses-a"
    assert status["run"] == "sub-m01_ses-a"
    run = open_run(task.folder / status["run"])
    assert run.summary["exact"] is not None
    assert run.provenance["command"] == ["srmri", "pair-all"]
    assert status["state"] == state_of(task.folder) == "done"
    assert (status["attempts"], status["error"], status["sources"]) == (
        1,
        None,
        {"subject": "here"},
    )
    assert [f["role"] for f in status["inputs"]["files"]] == ["lr", "lr", "hr", "hr", "truth"]
    recorded = {f["sha256"] for f in status["inputs"]["files"]}
    for role in ("lr", "hr"):
        assert {f["sha256"] for f in run.provenance["sources"][role]["files"]} <= recorded
    assert status["versions"] == run.provenance["versions"]
    assert status["started"] == "2023-11-14T22:13:20.000+00:00"
    stages = status["timings"]["stages"]
    assert sum(stages.values()) == pytest.approx(status["timings"]["seconds"])
    assert "voting: ssim" in stages
    assert status["peak_memory_mb"] is None or 50 < status["peak_memory_mb"] < 5000


def test_nothing_changed_nothing_to_do_also_after_a_move(paired):
    assert why_run(paired) == ""
    assert plan_tasks([paired.unit], paired.out, CONFIG) == []
    (forced,) = plan_tasks([paired.unit], paired.out, CONFIG, force=True, clock=lambda: 5.0)
    assert (forced.reason, forced.since) == ("forced", 5.0)


def test_a_file_with_a_new_date_is_read_and_one_with_its_old_date_is_not(paired, monkeypatch):
    hashed = []
    sha256_file = jobs.sha256_file
    monkeypatch.setattr(jobs, "sha256_file", lambda p: hashed.append(p.name) or sha256_file(p))
    assert why_run(paired) == ""
    assert hashed == []
    os.utime(data(paired, "lr"))
    assert why_run(paired) == ""
    assert hashed == ["2dseq"]


def test_a_date_as_young_as_the_hash_proves_nothing(paired):
    """Two writes within one tick of the file system's clock leave the same size and date."""
    path = data(paired, "lr")
    content = bytearray(path.read_bytes())
    status = read_status(paired.folder)
    for facts in status["inputs"]["files"]:
        facts["hashed_ns"] = facts["mtime_ns"] + 1
    (paired.folder / "status.json").write_text(json.dumps(status))
    assert why_run(paired) == ""
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    assert why_run(paired) == "input changed"


def other_voter(task):
    return replace(task, config=replace(CONFIG, voters=("pca",)))


def other_scan_number(task):
    return replace(task, unit=replace(task.unit, low=replace(task.unit.low, scan=1)))


def other_content(task):
    path = data(task, "hr")
    path.write_bytes(path.read_bytes()[::-1])
    return task


def file_gone(task):
    data(task, "lr").unlink()
    return task


def run_gone(task):
    shutil.rmtree(task.run)
    return task


def status_of_another_version(task):
    status = read_status(task.folder)
    (task.folder / "status.json").write_text(json.dumps({**status, "schema_version": 99}))
    return task


def damaged_status(task):
    (task.folder / "status.json").write_text("{")
    return task


def died_on_the_way(task):
    status = read_status(task.folder)
    (task.folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    return task


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_voter, "settings changed"),
        (other_scan_number, "mapping changed"),
        (other_content, "input changed"),
        (file_gone, "input changed"),
        (run_gone, "run folder is gone"),
        (status_of_another_version, "new"),
        (damaged_status, "new"),
        (died_on_the_way, "interrupted"),
    ],
)
def test_what_changed_is_done_again(change, reason, paired):
    changed = change(paired)
    (planned,) = plan_tasks([changed.unit], changed.out, changed.config)
    assert planned.reason == reason


def test_changed_settings_replace_the_run(paired):
    again = other_voter(paired)
    assert pair_unit(again) == "done"
    assert open_run(again.run).summary["voters"] == ["pca"]
    assert read_status(again.folder)["attempts"] == 2
    assert why_run(again) == ""


def test_a_reviewed_run_is_never_replaced(paired):
    (paired.run / "review.sqlite").write_bytes(b"decisions")
    before = read_pairs(paired.run)
    assert pair_unit(other_voter(paired)) == "failed"
    error = read_status(paired.folder)["error"]
    assert "has a review and is not replaced" in error["message"]
    assert read_pairs(paired.run).equals(before)


def test_a_foreign_run_folder_is_not_replaced(task):
    (task.run).mkdir(parents=True)
    (task.run / "summary.json").write_text("{}")
    assert pair_unit(task) == "failed"
    assert "exists already" in read_status(task.folder)["error"]["message"]


def test_a_failure_stays_until_something_changes_or_a_retry(task):
    path = data(task, "lr")
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    assert pair_unit(task) == "failed"
    status = read_status(task.folder)
    assert status["error"]["type"] == "TruncatedError"
    assert "the header claims" in status["error"]["message"]
    assert status["error"]["hint"]
    assert status["error"]["traceback"] is None
    assert not status["inputs"]["complete"]
    assert "Traceback" in (task.folder / "log.txt").read_text()
    assert why_run(task) == ""
    assert why_run(task, retry_failed=True) == "failed before"
    path.write_bytes(content)
    assert why_run(task) == "input changed"
    assert pair_unit(task) == "done"
    assert read_status(task.folder)["error"] is None


def test_a_missing_file_that_comes_back_is_noticed(task):
    path = data(task, "hr").with_name("visu_pars")
    content = path.read_bytes()
    path.unlink()
    assert pair_unit(task) == "failed"
    assert why_run(task) == ""
    path.write_bytes(content)
    assert why_run(task) == "input changed"


def test_a_bug_is_told_apart_from_bad_input(task, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(jobs, "plan_pairing", broken)
    assert pair_unit(task) == "failed"
    error = read_status(task.folder)["error"]
    assert error["type"] == "ZeroDivisionError"
    assert "in broken" in error["traceback"]
    assert "report it" in error["hint"]
    # It got as far as to know its files.
    assert read_status(task.folder)["inputs"]["complete"]


def test_scans_that_change_while_they_are_paired_are_noticed(task, monkeypatch):
    import srmri_data.pairing as pairing

    write_aligned = pairing._write_aligned

    def meddle(*arguments):
        path = data(task, "lr")
        path.write_bytes(path.read_bytes()[::-1])
        return write_aligned(*arguments)

    monkeypatch.setattr(pairing, "_write_aligned", meddle)
    assert pair_unit(task) == "failed"
    assert "changed while they were being paired" in read_status(task.folder)["error"]["message"]
    assert why_run(task) == "input changed"


@pytest.mark.parametrize("signal_like", [SystemExit(143), KeyboardInterrupt()])
def test_an_interrupted_unit_leaves_nothing_and_is_continued(task, monkeypatch, signal_like):
    import srmri_data.pairing as pairing

    def stop(*_):
        raise signal_like

    with monkeypatch.context() as patch:
        patch.setattr(pairing, "_write_aligned", stop)
        with pytest.raises(type(signal_like)):
            pair_unit(task)
    assert state_of(task.folder) == "interrupted"
    left = sorted(path.name for path in task.folder.iterdir())
    assert left == [".lock", "log.txt", "status.json"]
    assert why_run(task) == "interrupted"
    assert pair_unit(task) == "done"


def test_only_one_process_is_at_a_unit(paired, monkeypatch):
    monkeypatch.setattr(jobs, "_LOCK_WAIT_SECONDS", 0.0)
    died_on_the_way(paired)
    assert state_of(paired.folder) == "interrupted"
    with open(paired.folder / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state_of(paired.folder) == "running"
        assert pair_unit(paired) == "running"
    assert state_of(paired.folder) == "interrupted"


def test_what_another_process_finished_is_not_done_again(paired):
    before = (paired.folder / "status.json").read_bytes()
    assert pair_unit(replace(paired, since=0.0)) == "done"
    assert (paired.folder / "status.json").read_bytes() == before
    # Another setting is another task.
    assert pair_unit(replace(other_voter(paired), since=0.0)) == "done"
    assert (paired.folder / "status.json").read_bytes() != before


def test_a_death_is_a_failure_with_the_last_words(task):
    task.folder.mkdir(parents=True)
    (task.folder / "log.txt").write_text("Fatal Python error: Segmentation fault\n")
    jobs.record_death(Ended(task, exit_code=-11), clock=lambda: 0.0)
    status = read_status(task.folder)
    assert status["state"] == state_of(task.folder) == "failed"
    assert status["error"]["type"] == "WorkerDied"
    assert "SIGSEGV" in status["error"]["message"]
    assert "Segmentation fault" in status["error"]["traceback"]
    assert why_run(task) == ""
    assert why_run(task, retry_failed=True) == "failed before"

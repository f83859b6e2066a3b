"""Job arrays: through submitit's local executor always, through a real SLURM in `make deep`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import slurm_cluster
from typer.testing import CliRunner

from cli import app
from srmri_data import cluster
from srmri_data.cluster import ArrayTask, ClusterOptions, Submitted
from srmri_data.errors import UsageError
from srmri_data.jobs import Task, pair_unit, read_status
from srmri_data.mapping import Unit
from srmri_data.planning import PairingConfig, ScanRequest

PROJECT = Path(__file__).resolve().parents[2]
FAST = ["--method", "paper", "--voters", "ssim", "--trim", "0", "-q", "--json"]

pytest.importorskip("submitit", reason="the slurm extra is not installed")


@pytest.fixture
def table(tiny_pair, tmp_path):
    """Three subjects, the second with a truncated scan."""
    bad = shutil.copytree(tiny_pair.low, tmp_path / "bad")
    path = next(bad.rglob("2dseq"))
    path.write_bytes(path.read_bytes()[:-1])
    rows = ["subject\tlr\thr"]
    rows += [
        f"{name}\t{low}\t{tiny_pair.high}"
        for name, low in (("a", tiny_pair.low), ("b", bad), ("c", tiny_pair.low))
    ]
    (tmp_path / "table.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "table.tsv"


def pair_all(*arguments, code):
    result = CliRunner().invoke(app, ["pair-all", *map(str, arguments), *FAST])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output + result.stderr
    return json.loads(result.stdout)


def states(document):
    return {row["subject"]: row["state"] for row in document["units"]}


def test_the_local_executor_goes_the_whole_way(table, tmp_path):
    arguments = [table, "--out", tmp_path / "out", "--engine", "submitit-local"]
    document = pair_all(*arguments, "--slurm-subjects", "2", code=4)
    assert states(document) == {"a": "done", "b": "failed", "c": "done"}
    assert read_status(tmp_path / "out" / "sub-b")["error"]["type"] == "TruncatedError"
    # Two array tasks for three subjects, each with the files submitit leaves behind.
    assert len(list((tmp_path / "out" / "jobs").glob("*/*_submitted.pkl"))) == 2
    again = pair_all(*arguments, code=4)
    assert again["this_run"]["attempted"] == []
    assert len(list((tmp_path / "out" / "jobs").glob("*/*_submitted.pkl"))) == 2


def task(tmp_path, name="m01") -> Task:
    missing = tmp_path / "none"
    unit = Unit(name, "", ScanRequest(missing), ScanRequest(missing))
    return Task(unit, tmp_path / "out", PairingConfig(), since=0.0)


class FakeJob:
    """A job of which only the end is known."""

    state = "NODE_FAIL"
    job_id = "7_1"
    paths = SimpleNamespace(stderr="7_1.err")

    def done(self) -> bool:
        return True


def test_units_lost_with_a_job_are_failures(tmp_path):
    lost, finished = task(tmp_path), task(tmp_path, "m02")
    assert pair_unit(finished) == "failed"
    before = read_status(finished.folder)
    seen = []
    cluster.wait([Submitted(FakeJob(), (lost, finished))], progress=lambda *a: seen.append(a))
    assert seen[-1] == ("subjects", 2, 2)
    status = read_status(lost.folder)
    assert status["error"]["type"] == "JobLost"
    assert "job 7_1 ended as NODE_FAIL" in status["error"]["message"]
    assert "--slurm-mem" in status["error"]["hint"]
    assert read_status(finished.folder) == before


def test_options_are_submitits(tmp_path):
    options = ClusterOptions(
        partition="gpu", minutes=20, memory_gb=5, processors=2, parallel=9, units_per_task=3,
        extra={"account": "lab"},
    )  # fmt: skip
    assert options.parameters() == {
        "name": "srmri",
        "timeout_min": 60,
        "mem_gb": 5,
        "cpus_per_task": 2,
        "slurm_array_parallelism": 9,
        "slurm_additional_parameters": {"account": "lab"},
        "slurm_partition": "gpu",
    }
    assert "slurm_partition" not in ClusterOptions().parameters()


def test_a_preempted_task_is_submitted_again_as_it_was(tmp_path):
    work = ArrayTask([task(tmp_path)], 2)
    again = work.checkpoint()
    assert again.function is work
    assert again.args == ()


def test_no_slurm_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="could not be submitted") as caught:
        cluster.submit([task(tmp_path)], tmp_path, ClusterOptions())
    assert "sinfo" in caught.value.hint


def test_no_submitit_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match="submitit") as caught:
        cluster.submit([task(tmp_path)], tmp_path, ClusterOptions())
    assert "srmri[slurm]" in caught.value.hint


@pytest.fixture(scope="module")
def slurm():
    """Environment of a running SLURM."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.running() as environment:
        yield environment


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", "from cli import main; main()", "pair-all",
         *map(str, arguments), *FAST],
        env={**os.environ, **environment, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_real_slurm_goes_the_whole_way(slurm, table, tmp_path):
    arguments = [table, "--out", tmp_path / "out", "--engine", "slurm", "--slurm-partition", "main",
                 "--slurm-time", "15", "--slurm-mem", "2", "--slurm-parallel", "2"]  # fmt: skip
    process = start(slurm, *arguments)
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 4, errors
    document = json.loads(text)
    assert states(document) == {"a": "done", "b": "failed", "c": "done"}
    # It was SLURM that ran them: an array of three.
    logs = sorted(path.name for path in (tmp_path / "out" / "jobs").rglob("*.out"))
    assert len(logs) == 3
    assert {name.split("_")[1] for name in logs} == {"0", "1", "2"}
    process = start(slurm, *arguments)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert json.loads(text)["this_run"]["attempted"] == []


@pytest.mark.slow
def test_a_unit_killed_on_the_node_fails_alone(slurm, table, tmp_path):
    out = tmp_path / "out"
    process = start(slurm, table, "--out", out, "--engine", "slurm", "--slurm-time", "15",
                    "--slurm-mem", "2", "--slurm-subjects", "3")  # fmt: skip
    pid = None
    for _ in range(6000):
        status = read_status(out / "sub-a")
        if status is not None and status["state"] == "running":
            pid = status["worker"]["pid"]
            break
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 4, errors
    assert states(json.loads(text)) == {"a": "failed", "b": "failed", "c": "done"}
    assert read_status(out / "sub-a")["error"]["type"] == "WorkerDied"


@pytest.mark.slow
def test_a_cancelled_job_is_a_failure_that_can_be_retried(slurm, table, tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, **slurm}
    arguments = [table, "--out", out, "--engine", "slurm", "--slurm-time", "15", "--slurm-mem", "2"]
    subprocess.run(
        ["scontrol", "update", "partition=main", "state=down"], env=environment, check=True
    )
    try:
        process = start(slurm, *arguments)
        queued = ""
        for _ in range(600):
            queued = subprocess.run(
                ["squeue", "-h", "-o", "%F"], env=environment, capture_output=True, text=True,
                check=True,
            ).stdout.strip()  # fmt: skip
            if queued:
                break
            time.sleep(0.1)
        subprocess.run(["scancel", queued.split()[0]], env=environment, check=True)
        text, errors = process.communicate(timeout=300)
    finally:
        subprocess.run(
            ["scontrol", "update", "partition=main", "state=up"], env=environment, check=True
        )
    assert process.returncode == 4, errors
    document = json.loads(text)
    assert set(states(document).values()) == {"failed"}
    assert "CANCELLED" in document["units"][0]["error"]["message"]
    process = start(slurm, *arguments, "--retry-failed")
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 4, errors
    assert states(json.loads(text)) == {"a": "done", "b": "failed", "c": "done"}

"""Several processes train as one would: the same samples, the same weights up to rounding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_runs
from train_runs import KillPoint

from srmri_model.checkpoints import load_checkpoint
from srmri_model.training.config import TrainConfig

PROJECT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_ranks(world, data, out, point=None, hit=Path(), **settings):
    """Exit codes of the processes, each with the environment torchrun would set."""
    common = {
        "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    processes = [
        train_runs.start_child(
            data, out, point if rank == 0 else None, hit, {**common, "RANK": str(rank)}, **settings
        )
        for rank in range(world)
    ]
    codes = [train_runs.end_of(processes[0])]
    for process in processes[1:]:
        if codes[0]:
            # As torchrun does when one process has failed.
            process.terminate()
        codes.append(train_runs.end_of(process))
    return codes


def final(out):
    return load_checkpoint(out / "states" / "step-000000006.safetensors")


@pytest.fixture(scope="module")
def alone(phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    assert train_runs.run_in_child(phantoms, out, batch=4, accumulate=1) == 0
    return out


def close(one, other, tolerance=1e-4):
    return all(
        torch.allclose(one[name], other[name], rtol=tolerance, atol=tolerance) for name in one
    )


def test_two_processes_equal_one_with_twice_the_batch(phantoms, alone, tmp_path):
    assert run_ranks(2, phantoms, tmp_path / "out", batch=2, accumulate=1) == [0, 0]
    one, two = final(alone), final(tmp_path / "out")
    assert close(one.tensors, two.tensors)
    assert close(one.extra, two.extra)
    assert one.metadata["best"]["step"] == two.metadata["best"]["step"]


def test_accumulation_equals_a_larger_batch(phantoms, alone, tmp_path):
    assert train_runs.run_in_child(phantoms, tmp_path / "out", batch=2, accumulate=2) == 0
    assert close(final(alone).extra, final(tmp_path / "out").extra)


def test_other_samples_give_other_weights(phantoms, alone, tmp_path):
    """Control: the tolerance is not so wide that anything passes."""
    assert train_runs.run_in_child(phantoms, tmp_path / "out", batch=4, accumulate=1, seed=6) == 0
    assert not close(final(alone).extra, final(tmp_path / "out").extra)


def test_a_stopped_process_of_two_can_be_resumed_by_one(phantoms, alone, tmp_path):
    out, hit = tmp_path / "out", tmp_path / "hit"
    point = KillPoint("srmri_model.train", "training_step", 3, number=signal.SIGTERM)
    codes = run_ranks(2, phantoms, out, point, hit, batch=2, accumulate=1, checkpoint_minutes=60.0)
    assert hit.exists()
    assert codes[0] == 143
    # The other is told to stop as well, unless it has noticed first that its partner is gone.
    assert codes[1] != 0
    assert train_runs.run_in_child(phantoms, out, resume=True, batch=4, accumulate=1) == 0
    assert close(final(alone).extra, final(out).extra)


@pytest.mark.slow
def test_torchrun_trains_and_prints_once(phantoms, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", "cli", "train", "--data", str(phantoms),
        "--out", str(tmp_path / "out"), "--steps", "2", "--batch", "1", "--patch", "16",
        "--device", "cpu", "-q", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2


@pytest.mark.slow
# submitit forgets the process it started before that ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_submitit_starts_two_processes(phantoms, tmp_path):
    submitit = pytest.importorskip("submitit", reason="the slurm extra is not installed")
    from srmri_model.training.cluster import JobOptions, submit_training

    config = TrainConfig.for_preset("tiny", steps=2, batch=1, patch=16, device="cpu")
    options = JobOptions(engine="local", processes=2, minutes=15)
    job_id, log = submit_training(
        options, data=[str(phantoms)], out=tmp_path / "out", config=config
    )
    job = submitit.LocalJob(tmp_path / "out" / "jobs" / job_id, job_id, tasks=[0, 1])
    # Without its process submitit does not know whether such a job still runs.
    results = [job.task(number).paths.result_pickle for number in (0, 1)]
    deadline = time.monotonic() + 300
    while not all(path.exists() for path in results) and time.monotonic() < deadline:
        time.sleep(0.5)
    first, second = job.results()
    assert Path(log).is_file()
    assert first["steps"] == 2
    assert first["processes"] == 2
    assert second == {}

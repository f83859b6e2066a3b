"""A run that is killed anywhere ends with the same bits as one that is not."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
import torch
import train_runs
from train_runs import KillPoint

from srmri_data.errors import CheckpointError
from srmri_data.safe_io import sha256_file
from srmri_model.checkpoints import load_checkpoint

TRAIN, SAFE_IO = "srmri_model.train", "srmri_data.safe_io"
ADAM = "torch.optim:Adam"
AVERAGE = "srmri_model.training.ema:WeightAverage"
STATES = "srmri_model.training.states:StateFolder"

POINTS = {
    "before the first step": KillPoint(f"{TRAIN}:Trainer", "advance", 1),
    "while a batch is loaded": KillPoint(f"{TRAIN}:Batches", "load", 4),
    "mid-accumulation": KillPoint(TRAIN, "training_step", 8),
    "before the optimiser": KillPoint(ADAM, "step", 4),
    "between optimiser and average": KillPoint(AVERAGE, "update", 4),
    "before the step counts": KillPoint(AVERAGE, "update", 4, after=True),
    "in a validation": KillPoint(TRAIN, "measure", 2),
    "before the model is written": KillPoint(TRAIN, "save_checkpoint", 2),
    "between model and state": KillPoint(TRAIN, "save_checkpoint", 2, after=True),
    "before a state": KillPoint(STATES, "save", 3),
    "with a state half written": KillPoint(SAFE_IO, "open", half=True, only="step-000000003"),
    "before the rename": KillPoint("os", "replace", only="step-000000003"),
    "after the rename": KillPoint("os", "replace", only="step-000000003", after=True),
    "before old states go": KillPoint("pathlib:Path", "unlink", 2, only="/states/step-"),
    "when a row is logged": KillPoint("srmri_model.training.logs:TrainingLog", "validation", 2),
}


def ends(out):
    """Everything that has to be equal at the end of two runs."""
    state = load_checkpoint(out / "states" / "step-000000006.safetensors")
    metadata = {name: value for name, value in state.metadata.items() if name != "seconds"}
    return {**state.tensors, **state.extra}, metadata, sha256_file(out / "model.safetensors")


def assert_same_end(out, other):
    (tensors, metadata, model), (others, other_metadata, other_model) = ends(out), ends(other)
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []
    assert metadata == other_metadata
    assert model == other_model


@pytest.fixture(scope="module")
def undisturbed(phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert train_runs.run_in_child(phantoms, out) == 0
    return out


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_ends_with_the_same_bits(name, phantoms, undisturbed, tmp_path):
    out, hit = tmp_path / "out", tmp_path / "hit"
    assert train_runs.run_in_child(phantoms, out, POINTS[name], hit) == -signal.SIGKILL
    assert hit.exists()
    assert train_runs.run_in_child(phantoms, out, resume=True) == 0
    assert_same_end(out, undisturbed)
    assert list(out.rglob(".*srmri-tmp*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_says_so(number, phantoms, undisturbed, tmp_path):
    out, hit = tmp_path / "out", tmp_path / "hit"
    point = KillPoint(TRAIN, "training_step", 8, number=number)
    began = time.monotonic()
    # Nothing is saved by the clock: what is there afterwards was saved by the signal.
    code = train_runs.run_in_child(phantoms, out, point, hit, checkpoint_minutes=60.0)
    assert code == 128 + number
    assert hit.exists()
    assert time.time() - hit.stat().st_mtime < min(5.0, time.monotonic() - began)
    states = list((out / "states").iterdir())
    assert len(states) == 1
    assert load_checkpoint(states[0]).metadata["step"] in (3, 4, 5)
    assert train_runs.run_in_child(phantoms, out, resume=True) == 0
    assert_same_end(out, undisturbed)


def test_the_comparison_sees_a_difference(phantoms, undisturbed, tmp_path):
    """Control: another seed ends with other bits."""
    assert train_runs.run_in_child(phantoms, tmp_path / "out", seed=6) == 0
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "out", undisturbed)


def damage(content: bytes, number: int) -> bytes:
    """Return one of many ways to damage a file: cut, flipped, blanked, prolonged."""
    random = np.random.default_rng(number)
    place = int(random.integers(len(content)))
    kind = number % 5
    if kind == 0:
        return content[:place]
    if kind == 1:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        return bytes(flipped)
    if kind == 2:
        return content[:place] + bytes(min(64, len(content) - place)) + content[place + 64 :]
    if kind == 3:
        return content + b"\0" * (1 + number)
    return content[place:] + content[:place]


def test_fifty_damaged_states_fall_back_loudly(undisturbed, tmp_path):
    from srmri_model.training.states import StateFolder

    older, newest = sorted((undisturbed / "states").glob("step-*"))
    content, step = newest.read_bytes(), load_checkpoint(older).metadata["step"]
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        damaged = damage(content, number)
        assert damaged != content
        (folder / older.name).write_bytes(older.read_bytes())
        (folder / newest.name).write_bytes(damaged)
        said = []
        state = StateFolder(folder, keep=2).newest(said.append)
        assert state is not None
        assert state.metadata["step"] == step, number
        assert len(said) == 1
        assert newest.name in said[0]
        assert (folder / f"{newest.name}.damaged").exists()


def test_whole_states_are_read_without_a_word(undisturbed):
    """Control: the fallback is not taken for a good file."""
    from srmri_model.training.states import StateFolder

    said = []
    state = StateFolder(undisturbed / "states", keep=2).newest(said.append)
    assert state is not None
    assert state.metadata["step"] == 6
    assert said == []


def test_nothing_whole_is_an_error(undisturbed, tmp_path):
    from srmri_model.training.states import StateFolder

    (tmp_path / "step-000000003.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="all 1 training states"):
        StateFolder(tmp_path, keep=2).newest(lambda _text: None)
    assert StateFolder(tmp_path / "none", keep=2).newest(lambda _text: None) is None


@pytest.mark.usefixtures("small_network")
def test_a_resumed_run_says_that_a_state_was_damaged(phantoms, undisturbed, tmp_path):
    import shutil

    out = shutil.copytree(undisturbed, tmp_path / "out")
    newest = max((out / "states").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-5])
    summary = train_runs.train(phantoms, out, resume=True)
    assert any(newest.name in text for text in summary["warnings"])
    assert_same_end(out, undisturbed)


@pytest.mark.usefixtures("small_network")
def test_a_failed_save_is_never_a_success(phantoms, tmp_path, monkeypatch):
    from srmri_data import safe_io

    replace, fail = safe_io.os.replace, OSError(28, "No space left on device")

    def full(source, target):
        if "step-000000003" in str(target):
            raise fail
        return replace(source, target)

    monkeypatch.setattr(safe_io.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        train_runs.train(phantoms, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "states").iterdir()}
    assert names == {"step-000000001.safetensors", "step-000000002.safetensors"}

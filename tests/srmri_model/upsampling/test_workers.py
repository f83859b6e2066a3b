"""Slices side by side: the same bits as one after the other, and one failure ends all."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch
from upsample_runs import ball, plan, scan, write_checkpoint

from srmri_model.checkpoints import load_checkpoint, save_checkpoint
from srmri_model.upsample import run_upsample
from srmri_model.upsampling import workers as sut
from srmri_model.upsampling.draw import prepare
from srmri_model.upsampling.plan import noise_table
from srmri_model.upsampling.workers import Workers, workers_for


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)
    low = scan(tmp_path / "lr.nii.gz", ball((8, 5, 7)))

    def make(name, **settings):
        return plan(low, tmp_path / name / "sr", weights, **settings)

    return make


@pytest.mark.parametrize("planes", ["single", "3"])
def test_side_by_side_gives_the_bits_of_one_after_the_other(
    planes, made, three_threads, monkeypatch
):
    volumes = {}
    for count in (1, 3):
        one = made(str(count), planes=planes)
        monkeypatch.setattr(
            "srmri_model.upsampling.draw.workers_for", lambda *_, count=count: Workers(count, 1)
        )
        assert run_upsample(one)["workers"] == count
        volumes[count] = one.paths["volume"].read_bytes()
    assert volumes[1] == volumes[3]
    assert torch.get_num_threads() == 3


def test_neighbours_are_shown_along_three_axes_only(three_threads, monkeypatch, tmp_path):
    """Zeros in their place: the same slices, another volume; side by side changes nothing."""
    knows = write_checkpoint(tmp_path / "knows.safetensors", neighbours=1)
    checkpoint = load_checkpoint(knows)
    kernel = checkpoint.tensors["conv_in.weight"].clone()
    kernel[:, 1:] = 0
    blind = tmp_path / "blind.safetensors"
    tensors = {**checkpoint.tensors, "conv_in.weight": kernel}
    save_checkpoint(blind, replace(checkpoint, tensors=tensors))
    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)
    low, drawn = scan(tmp_path / "lr.nii.gz", ball((8, 5, 7))), {}
    for planes in ("single", "3"):
        for count, model in ((1, knows), (3, knows), (1, blind)):
            monkeypatch.setattr(
                "srmri_model.upsampling.draw.workers_for", lambda *_, count=count: Workers(count, 1)
            )
            name = f"{planes}-{count}-{model.stem}"
            one = plan(low, tmp_path / name / "sr", model, planes=planes)
            shown = run_upsample(one)["neighbours"]
            assert shown == (planes == "3")
            drawn[planes, count, model.stem] = one.paths["volume"].read_bytes()
        assert drawn[planes, 1, "knows"] == drawn[planes, 3, "knows"]
    assert drawn["single", 1, "knows"] == drawn["single", 1, "blind"]
    assert drawn["3", 1, "knows"] != drawn["3", 1, "blind"]


def test_volumes_have_a_variance_of_their_own(three_threads, tmp_path):
    table = {
        "sigmas": [0.01, 1.0], "foreground": [1e-4, 0.01], "seen": [2e-4, 0.05],
        "background": [1e-5, 1e-3], "n_slices": 3,
    }  # fmt: skip
    model = write_checkpoint(tmp_path / "m.safetensors", volume_table=table)
    low = scan(tmp_path / "lr.nii.gz", ball((8, 5, 7)))
    found = {}
    for planes in ("single", "3"):
        made = plan(low, tmp_path / planes / "sr", model, planes=planes)
        drawing, _, _ = prepare(made, sigma_y=0.03)
        found[planes] = (drawing.variance(1.0).seen, drawing.background.pixel_at(1.0))
    assert found["3"] == pytest.approx((0.05, 1e-3))
    assert found["single"] != pytest.approx(found["3"])
    scaled = noise_table({"volume_table": {**table, "seen_scale": 1.5}}, "3")
    assert scaled[2] == pytest.approx((3e-4, 0.075))
    assert scaled[:2] == noise_table({"volume_table": table}, "3")[:2]
    by_level = noise_table({"volume_table": {**table, "seen_scale": [1.5, 2.0]}}, "3")
    assert by_level[2] == pytest.approx((3e-4, 0.1))
    assert noise_table({"noise_table": table}, "3") == noise_table({"noise_table": table})


def test_bits_of_slices_do_not_depend_on_the_threads_there_are(made, three_threads):
    three, one = made("three"), made("one")
    run_upsample(three)
    torch.set_num_threads(1)
    run_upsample(one)
    assert three.paths["volume"].read_bytes() == one.paths["volume"].read_bytes()


def test_stopped_side_by_side_it_goes_on_to_the_same_bits(made, three_threads):
    whole, stopped = made("whole"), made("stopped")
    run_upsample(whole)

    def interrupt(stage, done, total):
        if list(stopped.work.glob("*.npz")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_upsample(stopped, progress=interrupt)
    assert not stopped.paths["volume"].exists()
    run_upsample(stopped)
    assert stopped.paths["volume"].read_bytes() == whole.paths["volume"].read_bytes()


def test_progress_counts_every_level_once(made, three_threads):
    seen = []
    run_upsample(made("sr"), progress=lambda stage, done, total: seen.append((stage, done, total)))
    levels = [(done, total) for stage, done, total in seen if stage == "sampling"]
    assert [done for done, _ in levels] == list(range(levels[0][1] + 1))


def test_the_first_failure_ends_all():
    begun, ended = [], []

    def compute(n, stopped):
        begun.append(n)
        if n == 1:
            raise ValueError("one")
        while not stopped():
            time.sleep(0.001)
        ended.append(n)

    with pytest.raises(ValueError, match="one"):
        list(Workers(count=3).each(compute, range(100)))
    # The thread that failed may have begun another before this one knew.
    assert len(begun) < 10
    assert set(ended) == set(begun) - {1}


def test_who_leaves_early_stops_the_others():
    found = Workers(count=2).each(lambda n, stopped: n or wait_for(stopped), range(100))
    assert next(found) == (1, 1)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("slices")]


def wait_for(stopped):
    deadline = time.monotonic() + 20
    while not stopped() and time.monotonic() < deadline:
        time.sleep(0.001)
    return 0


def test_alone_it_is_computed_where_it_is_called(three_threads):
    here = threading.current_thread()
    assert dict(Workers().each(lambda n, stopped: threading.current_thread(), [0])) == {0: here}


def test_gradients_and_denormals_are_as_where_it_was_called(three_threads):
    def state(_n, _stopped):
        small = torch.full((1,), 1e-38) * 1e-3
        return torch.is_grad_enabled(), torch.get_num_threads(), float(small)

    with torch.no_grad():
        assert dict(Workers(2, threads=1).each(state, [0])) == {0: (False, 1, 0.0)}
    assert dict(Workers(2, threads=1).each(state, [0])) == {0: (True, 1, 0.0)}


@pytest.mark.parametrize(
    ("needed", "free", "expected"),
    [
        (10, 1000, Workers(3, 1)),
        (400, 1000, Workers(2, 1)),
        (4000, 1000, Workers(1, 1)),
        (sut.LARGE_BYTES, 10**12, Workers()),
    ],
)
def test_memory_and_size_decide(needed, free, expected, three_threads):
    assert workers_for(needed, free) == expected

"""Baselines trained by the run: crops that correspond, losses, killed runs, damaged products."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import train_runs
from baseline_shapes import SMALL
from train_runs import KillPoint

from srmri_data.errors import CheckpointError, UsageError
from srmri_data.safe_io import sha256_file
from srmri_model.baselines import load_upscaler
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.upscaler import UPSCALER
from srmri_model.checkpoints import load_checkpoint
from srmri_model.metrics import psnr
from srmri_model.operators import low_positions, low_size
from srmri_model.training.pairs import Degradation
from srmri_model.training.supervised import (
    crop_pair,
    crop_size,
    high_size,
    relativistic_loss,
)
from srmri_model.training.supervised_config import Adversarial, SupervisedConfig


def ramp_pair(high, factor, grid="voxel-centre"):
    """A pair whose pixels say where they are: rows in the image, columns hundredfold."""
    rows, cols = (np.arange(n, dtype=np.float64) for n in high)
    lows = [low_positions(low_size(n, f), f, grid) for n, f in zip(high, factor, strict=True)]
    return {
        "low_res": (lows[0][:, None] + 100 * lows[1][None]).astype(np.float32),
        "high_res": (rows[:, None] + 100 * cols[None]).astype(np.float32),
        "foreground": np.ones(high, dtype=bool),
        "factor": factor,
    }


@pytest.mark.parametrize("factor", [(2.0, 2.0), (1.5, 1.5), (2.5, 1.25), (4.0, 3.0), (3.6, 1.0)])
@pytest.mark.parametrize("grid", ["voxel-centre", "fourier"])
def test_crops_of_both_resolutions_show_the_same_place(factor, grid):
    pair = ramp_pair((61, 70), factor, grid)
    starts = set()
    for number in range(40):
        low, high = crop_pair(pair, number, seed=0, patch=12, may_turn=False)
        sizes = tuple(crop_size(n, 12, f) for n, f in zip((61, 70), factor, strict=True))
        assert high.shape == sizes
        assert low.shape == tuple(low_size(n, f) for n, f in zip(sizes, factor, strict=True))
        first = [low_positions(1, f, grid)[0] for f in factor]
        assert low[0, 0] - high[0, 0] == pytest.approx(first[0] + 100 * first[1], abs=1e-2)
        starts.add(float(high[0, 0]))
    assert len(starts) > 5, "crops are from many places"


def test_turned_crops_still_show_the_same_place():
    pair = ramp_pair((64, 64), (2.0, 2.0))
    seen = set()
    for number in range(60):
        low, high = crop_pair(pair, number, seed=3, patch=8, may_turn=True)
        # Means of 2 by 2, whichever way both were turned.
        np.testing.assert_allclose(high.reshape(8, 2, 8, 2).mean(axis=(1, 3)), low, atol=1e-2)
        seen.add((bool(high[1, 0] > high[0, 0]), bool(high[0, 1] > high[0, 0]),
                  bool(abs(high[1, 0] - high[0, 0]) > 50)))  # fmt: skip
    assert len(seen) == 8


def test_what_does_not_look_the_same_from_both_sides_is_not_flipped():
    pair = ramp_pair((61, 61), (1.5, 1.5))
    for number in range(20):
        low, high = crop_pair(pair, number, seed=0, patch=0, may_turn=True)
        assert high.shape == (61, 61)
        assert low[0, 0] - high[0, 0] == pytest.approx(25.25, abs=1e-2)


@pytest.mark.parametrize("factor", [1.0, 1.2, 1.5, 2.0, 2.4, 3.0, 4.0])
def test_a_crop_of_so_many_voxels_has_so_many(factor):
    for low in range(2, 70):
        assert low_size(high_size(low, factor), factor) == low
        assert abs(high_size(low, factor) - low * factor) < 1


def test_the_relativistic_loss_is_log_2_for_a_critic_that_knows_nothing():
    same = torch.full((4, 1), 3.0)
    assert float(relativistic_loss(same, same)) == pytest.approx(np.log(2))
    assert float(relativistic_loss(same + 20, same)) < 1e-6
    assert float(relativistic_loss(same, same + 20)) == pytest.approx(20)


def test_recipes_are_the_papers():
    rcan = SupervisedConfig.for_preset("rcan")
    assert (rcan.steps, rcan.batch, rcan.patch, rcan.loss, rcan.optimiser) == (
        1_000_000, 16, 48, "l1", "adam",
    )  # fmt: skip
    assert rcan.learning_rate_at(199_999, 0.199999) == 1e-4
    assert rcan.learning_rate_at(200_000, 0.2) == 5e-5
    esrgan = SupervisedConfig.for_preset("esrgan", degradation=Degradation(factor=4))
    assert (esrgan.steps, esrgan.patch) == (1_400_000, 32)
    assert not esrgan.is_adversarial(999_999 / 1_400_000)
    assert esrgan.is_adversarial(1_000_001 / 1_400_000)
    assert esrgan.learning_rate_at(1_000_001, 1_000_001 / 1_400_000) == 1e-4
    assert esrgan.learning_rate_at(1_050_001, 1_050_001 / 1_400_000) == 5e-5
    scaled = SupervisedConfig.for_preset("rcan", budget=3.0)
    assert (scaled.preset, scaled.minutes, scaled.residual) == ("scaled", 3.0, True)
    assert "Muon" in scaled.to_json()["not_as_published"]
    assert rcan.to_json()["not_as_published"] == ""


@pytest.mark.parametrize(("settings", "message"), [
    ({"budget": 3, "steps": 5}, "--budget"),
    ({"plane": "all"}, "--plane all"),
    ({"shape": SMALL["carn"]}, "no shape CARNShape"),
    ({"preset": "tiny"}, "no preset 'tiny'"),
    ({"batch": 1, "adversarial": Adversarial(begins=0.5)}, "--batch 1 has too few"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        SupervisedConfig.for_preset("rcan", **settings)


# Blur that can be undone, unlike what few pixels of a phantom leave out.
BLURRED = Degradation("gaussian", width=2.0, sigma_y=0.0)


@pytest.fixture(scope="module")
def clean_phantoms(tmp_path_factory):
    """Two animals without noise, which nothing could foretell."""
    import nibabel as nib

    from srmri_data.phantom import mouse_brain

    folder = tmp_path_factory.mktemp("clean")
    for animal in range(2):
        brain = mouse_brain((32, 45, 24), 0.4, animal=animal, noise=0.0)
        nib.save(nib.Nifti1Image(brain.data, brain.affine), folder / f"sub-c{animal}_T2w.nii.gz")
    return folder


def test_a_trained_baseline_beats_interpolation_and_comes_back_as_it_was(clean_phantoms, tmp_path):
    summary = train_runs.train_baseline(
        clean_phantoms, tmp_path / "out", "carn", steps=120, validate_every=120, accumulate=1,
        batch=4, learning_rate=1e-2, warmup_steps=5, degradation=BLURRED,
        checkpoint_minutes=60.0, draw=True,
    )  # fmt: skip
    assert summary["psnr"] > summary["psnr_bicubic"] + 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "CARN after 120 steps" in page
    assert "Muon" in page
    assert summary["params"] == sum(
        p.numel() for p in load_upscaler(tmp_path / "out" / "model.safetensors").parameters()
    )
    assert summary["weights_sha256"] == sha256_file(tmp_path / "out" / "model.safetensors")
    pair = train_runs.pairs(clean_phantoms, tmp_path / "cache", BLURRED).validation[5]
    upscaler = load_upscaler(tmp_path / "out" / "model.safetensors")
    high = pair["high_res"]
    made = upscaler(torch.from_numpy(pair["low_res"])[None, None], high.shape)[0, 0].numpy()
    cubic = interpolate(pair["low_res"], high.shape, 2.0, "bicubic")
    assert psnr(made, high, pair["foreground"]) > psnr(cubic, high, pair["foreground"])
    known = load_checkpoint(tmp_path / "out" / "model.safetensors", UPSCALER).metadata
    assert known["kind"] == "carn"
    assert known["validation"]["psnr"] == summary["psnr"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["config"]["shape"] == {"width": 8, "blocks": 2, "units": 2}


POINTS = {
    "before the optimiser": KillPoint("srmri_model.training.optimise:Optimiser", "step", 5),
    "in a validation": KillPoint("srmri_model.training.supervised", "psnr", 20),
    "before a state": KillPoint("srmri_model.training.states:StateFolder", "save", 5),
}


@pytest.fixture(scope="module", params=["carn", "esrgan"])
def undisturbed(request, phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / request.param
    assert train_runs.run_in_child(phantoms, out, baseline=request.param) == 0
    return out


@pytest.mark.parametrize("name", POINTS)
def test_a_killed_run_ends_with_the_same_bits(name, phantoms, undisturbed, tmp_path):
    out, hit, baseline = tmp_path / "out", tmp_path / "hit", undisturbed.name
    code = train_runs.run_in_child(phantoms, out, POINTS[name], hit, baseline=baseline)
    assert code == -signal.SIGKILL
    assert hit.exists()
    assert train_runs.run_in_child(phantoms, out, baseline=baseline, resume=True) == 0
    states = [
        load_checkpoint(run / "states" / "step-000000006.safetensors", UPSCALER)
        for run in (out, undisturbed)
    ]
    one, other = ({**state.tensors, **state.extra} for state in states)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert sha256_file(out / "model.safetensors") == sha256_file(undisturbed / "model.safetensors")
    if baseline == "esrgan":
        assert int(one["critic-steps"]) == 3
        assert any(key.startswith("critic-moments.square") for key in one)


def test_a_changed_setting_is_not_resumed(phantoms, undisturbed):
    with pytest.raises(UsageError, match="other data, degradation"):
        train_runs.train_baseline(
            phantoms, undisturbed, undisturbed.name, resume=True,
            degradation=Degradation(sigma_y=0.02),
        )  # fmt: skip


def test_damaged_and_mistaken_checkpoints_are_refused(undisturbed, tmp_path):
    content = (undisturbed / "model.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for number in range(20):
        damaged = bytearray(content)
        place = int(np.random.default_rng(number).integers(len(content)))
        damaged[place] ^= 1 << number % 8
        bad.write_bytes(bytes(damaged[: place + 1] if number % 4 == 0 else damaged))
        with pytest.raises(CheckpointError):
            load_upscaler(bad)
    with pytest.raises(CheckpointError, match="not a checkpoint of a score model"):
        load_checkpoint(undisturbed / "model.safetensors")
    from srmri_model.weights import bundled_weights

    with pytest.raises(CheckpointError, match="not a checkpoint of a supervised baseline"):
        load_upscaler(bundled_weights())


def test_a_checkpoint_that_describes_too_much_takes_no_memory(undisturbed, tmp_path):
    from srmri_model.checkpoints import save_checkpoint

    whole = load_checkpoint(undisturbed / "model.safetensors", UPSCALER)
    wide = replace(whole.network.shape, width=4096)
    bad = replace(whole, network=replace(whole.network, shape=wide))
    save_checkpoint(tmp_path / "bad.safetensors", bad, UPSCALER)
    with pytest.raises(CheckpointError, match="weights do not fit the network"):
        load_upscaler(tmp_path / "bad.safetensors")


def test_acquired_pairs_train_too(dataset, tmp_path):
    summary = train_runs.train_baseline(
        dataset, tmp_path / "out", "srcnn", degradation=None, steps=2
    )
    assert summary["n_validation"] > 0
    assert any("edges of their fields of view" in note for note in summary["notes"])


def test_a_dry_run_counts_and_trains_nothing(phantoms, tmp_path):
    from srmri_model.training.estimate import estimate

    config = SupervisedConfig.for_preset("rcan", "scaled", steps=10, shape=SMALL["rcan"])
    found = estimate([str(phantoms)], tmp_path / "out", config)
    network = load_shape_count("rcan")
    assert found["params"] == network
    assert found["flops_per_step"] > 0
    assert not (tmp_path / "out" / "states").exists()


def load_shape_count(name):
    from srmri_model.baselines.config import UpscalerConfig
    from srmri_model.baselines.upscaler import build_upscaler

    return sum(p.numel() for p in build_upscaler(UpscalerConfig(name, SMALL[name])).parameters())


def test_the_critic_begins_late_and_changes_the_image(phantoms, tmp_path):
    settings = {"steps": 4, "validate_every": 4, "ema_decay": 0.0}
    made = []
    for begins in (0.5, 1.0):
        train_runs.train_baseline(
            phantoms, tmp_path / str(begins), "esrgan", **settings,
            adversarial=Adversarial(begins=begins),
        )  # fmt: skip
        made.append(load_checkpoint(tmp_path / str(begins) / "model.safetensors", UPSCALER))
    one, other = (checkpoint.tensors for checkpoint in made)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srcnn", "rcan", "esrgan"])
def test_a_scaled_preset_beats_interpolation_on_held_out_mice(name, shared_data, tmp_path):
    from srmri_model.train import run_training

    config = SupervisedConfig.for_preset(
        name, "scaled", steps=200, batch=8, device="cpu", validate_every=1000
    )
    mice = shared_data / "nifti" / "mouse_invivo_T2w_150um_GPL3"
    summary = run_training([str(mice)], tmp_path / "out", config, split=shared_data / "splits.json")
    assert summary["psnr_bicubic"] == pytest.approx(20.88, abs=0.01)
    # Half a minute of one core; ESRGAN's critic takes back some of what the pixels gave.
    assert summary["psnr"] > summary["psnr_bicubic"] + 0.3

"""Training: the loss, what a run writes, and how it goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import train_runs

from srmri_data.errors import TrainingError, UsageError
from srmri_model.checkpoints import load_checkpoint, load_denoiser
from srmri_model.networks import PRESETS, NetworkConfig
from srmri_model.train import training_step
from srmri_model.training.logs import read_log

pytestmark = pytest.mark.usefixtures("small_network")


class Toy:
    """A denoiser that returns what it is given."""

    def __init__(self, config, answer):
        self.config = config
        self.answer = answer

    def __call__(self, x, sigma, plane=None):
        return self.answer(x, sigma)


def test_the_loss_is_the_papers():
    """σ² ‖s + z/σ‖² for a score s, by its definition."""
    config = NetworkConfig(nf=4, preconditioning="ve")
    clean, noise = torch.randn(2, 3, 1, 4, 5)
    sigma = torch.tensor([0.1, 1.0, 20.0])
    per_image = sigma[:, None, None, None]

    def score(x, sigma):
        return -0.7 * x / (per_image**2 + 0.3)

    by_definition = (
        per_image**2 * (score(clean + per_image * noise, sigma) + noise / per_image) ** 2
    )
    toy = Toy(config, lambda x, sigma: x + per_image**2 * score(x, sigma))
    found = training_step(toy, clean, noise, sigma)
    torch.testing.assert_close(found, by_definition.mean(), rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_perfect_denoiser_is_zero():
    config = NetworkConfig(nf=4, preconditioning="edm", scale_by_sigma=False)
    clean = torch.rand(2, 1, 4, 4)
    toy = Toy(config, lambda x, sigma: clean)
    assert training_step(toy, clean, torch.randn_like(clean), torch.ones(2)).item() == 0


def test_a_run_leaves_a_model_its_noise_table_and_logs(phantoms, tmp_path):
    summary = train_runs.train(phantoms, tmp_path / "out", steps=12)
    model = load_checkpoint(tmp_path / "out" / "model.safetensors")
    table = model.metadata["noise_table"]
    assert len(table["sigmas"]) == len(table["foreground"]) == 4
    assert model.metadata["training"]["step"] == summary["best"]["step"]
    assert [row["foreground"] for row in summary["val_by_sigma"]] == table["foreground"]
    assert summary["steps"] == 12
    assert summary["n_validation"] == 2
    denoiser = load_denoiser(tmp_path / "out" / "model.safetensors")
    assert denoiser(torch.rand(1, 1, 9, 11), 0.1).isfinite().all()
    assert [row["step"] for row in read_log(tmp_path / "out" / "log.csv")] == [10]
    steps = {row["step"] for row in read_log(tmp_path / "out" / "validation.csv")}
    assert steps == {2, 4, 6, 8, 10, 12}
    assert len(list((tmp_path / "out" / "states").iterdir())) == 2
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {**written, "warnings": []} == summary


def test_a_run_is_not_overwritten_but_can_be_extended(phantoms, tmp_path):
    train_runs.train(phantoms, tmp_path / "out", steps=4)
    with pytest.raises(UsageError, match="holds a training run"):
        train_runs.train(phantoms, tmp_path / "out", steps=8)
    again = train_runs.train(phantoms, tmp_path / "out", steps=8, resume=True)
    assert again["steps"] == 8
    with pytest.raises(UsageError, match="learning_rate"):
        train_runs.train(phantoms, tmp_path / "out", steps=9, resume=True, learning_rate=1.0)


def test_extending_equals_going_through(phantoms, tmp_path):
    train_runs.train(phantoms, tmp_path / "a", steps=5, decay="none")
    train_runs.train(phantoms, tmp_path / "a", steps=9, resume=True, decay="none")
    train_runs.train(phantoms, tmp_path / "b", steps=9, decay="none")
    one, other = (load_checkpoint(tmp_path / n / "states/step-000000009.safetensors") for n in "ab")
    assert set(one.extra) == set(other.extra)
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)
    assert all(torch.equal(one.extra[name], other.extra[name]) for name in other.extra)


def test_all_planes_come_with_a_label(phantoms, tmp_path):
    train_runs.train(phantoms, tmp_path / "out", steps=3, plane="all", patch=0)
    assert load_checkpoint(tmp_path / "out" / "model.safetensors").network.n_planes == 3


def test_a_loss_that_is_no_number_ends_the_run(phantoms, tmp_path):
    with pytest.raises(TrainingError, match="after"):
        train_runs.train(phantoms, tmp_path / "out", steps=30, learning_rate=1e30, warmup_steps=0)


def test_init_begins_with_given_weights(phantoms, tmp_path):
    train_runs.train(phantoms, tmp_path / "a", steps=3)
    start = tmp_path / "a" / "model.safetensors"
    train_runs.train(
        phantoms, tmp_path / "b", init=start, steps=1, learning_rate=1e-12, warmup_steps=0
    )
    one, other = (load_checkpoint(tmp_path / n / "model.safetensors").tensors for n in "ab")
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-6)


def test_the_loss_falls_on_the_phantom(phantoms, tmp_path, monkeypatch):
    wider = replace(PRESETS["tiny"], nf=12, attention=(False, False))
    monkeypatch.setitem(PRESETS, "tiny", wider)
    train_runs.train(
        phantoms, tmp_path / "out", steps=60, validate_every=60, validation_slices=1,
        accumulate=1, batch=4, learning_rate=4e-3, checkpoint_minutes=9.0,
    )  # fmt: skip
    losses = [row["loss"] for row in read_log(tmp_path / "out" / "log.csv")]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])

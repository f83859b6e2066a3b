"""Recipes, noise levels, averaging, the noise table, logs, the estimate and the page."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import train_runs
from torch import nn

from srmri_data.errors import UsageError
from srmri_model.networks import PRESETS, NetworkConfig
from srmri_model.sde import LogNormal, geometric_levels, training_sigmas
from srmri_model.training.config import RECIPES, TrainConfig
from srmri_model.training.ema import WeightAverage
from srmri_model.training.logs import TrainingLog, read_log
from srmri_model.training.validation import NoiseTable, measure

UNIFORM = (torch.arange(20000) + 0.5) / 20000


def test_the_papers_levels_are_uniform_in_their_logarithm():
    sigma = training_sigmas(PRESETS["paper"], UNIFORM).double()
    assert sigma.min() == pytest.approx(0.01, rel=1e-3)
    assert sigma.max() == pytest.approx(378, rel=1e-3)
    quartiles = np.percentile(sigma.log(), [25, 50, 75])
    ends = math.log(0.01), math.log(378)
    np.testing.assert_allclose(quartiles, np.linspace(*ends, 5)[1:4], atol=0.01)


def test_log_normal_levels_have_their_moments_and_stay_in_the_range():
    wide = NetworkConfig(nf=4, sigma_min=1e-4, sigma_max=1e4)
    logs = training_sigmas(wide, UNIFORM, LogNormal(-2.0, 1.2)).double().log()
    assert float(logs.mean()) == pytest.approx(-2.0, abs=0.01)
    assert float(logs.std()) == pytest.approx(1.2, abs=0.01)
    narrow = NetworkConfig(nf=4, sigma_min=0.05, sigma_max=0.5)
    sigma = training_sigmas(narrow, UNIFORM, LogNormal(-2.0, 1.2))
    assert float(sigma.min()) == pytest.approx(0.05, rel=1e-3)
    assert float(sigma.max()) == pytest.approx(0.5, rel=1e-3)
    # Cut off, not clamped: nothing piles up at the ends.
    assert int((sigma < 0.0505).sum()) < 0.01 * len(UNIFORM)


def test_every_preset_has_a_recipe_and_the_papers_is_the_papers():
    assert RECIPES.keys() == PRESETS.keys()
    paper = TrainConfig.for_preset("paper", epochs=1000)
    assert (paper.batch, paper.learning_rate, paper.warmup_steps) == (4, 2e-4, 5000)
    assert (paper.ema_decay, paper.clip, paper.patch, paper.noise) == (0.999, 1.0, 0, None)
    assert paper.learning_rate_at(0, 0.0) == pytest.approx(2e-4 / 5000)
    assert paper.learning_rate_at(10**6, 0.99) == 2e-4
    falling = TrainConfig.for_preset("tiny", steps=10)
    assert falling.learning_rate_at(10**6, 0.5) == pytest.approx(falling.learning_rate / 2)
    assert falling.learning_rate_at(10**6, 1.0) == pytest.approx(0)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 1, "minutes": 1.0},
        {"steps": 0},
        {"steps": 1, "batch": 0},
        {"steps": 1, "learning_rate": 0.0},
        {"steps": 1, "ema_decay": 1.0},
        {"minutes": float("nan")},
    ],
)
def test_settings_that_can_not_be_are_refused(settings):
    with pytest.raises(UsageError):
        TrainConfig.for_preset("tiny", **settings)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="paper"):
        TrainConfig.for_preset("huge", steps=1)


def test_the_average_warms_up_and_then_forgets_slowly():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = WeightAverage(network, decay=0.9)
    nn.init.ones_(network.weight)
    average.update(network, 1)
    # min(0.9, 2 / 11) of the old value 0 is kept.
    assert average.weights["weight"].item() == pytest.approx(1 - 2 / 11)
    before = average.weights["weight"].item()
    average.update(network, 10_000)
    assert average.weights["weight"].item() == pytest.approx(0.9 * before + 0.1)


class Images:
    """Slices with a foreground of ones in a background of minus one."""

    subjects: tuple[str, ...] = ("a",)
    sizes: tuple[tuple[int, int], ...] = ((8, 8),)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        image = np.full((8, 8), -1, dtype=np.float32)
        image[2:6, 2:6] = 1
        return {"image": image, "plane": "coronal"}


class Constant:
    """A denoiser that always answers 0.5."""

    def __init__(self):
        self.network = nn.Linear(1, 1)
        self.config = PRESETS["tiny"]

    def __call__(self, x, sigma, plane=None):
        return torch.full_like(x, 0.5)


def test_the_noise_table_tells_foreground_from_background():
    table = measure(Constant(), Images(), [0.1, 1.0])
    assert table.foreground == pytest.approx((0.25, 0.25))
    assert table.background == pytest.approx((2.25, 2.25))
    assert table.score == pytest.approx(10 * math.log10(0.25))
    assert NoiseTable.from_json(table.to_json()) == table


def test_levels_keep_their_ratio():
    levels = geometric_levels(0.01, 10, 4)
    np.testing.assert_allclose(levels, [0.01, 0.1, 1, 10])


def test_a_log_is_cut_back_to_the_step_it_resumes_from(tmp_path):
    log = TrainingLog(tmp_path, step=0)
    for step in (10, 20, 30):
        row = dict.fromkeys(
            ("images", "seconds", "loss", "gradient_norm", "learning_rate", "images_s"), 0.5
        )
        log.training({"step": step, **row})
    log.close()
    with open(tmp_path / "log.csv", "a") as file:
        file.write("40,0.5,0.")
    TrainingLog(tmp_path, step=20).close()
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [10, 20]
    assert read_log(tmp_path / "log.csv")[0]["loss"] == 0.5


@pytest.mark.usefixtures("small_network")
def test_the_estimate_counts(phantoms, tmp_path):
    from srmri_model.training.estimate import activation_bytes, estimate

    config = TrainConfig.for_preset("tiny", epochs=2, patch=16, device="cpu")
    found = estimate([str(phantoms)], tmp_path, config)
    assert found["steps_per_epoch"] == -(-found["n_train"] // config.batch)
    assert found["flops_per_step"] > 0
    assert found["matmul_flops_s"] > 1e8
    assert 0 < found["seconds_per_step"][0] < found["seconds_per_step"][1]
    shape = PRESETS["tiny"]
    once, twice = (activation_bytes(shape, batch, 16, 16) for batch in (2, 4))
    assert 1.8 < twice / once < 2.05


def test_the_page_is_whole_and_loads_nothing(phantoms, tmp_path, monkeypatch):
    train_runs.shrink(monkeypatch.setattr, monkeypatch.setitem, draw=True)
    train_runs.train(phantoms, tmp_path / "<run>", steps=20, checkpoint_minutes=60.0)
    page = (tmp_path / "<run>" / "index.html").read_text(encoding="utf-8")
    figures = {path.name for path in (tmp_path / "<run>" / "figures").iterdir()}
    assert figures == {
        "loss.png", "gain.png", "error.png", "progress.png", "denoising.png", "samples.png",
    }  # fmt: skip
    assert "&lt;run&gt;" in page
    assert "<run>" not in page
    for outside in ("http://", "https://", "<script", 'src="/', "@import"):
        assert outside not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64,") == 2

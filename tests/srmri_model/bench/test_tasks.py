"""Slices are measured as they are; methods make of them what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from srmri_model.bench.alignment import moved
from srmri_model.bench.methods import Interpolated, Repeated, Sampled, default_rho
from srmri_model.bench.models import load_score
from srmri_model.bench.tasks import Physics, chosen, tasks_of
from srmri_model.samplers import Fast

KSPACE = Physics("kspace", None, "voxel-centre")


class OneScoreModel:
    """The score model of the animals."""

    def __init__(self, path):
        self._model = load_score(path)

    def score(self):
        return self._model


def quiet(_done, _total):
    return None


def test_noise_is_found_and_the_truth_explains_the_measurement(task):
    assert task.sigma_y == pytest.approx(0.02, rel=0.15)
    assert task.chi2(task.pair["high_res"]) == pytest.approx(1, abs=0.2)
    assert task.chi2(task.pair["high_res"] + np.float32(0.1)) > 10


def test_lr_of_the_simulated_animal_lies_where_it_should(task):
    assert np.abs(task.motion[:2]).max() < 0.1
    assert task.gain.gain == pytest.approx(1, abs=0.03)
    assert moved(task.pair["high_res"], task.motion).shape == task.high_shape


def test_masks_of_lr_cover_the_tissue(task):
    around = task.around_tissue()
    tissue = ndimage.binary_opening(task.pair["foreground"] & (task.pair["high_res"] > 0.3))
    assert tissue.sum() > 300
    assert around[tissue].all()
    assert not around.all()
    assert task.inside.sum() < task.tissue.sum()


def test_slices_are_spread_over_those_with_tissue(pairs):
    few, many = chosen(pairs.test, "c1", 3), chosen(pairs.test, "c1", 100)
    assert len(few) == len(set(few)) == 3
    assert set(few) <= set(many)
    assert all(pairs.test[place]["foreground"].mean() >= 0.05 for place in many)


def test_a_repeat_differs_as_two_scans_do(task):
    task = replace(task, sigma_high=0.02)
    truth = task.pair["high_res"]
    image = Repeated()(task, None, 0, quiet).image
    bright = truth > 0.4
    assert np.std((image - truth)[bright]) == pytest.approx(2**0.5 * 0.02, rel=0.05)
    assert np.array_equal(image, Repeated()(task, None, 0, quiet).image)
    assert not np.array_equal(image, Repeated()(task, None, 1, quiet).image)


def test_masked_voxels_of_a_repeat_stay_masked(task):
    pair = {**task.pair, "high_res": np.where(task.pair["high_res"] > 0.3, task.pair["high_res"],
                                              np.float32(task.pair["no_signal"]))}  # fmt: skip
    image = Repeated()(replace(task, pair=pair, sigma_high=0.02), None, 0, quiet).image
    masked = pair["high_res"] == np.float32(pair["no_signal"])
    assert masked.sum() > 100
    assert np.array_equal(image[masked], pair["high_res"][masked])


def test_a_draw_depends_on_the_seed_alone_and_means_are_of_draws(animals, task):
    models = OneScoreModel(animals.weights)
    fast = Sampled("fast", Fast(steps=3))
    one = fast(task, models, 0, quiet)
    assert np.array_equal(one.image, fast(task, models, 0, quiet).image)
    assert not np.array_equal(one.image, fast(task, models, 1, quiet).image)
    both = replace(fast, draws=2)(task, models, 0, quiet)
    assert (one.nfe, both.nfe) == (3, 6)
    assert np.array_equal(both.draws[0], one.image)
    assert np.abs(both.image - both.draws.mean(axis=0)).max() < 1e-6


def test_another_operator_is_assumed_and_not_made(animals, task):
    models = OneScoreModel(animals.weights)
    fast = Sampled("fast", Fast(steps=3))
    own, other = (replace(fast, operator=kind)(task, models, 0, quiet).image
                  for kind in (None, "box"))  # fmt: skip
    assert not np.array_equal(own, other)
    assert task.chi2(own) < task.chi2(own, "box")


def test_interpolation_is_that_of_the_baseline(task):
    from srmri_model.baselines.interpolation import interpolate

    image = Interpolated("bicubic")(task, None, 0, quiet).image
    assert np.array_equal(image, interpolate(task.pair["low_res"], task.high_shape, 2.0, "bicubic"))


def test_rho_falls_with_the_number_of_levels():
    found = [default_rho("paper", steps) for steps in (10, 20, 60, 120, 240, 600, 2000)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (3.0, 0.5)


def test_all_slices_of_a_subject_share_noise_and_gain(pairs):
    made = tasks_of(pairs.test, "c1", 3, KSPACE, {})
    assert len(made) == 3
    assert len({(task.sigma_y, task.gain) for task in made}) == 1
    assert len({task.fingerprint for task in made}) == 3

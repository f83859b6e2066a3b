"""What holds for every voter."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from srmri_data.errors import InputError
from srmri_data.voters import VOTERS, voter_settings

SHAPE = (48, 56)


@pytest.fixture(params=list(VOTERS))
def voter(request):
    if request.param == "lpips":
        request.getfixturevalue("trunk")
    return VOTERS[request.param]


def test_every_low_res_slice_is_nearest_to_its_noisy_copy(voter, smooth_slices):
    high_res = smooth_slices(7, SHAPE)
    order = np.array([5, 0, 3])
    noise = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    distances = voter(high_res[order] + 0.01 * noise, high_res)
    assert distances.shape == (3, 7)
    assert distances.dtype == np.float32
    assert (distances >= 0).all()
    np.testing.assert_array_equal(distances.argmin(axis=1), order)


def test_the_same_slice_has_distance_zero_and_the_matrix_is_symmetric(voter, smooth_slices):
    slices = smooth_slices(4, SHAPE)
    distances = voter(slices, slices)
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-5)
    np.testing.assert_allclose(distances, distances.T, rtol=1e-5, atol=1e-5)
    assert distances[0, 1:].min() > 1e-3


def test_inputs_are_not_changed(voter, smooth_slices):
    low_res, high_res = smooth_slices(2, SHAPE), smooth_slices(3, SHAPE, seed=1)
    kept = low_res.copy(), high_res.copy()
    voter(low_res, high_res)
    np.testing.assert_array_equal(low_res, kept[0])
    np.testing.assert_array_equal(high_res, kept[1])


def test_slices_may_be_views_of_a_volume(voter, smooth_slices):
    low_res, high_res = smooth_slices(2, SHAPE), smooth_slices(3, SHAPE, seed=1)
    sideways = np.asfortranarray(high_res)
    assert not sideways.flags.c_contiguous
    np.testing.assert_allclose(voter(low_res, sideways), voter(low_res, high_res), atol=1e-6)


def test_slices_without_contrast_are_finite(voter):
    dark = np.zeros((2, *SHAPE), np.float32)
    assert np.isfinite(voter(dark, np.zeros((3, *SHAPE), np.float32))).all()


@pytest.mark.parametrize(
    ("low_shape", "high_shape", "words"),
    [
        ((2, 48, 56), (3, 48, 55), "one in-plane size"),
        ((0, 48, 56), (3, 48, 56), "LR array"),
        ((48, 56), (3, 48, 56), "LR array"),
        ((2, 48, 56), (3, 0, 56), "HR array"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(voter, low_shape, high_shape, words):
    with pytest.raises(InputError, match=words):
        voter(np.zeros(low_shape, np.float32), np.zeros(high_shape, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_intensities_that_are_not_finite_are_refused(voter, bad, smooth_slices):
    low_res, high_res = smooth_slices(2, SHAPE), smooth_slices(3, SHAPE)
    high_res[1, 4, 5] = bad
    with pytest.raises(InputError, match="HR slices"):
        voter(low_res, high_res)


@pytest.mark.parametrize(("name", "side"), [("ssim", 11), ("lpips", 31)])
def test_slices_smaller_than_the_window_or_network_are_refused(name, side, request):
    if name == "lpips":
        request.getfixturevalue("trunk")
    large = np.zeros((1, side, side), np.float32)
    assert VOTERS[name](large, large).shape == (1, 1)
    small = np.zeros((1, side, side - 1), np.float32)
    with pytest.raises(InputError, match=f"at least {side} x {side}"):
        VOTERS[name](small, small)


def test_settings_say_what_the_distances_depend_on(trunk):
    settings = json.loads(json.dumps(voter_settings(VOTERS, n_images=30)))
    assert list(settings) == ["pca", "lpips", "ssim"]
    assert settings["pca"]["n_components"] == 29
    assert settings["ssim"]["sigma"] == 1.5
    assert settings["ssim"]["data_range"] == 1.0
    assert len(settings["lpips"]["trunk_sha256"]) == 64


def test_importing_the_voters_imports_nothing_heavy():
    heavy = ["torch", "torchvision", "lpips", "sklearn", "skimage", "numba", "pandas"]
    code = f"import sys, srmri_data.voters; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_band_is_a_part_of_the_whole_matrix(voter, smooth_slices):
    low_res, high_res = smooth_slices(5, SHAPE), smooth_slices(9, SHAPE, seed=1)
    # Not steady, one empty, one whole: what was dropped must come back.
    band = np.array([[0, 4], [3, 7], [2, 2], [1, 5], [0, 9]])
    whole, banded = voter(low_res, high_res), voter(low_res, high_res, band=band)
    columns = np.arange(9)
    inside = (columns >= band[:, :1]) & (columns < band[:, 1:])
    np.testing.assert_allclose(banded[inside], whole[inside], atol=2e-6)
    assert np.isnan(banded[~inside]).all()


@pytest.mark.parametrize("band", [np.array([[0, 4]]), np.array([[0, 4], [0, 10]])])
def test_a_band_that_does_not_fit_is_refused(voter, smooth_slices, band):
    with pytest.raises(InputError, match="band"):
        voter(smooth_slices(2, SHAPE), smooth_slices(9, SHAPE), band=band)

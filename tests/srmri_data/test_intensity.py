"""The foreground threshold on the kinds of background that occur."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_data.intensity import (
    content_box,
    foreground_mask,
    foreground_threshold,
    regular_sample,
)
from srmri_data.phantom import mouse_brain


@pytest.fixture(scope="module")
def clean():
    return mouse_brain(None, 0.2).data


def agreement(found, expected):
    return 2 * (found & expected).sum() / (found.sum() + expected.sum())


def test_skull_stripped_volume(clean):
    assert (clean == 0).mean() > 0.75
    assert agreement(foreground_mask(clean), clean > 0) > 0.97


@pytest.mark.parametrize(("noise", "least"), [(0.02, 0.96), (0.04, 0.95), (0.1, 0.93), (0.2, 0.88)])
def test_rician_background(clean, noise, least):
    noisy = mouse_brain(None, 0.2, noise=noise).data
    assert agreement(foreground_mask(noisy), clean > 0) > least


def test_dark_white_matter_is_kept_where_otsu_would_cut_it(clean):
    dark = (clean > 2000) & (clean < 3500)
    noisy = mouse_brain(None, 0.2, noise=0.04).data
    assert foreground_mask(noisy)[dark].mean() > 0.97


def test_no_air_at_all():
    rng = np.random.default_rng(0)
    tissue = rng.normal(100, 10, (20, 20, 20))
    assert foreground_mask(tissue).mean() > 0.99


def test_integers_and_scale(clean):
    whole = clean.astype(np.uint16)
    assert foreground_threshold(whole) == pytest.approx(foreground_threshold(clean), rel=0.02)
    assert foreground_threshold(clean * 1e-6) == pytest.approx(
        foreground_threshold(clean) * 1e-6, rel=1e-3
    )


@pytest.mark.parametrize("noise", [0.0, 0.04, 0.1])
def test_an_offset_moves_the_threshold_and_nothing_else(noise):
    data = mouse_brain(None, 0.2, noise=noise).data.astype(np.float64)
    moved = foreground_threshold(data + 20_000) - 20_000
    assert moved == pytest.approx(foreground_threshold(data), rel=1e-6)


def test_the_content_box_cuts_padding_and_only_padding():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(5, 6, 7))
    whole = tuple(slice(0, n) for n in data.shape)
    assert content_box(data) == whole
    # Another constant on every side; the second only shows once the first has gone.
    padded = np.pad(data, ((2, 0), (0, 0), (0, 0)), constant_values=3)
    padded = np.pad(padded, ((0, 1), (4, 0), (0, 2)), constant_values=-1)
    assert content_box(padded) == (slice(2, 7), slice(4, 10), slice(0, 7))
    assert content_box(np.ones((3, 4))) == (slice(0, 3), slice(0, 4))


def test_a_sample_does_not_depend_on_memory_order():
    data = np.random.default_rng(0).normal(size=(30, 40, 50))
    sample = regular_sample(data, 1000)
    assert 300 < sample.size <= 1100
    assert np.array_equal(sample, regular_sample(np.asfortranarray(data), 1000))
    assert regular_sample(data, 10**6).size == data.size


def test_a_constant_has_no_foreground():
    assert not foreground_mask(np.full((3, 3, 3), 7)).any()
    assert not foreground_mask(np.zeros((3, 3, 3))).any()


def test_what_is_not_finite_is_ignored(clean):
    holed = clean.copy()
    holed[::3] = np.nan
    assert foreground_threshold(holed) == pytest.approx(foreground_threshold(clean), rel=0.1)
    with pytest.raises(ValueError, match="finite"):
        foreground_threshold(np.full(5, np.nan))

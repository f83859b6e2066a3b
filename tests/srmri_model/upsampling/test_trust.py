"""Coverage and spread of draws whose truth is one more draw from the same distribution."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_model.upsampling import trust

VOXELS = 200_000
EVERYWHERE = np.ones((VOXELS, 1, 1), dtype=bool)


def draws(count, *, opposite):
    """Standard normal about a mean of its own in every voxel, and the truth."""
    random = np.random.default_rng(count)
    mean = random.uniform(-1, 1, VOXELS)
    deviations = random.standard_normal((count, VOXELS))
    if opposite:
        deviations[1::2] = -deviations[0 : count - count % 2 : 2]
    truth = mean + random.standard_normal(VOXELS)
    samples = (mean + deviations).astype(np.float32)
    return samples.reshape(count, VOXELS, 1, 1), truth.astype(np.float32).reshape(VOXELS, 1, 1)


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("count", [4, 8, 16])
def test_the_interval_covers_what_it_says(count, opposite):
    samples, truth = draws(count, opposite=opposite)
    assert trust.coverage(samples, truth, EVERYWHERE, opposite=opposite) == pytest.approx(
        0.9, abs=0.004
    )


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_draws_that_are_right_need_no_scale(count, opposite):
    samples, truth = draws(count, opposite=opposite)
    found = trust.fit_std_scale(samples, truth, EVERYWHERE, opposite=opposite)
    assert found == pytest.approx(1, abs=0.01)
    squares = ((samples - samples.mean(axis=0)) ** 2).sum(axis=0)
    variance = squares.mean() * trust.share_of_squares(count, opposite=opposite)
    assert variance == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_mean_of_draws_has_the_variance_that_is_said(count, opposite):
    samples, _ = draws(count, opposite=opposite)
    centred = (
        samples.mean(axis=0) - np.random.default_rng(count).uniform(-1, 1, VOXELS)[:, None, None]
    )
    expected = trust.variance_of_mean(count, opposite=opposite)
    assert centred.var() == pytest.approx(expected, rel=0.02, abs=1e-6)

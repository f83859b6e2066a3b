"""What magnitudes say about a signal, against draws of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from srmri_model.magnitudes import expected_channel
from srmri_model.operators import make_operator
from srmri_model.samplers import ImageNoise, Variance, sample


@pytest.mark.parametrize("signal", [-0.3, -0.1, 0.0, 0.05, 0.2, 1.0])
def test_it_is_the_mean_of_the_channel_over_draws_of_that_magnitude(signal):
    random = np.random.default_rng(0)
    channel, other = 0.1 * random.standard_normal((2, 400_000))
    channel += signal
    magnitude = np.hypot(channel, other)
    for middle in np.quantile(magnitude, [0.1, 0.5, 0.9]):
        near = np.abs(magnitude - middle) < 0.004
        found = expected_channel(
            torch.tensor(middle - 0.5), torch.tensor(signal - 0.5), 0.1, no_signal=-0.5
        )
        error = channel[near].std() / np.sqrt(near.sum())
        assert float(found) + 0.5 == pytest.approx(channel[near].mean(), abs=4 * error + 2e-3)


def test_ringing_below_zero_is_not_taken_for_signal():
    # A bright disc on nothing: half of the ripples of truncated k-space are below zero.
    rows, cols = np.indices((48, 48))
    truth = torch.from_numpy((np.hypot(rows - 24, cols - 24) < 14).astype(np.float32))[None, None]
    operator = make_operator("kspace", (48, 48), 2)
    real, imaginary = ImageNoise(1, [(0,), (1,)])((1, 24, 24))
    clean = operator.forward(truth)
    magnitude = torch.hypot(clean + 0.01 * real, 0.01 * imaginary)
    assert (clean < -0.05).sum() > 20

    def drawn(no_signal):
        image, _ = sample(
            "fast",
            lambda x, sigma, plane=None: truth + (x - truth) * 0.003 / (0.003 + sigma**2),
            magnitude,
            operator,
            sigma_y=0.01,
            generator=ImageNoise(3, [(0,)]),
            variance=lambda sigma: Variance(0.003 * sigma**2 / (0.003 + sigma**2)),
            no_signal=no_signal,
        )
        return float((operator.forward(image) - clean).square().mean().sqrt())

    assert drawn(0.0) < 0.6 * drawn(None)
    assert drawn(0.0) < 0.02

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmri_data.errors import UsageError
from srmri_data.voters.ssim import ssim_distances


def reference(low_res, high_res, data_range=1.0, window="gaussian"):
    """Return 1 − SSIM pair by pair, by scikit-image in double precision."""
    from skimage.metrics import structural_similarity

    weights = {"gaussian_weights": True, "sigma": 1.5} if window == "gaussian" else {"win_size": 11}

    return np.array(
        [
            [
                1
                - structural_similarity(
                    a.astype(np.float64),
                    b.astype(np.float64),
                    **weights,
                    use_sample_covariance=False,
                    data_range=data_range,
                )
                for b in high_res
            ]
            for a in low_res
        ]
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(11, 40),
    cols=st.integers(11, 40),
    offset=st.floats(0, 1),
    contrast=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
    data_range=st.sampled_from([1.0, 0.3, 255.0]),
    window=st.sampled_from(["gaussian", "uniform"]),
)
@settings(max_examples=60, deadline=None)
def test_equal_to_scikit_image(seed, rows, cols, offset, contrast, data_range, window):
    generator = np.random.default_rng(seed)
    low_res = generator.random((2, rows, cols), dtype=np.float32)
    high_res = (offset + contrast * (low_res[:1] - 0.5)).astype(np.float32)
    high_res = np.concatenate([high_res, generator.random((1, rows, cols), dtype=np.float32)])
    np.testing.assert_allclose(
        ssim_distances(low_res, high_res, data_range=data_range, window=window),
        reference(low_res, high_res, data_range, window),
        atol=2e-6,
    )


def test_flat_bright_slices_are_exact():
    # In float32 the local covariance of these is rounding noise against (K2 L)².
    low_res = np.full((1, 20, 20), 0.9, np.float32)
    high_res = np.stack([np.full((20, 20), level, np.float32) for level in (0.9, 0.3, 0.0)])
    luminance = [(2 * 0.9 * v + 1e-4) / (0.81 + v * v + 1e-4) for v in (0.9, 0.3, 0.0)]
    np.testing.assert_allclose(
        ssim_distances(low_res, high_res), 1 - np.array([luminance]), atol=1e-6
    )


def test_more_slices_than_one_block_holds(smooth_slices):
    low_res, high_res = smooth_slices(3, (24, 30)), smooth_slices(21, (24, 30), seed=1)
    seen = []
    distances = ssim_distances(low_res, high_res, progress=lambda *done: seen.append(done))
    np.testing.assert_allclose(distances, reference(low_res, high_res), atol=1e-6)
    np.testing.assert_array_equal(distances, ssim_distances(low_res, high_res))
    assert seen == [(8, 21), (16, 21), (21, 21)]


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan")])
def test_a_span_that_is_not_positive_is_refused(data_range):
    slices = np.zeros((1, 12, 12), np.float32)
    with pytest.raises(UsageError, match="positive data_range"):
        ssim_distances(slices, slices, data_range=data_range)

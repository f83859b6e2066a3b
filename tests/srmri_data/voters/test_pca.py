from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from srmri_data.errors import UsageError
from srmri_data.voters.pca import default_components, pca_distances


def reference(low_res, high_res, n_components):
    """Return distances by scikit-learn, in double precision and as the tutorial does it."""
    from sklearn.decomposition import PCA

    pixels = np.concatenate([low_res, high_res]).reshape(len(low_res) + len(high_res), -1)
    scores = PCA(n_components, svd_solver="full").fit(pixels).transform(pixels.astype(np.float64))
    return cdist(scores[: len(low_res)], scores[len(low_res) :])


@given(
    seed=st.integers(0, 2**32 - 1),
    n_lr=st.integers(1, 8),
    n_hr=st.integers(2, 12),
    rows=st.integers(4, 24),
    cols=st.integers(5, 24),
    share=st.floats(0.1, 1.0),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_equal_to_scikit_learn(seed, n_lr, n_hr, rows, cols, share):
    images = np.random.default_rng(seed).random((n_lr + n_hr, rows, cols), dtype=np.float32)
    low_res, high_res = images[:n_lr], images[n_lr:]
    n_components = max(1, round(share * min(n_lr + n_hr - 1, rows * cols)))
    distances = pca_distances(low_res, high_res, n_components=n_components)
    np.testing.assert_allclose(
        distances, reference(low_res, high_res, n_components), rtol=1e-4, atol=1e-4
    )


def test_with_all_components_it_is_the_distance_of_the_pixels(smooth_slices):
    low_res, high_res = smooth_slices(5, (20, 24)), smooth_slices(9, (20, 24), seed=1)
    np.testing.assert_allclose(
        pca_distances(low_res, high_res, n_components=13),
        cdist(low_res.reshape(5, -1), high_res.reshape(9, -1)),
        rtol=1e-4,
    )


def test_the_default_keeps_50_components_or_all_there_are(smooth_slices):
    assert [default_components(n) for n in (2, 30, 51, 400)] == [1, 29, 50, 50]
    low_res, high_res = smooth_slices(20, (16, 16)), smooth_slices(45, (16, 16), seed=1)
    default = pca_distances(low_res, high_res)
    np.testing.assert_array_equal(default, pca_distances(low_res, high_res, n_components=50))
    assert abs(default - pca_distances(low_res, high_res, n_components=3)).max() > 0.1


def test_two_slices_are_enough():
    low_res, high_res = np.zeros((1, 3, 3), np.float32), np.ones((1, 3, 3), np.float32)
    np.testing.assert_allclose(pca_distances(low_res, high_res), [[3.0]], rtol=1e-6)


@pytest.mark.parametrize("n_components", [0, -1, 6])
def test_more_components_than_slices_are_refused(n_components, smooth_slices):
    with pytest.raises(UsageError, match="can not keep"):
        pca_distances(smooth_slices(2, (8, 8)), smooth_slices(3, (8, 8)), n_components=n_components)

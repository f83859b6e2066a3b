"""Interpolations meet what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from srmri_model.baselines.interpolation import INTERPOLATIONS, interpolate
from srmri_model.operators import low_positions


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("grid", ["fourier", "voxel-centre"])
@pytest.mark.parametrize("factor", [2.0, (1.5, 3.0)])
def test_constants_stay_and_axes_stand_for_themselves(method, grid, factor):
    image = np.full((32, 16) if isinstance(factor, tuple) else (24, 24), 3.0, dtype=np.float32)
    np.testing.assert_allclose(
        interpolate(image, (48, 48), factor, method, grid=grid), 3, rtol=1e-5
    )
    volume = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    finer = interpolate(volume, (5, 12, 14), (1.0, 2.0, 2.0), method, grid=grid)
    alone = interpolate(volume[3], (12, 14), 2.0, method, grid=grid)
    np.testing.assert_allclose(finer[3], alone, atol=1e-5)


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("grid", ["fourier", "voxel-centre"])
def test_a_slow_wave_is_put_where_it_belongs(method, grid):
    n = 48
    low = np.cos(2 * np.pi * (low_positions(n // 2, 2.0, grid) + 0.5) / n).astype(np.float32)
    found = interpolate(np.outer(low, low), (n, n), 2.0, method, grid=grid)
    high = np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)
    inside = (slice(6, -6),) * 2
    np.testing.assert_allclose(found[inside], np.outer(high, high)[inside], atol=0.01)


def test_splines_are_those_of_scipy():
    low = np.random.default_rng(1).random((10, 12), dtype=np.float32)
    for order, method in ((3, "b-spline 3"), (5, "b-spline 5")):
        places = np.meshgrid(*[(np.arange(2 * n) - 0.5) / 2 for n in low.shape], indexing="ij")
        expected = ndimage.map_coordinates(low.astype(float), places, order=order, mode="reflect")
        np.testing.assert_allclose(interpolate(low, (20, 24), 2.0, method), expected, atol=1e-5)


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(6, 6\) large; found \(5, 6\)"):
        interpolate(np.zeros((5, 6), dtype=np.float32), (12, 12), 2.0, "bicubic")

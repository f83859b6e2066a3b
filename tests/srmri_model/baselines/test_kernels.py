"""Blur kernels lie where they are said to lie, on both grids."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_data.errors import UsageError
from srmri_model.baselines.kernels import centre_of_mass, downscale, operator_kernel
from srmri_model.operators import degradation_matrix, low_positions

GRIDS = ["fourier", "voxel-centre"]


def gaussian(size: int, sigma: float) -> np.ndarray:
    places = np.arange(size) - (size - 1) / 2
    line = np.exp(-(places**2) / (2 * sigma**2))
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("factor", [2.0, 4.0, 1.5, (2.0, 3.0)])
def test_a_symmetric_kernel_moves_nothing(grid, size, factor):
    """A wave is only weakened: its phase tells a shift of a hundredth of a voxel."""
    n = 96
    wave = 2 * np.pi * 3 / n
    rows, cols = (factor, factor) if isinstance(factor, float) else factor
    image = np.cos(wave * np.arange(n))[:, None] + np.cos(wave * np.arange(n))
    low = downscale(image.astype(np.float32), gaussian(size, 1.5), factor, grid=grid)
    weakened = np.exp(-((wave * 1.5) ** 2) / 2)
    expected = weakened * (
        np.cos(wave * low_positions(low.shape[0], rows, grid))[:, None]
        + np.cos(wave * low_positions(low.shape[1], cols, grid))
    )
    inside = (slice(6, -6), slice(6, -6))
    # A hundredth of a voxel would show as 0.002.
    np.testing.assert_allclose(low[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("grid", GRIDS)
def test_an_operator_and_its_kernel_agree(grid):
    image = np.random.default_rng(0).random((64, 48)).astype(np.float32)
    rows, cols = (degradation_matrix("gaussian", n, 2.0, grid="fourier") for n in image.shape)
    found = downscale(image, operator_kernel("gaussian", 2.0, 15), 2.0, grid="fourier")
    np.testing.assert_allclose(found, rows @ image @ cols.T, atol=1e-4)
    cubic = [degradation_matrix("bicubic", n, 2.0, grid=grid) for n in image.shape]
    np.testing.assert_allclose(
        downscale(image, None, 2.0, grid=grid), cubic[0] @ image @ cubic[1].T, atol=1e-5
    )


def test_a_kernel_lies_on_the_image_as_it_is_shown():
    """The weight above the middle takes the pixel above: a correlation, not a convolution."""
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 1.0
    image = np.arange(64, dtype=np.float32).reshape(8, 8)
    low = downscale(image, kernel, 2.0, grid="fourier")
    np.testing.assert_allclose(low[1:], image[1:-1:2, ::2], atol=1e-4)


def test_the_centre_of_mass_follows_a_shift():
    kernel = np.zeros((7, 9))
    kernel[2, 6] = 2.0
    np.testing.assert_allclose(centre_of_mass(kernel), [-1, 2])


def test_an_even_kernel_about_a_pixel_is_refused():
    with pytest.raises(UsageError, match="odd size; found 4"):
        operator_kernel("bicubic", 2.0, 4)

"""ZSSR learns from one image, and puts what it learns where it belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from srmri_data.errors import UsageError
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.kernels import downscale
from srmri_model.baselines.zssr import SCALED, _turned, _turned_back, zssr
from srmri_model.metrics import psnr

GRIDS = ["fourier", "voxel-centre"]
QUICK = replace(SCALED, width=16, depth=3, crop=32, steps=150, back_projections=8)


def kernel() -> np.ndarray:
    """An oblique Gaussian, standard deviations 1.8 and 0.8 pixels."""
    rows, cols = np.mgrid[-6:7, -6:7]
    along, across = 0.8 * rows + 0.6 * cols, 0.8 * cols - 0.6 * rows
    found = np.exp(-((along / 1.8) ** 2 + (across / 0.8) ** 2) / 2)
    return found / found.sum()


def cells(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Areas of one brightness with sharp edges between them, of every size."""
    random = np.random.default_rng(seed)
    image = np.zeros(shape, dtype=np.float32)
    for radius in np.geomspace(24, 2, 160):
        centre = random.uniform(0, 1, 2) * shape
        rows, cols = np.ogrid[: shape[0], : shape[1]]
        inside = (rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 < radius**2
        image[inside] = random.random()
    return ndimage.gaussian_filter(image, 0.5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("factor", [2.0, 1.5, (2.0, 3.0)])
def test_without_a_step_it_is_the_interpolation(grid, factor):
    low = np.random.default_rng(0).random((24, 32), dtype=np.float32)
    settings = replace(QUICK, back_projections=0)
    found = zssr(low, factor=factor, grid=grid, settings=settings, steps=0)
    np.testing.assert_array_equal(
        found, interpolate(low, found.shape, factor, "bicubic", grid=grid)
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_learnt_is_not_shifted(grid):
    """Of all shifts by a quarter of a voxel, none fits the truth better than no shift."""
    high = cells((64, 80))
    low = downscale(high, kernel(), 2.0, grid=grid)
    found = zssr(low, kernel=kernel(), grid=grid, settings=QUICK)
    inner = (slice(8, -8), slice(8, -8))
    errors = {
        (row, col): np.abs(ndimage.shift(found, (row, col), order=3) - high)[inner].mean()
        for row in (-0.25, 0, 0.25)
        for col in (-0.25, 0, 0.25)
    }
    assert min(errors, key=errors.__getitem__) == (0, 0)


@pytest.mark.parametrize("grid", GRIDS)
def test_with_the_kernel_it_beats_interpolation_and_itself_without(grid):
    high = cells((64, 80), seed=1)
    low = downscale(high, kernel(), 2.0, grid=grid)
    inner = (slice(4, -4), slice(4, -4))

    def quality(image: np.ndarray) -> float:
        return psnr(np.ascontiguousarray(image[inner]), np.ascontiguousarray(high[inner]))

    cubic = quality(interpolate(low, high.shape, 2.0, "bicubic", grid=grid))
    known = quality(zssr(low, kernel=kernel(), grid=grid, settings=QUICK))
    unknown = quality(zssr(low, grid=grid, settings=QUICK))
    # What the network learns alone, without back-projection.
    settings = replace(QUICK, back_projections=0)
    learnt = quality(zssr(low, kernel=kernel(), grid=grid, settings=settings))
    assert learnt > cubic + 1
    assert known > cubic + 1.5
    assert known > unknown + 0.5


def test_training_is_the_same_for_one_seed_and_stops_when_told():
    low = cells((32, 40))
    first = zssr(low, settings=QUICK, steps=12, seed=3)
    np.testing.assert_array_equal(zssr(low, settings=QUICK, steps=12, seed=3), first)
    assert np.abs(zssr(low, settings=QUICK, steps=12, seed=4) - first).max() > 0
    told: list[int] = []
    zssr(
        low, settings=QUICK, steps=12,
        progress=lambda _stage, done, _total: told.append(done), stop=lambda: len(told) == 5,
    )  # fmt: skip
    assert told == [1, 2, 3, 4, 5]


def test_values_beyond_the_unit_interval_stay():
    low = cells((24, 24)) * 2 - 0.5
    found = zssr(low, settings=QUICK, steps=3)
    assert found.min() < -0.2
    assert found.max() > 1.1


@pytest.mark.parametrize("orientation", range(8))
def test_orientations_are_undone(orientation):
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(_turned_back(_turned(image, orientation), orientation), image)


def test_all_eight_orientations_differ():
    image = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert len({_turned(image, orientation).tobytes() for orientation in range(8)}) == 8


def test_a_size_that_does_not_fit_and_a_tiny_image_are_refused():
    with pytest.raises(UsageError, match=r"\(25, 24\) large; found \(24, 24\)"):
        zssr(np.zeros((24, 24), dtype=np.float32), high_shape=(50, 48))
    with pytest.raises(UsageError, match="8 pixels or more"):
        zssr(np.zeros((24, 6), dtype=np.float32))

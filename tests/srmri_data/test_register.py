"""HR on LR's planes."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_data.geometry import apply_affine
from srmri_data.register import aligned_grid, reslice
from srmri_data.slices import common_field_of_view, stack_frame


def cubic_field(points):
    x, y, z = np.moveaxis(np.asarray(points), -1, 0)
    return 1 + 0.3 * x - 0.2 * y + 0.1 * z + 0.02 * x * y - 0.01 * z**2


def test_identity_returns_the_samples():
    image = np.random.default_rng(0).random((7, 8, 9), dtype=np.float32)
    values, valid = reslice(image, np.eye(4), image.shape)
    np.testing.assert_array_equal(values, image)
    assert valid.all()


def test_quadratics_are_reproduced_inside():
    index = np.stack(np.meshgrid(*map(np.arange, (12, 12, 12)), indexing="ij"), axis=-1)
    image = cubic_field(index).astype(np.float32)
    angle = 0.2
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = 3.3, 4.1, 2.7
    values, valid = reslice(image, matrix, (4, 4, 4))
    points = apply_affine(
        matrix, np.stack(np.meshgrid(*map(np.arange, (4, 4, 4)), indexing="ij"), axis=-1)
    )
    assert valid.all()
    np.testing.assert_allclose(values, cubic_field(points), atol=1e-4)


def test_outside_is_zero_and_invalid():
    matrix = np.eye(4)
    matrix[0, 3] = 4.0
    values, valid = reslice(np.ones((6, 3, 3), dtype=np.float32), matrix, (5, 3, 3))
    assert valid[:, 0, 0].tolist() == [True, True, False, False, False]
    assert (values[~valid] == 0).all()
    assert (values[valid] == 1).all()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_stored_integers_and_any_layout_are_accepted(dtype):
    image = np.asfortranarray(np.arange(60).reshape(3, 4, 5).astype(dtype))
    values, _ = reslice(image[:, ::-1], np.eye(4), (3, 4, 5))
    np.testing.assert_array_equal(values, image[:, ::-1])


@pytest.mark.parametrize("grid_offset", [0.0, 0.0125])
def test_parallel_scans_keep_their_pixels(grid_offset):
    low_affine = np.diag([0.05, 0.05, 0.05, 1.0])
    low_affine[:3, 3] = grid_offset
    low = stack_frame(low_affine, (10, 12, 14), "acquired")
    high = stack_frame(np.diag([0.025] * 3 + [1.0]), (20, 24, 28), "acquired", like=low)
    window, _ = common_field_of_view(low, high)
    affine, shape = aligned_grid(low, high, window)
    index = np.linalg.inv(high.affine) @ affine
    np.testing.assert_allclose(np.diag(index)[1:3], 1, atol=1e-9)
    # In-plane the grid falls on HR pixels; along the slices it is LR's own.
    np.testing.assert_allclose(index[1:3, 3], np.rint(index[1:3, 3]), atol=1e-6)
    assert index[0, 0] == pytest.approx(2)
    assert index[0, 3] == pytest.approx(grid_offset / 0.025)
    assert shape == (14, 24, 20)

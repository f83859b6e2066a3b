"""HR as LR would have shown it."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_data.geometry import apply_affine
from srmri_data.matched import (
    PlaneGeometry,
    enlarged,
    even_gain,
    like_low_res,
    matched_slices,
    on_low_res_planes,
    plane,
    similarity,
)
from srmri_data.phantom import mouse_brain
from srmri_data.simulate import SimulationConfig, simulate_low_res
from srmri_data.slices import IntensityMap, common_field_of_view, stack_frame


def scanned_again(config):
    brain = mouse_brain((64, 90, 40), 0.2)
    made = simulate_low_res(brain, config)
    low = stack_frame(made.low_res.affine, made.low_res.shape, "coronal")
    high = stack_frame(brain.affine, brain.shape, "coronal", like=low)
    window, _ = common_field_of_view(low, high)
    truth = brain.affine @ made.low_to_high @ np.linalg.inv(made.low_res.affine)
    geometry = PlaneGeometry.of(truth, low, high, window)
    return made, brain, low, high, window, geometry


@pytest.fixture(scope="module")
def pair():
    return scanned_again(SimulationConfig(shift_um=(90.0, 330.0, -60.0), tilt_deg=(1.0, 0.5, -1.5)))


def test_slice_numbers_follow_the_map(pair):
    made, _, low, high, _, geometry = pair
    to_high = np.linalg.inv(high.to_voxel) @ made.low_to_high @ low.to_voxel
    numbers = np.array([3, 20])
    points = np.array([[4.0, 9.0], [15.0, 2.0]])
    expected = apply_affine(to_high, np.column_stack([numbers, points]))[:, 0]
    np.testing.assert_allclose(geometry.at_points(numbers, points), expected)
    middle = np.tile(geometry.centre, (2, 1))
    np.testing.assert_allclose(geometry.at(numbers), geometry.at_points(numbers, middle))


def test_the_plane_at_its_place_looks_like_the_low_res_slice(pair):
    made, brain, low, high, window, geometry = pair
    images = matched_slices(high.view(brain.data), geometry, low, high, window, (0, high.shape[0]))
    slices = low.view(made.low_res.data)[window.index]
    at = geometry.at(window.slice_numbers)
    inner = [n for n in range(12, 33) if 0 <= at[n] < len(images)]

    def correlation(n, offset):
        return np.corrcoef(slices[n].ravel(), images[round(at[n]) + offset].ravel())[0, 1]

    here = np.array([correlation(n, 0) for n in inner])
    assert here.min() > 0.98
    assert (here > [correlation(n, 4) for n in inner]).all()
    assert (here > [correlation(n, -4) for n in inner]).all()


def test_one_plane_is_the_unblurred_slice_where_scans_are_parallel():
    brain = mouse_brain((32, 45, 20), 0.4)
    low_affine = brain.affine @ np.diag([2.0, 2, 2, 1])
    # Voxel-centre grid: LR's first voxel covers HR's first two.
    low_affine[:3, 3] += 0.5 * brain.affine[:3, :3].sum(axis=1)
    low = stack_frame(low_affine, (16, 22, 10), "coronal")
    high = stack_frame(brain.affine, brain.shape, "coronal", like=low)
    window, _ = common_field_of_view(low, high)
    geometry = PlaneGeometry.of(np.eye(4), low, high, window)
    data = high.view(brain.data)
    image = plane(data, geometry, low, high, window, 17)
    np.testing.assert_allclose(image, data[17], rtol=1e-5, atol=1e-3 * data.max())


def test_all_planes_are_where_the_headers_put_them():
    made, brain, low, high, window, geometry = scanned_again(
        SimulationConfig(shift_um=(700.0, 330.0, -600.0), tilt_deg=(1.0, 0.5, -1.5))
    )
    data = high.view(brain.data)
    planes = on_low_res_planes(data, geometry, low, high)
    assert planes.shape == high.shape
    # The animal moved: as they are, slices differ from LR; on its planes they do not.
    numbers = window.slice_numbers[14:30]
    slices = low.view(made.low_res.data)

    def correlation(stack, n):
        coarse = stack[round(geometry.at(np.array([n]))[0]), ::2, ::2]
        return np.corrcoef(coarse.ravel(), slices[n].ravel())[0, 1]

    moved = np.array([correlation(data, n) for n in numbers])
    placed = np.array([correlation(planes, n) for n in numbers])
    # Compared with every other pixel of the sharp slice: the blur of LR is not in it.
    assert placed.min() > 0.9
    assert placed.mean() > moved.mean() + 0.02


def test_without_motion_planes_are_the_slices():
    brain = mouse_brain((32, 45, 20), 0.4)
    frame = stack_frame(brain.affine, brain.shape, "coronal")
    window, _ = common_field_of_view(frame, frame)
    geometry = PlaneGeometry.of(np.eye(4), frame, frame, window)
    data = frame.view(brain.data)
    np.testing.assert_allclose(on_low_res_planes(data, geometry, frame, frame), data, rtol=1e-5)


def test_intensities_become_those_of_low_res():
    random = np.random.default_rng(1)
    images = random.random((3, 40, 40)).astype(np.float32) * 100
    low = np.clip((images / 100) ** 2, 0, 1).astype(np.float32)
    mapped = like_low_res(images, IntensityMap(0.0, 100.0, 5.0), low, np.arange(3))
    np.testing.assert_allclose(mapped, low, atol=0.03)


def test_a_smooth_gain_is_taken_out_and_nothing_else():
    random = np.random.default_rng(2)
    high = (0.3 + 0.4 * random.random((24, 48, 48))).astype(np.float32)
    ramp = np.linspace(0.7, 1.3, 48, dtype=np.float32)
    evened = even_gain(high * ramp, high, np.arange(24))
    np.testing.assert_allclose(evened[4:-4, 4:-4, 4:-4], high[4:-4, 4:-4, 4:-4], atol=0.03)
    lonely = even_gain(high * ramp, high, np.full(24, -1))
    np.testing.assert_array_equal(lonely, high * ramp)


def test_similarity_is_pearsons_and_unknown_without_a_plane():
    random = np.random.default_rng(3)
    images = random.random((2, 12, 12)).astype(np.float32)
    low = np.stack([images[1], 1 - images[0], images[0], np.zeros((12, 12), np.float32)])
    found = similarity(low, images, np.array([1, 0, -1, 0]))
    np.testing.assert_allclose(found[:2], [1, -1], atol=1e-6)
    assert np.isnan(found[2:]).all()


def test_enlarging_keeps_the_field_of_view_and_flat_regions():
    low = stack_frame(np.diag([0.2, 0.2, 0.2, 1.0]), (10, 12, 14), "acquired")
    high = stack_frame(np.diag([0.1, 0.1, 0.1, 1.0]), (20, 24, 28), "acquired", like=low)
    ramp = np.tile(np.linspace(0, 1, 10, dtype=np.float32), (2, 12, 1))
    sized = enlarged(ramp, low, high)
    assert sized.shape == (2, 24, 20)
    # A ramp stays the same ramp, sampled at quarter and three-quarter pixels.
    np.testing.assert_allclose(sized[:, 5, 3:-3], np.tile((np.arange(3, 17) - 0.5) / 18, (2, 1)),
                               atol=1e-6)  # fmt: skip

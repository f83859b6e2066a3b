"""Motions and gains that are known are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from srmri_model.bench.alignment import Gain, Motion, find_gain, find_motion, moved

INSIDE = np.hypot(*np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-1, 1, 96))) < 0.7


@pytest.fixture(scope="module")
def anatomy() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((96, 80))
    smooth = ndimage.gaussian_filter(noise, 2)
    return (0.5 + 0.15 * smooth / smooth.std()).astype(np.float32)


@pytest.mark.parametrize(
    "motion", [Motion(0.3, -0.7), Motion(4.25, 2.5), Motion(-1.5, 0.4, math.radians(2))]
)
def test_a_motion_is_found_to_a_fiftieth_of_a_pixel(anatomy, motion):
    random = np.random.default_rng(1)
    truth = moved(anatomy, motion)
    image = 0.8 * anatomy + 0.1 + 0.01 * random.standard_normal(anatomy.shape).astype(np.float32)
    found = find_motion(image.astype(np.float32), truth, INSIDE)
    assert found.rows == pytest.approx(motion.rows, abs=0.02)
    assert found.cols == pytest.approx(motion.cols, abs=0.02)
    assert found.angle == pytest.approx(motion.angle, abs=0.02 / 48)


def test_an_image_in_its_place_stays_there(anatomy):
    found = find_motion(anatomy, anatomy, INSIDE)
    assert np.abs(found).max() < 1e-3
    assert np.abs(moved(anatomy, found) - anatomy).max() < 1e-3


def test_nothing_is_aligned_that_shows_nothing(anatomy):
    assert find_motion(anatomy, anatomy, np.zeros_like(INSIDE)) == Motion()
    flat = np.full_like(anatomy, 0.5)
    assert find_motion(flat, anatomy, INSIDE) == Motion()


def test_a_motion_and_its_inverse_leave_smooth_images_as_they_are(anatomy):
    there = moved(anatomy, Motion(0.4, -0.3, 0.01))
    back = moved(there, Motion(0.0, 0.0, -0.01))
    cosine, sine = math.cos(0.01), math.sin(0.01)
    inverse = Motion(-0.4 * cosine - 0.3 * sine, 0.3 * cosine - 0.4 * sine)
    again = moved(back, inverse)
    assert np.abs(again - anatomy)[10:-10, 10:-10].max() < 0.01
    assert np.abs(there - anatomy)[10:-10, 10:-10].max() > 0.05


def test_a_gain_is_found_in_noise_and_undone(anatomy):
    random = np.random.default_rng(2)
    images = [
        (1.1 * anatomy - 0.03 + 0.02 * random.standard_normal(anatomy.shape)).astype(np.float32)
        for _ in range(4)
    ]
    gain = find_gain(images, [anatomy] * 4, [INSIDE] * 4)
    assert gain.gain == pytest.approx(1.1, abs=0.003)
    assert gain.offset == pytest.approx(-0.03, abs=0.002)
    corrected = gain.applied(images[0])
    assert (corrected - anatomy)[INSIDE].mean() == pytest.approx(0, abs=1e-3)


def test_no_gain_is_made_up(anatomy):
    assert find_gain([anatomy], [np.ones_like(anatomy)], [INSIDE]) == Gain()
    assert find_gain([-anatomy], [anatomy], [INSIDE]) == Gain()

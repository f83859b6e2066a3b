"""The digital mouse brain is hard enough to mean something, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_data.errors import UsageError
from srmri_data.phantom import mouse_brain

FINE = 0.025
# Noise the demo's scans have: a signal-to-noise ratio of 25.
NOISE = 0.04


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def brain():
    """The whole brain, coarse."""
    return mouse_brain()


@pytest.fixture(scope="module")
def centre():
    """4 x 4 x 2.4 mm of the middle at 25 µm, off the mid-plane."""
    return mouse_brain((160, 160, 96), FINE, centre=(1.0, 0.0, 0.3))


def test_default_scan_covers_the_brain(brain):
    assert brain.shape == (128, 180, 76)
    assert brain.orientation == "RAS"
    assert brain.data.dtype == np.float32
    tissue = np.argwhere(brain.data > 0) * 0.1
    np.testing.assert_allclose(np.ptp(tissue, axis=0), [10.5, 14.9, 6.3], atol=0.7)
    # Air on every side: nothing is cut off.
    for axis in range(3):
        assert not brain.data.take([0, -1], axis).any()


def test_same_bits_twice_and_with_any_number_of_threads(brain):
    again = mouse_brain(workers=1)
    np.testing.assert_array_equal(again.data, brain.data)


def test_another_animal_differs(brain):
    other = mouse_brain(animal=1).data
    both = (other > 0) & (brain.data > 0)
    assert correlation(other[both], brain.data[both]) < 0.7


@pytest.mark.parametrize("orientation", ["ALS", "PIR", "LPI", "SRA"])
def test_every_orientation_shows_the_same_brain(brain, orientation):
    turned = mouse_brain(None, 0.1, orientation=orientation)
    assert turned.orientation == orientation
    to_brain = np.linalg.inv(brain.affine) @ turned.affine
    i, j, k = 40, 30, 25
    at = np.rint((to_brain @ [i, j, k, 1])[:3]).astype(int)
    np.testing.assert_allclose(to_brain @ [i, j, k, 1], [*at, 1], atol=1e-9)
    patch = turned.data[i : i + 6, j, k]
    step = np.rint(to_brain[:3, 0]).astype(int)
    line = np.array([brain.data[tuple(at + n * step)] for n in range(6)])
    np.testing.assert_allclose(patch, line, rtol=1e-5)
    assert correlation(np.sort(turned.data, None), np.sort(brain.data, None)) > 0.99999


def test_same_brain_at_another_spacing(centre):
    coarse = mouse_brain((80, 80, 48), 2 * FINE, centre=(1.0, 0.0, 0.3)).data
    mean = centre.data.reshape(80, 2, 80, 2, 48, 2).mean((1, 3, 5))
    assert correlation(mean[coarse > 0], coarse[coarse > 0]) > 0.98
    assert np.abs(mean - coarse).mean() < 0.04 * mean.mean()


@pytest.mark.parametrize(
    ("axis", "shape", "positions"),
    [(1, (512, 2, 304), (-5, -2.5, -1, 0.5, 2, 4)), (2, (512, 720, 2), (-2, -0.8, 0.4, 1.6))],
    ids=["coronal", "axial"],
)
def test_adjacent_slices_differ_by_more_than_their_noise(axis, shape, positions):
    """Axial is the plane the published scans were acquired in."""
    for position in positions:
        at = [0.0, 0.0, 0.0]
        at[axis] = position
        data = mouse_brain(shape, FINE, centre=at).data
        this, following = data.take(0, axis), data.take(1, axis)
        tissue = (this > 0) | (following > 0)
        difference = np.sqrt(np.mean((this - following)[tissue] ** 2)) / data[data > 0].mean()
        # The difference of two noisy slices has sqrt(2) the noise of one.
        assert difference > 1.2 * np.sqrt(2) * NOISE


def test_no_mirror_symmetry(brain):
    data, mirrored = brain.data, brain.data[::-1]
    assert correlation(data, mirrored) < 0.95
    both = (data > 0) & (mirrored > 0)
    assert correlation(data[both], mirrored[both]) < 0.6
    for axis, slices in ((1, range(30, 140, 10)), (2, range(15, 60, 5))):
        for n in slices:
            this, other = data.take(n, axis), mirrored.take(n, axis)
            assert correlation(this, other) < 0.97
            tissue = (this > 0) & (other > 0)
            assert correlation(this[tissue], other[tissue]) < 0.8


def test_slice_order_can_be_told_from_front_to_back(brain):
    assert correlation(brain.data, brain.data[:, ::-1]) < 0.85


def test_half_percent_of_power_above_half_nyquist(centre):
    power = np.abs(np.fft.fftn(centre.data - centre.data.mean())) ** 2
    frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in power.shape), indexing="ij")
    radial = np.sqrt(sum(f**2 for f in frequency)) > 0.25
    per_axis = np.max(np.abs(frequency), axis=0) > 0.25
    assert power[radial].sum() >= 0.005 * power.sum()
    assert power[per_axis].sum() >= 0.005 * power.sum()


@pytest.mark.parametrize(("shape", "axis"), [((512, 720, 1), 2), ((512, 1, 304), 1)])
def test_whole_slices_with_their_air_hold_half_a_percent_too(shape, axis):
    image = mouse_brain(shape, FINE).data.take(0, axis)
    power = np.abs(np.fft.fft2(image - image.mean())) ** 2
    frequency = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in power.shape), indexing="ij")
    assert power[np.max(frequency, axis=0) > 0.25].sum() >= 0.005 * power.sum()


def test_tissue_contrast_is_t2_star_like(brain):
    """White matter darker than cortex, fluid brighter, at places that are known."""

    def around(x, y, z):
        i, j, k = np.rint(np.linalg.inv(brain.affine) @ [x, y, z, 1])[:3].astype(int)
        return brain.data[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2]

    callosum = around(0, 1.0, 1.5).min()
    cortex = np.median(around(-2.2, 0.5, 2.1))
    fluid = around(0, -5.2, -0.65).max()
    assert callosum < 0.7 * cortex < cortex < 0.85 * fluid


def test_noise_is_rician_and_seeded():
    clean = mouse_brain(None, 0.2)
    noisy = mouse_brain(None, 0.2, noise=NOISE, seed=3)
    np.testing.assert_array_equal(noisy.data, mouse_brain(None, 0.2, noise=NOISE, seed=3).data)
    assert not np.array_equal(noisy.data, mouse_brain(None, 0.2, noise=NOISE, seed=4).data)
    sigma = NOISE * clean.data[clean.data > 0].mean()
    air = noisy.data[clean.data == 0]
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)
    assert (noisy.data - clean.data)[clean.data > 10 * sigma].std() == pytest.approx(
        sigma, rel=0.03
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"orientation": "RAR"},
        {"orientation": "RA"},
        {"spacing": 0.0},
        {"spacing": np.nan},
        {"shape": (4, 4, 0)},
        {"noise": -1.0},
    ],
)
def test_impossible_scans_are_refused(bad):
    with pytest.raises(UsageError):
        mouse_brain(**{"shape": (4, 4, 4), **bad})

"""Noise, scale and operator found in simulated scans whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from srmri_data.errors import ResolutionError, UsageError
from srmri_data.simulate import SimulationConfig, simulate_low_res
from srmri_data.volumes import Provenance, Volume
from srmri_model.estimate import (
    effective_noise,
    estimate_noise,
    fit_operator,
    foreground_levels,
    level_map,
    mean_levels,
    zero_filling,
)
from srmri_model.operators import make_operator
from srmri_model.rician import rician_mean, rician_remap, rician_signal

SHAPE = (72, 64, 48)


@pytest.fixture(scope="module")
def animal():
    """A textured body in empty space, about 1 inside, exactly 0 outside."""
    random = np.random.default_rng(5)
    fine = ndimage.gaussian_filter(random.standard_normal(SHAPE), 1.0)
    coarse = ndimage.gaussian_filter(random.standard_normal(SHAPE), 4.0)
    texture = 1 + 0.15 * fine / fine.std() + 0.15 * coarse / coarse.std()
    grid = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in SHAPE)]
    body = sum((x / 0.7) ** 2 for x in grid) < 1
    return np.where(body, np.clip(texture, 0.3, None), 0.0)


def degraded(animal, kind="kspace", factor=2, **options):
    operator = make_operator(kind, SHAPE, factor, **options).to(dtype=torch.float64)
    return np.abs(operator.forward(torch.from_numpy(animal)).numpy()), operator


def scanned(clean, sigma, seed=0):
    """Magnitude of a signal with complex noise."""
    noise = sigma * np.random.default_rng(seed).standard_normal((2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1])


def regions(low):
    """Air, edge and inside of the body."""
    body = ndimage.gaussian_filter(low, 1) > 0.5
    wide, deep = ndimage.binary_dilation(body, iterations=3), ndimage.binary_erosion(body)
    return ~wide, wide & ~deep, deep


@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_the_rician_mean_is_that_of_drawn_magnitudes(sigma):
    for signal in (0.0, 0.5, 1.0, 3.0, 10.0):
        drawn = scanned(np.full(400_000, signal * sigma), sigma)
        assert rician_mean(signal * sigma, sigma) == pytest.approx(drawn.mean(), rel=5e-3)


def test_the_signal_is_found_back_from_the_rician_mean():
    signal = np.concatenate([np.linspace(0, 10, 1001), np.geomspace(10, 1e4, 50)])
    found = rician_signal(rician_mean(signal, 1.7), 1.7)
    np.testing.assert_allclose(found, signal, rtol=1e-9, atol=1e-6)


def test_a_mean_below_that_of_noise_alone_is_no_signal():
    assert (rician_signal([0.0, 0.5, 1.25], 1.0) == 0).all()


@pytest.mark.parametrize("snr", [5, 10, 20])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 2.0, 2.8])
def test_remapping_takes_away_the_bias_of_the_background(animal, snr, ratio):
    """LR and HR scans with noise of their own: y' − H x has no mean in air and tissue."""
    clean, operator = degraded(animal)
    sigma_low = clean[regions(clean)[2]].mean() / snr
    sigma_high = ratio * sigma_low
    low = scanned(clean, sigma_low, seed=1)
    high = torch.from_numpy(scanned(animal, sigma_high, seed=2))
    expected = operator.forward(high).numpy()
    sigma = effective_noise(sigma_low, sigma_high, operator.noise_gain)

    air, edge, deep = regions(clean)
    rest = (rician_remap(low, sigma_low, sigma_high) - expected) / sigma
    assert abs(rest[air].mean()) < 0.3
    assert abs(rest[deep].mean()) < 0.1
    assert (rest[air] ** 2).mean() < 1
    # Below an SNR of 2 the magnitudes of HR themselves vary less than its noise does.
    spread = 0.1 if snr >= 2 * ratio else 0.15
    assert (rest[deep] ** 2).mean() == pytest.approx(1, abs=spread)
    raw = (low - expected) / sigma
    assert abs(rest[edge].mean()) < 0.3 + 0.5 * abs(raw[edge].mean())
    if ratio in (0.0, 2.0, 2.8):
        assert abs(raw[air].mean()) > 1


def test_masked_voxels_stay_zero():
    masked = scanned(np.zeros((20, 20, 20)), 1.0)
    masked[:10] = 0
    remapped = rician_remap(masked, 1.0, 2.0)
    assert (remapped[:10] == 0).all()
    assert remapped[12:].mean() > masked[12:].mean() + 1


@pytest.mark.parametrize("snr", [5, 10, 20, 50])
def test_noise_is_measured_in_air(animal, snr):
    clean, _ = degraded(animal)
    found = estimate_noise(scanned(clean, 1 / snr))
    assert found.source == "air"
    assert found.sigma * snr == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("factor", [(2.0, 2.0, 1.0), (2.0, 2.0, 2.0)])
def test_the_noise_of_a_simulated_scan_is_the_one_in_its_truth(animal, factor):
    volume = Volume(
        animal.astype(np.float32), np.diag([0.1, 0.1, 0.1, 1]), Provenance(Path("test"), "memory")
    )
    made = simulate_low_res(volume, SimulationConfig(factor=factor, snr=12.0, seed=3))
    assert estimate_noise(made.low_res.data).sigma == pytest.approx(made.noise_sigma, rel=0.03)


@pytest.mark.parametrize("snr", [5, 10])
def test_noise_is_measured_inside_when_what_lies_outside_is_zero(animal, snr):
    clean, _ = degraded(animal)
    stripped = scanned(clean, 1 / snr) * (ndimage.gaussian_filter(clean, 1) > 0.5)
    assert (stripped == 0).mean() > 0.7
    found = estimate_noise(stripped)
    assert found.source == "detail"
    assert found.sigma * snr == pytest.approx(1, rel=0.15)


def test_ringing_around_a_stripped_brain_is_not_taken_for_noise(animal):
    ringing, _ = degraded(animal)
    assert estimate_noise(ringing).source == "detail"


def test_noise_is_measured_in_a_single_slice(animal):
    clean, _ = degraded(animal, factor=(2, 2, 1))
    found = estimate_noise(scanned(clean[:, :, 24], 0.1))
    assert found.sigma == pytest.approx(0.1, rel=0.1)


def zero_filled_noise(shape, acquired, seed=0):
    """Complex noise acquired on a smaller matrix, of standard deviation 1 in each channel."""
    noise = np.random.default_rng(seed).standard_normal((2, *acquired))
    spectrum = np.fft.fftshift(np.fft.fftn(noise[0] + 1j * noise[1]))
    before = [(n - m) // 2 for n, m in zip(shape, acquired, strict=True)]
    pads = [(b, n - m - b) for b, n, m in zip(before, shape, acquired, strict=True)]
    return np.fft.ifftn(np.fft.ifftshift(np.pad(spectrum, pads))) * np.prod(shape) / noise[0].size


@pytest.mark.parametrize("acquired", [(96, 80, 24), (64, 40, 24), (52, 60, 24), (48, 80, 12)])
def test_zero_filling_is_found_in_the_noise(acquired):
    shape = (96, 80, 24)
    image = zero_filled_noise(shape, acquired)
    image[30:60, 25:55] += 30
    found = zero_filling(np.abs(image))
    expected = [n / m for n, m in zip(shape, acquired, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0.04)
    assert estimate_noise(np.abs(image)).sigma == pytest.approx(1, rel=0.03)


def test_zero_filling_can_not_be_told_without_air(animal):
    clean, _ = degraded(animal)
    assert zero_filling(scanned(clean, 0.1) * (clean > 0.5)) is None


def test_a_ghost_in_air_is_not_taken_for_noise(animal):
    """A faint copy of the animal half a field of view away, as motion leaves it."""
    clean, _ = degraded(animal, factor=(2, 2, 1))
    ghost = clean + 0.08 * np.roll(clean, clean.shape[0] // 2, axis=0)
    found = estimate_noise(scanned(ghost, 0.05))
    assert found.source == "air"
    assert found.sigma == pytest.approx(0.05, rel=0.05)


def test_noise_that_can_not_be_measured_is_refused():
    with pytest.raises(ResolutionError, match="the noise can not be measured"):
        estimate_noise(np.pad(np.ones((4, 4)), 8) + np.pad(np.eye(4), 8))


def test_levels_of_a_scan_in_other_units_lead_to_the_same_image(animal):
    clean, _ = degraded(animal)
    reference = mean_levels([foreground_levels(clean), foreground_levels(clean)])
    mapping = level_map(foreground_levels(1234 * clean + 56), reference)
    assert mapping.high - mapping.low == pytest.approx(1234, rel=1e-6)
    assert mapping.low == pytest.approx(56, abs=1e-2)


def test_a_volume_of_one_intensity_has_no_levels():
    with pytest.raises(ResolutionError, match="one single intensity"):
        foreground_levels(np.ones((4, 4, 4)))


@pytest.mark.parametrize(
    ("kind", "grid", "width", "factor"),
    [
        ("kspace", "fourier", None, (2, 2, 2)),
        ("kspace", "voxel-centre", None, (1.5, 2, 1)),
        ("box", "voxel-centre", None, (2, 2, 2)),
        ("gaussian", "voxel-centre", 1.3, (2, 2, 1)),
        ("slice-profile", "fourier", 0.8, (1, 1, 4)),
    ],
)
def test_operator_grid_and_width_are_found_in_a_pair(animal, kind, grid, width, factor):
    clean, _ = degraded(animal, kind, factor, grid=grid, width=width)
    low = 700 * scanned(clean, 0.03)
    best, *others = fit_operator(animal, low, factor)
    # At these factors a box is a slice profile of width 1, but for its edges.
    tied = {"box", "slice-profile"} if kind == "box" else {kind}
    assert best.kind in tied
    assert best.grid == grid
    if width is not None:
        assert best.width == pytest.approx(width, abs=0.04)
    assert best.gain == pytest.approx(700, rel=0.03)
    assert best.residual == pytest.approx(700 * 0.03, rel=0.06)
    other_grid = next(fit for fit in others if fit.kind == best.kind and fit.grid != grid)
    assert other_grid.residual > 1.5 * best.residual


def test_a_pair_of_sizes_that_do_not_fit_is_refused(animal):
    with pytest.raises(UsageError, match=r"make LR of \(36, 32, 24\); found \(36, 32, 48\)"):
        fit_operator(animal, animal[::2, ::2], 2)


def test_a_pair_without_foreground_is_refused():
    with pytest.raises(ResolutionError, match="one single intensity"):
        fit_operator(np.ones((8, 8, 8)), np.ones((4, 4, 4)), 2)

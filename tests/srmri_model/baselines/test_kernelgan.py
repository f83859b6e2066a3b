"""KernelGAN finds a kernel that is known, and its parts are what the paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from srmri_data.errors import UsageError
from srmri_model.baselines.kernelgan import (
    SCALED,
    KernelGANSettings,
    LinearGenerator,
    PatchDiscriminator,
    estimate_kernel,
    penalty,
)
from srmri_model.baselines.kernels import centre_of_mass, downscale


def leaves(size: int, seed: int) -> np.ndarray:
    """Discs that cover each other, as many of every size as fit: alike at every scale.

    Dead leaves with radii of density r⁻³; D. Mumford, B. Gidas, Stochastic models for generic
    images, Quarterly of Applied Mathematics 59 (2001).
    """
    random = np.random.default_rng(seed)
    fine = 3 * size
    image = np.full((fine, fine), 0.5, dtype=np.float32)
    least, most = 2.0, fine / 2.3
    shares = random.random(40_000)
    radii = (least**-2 + (most**-2 - least**-2) * shares) ** -0.5
    for radius in radii:
        centre = random.uniform(-radius, fine + radius, 2)
        first = np.maximum(np.floor(centre - radius).astype(int), 0)
        last = np.minimum(np.ceil(centre + radius).astype(int) + 1, fine)
        rows, cols = np.ogrid[first[0] : last[0], first[1] : last[1]]
        inside = (rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 < radius**2
        image[first[0] : last[0], first[1] : last[1]][inside] = random.random()
    return image.reshape(size, 3, size, 3).mean(axis=(1, 3))


def gaussian(along: float, across: float, angle: float) -> np.ndarray:
    rows, cols = np.mgrid[-6:7, -6:7]
    u = np.cos(angle) * cols + np.sin(angle) * rows
    v = np.cos(angle) * rows - np.sin(angle) * cols
    kernel = np.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    return kernel / kernel.sum()


def shape_of(kernel: np.ndarray) -> tuple[float, float, float]:
    """Standard deviations along and across, and the angle of the longer one from the columns."""
    places = np.arange(kernel.shape[0]) - (kernel.shape[0] - 1) / 2
    row, col = centre_of_mass(kernel)
    u, v = np.meshgrid(places - row, places - col, indexing="ij")
    moments = [[(kernel * a * b).sum() for a in (u, v)] for b in (u, v)]
    variances, axes = np.linalg.eigh(np.array(moments))
    angle = np.arctan2(axes[0, 1], axes[1, 1]) % np.pi
    return variances[1] ** 0.5, variances[0] ** 0.5, float(angle)


@pytest.mark.slow
def test_a_known_oblique_kernel_is_found():
    known = gaussian(2.4, 1.0, 0.6)
    low = downscale(leaves(384, seed=0), known, 2.0)
    found = estimate_kernel(low, settings=SCALED)
    along, across, angle = shape_of(found)
    assert np.corrcoef(found.ravel(), known.ravel())[0, 1] > 0.85
    assert along == pytest.approx(2.4, abs=0.5)
    assert across == pytest.approx(1.0, abs=0.4)
    assert angle == pytest.approx(0.6, abs=0.25)


def test_the_generator_is_its_convolutions_one_after_another():
    """And so are its gradients: that they are computed as one kernel changes nothing."""
    torch.manual_seed(0)
    generator = LinearGenerator(8)
    image = torch.randn(1, 1, 32, 40)
    chain = image
    for number, weight in enumerate(generator.weights):
        stride = 2 if number == len(generator.weights) - 1 else 1
        chain = functional.conv2d(chain, weight, stride=stride)
    at_once = functional.conv2d(image, generator.kernel()[None, None], stride=2)
    torch.testing.assert_close(at_once, chain, atol=1e-4, rtol=1e-4)
    parameters = list(generator.parameters())
    of_chain = torch.autograd.grad(chain.square().sum(), parameters)
    of_kernel = torch.autograd.grad(at_once.square().sum(), parameters)
    for one, other in zip(of_chain, of_kernel, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-3)


def test_the_discriminator_sees_patches_of_seven_pixels_and_images_by_themselves():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8).requires_grad_(False)
    images = torch.rand(2, 1, 16, 18)
    for _ in range(20):
        judged = discriminator(images)
    assert judged.shape == (2, 10 * 12)
    assert 0 <= float(judged.min()) <= float(judged.max()) <= 1
    # Every look is one power iteration more, so weights are nearly the same.
    torch.testing.assert_close(discriminator(images[:1])[0], judged[0], atol=1e-3, rtol=1e-3)
    # A pixel is seen by the patches that it is in and, through normalisation, hardly by others.
    changed = images.clone()
    changed[0, 0, 3, 4] += 1
    difference = (discriminator(changed) - judged)[0].reshape(10, 12).abs()
    assert float(difference[:4, :5].max()) > 3 * float(difference[4:, 5:].max())


def test_spectral_normalisation_brings_the_largest_singular_value_to_one():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(16)
    for _ in range(100):
        normalised = discriminator._normalised(1, discriminator.hidden)
    largest = torch.linalg.svdvals(normalised.detach())[:, 0]
    torch.testing.assert_close(largest, torch.ones(5), atol=0.02, rtol=0)


def test_regularisers_are_zero_where_they_should_be():
    alone = KernelGANSettings(sum_weight=0, boundary_weight=0, sparse_weight=0, centre_weight=0)
    middle = torch.zeros(13, 13)
    middle[6, 6] = 1
    moved = torch.roll(middle, (2, 1), (0, 1))
    centre = replace(alone, centre_weight=1.0)
    assert float(penalty(middle, centre)) == pytest.approx(0, abs=1e-4)
    assert float(penalty(moved, centre)) == pytest.approx(5**0.5, abs=1e-4)
    total = replace(alone, sum_weight=0.5)
    assert float(penalty(1.5 * middle, total)) == pytest.approx(0.25)
    sparse = replace(alone, sparse_weight=5.0)
    assert float(penalty(middle, sparse)) == pytest.approx(5 / 169, abs=1e-3)
    assert float(penalty(torch.full((13, 13), 1 / 169), sparse)) == pytest.approx(5 / 13, abs=1e-3)
    boundary = replace(alone, boundary_weight=1.0)
    edge = torch.zeros(13, 13)
    edge[6, 12] = 1
    assert float(penalty(edge, boundary)) == pytest.approx(1.0)
    assert float(penalty(middle, boundary)) == pytest.approx(np.exp(-6))


QUICK = KernelGANSettings(steps=12, crop=32, width=8)


@pytest.mark.parametrize(("factor", "size"), [(2, 13), (4, 37)])
def test_kernels_sum_to_one_about_their_middle(factor, size):
    low = np.random.default_rng(0).random((40, 48), dtype=np.float32)
    kernel = estimate_kernel(low, factor=factor, settings=QUICK)
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(centre_of_mass(kernel), 0, atol=0.05)


def test_a_factor_of_four_is_two_times_two():
    """Applied at once, the kernel does what the one of two does when applied twice."""
    low = np.random.default_rng(1).random((40, 40), dtype=np.float32)
    two, four = (estimate_kernel(low, factor=f, settings=QUICK) for f in (2, 4))
    image = np.random.default_rng(2).random((160, 160), dtype=np.float32)
    twice = downscale(downscale(image, two, 2.0, grid="fourier"), two, 2.0, grid="fourier")
    at_once = downscale(image, four, 4.0, grid="fourier")
    inside = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(at_once[inside], twice[inside], atol=0.02)


def test_training_is_the_same_for_one_seed_and_stops_when_told():
    low = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    first = estimate_kernel(low, settings=QUICK, seed=5)
    np.testing.assert_array_equal(estimate_kernel(low, settings=QUICK, seed=5), first)
    assert np.abs(estimate_kernel(low, settings=QUICK, seed=6) - first).max() > 0
    told: list[int] = []
    estimate_kernel(
        low, settings=QUICK,
        progress=lambda _stage, done, _total: told.append(done), stop=lambda: len(told) == 4,
    )  # fmt: skip
    assert told == [1, 2, 3, 4]


def test_before_the_first_step_it_is_the_cubic_kernel():
    from srmri_model.baselines.kernels import operator_kernel

    low = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    kernel = estimate_kernel(low, settings=QUICK, steps=0)
    assert np.corrcoef(kernel.ravel(), operator_kernel("bicubic", 2.0, 13).ravel())[0, 1] > 0.95


def test_constant_images_give_a_kernel_and_not_nan():
    assert np.isfinite(estimate_kernel(np.zeros((32, 32), np.float32), settings=QUICK)).all()


def test_other_factors_and_small_images_are_refused():
    with pytest.raises(UsageError, match="factors of 2 and 4; found 3"):
        estimate_kernel(np.zeros((40, 40), dtype=np.float32), factor=3)
    with pytest.raises(UsageError, match="25 pixels or more"):
        estimate_kernel(np.zeros((24, 40), dtype=np.float32))

"""The denoiser: any size, both preconditionings, nothing heavy at import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from srmri_model.networks import (
    PRESETS,
    Denoiser,
    NetworkConfig,
    build_network,
    loss_weight,
    sigma_at,
)

LEVELS = {"ch_mult": (1, 1, 2), "attention": (False, False, True), "blocks": 1}
VE = NetworkConfig(nf=4, **LEVELS)
EDM = NetworkConfig(nf=4, preconditioning="edm", scale_by_sigma=False, **LEVELS)


def with_random_weights(config, seed=0, std=0.3):
    network = build_network(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * std)
    return network


def test_importing_the_package_does_not_load_torch():
    code = (
        "import sys, srmri_model, srmri_model.networks, srmri_model.checkpoints;"
        "print(int('torch' in sys.modules)); srmri_model.networks.Denoiser;"
        "print(int('torch' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout.split() == ["0", "1"]


@pytest.mark.parametrize("config", [VE, EDM], ids=["ve", "edm"])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 5), (2, 1)])
def test_any_size_is_denoised(config, size):
    denoiser = Denoiser(with_random_weights(config), config)
    found = denoiser(torch.rand(2, 1, *size), torch.tensor([0.05, 3.0]))
    assert found.shape == (2, 1, *size)
    assert torch.isfinite(found).all()


def test_padding_reflects_and_is_cut_off():
    denoiser = Denoiser(with_random_weights(VE), VE)
    image = torch.rand(1, 1, 6, 8)
    reflected = torch.cat([image, image[:, :, 3:5].flip(2)], dim=2)
    torch.testing.assert_close(denoiser(image, 0.3), denoiser(reflected, 0.3)[:, :, :6])


@pytest.mark.parametrize("config", [VE, EDM], ids=["ve", "edm"])
def test_score_is_tweedies(config):
    denoiser = Denoiser(with_random_weights(config), config)
    x, sigma = torch.rand(3, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0])
    score = (denoiser(x, sigma) - x) / sigma[:, None, None, None] ** 2
    torch.testing.assert_close(denoiser.score(x, sigma), score, rtol=1e-4, atol=1e-4)


def test_images_of_a_batch_do_not_see_each_other():
    denoiser = Denoiser(with_random_weights(VE), VE)
    x, sigma = torch.rand(3, 1, 8, 8), torch.tensor([0.1, 0.5, 2.0])
    alone = torch.cat([denoiser(x[i : i + 1], sigma[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(denoiser(x, sigma), alone, rtol=1e-5, atol=1e-5)


def test_a_fresh_edm_network_is_the_best_linear_denoiser():
    denoiser = Denoiser(build_network(EDM), EDM)
    x = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(denoiser(x, EDM.sigma_data), x / 2)


def test_gradients_reach_the_image():
    denoiser = Denoiser(with_random_weights(EDM), EDM)
    x = torch.rand(1, 1, 6, 7, requires_grad=True)
    denoiser(x, 0.2).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_the_plane_matters_once_trained():
    config = NetworkConfig(nf=4, n_planes=3, **LEVELS)
    denoiser = Denoiser(with_random_weights(config), config)
    x = torch.rand(1, 1, 8, 8)
    coronal, axial = (denoiser(x, 0.2, torch.tensor([plane])) for plane in (0, 1))
    assert not torch.allclose(coronal, axial)
    with pytest.raises(ValueError, match="plane"):
        denoiser(x, 0.2)


def test_bfloat16_stays_close_and_returns_float32():
    network = with_random_weights(EDM, std=0.1)
    x = torch.rand(1, 1, 16, 16)
    full, half = (Denoiser(network, EDM, bf16=bf16)(x, 0.2) for bf16 in (False, True))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.02)


def test_gradient_checkpointing_changes_no_gradient():
    x, sigma = torch.rand(2, 1, 8, 8), torch.tensor([0.1, 1.0])
    gradients = []
    for checkpointing in (False, True):
        network = build_network(VE, seed=1, gradient_checkpointing=checkpointing)
        network.conv_out.weight.data.fill_(0.1)
        network(x, sigma).square().sum().backward()
        gradients.append([value.grad for value in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_noise_levels_and_weights_of_the_loss():
    sigma = sigma_at(PRESETS["paper"], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(sigma, torch.tensor([0.01, (0.01 * 378) ** 0.5, 378.0]))
    torch.testing.assert_close(loss_weight(VE, torch.tensor([0.5])), torch.tensor([4.0]))
    torch.testing.assert_close(loss_weight(EDM, torch.tensor([0.5])), torch.tensor([20.0]))


def test_the_same_seed_makes_the_same_network_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (build_network(VE, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"nf": 2},
        {"ch_mult": ()},
        {"attention": (True,)},
        {"blocks": 0},
        {"sigma_min": 0.0},
        {"sigma_max": 0.001},
        {"preconditioning": "edm"},
    ],
)
def test_shapes_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match="is no network"):
        NetworkConfig(**{"nf": 8, **wrong})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch's own
def test_a_compiled_network_trains_and_denoises_as_it_does_without():
    config = NetworkConfig(nf=8, ch_mult=(1, 2), blocks=1, attention=(False, False))
    found = []
    for compiled in (False, True):
        network = build_network(config, seed=3)
        for parameter in network.parameters():
            parameter.data.add_(0.05 * torch.ones_like(parameter))
        denoiser = Denoiser(network, config, compiled=compiled)
        # Two sizes: a second one must not be compiled for all sizes, which fails.
        for size in (16, 24):
            images = torch.linspace(0, 1, 2 * size**2).view(2, 1, size, size)
            denoiser(images, torch.tensor([0.1, 0.5])).square().mean().backward()
        with torch.no_grad():
            found.append((denoiser(images, 0.3), network.conv_in.weight.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

"""The presets have the size they are said to have, and the parts compute what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from srmri_model.networks import (
    PRESETS,
    NCSNpp,
    NetworkConfig,
    build_network,
    forward_flops,
    parameter_count,
)
from srmri_model.networks.resampling import (
    FIR,
    conv_fir_downsample,
    fir_downsample,
    fir_upsample,
)

PARAMETERS = {"paper": 61_433_473, "base": 15_381_313, "small": 3_856_801, "tiny": 606_289}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_documented_number_of_parameters(preset):
    with torch.device("meta"):
        network = NCSNpp(PRESETS[preset])
    assert parameter_count(network) == PARAMETERS[preset]
    assert not network.fourier.frequencies.requires_grad
    assert "fourier.frequencies" in network.state_dict()


def test_the_papers_network_costs_seven_and_a_half_teraflop_per_slice():
    assert forward_flops(PRESETS["paper"], 720, 512) == pytest.approx(7.5e12, rel=0.01)


def test_cost_counts_the_padding():
    tiny = PRESETS["tiny"]
    assert forward_flops(tiny, 57, 64) == forward_flops(tiny, 64, 64)
    assert forward_flops(replace(tiny, n_planes=3), 64, 64) == forward_flops(tiny, 64, 64)


def zero_stuffed(images):
    """Every pixel followed by a zero, in both directions."""
    batch, channels, rows, cols = images.shape
    stuffed = images.new_zeros(batch, channels, 2 * rows, 2 * cols)
    stuffed[:, :, ::2, ::2] = images
    return stuffed


def filtered(images, pad):
    """Every channel correlated with the filter after zeros were put around it."""
    padded = F.pad(images, pad).flatten(0, 1)[:, None]
    result = F.conv2d(padded, FIR[None, None].to(images))
    return result.unflatten(0, images.shape[:2])[:, :, 0]


@pytest.mark.parametrize("size", [(6, 10), (2, 2), (8, 4)])
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resampling_is_filtering_on_the_fine_grid(size, channels, layout):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *size, dtype=torch.float64, generator=generator)
    x = x.contiguous(memory_format=layout)
    weight = torch.randn(5, channels, 3, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(fir_downsample(x), filtered(x, (1, 1, 1, 1))[:, :, ::2, ::2])
    torch.testing.assert_close(fir_upsample(x), 4 * filtered(zero_stuffed(x), (2, 1, 2, 1)))
    torch.testing.assert_close(
        conv_fir_downsample(x, weight, bias),
        F.conv2d(filtered(x, (2, 2, 2, 2)), weight, bias, stride=2),
    )


@pytest.mark.parametrize("function", [fir_downsample, fir_upsample])
def test_resampling_has_the_right_gradient(function):
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))


def test_gradients_are_those_of_the_librarys_operations_in_double_precision():
    """In float64 nothing of our own takes part, so this compares every shortcut at once."""
    config = NetworkConfig(nf=8, ch_mult=(1, 2), blocks=1, attention=(False, True), patch=1)
    single, double = build_network(config), build_network(config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in single.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    double.load_state_dict(single.state_dict())
    x, sigma = torch.rand(2, 1, 8, 12, generator=generator), torch.tensor([0.1, 1.0])
    for network, kind in ((single, torch.float32), (double, torch.float64)):
        network(x.to(kind), sigma.to(kind)).square().sum().backward()
    for one, other in zip(single.parameters(), double.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-3 * other.grad.abs().max()


def test_no_gradient_no_difference():
    """Without gradients values are changed in place; the result is the same."""
    config = NetworkConfig(nf=8, ch_mult=(1, 2), blocks=1, attention=(False, False))
    network = build_network(config)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    x, sigma = torch.rand(2, 1, 8, 12), torch.tensor([0.1, 1.0])
    kept = x.clone()
    expected = network(x, sigma)
    with torch.no_grad():
        torch.testing.assert_close(network(x, sigma), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(x, kept)

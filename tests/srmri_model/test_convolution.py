"""The quick convolutions are convolutions, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from srmri_model.networks import convolution
from srmri_model.networks.convolution import EPS, conv1x1, conv3x3, group_norm


def inputs(batch, size):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, 5, *size), (7, 5, 3, 3), (batch, 7))
    images, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    images = images.contiguous(memory_format=torch.channels_last)
    return [value.requires_grad_() for value in (images, weight, bias)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(6, 4), (1, 3), (2, 1)])
def test_conv3x3_and_its_gradients_are_the_librarys(batch, size):
    images, weight, bias = inputs(batch, size)
    result = conv3x3(images, weight, bias)
    expected = F.conv2d(images, weight, padding=1) + bias[:, :, None, None]
    torch.testing.assert_close(result, expected)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(result, (images, weight, bias), upstream)
    wanted = torch.autograd.grad(expected, (images, weight, bias), upstream)
    assert "_Conv3x3" in type(result.grad_fn).__name__
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(6, 4), (7, 5), (1, 3), (2, 1), (9, 12)])
@pytest.mark.parametrize("tiles", [1, 7, 1000])
def test_the_short_cut_of_wide_layers_is_the_librarys_convolution(batch, size, tiles, monkeypatch):
    """In strips of any height, of even and odd images; also both gradients."""
    monkeypatch.setattr(convolution, "_WIDE", 1)
    monkeypatch.setattr(convolution, "_LARGE", 1)
    monkeypatch.setattr(convolution, "_TILES", tiles)
    taken = []
    short_cut = convolution._winograd
    monkeypatch.setattr(
        convolution, "_winograd", lambda *given: taken.append(1) or short_cut(*given)
    )
    images, weight, bias = inputs(batch, size)
    result = conv3x3(images, weight, bias)
    assert len(taken) == 1
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(images, weight, padding=1) + bias[:, :, None, None]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(conv3x3(images, weight, bias), result)
    assert len(taken) == 2
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(result, (images, weight, bias), upstream)
    wanted = torch.autograd.grad(expected, (images, weight, bias), upstream)
    assert len(taken) == 3, "the image's gradient is a convolution as well"
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_short_cut_is_exact_to_single_precision():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 256, 48, 44, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(256, 256, 3, 3, generator=generator), torch.zeros(1, 256)
    exact = F.conv2d(images.double(), weight.double(), padding=1)
    with torch.no_grad():
        assert convolution._is_wide(images, 256)
        error = (conv3x3(images, weight, bias) - exact).abs().max()
    assert error < 2e-6 * exact.abs().max()


def test_narrow_layers_small_images_and_recorded_ones_do_not_take_the_short_cut():
    wide, narrow = torch.zeros(1, 256, 48, 44), torch.zeros(1, 128, 48, 44)
    with torch.no_grad():
        assert convolution._is_wide(wide, 256)
        assert not convolution._is_wide(wide, 128)
        assert not convolution._is_wide(narrow, 256)
        assert not convolution._is_wide(wide[..., :40], 256)
        assert not convolution._is_wide(wide.bfloat16(), 256)
    assert not convolution._is_wide(wide, 256)


def test_conv3x3_of_images_that_need_no_gradient():
    images, weight, bias = inputs(2, (4, 4))
    (found,) = torch.autograd.grad(conv3x3(images.detach(), weight, bias).sum(), weight)
    (wanted,) = torch.autograd.grad(F.conv2d(images.detach(), weight, padding=1).sum(), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_frozen_weights_still_pass_gradients_to_the_image():
    images, weight, bias = inputs(2, (4, 4))
    result = conv3x3(images, weight.detach(), bias.detach())
    (gradient,) = torch.autograd.grad(result.sum(), images)
    assert (gradient != 0).all()


def test_conv1x1_is_a_convolution_and_stays_channels_last():
    images, _, _ = inputs(2, (4, 6))
    weight, bias = torch.randn(7, 5, 1, 1), torch.randn(7)
    result = conv1x1(images, weight, bias)
    torch.testing.assert_close(result, F.conv2d(images, weight, bias))
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch", [1, 3])
def test_group_norm_and_its_gradients_are_the_librarys(batch):
    generator = torch.Generator().manual_seed(0)
    images = 2 + torch.randn(batch, 6, 20, 30, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(6, generator=generator).requires_grad_() for _ in range(2))
    result = group_norm(images, 3, weight, bias)
    assert "_GroupNorm" in type(result.grad_fn).__name__
    expected = F.group_norm(images, 3, weight, bias, EPS)
    torch.testing.assert_close(result, expected)
    upstream = torch.randn(result.shape, generator=generator)
    found = torch.autograd.grad(result, (images, weight, bias), upstream)
    wanted = torch.autograd.grad(expected, (images, weight, bias), upstream)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

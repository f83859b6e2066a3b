"""The quick convolutions are convolutions, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

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

"""Convolution and normalisation that are quick on a processor, channels last, both ways.

With channels last the library computes the gradients of weights and of group normalisation at a
fraction of the rate of its other passes. Here the one is nine matrix products over shifted pixels,
the other sums over pixels. Wide convolutions take Winograd's short cut [1]_.

References
----------
.. [1] A. Lavin, S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016: F(2×2, 3×3).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

from srmri_model.types import Features

EPS = 1e-6
"""Added to the variance by every group normalisation."""

_WIDE, _LARGE = 256, 2048
"""Channels and pixels from which `_winograd` is quicker."""

_TILES = 336
"""Tiles at once: their 16 values in 256 channels take 5 MB."""

_WORTHWHILE = 512
"""Pixels from which our gradient of the normalisation beats the library's."""


def conv3x3(images: Features, weight: Tensor, bias: Tensor) -> Features:
    """Convolve with a 3×3 kernel; zeros are assumed outside.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Activations, channels last.
    weight : (D, C, 3, 3) Tensor
        Kernel.
    bias : (B, D) Tensor
        Added to the result, for every image another.

    Returns
    -------
    (B, D, H, W) Tensor
        Activations.
    """
    if torch.is_grad_enabled() and weight.requires_grad and _is_plain_cpu(images):
        result: Tensor = _Conv3x3.apply(images, weight, bias)
        return result
    return _conv3x3(images, weight, bias)


def _conv3x3(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if _is_wide(images, len(weight)):
        # A new tensor: what autograd is given may be no view, as the short cut's result is.
        return _winograd(images, weight) + bias[:, :, None, None]
    if len(images) == 1:
        return F.conv2d(images, weight, bias[0], padding=1)
    return F.conv2d(images, weight, padding=1).add_(bias[:, :, None, None])


def _is_wide(images: Tensor, features: int) -> bool:
    """Whether fewer multiplications outweigh the additions around them, and nothing is recorded."""
    _, channels, rows, cols = images.shape
    wide = min(channels, features) >= _WIDE and rows * cols >= _LARGE
    return wide and not torch.is_grad_enabled() and _is_plain_cpu(images)


def _winograd(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve with a 3×3 kernel by 16 matrix products over tiles of 2×2 pixels of the result.

    That takes 16 multiplications for 4 pixels instead of 36. Tiles are done some rows at a time, so
    that what lies between the products stays in the cache.
    """
    (batch, channels, rows, cols), features = images.shape, len(weight)
    down, across = -(-rows // 2), -(-cols // 2)
    transform = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    kernels = torch.einsum("ia,jb,dcab->ijcd", transform, transform, weight)
    kernels = kernels.reshape(16, channels, features)
    margins = (0, 0, 1, 1 + 2 * across - cols, 1, 1 + 2 * down - rows)
    pixels = F.pad(images.permute(0, 2, 3, 1), margins)
    result = images.new_empty(batch, down, 2, across, 2, features)
    at_once = -(-down // -(-down * across // _TILES))
    by_row = images.new_empty(4, at_once, pixels.shape[2], channels)
    tiles = images.new_empty(4, 4, at_once, across, channels)
    products = images.new_empty(4, 4, at_once, across, features)
    by_col = images.new_empty(2, 4, at_once, across, features)
    spare = images.new_empty(4, at_once, across, features)
    for image in range(batch):
        for start in range(0, down, at_once):
            # All strips have one size, so that their memory is used again; the last may overlap.
            first = min(start, down - at_once)
            _to_tiles(pixels[image, 2 * first : 2 * (first + at_once) + 2], by_row)
            _to_tiles(by_row.transpose(0, 2), tiles.permute(1, 3, 2, 0, 4))
            torch.bmm(tiles.view(16, -1, channels), kernels, out=products.view(16, -1, features))
            _from_tiles(products.transpose(0, 1), by_col, spare)
            part = result[image, first : first + at_once].permute(1, 3, 0, 2, 4)
            _from_tiles(by_col.transpose(0, 1), part, spare[:2])
    made = result.view(batch, 2 * down, 2 * across, features)[:, :rows, :cols]
    return made.permute(0, 3, 1, 2)


def _to_tiles(pixels: Tensor, out: Tensor) -> None:
    """Transform overlapping runs of four, two apart, along the first axis."""
    end = 2 * out.shape[1]
    a, b, c, d = (pixels[first : end + first : 2] for first in range(4))
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])


def _from_tiles(terms: Tensor, out: Tensor, spare: Tensor) -> None:
    """Bring the four terms of a transformed axis, the first, back to two pixels."""
    a, b, c, d = terms
    torch.add(a, torch.add(b, c, out=spare), out=out[0])
    torch.sub(torch.sub(b, c, out=spare), d, out=out[1])


def _is_plain_cpu(images: Tensor) -> bool:
    """Whether numbers are computed here, on a processor, as float32."""
    return (
        images.device.type == "cpu"
        and images.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def conv1x1(images: Features, weight: Tensor, bias: Tensor | None) -> Features:
    """Convolve with a 1×1 kernel: one matrix product over all pixels.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Activations, channels last.
    weight : (D, C, 1, 1) Tensor
        Kernel.
    bias : (D,) Tensor, optional
        Added to the result.

    Returns
    -------
    (B, D, H, W) Tensor
        Activations.
    """
    return F.linear(images.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return _conv3x3(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        for_images = None
        if ctx.needs_input_grad[0]:
            # The adjoint is a convolution with the kernel turned by 180 degrees.
            turned = weight.flip(2, 3).transpose(0, 1)
            turned = turned.contiguous(memory_format=torch.channels_last)
            wide = _is_wide(gradient, len(turned))
            for_images = (
                _winograd(gradient, turned) if wide else F.conv2d(gradient, turned, padding=1)
            )
        return for_images, _weight_gradient(images, gradient), gradient.sum(dim=(2, 3))


def _weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """Correlate images and gradient at the nine shifts of the kernel.

    Both are laid out as one long list of pixels with zeros between rows and images, such that a
    shift in the plane is a shift along the list.
    """
    pixels = F.pad(images.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    width = pixels.shape[2]
    shifts = [row * width + col for row in range(3) for col in range(3)]
    pixels = pixels.flatten(0, 2)
    gradients = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).flatten(0, 2)
    count = len(pixels) - shifts[-1]
    gradients = gradients[:count].T
    taps = torch.stack([gradients @ pixels[shift : shift + count] for shift in shifts])
    return taps.view(3, 3, *taps.shape[1:]).permute(2, 3, 0, 1)


def group_norm(images: Features, groups: int, weight: Tensor, bias: Tensor) -> Features:
    """Normalise groups of channels, for every image apart.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Activations, channels last.
    groups : int
        Number of groups.
    weight, bias : (C,) Tensor
        Factor and offset of every channel, applied afterwards.

    Returns
    -------
    (B, C, H, W) Tensor
        Activations.
    """
    if (
        torch.is_grad_enabled()
        and weight.requires_grad
        and images.shape[2] * images.shape[3] >= _WORTHWHILE
        and _is_plain_cpu(images)
    ):
        result: Tensor = _GroupNorm.apply(images, groups, weight, bias)
        return result
    return F.group_norm(images, groups, weight, bias, EPS)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
        batch, channels, rows, cols = images.shape
        result: Tensor
        result, mean, scale = torch.native_group_norm(
            images, weight, bias, batch, channels, rows * cols, groups, EPS
        )
        ctx.save_for_backward(images, weight, mean, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        images, weight, mean, scale = ctx.saved_tensors
        groups, size = mean.shape[1], images.shape[1] // mean.shape[1]
        mean, scale = (t.repeat_interleave(size, dim=1)[:, None] for t in (mean, scale))
        rows, cols = images.shape[2:]
        pixels, gradients = (
            t.permute(0, 2, 3, 1).reshape(len(t), rows * cols, -1) for t in (images, gradient)
        )
        # Sums over pixels, per image and channel: of the gradient, and times normalised values.
        total = gradients.sum(dim=1, keepdim=True)
        work = gradients * pixels
        product = scale * (work.sum(dim=1, keepdim=True) - mean * total)

        def group_mean(values: Tensor) -> Tensor:
            grouped = (values * weight).view(len(values), groups, size).mean(dim=2) / (rows * cols)
            spread: Tensor = grouped.repeat_interleave(size, dim=1)[:, None]
            return spread

        slope = -(scale**2) * group_mean(product)
        offset = -scale * group_mean(total) - mean * slope
        torch.addcmul(offset, pixels, slope, out=work)
        work.addcmul_(gradients, scale * weight)
        for_images = work.view(len(work), rows, cols, -1).permute(0, 3, 1, 2)
        return for_images, None, product.sum(dim=(0, 1)), total.sum(dim=(0, 1))

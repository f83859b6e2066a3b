"""Doubling and halving of images with the filter [1, 3, 3, 1], as plain torch operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from srmri_model.types import Features

_TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
FIR = torch.outer(_TAPS, _TAPS)
"""The two-dimensional filter; its sum is 1."""


def _per_channel(images: Tensor) -> Tensor:
    return FIR.to(images).expand(images.shape[1], 1, 4, 4)


def fir_downsample(images: Features) -> Features:
    """Filter and keep every second pixel; zeros are assumed outside.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Height and width are even.

    Returns
    -------
    (B, C, H/2, W/2) Tensor
        Images of half the size.
    """
    return F.conv2d(images, _per_channel(images), stride=2, padding=1, groups=images.shape[1])


def fir_upsample(images: Features) -> Features:
    """Put zeros between pixels and filter, with a gain of 4; zeros are assumed outside.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Images of any size.

    Returns
    -------
    (B, C, 2H, 2W) Tensor
        Images of twice the size.
    """
    kernel = 4 * _per_channel(images)
    return F.conv_transpose2d(images, kernel, stride=2, padding=1, groups=images.shape[1])


def conv_fir_downsample(images: Features, weight: Tensor, bias: Tensor | None) -> Features:
    """Filter, then apply a 3×3 convolution to every second pixel; zeros are assumed outside.

    Parameters
    ----------
    images : (B, C, H, W) Tensor
        Height and width are even.
    weight : (D, C, 3, 3) Tensor
        The convolution.
    bias : (D,) Tensor, optional
        Added to its result.

    Returns
    -------
    (B, D, H/2, W/2) Tensor
        Images of half the size.
    """
    filtered = F.conv2d(images, _per_channel(images), padding=2, groups=images.shape[1])
    return F.conv2d(filtered, weight, bias, stride=2)

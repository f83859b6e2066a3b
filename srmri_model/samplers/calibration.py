"""How far denoised images are from the truth, measured on images that are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srmri_model.operators import SeparableOperator
from srmri_model.samplers.problem import Denoises, Noise
from srmri_model.samplers.variance import VarianceTable
from srmri_model.types import ImagesOrVolumes, Planes


@torch.no_grad()
def measure_variance(
    denoiser: Denoises,
    truth: ImagesOrVolumes,
    operator: SeparableOperator,
    sigmas: Sequence[float],
    *,
    generator: Noise,
    mask: Tensor | None = None,
    plane: Planes | None = None,
) -> VarianceTable:
    """Measure the variance `fast` needs, per pixel and as an operator sees it.

    Parameters
    ----------
    denoiser : callable
        The network.
    truth : (B, 1, *size) Tensor
        Images the network was not trained on.
    operator : SeparableOperator
        H.
    sigmas : sequence of float
        Noise levels, ascending.
    generator : callable
        Source of white noise for as many images.
    mask : (B, 1, *size) Tensor of bool, optional
        Where to measure; by default everywhere. Images with an empty background need it: their
        mean error is that of the background.
    plane : (B,) Tensor, optional
        Plane of each image, for a network with plane label.

    Returns
    -------
    VarianceTable
        With both columns.
    """
    inside = torch.ones_like(truth) if mask is None else mask.to(truth)
    share = float(inside.mean())
    pixel, seen = [], []
    for sigma in sigmas:
        noisy = truth + sigma * generator(tuple(truth.shape[1:]))
        error = inside * (truth - denoiser(noisy, sigma, plane))
        pixel.append(float(error.square().mean()) / share)
        # White noise of variance 1 in that share of the pixels would give share × gain².
        of_white = share * operator.noise_gain**2
        seen.append(float(operator.forward(error).square().mean()) / of_white)
    return VarianceTable(tuple(sigmas), tuple(pixel), tuple(seen))

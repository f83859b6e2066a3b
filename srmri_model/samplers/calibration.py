"""How far denoised images are from the truth, measured on images that are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
    plane : (B,) Tensor, optional
        Plane of each image, for a network with plane label.

    Returns
    -------
    VarianceTable
        With both columns.
    """
    pixel, seen = [], []
    for sigma in sigmas:
        noisy = truth + sigma * generator(tuple(truth.shape[1:]))
        error = truth - denoiser(noisy, sigma, plane)
        pixel.append(float(error.square().mean()))
        # What white noise of variance 1 would give is the square of the noise gain.
        seen.append(float(operator.forward(error).square().mean()) / operator.noise_gain**2)
    return VarianceTable(tuple(sigmas), tuple(pixel), tuple(seen))

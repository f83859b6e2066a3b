"""Noise levels: those training draws, and grids to sample and to measure on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from srmri_model.networks import NetworkConfig, sigma_at
from srmri_model.types import Sigmas

T_MIN = 1e-5
"""Smallest time of the variance-exploding process that is trained on."""


@dataclass(frozen=True)
class LogNormal:
    """Noise levels that are dense where images are neither plain nor lost: ln σ ~ N(mean, std²).

    Parameters
    ----------
    mean, std : float
        Of ln σ.

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based
    generative models, NeurIPS 2022, table 1.
    """

    mean: float
    std: float


def training_sigmas(
    config: NetworkConfig, uniform: Sigmas, distribution: LogNormal | None = None
) -> Sigmas:
    """Turn uniform numbers into the noise levels of a training batch.

    Parameters
    ----------
    config : NetworkConfig
        Gives the range of σ.
    uniform : (B,) Tensor
        In [0, 1).
    distribution : LogNormal, optional
        Cut off at the ends of the range. By default the paper's t ~ U(1e-5, 1) of the
        variance-exploding process, in which ln σ is uniform.

    Returns
    -------
    (B,) Tensor
        σ, increasing with `uniform`.

    Examples
    --------
    >>> config = NetworkConfig(nf=4, sigma_min=0.01, sigma_max=1.0)
    >>> [round(s, 3) for s in training_sigmas(config, torch.tensor([0.0, 0.5])).tolist()]
    [0.01, 0.1]
    """
    if distribution is None:
        return sigma_at(config, T_MIN + (1 - T_MIN) * uniform)
    mean, std = distribution.mean, distribution.std
    ends = torch.tensor([config.sigma_min, config.sigma_max], dtype=torch.float64).log()
    low, high = torch.special.ndtr((ends - mean) / std).tolist()
    log_sigma = mean + std * torch.special.ndtri(low + (high - low) * uniform.double())
    sigma: Sigmas = log_sigma.clamp(float(ends[0]), float(ends[1])).exp().float()
    return sigma


def geometric_levels(sigma_min: float, sigma_max: float, count: int) -> list[float]:
    """Return levels of equal ratio, ascending.

    Parameters
    ----------
    sigma_min, sigma_max : float
        First and last level, > 0.
    count : int
        How many, at least 2.

    Returns
    -------
    list of float
        The levels.

    Examples
    --------
    >>> [round(s, 6) for s in geometric_levels(0.01, 1.0, 3)]
    [0.01, 0.1, 1.0]
    """
    step = math.log(sigma_max / sigma_min) / (count - 1)
    return [sigma_min * math.exp(step * n) for n in range(count)]


def karras_levels(
    sigma_min: float, sigma_max: float, count: int, *, rho: float = 7.0
) -> list[float]:
    """Return the levels of a sampler, descending, with 0 at the end.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Last level before 0, and first level.
    count : int
        Levels before the final 0, at least 2.
    rho : float
        How much the levels crowd at the small end.

    Returns
    -------
    list of float
        ``count + 1`` levels.

    References
    ----------
    Karras et al. 2022, equation 5.

    Examples
    --------
    >>> [round(s, 3) for s in karras_levels(0.01, 1.0, 3)]
    [1.0, 0.145, 0.01, 0.0]
    """
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(first + n / (count - 1) * (last - first)) ** rho for n in range(count)] + [0.0]

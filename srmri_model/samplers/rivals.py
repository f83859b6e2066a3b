"""Two well-known samplers with few evaluations and no gradients, written from their papers.

Both papers scale images down as noise grows; here, as everywhere in srmri, noise is added to
images that keep their scale, which is the same after division.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch

from srmri_model.samplers.problem import Level, Problem, norms, per_image
from srmri_model.samplers.settings import DDNM, DiffPIR, Settings
from srmri_model.sde import karras_levels


def ddnm(problem: Problem, settings: DDNM) -> Iterator[Level]:
    """Replace what H sees of the denoised image by the measurement, as far as noise allows.

    The measurement's noise is taken for part of the level's own: its share is left out of the
    noise that is added, and where that is not enough the measurement counts less.

    Parameters
    ----------
    problem : Problem
        What to sample.
    settings : DDNM
        Levels.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    Y. Wang, J. Yu, J. Zhang, Zero-shot image restoration using denoising diffusion null-space
    model, ICLR 2023: algorithm 1, and section 3.3 (DDNM+) with multiples of the identity for
    Σ and Φ.
    """
    operator, m = problem.operator, math.prod(problem.operator.low_shape)
    # Standard deviation of what H† makes of the measurement's noise, per component that H sees.
    copied = operator.pseudo_inverse(problem.white_low())
    noise = per_image(problem.sigma_y, copied) * norms(copied) / m**0.5
    x = settings.sigma_max * problem.white()
    for sigma, below in _descent(settings):
        denoised = problem.denoise(x, sigma)
        kept = (below / sigma) ** 2
        added = below * (1 - kept) ** 0.5
        inherited = (1 - kept) * noise
        share = torch.where(inherited <= added, 1.0, added / inherited)
        missing = problem.measurement - operator.forward(denoised)
        clean = denoised + share * operator.pseudo_inverse(missing)
        x = clean + kept * (x - clean)
        if below:
            x = x + (added**2 - (share * inherited) ** 2).clamp(min=0).sqrt() * problem.white()
        yield Level(sigma, x, clean)


def diffpir(problem: Problem, settings: DiffPIR) -> Iterator[Level]:
    """Weigh the denoised image against the measurement, and keep part of the level's noise.

    Parameters
    ----------
    problem : Problem
        What to sample.
    settings : DiffPIR
        Levels, λ and ζ.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    Y. Zhu et al., Denoising diffusion models for plug-and-play image restoration, CVPR workshop
    NTIRE 2023, algorithm 1.
    """
    x = settings.sigma_max * problem.white()
    for sigma, below in _descent(settings):
        denoised = problem.denoise(x, sigma)
        trusted = sigma / settings.weight**0.5
        clean = problem.operator.prox(denoised, problem.measurement, problem.sigma_y, trusted)
        old = (x - clean) / sigma
        x = clean
        if below:
            new = settings.zeta**0.5 * problem.white()
            x = clean + below * ((1 - settings.zeta) ** 0.5 * old + new)
        yield Level(sigma, x, clean)


def _descent(settings: Settings) -> Iterator[tuple[float, float]]:
    levels = karras_levels(settings.sigma_min, settings.sigma_max, settings.steps)
    return itertools.pairwise(levels)

"""The default sampler: denoise, draw from the exact posterior around it, add less noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch import Tensor

from srmri_data.errors import UsageError
from srmri_model.samplers.problem import Level, Problem, per_image
from srmri_model.samplers.settings import Fast
from srmri_model.samplers.variance import Variance
from srmri_model.sde import karras_levels
from srmri_model.types import ImagesOrVolumes


def fast(problem: Problem, settings: Fast) -> Iterator[Level]:
    """Alternate between a clean draw given the measurement, and new noise of a lower level.

    If x is the truth with noise σ, given y, then a draw of the truth given x and y is a posterior
    sample, and with new noise σ' it is the same again one level lower. The one approximation is
    that the truth given x lies about the denoised image as white noise.

    At every other level the network is shown the mirror image, where that is as likely: what it
    does better on one side than on the other then does not add up.

    Parameters
    ----------
    problem : Problem
        What to sample, with its variance.
    settings : Fast
        Levels.

    Yields
    ------
    Level
        After each noise level.

    Raises
    ------
    UsageError
        If the problem has no variance.
    """
    if problem.variance is None:
        raise UsageError(
            "the sampler fast needs to know how well the network denoises",
            hint="give the table v(sigma) kept with the checkpoint",
        )
    x = problem.operator.up(problem.measurement) + settings.sigma_max * problem.white()
    levels = karras_levels(settings.sigma_min, settings.sigma_max, settings.steps)
    for n, (sigma, below) in enumerate(itertools.pairwise(levels)):
        denoised = problem.denoise(x, sigma, mirrored=settings.mirror and n % 2 == 0)
        clean = data_step(problem, denoised, problem.variance(sigma))
        x = clean + below * problem.white() if below else clean
        yield Level(sigma, x, clean)


def data_step(problem: Problem, denoised: ImagesOrVolumes, variance: Variance) -> ImagesOrVolumes:
    """Draw images about the denoised ones that explain the measurement, exactly.

    With the truth about d as white noise of standard deviation r, the minimiser z of
    ‖Hz − (y + σ_y e1)‖² / 2σ_y² + ‖z − (d + r e2)‖² / 2r² is a posterior sample.

    Parameters
    ----------
    problem : Problem
        Measurement, operator and noise.
    denoised : (B, 1, *size) Tensor
        d.
    variance : Variance
        r². Two numbers stand for white noise of variance `seen` among what H sees and `pixel`
        in its null space.

    Returns
    -------
    (B, 1, *size) Tensor
        z.

    References
    ----------
    G. Papandreou, A. Yuille, Gaussian sampling by local perturbations, NIPS 2010.
    """
    operator, sigma_y = problem.operator, problem.sigma_y
    measured = problem.measured(denoised) + per_image(sigma_y, denoised) * problem.white_low()
    noise = problem.white()
    free = seen = variance.pixel**0.5
    drawn = denoised + free * noise
    if variance.seen is not None:
        seen = variance.seen**0.5
        drawn = drawn + operator.pseudo_inverse(operator.forward((seen - free) * noise))
    if isinstance(seen, Tensor):
        return operator.prox_map(drawn, measured, sigma_y, seen)
    return operator.prox(drawn, measured, sigma_y, seen)

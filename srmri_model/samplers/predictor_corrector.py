"""Samplers that follow the variance-exploding process down: the paper's and its relatives.

All share one predictor and one corrector; they differ in what they do with the measurement
between the two. Levels are numbered as in the papers: i from N to 1, then σ_0 = 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch

from srmri_data.choices import MisfitNorm
from srmri_model.samplers.problem import Level, Problem, norms
from srmri_model.samplers.settings import Guided, Paper, PredictorCorrector
from srmri_model.sde import geometric_levels
from srmri_model.types import ImagesOrVolumes
from srmri_model.wavelets import WaveletFusion


def unconditional(problem: Problem, settings: PredictorCorrector) -> Iterator[Level]:
    """Draw from the prior alone, by predictor and corrector.

    Parameters
    ----------
    problem : Problem
        Its measurement gives no more than the number of images.
    settings : PredictorCorrector
        Levels and the corrector.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    Y. Song et al., Score-based generative modeling through stochastic differential equations,
    ICLR 2021, algorithm 2.
    """
    x = _start(problem, settings)
    for _, sigma, below in _descent(settings):
        step = _predict(problem, x, sigma, below)
        x = _correct(problem, step.predicted, below, settings)
        yield _level(sigma, below, x, step)


def score_sde(problem: Problem, settings: PredictorCorrector) -> Iterator[Level]:
    """Replace what H sees by the noised measurement, after predictor and corrector.

    Parameters
    ----------
    problem : Problem
        What to sample; its σ_y is not used.
    settings : PredictorCorrector
        Levels and the corrector.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    Song et al. 2021, appendix I.2; with y + σ H z as the noised measurement.
    """
    x = _start(problem, settings)
    for _, sigma, below in _descent(settings):
        step = _predict(problem, x, sigma, below)
        x = _project(problem, step.predicted, below)
        if below:
            x = _project(problem, _correct(problem, x, below, settings), below)
        yield _level(sigma, below, x, step)


def dps(problem: Problem, settings: Guided) -> Iterator[Level]:
    """Follow the gradient of the misfit of the denoised image at every level.

    Parameters
    ----------
    problem : Problem
        What to sample; its σ_y is not used.
    settings : Guided
        Levels, the corrector, and the gradient's step.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    H. Chung et al., Diffusion posterior sampling for general noisy inverse problems, ICLR 2023.
    """
    x = _start(problem, settings)
    for _, sigma, below in _descent(settings):
        step = _predict(problem, x, sigma, below, differentiable=True)
        x = _descend(problem, step, settings)
        x = _correct(problem, x, below, settings)
        yield _level(sigma, below, x, step)


def mcg(problem: Problem, settings: Guided) -> Iterator[Level]:
    """Follow the gradient, then replace what H sees by the noised measurement.

    Parameters
    ----------
    problem : Problem
        What to sample; its σ_y is not used.
    settings : Guided
        Levels, the corrector, and the gradient's step.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    H. Chung et al., Improving diffusion models for inverse problems using manifold constraints,
    NeurIPS 2022; with y + σ H z as the noised measurement.
    """
    x = _start(problem, settings)
    for _, sigma, below in _descent(settings):
        step = _predict(problem, x, sigma, below, differentiable=True)
        x = _project(problem, _descend(problem, step, settings), below)
        x = _correct(problem, x, below, settings)
        yield _level(sigma, below, x, step)


def paper(problem: Problem, settings: Paper) -> Iterator[Level]:
    """Follow the gradient at every k-th level and fuse wavelets at the others.

    The gradient goes through the predictor's own evaluation of the network.

    Parameters
    ----------
    problem : Problem
        What to sample; its σ_y is not used.
    settings : Paper
        Everything else.

    Yields
    ------
    Level
        After each noise level.

    References
    ----------
    The SRMRI paper, algorithm 1 and equation 8.
    """
    fuse = WaveletFusion(
        problem.operator.high_shape, settings.wavelet, settings.level, settings.mode
    )
    target = problem.operator.up(problem.measurement)
    x = _start(problem, settings)
    for i, sigma, below in _descent(settings):
        by_gradient = settings.k > 0 and i % settings.k == 0
        step = _predict(problem, x, sigma, below, differentiable=by_gradient)
        x = step.predicted
        if by_gradient:
            x = _descend(problem, step, settings)
        elif settings.fusion:
            noised = target + below * problem.white() if settings.match_noise else target
            x = fuse(x, noised)
        x = _correct(problem, x, below, settings)
        yield _level(sigma, below, x, step)


class _Step(NamedTuple):
    """One evaluation of the network: where, what it gave, and where the predictor went."""

    x: ImagesOrVolumes
    denoised: ImagesOrVolumes
    predicted: ImagesOrVolumes


def _start(problem: Problem, settings: PredictorCorrector) -> ImagesOrVolumes:
    return settings.sigma_max * problem.white()


def _descent(settings: PredictorCorrector) -> Iterator[tuple[int, float, float]]:
    """Yield i, σ_i and σ_{i-1} for i from N to 1."""
    levels = geometric_levels(settings.sigma_min, settings.sigma_max, settings.steps)
    numbers = range(settings.steps, 0, -1)
    for i, (sigma, below) in zip(
        numbers, itertools.pairwise([*reversed(levels), 0.0]), strict=True
    ):
        yield i, sigma, below


def _level(sigma: float, below: float, x: ImagesOrVolumes, step: _Step) -> Level:
    return Level(sigma, x, step.denoised.detach() if below else x)


def _predict(
    problem: Problem,
    x: ImagesOrVolumes,
    sigma: float,
    below: float,
    *,
    differentiable: bool = False,
) -> _Step:
    """Reverse diffusion: x + (σ² − σ'²) s + √(σ² − σ'²) z, without noise to σ' = 0."""
    with torch.set_grad_enabled(differentiable):
        x = x.detach().requires_grad_(differentiable)
        denoised = problem.denoise(x, sigma)
    fall = sigma**2 - below**2
    predicted = x.detach() + fall / sigma**2 * (denoised - x).detach()
    if below:
        predicted = predicted + fall**0.5 * problem.white()
    return _Step(x, denoised, predicted)


def _correct(
    problem: Problem, x: ImagesOrVolumes, sigma: float, settings: PredictorCorrector
) -> ImagesOrVolumes:
    """Langevin steps of a length that gives every image its signal-to-noise ratio."""
    if sigma == 0:
        return x
    for _ in range(settings.corrections):
        score = (problem.denoise(x, sigma) - x) / sigma**2
        noise = problem.white()
        length = 2 * (settings.snr * norms(noise) / norms(score)) ** 2
        x = x + length * score + (2 * length).sqrt() * noise
    return x


def _descend(problem: Problem, step: _Step, settings: Guided) -> ImagesOrVolumes:
    gradient = misfit_gradient(problem, step.x, step.denoised, settings.norm)
    return step.predicted - settings.rho * gradient


def misfit_gradient(
    problem: Problem, x: ImagesOrVolumes, denoised: ImagesOrVolumes, norm: MisfitNorm
) -> ImagesOrVolumes:
    """Gradient of each image's misfit through the network.

    Parameters
    ----------
    problem : Problem
        Measurement and operator.
    x : (B, 1, *size) Tensor
        Noisy images, that require gradients.
    denoised : (B, 1, *size) Tensor
        What the network made of them.
    norm : {"squared", "l2"}
        ‖y − H x̂0‖² or ‖y − H x̂0‖.

    Returns
    -------
    (B, 1, *size) Tensor
        Gradient with respect to x.
    """
    with torch.enable_grad():
        residual = (problem.measurement - problem.operator.forward(denoised)).flatten(1)
        misfit = residual.square().sum(dim=1) if norm == "squared" else residual.norm(dim=1)
        # An image's misfit depends on that image alone: the sum's gradient is every image's own.
        (gradient,) = torch.autograd.grad(misfit.sum(), x)
    return gradient


def _project(problem: Problem, x: ImagesOrVolumes, sigma: float) -> ImagesOrVolumes:
    """Replace what H sees of images at level σ by the measurement at that level."""
    missing = problem.noised_measurement(sigma) - problem.operator.forward(x)
    return x + problem.operator.pseudo_inverse(missing)

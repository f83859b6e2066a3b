"""One call for every sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float32
from torch import Tensor

from srmri_data.choices import SamplerName
from srmri_data.errors import SamplingError, UsageError
from srmri_model.operators import SeparableOperator
from srmri_model.samplers.fast import fast
from srmri_model.samplers.predictor_corrector import dps, mcg, paper, score_sde, unconditional
from srmri_model.samplers.problem import Counted, Denoises, Level, Noise, Problem
from srmri_model.samplers.rivals import ddnm, diffpir
from srmri_model.samplers.settings import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    Paper,
    PredictorCorrector,
    Settings,
)
from srmri_model.samplers.variance import Variance
from srmri_model.types import ImagesOrVolumes, Measurements, Planes, Sigmas

Residuals: TypeAlias = Float32[Tensor, "level batch"]


class Sampler(NamedTuple):
    """A sampler and what can be chosen about it.

    Attributes
    ----------
    settings : Settings
        Its defaults; the sampler takes others of the same class.
    levels : callable
        ``levels(problem, settings)`` yields a `Level` per noise level.
    """

    settings: Settings
    levels: Callable[[Problem, Any], Iterator[Level]]


SAMPLERS: Mapping[SamplerName, Sampler] = MappingProxyType(
    {
        "fast": Sampler(Fast(), fast),
        "paper": Sampler(Paper(), paper),
        "dps": Sampler(Guided(), dps),
        "mcg": Sampler(Guided(), mcg),
        "score-sde": Sampler(PredictorCorrector(), score_sde),
        "pc": Sampler(PredictorCorrector(), unconditional),
        "ddnm": Sampler(DDNM(), ddnm),
        "diffpir": Sampler(DiffPIR(), diffpir),
    }
)
"""Every sampler, the default first."""


class SamplingStopped(Exception):  # noqa: N818 - nothing went wrong
    """Sampling was told to stop; there is no image."""


@dataclass(frozen=True)
class Trace:
    """What a sampler did.

    Parameters
    ----------
    sampler : str
        Its name.
    settings : Settings
        What was chosen.
    sigmas : tuple of float
        Noise levels it left, descending.
    residuals : (levels, B) Tensor
        Root mean square of H x̂ − y in image units, of the estimate x̂ at each level; the last
        row is that of the images returned.
    nfe, nbe : int
        Evaluations of the denoiser per image, forward and backward.
    """

    sampler: SamplerName
    settings: Settings
    sigmas: tuple[float, ...]
    residuals: Residuals
    nfe: int
    nbe: int

    def to_json(self) -> dict[str, Any]:
        """Return the trace as plain JSON types.

        Returns
        -------
        dict
            The fields.
        """
        return {
            "sampler": self.sampler,
            "settings": asdict(self.settings),
            "sigmas": list(self.sigmas),
            "residuals": self.residuals.tolist(),
            "nfe": self.nfe,
            "nbe": self.nbe,
        }


def sample(
    name: SamplerName,
    denoiser: Denoises,
    measurement: Measurements,
    operator: SeparableOperator,
    *,
    sigma_y: Sigmas | float,
    generator: Noise,
    settings: Settings | None = None,
    variance: Callable[[float], Variance] | None = None,
    plane: Planes | None = None,
    no_signal: float | None = None,
    mirror: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[ImagesOrVolumes, Trace]:
    """Draw images that a denoiser finds likely and that explain a measurement.

    Images of a batch have nothing to do with each other: each has its own noise, norms and
    step sizes. Works on volumes as well, with an operator on three axes and a denoiser that
    takes them.

    Parameters
    ----------
    name : str
        A key of `SAMPLERS`.
    denoiser : callable
        ``denoiser(x, sigma, plane)``, such as `srmri_model.networks.Denoiser`.
    measurement : (B, 1, *low_size) Tensor
        LR images in the units of the denoiser.
    operator : SeparableOperator
        H, on the device of the measurement.
    sigma_y : float or (B,) Tensor
        Standard deviation of the measurement's noise, in the same units.
    generator : callable
        ``generator(shape)`` gives white noise (B, *shape), such as `ImageNoise`: the same noise
        gives the same images.
    settings : Settings, optional
        Of the class of those in `SAMPLERS`; by default those.
    variance : callable, optional
        ``variance(sigma)``: how far denoised images are from the truth, such as a
        `VarianceTable`; `fast` needs it, the others do not use it.
    plane : (B,) Tensor, optional
        Plane of each image, for a network with plane label.
    no_signal : float, optional
        For measurements that are magnitudes: the value of no signal. Only `fast` uses it.
    mirror : int, optional
        Dimension along which left and right lie, counted from the last (−1), where images and
        their mirror images are as likely. Only `fast` uses it.
    progress : callable, optional
        Called as ``progress(done, total)`` after every level.
    stop : callable, optional
        Asked before every level; True stops.

    Returns
    -------
    image : (B, 1, *high_size) Tensor
        One draw per measurement.
    trace : Trace
        What was done.

    Raises
    ------
    UsageError
        If there is no such sampler, or its settings are another's.
    SamplingError
        If the images leave the numbers.
    SamplingStopped
        If `stop` said so.

    Examples
    --------
    >>> import torch
    >>> from srmri_model.operators import make_operator
    >>> from srmri_model.samplers import ImageNoise
    >>> def denoiser(x, sigma, plane=None):  # of images that are white noise
    ...     return x / (1 + sigma**2)
    >>> operator = make_operator("box", (8, 8), 2)
    >>> image, trace = sample(
    ...     "fast", denoiser, torch.ones(3, 1, 4, 4), operator, sigma_y=0.1,
    ...     generator=ImageNoise(0, [(0,), (1,), (2,)]),
    ...     variance=lambda sigma: Variance(sigma**2 / (1 + sigma**2)),
    ... )
    >>> image.shape, trace.nfe, trace.nbe
    (torch.Size([3, 1, 8, 8]), 20, 0)
    """
    if name not in SAMPLERS:
        raise UsageError(f"unknown sampler {name!r}; expected one of {', '.join(SAMPLERS)}")
    default, levels = SAMPLERS[name]
    settings = default if settings is None else settings
    if type(settings) is not type(default):
        raise UsageError(
            f"the sampler {name} takes settings of type {type(default).__name__}; "
            f"found {type(settings).__name__}"
        )
    counted = Counted(denoiser)
    problem = Problem(
        counted, measurement, operator, sigma_y, generator, plane, variance, no_signal, mirror
    )
    sigmas: list[float] = []
    residuals: list[Tensor] = []
    descent = levels(problem, settings)
    with torch.no_grad():
        while len(sigmas) < settings.steps:
            if stop is not None and stop():
                raise SamplingStopped
            sigma, x, estimate = next(descent)
            sigmas.append(sigma)
            residuals.append(problem.misfit(estimate))
            if not torch.isfinite(residuals[-1]).all():
                raise SamplingError(
                    f"the sampler {name} left the numbers at σ = {sigma:g}, "
                    f"level {len(sigmas)} of {settings.steps}",
                    hint="a smaller rho, or more steps; see docs/samplers.md",
                )
            if progress is not None:
                progress(len(sigmas), settings.steps)
    trace = Trace(
        name, settings, tuple(sigmas), torch.stack(residuals), counted.forward, counted.backward
    )
    return x, trace

"""What a run would cost on this machine: one timed step, and how many there are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srmri_data.choices import SamplerName
from srmri_model.operators import make_operator
from srmri_model.samplers import ImageNoise, Settings, Variance, sample
from srmri_model.training.estimate import time_text
from srmri_model.upsampling.denoising import OnSlices
from srmri_model.upsampling.draw import Drawing, prepare
from srmri_model.upsampling.memory import BASE_BYTES
from srmri_model.upsampling.plan import UpsamplePlan
from srmri_model.upsampling.workers import Stopped


def estimate(
    plan: UpsamplePlan, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Estimate time, memory and disk; the voxels are not read and nothing is written.

    Parameters
    ----------
    plan : UpsamplePlan
        What would be done.
    clock : callable
        Seconds.

    Returns
    -------
    dict
        The plan, ``seconds``, ``memory_bytes``, ``free_bytes``, ``disk_bytes``, ``nfe``, ``nbe``,
        ``evaluations``, ``tile``, and ``lines`` of label and text for people.
    """
    drawing, memory, about_memory = prepare(
        plan, sigma_y=0.05, tissue=np.ones(plan.low_shape, dtype=bool)
    )
    config = plan.config
    nfe, nbe = count_evaluations(plan.config.sampler, drawing.settings)
    per_plane = [
        _seconds_of_slice(drawing, denoiser, gradients=nbe > 0, clock=clock)
        for denoiser in drawing.on_planes()
    ]
    slices = [frame.shape[0] for frame in plan.frames]
    if config.planes == "single":
        evaluations = config.samples * slices[0] * nfe
        seconds = config.samples * slices[0] * sum(per_plane[0](nfe, nbe))
        parts = config.samples
    else:
        turns = [len(range(turn, nfe, len(slices))) for turn in range(len(slices))]
        evaluations = config.samples * sum(n * t for n, t in zip(slices, turns, strict=True))
        seconds = config.samples * sum(
            n * per_plane[turn](turns[turn], 0)[0] for turn, n in enumerate(slices)
        )
        seconds += config.samples * nfe * _seconds_of_data_step(drawing, clock=clock)
        parts = config.samples + nfe
    disk = parts * 4 * math.prod(plan.high_shape)
    total = BASE_BYTES + memory["total_bytes"]
    high = " × ".join(str(n) for n in plan.high_shape)
    lines = [
        ("result", f"{high} voxels"),
        ("evaluations", f"{evaluations:,} of the network, each of one slice"),
        ("time", time_text(seconds)),
        ("memory", f"{total / 1e9:.2f} GB, {memory['free_bytes'] / 1e9:.2f} GB are free"),
        ("tiles", f"{memory['tile']} pixels" if memory["tile"] else "none: whole slices"),
        ("disk", f"{disk / 1e9:.2f} GB until it is complete"),
        *(("warning", text) for text in (*plan.warnings, *plan.objections, *about_memory)),
    ]
    return {
        **plan.describe(),
        "seconds": round(seconds, 3),
        "memory_bytes": total,
        "free_bytes": memory["free_bytes"],
        "disk_bytes": disk,
        "nfe": nfe,
        "nbe": nbe,
        "evaluations": evaluations,
        "tile": memory["tile"],
        "lines": lines,
    }


def count_evaluations(sampler: SamplerName, settings: Settings) -> tuple[int, int]:
    """Count evaluations of the network per image, forward and backward, on an image of nothing.

    Parameters
    ----------
    sampler : str
        Its name.
    settings : Settings
        Its settings.

    Returns
    -------
    nfe, nbe : int
        The counts.

    Examples
    --------
    >>> from srmri_model.samplers import Guided
    >>> count_evaluations("dps", Guided(steps=10))
    (19, 10)
    """

    def denoiser(x: Tensor, sigma: Tensor | float, plane: Tensor | None = None) -> Tensor:
        del plane
        return x / (1 + float(sigma) ** 2)

    _, trace = sample(
        sampler,
        denoiser,
        torch.zeros(1, 1, 8, 8),
        make_operator("box", (16, 16), 2),
        sigma_y=0.1,
        generator=ImageNoise(0, [(0,)]),
        settings=settings,
        variance=lambda sigma: Variance(sigma**2 / (1 + sigma**2)),
    )
    return trace.nfe, trace.nbe


def _seconds_of_slice(
    drawing: Drawing, denoiser: OnSlices, *, gradients: bool, clock: Callable[[], float]
) -> Callable[[int, int], tuple[float, float]]:
    """Time the network on one slice; returns seconds of so many evaluations and data steps.

    Every worker has a slice of its own meanwhile, as it will have.
    """
    axes = denoiser.axes
    size = [drawing.plan.high_shape[axis] for axis in axes[1:]]
    x = torch.rand(1, 1, *size, device=drawing.device)
    operator = drawing.operator(axes[1:])
    low = operator.forward(x)

    workers = drawing.workers

    def evaluate(backward: bool, _stopped: Stopped) -> float:
        noisy = x.clone().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            denoised = denoiser(noisy, 0.1)
        if backward:
            torch.autograd.grad(denoised.sum(), noisy)
        return denoised.sum().item()

    def data_step(_n: int, _stopped: Stopped) -> float:
        return operator.prox(x, low, 0.1, 0.1).sum().item()

    def timed(function: Callable[[Any, Stopped], float], argument: Any) -> float:
        began = clock()
        for _ in workers.each(function, [argument] * workers.count):
            pass
        return (clock() - began) / workers.count

    timed(evaluate, False)
    forward, step = timed(evaluate, False), timed(data_step, 0)
    backward = max(0.0, timed(evaluate, True) - forward) if gradients else 0.0
    return lambda nfe, nbe: (nfe * forward, nbe * backward + nfe * step)


def _seconds_of_data_step(drawing: Drawing, *, clock: Callable[[], float]) -> float:
    operator = drawing.operator()
    x = torch.rand(1, 1, *drawing.plan.high_shape, device=drawing.device)
    low = operator.forward(x)
    began = clock()
    operator.prox(x, low, 0.1, 0.1).sum().item()
    return clock() - began

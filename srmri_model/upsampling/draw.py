"""Volumes drawn from the posterior, slice by slice or whole, from parts that are kept."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srmri_data.choices import ANATOMICAL
from srmri_data.errors import UsageError
from srmri_model.checkpoints import load_denoiser
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.samplers import (
    SAMPLERS,
    Denoises,
    ImageNoise,
    Settings,
    Trace,
    Variance,
    VarianceTable,
    sample,
    two_valued,
    within,
)
from srmri_model.training.domain import denoising_residual, judge_residuals
from srmri_model.training.ranks import local_device
from srmri_model.training.validation import spread
from srmri_model.upsampling.denoising import InTurn, OnSlices, Tiled, mirror_of
from srmri_model.upsampling.measure import Measured
from srmri_model.upsampling.memory import SHARE, choose_tile, denoising_bytes, free_bytes
from srmri_model.upsampling.noise import SliceNoise, antithetic
from srmri_model.upsampling.parts import Parts
from srmri_model.upsampling.plan import (
    MIN_STD_SAMPLES,
    UpsamplePlan,
    background_table,
    nearest,
    noise_table,
)
from srmri_model.upsampling.trust import Mask, Voxels
from srmri_model.upsampling.workers import ALONE, Stopped, Workers, workers_for

Progress = Callable[[str, int, int], None]

_CHECKED_SLICES = 8
_NETWORK_MARGIN = 1.6
"""Memory of a forward pass over that of its tensors alive: workspaces and copies."""
_VOLUMES = {"single": 4, "3": 18}
"""HR volumes in memory at once: of slices; or a volume, its noise and its data step."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """Everything that draws from the posterior of a volume.

    Parameters
    ----------
    plan : UpsamplePlan
        Geometry and settings.
    denoiser : callable
        Of anatomical images of any size.
    sigma_y : float
        Standard deviation of the measurement's noise.
    settings : Settings
        Of the sampler.
    device : torch.device
        Where to compute.
    variance, background : VarianceTable, optional
        v(σ) in tissue and around it, for the sampler fast.
    tissue : (i, j, k) ndarray of bool, optional
        HR voxels in which tissue may be; without it all are taken for such.
    no_signal : float, optional
        Value of no signal where LR is taken for magnitudes.
    labels : bool
        Whether the network takes a plane label.
    workers : Workers
        Slices that are computed side by side on a processor.
    clock : callable
        Seconds.
    """

    plan: UpsamplePlan
    denoiser: Denoises
    sigma_y: float
    settings: Settings
    device: torch.device
    variance: VarianceTable | None = None
    background: VarianceTable | None = None
    tissue: Mask | None = None
    no_signal: float | None = None
    labels: bool = False
    workers: Workers = ALONE
    clock: Callable[[], float] = time.perf_counter

    @property
    def at_once(self) -> int:
        """Slices in a batch.

        On a processor workers are as fast, and change no bit.
        """
        return 1 if self.device.type == "cpu" else self.plan.config.batch

    def variance_in(
        self, slices: tuple[int, ...] | None = None, axes: Sequence[int] = (0, 1, 2)
    ) -> Callable[[float], Variance] | None:
        """Return v(σ) of the volume or of some of its slices.

        Parameters
        ----------
        slices : tuple of int, optional
            Numbers along the first of `axes`; None for the volume.
        axes : sequence of int
            Stored axes in the order of the images.

        Returns
        -------
        callable or None
            One number for all voxels, or a map; None if the checkpoint tells nothing.
        """
        if self.variance is None or self.background is None or self.tissue is None:
            return self.variance
        tissue = self.tissue.transpose(axes)
        images = tissue[None] if slices is None else tissue[list(slices)]
        mask = torch.from_numpy(np.ascontiguousarray(images))[:, None].to(self.device)
        return two_valued(self.variance, self.background, mask)

    def mirror(self, axes: Sequence[int] = (0, 1, 2)) -> int | None:
        """Return the dimension along which left and right lie; see `mirror_of`.

        Parameters
        ----------
        axes : sequence of int
            Stored axes of the images.

        Returns
        -------
        int or None
            Counted from the last (−1).
        """
        return mirror_of(self.plan.frames[0], axes)

    def on_planes(self, *, whole: bool = False) -> list[OnSlices]:
        """Put the network on the slices of each plane.

        Parameters
        ----------
        whole : bool
            Slices are given as whole stacks, so the network may be shown their neighbours.

        Returns
        -------
        list of OnSlices
            In the order of the plan's frames.
        """
        return [
            OnSlices(
                self.denoiser,
                frame,
                label=ANATOMICAL.index(frame.plane) if self.labels else None,
                at_once=self.at_once,
                neighbours=self.plan.network.neighbours if whole else 0,
                workers=self.workers,
            )
            for frame in self.plan.frames
        ]

    def operator(self, axes: Sequence[int] = (0, 1, 2)) -> SeparableOperator:
        """Build H.

        Parameters
        ----------
        axes : sequence of int
            Stored axes of the images it works on.

        Returns
        -------
        SeparableOperator
            On the device.
        """
        plan = self.plan
        made = make_operator(
            plan.config.operator,
            tuple(plan.high_shape[axis] for axis in axes),
            tuple(plan.factors[axis] for axis in axes),
            grid=plan.config.grid,
            width=plan.config.width,
        )
        return made.to(device=self.device)


def draw_volume(
    drawing: Drawing,
    low: Voxels,
    number: int,
    parts: Parts,
    *,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Voxels:
    """Draw one HR volume from the posterior.

    Slices and evaluations that are among the parts are taken from there, and new ones are added.

    Parameters
    ----------
    drawing : Drawing
        Model, measurement's noise and settings.
    low : (i, j, k) ndarray
        LR in [0, 1].
    number : int
        Which draw, from 0; noise is that of `antithetic`.
    parts : Parts
        Partial results.
    progress : callable
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    (i, j, k) ndarray
        HR in [0, 1], in stored order.
    """
    draw = _draw_slices if drawing.plan.config.planes == "single" else _draw_whole
    return draw(drawing, low, number, parts, progress)


def _draw_slices(
    drawing: Drawing, low: Voxels, number: int, parts: Parts, progress: Progress
) -> Voxels:
    config, settings = drawing.plan.config, drawing.settings
    (denoiser,) = drawing.on_planes()
    stack = torch.from_numpy(np.ascontiguousarray(low.transpose(denoiser.axes)))[:, None]
    operator = drawing.operator(denoiser.axes[1:])
    stage, total = _stage(drawing, number), len(stack) * settings.steps
    kept = {n: parts.read(f"s{number}-{n}") for n in range(len(stack))}
    images = {n: image for n, image in kept.items() if image is not None}
    missing = [n for n in kept if n not in images]
    done, lock = (len(stack) - len(missing)) * settings.steps, threading.Lock()
    progress(stage, done, total)

    def draw(slices: list[int], stopped: Stopped) -> tuple[Tensor, Trace]:
        def levels(_level: int, _of: int) -> None:
            nonlocal done
            with lock:
                done += len(slices)
                progress(stage, done, total)

        def noise_of(number: int) -> SliceNoise:
            return SliceNoise(
                config.seed,
                number,
                slices,
                correlation=config.z_correlation,
                device=drawing.device,
            )

        return sample(
            config.sampler,
            denoiser,
            stack[slices].to(drawing.device),
            operator,
            sigma_y=drawing.sigma_y,
            generator=antithetic(number, noise_of),
            settings=settings,
            variance=drawing.variance_in(tuple(slices), denoiser.axes),
            no_signal=drawing.no_signal,
            mirror=drawing.mirror(denoiser.axes[1:]),
            progress=levels,
            stop=stopped,
        )

    firsts = range(0, len(missing), drawing.at_once)
    batches = [missing[first : first + drawing.at_once] for first in firsts]
    began = drawing.clock()
    for slices, (drawn, trace) in drawing.workers.each(draw, batches):
        # First: where there is a part there are its counts.
        _note(parts, trace, drawing.clock() - began)
        began = drawing.clock()
        for n, image in zip(slices, drawn[:, 0].cpu().numpy(), strict=True):
            images[n] = image
            parts.write(f"s{number}-{n}", image)
    return np.stack([images[n] for n in range(len(stack))]).transpose(np.argsort(denoiser.axes))


def _draw_whole(
    drawing: Drawing, low: Voxels, number: int, parts: Parts, progress: Progress
) -> Voxels:
    config, stage = drawing.plan.config, _stage(drawing, number)

    def compute() -> Voxels:
        began = drawing.clock()

        def recall(n: int, evaluation: Callable[[], Tensor]) -> Tensor:
            array = parts.array(f"s{number}-eval{n}", lambda: evaluation().cpu().numpy())
            return torch.from_numpy(array).to(drawing.device)

        def noise_of(number: int) -> ImageNoise:
            return ImageNoise(config.seed, [(number,)], drawing.device)

        drawn, trace = sample(
            config.sampler,
            InTurn(drawing.on_planes(whole=True), recall),
            torch.from_numpy(np.ascontiguousarray(low))[None, None].to(drawing.device),
            drawing.operator(),
            sigma_y=drawing.sigma_y,
            generator=antithetic(number, noise_of),
            settings=drawing.settings,
            variance=drawing.variance_in(),
            no_signal=drawing.no_signal,
            mirror=drawing.mirror(),
            progress=lambda done, total: progress(stage, done, total),
        )
        _note(parts, trace, drawing.clock() - began)
        return np.asarray(drawn[0, 0].cpu().numpy())

    progress(stage, 0, drawing.settings.steps)
    volume = parts.array(f"s{number}-volume", compute)
    parts.forget(f"s{number}-eval")
    progress(stage, drawing.settings.steps, drawing.settings.steps)
    return volume


def _stage(drawing: Drawing, number: int) -> str:
    samples = drawing.plan.config.samples
    return "sampling" if samples == 1 else f"sample {number + 1} of {samples}"


def _note(parts: Parts, trace: Trace, seconds: float) -> None:
    so_far = parts.trace.get("seconds", 0.0)
    parts.note(nfe=trace.nfe, nbe=trace.nbe, seconds=so_far + seconds)


def sampler_settings(plan: UpsamplePlan) -> Settings:
    """Return the settings of the plan's sampler, within the levels of its checkpoint.

    Parameters
    ----------
    plan : UpsamplePlan
        Sampler, steps and further settings as text.

    Returns
    -------
    Settings
        Of the sampler's own class.

    Raises
    ------
    UsageError
        If it has no such setting, or a value is none of its.
    """
    defaults = SAMPLERS[plan.config.sampler].settings
    names = [f.name for f in fields(defaults) if f.name != "steps"]
    given: dict[str, Any] = {}
    for name, text in plan.config.settings.items():
        if name not in names:
            raise UsageError(
                f"--set {name}: the sampler {plan.config.sampler} has {', '.join(names)}"
            )
        default = getattr(defaults, name)
        try:
            if isinstance(default, bool):
                given[name] = {"true": True, "false": False}[text.lower()]
            else:
                given[name] = type(default)(text)
        except (ValueError, KeyError) as error:
            raise UsageError(f"--set {name}={text}: expected a value like {default}") from error
    if plan.config.steps is not None:
        given["steps"] = plan.config.steps
    return within(replace(defaults, **given), plan.network.sigma_max)


def prepare(
    plan: UpsamplePlan,
    *,
    sigma_y: float,
    tissue: Mask | None = None,
    no_signal: float | None = None,
    denoiser: Denoises | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Drawing, dict[str, Any], tuple[str, ...]]:
    """Load the model, and decide whether it sees slices whole or in tiles.

    Parameters
    ----------
    plan : UpsamplePlan
        Checkpoint and settings.
    sigma_y : float
        Standard deviation of the measurement's noise.
    tissue : (i, j, k) ndarray of bool, optional
        LR voxels at or near tissue (`Measured.around_tissue`).
    no_signal : float, optional
        Value of no signal where LR is taken for magnitudes (`Measured.no_signal`).
    denoiser : callable, optional
        Takes the place of the checkpoint's.
    clock : callable
        Seconds.

    Returns
    -------
    drawing : Drawing
        Ready to draw.
    memory : dict
        ``free_bytes``, ``network_bytes``, ``volume_bytes`` and their sum ``total_bytes``, ``tile``,
        and ``workers``, the slices computed side by side.
    warnings : tuple of str
        About memory.
    """
    config = plan.config
    settings = sampler_settings(plan)
    device = local_device(config.device)
    if device.type == "cpu":
        # A network computes its smallest numbers several times slower otherwise.
        torch.set_flush_denormal(True)
    found: Denoises = denoiser or load_denoiser(
        plan.weights, str(device), bf16=config.precision == "bf16"
    )
    table = noise_table(plan.metadata, config.planes)
    background = background_table(plan.metadata, config.planes)
    memory = _memory(plan, device)
    warnings = []
    if memory["tile"]:
        found = Tiled(found, memory["tile"])
        warnings.append(
            f"the network saw tiles of {memory['tile']} pixels, blended; whole slices would differ "
            "a little"
        )
    drawing = Drawing(
        plan=plan,
        denoiser=found,
        sigma_y=sigma_y,
        settings=settings,
        variance=None if table is None else VarianceTable(*table),
        background=None if background is None else VarianceTable(*background),
        tissue=None if tissue is None else nearest(plan, tissue),
        no_signal=no_signal,
        device=device,
        labels=plan.network.n_planes > 0,
        workers=memory["workers"],
        clock=clock,
    )
    if memory["total_bytes"] > memory["free_bytes"]:
        warnings.append(
            f"about {memory['total_bytes'] / 1e9:.1f} GB will be needed, and "
            f"{memory['free_bytes'] / 1e9:.1f} GB are free"
        )
    return drawing, memory, tuple(warnings)


def _memory(plan: UpsamplePlan, device: torch.device) -> dict[str, Any]:
    config, free = plan.config, free_bytes(device)
    gradients = config.keeps_gradients
    sizes = [frame.shape[1:] for frame in plan.frames]
    rows, cols = max(sizes, key=lambda size: size[0] * size[1])
    volume = 4 * math.prod(plan.high_shape)
    on_processor = _VOLUMES[config.planes] * volume
    if config.samples >= MIN_STD_SAMPLES or config.estimate == "mean":
        on_processor += 2 * volume
    on_device = device.type == "cpu" or config.planes == "3"
    at_once = 1 if device.type == "cpu" else config.batch
    allowed = SHARE * free - (on_processor if on_device else 0)
    tile = config.tile
    if tile is None:
        tile = choose_tile(
            plan.network,
            rows,
            cols,
            free=max(0, int(allowed / _NETWORK_MARGIN / at_once)),
            gradients=gradients,
        )
    seen = (min(tile, rows), min(tile, cols)) if tile and not gradients else (rows, cols)
    network = int(
        _NETWORK_MARGIN * at_once * denoising_bytes(plan.network, *seen, gradients=gradients)
    )
    workers = workers_for(network, int(allowed)) if device.type == "cpu" else ALONE
    network *= workers.count
    return {
        "free_bytes": free,
        "network_bytes": network,
        "volume_bytes": on_processor,
        "total_bytes": network + (on_processor if on_device else 0),
        "tile": tile if tile and tile < max(rows, cols) else 0,
        "workers": workers,
    }


def check_domain(drawing: Drawing, measured: Measured) -> tuple[str, bool]:
    """Hold the volume against what the model was trained on.

    Parameters
    ----------
    drawing : Drawing
        The model.
    measured : Measured
        The volume.

    Returns
    -------
    text : str
        What is wrong; empty if nothing is, or nothing is known.
    refused : bool
        Whether only `--force` should go on.
    """
    domain = drawing.plan.metadata.get("domain") or {}
    if not domain.get("residual"):
        return "", False
    values, factors, sigma = [], [], float(domain["residual"]["sigma"])
    for denoiser in drawing.on_planes():
        axes = denoiser.axes
        factors += [drawing.plan.factors[axis] for axis in axes[1:]]
        operator = drawing.operator(axes[1:])
        stack = measured.volume.transpose(axes)
        for n in spread(len(stack), _CHECKED_SLICES):
            low = torch.from_numpy(np.ascontiguousarray(stack[n])).to(drawing.device)
            value = denoising_residual(denoiser, low, operator, sigma, key=n)
            if value is not None:
                values.append(value)
    return judge_residuals(values, domain, factors)

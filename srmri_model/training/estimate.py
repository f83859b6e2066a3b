"""What a training run would cost on this machine, before it is started."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srmri_model.baselines.upscaler import Upscaler
from srmri_model.networks import NCSNpp, NetworkConfig, forward_flops, parameter_count
from srmri_model.operators import low_size
from srmri_model.training.config import TrainConfig
from srmri_model.training.order import BatchOrder, shapes_of
from srmri_model.training.ranks import Ranks, local_device
from srmri_model.training.slices import open_data
from srmri_model.training.supervised import PairBatches, SupervisedTask
from srmri_model.training.supervised_config import CHANGED, SupervisedConfig

_FORWARD_AND_BACKWARD = 3
_SHARE_OF_PEAK = (0.2, 0.5)
"""Part of the rate of a matrix product that training reaches: narrow networks little."""
_STATE_COPIES = 6
"""Weights, their average, its copy for validation, gradients, and Adam's two moments."""


@dataclass(frozen=True)
class _Work:
    """What a network costs, and on how much it is trained."""

    network: str
    parameters: int
    forward_flops: int
    activations: int
    shapes: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    held_out: int
    notes: Sequence[str]


def estimate(
    data: Sequence[str],
    out: Path,
    config: TrainConfig | SupervisedConfig,
    *,
    split: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Estimate parameters, arithmetic, memory and time.

    Parameters
    ----------
    data : sequence of str
        Training data; it is read and cached as for training.
    out : Path
        Folder of the run; only ``cache`` in it is written.
    config : TrainConfig or SupervisedConfig
        How to train.
    split : Path, optional
        Which subjects train.
    clock : callable
        Seconds.

    Returns
    -------
    dict
        The figures, and ``lines`` of label and text for people.
    """
    device = local_device(config.device)
    cache = Path(out) / "cache"
    work = (
        _score_work(data, cache, config, split)
        if isinstance(config, TrainConfig)
        else _supervised_work(data, cache, config, split)
    )
    rows, cols = work.size
    images = config.batch * config.accumulate
    order = BatchOrder(work.shapes, images, config.seed)
    flops = _FORWARD_AND_BACKWARD * images * work.forward_flops
    peak = matmul_rate(device, clock=clock)
    seconds = [flops / (share * peak) for share in reversed(_SHARE_OF_PEAK)]
    memory = 4 * _STATE_COPIES * work.parameters + work.activations
    steps = config.steps
    if config.epochs is not None:
        steps = round(config.epochs * order.steps_per_epoch)
    lines = [
        ("network", f"{work.network}, {work.parameters:,} parameters"),
        (
            "data",
            f"{len(work.shapes):,} slices to train on, {work.held_out:,} held out, "
            f"as {rows}×{cols}",
        ),
        ("a step", f"{images} images, {flops / 1e9:,.1f} GFLOP"),
        ("an epoch", f"{order.steps_per_epoch:,} steps"),
        ("memory", f"{memory / 1e9:.2f} GB for weights, moments and activations"),
        ("this machine", f"{peak / 1e9:,.0f} GFLOP/s in a matrix product on {device}"),
        ("time of a step", f"{time_text(seconds[0])} to {time_text(seconds[1])}"),
    ]
    if steps is not None:
        lines.append(
            ("time in all", f"{time_text(steps * seconds[0])} to {time_text(steps * seconds[1])}")
        )
    elif config.minutes is not None:
        few, many = (round(60 * config.minutes / s) for s in reversed(seconds))
        lines.append(("steps in all", f"{few:,} to {many:,} in {config.minutes:g} minutes"))
    lines += [("note", note) for note in work.notes]
    return {
        "params": work.parameters,
        "flops_per_step": flops,
        "images_per_step": images,
        "steps_per_epoch": order.steps_per_epoch,
        "memory_bytes": memory,
        "matmul_flops_s": round(peak),
        "seconds_per_step": [round(value, 6) for value in seconds],
        "n_train": len(work.shapes),
        "n_validation": work.held_out,
        "lines": lines,
    }


def _score_work(data: Sequence[str], cache: Path, config: TrainConfig, split: Path | None) -> _Work:
    opened = open_data(data, config.planes, cache, split=split)
    shape = config.network_shape(None)
    sizes = shapes_of(opened.train.sizes, config.patch)
    rows, cols = _largest(sizes)
    with torch.device("meta"):
        parameters = parameter_count(NCSNpp(shape))
    kept = activation_bytes(shape, config.batch, rows, cols)
    return _Work(
        network=config.preset,
        parameters=parameters,
        forward_flops=forward_flops(shape, rows, cols),
        activations=kept // 2 if config.precision == "bf16" else kept,
        shapes=sizes,
        size=(rows, cols),
        held_out=len(opened.validation),
        notes=opened.notes,
    )


def _supervised_work(
    data: Sequence[str], cache: Path, config: SupervisedConfig, split: Path | None
) -> _Work:
    task = SupervisedTask(config)
    task.open(data, cache, split=split, progress=lambda *_facts: None)
    shape = task.shape(None)
    batches = PairBatches(task.data.train, shape.factor, config, Ranks(), may_turn=False)
    rows, cols = _largest(batches.order.shapes)
    with torch.device("meta"):
        network = Upscaler(shape)
        low = torch.zeros(
            config.batch,
            1,
            *(low_size(n, f) for n, f in zip((rows, cols), shape.factor, strict=True)),
        )
        # What lies between the grids is small, and made of numbers that meta has not.
        seen = low.new_zeros(config.batch, 1, rows, cols) if config.name == "srcnn" else low
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.network(seen)
        activations = kept_bytes(network.network, seen)
    return _Work(
        network=f"{config.name}, {config.preset}",
        parameters=parameter_count(network),
        forward_flops=int(counter.get_total_flops()) // config.batch,
        activations=activations,
        shapes=batches.order.shapes,
        size=(rows, cols),
        held_out=task.sizes[1],
        notes=(
            *task.notes,
            *([f"not as published: {CHANGED}"] if config.preset == "scaled" else []),
        ),
    )


def _largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(set(sizes), key=lambda size: size[0] * size[1])


def matmul_rate(
    device: torch.device, *, size: int = 1024, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure how fast a matrix product is, for half a second at most.

    Parameters
    ----------
    device : torch.device
        Where.
    size : int
        Rows and columns.
    clock : callable
        Seconds.

    Returns
    -------
    float
        Floating-point operations per second of the fastest product.
    """
    matrix = torch.ones(size, size, device=device)

    def once() -> float:
        began = clock()
        product = matrix @ matrix
        # Reading a number waits for the device.
        product[0, 0].item()
        return clock() - began

    once()
    began, fastest = clock(), once()
    while clock() - began < 0.4:
        fastest = min(fastest, once())
    return 2 * size**3 / max(fastest, 1e-9)


def activation_bytes(shape: NetworkConfig, batch: int, rows: int, cols: int) -> int:
    """Count what a step keeps for its backward pass, without computing it.

    Parameters
    ----------
    shape : NetworkConfig
        The network.
    batch, rows, cols : int
        Size of the images.

    Returns
    -------
    int
        Bytes, in float32.
    """
    rows, cols = (-(-size // shape.stride) * shape.stride for size in (rows, cols))
    with torch.device("meta"):
        network = NCSNpp(shape)
        images = torch.zeros(batch, shape.channels_shown, rows, cols)
        plane = torch.zeros(batch, dtype=torch.int64) if shape.n_planes else None
        return kept_bytes(network, images, torch.ones(batch), plane)


def kept_bytes(network: nn.Module, *inputs: torch.Tensor | None) -> int:
    """Count what a network keeps for its backward pass.

    Parameters
    ----------
    network : Module
        On ``meta``, where nothing is computed.
    *inputs : Tensor or None
        What it takes.

    Returns
    -------
    int
        Bytes, without the weights.
    """
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(*inputs)
    weights = sum(4 * p.numel() for p in network.parameters())
    return max(0, sum(kept.values()) - weights)


def time_text(seconds: float) -> str:
    """Write a duration for people.

    Parameters
    ----------
    seconds : float
        How long.

    Returns
    -------
    str
        In the unit that fits.

    Examples
    --------
    >>> time_text(0.25), time_text(90), time_text(2400)
    ('250 ms', '90.0 s', '40 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours = seconds / 3600
    if hours < 1:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"

"""What a training run would cost on this machine, before it is started."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from srmri_model.networks import NCSNpp, NetworkConfig, forward_flops, parameter_count
from srmri_model.training.config import TrainConfig
from srmri_model.training.order import BatchOrder, shapes_of
from srmri_model.training.ranks import local_device
from srmri_model.training.slices import open_data

_FORWARD_AND_BACKWARD = 3
_SHARE_OF_PEAK = (0.2, 0.5)
"""Part of the rate of a matrix product that training reaches: narrow networks little."""
_STATE_COPIES = 6
"""Weights, their average, its copy for validation, gradients, and Adam's two moments."""


def estimate(
    data: Sequence[str],
    out: Path,
    config: TrainConfig,
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
    config : TrainConfig
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
    opened = open_data(data, config.planes, Path(out) / "cache", split=split)
    shape = config.network_shape(None)
    sizes = shapes_of(opened.train.sizes, config.patch)
    rows, cols = max(set(sizes), key=lambda size: size[0] * size[1])
    images = config.batch * config.accumulate
    order = BatchOrder(sizes, images, config.seed)
    with torch.device("meta"):
        parameters = parameter_count(NCSNpp(shape))
    flops = _FORWARD_AND_BACKWARD * images * forward_flops(shape, rows, cols)
    peak = matmul_rate(device, clock=clock)
    seconds = [flops / (share * peak) for share in reversed(_SHARE_OF_PEAK)]
    kept = activation_bytes(shape, config.batch, rows, cols)
    if config.precision == "bf16":
        kept //= 2
    memory = 4 * _STATE_COPIES * parameters + kept
    steps = config.steps
    if config.epochs is not None:
        steps = round(config.epochs * order.steps_per_epoch)
    lines = [
        ("network", f"{config.preset}, {parameters:,} parameters"),
        (
            "data",
            f"{len(opened.train):,} slices to train on, {len(opened.validation):,} held out, "
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
    lines += [("note", note) for note in opened.notes]
    return {
        "params": parameters,
        "flops_per_step": flops,
        "images_per_step": images,
        "steps_per_epoch": order.steps_per_epoch,
        "memory_bytes": memory,
        "matmul_flops_s": round(peak),
        "seconds_per_step": [round(value, 6) for value in seconds],
        "n_train": len(opened.train),
        "n_validation": len(opened.validation),
        "lines": lines,
    }


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
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []
    rows, cols = (-(-size // shape.stride) * shape.stride for size in (rows, cols))
    with torch.device("meta"):
        network = NCSNpp(shape)
        images = torch.zeros(batch, shape.in_channels, rows, cols)
        plane = torch.zeros(batch, dtype=torch.int64) if shape.n_planes else None
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(images, torch.ones(batch), plane)
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

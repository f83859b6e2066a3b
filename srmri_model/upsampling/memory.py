"""How much memory the network takes on an image, before it is run."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from srmri_model.networks import NCSNpp, NetworkConfig
from srmri_model.training.estimate import activation_bytes

SHARE = 0.6
"""Part of the free memory a run plans to take."""

BASE_BYTES = 900_000_000
"""Python, torch and what else is loaded."""

_MIN_TILE = 96
"""Less context and normalisation over less would change draws by more than half a σ_y."""
_CGROUP = Path("/sys/fs/cgroup")


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = int(storage.nbytes())
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def forward_bytes(config: NetworkConfig, rows: int, cols: int) -> int:
    """Count the most memory a forward pass of one image holds at once, without computing it.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    rows, cols : int
        Size of the image.

    Returns
    -------
    int
        Bytes in float32, without weights.
    """
    rows, cols = (-(-size // config.stride) * config.stride for size in (rows, cols))
    with torch.device("meta"), torch.no_grad():
        network = NCSNpp(config)
        image, sigma = torch.zeros(1, config.in_channels, rows, cols), torch.ones(1)
        plane = torch.zeros(1, dtype=torch.int64) if config.n_planes else None
        with _Live() as live:
            network(image, sigma, plane)
    peak: int = live.peak
    return peak


def denoising_bytes(config: NetworkConfig, rows: int, cols: int, *, gradients: bool) -> int:
    """Estimate the memory of the network on one image.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    rows, cols : int
        Size of the image.
    gradients : bool
        Keep what a backward pass needs.

    Returns
    -------
    int
        Bytes.
    """
    if gradients:
        return activation_bytes(config, 1, rows, cols)
    return forward_bytes(config, rows, cols)


def choose_tile(
    config: NetworkConfig, rows: int, cols: int, *, free: int, gradients: bool = False
) -> int:
    """Choose the largest tile whose forward pass fits into memory.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    rows, cols : int
        Size of the whole image.
    free : int
        Bytes the network may take.
    gradients : bool
        Every tile's activations are kept for a backward pass, so that tiles save nothing.

    Returns
    -------
    int
        Edge of the tile; 0 for the whole image.
    """
    if denoising_bytes(config, rows, cols, gradients=gradients) <= free or gradients:
        return 0
    tile = max(_MIN_TILE, max(rows, cols) // 2)
    while tile > _MIN_TILE and forward_bytes(config, min(tile, rows), min(tile, cols)) > free:
        tile = max(_MIN_TILE, tile * 3 // 4)
    return tile - tile % 8


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device has left.

    Parameters
    ----------
    device : torch.device
        A GPU, or the processor's memory within the limits of its control group.

    Returns
    -------
    int
        Bytes.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
        limit, used = (
            (_CGROUP / name).read_text(encoding="ascii").strip()
            for name in ("memory.max", "memory.current")
        )
        if limit != "max":
            free = min(free, int(limit) - int(used))
    except OSError:
        # No Linux, or no such control group: the pages the system counts as free.
        pass
    return max(0, free)

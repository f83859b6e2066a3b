"""The processes that train together: torchrun's, submitit's, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Parameters
    ----------
    rank, world : int
        Which process, of how many.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> None:
        """Add up a tensor over all processes, in place.

        Parameters
        ----------
        values : Tensor
            The same shape everywhere.
        """
        if self.world > 1:
            dist.all_reduce(values)

    def agree(self, value: float, device: torch.device) -> float:
        """Return the main process's number everywhere.

        Parameters
        ----------
        value : float
            This process's number.
        device : torch.device
            Where the backend communicates.

        Returns
        -------
        float
            The main process's.
        """
        if self.world == 1:
            return value
        answer = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(answer, src=0)
        return float(answer.item())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that the environment names, as torchrun sets it.

    Parameters
    ----------
    device : torch.device
        NCCL for CUDA, gloo otherwise.

    Yields
    ------
    Ranks
        This process among them; alone without RANK and WORLD_SIZE.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    threads = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Each would take all processors, and they would wait for one another.
        torch.set_num_threads(max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def local_device(name: str) -> torch.device:
    """Choose where to compute.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. With several processes ``auto`` and ``cuda``
        are this process's own device.

    Returns
    -------
    torch.device
        The device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device

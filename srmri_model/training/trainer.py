"""Batches of every step, and how a network goes from one step to the next."""

from __future__ import annotations

import contextlib
import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from srmri_data.errors import CheckpointError
from srmri_model.checkpoints import Checkpoint
from srmri_model.training.config import RunConfig
from srmri_model.training.ema import WeightAverage
from srmri_model.training.optimise import Optimiser
from srmri_model.training.order import BatchOrder, share
from srmri_model.training.ranks import Ranks

Part = TypeVar("Part")


class Batches(ABC, Generic[Part]):
    """The batches of every step, loaded one step ahead.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Size of the image that every slice gives.
    config : RunConfig
        Batch size, seed.
    ranks : Ranks
        Processes among which each step's images are divided.
    """

    def __init__(
        self, shapes: tuple[tuple[int, int], ...], config: RunConfig, ranks: Ranks
    ) -> None:
        self.accumulate = config.accumulate
        self.ranks = ranks
        self.images_per_step = config.batch * config.accumulate * ranks.world
        self.order = BatchOrder(shapes, self.images_per_step, config.seed)

    @abstractmethod
    def part(self, numbers: Sequence[int], indices: Sequence[int]) -> Part:
        """Load a batch.

        Parameters
        ----------
        numbers : sequence of int
            How many images came before each in the run, over all processes.
        indices : sequence of int
            Which slices.

        Returns
        -------
        Part
            Their images, of one size.
        """

    def load(self, step: int) -> list[Part]:
        """Load this process's parts of a step.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        list of Part
            One per accumulated part.
        """
        indices = self.order.slices(step)
        places = share(
            len(indices),
            rank=self.ranks.rank,
            world=self.ranks.world,
            accumulate=self.accumulate,
        )
        return [self._part(step, indices, part) for part in places]

    def _part(self, step: int, indices: NDArray[np.int64], places: NDArray[np.int64]) -> Part:
        numbers = [step * self.images_per_step + int(place) for place in places]
        return self.part(numbers, [int(indices[place]) for place in places])

    def following(self, step: int) -> Generator[list[Part], None, None]:
        """Load step after step, each while the one before is computed.

        Parameters
        ----------
        step : int
            The first.

        Yields
        ------
        list of Part
            Parts of the next step.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            ahead: Future[list[Part]] = pool.submit(self.load, step)
            while True:
                parts = ahead.result()
                step += 1
                ahead = pool.submit(self.load, step)
                yield parts


class Trainer(Generic[Part]):
    """Network, average and optimiser, and how they go from one step to the next.

    Parameters
    ----------
    network : Module
        The network, on its device.
    loss : callable
        From the network, which may be wrapped, to what gives the loss of a batch.
    optimiser : Optimiser
        Of the network.
    ranks : Ranks
        Processes that train together.
    ema_decay : float
        Largest decay of the averaged weights.
    clip : float
        Largest norm of the gradient; may be infinite.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[nn.Module], Callable[[Part], Tensor]],
        optimiser: Optimiser,
        ranks: Ranks,
        *,
        ema_decay: float,
        clip: float,
    ) -> None:
        self.network = network
        self.clip = clip
        self.device = next(network.parameters()).device
        self.step = 0
        self.changing = threading.Lock()
        self.average = WeightAverage(network, decay=ema_decay)
        self.optimiser = optimiser
        self._parallel = DistributedDataParallel(network) if ranks.world > 1 else None
        self._wrapped = self._parallel or network
        self._loss = loss(self._wrapped)
        # The average is judged in a network of its own: this one may be saved at any moment.
        self._averaged = copy.deepcopy(network).requires_grad_(False)
        self._names = [name for name, _ in network.named_parameters()]

    def averaged(self) -> nn.Module:
        """Return the network with the averaged weights.

        Returns
        -------
        Module
            Valid until the next step.
        """
        self._averaged.load_state_dict({**self.network.state_dict(), **self.average.weights})
        return self._averaged

    def advance(
        self, parts: Sequence[Part], rate: float, _fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Make one optimiser step.

        Parameters
        ----------
        parts : sequence of Part
            Batches whose gradients are accumulated.
        rate : float
            Learning rate.

        Returns
        -------
        loss, gradient_norm : Tensor
            This process's loss and the norm before clipping.
        """
        self.network.train()
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            with self._communicating(last=number == len(parts) - 1):
                loss = self._loss(part) / len(parts)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        with self.changing:
            self.optimiser.step(rate)
            self.average.update(self.network, self.step + 1)
            self.step += 1
        return total, norm

    def _communicating(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        if self._parallel is None or last:
            return contextlib.nullcontext()
        no_sync: contextlib.AbstractContextManager[None] = self._parallel.no_sync()
        return no_sync

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return everything a step changes.

        Returns
        -------
        weights : dict of str to Tensor
            Averaged weights, with what is frozen in the network.
        extra : dict of str to Tensor
            The network's own weights and the optimiser's moments.
        """
        own = self.network.state_dict()
        extra = {f"own.{name}": own[name] for name in self._names}
        extra |= self.optimiser.moments()
        return {**own, **self.average.weights}, extra

    @torch.no_grad()
    def restore(self, state: Checkpoint[Any], step: int) -> None:
        """Go back to a saved state.

        Parameters
        ----------
        state : Checkpoint
            What `state` gave.
        step : int
            Optimiser steps it is after.

        Raises
        ------
        CheckpointError
            If it lacks something.
        """
        try:
            own = {name: state.extra[f"own.{name}"] for name in self._names}
            self.network.load_state_dict({**state.tensors, **own})
            self.average.load(state.tensors)
            if step:
                self.optimiser.restore(state.extra, step)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the training state does not fit the network: {error}"
            ) from error
        self.step = step

    def is_finite(self) -> bool:
        """Tell whether the weights are numbers.

        Returns
        -------
        bool
            False after an overflow.
        """
        return all(bool(torch.isfinite(p).all()) for p in self.network.parameters())

"""The moving average of the weights, which is the model that is used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's trainable parameters, with warm-up.

    Step n decays by min(decay, (1 + n) / (10 + n)): an average over the last
    tenth or so of a short run, over 1 / (1 - decay) steps of a long one.

    Parameters
    ----------
    network : Module
        Its parameters are the average's first value.
    decay : float
        Largest decay, in [0, 1).
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: parameter.detach().clone()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }

    def decay_at(self, step: int) -> float:
        """Return the decay of a step.

        Parameters
        ----------
        step : int
            Optimiser steps done, from 1.

        Returns
        -------
        float
            Weight of the old average.
        """
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights of a step into the average.

        Parameters
        ----------
        network : Module
            The network after the optimiser's step.
        step : int
            Optimiser steps done, from 1.
        """
        parameters = dict(network.named_parameters())
        torch._foreach_lerp_(
            list(self.weights.values()),
            [parameters[name].detach() for name in self.weights],
            1 - self.decay_at(step),
        )

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from a stored average.

        Parameters
        ----------
        weights : mapping of str to Tensor
            A value for every averaged parameter.
        """
        for name, value in self.weights.items():
            value.copy_(weights[name])

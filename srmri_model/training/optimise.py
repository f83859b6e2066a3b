"""Optimisers: Adam, Muon for the matrices of a network with Adam for the rest, and SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from srmri_data.choices import OptimiserName

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_NARROW = 4
_SLOW = 0.1


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, by a quintic Newton–Schulz iteration.

    Parameters
    ----------
    matrix : (..., m, n) Tensor
        Any matrices.

    Returns
    -------
    (..., m, n) Tensor
        About U Vᵀ of its singular value decomposition: singular values from 0.7 to 1.2, except
        those below about 1e-3 of its Frobenius norm.

    References
    ----------
    K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # Every iteration multiplies x from the left by a polynomial of x xᵀ, so all of them can be
    # worked out on that smaller matrix, and x is multiplied once.
    gram = x @ x.mT
    one = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = one
    for _ in range(_ITERATIONS):
        factor = a * one + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalised before it is applied.

    A convolution's kernel is the matrix of output channels by everything else. Steps are as
    large as Adam's usually are, an RMS of 0.2 times the rate, so that rates of both compare.

    Parameters
    ----------
    parameters : iterator of Tensor
        Weights of two or more dimensions.
    lr : float
        Learning rate.
    momentum : float
        Decay of the momentum, in Nesterov's form.

    References
    ----------
    K. Jordan et al. 2024; size of the step: J. Liu et al., Muon is scalable for LLM training, 2025.
    """

    def __init__(self, parameters: Iterator[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step.

        Parameters
        ----------
        closure : None
            For torch's interface only.
        """
        for group in self.param_groups:
            momentum = group["momentum"]
            # Matrices of one shape are done together: there are many, and they are small.
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for weight in group["params"]:
                alike.setdefault((len(weight), weight[0].numel()), []).append(weight)
            for shape, weights in alike.items():
                updates = torch.stack([self._momentum(w, momentum).flatten(1) for w in weights])
                size = group["lr"] * 0.2 * math.sqrt(max(shape))
                for weight, update in zip(weights, orthogonalised(updates), strict=True):
                    weight.sub_(update.reshape(weight.shape), alpha=size)

    def _momentum(self, weight: Tensor, momentum: float) -> Tensor:
        """Take in the gradient, and look ahead as Nesterov does."""
        state, gradient = self.state[weight], weight.grad
        if gradient is None:
            raise AssertionError("every weight takes part in every step")
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        ahead: Tensor = gradient.lerp(state["exp_avg"], momentum)
        return ahead


def is_hidden_matrix(weight: Tensor) -> bool:
    """Tell whether Muon takes a weight: a matrix that is not narrow, as the last one is.

    Parameters
    ----------
    weight : Tensor
        A parameter.

    Returns
    -------
    bool
        Whether it is more than 4 wide both ways.
    """
    return weight.dim() > 1 and min(weight.shape[0], weight[0].numel()) > _NARROW


class Optimiser:
    """One or two of torch's optimisers, by the names of the weights they change.

    Parameters
    ----------
    network : Module
        To be trained.
    name : {"adam", "muon", "sgd"}
        ``muon``: `Muon` for matrices, Adam for the rest, at the same rate. ``sgd``: with momentum
        0.9.
    weight_decay : float
        Share of the weights that Adam adds to their gradients.
    slow : tuple of str
        Beginnings of the names of weights that take a tenth of the rate; not with ``muon``.
    """

    def __init__(
        self,
        network: nn.Module,
        name: OptimiserName,
        *,
        weight_decay: float = 0.0,
        slow: tuple[str, ...] = (),
    ) -> None:
        self._weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
        matrices = [p for p in self._weights.values() if name == "muon" and is_hidden_matrix(p)]
        chosen = {id(p) for p in matrices}
        slower = [p for n, p in self._weights.items() if slow and n.startswith(slow)]
        others = chosen | {id(p) for p in slower}
        rest = [p for p in self._weights.values() if id(p) not in others]
        groups: list[dict[str, Any]] = [{"params": rest, "share": 1.0}]
        if slower:
            groups.append({"params": slower, "share": _SLOW})
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.SGD(groups, lr=0.0, momentum=0.9)
            if name == "sgd"
            else torch.optim.Adam(groups, lr=0.0, fused=True, weight_decay=weight_decay)
        ]
        if matrices:
            self._parts.append(Muon(iter(matrices), lr=0.0))

    def step(self, rate: float) -> None:
        """Change the weights by their gradients, and forget those.

        Parameters
        ----------
        rate : float
            Learning rate.
        """
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * group.get("share", 1.0)
            part.step()
            part.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, Tensor]:
        """Return what it remembers.

        Returns
        -------
        dict of str to Tensor
            ``mean.NAME``, and ``square.NAME`` for Adam's weights; nothing before the first step.
        """
        kinds = (("mean", "exp_avg"), ("square", "exp_avg_sq"), ("mean", "momentum_buffer"))
        return {
            f"{kind}.{name}": state[key]
            for name, state in self._states()
            for kind, key in kinds
            if key in state
        }

    def restore(self, moments: dict[str, Tensor], step: int) -> None:
        """Go back to what it remembered.

        Parameters
        ----------
        moments : dict of str to Tensor
            From `moments`; other entries are passed over.
        step : int
            Steps done.

        Raises
        ------
        KeyError
            If something lacks.
        """
        # Moments are added in the order they lie in memory, which has to be that of the weights.
        for part in self._parts:
            keys = {"mean": "momentum_buffer" if isinstance(part, torch.optim.SGD) else "exp_avg"}
            if isinstance(part, torch.optim.Adam):
                keys["square"] = "exp_avg_sq"
            mine = {id(p) for group in part.param_groups for p in group["params"]}
            for name, weight in self._weights.items():
                if id(weight) in mine:
                    state: dict[str, Any] = {
                        key: torch.empty_like(weight).copy_(moments[f"{kind}.{name}"])
                        for kind, key in keys.items()
                    }
                    if "square" in keys:
                        state["step"] = torch.tensor(float(step), device=weight.device)
                    part.state[weight] = state

    def _states(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for name, weight in self._weights.items():
            for part in self._parts:
                if weight in part.state:
                    yield name, part.state[weight]

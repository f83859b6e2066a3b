"""Muon against the singular value decomposition and PyTorch's own, and what an optimiser keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from srmri_model.training.optimise import Muon, Optimiser, is_hidden_matrix, orthogonalised


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.Conv2d(16, 1, 3, padding=1)
    ).to(memory_format=torch.channels_last)


def train(model: nn.Module, optimiser: Optimiser, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimiser.step(0.01)


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32)])
def test_singular_values_come_near_one_and_the_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrix)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ found @ v.T
    kept = s > 0.02 * matrix.norm()
    assert kept.sum() > 10
    assert inside.diag()[kept].min() > 0.65
    assert inside.diag().max() < 1.25
    assert (inside - torch.diag(inside.diag())).abs().max() < 1e-3


def test_the_size_of_a_gradient_makes_no_difference_to_muon():
    gradient = torch.randn(8, 20, generator=torch.Generator().manual_seed(1))
    moved = []
    for scale in (1.0, 1e-4):
        weight = nn.Parameter(torch.zeros(8, 20))
        weight.grad = scale * gradient
        Muon(iter([weight]), lr=0.1).step()
        moved.append(weight.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=2e-2, atol=1e-4)


def test_muon_does_what_pytorchs_muon_does():
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        pytest.skip("this PyTorch has no Muon")
    weights = [nn.Parameter(torch.zeros(12, 30)) for _ in range(2)]
    optimisers = [
        Muon(iter(weights[:1]), lr=0.1),
        theirs(weights[1:], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(3):
        gradient = torch.randn(12, 30, generator=torch.Generator().manual_seed(step))
        for weight, optimiser in zip(weights, optimisers, strict=True):
            weight.grad = gradient.clone()
            optimiser.step()
    # PyTorch iterates in bfloat16.
    assert weights[0].norm() > 0.1
    assert (weights[0] - weights[1]).norm() < 0.05 * weights[1].norm()


def test_narrow_weights_and_vectors_are_left_to_adam():
    found = {name: is_hidden_matrix(p) for name, p in network().named_parameters()}
    assert [name for name, hidden in found.items() if hidden] == ["0.weight"]
    optimiser = Optimiser(model := network(), "muon")
    train(model, optimiser, range(1))
    assert set(optimiser.moments()) == {
        *(f"mean.{name}" for name in found),
        *(f"square.{name}" for name in found if name != "0.weight"),
    }


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_restored_optimiser_goes_on_bit_for_bit(name):
    whole = network()
    train(whole, Optimiser(whole, name), range(6))

    first = network()
    before = Optimiser(first, name)
    train(first, before, range(3))
    second = network()
    second.load_state_dict(first.state_dict())
    after = Optimiser(second, name)
    after.restore({key: value.contiguous() for key, value in before.moments().items()}, 3)
    train(second, after, range(3, 6))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_missing_moment_is_an_error():
    model = network()
    optimiser = Optimiser(model, "muon")
    train(model, optimiser, range(1))
    moments = optimiser.moments()
    del moments["square.1.weight"]
    with pytest.raises(KeyError, match=r"square\.1\.weight"):
        optimiser.restore(moments, 1)

"""Checkpoints come back bit for bit, and no damage passes."""

from __future__ import annotations

import pytest
import torch

from srmri_data.errors import CheckpointError
from srmri_model.checkpoints import Checkpoint, load_checkpoint, load_denoiser, save_checkpoint
from srmri_model.networks import Denoiser, NetworkConfig, build_network

CONFIG = NetworkConfig(nf=4, ch_mult=(1, 2), blocks=1, attention=(False, True))


@pytest.fixture
def checkpoint():
    network = build_network(CONFIG, seed=3)
    return Checkpoint(
        CONFIG,
        network.state_dict(),
        {"adam.step": torch.tensor(7), "adam.m": torch.rand(3, 2, dtype=torch.float64)},
        {"v": {"sigma": [0.1], "foreground": [0.002]}, "name": "über"},
    )


def test_a_checkpoint_comes_back_bit_for_bit(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    digest = save_checkpoint(path, checkpoint)
    loaded = load_checkpoint(path)
    assert loaded.network == CONFIG
    assert loaded.metadata == checkpoint.metadata
    for found, wanted in ((loaded.tensors, checkpoint.tensors), (loaded.extra, checkpoint.extra)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert save_checkpoint(tmp_path / "b.safetensors", loaded) == digest


def test_the_denoiser_of_a_checkpoint_is_the_one_saved(checkpoint, tmp_path):
    network = build_network(CONFIG)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.1)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(CONFIG, network.state_dict()))
    x, sigma = torch.rand(2, 1, 9, 6), torch.tensor([0.1, 2.0])
    loaded = load_denoiser(path)
    torch.testing.assert_close(loaded(x, sigma), Denoiser(network, CONFIG)(x, sigma))
    assert not any(value.requires_grad for value in loaded.network.parameters())


def test_weights_of_another_network_are_refused(checkpoint, tmp_path):
    weights = dict(checkpoint.tensors)
    weights["conv_in.weight"] = torch.zeros(4, 1, 5, 5)
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(CONFIG, weights))
    with pytest.raises(CheckpointError, match=r"conv_in.weight is .*\(4, 1, 5, 5\)"):
        load_checkpoint(tmp_path / "a.safetensors")

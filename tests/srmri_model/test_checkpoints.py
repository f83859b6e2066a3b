"""Checkpoints come back bit for bit, and no damage passes."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from srmri_data.errors import CheckpointError, MissingInputError
from srmri_model import checkpoints
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


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "a.safetensors"
    metadata = {"v": {"sigma": [0.1], "foreground": [0.002]}}
    save_checkpoint(path, Checkpoint(CONFIG, build_network(CONFIG).state_dict(), {}, metadata))
    return path.read_bytes()


def refused(path, content, match=None):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("share", [0.0, 1e-5, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0])
def test_a_truncated_checkpoint_is_refused(share, intact, tmp_path):
    refused(tmp_path / "a.safetensors", intact[: min(int(share * len(intact)), len(intact) - 1)])


@pytest.mark.parametrize("where", range(40))
def test_a_changed_bit_is_noticed_wherever_it_is(where, intact, tmp_path):
    header = int.from_bytes(intact[:8], "little")
    # Half of them in the header, whose every bit matters, half in the weights.
    start, length = (0, 8 + header) if where % 2 else (8 + header, len(intact) - 8 - header)
    at = start + (where * 7919 + 3) % length
    damaged = bytearray(intact)
    damaged[at] ^= 1 << where % 8
    refused(tmp_path / "a.safetensors", bytes(damaged))


def test_appended_bytes_and_other_files_are_refused(intact, tmp_path):
    path = tmp_path / "a.safetensors"
    refused(path, intact + b"\0")
    refused(path, b"")
    refused(path, b"not a checkpoint at all, but long enough to have a size in front")
    save_file({"w": torch.zeros(2)}, path)
    refused(path, path.read_bytes(), "not a checkpoint of srmri")
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    with pytest.raises(MissingInputError):
        load_checkpoint(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "checkpoint version 2, expected 1"),
        ({"schema_version": None}, "version None"),
        ({"network": {}}, "missing or unknown"),
        ({"network": []}, "can not be used"),
        ({"network": {**asdict(CONFIG), "nf": "4"}}, "setting nf is '4'"),
        ({"network": {**asdict(CONFIG), "nf": True}}, "setting nf is True"),
        ({"network": {**asdict(CONFIG), "nf": 10**9}}, "is no network"),
        ({"network": {**asdict(CONFIG), "ch_mult": [1, 2.5]}}, "ch_mult"),
        ({"network": {**asdict(CONFIG), "ch_mult": 7}}, "can not be used"),
        ({"network": {**asdict(CONFIG), "preconditioning": "none"}}, "is no network"),
        ({"network": {**asdict(CONFIG), "blocks": 2}}, "is missing"),
        ({"metadata": 3}, "can not be used"),
    ],
)
def test_a_sound_file_that_says_something_else_is_refused(change, message, tmp_path, monkeypatch):
    """Checksums protect from accidents; what a file says is checked all the same."""
    path = tmp_path / "a.safetensors"
    dumps = json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints.json, "dumps", lambda document, **how: dumps({**document, **change}, **how)
        )
        save_checkpoint(path, Checkpoint(CONFIG, build_network(CONFIG).state_dict()))
    refused(path, path.read_bytes(), message)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv_in.weight", None, "conv_in.weight is missing"),
        ("more.weight", torch.zeros(1), "more.weight is unknown"),
        ("conv_in.bias", torch.zeros(4, dtype=torch.float64), "torch.float64"),
        ("conv_in.bias", torch.tensor([0.0, float("nan"), 0.0, 0.0]), "not finite"),
        ("fourier.frequencies", None, "fourier.frequencies is missing"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(name, tensor, message, tmp_path):
    weights = build_network(CONFIG).state_dict()
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(CONFIG, weights))
    refused(path, path.read_bytes(), message)


def test_a_failed_save_leaves_the_old_checkpoint(checkpoint, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, Checkpoint(CONFIG, {}, metadata={"loss": float("nan")}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""Public checkpoints come in with every key accounted for, and give the reference's numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from public_layout import public_state, write_public_checkpoint

from srmri_data.errors import CheckpointError, MissingInputError
from srmri_model.checkpoints import load_checkpoint, load_denoiser
from srmri_model.networks import Denoiser, NetworkConfig, build_network
from srmri_model.public_checkpoints import import_checkpoint, run_import

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "ncsnpp"
CONFIG = NetworkConfig(nf=8, ch_mult=(1, 2), blocks=1, attention=(False, False))


@pytest.fixture(scope="module")
def golden():
    if not (GOLDEN / "checkpoint_nf16.pth").is_file():
        pytest.skip(f"the reference's checkpoint is not available ({GOLDEN} is absent)")
    checkpoint, report = import_checkpoint(GOLDEN / "checkpoint_nf16.pth")
    return checkpoint, report, np.load(GOLDEN / "io_nf16.npz")


@pytest.mark.parametrize("size", ["96x80", "48x56", "40x72"])
@pytest.mark.parametrize("sigma", ["0.01", "0.3", "5.0", "378.0"])
def test_the_references_outputs_are_reached(golden, size, sigma):
    checkpoint, _, values = golden
    network = build_network(checkpoint.network)
    network.load_state_dict(checkpoint.tensors)
    denoiser = Denoiser(network.requires_grad_(False), checkpoint.network)
    name = f"{size}_s{sigma}"
    found = denoiser.score(torch.from_numpy(values[f"{name}_x"]), float(sigma)).numpy()
    expected = values[f"{name}_ema"]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    # The control: the model's own weights, under the average, give other numbers.
    assert np.abs(found - values[f"{name}_model"]).max() > 1e-3 * np.abs(expected).max()


def test_every_key_of_the_golden_file_is_accounted_for(golden):
    checkpoint, report, _ = golden
    assert checkpoint.network == NetworkConfig(nf=16)
    assert Counter(key.source for key in report.keys) == {"ema": 520, "model": 1, "dropped": 1}
    assert {key.name for key in report.keys if key.source == "model"} == {"all_modules.0.W"}
    assert {key.name for key in report.keys if key.source == "dropped"} == {"sigmas"}
    assert {key.target for key in report.keys} - {""} == set(checkpoint.tensors)
    assert (report.step, report.ema_decay, report.ignored) == (7, 0.999, ("optimizer",))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, blocks=3, progressive_input="none"),
        replace(CONFIG, middle_attention=False, in_channels=3),
        replace(CONFIG, ch_mult=(1, 1, 1), attention=(False, True, True), blocks=2),
        replace(CONFIG, sigma_min=0.02, sigma_max=50.0),
    ],
)
def test_shapes_are_recognised_by_the_keys_alone(config, tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_public_checkpoint(path, config)
    checkpoint, _ = import_checkpoint(path)
    assert checkpoint.network == config


def test_the_average_is_laid_over_trainable_weights_only(tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_public_checkpoint(path, CONFIG)
    state = public_state(CONFIG)
    tensors = import_checkpoint(path)[0].tensors
    assert torch.equal(tensors["fourier.frequencies"], state["module.all_modules.0.W"])
    assert torch.equal(tensors["conv_in.weight"], state["module.all_modules.3.weight"] + 1)
    names = [name for name in state if name.endswith(("NIN_0.W", "NIN_1.W", "NIN_2.W"))]
    matrices = [(state[name] + 1).T for name in names]
    found = tensors["middle_attention.query_key_value.weight"]
    assert torch.equal(found, torch.cat(matrices))

    write_public_checkpoint(path, CONFIG, ema={})
    checkpoint, report = import_checkpoint(path)
    assert report.ema_decay is None
    assert torch.equal(checkpoint.tensors["conv_in.weight"], state["module.all_modules.3.weight"])


def changed(**entries):
    state = {**public_state(CONFIG), **entries}
    return {name: value for name, value in state.items() if value is not None}


SHADOW = [torch.zeros(3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "no entry 'model'"),
        ({"model": [1]}, "no entry 'model'"),
        ({"model": {"a": 1}}, "not a named tensor"),
        ({"model": {"a": torch.zeros(1)}}, "no key of an NCSN"),
        ({"model": changed(**{"module.all_modules.4.Conv_0.weight": None})}, "its modules"),
        ({"model": changed(**{"module.all_modules.99.weight": torch.zeros(1)})}, "too many"),
        ({"model": changed(**{"module.all_modules.3.bias": None})}, "too many or too few"),
        (
            {"model": changed(**{"module.all_modules.3.bias": torch.zeros(9)}), "ema": {}},
            "expected",
        ),
        (
            {
                "model": changed(**{"module.all_modules.3.bias": torch.full((8,), torch.inf)}),
                "ema": {},
            },
            "not finite",
        ),
        ({"model": changed(**{"all_modules.3.bias": torch.zeros(8)})}, "there twice"),
        ({"model": changed(**{"module.all_modules.3.bias": torch.zeros(1).expand(8)})}, "larger"),
        (
            {"model": changed(**{"module.all_modules.3.bias": torch.zeros(8).to_sparse()})},
            "not dense",
        ),
        ({"ema": {"shadow_params": SHADOW}}, "does not follow"),
        ({"ema": {"shadow_params": 3}}, "not a moving average"),
        ({"ema": 5}, "not a moving average"),
    ],
)
def test_what_is_no_ncsnpp_is_refused(changes, message, tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_public_checkpoint(path, CONFIG, **changes)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_public_checkpoint(path, CONFIG)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError):
        import_checkpoint(path)


def test_a_changed_weight_is_noticed(tmp_path):
    path = tmp_path / "checkpoint.pth"
    write_public_checkpoint(path, CONFIG)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="differ"):
        import_checkpoint(path)


def test_other_things_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        import_checkpoint(path)
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="not a zip archive"):
        import_checkpoint(path)
    with pytest.raises(MissingInputError):
        import_checkpoint(tmp_path / "absent.pth")


def test_an_imported_checkpoint_is_one_of_ours(tmp_path):
    source, out = tmp_path / "checkpoint.pth", tmp_path / "ours.safetensors"
    write_public_checkpoint(source, CONFIG)
    report = run_import(source, out)
    assert report["counts"] == {"ema": len(report["keys"]) - 2, "model": 1, "dropped": 1}
    assert load_checkpoint(out).metadata["imported"]["sha256"] == report["sha256"]
    assert load_denoiser(out)(torch.rand(1, 1, 5, 9), 0.3).shape == (1, 1, 5, 9)
    with pytest.raises(CheckpointError, match="exists"):
        run_import(source, out)
    assert run_import(source, out, force=True)["checkpoint_sha256"] == report["checkpoint_sha256"]

"""No checkpoint runs code or takes memory, whoever made it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile_checkpoints import gadgets, hostile_safetensors, tricks, zipped
from public_layout import write_public_checkpoint

from srmri_model.checkpoints import Checkpoint, save_checkpoint
from srmri_model.networks import NetworkConfig, build_network

SCRIPT = Path(__file__).parents[1] / "support" / "hostile_checkpoints.py"
CONFIG = NetworkConfig(nf=8, ch_mult=(1, 1), blocks=1, attention=(False, False))


def watched(how, first, paths):
    """Read files in a process of its own while an audit hook watches."""
    done = subprocess.run(
        [sys.executable, SCRIPT, how, first, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(folder, files):
    paths = []
    for number, (name, content) in enumerate(files):
        paths.append(folder / f"{number:02} {name}.pth".replace("/", "-"))
        paths[-1].write_bytes(content)
    return paths


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    path = tmp_path_factory.mktemp("harmless") / "good.pth"
    write_public_checkpoint(path, CONFIG)
    return path


def test_plain_pickle_runs_every_gadget(harmless, tmp_path):
    """The control: the gadgets work, and the hook sees them."""
    paths = write(tmp_path, gadgets())
    found = watched("plain", harmless, paths)["found"]
    idle = [name for name, one in found.items() if one["outcome"] != "PermissionError"]
    assert idle == []
    assert len(found) >= 30


def test_importing_a_hostile_checkpoint_runs_nothing(harmless, tmp_path):
    files = [(name, zipped(content)) for name, content in gadgets()]
    files += [(f"bare {name}", content) for name, content in gadgets()][:3]
    files += list(tricks())
    report = watched("import", harmless, write(tmp_path, files))
    assert len(report["found"]) >= 40
    assert {n: one for n, one in report["found"].items() if one["events"]} == {}
    assert {one["outcome"] for one in report["found"].values()} == {"CheckpointError"}
    assert report["rise_mb"] < 100


def test_a_hostile_safetensors_file_is_refused_at_no_cost(tmp_path):
    good = tmp_path / "good.safetensors"
    save_checkpoint(good, Checkpoint(CONFIG, build_network(CONFIG).state_dict()))
    report = watched("load", good, write(tmp_path, hostile_safetensors()))
    assert {n: one for n, one in report["found"].items() if one["events"]} == {}
    assert {one["outcome"] for one in report["found"].values()} == {"CheckpointError"}
    assert report["rise_mb"] < 100


def test_the_watch_sees_what_an_unrestricted_loader_would_do(harmless, tmp_path, monkeypatch):
    """The other control: without `weights_only` a gadget would have run."""
    (path,) = write(tmp_path, [("eval", zipped(dict(gadgets())["builtins.eval"]))])
    assert torch.load(path, weights_only=False) is None
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path, weights_only=True)

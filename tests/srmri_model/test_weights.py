"""The model in the box: whole, small, described, used by default, and refused when changed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from upsample_runs import ball, scan

from cli import app
from srmri_data.choices import ANATOMICAL
from srmri_data.errors import CheckpointError, UsageError
from srmri_model import weights
from srmri_model.checkpoints import load_checkpoint
from srmri_model.networks import PRESETS
from srmri_model.training.config import TrainConfig

CARD = Path(__file__).parents[2] / "MODEL_CARD.md"


def test_it_is_whole_small_and_knows_what_the_samplers_need():
    path = weights.bundled_weights()
    assert path.stat().st_size <= 12e6
    checkpoint = load_checkpoint(path)
    assert not checkpoint.extra
    assert checkpoint.metadata["planes"] == list(ANATOMICAL)
    table, domain = checkpoint.metadata["noise_table"], checkpoint.metadata["domain"]
    assert np.all(np.diff(table["foreground"]) > 0)
    assert np.all(np.array(table["background"]) < np.array(table["foreground"]))
    assert len(table["seen"]) == len(table["sigmas"])
    assert domain["spacing_mm"] == pytest.approx([0.15, 0.15])
    assert all(len(values) > 10 for values in domain["residual"]["factors"].values())
    assert 0.5 < checkpoint.metadata["std_scale"] < 1.5
    # No animal and no path is named.
    assert not re.search(r"tg4510|tp3|/|\\\\", json.dumps(checkpoint.metadata["domain"]))


def test_its_card_tells_its_sum():
    assert weights.SHA256 in CARD.read_text(encoding="utf-8")


def test_another_file_or_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(UsageError, match="no model comes with this installation"):
        weights.bundled_weights()
    changed = tmp_path / f"{weights.NAME}.safetensors"
    shutil.copy(Path(weights.__file__).with_name(changed.name), changed)
    assert weights.bundled_weights() == changed
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    with pytest.raises(CheckpointError, match="not that of the bundled model"):
        weights.bundled_weights()


def test_upsampling_takes_it_by_default_and_says_so(tmp_path):
    affine = np.diag([0.3, 0.15, 0.3, 1.0])
    low = scan(tmp_path / "lr.nii.gz", 1000 * ball((16, 4, 16)), affine)
    arguments = ["upsample", str(low), str(tmp_path / "sr"), "--steps", "2"]
    arguments += ["--noise", "0.02", "--force", "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert f"{weights.NAME}.safetensors, which comes with srmri" in result.stdout
    sidecar = json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))
    assert sidecar["weights_sha256"] == weights.SHA256
    assert sidecar["model"]["bundled"] is True


def test_one_plane_goes_on_with_a_network_that_knows_three():
    three = replace(PRESETS["tiny"], n_planes=3)
    config = TrainConfig.for_preset("tiny", steps=1, plane="coronal")
    assert config.network_shape(three).n_planes == 3
    assert config.network_shape(PRESETS["tiny"]).n_planes == 0
    with pytest.raises(UsageError, match="does not tell planes apart"):
        replace(config, plane="all").network_shape(PRESETS["tiny"])
    with pytest.raises(UsageError, match="acquired is none of these"):
        replace(config, plane="acquired").network_shape(three)

"""What is kept with a model about its training, and how a scan is held against it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import train_runs
import upsample_runs

from srmri_data import ingest
from srmri_data.simulate import SimulationConfig, run_simulate
from srmri_data.slices import intensity_map
from srmri_model.checkpoints import load_checkpoint
from srmri_model.upsample import run_upsample


@pytest.fixture
def run(phantoms, small_network, tmp_path):
    """A few steps of training, and LR of one of its animals."""
    train_runs.train(phantoms, tmp_path / "out", steps=4, validate_every=4)
    (record, *_) = ingest.discover(phantoms)
    config = SimulationConfig(factor=(2.0, 1.0, 2.0), snr=20.0)
    made = run_simulate(ingest.load(record), config, tmp_path / "lr", format="nifti")
    return tmp_path / "out" / "model.safetensors", Path(made["low_res"]), record.path


def test_a_model_tells_what_it_was_trained_on_and_takes_such_a_scan(run, tmp_path, monkeypatch):
    weights, low, high = run
    domain = load_checkpoint(weights).metadata["domain"]
    assert domain["spacing_mm"] == pytest.approx([0.4, 0.4], rel=1e-3)
    bright = [one for _, one in domain["range"].values()]
    assert 0.5 < min(bright) <= max(bright) < 1.05
    assert bright == sorted(bright, reverse=True)
    assert set(domain["residual"]["factors"]) == {"1.5", "2", "3", "4"}
    for values in domain["residual"]["factors"].values():
        assert values == sorted(values)
        assert all(0 < value < 2 for value in values)
    table = load_checkpoint(weights).metadata["noise_table"]
    assert len(table["seen"]) == len(table["foreground"])
    # Coarse detail is what noise leaves least certain.
    assert np.mean(np.log(table["seen"])) > np.mean(np.log(table["foreground"]))

    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)
    made = upsample_runs.plan(low, tmp_path / "sr", weights, factor=(2.0, 1.0, 2.0), noise=None)
    sidecar = run_upsample(made)
    assert not [text for text in sidecar["warnings"] if "new to it" in text or "could not" in text]

    # The scale of LR is that of HR, whose own map training took.
    found = sidecar["intensity"]
    wanted = intensity_map(nib.load(high).get_fdata(dtype=np.float32))
    span = wanted.high - wanted.low
    assert abs(found["zero"] - wanted.low) < 0.1 * span
    assert abs(found["one"] - wanted.high) < 0.15 * span

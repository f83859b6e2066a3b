"""Training runs for tests: a network of a few hundred weights, and runs that are killed."""

from __future__ import annotations

import operator
from dataclasses import replace
from pathlib import Path

from srmri_model.networks import PRESETS
from srmri_model.train import run_training
from srmri_model.training.config import TrainConfig


def shrink(set_item=operator.setitem) -> None:
    """Replace the tiny preset by one whose step takes milliseconds."""
    small = replace(
        PRESETS["tiny"], nf=4, ch_mult=(1, 2), blocks=1, attention=(False, True),
        middle_attention=False, fourier_scale=1.0,
    )  # fmt: skip
    set_item(PRESETS, "tiny", small)


def config(**settings) -> TrainConfig:
    """Train for a few steps, with everything that can happen in a run happening."""
    given = {
        "steps": 12, "batch": 2, "accumulate": 2, "patch": 16, "device": "cpu", "seed": 5,
        "validate_every": 4, "validation_slices": 3, "checkpoint_minutes": 0.0, "keep": 2,
        "learning_rate": 2e-3, "warmup_steps": 4,
    }  # fmt: skip
    return TrainConfig.for_preset("tiny", **{**given, **settings})


def train(data: Path, out: Path, *, resume: bool = False, warn=print, **settings) -> dict:
    """Train the small network."""
    return run_training([str(data)], out, config(**settings), resume=resume, warn=warn)

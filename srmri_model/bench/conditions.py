"""What the tables stand on, in words: data, split, degradation, budget, versions, hardware."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srmri_model.bench.models import Trained
from srmri_model.bench.plan import TablesConfig
from srmri_model.bench.tasks import Task
from srmri_model.training.pairs import PairData, Pairs


def data_conditions(
    data: Sequence[str],
    pairs: PairData,
    tasks: Sequence[Task],
    *,
    acquired: bool,
    cropped: bool,
) -> list[tuple[str, str]]:
    """Say what was tested on what.

    Parameters
    ----------
    data : sequence of str
        As they were given; none for the phantom.
    pairs : PairData
        All pairs.
    tasks : sequence of Task
        Slices that were tested.
    acquired : bool
        Whether LR was measured, not made.
    cropped : bool
        Whether volumes were cut to crops, or the phantom took their place.

    Returns
    -------
    list of (str, str)
        Name and value.
    """
    subjects = list(dict.fromkeys(task.pair["subject"] for task in tasks))
    rows, cols = tasks[0].pair["factor"]
    noises = [task.sigma_y for task in tasks]
    gains = dict.fromkeys((task.gain.gain, task.gain.offset) for task in tasks)
    shifts = [max(abs(task.motion.rows), abs(task.motion.cols)) for task in tasks]
    found = [
        # A path would tell of a machine, not of the data.
        ("data", _named(data, cropped=cropped and not acquired)),
        ("subjects for training", _count(pairs.train)),
        ("subjects held out for tuning", _count(pairs.validation)),
        ("subjects tested", f"{len(subjects)}: {', '.join(subjects)}"),
        ("slices tested", f"{len(tasks)}, {tasks[0].pair['plane']}, evenly spread over tissue"),
        ("factor", f"{rows:g} × {cols:g}"),
        ("LR", "acquired" if acquired else _made(tasks[0])),
        ("σ_y found in LR", f"{min(noises):.4f} to {max(noises):.4f}"),
        ("noise of HR", f"{min(t.sigma_high for t in tasks):.4f} to "
                        f"{max(t.sigma_high for t in tasks):.4f}"),
        ("LR against HR", f"shifts up to {max(shifts):.2f} HR pixels; gains "
                          + ", ".join(f"{gain:.3f}" for gain, _ in gains)),
    ]  # fmt: skip
    return found + [("note", note) for note in pairs.notes]


def _named(data: Sequence[str], *, cropped: bool) -> str:
    if not data:
        return "phantoms: the built-in digital mouse brain"
    names = ", ".join(Path(source).name or source for source in data)
    return f"crops of {names}" if cropped else names


def _count(pairs: Pairs) -> str:
    return f"{len(set(pairs.subjects))}, {len(pairs)} slices"


def _made(task: Task) -> str:
    physics = task.physics
    width = "" if physics.width is None else f" of width {physics.width:g}"
    return f"made of HR: {physics.operator}{width}, grid {physics.grid}, complex noise, magnitude"


def run_conditions(
    config: TablesConfig, rhos: Mapping[str, float], models: Trained
) -> list[tuple[str, str]]:
    """Say what was spent.

    Parameters
    ----------
    config : TablesConfig
        Settings.
    rhos : mapping of str to float
        Step sizes that were tuned.
    models : Trained
        Networks that were loaded or trained.

    Returns
    -------
    list of (str, str)
        Name and value.
    """
    chosen = ", ".join(f"{name} {rho:g}" for name, rho in rhos.items())
    found = [
        ("budget", f"{60 * config.budget:.0f} s of training per model" if config.budget < 1
                   else f"{config.budget:g} min of training per model"),
        ("long samplers", f"N = {config.steps} levels; the paper takes 2000"),
        ("ρ", f"tuned on held-out subjects: {chosen}" if chosen else "from the table of defaults"),
        ("draws of fast, mean", str(config.draws)),
        ("seed", str(config.seed)),
    ]  # fmt: skip
    if models.weights is not None:
        hashed = models.sha256("score")
        found.append(("score model", f"{models.weights.name}, SHA-256 {hashed[:12]}…"))
    for name, facts in models.trained.items():
        shown = ", ".join(f"{key} {_plain(value)}" for key, value in facts.items())
        found.append((f"trained: {name}", shown))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def machine_conditions(command: Sequence[str]) -> list[tuple[str, str]]:
    """Say what it ran on.

    Parameters
    ----------
    command : sequence of str
        How it was started.

    Returns
    -------
    list of (str, str)
        Name and value.
    """
    versions = {
        "srmri": version("srmri"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-image": version("scikit-image"),
        "lpips": version("lpips"),
    }
    graphics = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("processor", f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        ("graphics", graphics),
        ("command", " ".join(_without_folders(part) for part in command)),
    ]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _without_folders(part: str) -> str:
    return Path(part).name if part.startswith("/") else part

"""Small animals, and a slice of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from upsample_runs import ball, write_checkpoint

from srmri_data.formats.nifti_writer import write_nifti
from srmri_model.bench.tasks import Physics, Task, tasks_of
from srmri_model.training.pairs import Degradation, PairData, open_pairs

KSPACE = Physics("kspace", None, "voxel-centre")


class Animals(NamedTuple):
    """Volumes of animals, who is for what, and a score model."""

    data: Path
    split: Path
    weights: Path


@pytest.fixture(scope="session")
def animals(tmp_path_factory) -> Animals:
    """Five small animals; session-wide, so tests must not change them."""
    root = tmp_path_factory.mktemp("animals")
    for seed, name in enumerate(("a1", "a2", "a3", "b1", "c1")):
        volume = ball((44, 12, 48), seed=seed, noise=0.002)
        write_nifti(root / "data" / f"{name}.nii.gz", volume, np.diag([0.15, 0.15, 0.15, 1]))
    split = root / "split.json"
    split.write_text(json.dumps({"train": ["a1", "a2", "a3"], "tune": ["b1"], "test": ["c1"]}))
    return Animals(root / "data", split, write_checkpoint(root / "score.safetensors"))


@pytest.fixture(scope="session")
def pairs(animals, tmp_path_factory) -> PairData:
    """Their slices with LR."""
    cache = tmp_path_factory.mktemp("cache")
    return open_pairs(
        [str(animals.data)], cache, split=animals.split, degradation=Degradation(sigma_y=0.02)
    )


@pytest.fixture(scope="session")
def task(pairs) -> Task:
    """One slice of the animal that is tested."""
    (made,) = tasks_of(pairs.test, "c1", 1, KSPACE, {})
    return made


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """Three small animals' acquired pairs as a dataset; session-wide, so left as it is."""
    from export_runs import KEY, make_run

    from srmri_data.deid import Pseudonyms
    from srmri_data.export import ExportConfig, plan_export, write_export

    root = tmp_path_factory.mktemp("exported")
    runs = [make_run(root, name, seed) for seed, name in enumerate(("ada", "bea", "cleo"))]
    plan = plan_export(runs, config=ExportConfig(), pseudonyms=Pseudonyms(KEY))
    return write_export(plan, root / "out").path

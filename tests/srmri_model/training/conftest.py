"""A phantom to train on, and settings with which a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small animals as NIfTI; session-wide, so tests must not change them."""
    from srmri_data.phantom import mouse_brain

    folder = tmp_path_factory.mktemp("phantoms")
    for animal in range(3):
        brain = mouse_brain((32, 45, 24), 0.4, animal=animal, noise=0.02)
        image = nib.Nifti1Image(brain.data, brain.affine)
        nib.save(image, folder / f"sub-p{animal}_T2starw.nii.gz")
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small animals' exported pairs and slices; session-wide, so tests must not change it."""
    from export_runs import KEY, make_run

    from srmri_data.deid import Pseudonyms
    from srmri_data.export import ExportConfig, plan_export, write_export

    root = tmp_path_factory.mktemp("dataset")
    runs = [make_run(root, name, seed) for seed, name in enumerate(("ada", "bea", "cleo"))]
    plan = plan_export(runs, config=ExportConfig(), pseudonyms=Pseudonyms(KEY))
    return write_export(plan, root / "out").path


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the tiny preset so small that a step takes milliseconds, on one thread."""
    import torch
    import train_runs

    train_runs.shrink(monkeypatch.setattr, monkeypatch.setitem)
    # As the runs in processes of their own: other threads, other last bits.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

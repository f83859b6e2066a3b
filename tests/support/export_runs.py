"""Small studies and runs of them, to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from srmri_data import pairing
from srmri_data.formats.paravision_writer import write_paravision_study
from srmri_data.pairing import run_pairing
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.slices import Trim
from srmri_data.volumes import Provenance, Volume

KEY = b"k" * 32


def blob(seed: int, size: int = 28) -> Volume:
    """Something soft with noise, another one for every seed; voxels of 0.1 mm, RAS."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in (size, size + 2, size - 2))]
    centre = rng.uniform(-0.3, 0.3, 3)
    distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    data = 3000 * np.exp(-2 * distance) + rng.normal(0, 40, distance.shape)
    affine = np.diag([0.1, 0.1, 0.1, 1.0])
    return Volume(np.abs(data).astype(np.float32), affine, Provenance(Path("blob"), "memory"))


def coarser(volume: Volume) -> Volume:
    """The mean of 2×2×2 voxels."""
    i, j, k = (n // 2 for n in volume.shape)
    data = volume.data.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5))
    affine = volume.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = volume.affine[:3, :3] @ [0.5, 0.5, 0.5] + volume.affine[:3, 3]
    return Volume(data.astype(np.float32), affine, volume.provenance)


def study(root: Path, subject: str, seed: int) -> Path:
    """A ParaVision study: scan 1 is HR, scan 2 is LR."""
    high = blob(seed)
    return write_paravision_study([(1, high), (2, coarser(high))], root, subject_id=subject)


def pair(low: Path, high: Path, out: Path, **settings) -> Path:
    """Pair two scans by one voter, without the report that takes most of the time."""
    config = PairingConfig(
        **{"method": "paper", "voters": ("ssim",), "trim": Trim(0, "slices")} | settings
    )
    plan = plan_pairing(*find_scans(ScanRequest(low), ScanRequest(high)), config)
    with mock.patch.object(pairing, "_report"):
        run_pairing(plan, out)
    return out


def make_run(
    root: Path, subject: str, seed: int = 0, *, before: Callable[[Path], None] | None = None,
    **settings,
) -> Path:  # fmt: skip
    """A study in `root/SUBJECT` and its run in `root/run-SUBJECT`.

    `before` may change the study before it is paired.
    """
    place = study(root / subject, subject, seed)
    if before is not None:
        before(place)
    return pair(place / "2", place / "1", root / f"run-{subject}", **settings)

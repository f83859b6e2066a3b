"""A digital mouse brain: a scan to try everything on, without any data.

Ex-vivo look, T2*-like contrast (white matter and vessels dark, fluid bright),
about 10.5 x 14.5 x 6.5 mm. Anatomy and texture are functions of world position,
so the same animal can be scanned on any grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray

from srmri_data.errors import UsageError
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Sourced, Volume

FIELD_OF_VIEW = (12.8, 18.0, 7.6)
"""Default extent along x, y, z in mm, that of the published mouse scans."""

FLUID_LEVEL = 10_000.0
"""Intensity of cerebrospinal fluid, of the size ParaVision reconstructs to."""

_SLAB = 8


def mouse_brain(
    shape: tuple[int, int, int] | None = None,
    spacing: float | Sequence[float] = 0.1,
    *,
    orientation: str = "RAS",
    centre: Sequence[float] = (0.0, 0.0, 0.0),
    noise: float = 0.0,
    animal: int = 0,
    seed: int = 0,
    workers: int = 2,
) -> Volume:
    """Scan the digital mouse brain.

    The first call compiles for a few seconds; the result is kept on disk.

    Parameters
    ----------
    shape : tuple of int, optional
        Matrix size (i, j, k). By default 12.8 x 18.0 x 7.6 mm (x, y, z) are covered.
    spacing : float or sequence of 3 floats
        Voxel spacing along i, j, k in mm.
    orientation : str
        Direction of the array axes, three letters such as ``"RAS"``. The published
        scans, 720 x 512 x 304 at 0.025 mm with axial stored slices, are ``"ALS"``.
    centre : sequence of 3 floats
        World position of the middle of the field of view, mm; the brain is centred on 0.
    noise : float
        Standard deviation of the complex noise of each channel relative to the mean
        tissue intensity; the magnitude is Rician. 0.04 is a signal-to-noise ratio of 25.
    animal : int
        Which individual: shapes, vessels and texture change.
    seed : int
        Seed of the noise only.
    workers : int
        Threads. The voxels do not depend on it.

    Returns
    -------
    Volume
        float32, i fastest in memory.

    Raises
    ------
    UsageError
        If a size, spacing, noise level or orientation can not be.

    Examples
    --------
    >>> mouse_brain((32, 45, 19), 0.4).orientation
    'RAS'
    """
    affine, size = _grid(shape, spacing, orientation, centre)
    if not 0.0 <= noise < 10.0:
        raise UsageError(f"noise is relative to the mean tissue intensity, 0 to 10; found {noise}")
    # numba takes half a second to import: only those who scan the phantom pay.
    from srmri_data.phantom_kernel import fill

    data = np.empty(size, dtype=np.float32, order="F")
    voxel = float(np.max(np.linalg.norm(affine[:3, :3], axis=0)))
    salt = 1000 * (animal + 1)

    def _scan(first: int) -> tuple[float, int]:
        slab = data[:, :, first : first + _SLAB]
        fill(slab, affine, first, voxel, salt)
        slab *= FLUID_LEVEL
        return float(slab.sum(dtype=np.float64)), int(np.count_nonzero(slab))

    # The kernel releases the interpreter lock; a point depends on nothing but its position.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        sums = list(pool.map(_scan, range(0, size[2], _SLAB)))
    if noise:
        mean = sum(total for total, _ in sums) / max(1, sum(count for _, count in sums))
        _add_noise(data, noise * mean, np.random.default_rng(seed))
    fields = {
        "subject_id": Sourced(f"phantom{animal}", "srmri phantom"),
        "subject_type": Sourced("Quadruped", "srmri phantom"),
        "noise": Sourced(noise, "srmri phantom"),
        "seed": Sourced(seed, "srmri phantom"),
    }
    where = Path(f"phantom{animal}")
    return Volume(data, affine, Provenance(path=where, format="memory", fields=fields))


def _grid(
    shape: tuple[int, int, int] | None,
    spacing: float | Sequence[float],
    orientation: str,
    centre: Sequence[float],
) -> tuple[Affine, tuple[int, int, int]]:
    """Return affine and matrix size of a scan."""
    if len(orientation) != 3 or {*orientation} not in (
        {a, b, c} for a in "RL" for b in "AP" for c in "SI"
    ):
        raise UsageError(
            f"orientation {orientation!r}: expected one each of R/L, A/P and S/I, such as RAS"
        )
    steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise UsageError(f"spacing is three positive lengths in mm; found {spacing}")
    world_axis, sign = axcodes2ornt(tuple(orientation)).T
    axes = np.zeros((3, 3))
    axes[world_axis.astype(int), [0, 1, 2]] = sign
    if shape is None:
        extent = np.asarray(FIELD_OF_VIEW)[world_axis.astype(int)]
        sizes = [int(n) for n in np.maximum(1, np.round(extent / steps))]
    else:
        sizes = [int(n) for n in shape]
    if len(sizes) != 3 or min(sizes) < 1:
        raise UsageError(f"shape is three positive sizes; found {shape}")
    affine = np.eye(4)
    affine[:3, :3] = axes * steps
    affine[:3, 3] = np.asarray(centre, dtype=np.float64) - affine[:3, :3] @ (
        (np.array(sizes) - 1) / 2
    )
    return affine, (sizes[0], sizes[1], sizes[2])


def _add_noise(data: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> None:
    """Make magnitudes Rician in place, slice by slice."""
    plane = data.shape[:2]
    for k in range(data.shape[2]):
        noise = rng.standard_normal((2, *plane), dtype=np.float32) * np.float32(sigma)
        data[:, :, k] = np.hypot(data[:, :, k] + noise[0], noise[1])

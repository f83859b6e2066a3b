"""Small volumes to super-resolve, and models for them: a tiny network, or an exact one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.planning import ScanRequest, find_scan
from srmri_model.checkpoints import Checkpoint, save_checkpoint
from srmri_model.networks import NetworkConfig, build_network
from srmri_model.operators import make_operator
from srmri_model.samplers import ImageNoise
from srmri_model.testbed import GaussianPrior
from srmri_model.upsampling.plan import UpsampleConfig, UpsamplePlan, plan_upsample

NETWORK = NetworkConfig(
    nf=4, ch_mult=(1, 2), blocks=1, attention=(False, False), middle_attention=False,
    fourier_scale=1.0, scale_by_sigma=False, preconditioning="edm", sigma_max=10.0,
)  # fmt: skip
SIGMAS = tuple(0.01 * 2.0**n for n in range(9))
LPS = np.array([[-0.1, 0, 0, 3.0], [0, -0.12, 0, 4.0], [0, 0, 0.15, -2.0], [0, 0, 0, 1]])


def write_checkpoint(path: Path, *, neighbours: int = 0, **metadata: Any) -> Path:
    """Write a network of a few hundred weights that does something to every pixel."""
    config = replace(NETWORK, neighbours=neighbours)
    network = build_network(config, seed=3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator))
    table = {
        "sigmas": SIGMAS, "foreground": [0.2 * s**2 / (0.1 + s) for s in SIGMAS],
        "background": [1e-4] * len(SIGMAS), "n_slices": 1,
    }  # fmt: skip
    known = {"kind": "score", "planes": ["coronal"], "noise_table": table, **metadata}
    save_checkpoint(path, Checkpoint(config, network.state_dict(), metadata=known))
    return path


def prior_table(prior: GaussianPrior) -> dict[str, Any]:
    """Return v(σ) of an exact denoiser, as training would have measured it."""
    exact = prior.variance(make_operator("kspace", tuple(prior.mean.shape), 2))
    found = [exact(sigma) for sigma in SIGMAS]
    return {
        "sigmas": SIGMAS, "foreground": [v.pixel for v in found], "seen": [v.seen for v in found],
        "background": [1e-4] * len(SIGMAS), "n_slices": 1,
    }  # fmt: skip


def ball(shape: tuple[int, int, int], *, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """A textured ellipsoid in air, as magnitudes with noise, tissue about 0.6."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in grid) < 1
    texture = 0.6 + 0.15 * np.sin(5 * grid[0]) * np.cos(6 * grid[1] + grid[2])
    channels = noise * random.standard_normal((2, *shape))
    channels[0] += inside * texture
    return np.hypot(*channels).astype(np.float32)


def scan(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """Write a volume as NIfTI."""
    return write_nifti(path, np.asarray(data, dtype=np.float32), affine)


def plan(
    low: Path, out: Path, weights: Path, *, force: bool = False, **settings: Any
) -> UpsamplePlan:
    """Plan as the command does."""
    config = UpsampleConfig(**{"device": "cpu", "steps": 3, "noise": 0.03, **settings})
    selected = find_scan(ScanRequest(low), "--lr")
    return plan_upsample(selected, out, weights, config, force=force)


def low_affine(affine: np.ndarray, factors: tuple[float, ...], grid: str) -> np.ndarray:
    """Where LR lies that covers an HR volume."""
    step = np.diag([*factors, 1.0])
    if grid == "voxel-centre":
        step[:3, 3] = [(f - 1) / 2 for f in factors]
    return affine @ step


def gaussian_scan(
    folder: Path,
    prior: GaussianPrior,
    n_slices: int,
    *,
    sigma_y: float,
    grid: str = "voxel-centre",
    factor: float = 2.0,
    seed: int = 0,
) -> tuple[Path, np.ndarray, np.ndarray]:
    """Write LR of a stack of coronal slices from a prior; returns it, HR and HR's affine."""
    rows, cols = prior.mean.shape
    truth = prior.draw(ImageNoise(seed, [(9, n) for n in range(n_slices)]))
    operator = make_operator("kspace", (rows, cols), factor, grid=grid)
    low = operator.forward(truth)
    low = low + sigma_y * ImageNoise(seed, [(8, n) for n in range(n_slices)])(tuple(low.shape[1:]))
    # Coronal: slices along y. The prior knows no up and down, so rows need not be turned round.
    affine = np.array([[0.1, 0, 0, 0], [0, 0.3, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, 1.0]])
    placed = low_affine(affine, (factor, 1.0, factor), grid)
    path = scan(folder / "lr.nii.gz", stored(low[:, 0].numpy()), placed)
    return path, stored(truth[:, 0].numpy()), affine


def stored(slices: np.ndarray) -> np.ndarray:
    """(slice, row, col) of coronal slices as (i, j, k), rows along k."""
    return np.ascontiguousarray(slices.transpose(2, 0, 1))


def with_denoiser(made: UpsamplePlan, table: Mapping[str, Any]) -> UpsamplePlan:
    """Give a plan the table of another denoiser."""
    return replace(made, metadata={**made.metadata, "noise_table": dict(table)})

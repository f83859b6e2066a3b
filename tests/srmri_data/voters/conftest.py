"""Slices to compare, and the trunk where this machine has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srmri_data.voters.trunk import trunk_source


@pytest.fixture(scope="session")
def smooth_slices() -> Callable[..., np.ndarray]:
    """Make slices of smooth structure with a little noise, in [0, 1]."""
    from scipy.ndimage import gaussian_filter

    def make(n: int, shape: tuple[int, int], *, seed: int = 0, noise: float = 0.01) -> np.ndarray:
        generator = np.random.default_rng(seed)
        slices = gaussian_filter(generator.random((n, *shape)), (0.7, 3, 3))
        slices = (slices - slices.min()) / np.ptp(slices)
        slices += noise * generator.standard_normal(slices.shape)
        return np.clip(slices, 0, 1).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def trunk() -> Path:
    """The AlexNet trunk; the test is skipped where there is none."""
    source = trunk_source()
    if source is None:
        pytest.skip("no AlexNet trunk on this machine (make trunk)")
    return source.path

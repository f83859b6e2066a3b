"""What must not change a decision does not: padding, units, offset, how often it is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from srmri_data.pairing import Stacks, decisions_sha256, pair_stacks
from srmri_data.phantom import mouse_brain
from srmri_data.planning import Comparison, PairingConfig
from srmri_data.simulate import SimulationConfig, simulate_low_res
from srmri_data.slices import Trim

CONFIG = PairingConfig(voters=("pca", "ssim"), trim=Trim(2, "slices"), n_starts=1)
MOVED = SimulationConfig(
    shift_um=(150.0, 400.0, -250.0), tilt_deg=(1.5, -1.0, 2.0), snr=15, bias=0.1, seed=4
)


def manifest(low, high, **settings):
    plan = Comparison.of(low, high, replace(CONFIG, **settings))
    pairs = pair_stacks(plan, Stacks.of(plan, low, high, lambda *_: None)).pairs
    return decisions_sha256(pairs)


def padded(volume, before, after, value):
    """Pad left–right and bottom–top; the slices of the coronal stack keep their numbers."""
    widths = [(before[0], after[0]), (0, 0), (before[1], after[1])]
    data = np.pad(volume.data, widths, constant_values=value)
    shift = np.eye(4)
    shift[0, 3], shift[2, 3] = -before[0], -before[1]
    return replace(volume, data=np.asfortranarray(data), affine=volume.affine @ shift)


def scaled(volume, slope, offset=0.0):
    return replace(volume, data=volume.data * np.float32(slope) + np.float32(offset))


@pytest.fixture(scope="module")
def scans():
    high = mouse_brain((52, 72, 32), 0.25, noise=0.03)
    return simulate_low_res(high, MOVED).low_res, high


@pytest.fixture(scope="module")
def expected(scans):
    return manifest(*scans)


CHANGES = {
    "other units": lambda low, high: (scaled(low, 3.7), scaled(high, 0.011)),
    "an offset": lambda low, high: (scaled(low, 0.013, 11), scaled(high, 1.9, 100)),
    "LR padded": lambda low, high: (padded(low, (5, 2), (4, 7), 0), high),
    "both padded": lambda low, high: (
        padded(low, (5, 2), (4, 7), 0),
        padded(high, (3, 8), (0, 5), float(high.data.min())),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_manifest_does_not_depend_on(change, scans, expected):
    assert manifest(*change(*scans)) == expected


def test_the_manifest_is_not_blind(scans, expected):
    low, high = scans
    # Another position by 10 µm of 250, and another rule, are other manifests.
    further = simulate_low_res(high, replace(MOVED, shift_um=(150.0, 410.0, -250.0)))
    assert manifest(further.low_res, high) != expected
    assert manifest(low, high, tolerance=0.0) != expected


@pytest.mark.parametrize("method", ["geometry", "paper"])
def test_copies_of_a_slice_are_queued(method, scans):
    low, high = scans
    data = low.data.copy(order="F")
    data[:, 17] = data[:, 18]
    plan = Comparison.of(low, high, replace(CONFIG, method=method))
    before, after = (
        pair_stacks(plan, Stacks.of(plan, scan, high, lambda *_: None)).pairs.set_index("lr_slice")
        for scan in (low, replace(low, data=data))
    )
    assert (before.loc[[17, 18], "status"] == "auto").any()
    assert (after.loc[[17, 18], "status"] == "review").all()
    assert after.loc[17, "reason"].startswith("same voxels as LR slice 18; ")
    assert (after.loc[[17, 18], "confidence"] <= 0.5).all()
    assert (after["status"] == "auto").sum() >= (before["status"] == "auto").sum() - 4

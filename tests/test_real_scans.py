"""The whole way on real scans, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srmri_data import ingest
from srmri_data.pairing import redraw_report, run_pairing
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.run_folder import read_pairs
from srmri_data.simulate import SimulationConfig, read_truth, run_simulate
from srmri_data.slices import Trim

UNTRIMMED = Trim(0, "slices")


def pair(low: ScanRequest, high: ScanRequest, config: PairingConfig, out: Path, truth=None):
    return run_pairing(plan_pairing(*find_scans(low, high), config), out, truth=truth)


def test_letters_phantom_is_paired_9_of_9(shared_data, tmp_path):
    """A really acquired pair: fields of view 35 and 40 mm, voxels 0.137 and 0.208 mm."""
    study = shared_data / "bruker" / "pv6.0.1_letters_phantom_NOLICENCE"
    summary = pair(
        ScanRequest(study, scan=6),
        ScanRequest(study, scan=2, reco=1),
        PairingConfig(plane="acquired", trim=UNTRIMMED),
        tmp_path / "run",
    )
    pairs = read_pairs(tmp_path / "run")
    assert pairs["hr_slice"].tolist() == list(range(9))
    assert (pairs["status"] == "auto").all()
    assert summary["n_pairs"] == 9
    # A run whose scans have moved is found again by content.
    assert redraw_report(tmp_path / "run", sources=study.parent).is_file()


def reconstruct(kspace: np.ndarray, centre: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Magnitude image of a symmetric k-space box around k = 0: (read, phase, slice)."""
    box = np.zeros((*size, kspace.shape[2]), dtype=complex)
    middle = [n // 2 for n in size]
    into, take = [], []
    for axis in range(2):
        below = min(centre[axis], middle[axis])
        above = min(kspace.shape[axis] - centre[axis], size[axis] - middle[axis])
        take.append(slice(centre[axis] - below, centre[axis] + above))
        into.append(slice(middle[axis] - below, middle[axis] + above))
    box[tuple(into)] = kspace[tuple(take)]
    shifted = np.fft.ifftshift(box, axes=(0, 1))
    image = np.fft.fftshift(np.fft.ifft2(shifted, axes=(0, 1)), axes=(0, 1))
    return np.abs(image) * size[0] * size[1]


def test_gre_raw_kspace_is_paired_18_of_18(shared_data, tmp_path):
    """HR and LR from one raw k-space by the same code; the echo sits at read sample 42."""
    scan = shared_data / "bruker" / "pv360.3.6_mousebrain_NOLICENCE" / "6"
    raw = np.fromfile(scan / "rawdata.job0", dtype="<i4").astype(float)
    # Stored as (phase, slice in acquisition order, read) with real and imaginary interleaved.
    lines = (raw[0::2] + 1j * raw[1::2]).reshape(96, 18, 139)
    kspace = np.empty((139, 96, 18), dtype=complex)
    kspace[..., [*range(0, 18, 2), *range(1, 18, 2)]] = lines.transpose(2, 0, 1)
    assert np.unravel_index(np.abs(kspace).sum(axis=2).argmax(), (139, 96)) in [(42, 48), (43, 48)]
    (header,) = (record.header for record in ingest.discover(scan) if record.header)
    paths = {}
    for name, size in (("hr", (191, 96)), ("lr", (84, 42))):
        image = reconstruct(kspace, (42, 48), size)
        affine = header.affine.copy()
        for axis in range(2):
            affine[:3, axis] *= header.shape[axis] / size[axis]
        # DFT images keep sample n // 2 in place.
        old = np.array([header.shape[0] // 2, header.shape[1] // 2, 0, 1])
        new = np.array([size[0] // 2, size[1] // 2, 0, 1])
        affine[:3, 3] += (header.affine @ old - affine @ new)[:3]
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), paths[name])
    summary = pair(
        ScanRequest(paths["lr"]),
        ScanRequest(paths["hr"]),
        PairingConfig(plane="acquired", trim=UNTRIMMED),
        tmp_path / "run",
    )
    assert read_pairs(tmp_path / "run")["hr_slice"].tolist() == list(range(18))
    assert summary["n_pairs"] == 18


def test_template_with_motion_is_registered(template, tmp_path):
    (record,) = ingest.discover(template)
    moved = SimulationConfig(
        factor=(2.0, 2.0, 2.0), shift_um=(100.0, 165.0, -75.0), tilt_deg=(1.0, -1.0, 2.0),
        snr=10, bias=0.1, seed=3,
    )  # fmt: skip
    made = run_simulate(ingest.load(record), moved, tmp_path / "lr", format="nifti")
    summary = pair(
        ScanRequest(Path(made["low_res"])),
        ScanRequest(template),
        PairingConfig(voters=("pca", "ssim")),
        tmp_path / "run",
        truth=read_truth(Path(made["truth"])),
    )
    assert summary["exact"] >= 0.99
    assert summary["mae_slices"] <= 0.08
    assert summary["wrongly_accepted"] == 0
    assert summary["n_pairs"] >= 0.9 * (summary["n_lr"] - summary["empty"])


@pytest.fixture(scope="module")
def template(shared_data):
    """C57BL6 template, 50 µm, near-isotropic contrast ISO."""
    folder = shared_data / "nifti" / "mouse_C57BL6_50um_dMRI_template_NOLICENCE"
    return folder / "C57BL6_mouse.ISO.nii.gz"


@pytest.mark.parametrize("grid", ["fourier", "voxel-centre"])
def test_template_without_motion(template, tmp_path, grid):
    (record,) = ingest.discover(template)
    made = run_simulate(
        ingest.load(record), SimulationConfig(factor=(2.0, 2.0, 2.0), grid=grid),
        tmp_path / "lr", format="nifti",
    )  # fmt: skip
    summary = pair(
        ScanRequest(Path(made["low_res"])),
        ScanRequest(template),
        PairingConfig(method="paper"),
        tmp_path / "run",
        truth=read_truth(Path(made["truth"])),
    )
    pairs = read_pairs(tmp_path / "run")
    shown = pairs[~pairs["empty"]]
    assert len(shown) > 80
    if grid == "fourier":
        assert summary["exact"] >= 0.90
    else:
        assert shown["error_slices"].abs().max() <= 0.5 + 1e-6


def test_template_with_motion_shows_how_often_the_vote_is_wrong(template, tmp_path):
    (record,) = ingest.discover(template)
    moved = SimulationConfig(
        factor=(2.0, 2.0, 2.0), shift_um=(100.0, 165.0, -75.0), tilt_deg=(1.0, -1.0, 2.0),
        snr=20, bias=0.1, seed=3,
    )  # fmt: skip
    made = run_simulate(ingest.load(record), moved, tmp_path / "lr", format="nifti")
    summary = pair(
        ScanRequest(Path(made["low_res"])),
        ScanRequest(template),
        PairingConfig(method="paper"),
        tmp_path / "run",
        truth=read_truth(Path(made["truth"])),
    )
    assert 0 < summary["exact"] < 0.9
    assert summary["wrongly_accepted"] > 0
    assert f"{summary['exact']:.0%}"[:2] in (tmp_path / "run" / "index.html").read_text(
        encoding="utf-8"
    )

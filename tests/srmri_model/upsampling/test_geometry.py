"""Where HR voxels lie, and how slices are turned to what the network knows."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from upsample_runs import LPS, ball, low_affine, plan, scan

from srmri_data import ingest
from srmri_data.choices import ANATOMICAL
from srmri_data.simulate import SimulationConfig, run_simulate
from srmri_data.slices import stack_frame
from srmri_model.operators import low_positions, low_size, make_operator
from srmri_model.upsample import run_upsample
from srmri_model.upsampling.denoising import InTurn, OnSlices, mirror_of, stack_axes
from srmri_model.upsampling.plan import high_geometry, nearest

GRIDS = ("voxel-centre", "fourier")
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


def image_of(path):
    return sitk.ReadImage(str(path))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("factors", [(2.0, 1.0, 2.0), (1.5, 1.5, 1.5), (1.0, 3.0, 4.0)])
def test_the_hr_grid_is_the_one_lr_was_made_from(grid, factors):
    high_shape = (24, 12, 36)
    shape = tuple(low_size(n, f) for n, f in zip(high_shape, factors, strict=True))
    affine, found = high_geometry(low_affine(LPS, factors, grid), shape, factors, grid)
    assert found == high_shape
    np.testing.assert_allclose(affine, LPS, atol=1e-12)
    other = GRIDS[1 - GRIDS.index(grid)]
    wrong, _ = high_geometry(low_affine(LPS, factors, grid), shape, factors, other)
    shift = np.linalg.inv(LPS) @ wrong
    expected = [(f - 1) / 2 * (1 if other == "fourier" else -1) for f in factors]
    np.testing.assert_allclose(shift[:3, 3], expected, atol=1e-12)


@pytest.mark.parametrize("size", range(1, 40))
@pytest.mark.parametrize("factor", [1.25, 4 / 3, 1.5, 2.0, 3.0, 4.0])
def test_every_lr_size_is_that_of_its_hr(size, factor):
    _, (high, _, _) = high_geometry(np.eye(4), (size, 4, 4), (factor, 1.0, 1.0), "fourier")
    assert low_size(high, factor) == size


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("factor", [2.0, 1.5])
def test_simpleitk_resamples_the_result_to_lr_where_the_operator_says(
    grid, factor, weights, tmp_path
):
    low = scan(tmp_path / "lr.nii.gz", ball((12, 10, 14)))
    made = plan(low, tmp_path / "sr", weights, factor=(factor,), planes="3", grid=grid)
    for axis in range(3):
        ramp = np.indices(made.high_shape)[axis]
        high = image_of(scan(tmp_path / "ramp.nii.gz", ramp, made.high_affine))
        resampled = sitk.Resample(high, image_of(low), sitk.Transform(), sitk.sitkLinear, -1.0)
        found = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
        places = low_positions(made.low_shape[axis], factor, grid)
        expected = places.reshape([-1 if n == axis else 1 for n in range(3)])
        inside = found >= 0
        assert inside.mean() > 0.6
        error = np.abs(found - np.broadcast_to(expected, found.shape))[inside]
        assert error.max() < 0.05


@pytest.mark.parametrize("grid", GRIDS)
def test_a_simulated_scan_is_brought_back_to_the_grid_of_its_hr(grid, weights, tmp_path):
    high = scan(tmp_path / "hr.nii.gz", ball((24, 20, 16)))
    (record,) = ingest.discover(high)
    config = SimulationConfig(factor=(2.0, 2.0, 2.0), grid=grid)
    made = run_simulate(ingest.load(record), config, tmp_path / "lr", format="nifti")
    found = plan(Path(made["low_res"]), tmp_path / "sr", weights, planes="3", grid=grid)
    assert found.high_shape == (24, 20, 16)
    # NIfTI keeps affines in single precision.
    np.testing.assert_allclose(found.high_affine, nib.load(high).affine, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_values_are_taken_to_the_nearest_hr_voxels(grid, weights, tmp_path):
    low = scan(tmp_path / "lr.nii.gz", ball((6, 8, 10)))
    made = plan(low, tmp_path / "sr", weights, factor=(2.0,), grid=grid)
    ramp = np.indices(made.low_shape)[0]
    expected = {"voxel-centre": [0, 0, 1, 1, 2, 2], "fourier": [0, 1, 1, 2, 2, 3]}[grid]
    assert nearest(made, ramp)[:6, 0, 0].tolist() == expected
    assert nearest(made, ramp).shape == made.high_shape


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_the_network_sees_slices_as_in_training_from_all_orientations(code):
    shape = (4, 5, 6)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    affine = np.diag([0.1, 0.1, 0.1, 1.0]) @ inv_ornt_aff(turn, shape)
    volume = torch.arange(120.0).reshape(shape)
    seen = []

    def denoiser(x, sigma, plane=None):
        seen.append(x[:, 0])
        labels.append(plane.unique().tolist())
        return x + 1

    labels = []
    frames = [stack_frame(affine, shape, plane) for plane in ANATOMICAL]
    in_turn = InTurn(
        [OnSlices(denoiser, frame, label=n, at_once=100) for n, frame in enumerate(frames)]
    )
    for frame in frames:
        assert torch.equal(in_turn(volume[None, None], 0.1)[0, 0], volume + 1)
        images = torch.from_numpy(frame.view(volume.numpy()).copy())
        # Which slice comes first does not matter to the network.
        order = images.flatten(1)[:, 0].argsort()
        found = seen[-1].flatten(1)[:, 0].argsort()
        assert torch.equal(seen[-1][found], images[order])
    assert labels == [[0], [1], [2]]


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_left_and_right_are_found_from_all_orientations(code):
    shape = (4, 5, 6)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    affine = np.diag([0.1, 0.1, 0.1, 1.0]) @ inv_ornt_aff(turn, shape)
    (across,) = (axis for axis, letter in enumerate(code) if letter in "LR")
    for plane in ANATOMICAL:
        frame = stack_frame(affine, shape, plane)
        assert mirror_of(frame, (0, 1, 2)) == across - 3
        images = stack_axes(frame)[1:]
        expected = None if plane == "sagittal" else images.index(across) - 2
        assert mirror_of(frame, images) == expected
    assert mirror_of(stack_frame(affine, shape, "acquired"), (0, 1, 2)) is None


def test_a_single_plane_is_not_made_finer_across_slices(weights, tmp_path):
    low = scan(tmp_path / "lr.nii.gz", ball((6, 8, 10)))
    made = plan(low, tmp_path / "sr", weights, factor=(2.0,), plane="axial")
    assert made.factors == (2.0, 2.0, 1.0)
    assert made.high_shape == (12, 16, 10)
    operator = make_operator("kspace", made.high_shape, made.factors)
    assert operator.low_shape == made.low_shape


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"plane": "coronal"}, True),
        ({"plane": "axial"}, True),
        ({"plane": "sagittal"}, False),
        ({"planes": "3"}, True),
        ({"plane": "coronal", "sampler": "diffpir", "steps": 4}, False),
    ],
)
def test_what_is_mirrored_can_be_left_as_it_is(settings, changes, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)
    low, drawn = scan(tmp_path / "lr.nii.gz", ball((6, 5, 7))), []
    fast = "sampler" not in settings
    for chosen in ({}, {"mirror": "false"} if fast else {}):
        made = plan(low, tmp_path / f"{len(drawn)}" / "sr", weights, settings=chosen, **settings)
        sidecar = run_upsample(made)
        assert ("mirror" in sidecar["sampler_settings"]) == fast
        drawn.append(made.paths["volume"].read_bytes())
    assert (drawn[0] != drawn[1]) == changes

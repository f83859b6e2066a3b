"""Affine arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from srmri_data.errors import AffineError
from srmri_data.geometry import (
    apply_affine,
    check_affine,
    closest_axes,
    orientation_code,
    volume_centre,
    voxel_spacing,
)
from srmri_data.volumes import Provenance, Volume


def test_small_voxels_are_not_singular():
    # 10 µm voxels: the determinant is 1e-6, the geometry is fine.
    assert voxel_spacing(np.diag([0.01, 0.01, 0.01, 1])) == pytest.approx((0.01, 0.01, 0.01))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:3], "shape"),
        (lambda a: a * np.nan, "not finite"),
        (lambda a: a * 2, "last affine row"),
        (lambda a: a @ np.diag([1, 0, 1, 1]), "singular"),
        (lambda a: a[:, [0, 0, 2, 3]], "singular"),
    ],
)
def test_impossible_affines_are_refused(change, message):
    with pytest.raises(AffineError, match=message):
        check_affine(change(np.eye(4)))


def test_closest_axes_of_an_oblique_left_handed_affine():
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0.05, -1, 0], [0.02, 0, -1], [1, 0.05, 0.02]])
    axes, signs = closest_axes(affine)
    assert axes.tolist() == [2, 0, 1]
    assert signs.tolist() == [1, -1, -1]
    assert orientation_code(affine) == "SLP"


def test_centre_is_the_middle_of_the_field_of_view():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 1
    np.testing.assert_allclose(volume_centre(affine, (3, 1, 2)), [3, 1, 2])
    np.testing.assert_allclose(apply_affine(affine, [[0, 0, 0], [1, 1, 1]]), [[1] * 3, [3] * 3])


def test_volume_scales_stored_integers_per_slice():
    data = np.ones((2, 2, 3), dtype=np.int16)
    volume = Volume(
        data, np.eye(4), Provenance(Path("x"), "memory"),
        slope=np.array([1.0, 2.0, 3.0]), intercept=np.array([0.0, 0.5, 0.0]),
    )  # fmt: skip
    scaled = volume.scaled()
    assert scaled.data.dtype == np.float32
    assert scaled.data[0, 0].tolist() == [1.0, 2.5, 3.0]
    assert scaled.scaled() is scaled


def test_volume_refuses_two_dimensions_and_singular_geometry():
    with pytest.raises(AffineError, match="3-D"):
        Volume(np.ones((2, 0, 2), np.float32), np.eye(4), Provenance(Path("x"), "memory"))
    with pytest.raises(AffineError, match="singular"):
        Volume(
            np.ones((2, 2, 2), np.float32), np.diag([0.0, 0, 0, 1]), Provenance(Path("x"), "memory")
        )

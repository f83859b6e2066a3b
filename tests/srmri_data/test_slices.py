"""Planes, common field of view, trimming, intensity and resizing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmri_data.errors import ResolutionError, TrimError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.slices import (
    IntensityMap,
    Trim,
    Window,
    common_field_of_view,
    intensity_map,
    reference_points,
    resize_matrix,
    resize_to_low_res,
    stack_frame,
    trim_window,
)

ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}


def oriented(permutation, signs, spacing=(0.1, 0.2, 0.3), origin=(1.0, -2.0, 3.0)):
    """Affine whose voxel axis n runs along world axis permutation[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(permutation, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize("plane", ["coronal", "axial", "sagittal"])
@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_plane_is_anatomical_in_all_48_orientations(plane, permutation, signs):
    affine = oriented(permutation, signs)
    shape = (4, 5, 6)
    frame = stack_frame(affine, shape, plane)
    # The slice axis grows towards R, A or S, rows towards I or P, columns towards R or A.
    axes = frame.affine[:3, :3] / np.array(frame.spacing)
    expected = {
        "coronal": np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]),
        "axial": np.array([[0, 0, 1], [0, -1, 0], [1, 0, 0]]),
        "sagittal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    }[plane]
    np.testing.assert_allclose(axes, expected, atol=1e-12)
    # The view shows the voxel that the affine says it shows.
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    view = frame.view(data)
    assert view.shape == frame.shape
    for index in [(0, 0, 0), (1, 2, 3), tuple(n - 1 for n in frame.shape)]:
        voxel = np.rint(apply_affine(frame.to_voxel, index)).astype(int)
        assert view[index] == data[tuple(voxel)]
        np.testing.assert_allclose(
            apply_affine(frame.affine, index), apply_affine(affine, voxel), atol=1e-9
        )
    assert np.shares_memory(view, data)


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS[::5])
def test_partner_follows_the_low_res_axes(permutation, signs):
    low = stack_frame(oriented((0, 1, 2), (1, 1, 1)), (6, 7, 8), "acquired")
    affine = oriented(permutation, signs)
    high = stack_frame(affine, (9, 10, 11), "acquired", like=low)
    cosine = np.diag(low.affine[:3, :3].T @ high.affine[:3, :3])
    assert (cosine > 0).all()


def test_acquired_keeps_the_stored_order():
    affine = oriented((2, 0, 1), (-1, 1, -1))
    data = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    frame = stack_frame(affine, (2, 3, 4), "acquired")
    np.testing.assert_array_equal(frame.view(data), data.transpose(2, 1, 0))


def test_common_field_of_view_of_shifted_volumes():
    low = stack_frame(np.diag([0.2, 0.2, 0.2, 1.0]), (20, 20, 20), "acquired")
    affine = np.diag([0.1, 0.1, 0.1, 1.0])
    # HR starts 1 mm into LR along i (columns) and is 1.6 mm wide.
    affine[0, 3] = 1.0
    high = stack_frame(affine, (16, 40, 40), "acquired", like=low)
    low_window, high_window = common_field_of_view(low, high)
    assert low_window.cols == (5, 13)  # LR centres at 1.0 … 2.4 mm lie in [0.95, 2.55]
    assert high_window.cols == (0, 16)
    assert low_window.rows == (0, 20)
    assert high_window.rows == (0, 40)


def test_same_field_of_view_crops_nothing():
    low_affine = np.diag([0.05, 0.05, 0.05, 1.0])
    low_affine[:3, 3] = 0.0125  # voxel-centre grid: same edges
    low = stack_frame(low_affine, (10, 12, 14), "acquired")
    high = stack_frame(np.diag([0.025] * 3 + [1.0]), (20, 24, 28), "acquired", like=low)
    low_window, high_window = common_field_of_view(low, high)
    assert low_window.shape == low.shape
    assert high_window.shape == high.shape


def test_disjoint_volumes_are_refused():
    low = stack_frame(np.eye(4), (5, 5, 5), "coronal")
    affine = np.eye(4)
    affine[2, 3] = 100
    with pytest.raises(ResolutionError, match="no field of view along the row axis"):
        common_field_of_view(low, stack_frame(affine, (5, 5, 5), "coronal", like=low))


@pytest.mark.parametrize(
    ("text", "spacing", "slices"),
    [
        ("15", 0.05, 15),
        ("0", 0.05, 0),
        ("0.375mm", 0.025, 15),
        ("375um", 0.05, 8),
        ("1 mm", 0.5, 2),
    ],
)
def test_trim_counts_slices_or_length(text, spacing, slices):
    assert Trim.parse(text).n_slices(spacing) == slices


@pytest.mark.parametrize("text", ["", "-1", "1.5", "abc", "3 cm", "1e3"])
def test_trim_refuses_what_is_no_amount(text):
    with pytest.raises(UsageError, match="--trim"):
        Trim.parse(text)


def test_trim_leaves_at_least_five_slices():
    frame = stack_frame(np.eye(4), (4, 4, 35), "acquired")
    window = Window((0, 35), (0, 4), (0, 4))
    assert trim_window(window, frame, Trim(15, "slices"), name="LR").slices == (15, 20)
    with pytest.raises(TrimError, match="leaves 3") as caught:
        trim_window(window, frame, Trim(16, "slices"), name="LR")
    assert "--trim 0" in caught.value.hint


def test_trim_counts_from_the_ends_of_the_volume_not_of_the_crop():
    frame = stack_frame(np.eye(4), (4, 4, 40), "acquired")
    window = Window((10, 40), (0, 4), (0, 4))
    assert trim_window(window, frame, Trim(5, "slices"), name="HR").slices == (10, 35)


def test_intensity_map_spans_the_foreground():
    rng = np.random.default_rng(0)
    data = np.zeros((40, 40, 20), dtype=np.float32)
    x, y = np.ogrid[:40, :40]
    disc = np.hypot(x - 20, y - 20) < 12
    data[disc] = rng.uniform(100, 300, (disc.sum(), 20))
    mapping = intensity_map(data)
    assert 95 < mapping.low < 105
    assert 295 < mapping.high < 305
    padded = np.pad(data, ((3, 9), (0, 0), (2, 5)), constant_values=7)
    assert intensity_map(padded) == mapping
    image = mapping.apply(data)
    assert image.dtype == np.float32
    assert image.min() == 0
    assert image.max() == 1


def test_constant_volume_is_refused():
    with pytest.raises(ResolutionError, match="one single intensity"):
        intensity_map(np.full((8, 8, 8), 7, dtype=np.float32))


def test_reference_point_is_the_foreground_centroid_in_the_full_frame():
    slices = np.zeros((3, 10, 12), dtype=np.float32)
    slices[0, 2:5, 4:9] = 5
    slices[2, 0, 0] = 5
    points, empty = reference_points(slices, 1.0, origin=(100, 200))
    np.testing.assert_allclose(points[0], [103, 206])
    # Nothing there: the whole stack's, which no padding moves.
    np.testing.assert_allclose(points[1], [100 + 45 / 16, 200 + 90 / 16])
    # One pixel of fifteen is more than 5 %: not empty; no pixel is.
    assert empty.tolist() == [False, True, False]


@given(
    n=st.integers(4, 40),
    start=st.floats(0, 1),
    step=st.floats(0.5, 4),
)
def test_resize_keeps_constants_and_centres_ramps(n, start, step):
    n_out = max(1, int((n - 1 - start) / step))
    matrix = resize_matrix(n_out, n, start=start, step=step)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    inside = (start + step * np.arange(n_out) > 2 * step + 1) & (
        start + step * np.arange(n_out) < n - 2 * step - 2
    )
    ramp = matrix @ np.arange(n, dtype=np.float32)
    # Normalised rows keep constants exactly; a stretched kernel keeps ramps to a few per cent.
    np.testing.assert_allclose(
        ramp[inside], (start + step * np.arange(n_out))[inside], atol=0.05 * step
    )


def test_resize_halves_like_matlab_imresize():
    # imresize(x, 0.5, 'bicubic') of an impulse: Keys' kernel at odd quarters, halved.
    matrix = resize_matrix(8, 16, start=0.5, step=2)
    row = matrix[4]
    expected = np.array([-0.01171875, -0.03515625, 0.11328125, 0.43359375])
    np.testing.assert_allclose(row[5:9], expected, atol=1e-7)
    np.testing.assert_allclose(row[9:13], expected[::-1], atol=1e-7)


def test_resize_to_low_res_follows_the_affines():
    """A smooth pattern defined in the world looks the same from either grid."""

    def pattern(frame):
        index = np.stack(np.meshgrid(*map(np.arange, frame.shape), indexing="ij"), axis=-1)
        x, y, _ = np.moveaxis(apply_affine(frame.affine, index), -1, 0)
        return (0.5 + 0.3 * np.sin(2.1 * x) * np.cos(1.7 * y)).astype(np.float32)

    low_affine = np.diag([0.2, 0.25, 0.5, 1.0])
    low_affine[:3, 3] = 0.4, 0.3, 0
    low = stack_frame(low_affine, (20, 16, 6), "acquired")
    high = stack_frame(np.diag([0.131, 0.131, 0.5, 1.0]), (50, 50, 6), "acquired", like=low)
    window, high_window = common_field_of_view(low, high)
    resized = np.stack(
        list(
            resize_to_low_res(
                pattern(high), high, low, window, high_window.slices, IntensityMap(0, 1, 0)
            )
        )
    )
    expected = pattern(low)[window.index]
    inside = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(resized[inside], expected[inside], atol=0.01)
    # The test can fail: half an LR pixel of misplacement is ten times the tolerance.
    assert np.abs(np.roll(resized, 1, axis=2)[inside] - expected[inside]).max() > 0.05

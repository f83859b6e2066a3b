"""Registration: known motion is found, and what must not be believed is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from srmri_data.errors import RegistrationError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.pairing import registration_objections
from srmri_data.phantom import mouse_brain
from srmri_data.rigid import (
    Orientation,
    Registration,
    RegistrationConfig,
    matched_intensities,
    register_rigid,
    write_transform,
)
from srmri_data.simulate import SimulationConfig, simulate_low_res

CONFIG = RegistrationConfig(n_starts=1)
MOVED = SimulationConfig(
    shift_um=(150.0, 400.0, -250.0), tilt_deg=(1.5, -1.0, 2.0), snr=15, bias=0.1, seed=4
)


@pytest.fixture(scope="module")
def brain():
    return mouse_brain((52, 72, 32), 0.25, noise=0.03)


@pytest.fixture(scope="module")
def moved(brain):
    return simulate_low_res(brain, MOVED)


def register(low, high, config=CONFIG):
    return register_rigid(low.data, low.affine, high.data, high.affine, config)


@pytest.fixture(scope="module")
def found(moved, brain):
    return register(moved.low_res, brain)


def distance_in_voxels(found, made, high):
    index = np.argwhere(made.low_res.data > np.percentile(made.low_res.data, 60))[::53]
    to_high = np.linalg.inv(high.affine) @ found.matrix @ made.low_res.affine
    apart = apply_affine(to_high, index) - apply_affine(made.low_to_high, index)
    return np.sqrt((apart**2).sum(1))


def test_known_motion_is_found_to_a_fraction_of_a_voxel(found, moved, brain):
    assert distance_in_voxels(found, moved, brain).max() < 0.5
    assert found.quality > 0.9
    assert found.margin > 0
    assert found.doubted is None
    assert found.n_agreeing == found.n_starts == 3
    assert not found.is_scaled


def test_motion_is_reported_as_it_was_simulated(found):
    # The registration maps LR to HR: the inverse of where the animal went.
    assert np.allclose(found.angles_deg, [-1.5, 1.0, -2.0], atol=0.3)


def test_the_same_input_gives_the_same_bits(found, moved, brain):
    again = register(moved.low_res, brain)
    assert again.matrix.tobytes() == found.matrix.tobytes()
    assert again.score == found.score


def test_gain_and_offset_of_the_intensities_do_not_matter(found, moved, brain):
    low = replace(moved.low_res, data=moved.low_res.data * np.float32(3.7) + np.float32(50))
    assert np.array_equal(register(low, brain).matrix, found.matrix)


def test_the_standard_error_is_of_the_size_of_the_error(found, moved, brain):
    index = np.argwhere(moved.low_res.data > np.percentile(moved.low_res.data, 60))[::53]
    points = apply_affine(moved.low_res.affine, index)
    error = found.position_error(points, np.linalg.inv(brain.affine))
    assert (error > 0.001).all()
    assert (error < 0.3).all()


def test_a_mirrored_animal_is_noticed(moved, brain):
    mirrored = replace(moved.low_res, data=np.asfortranarray(moved.low_res.data[::-1]))
    found = register(mirrored, brain)
    assert found.doubted is not None
    assert str(found.doubted) == "reversed left–right"
    assert found.doubted.is_mirrored


def test_another_animal_fits_worse_than_the_same(found, moved):
    other = mouse_brain((52, 72, 32), 0.25, noise=0.03, animal=3)
    assert register(moved.low_res, other).quality < found.quality - 0.04


def test_a_difference_of_scale_is_found_and_followed(moved, brain):
    stretch = np.diag([1.02, 1.02, 1.02, 1.0])
    low = replace(moved.low_res, affine=stretch @ moved.low_res.affine)
    found = register(low, brain)
    assert found.is_scaled
    assert np.allclose(found.scale, 1 / 1.02, atol=0.015)
    # Ignored, 2 % of the brain's length are more than two voxels at its ends.
    assert distance_in_voxels(found, moved, brain).max() < 1.0


def test_inverted_contrast_goes_through_mutual_information(moved, brain):
    low = moved.low_res
    inside = low.data > 0.2 * np.percentile(low.data, 99)
    inverted = np.where(inside, 1.3 * np.percentile(low.data, 99) - low.data, low.data)
    found = register(replace(low, data=inverted.astype(np.float32)), brain)
    assert found.metric == "mutual-information"
    assert distance_in_voxels(found, moved, brain).mean() < 1.0


def test_a_lost_slice_is_bridged(found, moved, brain):
    data = moved.low_res.data.copy()
    data[11] = 0
    lost = register(replace(moved.low_res, data=data), brain)
    np.testing.assert_allclose(lost.score, found.score, atol=0.02)


def test_a_second_place_that_fits_as_well_is_noticed(brain):
    # The same 4 mm of brain twice in a row; LR's header points between the two.
    part = replace(brain, data=brain.data[:, 20:36])
    high = replace(part, data=np.asfortranarray(np.tile(part.data, (1, 2, 1))))
    low = simulate_low_res(part, SimulationConfig(snr=20, seed=1)).low_res
    between = np.eye(4)
    between[1, 3] = 2.0
    low = replace(low, affine=between @ low.affine)
    found = register(low, high, RegistrationConfig(n_starts=6, window_mm=4.0))
    assert found.elsewhere_um == pytest.approx(4000, rel=0.1)
    (objection,) = [text for text in registration_objections(found) if "away" in text]
    assert "the place is not certain" in objection


def test_one_place_leaves_no_objection(found):
    assert found.place_margin == 1.0
    assert registration_objections(found) == []


def test_a_part_that_can_not_be_registered_does_not_pass_for_one_that_agrees(found):
    assert len(found.replicates) == found.n_parts == 4
    (objection,) = registration_objections(replace(found, replicates=found.replicates[:3]))
    assert "only 3" in objection


def test_nothing_to_align_is_an_error(brain):
    with pytest.raises(RegistrationError, match="no animal"):
        register(replace(brain, data=np.full_like(brain.data, 3.0)), brain)


@pytest.mark.parametrize("settings", [{"window_mm": 0.0}, {"n_starts": 0}, {"seed": -1}])
def test_a_search_without_extent_is_refused(settings):
    with pytest.raises(UsageError):
        RegistrationConfig(**settings)


@pytest.mark.parametrize("scaled", [False, True])
def test_itk_reads_the_written_transform(found, tmp_path, scaled):
    import SimpleITK

    if scaled:
        matrix = found.matrix @ np.diag([1.01, 1.0, 0.99, 1.0])
        found = replace(found, matrix=matrix, is_scaled=True)
    write_transform(tmp_path / "transform.tfm", found)
    transform = SimpleITK.ReadTransform(str(tmp_path / "transform.tfm"))
    point = np.array([1.2, -3.4, 0.7])
    lps = np.array(transform.TransformPoint((point * (-1, -1, 1)).tolist()))
    np.testing.assert_allclose(lps * (-1, -1, 1), apply_affine(found.matrix, point), atol=1e-6)


def test_headers_alone_are_the_identity_without_evidence():
    believed = Registration.of_headers(np.zeros(3))
    assert (believed.matrix == np.eye(4)).all()
    assert believed.quality == 0
    assert np.isnan(believed.position_error(np.zeros((2, 3)), np.eye(4))).all()


@pytest.mark.parametrize(
    ("axes", "signs", "text", "mirrored"),
    [
        ((0, 1, 2), (1, 1, 1), "as the headers say", False),
        ((0, 1, 2), (-1, 1, 1), "reversed left–right", True),
        ((0, 1, 2), (1, -1, -1), "reversed back–front and bottom–top", False),
        ((1, 0, 2), (1, 1, 1), "axes exchanged (back–front, left–right, bottom–top)", True),
    ],
)
def test_orientations_are_named(axes, signs, text, mirrored):
    way = Orientation(axes, signs, 0.5)
    assert str(way) == text
    assert way.is_mirrored == mirrored


def test_the_intensity_curve_follows_the_mean():
    high = np.random.default_rng(0).random(20_000).astype(np.float32)
    at, mean = matched_intensities(1 - high**2, high)
    assert (np.diff(at) > 0).all()
    np.testing.assert_allclose(np.interp([0.2, 0.5, 0.8], at, mean), [0.96, 0.75, 0.36], atol=0.02)

"""ParaVision studies that brukerapi, which knows nothing of srmri, reads back."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brukerapi.dataset import Dataset
from brukerapi.jcampdx import JCAMPDX

from srmri_data.errors import AffineError, UsageError
from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.formats.paravision_writer import FlashProtocol, write_paravision_study
from srmri_data.volumes import Provenance, Volume

RODENT = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
PATIENT = np.diag([-1, -1, 1, 1])
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def volume(data, affine):
    return Volume(np.asarray(data), np.asarray(affine, float), Provenance(Path("v"), "memory"))


def affine_of(order, signs, tilt=0.0):
    """Orthogonal affine of any of the 48 orientations, turned by `tilt` radians."""
    turn = np.zeros((3, 3))
    turn[list(order), range(3)] = signs
    c, s = np.cos(tilt), np.sin(tilt)
    tilted = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    affine = np.eye(4)
    affine[:3, :3] = tilted @ turn * [0.025, 0.03, 0.0417]
    affine[:3, 3] = [-3.7, 8.25, 1.0 / 3]
    return affine


@pytest.fixture
def picture():
    return np.random.default_rng(0).gamma(2.0, 700.0, (7, 6, 5)).astype(np.float32)


def read(study, scan=1):
    return Dataset(str(study / str(scan) / "pdata" / "1" / "2dseq"))


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_geometry_of_every_orientation_survives(tmp_path, picture, order, signs):
    for tilt in (0.0, 0.11):
        affine = affine_of(order, signs, tilt)
        study = write_paravision_study(
            volume(picture, affine), tmp_path / str(tilt), subject_id="m"
        )
        dataset = read(study)
        np.testing.assert_allclose(RODENT @ dataset.affine_of_package(0), affine, atol=1e-9)
        assert np.abs(dataset.data[..., 0] - picture).max() <= 0.51 * picture.max() / 32766


def test_geometry_holds_at_the_far_corner_of_a_large_matrix(tmp_path):
    affine = affine_of((1, 0, 2), (1, -1, 1), 0.3).astype(np.float32).astype(float)
    large = np.zeros((720, 4, 304), np.int16)
    study = write_paravision_study(volume(large, affine), tmp_path / "s", subject_id="m")
    found = RODENT @ read(study).affine_of_package(0)
    corner = [719, 3, 303, 1]
    np.testing.assert_allclose(found @ corner, affine @ corner, atol=1e-4)


@pytest.mark.parametrize(
    ("subject_type", "frame"),
    [("Quadruped", RODENT), ("OtherAnimal", RODENT), ("Biped", PATIENT), ("Phantom", PATIENT)],
)
def test_subject_type_decides_the_frame(tmp_path, picture, subject_type, frame):
    affine = affine_of((0, 1, 2), (1, 1, 1))
    study = write_paravision_study(
        volume(picture, affine), tmp_path / "s", subject_id="m", subject_type=subject_type,
        position="Head_Supine",
    )  # fmt: skip
    dataset = read(study)
    np.testing.assert_allclose(frame @ dataset.affine_of_package(0), affine, atol=1e-9)
    assert dataset["VisuSubjectType"].value == subject_type
    assert dataset["VisuSubjectPosition"].value == "Head_Supine"


@pytest.mark.parametrize(
    ("word_type", "steps"),
    [
        ("_8BIT_UNSGN_INT", 255),
        ("_16BIT_SGN_INT", 32766),
        ("_32BIT_SGN_INT", 2**24),
        ("_32BIT_FLOAT", 2**24),
    ],
)
@pytest.mark.parametrize("offset", [0.0, -900.0])
def test_word_types(tmp_path, picture, word_type, steps, offset):
    shifted = picture + np.float32(offset)
    study = write_paravision_study(
        volume(shifted, np.eye(4)), tmp_path / "s", subject_id="m", word_type=word_type
    )
    found = read(study).data[..., 0]
    largest = max(np.ptp(shifted), np.abs(shifted).max())
    assert np.abs(found - shifted).max() <= 0.51 * largest / steps
    words = {"_8BIT_UNSGN_INT": 1, "_16BIT_SGN_INT": 2}.get(word_type, 4)
    assert (study / "1/pdata/1/2dseq").stat().st_size == picture.size * words


@pytest.mark.parametrize("level", [0.0, 5.0, -3.0])
def test_constant_volume(tmp_path, level):
    for word_type in ("_8BIT_UNSGN_INT", "_16BIT_SGN_INT"):
        study = write_paravision_study(
            volume(np.full((3, 4, 5), level, np.float32), np.eye(4)),
            tmp_path / word_type, subject_id="m", word_type=word_type,
        )  # fmt: skip
        np.testing.assert_allclose(read(study).data, level, atol=1e-6)


def test_header_of_a_3d_flash_scan(tmp_path, picture):
    protocol = FlashProtocol(name="GRE 25um", echo_time_ms=4.5, repetition_time_ms=80)
    study = write_paravision_study(
        [(3, volume(picture, affine_of((0, 1, 2), (1, 1, 1))))],
        tmp_path / "s", subject_id="5xFAD-01", protocol=protocol,
    )  # fmt: skip
    names = sorted(str(p.relative_to(study)) for p in study.rglob("*") if p.is_file())
    reco = [f"3/pdata/1/{name}" for name in ("2dseq", "id", "reco", "visu_pars")]
    assert names == sorted(["3/acqp", "3/method", *reco, "subject"])
    visu = JCAMPDX(study / "3/pdata/1/visu_pars")
    assert visu["VisuCoreDim"].value == 3
    assert visu["VisuCoreSize"].value.tolist() == [7, 6, 5]
    np.testing.assert_allclose(visu["VisuCoreExtent"].value, [0.175, 0.18, 0.2085])
    assert visu["VisuAcqSequenceName"].value == "Bruker:FLASH"
    assert visu["VisuAcquisitionProtocol"].value == "GRE 25um"
    assert visu["VisuAcqEchoTime"].value == 4.5
    assert visu["VisuAcqRepetitionTime"].value == 80
    assert visu["VisuAcqFlipAngle"].value == 45
    assert visu["VisuExperimentNumber"].value == 3
    assert visu["VisuSubjectId"].value == "5xFAD-01"
    method = JCAMPDX(study / "3/method")
    assert method["Method"].value == "Bruker:FLASH"
    assert method["PVM_SpatDimEnum"].value == "3D"
    assert method["PVM_Matrix"].value.tolist() == [7, 6, 5]
    np.testing.assert_allclose(method["PVM_SpatResol"].value, [0.025, 0.03, 0.0417])
    assert method["PVM_SPackArrGradOrient"].value.shape == (1, 3, 3)
    acqp = JCAMPDX(study / "3/acqp")
    assert acqp["ACQ_dim"].value == 3
    np.testing.assert_allclose(acqp["ACQ_fov"].value, np.array([0.175, 0.18, 0.2085]) / 10)
    assert JCAMPDX(study / "subject")["SUBJECT_id"].value == "5xFAD-01"
    slope = float(np.ravel(visu["VisuCoreDataSlope"].value)[0])
    map_slope = float(np.ravel(JCAMPDX(study / "3/pdata/1/reco")["RECO_map_slope"].value)[0])
    assert slope * map_slope == pytest.approx(1)


def test_lines_are_short_and_no_place_or_time_leaks(tmp_path, picture):
    study = write_paravision_study(volume(picture, np.eye(4)), tmp_path / "s", subject_id="m")
    for path in study.rglob("*"):
        if path.is_file() and path.name != "2dseq":
            text = path.read_text(encoding="utf-8")
            assert max(map(len, text.splitlines())) <= 100
            assert str(tmp_path) not in text
            assert text.endswith("##END=\n")


def test_same_volume_same_bytes(tmp_path, picture):
    files = []
    for name in ("a", "b"):
        study = write_paravision_study(volume(picture, np.eye(4)), tmp_path / name, subject_id="m")
        files.append(
            {p.relative_to(study): p.read_bytes() for p in study.rglob("*") if p.is_file()}
        )
    assert files[0] == files[1]


def test_two_scans_in_one_study(tmp_path, picture):
    coarse = volume(picture[::2, ::2, ::2].copy(), np.diag([0.05, 0.05, 0.05, 1]))
    fine = volume(picture, np.diag([0.025, 0.025, 0.025, 1]))
    study = write_paravision_study([(1, fine), (4, coarse)], tmp_path / "s", subject_id="m")
    assert read(study, 1).data.shape[:3] == fine.shape
    assert read(study, 4).data.shape[:3] == coarse.shape
    uids = {read(study, n)["VisuUid"].value for n in (1, 4)}
    assert len(uids) == 2
    assert len({read(study, n)["VisuStudyUid"].value for n in (1, 4)}) == 1


def test_memory_order_does_not_matter(tmp_path, picture):
    for name, data in (("c", picture), ("f", np.asfortranarray(picture))):
        write_paravision_study(volume(data, np.eye(4)), tmp_path / name, subject_id="m")
    bytes_of = [(tmp_path / n / "1/pdata/1/2dseq").read_bytes() for n in "cf"]
    assert bytes_of[0] == bytes_of[1]


def test_sheared_volume_is_refused_and_nothing_is_written(tmp_path, picture):
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    scans = [(1, volume(picture, np.eye(4))), (2, volume(picture, sheared))]
    with pytest.raises(AffineError, match="right angles"):
        write_paravision_study(scans, tmp_path / "s", subject_id="m")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"subject_id": ""},
        {"subject_id": "a" * 60},
        {"subject_id": "<b>"},
        {"subject_id": "two\nlines"},
        {"subject_type": "Dragon"},
        {"position": "Upside_Down"},
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, picture, bad):
    with pytest.raises(UsageError):
        write_paravision_study(
            volume(picture, np.eye(4)), tmp_path / "s", **{"subject_id": "m", **bad}
        )
    assert not (tmp_path / "s").exists()


def test_existing_scans_and_bad_values_are_refused(tmp_path, picture):
    fine = volume(picture, np.eye(4))
    write_paravision_study(fine, tmp_path / "s", subject_id="m")
    with pytest.raises(UsageError, match="exists already"):
        write_paravision_study(fine, tmp_path / "s", subject_id="m")
    with pytest.raises(UsageError, match="scan numbers"):
        write_paravision_study([(1, fine), (1, fine)], tmp_path / "t", subject_id="m")
    picture[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match="finite"):
        write_paravision_study(volume(picture, np.eye(4)), tmp_path / "t", subject_id="m")


# --- NIfTI -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "<f4", ">f4", "<f8"])
def test_nifti_round_trip(tmp_path, picture, dtype):
    affine = affine_of((2, 0, 1), (-1, 1, 1), 0.2)
    data = np.asfortranarray(picture / 40).astype(dtype)
    path = write_nifti(tmp_path / "a.nii.gz", data, affine, slope=2.0, intercept=-3.0)
    image = nib.load(path)
    np.testing.assert_allclose(np.asarray(image.dataobj), data * 2.0 - 3.0, rtol=1e-6)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_nifti_bytes_depend_on_nothing_but_the_image(tmp_path, picture):
    one = write_nifti(tmp_path / "one.nii.gz", picture, np.eye(4)).read_bytes()
    two = write_nifti(tmp_path / "two.nii.gz", picture, np.eye(4)).read_bytes()
    assert one == two
    # No flags (so no file name), no time stamp.
    assert one[3] == 0
    assert one[4:8] == bytes(4)
    assert len(gzip.decompress(one)) == 352 + picture.nbytes


def test_nifti_with_shear_has_an_sform_only(tmp_path, picture):
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    image = nib.load(write_nifti(tmp_path / "a.nii.gz", picture, sheared))
    np.testing.assert_allclose(image.affine, sheared, atol=1e-6)
    assert image.get_qform(coded=True)[0] is None


def test_nifti_refuses_what_it_can_not_hold(tmp_path, picture):
    with pytest.raises(UsageError, match="can not hold"):
        write_nifti(tmp_path / "a.nii.gz", picture > 5, np.eye(4))
    with pytest.raises(UsageError, match=r"\.nii\.gz"):
        write_nifti(tmp_path / "a.nii", picture, np.eye(4))
    assert list(tmp_path.iterdir()) == []

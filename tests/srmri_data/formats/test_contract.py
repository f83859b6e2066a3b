"""What every format promises, asked of every format in the same words."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from srmri_data.errors import (
    FormatError,
    MissingInputError,
    NoScanError,
    SizeLawError,
    TruncatedError,
)
from srmri_data.formats import find_images, read_headers, read_volume
from srmri_data.formats.paravision_writer import write_paravision_study
from srmri_data.volumes import Provenance, Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_itk(data: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = _RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(data.T)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def write_paravision(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    volume = Volume(data.astype(np.float32), affine, Provenance(Path("memory"), "memory"))
    write_paravision_study(volume, folder / "study", subject_id="m01", word_type="_32BIT_FLOAT")
    return folder / "study" / "1" / "pdata" / "1"


def write_nifti(folder: Path, data: np.ndarray, affine: np.ndarray, name: str = "a.nii") -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / name)
    return folder / name


def write_nifti_gz(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    return write_nifti(folder, data, affine, "a.nii.gz")


def write_nifti_pair(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Pair(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / "a.hdr")
    return folder / "a.hdr"


def write_nifti2(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti2Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / "a.nii")
    return folder / "a.nii"


def itk_writer(name: str, compress: bool) -> Callable[[Path, np.ndarray, np.ndarray], Path]:
    def write(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
        sitk.WriteImage(as_itk(data, affine), str(folder / name), useCompression=compress)
        return folder / name

    return write


def write_dicom(folder: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """One file per slice, in shuffled order, as an export may be."""
    series = folder / "series"
    series.mkdir(exist_ok=True)
    image = as_itk(data, affine)
    direction = image.GetDirection()
    orientation = [direction[n] for n in (0, 3, 6, 1, 4, 7)]
    order = np.random.default_rng(0).permutation(data.shape[2])
    for k in range(data.shape[2]):
        plane = image[:, :, k : k + 1]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for tag, value in {
            "0008|0060": "MR",
            "0010|0020": "m01",
            "0018|0024": "FLASH",
            "0018|0050": str(image.GetSpacing()[2]),
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0020|0011": "3",
            "0020|0032": "\\".join(f"{c:.10g}" for c in position),
            "0020|0037": "\\".join(f"{c:.10g}" for c in orientation),
        }.items():
            plane.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(series / f"{order[k]:03d}.dcm"))
        writer.Execute(plane)
    return series


WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "paravision": write_paravision,
    "nifti": write_nifti,
    "nifti.gz": write_nifti_gz,
    "nifti pair": write_nifti_pair,
    "nifti2": write_nifti2,
    "nrrd": itk_writer("a.nrrd", compress=False),
    "nrrd gzip": itk_writer("a.nrrd", compress=True),
    "nhdr": itk_writer("a.nhdr", compress=False),
    "mha": itk_writer("a.mha", compress=False),
    "mha zlib": itk_writer("a.mha", compress=True),
    "mhd": itk_writer("a.mhd", compress=False),
    "mhd zlib": itk_writer("a.mhd", compress=True),
    "dicom": write_dicom,
}


def canonical(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine in the closest RAS order, by nibabel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return np.asarray(image.dataobj), image.affine


def orientations() -> list[np.ndarray]:
    matrices = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((4, 4))
            matrix[3, 3] = 1
            for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
                matrix[axis, column] = sign * (0.1, 0.2, 0.3)[column]
            matrix[:3, 3] = (1.5, -2.5, 3.5)
            matrices.append(matrix)
    return matrices


def oblique() -> np.ndarray:
    turn, tilt = np.radians([20.0, -8.0])
    about_z = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag([0.05, 0.06, 0.1])
    matrix[:3, 3] = (-3.0, 4.0, 5.0)
    return matrix


@pytest.mark.parametrize("kind", WRITERS)
def test_values_affine_and_header(kind: str, tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = WRITERS[kind](tmp_path, asymmetric, oblique())
    (header,) = read_headers(path)
    volume = read_volume(header)
    # DICOM has no slice order of its own: compared in world coordinates.
    data, affine = canonical(volume)
    wanted_data, wanted_affine = canonical(
        Volume(asymmetric.astype(np.float32), oblique(), volume.provenance)
    )
    np.testing.assert_array_equal(data, wanted_data)
    np.testing.assert_allclose(affine, wanted_affine, atol=1e-4)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.f_contiguous
    assert header.shape == volume.shape
    assert header.spacing == volume.spacing
    assert header.orientation == volume.orientation
    np.testing.assert_array_equal(header.affine, volume.affine)
    assert find_images(tmp_path) == [path]


@pytest.mark.parametrize("kind", WRITERS)
def test_provenance_names_a_source_for_every_fact(
    kind: str, tmp_path: Path, asymmetric: np.ndarray
) -> None:
    path = WRITERS[kind](tmp_path, asymmetric, oblique())
    provenance = read_volume(path).provenance
    assert provenance.path == path
    assert provenance.fields
    for name, entry in provenance.fields.items():
        assert entry.source, name
        json.dumps(entry.value, allow_nan=False)
    assert provenance.files
    assert all(file.is_file() for file in provenance.files)


@pytest.mark.parametrize("kind", WRITERS)
def test_stored_numbers_scale_to_the_same_values(
    kind: str, tmp_path: Path, asymmetric: np.ndarray
) -> None:
    path = WRITERS[kind](tmp_path, asymmetric, oblique())
    kept = read_volume(path, dtype="stored")
    if kind not in ("paravision", "dicom"):
        assert kept.data.dtype == np.int16
    np.testing.assert_allclose(kept.scaled().data, read_volume(path).data, rtol=1e-6)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_truncation_goes_unseen(kind: str, tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = WRITERS[kind](tmp_path, asymmetric, oblique())
    read_volume(path)
    voxels = read_headers(path)[0].provenance.files[-1]
    whole = voxels.read_bytes()
    for missing in (1, 9, 80, len(whole) // 2, len(whole) - 1, len(whole)):
        voxels.write_bytes(whole[: len(whole) - missing])
        # A cut inside a text header leaves no header at all; elsewhere bytes are missing.
        in_header = voxels == path and missing > 80
        expected = FormatError if in_header or kind == "dicom" else TruncatedError
        with pytest.raises((expected, SizeLawError)):
            read_volume(path)


@pytest.mark.parametrize("kind", WRITERS)
def test_unknown_path(kind: str, tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = WRITERS[kind](tmp_path, asymmetric, oblique())
    gone = path.rename(path.with_name("kept"))
    with pytest.raises(MissingInputError):
        read_headers(path)
    with pytest.raises(FileNotFoundError):
        read_volume(path)
    if gone.is_dir():
        for file in gone.iterdir():
            file.unlink()
        with pytest.raises(NoScanError):
            read_headers(gone)


@pytest.mark.parametrize("kind", WRITERS)
def test_inside_a_zip_archive(kind: str, tmp_path: Path, asymmetric: np.ndarray) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = WRITERS[kind](folder, asymmetric, oblique())
    expected = read_volume(path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    (inside,) = find_images(archive)
    assert inside == archive / path.relative_to(folder)
    for name in (archive, inside):
        volume = read_volume(name)
        np.testing.assert_array_equal(volume.data, expected.data)
        np.testing.assert_array_equal(volume.affine, expected.affine)
        assert volume.provenance.files == (archive,)
    with pytest.raises(MissingInputError):
        read_headers(archive / "elsewhere")


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if "gz" not in kind])
def test_all_48_orientations(kind: str, tmp_path: Path, asymmetric: np.ndarray) -> None:
    for number, matrix in enumerate(orientations()):
        folder = tmp_path / str(number)
        folder.mkdir()
        volume = read_volume(WRITERS[kind](folder, asymmetric, matrix))
        data, affine = canonical(volume)
        wanted = nib.as_closest_canonical(nib.Nifti1Image(asymmetric.astype(np.float32), matrix))
        np.testing.assert_array_equal(data, np.asarray(wanted.dataobj))
        np.testing.assert_allclose(affine, wanted.affine, atol=1e-4)
        if kind != "dicom":
            assert volume.orientation == "".join(nib.aff2axcodes(matrix))

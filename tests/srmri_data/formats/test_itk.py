"""NRRD, MetaImage and DICOM: headers that lie, series that are none."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from srmri_data.errors import (
    AffineError,
    ChecksumError,
    FormatError,
    MissingInputError,
    SizeLawError,
    SrmriError,
    TruncatedError,
)
from srmri_data.formats import read_headers, read_volume
from srmri_data.formats.bruker import RODENT_TO_RAS

NRRD = {
    "type": "int16",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "7 6 5",
    "space directions": "(0.1,0,0) (0,0.2,0) (0,0,0.3)",
    "space origin": "(1,2,3)",
    "encoding": "raw",
    "endian": "little",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "1 2 3",
    "ElementSpacing": "0.1 0.2 0.3",
    "DimSize": "7 6 5",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
LPS = np.array([[0.1, 0, 0, 1], [0, 0.2, 0, 2], [0, 0, 0.3, 3], [0, 0, 0, 1]])
RAS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ LPS


def payload(data: np.ndarray, order: str = "<") -> bytes:
    return data.astype(f"{order}i2").ravel(order="F").tobytes()


def nrrd(path: Path, content: bytes, **changes: str | None) -> Path:
    fields = NRRD | {key.replace("_", " "): value for key, value in changes.items()}
    lines = ["NRRD0004", "# a comment"]
    lines += [f"{key}: {value}" for key, value in fields.items() if value is not None]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + content)
    return path


def meta(path: Path, content: bytes, **changes: str | None) -> Path:
    # ElementDataFile has to stay the last key.
    fields = {k: v for k, v in (META | changes).items() if k != "ElementDataFile"}
    fields["ElementDataFile"] = (META | changes)["ElementDataFile"]
    lines = [f"{key} = {value}" for key, value in fields.items() if value is not None]
    path.write_bytes("\n".join([*lines, ""]).encode() + content)
    return path


def test_nrrd_variants_equal_itk(tmp_path: Path, asymmetric: np.ndarray) -> None:
    raw = payload(asymmetric)
    (tmp_path / "b.raw").write_bytes(b"skip" + raw)
    (tmp_path / "c.raw.gz").write_bytes(gzip.compress(raw))
    variants = [
        nrrd(tmp_path / "a.nrrd", raw),
        nrrd(tmp_path / "a2.nrrd", payload(asymmetric, ">"), endian="big"),
        nrrd(tmp_path / "a3.nrrd", gzip.compress(raw), encoding="gzip"),
        nrrd(tmp_path / "b.nhdr", b"", data_file="b.raw", byte_skip="4"),
        nrrd(tmp_path / "b2.nhdr", b"", data_file="b.raw", byte_skip="-1"),
        nrrd(tmp_path / "c.nhdr", b"", data_file="c.raw.gz", encoding="gz"),
    ]
    for path in variants:
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, asymmetric, err_msg=path.name)
        np.testing.assert_allclose(volume.affine, RAS, atol=1e-9)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, asymmetric, err_msg=path.name
        )


def test_nrrd_spaces_and_units(tmp_path: Path, asymmetric: np.ndarray) -> None:
    raw = payload(asymmetric)
    for space, sign in (("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))):
        path = nrrd(tmp_path / "a.nrrd", raw, space=space)
        np.testing.assert_allclose(
            read_headers(path)[0].affine, np.diag([*sign, 1.0]) @ LPS, atol=1e-9
        )
    path = nrrd(tmp_path / "um.nrrd", raw, space_units='"um" "um" "um"')
    np.testing.assert_allclose(read_headers(path)[0].spacing, (1e-4, 2e-4, 3e-4))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"space": None}, AffineError),
        ({"space": "scanner-xyz"}, AffineError),
        ({"space_directions": None}, AffineError),
        ({"space_directions": "none (0,0.2,0) (0,0,0.3)"}, AffineError),
        ({"space_directions": "(0,0,0) (0,0.2,0) (0,0,0.3)"}, SrmriError),
        ({"space_directions": "(nan,0,0) (0,0.2,0) (0,0,0.3)"}, SrmriError),
        ({"space_origin": None}, AffineError),
        ({"space_units": '"parsec" "parsec" "parsec"'}, AffineError),
        ({"sizes": "700 600 500"}, TruncatedError),
        ({"sizes": "-7 -6 5"}, FormatError),
        ({"sizes": "7 6"}, FormatError),
        ({"dimension": "4"}, FormatError),
        ({"dimension": None}, FormatError),
        ({"type": "block"}, FormatError),
        ({"encoding": "bzip2"}, FormatError),
        ({"encoding": "gzip", "sizes": "70000 6000 5000"}, SizeLawError),
        ({"encoding": "gzip"}, ChecksumError),
        ({"endian": None}, FormatError),
        ({"data_file": "../secret"}, FormatError),
        ({"data_file": "/etc/hostname"}, FormatError),
        ({"data_file": "LIST"}, FormatError),
        ({"data_file": "s%03d.raw 1 5 1"}, FormatError),
        ({"data_file": "gone.raw"}, MissingInputError),
        ({"line_skip": "3"}, FormatError),
    ],
)
def test_bad_nrrd(
    tmp_path: Path,
    asymmetric: np.ndarray,
    changes: dict[str, str | None],
    error: type[SrmriError],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "secret").write_bytes(payload(asymmetric))
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(error):
        read_volume(nrrd(folder / "a.nrrd", payload(asymmetric), **changes))
    assert capfd.readouterr() == ("", "")


def test_metaimage_variants_equal_itk(tmp_path: Path, asymmetric: np.ndarray) -> None:
    raw = payload(asymmetric)
    (tmp_path / "b.raw").write_bytes(b"skip" + raw)
    (tmp_path / "c.zraw").write_bytes(zlib.compress(raw))
    variants = [
        meta(tmp_path / "a.mha", raw),
        meta(tmp_path / "a2.mha", payload(asymmetric, ">"), BinaryDataByteOrderMSB="True"),
        meta(
            tmp_path / "a3.mha",
            zlib.compress(raw),
            CompressedData="True",
            CompressedDataSize=str(len(zlib.compress(raw))),
        ),
        meta(tmp_path / "b.mhd", b"", ElementDataFile="b.raw", HeaderSize="4"),
        meta(tmp_path / "b2.mhd", b"", ElementDataFile="b.raw", HeaderSize="-1"),
        meta(
            tmp_path / "c.mhd",
            b"",
            ElementDataFile="c.zraw",
            CompressedData="True",
            CompressedDataSize=str(len(zlib.compress(raw))),
        ),
    ]
    for path in variants:
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, asymmetric, err_msg=path.name)
        np.testing.assert_allclose(volume.affine, RAS, atol=1e-9)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, asymmetric, err_msg=path.name
        )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"TransformMatrix": None}, AffineError),
        ({"Offset": None}, AffineError),
        ({"ElementSpacing": None}, AffineError),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, SrmriError),
        ({"DistanceUnits": "inch"}, AffineError),
        ({"DimSize": "700 600 500"}, TruncatedError),
        ({"DimSize": "7 6"}, FormatError),
        ({"NDims": "4"}, FormatError),
        ({"NDims": None}, FormatError),
        ({"ElementNumberOfChannels": "3"}, FormatError),
        ({"ElementType": "MET_LONG_DOUBLE"}, FormatError),
        ({"BinaryData": "False"}, FormatError),
        ({"CompressedData": "True"}, ChecksumError),
        ({"CompressedData": "True", "DimSize": "70000 6000 5000"}, SizeLawError),
        ({"ElementToIntensityFunctionSlope": "2"}, FormatError),
        ({"ElementDataFile": "../secret"}, FormatError),
        ({"ElementDataFile": "/etc/hostname"}, FormatError),
        ({"ElementDataFile": "LIST"}, FormatError),
        ({"ElementDataFile": "gone.raw"}, MissingInputError),
    ],
)
def test_bad_metaimage(
    tmp_path: Path,
    asymmetric: np.ndarray,
    changes: dict[str, str | None],
    error: type[SrmriError],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "secret").write_bytes(payload(asymmetric))
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(error):
        read_volume(meta(folder / "a.mha", payload(asymmetric), **changes))
    assert capfd.readouterr() == ("", "")


def test_detached_data_may_not_be_a_link_that_leads_out(
    tmp_path: Path, asymmetric: np.ndarray
) -> None:
    (tmp_path / "secret").write_bytes(payload(asymmetric))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.raw").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="leads out"):
        read_headers(nrrd(folder / "b.nhdr", b"", data_file="b.raw"))


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_no_bit_flip_in_compressed_data_gives_other_voxels(tmp_path: Path, kind: str) -> None:
    data = np.random.default_rng(1).normal(1000, 100, (12, 10, 8)).astype(np.int16)
    path = tmp_path / f"a.{kind}"
    if kind == "nrrd":
        nrrd(path, gzip.compress(payload(data), mtime=0), encoding="gzip", sizes="12 10 8")
    else:
        meta(path, zlib.compress(payload(data)), CompressedData="True", DimSize="12 10 8")
    np.testing.assert_array_equal(read_volume(path).data, data)
    whole = path.read_bytes()
    start = whole.index(b"\n\n") + 2 if kind == "nrrd" else whole.index(b"LOCAL\n") + 6
    refused = 0
    for at in np.random.default_rng(2).integers(start * 8, len(whole) * 8, 200):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            volume = read_volume(path)
        except SrmriError:
            refused += 1
        else:
            np.testing.assert_array_equal(volume.data, data)
    assert refused > 180


Export = Callable[..., Path]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Write slices of one DICOM series at given positions along z."""

    def write(
        name: str,
        positions: list[float],
        *,
        uid: str = "1.2.3.4",
        drop: tuple[str, ...] = (),
        axes: str = "1\\0\\0\\0\\1\\0",
        **tags: str,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for index, z in enumerate(positions):
            image = sitk.GetImageFromArray(np.full((1, 6, 7), index, dtype=np.int16))
            image.SetSpacing((0.1, 0.2, 0.3))
            values = {
                "0008|0060": "MR",
                "0018|0050": "0.3",
                "0020|000d": "1.2.3",
                "0020|000e": uid,
                "0020|0011": uid.split(".")[-1],
                "0020|0032": f"1\\2\\{z}",
                "0020|0037": axes,
            }
            values |= {key.replace("_", "|"): value for key, value in tags.items()}
            for tag, value in values.items():
                if tag not in drop:
                    image.SetMetaData(tag, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(folder / f"{uid}_{index}.dcm"))
            writer.Execute(image)
        return folder

    return write


def test_slices_are_ordered_by_position(export: Export) -> None:
    (header,) = read_headers(export("a", [0.9, 0.0, 0.3, 0.6]))
    assert header.shape == (7, 6, 4)
    np.testing.assert_allclose(header.spacing, (0.1, 0.2, 0.3))
    np.testing.assert_array_equal(read_volume(header).data[0, 0], [1, 2, 3, 0])


def test_missing_slice_is_refused(export: Export) -> None:
    with pytest.raises(AffineError, match="not evenly spaced"):
        read_headers(export("a", [0.0, 0.3, 0.9, 1.2]))


def test_several_images_at_one_position_are_refused(export: Export) -> None:
    with pytest.raises(FormatError, match="one slice position"):
        read_headers(export("a", [0.0, 0.3, 0.3, 0.6]))


def test_several_series_and_orientations_are_packages(export: Export) -> None:
    export("a", [0.0, 0.3], uid="1.2.3.5")
    export("a", [0.0, 0.3, 0.6], uid="1.2.3.4")
    folder = export("a", [0.0], uid="1.2.3.6", axes="0\\1\\0\\0\\0\\1")
    headers = read_headers(folder)
    assert [h.shape[2] for h in headers] == [3, 2, 1]
    assert [(h.package, h.packages) for h in headers] == [(1, 3), (2, 3), (3, 3)]
    assert headers[2].orientation != headers[0].orientation
    # One file stands for the series it belongs to.
    (series,) = read_headers(folder / "1.2.3.5_0.dcm")
    assert series.shape[2] == 2
    assert read_volume(series).shape == (7, 6, 2)


def test_subject_type_puts_dicom_into_the_rodent_frame(export: Export) -> None:
    folder = export("a", [0.0, 0.3])
    lps = np.array([[0.1, 0, 0, 1], [0, 0.2, 0, 2], [0, 0, 0.3, 0], [0, 0, 0, 1]])
    (patient,) = read_headers(folder)
    np.testing.assert_allclose(patient.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-6)
    (rodent,) = read_headers(folder, subject_type="Quadruped")
    np.testing.assert_allclose(rodent.affine, RODENT_TO_RAS @ lps, atol=1e-6)
    assert rodent.provenance.fields["world_frame"].source == "override"


def test_file_that_is_no_dicom(export: Export, tmp_path: Path) -> None:
    folder = export("a", [0.0, 0.3])
    (folder / "x.dcm").write_bytes(b"text")
    with pytest.raises(FormatError, match="marker"):
        read_headers(folder)
    (folder / "x.dcm").unlink()
    (folder / "notes.txt").write_bytes(b"text")
    assert len(read_headers(folder)) == 1


def test_brukers_dicom_without_a_slice(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "bruker" / "pv6.0.1_mousebody_GPL3" / "2" / "pdata" / "1" / "dicom"
    folder = Path(shutil.copytree(source, tmp_path / "dicom"))
    (header,) = read_headers(folder)
    assert header.shape == (128, 128, 24)
    assert header.provenance.value("subject_id") == "chin"
    (folder / "MRIm10.dcm").chmod(0o644)
    (folder / "MRIm10.dcm").unlink()
    with pytest.raises(AffineError, match="not evenly spaced"):
        read_headers(folder)

"""NIfTI: damage, bombs, units, and which of its two geometries counts."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srmri_data.errors import (
    AffineError,
    AmbiguousScanError,
    ChecksumError,
    FormatError,
    SizeLawError,
    SrmriError,
    TruncatedError,
)
from srmri_data.formats import find_images, read_headers, read_volume

AFFINE = np.array([[-0.1, 0, 0, 4], [0, 0.2, 0, 5], [0, 0, 0.3, 6], [0, 0, 0, 1.0]])


def write(
    path: Path, data: np.ndarray, *, units: str = "mm", patch: dict[int, bytes] | None = None
) -> Path:
    """Save with nibabel, then overwrite header bytes by offset."""
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.header.set_xyzt_units(units)
    content = bytearray(image.to_bytes())
    for offset, value in (patch or {}).items():
        content[offset : offset + len(value)] = value
    packed = gzip.compress(bytes(content), mtime=0) if path.suffix == ".gz" else bytes(content)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("code", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_voxel_type_equals_nibabel(
    tmp_path: Path, asymmetric: np.ndarray, code: str, order: str
) -> None:
    data = np.abs(asymmetric % 100).astype(code)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(code).newbyteorder(order))
    header.set_xyzt_units("mm")
    image = nib.Nifti1Image(data, AFFINE, header)
    image.header.set_slope_inter(2.5, -7.0)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(
        volume.data, np.asarray(nib.load(path).dataobj).astype(np.float32)
    )
    assert volume.provenance.value("byte_order") == {"<": "little", ">": "big"}[order]


def test_every_shared_image_equals_nibabel(shared_data: Path) -> None:
    images = find_images(shared_data / "nifti")
    assert len(images) == 26
    for path in images:
        reference = nib.load(path)
        volume = read_volume(path)
        np.testing.assert_array_equal(
            volume.data, np.asarray(reference.dataobj, dtype=np.float32), err_msg=str(path)
        )
        np.testing.assert_array_equal(volume.affine, reference.affine)


def test_four_dimensions(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(-99, 99, (4, 5, 6, 3)).astype(np.int16)
    for name in ("a.nii", "a.nii.gz"):
        path = write(tmp_path / name, data)
        (header,) = read_headers(path)
        assert header.frame_groups == {"volume": 3}
        with pytest.raises(AmbiguousScanError, match=r"volume=1\.\.3"):
            read_volume(header)
        for number in (1, 2, 3):
            volume = read_volume(header, frame={"volume": number})
            np.testing.assert_array_equal(volume.data, data[..., number - 1])


def test_trailing_single_dimensions_are_no_frames(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii", asymmetric[..., None, None])
    assert read_headers(path)[0].frame_groups == {}
    np.testing.assert_array_equal(read_volume(path).data, asymmetric)


def test_58_bytes_that_claim_gigabytes(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 3))
    header.set_data_dtype(np.float32)
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = AFFINE[:3]
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4, mtime=0))
    assert path.stat().st_size < 200
    code = (
        "import sys, resource; from pathlib import Path; from srmri_data.formats import "
        "read_volume\n"
        "try: read_volume(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    name, peak = run.stdout.split()
    assert name == "SizeLawError"
    assert int(peak) < 200_000
    started = time.perf_counter()
    with pytest.raises(SizeLawError, match="compressed bytes"):
        read_headers(path)
    assert time.perf_counter() - started < 0.05


def test_uncompressed_claim_beyond_the_file(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii", asymmetric, patch={42: struct.pack("<3h", 3000, 3000, 3000)})
    with pytest.raises(TruncatedError, match="claims"):
        read_headers(path)


def test_no_bit_flip_gives_other_voxels(tmp_path: Path) -> None:
    data = np.random.default_rng(1).normal(1000, 100, (24, 20, 16)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", data)
    whole = path.read_bytes()
    random = np.random.default_rng(2)
    outcomes: dict[str, int] = {}
    for at in random.integers(0, len(whole) * 8, 400):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            volume = read_volume(path)
        except SrmriError as error:
            outcomes[type(error).__name__] = outcomes.get(type(error).__name__, 0) + 1
        else:
            np.testing.assert_array_equal(volume.data, data)
    assert outcomes["ChecksumError"] > 350


def test_single_flip_is_a_checksum_error(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii.gz", asymmetric)
    whole = bytearray(path.read_bytes())
    whole[-8] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ChecksumError, match="damaged"):
        read_volume(path)


def test_compressed_data_that_never_end(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii", asymmetric)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes() + b"\0" * (70 << 20), mtime=0))
    with pytest.raises(FormatError, match="beyond the voxels"):
        read_volume(packed)


CODES = {"qform": 252, "sform": 254}


def test_which_geometry_counts(tmp_path: Path, asymmetric: np.ndarray) -> None:
    moved = {280: struct.pack("<4f", -0.1, 0, 0, 9.0)}
    path = write(tmp_path / "s.nii", asymmetric, patch=moved)
    (header,) = read_headers(path)
    assert header.affine[0, 3] == 9.0
    assert header.provenance.value("affine_source") == "sform"
    assert "disagree" in header.provenance.warnings[0]
    path = write(tmp_path / "q.nii", asymmetric, patch=moved | {254: b"\0\0"})
    (header,) = read_headers(path)
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-6)
    assert header.provenance.value("affine_source") == "qform"
    path = write(tmp_path / "agree.nii", asymmetric)
    assert read_headers(path)[0].provenance.warnings == ()


def test_never_identity_by_accident(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii", asymmetric, patch={252: b"\0\0\0\0"})
    with pytest.raises(AffineError, match="neither sform nor qform"):
        read_headers(path)


@pytest.mark.parametrize(
    ("units", "factor", "warned"),
    [("mm", 1.0, False), ("micron", 1e-3, False), ("meter", 1e3, False), ("unknown", 1.0, True)],
)
def test_length_units(
    tmp_path: Path, asymmetric: np.ndarray, units: str, factor: float, warned: bool
) -> None:
    (header,) = read_headers(write(tmp_path / "a.nii", asymmetric, units=units))
    np.testing.assert_allclose(header.affine[:3], AFFINE[:3] * factor, rtol=1e-6)
    assert bool(header.provenance.warnings) == warned


@pytest.mark.parametrize(
    ("patch", "error", "message"),
    [
        ({112: struct.pack("<f", np.inf)}, FormatError, "slope inf"),
        ({112: struct.pack("<f", np.nan)}, FormatError, "slope nan"),
        ({116: struct.pack("<f", np.inf)}, FormatError, "offset inf"),
        ({40: struct.pack("<h", 2)}, FormatError, "2-D"),
        ({40: struct.pack("<h", 9)}, FormatError, "start at byte|dimensions"),
        ({42: struct.pack("<h", -7)}, FormatError, "impossible"),
        ({70: struct.pack("<h", 32)}, FormatError, "complex64"),
        ({70: struct.pack("<h", 128)}, FormatError, "one real number"),
        ({70: struct.pack("<h", 999)}, FormatError, "type"),
        ({108: struct.pack("<f", 4.0)}, FormatError, "start at byte"),
        ({108: struct.pack("<f", np.nan)}, FormatError, "start at byte"),
        ({344: b"junk"}, FormatError, "no NIfTI header"),
        ({280: struct.pack("<4f", 0, 0, 0, 0)}, AffineError, "singular"),
        ({280: struct.pack("<f", np.nan)}, AffineError, "not finite"),
    ],
)
def test_bad_headers(
    tmp_path: Path,
    asymmetric: np.ndarray,
    patch: dict[int, bytes],
    error: type[SrmriError],
    message: str,
) -> None:
    path = write(tmp_path / "a.nii", asymmetric, patch=patch)
    with pytest.raises(error, match=message):
        read_headers(path)


def test_mutated_header_never_gives_a_raw_exception(tmp_path: Path, asymmetric: np.ndarray) -> None:
    whole = write(tmp_path / "a.nii", asymmetric).read_bytes()
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for at in random.integers(0, 352, 2):
            damaged[at] = random.integers(0, 256)
        (tmp_path / "a.nii").write_bytes(damaged)
        try:
            read_volume(tmp_path / "a.nii")
        except SrmriError:
            refused += 1
    assert refused > 30


def test_values_that_are_not_finite_are_told(tmp_path: Path, asymmetric: np.ndarray) -> None:
    data = asymmetric.astype(np.float32)
    data[0, 0, :2] = np.nan, np.inf
    warnings = read_volume(write(tmp_path / "a.nii", data)).provenance.warnings
    assert warnings == ("2 voxels are not finite",)


def test_subject_corrections_do_not_apply(tmp_path: Path, asymmetric: np.ndarray) -> None:
    path = write(tmp_path / "a.nii", asymmetric)
    for correction in ({"subject_type": "Quadruped"}, {"subject_position": "Head_Prone"}):
        with pytest.raises(SrmriError, match="ParaVision"):
            read_headers(path, **correction)  # type: ignore[arg-type]

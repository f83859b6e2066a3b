"""ParaVision reading against a writer of known truth, brukerapi and Bruker's own DICOM."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from brukerapi.dataset import Dataset

from srmri_data.errors import (
    AffineError,
    AmbiguousScanError,
    FormatError,
    MissingInputError,
    SrmriError,
    TruncatedError,
    UsageError,
)
from srmri_data.formats import find_images, read_headers, read_volume
from srmri_data.formats.bruker import (
    PATIENT_TO_RAS,
    RODENT_TO_RAS,
    dicom_affine,
    position_correction,
)

Write = Callable[..., Path]


def orientations() -> list[np.ndarray]:
    """The 48 signed permutations, as affines in DICOM coordinates with unequal voxels."""
    matrices = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = 0
            for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
                matrix[axis, column] = sign * (0.1, 0.2, 0.3)[column]
            matrix[:3, 3] = (1.5, -2.5, 3.5)
            matrices.append(matrix)
    return matrices


@pytest.mark.parametrize("word", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_word_type_and_byte_order(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, word: str, order: str, dims: int
) -> None:
    stored = (asymmetric % 200).astype(word)
    count = 5 if dims == 2 else 1
    slope, offset = np.linspace(0.5, 2.0, count), np.linspace(-3.0, 1.0, count)
    folder = paravision(
        tmp_path / "5/pdata/1",
        stored if dims == 2 else stored[..., None],
        dims=dims,
        groups=["FG_SLICE"] if dims == 2 else ["FG_ECHO"],
        order=order,
        slope=slope,
        offset=offset,
    )
    (header,) = read_headers(folder)
    volume = read_volume(header)
    expected = (stored.astype(np.float64) * slope + offset).astype(np.float32)
    np.testing.assert_array_equal(volume.data, expected)
    assert header.dtype == word
    assert volume.data.flags.f_contiguous
    kept = read_volume(header, dtype="stored")
    assert kept.data.dtype == np.dtype(word)
    np.testing.assert_array_equal(kept.data, stored)
    np.testing.assert_allclose(kept.scaled().data, expected, rtol=1e-6)


@pytest.mark.parametrize("matrix", orientations())
@pytest.mark.parametrize("dims", [2, 3])
def test_affine_in_all_48_orientations(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, matrix: np.ndarray, dims: int
) -> None:
    groups = ["FG_SLICE"] if dims == 2 else []
    folder = paravision(tmp_path, asymmetric, affine=matrix, dims=dims, groups=groups)
    (header,) = read_headers(folder)
    np.testing.assert_allclose(header.affine, RODENT_TO_RAS @ matrix, atol=1e-9)
    np.testing.assert_allclose(dicom_affine(folder), matrix, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exchange", [0, 1, 2, 3])
def test_reversed_and_transposed_storage(
    paravision: Write,
    asymmetric: np.ndarray,
    tmp_path: Path,
    dims: int,
    reverse: bool,
    exchange: int,
) -> None:
    if exchange > dims:
        pytest.skip("there is no such exchange in two dimensions")
    folder = paravision(
        tmp_path,
        asymmetric if dims == 2 else asymmetric[..., None],
        dims=dims,
        groups=["FG_SLICE"] if dims == 2 else ["FG_ECHO"],
        reverse=reverse,
        transposition=[exchange] * (5 if dims == 2 else 1),
    )
    np.testing.assert_array_equal(read_volume(folder).data, asymmetric)
    second_opinion = Dataset(folder / "2dseq").data.reshape(asymmetric.shape, order="F")
    np.testing.assert_array_equal(second_opinion, asymmetric)


def test_slice_packages_of_unequal_depth(paravision: Write, tmp_path: Path) -> None:
    stored = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5)
    tilted = np.array(
        [[0, 0, 0.5, 1], [0.1, 0, 0, 2], [0, 0.2, 0, 3], [0, 0, 0, 1]], dtype=np.float64
    )
    straight = np.diag([0.1, 0.2, 0.4, 1.0])
    folder = paravision(
        tmp_path, stored, dims=2, groups=["FG_SLICE"], packages=[(3, straight), (2, tilted)]
    )
    first, second = read_headers(folder)
    assert (first.packages, first.package, second.package) == (2, 1, 2)
    np.testing.assert_array_equal(read_volume(first).data, stored[:, :, :3])
    np.testing.assert_array_equal(read_volume(second).data, stored[:, :, 3:])
    np.testing.assert_allclose(second.affine, RODENT_TO_RAS @ tilted, atol=1e-9)
    with pytest.raises(AmbiguousScanError):
        read_volume(folder)


@pytest.mark.parametrize("groups", [("FG_ECHO", "FG_SLICE", "FG_CYCLE"), ("FG_SLICE", "FG_ECHO")])
def test_frames_are_chosen_by_group_from_one(
    paravision: Write, tmp_path: Path, groups: tuple[str, ...]
) -> None:
    counts = {"FG_ECHO": 3, "FG_SLICE": 4, "FG_CYCLE": 2}
    shape = (5, 6, *(counts[name] for name in groups))
    stored = np.random.default_rng(0).integers(-999, 999, shape).astype(np.int16)
    frames = int(np.prod(shape[2:]))
    folder = paravision(tmp_path, stored, dims=2, groups=groups, slope=np.linspace(1, 2, frames))
    (header,) = read_headers(folder)
    assert header.frame_groups == {
        name[3:].lower(): counts[name] for name in groups if name != "FG_SLICE"
    }
    scaled = stored * np.linspace(1, 2, frames).reshape(shape[2:], order="F")
    for choice in itertools.product(*(range(1, n + 1) for n in header.frame_groups.values())):
        frame = dict(zip(header.frame_groups, choice, strict=True))
        at = tuple(
            slice(None) if name == "FG_SLICE" else frame[name[3:].lower()] - 1 for name in groups
        )
        np.testing.assert_array_equal(
            read_volume(header, frame=frame).data, scaled[(..., *at)].astype(np.float32)
        )
    with pytest.raises(AmbiguousScanError, match=r"echo=1\.\.3"):
        read_volume(header)
    with pytest.raises(UsageError, match="echo=4"):
        read_volume(header, frame={"echo": 4, "cycle": 1} if len(groups) == 3 else {"echo": 4})
    with pytest.raises(UsageError, match="no frame group 'movie'"):
        read_volume(header, frame={"movie": 1})


def test_complex_pair_is_never_guessed(paravision: Write, tmp_path: Path) -> None:
    stored = np.arange(7 * 6 * 5 * 2, dtype=np.int16).reshape(7, 6, 5, 2)
    folder = paravision(tmp_path, stored, groups=["FG_COMPLEX"])
    with pytest.raises(AmbiguousScanError, match=r"complex=1\.\.2"):
        read_volume(folder)
    imaginary = read_volume(folder, frame={"complex": 2})
    np.testing.assert_array_equal(imaginary.data, stored[..., 1])


@pytest.mark.parametrize(
    ("subject", "frame", "warned"),
    [
        ("Quadruped", RODENT_TO_RAS, False),
        ("OtherAnimal", RODENT_TO_RAS, False),
        ("Biped", PATIENT_TO_RAS, False),
        ("Phantom", PATIENT_TO_RAS, False),
        ("Other", PATIENT_TO_RAS, True),
        (None, PATIENT_TO_RAS, True),
    ],
)
def test_subject_frame(
    paravision: Write,
    asymmetric: np.ndarray,
    tmp_path: Path,
    subject: str | None,
    frame: np.ndarray,
    warned: bool,
) -> None:
    folder = paravision(tmp_path, asymmetric, VisuSubjectType=subject)
    (header,) = read_headers(folder)
    np.testing.assert_allclose(header.affine, frame @ dicom_affine(folder), atol=1e-12)
    assert any("subject type" in text for text in header.provenance.warnings) == warned
    (corrected,) = read_headers(folder, subject_type="Quadruped")
    np.testing.assert_allclose(corrected.affine, RODENT_TO_RAS @ dicom_affine(folder), atol=1e-12)
    assert corrected.provenance.fields["subject_type"].source == "override"


def test_position_override_turns_a_prone_animal_declared_supine(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    folder = paravision(tmp_path, asymmetric, VisuSubjectPosition="Head_Supine")
    (declared,) = read_headers(folder)
    (true,) = read_headers(folder, subject_position="Head_Prone")
    # Turning over about the long axis exchanges left and right, and dorsal and ventral.
    np.testing.assert_allclose(
        true.affine, np.diag([-1.0, 1.0, -1.0, 1.0]) @ declared.affine, atol=1e-12
    )
    (same,) = read_headers(folder, subject_position="Head_Supine")
    np.testing.assert_allclose(same.affine, declared.affine, atol=1e-12)
    silent = paravision(tmp_path / "silent", asymmetric, VisuSubjectPosition=None)
    with pytest.raises(UsageError, match="position None"):
        read_headers(silent, subject_position="Head_Prone")


def test_position_corrections_are_rotations_that_undo_each_other() -> None:
    positions = [
        f"{end}_{side}" for end in ("Head", "Foot") for side in ("Supine", "Prone", "Left", "Right")
    ]
    for one, other in itertools.product(positions, repeat=2):
        there = position_correction(one, other, Path("scan"))  # type: ignore[arg-type]
        back = position_correction(other, one, Path("scan"))  # type: ignore[arg-type]
        np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-12)
        assert np.linalg.det(there) == pytest.approx(1.0)


BAD_RECORDS = {
    "infinite slope": ({"VisuCoreDataSlope": "( 1 )\ninf"}, FormatError, "slope inf"),
    "nan slope": ({"VisuCoreDataSlope": "( 1 )\nnan"}, FormatError, "slope nan"),
    "slope is zero": ({"VisuCoreDataSlope": "( 1 )\n0"}, FormatError, "slope is zero"),
    "no slope": ({"VisuCoreDataSlope": None}, FormatError, "VisuCoreDataSlope is missing"),
    "slopes for other frames": ({"VisuCoreDataSlope": "( 2 )\n1 2"}, FormatError, "2 values"),
    "singular orientation": (
        {"VisuCoreOrientation": "( 1, 9 )\n1 0 0 1 0 0 0 0 1"},
        AffineError,
        "not a rotation",
    ),
    "stretched orientation": (
        {"VisuCoreOrientation": "( 1, 9 )\n2 0 0 0 1 0 0 0 1"},
        AffineError,
        "not a rotation",
    ),
    "no position": ({"VisuCorePosition": None}, FormatError, "can not be interpreted"),
    "infinite position": ({"VisuCorePosition": "( 1, 3 )\n0 inf 0"}, AffineError, "not finite"),
    "empty field of view": ({"VisuCoreExtent": "( 3 )\n0 1 1"}, AffineError, "field of view"),
    "spectrum": (
        {"VisuCoreDimDesc": "( 3 )\nspectroscopic spatial spatial"},
        FormatError,
        "spectroscopic",
    ),
    "unknown unit": ({"VisuCoreUnits": "( 3, 65 )\n<ppm> <mm> <mm>"}, AffineError, "ppm"),
    "unknown word type": ({"VisuCoreWordType": "_64BIT_FLOAT"}, FormatError, "word type"),
    "frames nobody explains": ({"VisuCoreFrameCount": "3"}, FormatError, "3 frames"),
    "huge matrix": ({"VisuCoreSize": "( 3 )\n99999 99999 99999"}, TruncatedError, "claims"),
    "absurd matrix": ({"VisuCoreSize": "( 3 )\n7 6 99999999999"}, FormatError, "impossible"),
    "negative matrix": ({"VisuCoreSize": "( 3 )\n-7 -6 5"}, FormatError, "impossible"),
    "run-length bomb": (
        {"VisuCoreDataSlope": "( 2000000000 )\n@2000000000*(0)"},
        FormatError,
        "expands|size",
    ),
    "broken over lines": (
        {"VisuCoreDataSlope": "( 9 )\n@2000\n000*(0.000\n1)"},
        FormatError,
        "expands",
    ),
    "nested bomb": (
        {"VisuCoreDataSlope": "( 9 )\n@99999*(@99999*(0))"},
        FormatError,
        "nested",
    ),
    "range as size": ({"VisuCoreSize": "(0..2000000000)\n7 6 5"}, FormatError, "size"),
    "text bomb": (
        {"VisuSubjectId": "( 65 )\n<" + "x " * 50_000 + ">"},
        FormatError,
        "text of",
    ),
    "text repeated after nothing": (
        {"VisuCoreUnits": "( 3, 65 )\n@0*(x) @999999*(<mm>)"},
        FormatError,
        "text of",
    ),
    "text repeated": (
        {"VisuCoreUnits": "( 3, 65 )\n@999999*(@999999*(<mm> <mm>))"},
        FormatError,
        "text of",
    ),
    "deep nesting": ({"VisuFGOrderDesc": "( 1 )\n" + "(" * 900 + ")" * 900}, FormatError, "deep"),
    "deep structures": (
        {"VisuFGOrderDesc": "( 1 )\n" + "(a, " * 900 + "b" + ")" * 900},
        FormatError,
        "deep",
    ),
    "not a number": ({"VisuCoreDim": "three"}, FormatError, "can not be interpreted"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_headers_are_refused_at_once(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, case: str
) -> None:
    records, error, message = BAD_RECORDS[case]
    folder = paravision(tmp_path, asymmetric, **records)
    started = time.perf_counter()
    with pytest.raises(error, match=message):
        read_headers(folder)
    assert time.perf_counter() - started < 1.0


def test_reader_reads_what_the_bad_headers_started_from(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    np.testing.assert_array_equal(read_volume(paravision(tmp_path, asymmetric)).data, asymmetric)


def test_honest_run_lengths_are_read(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    folder = paravision(
        tmp_path,
        asymmetric,
        dims=2,
        groups=["FG_SLICE"],
        VisuCoreDataSlope="( 5 )\n2 @3*(0.5) 4",
        VisuCoreDataOffs="( 5 )\n@5*(0)",
        VisuCoreUnits="( 2, 65 )\n@2*(<mm>)",
    )
    expected = asymmetric * np.array([2, 0.5, 0.5, 0.5, 4])
    np.testing.assert_array_equal(read_volume(folder).data, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("2dseq", b"", TruncatedError),
        ("2dseq", b"\0" * 100, TruncatedError),
        ("2dseq", b"\0" * 1000, FormatError),
        ("2dseq", None, MissingInputError),
        ("visu_pars", None, MissingInputError),
        ("visu_pars", b"", TruncatedError),
        ("visu_pars", b"\xff\xfe garbage", FormatError),
        ("visu_pars", b"##TITLE=x\n", FormatError),
        ("visu_pars", b"##" * 100_000, FormatError),
    ],
)
def test_damaged_files(
    paravision: Write,
    asymmetric: np.ndarray,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    error: type[SrmriError],
) -> None:
    folder = paravision(tmp_path, asymmetric)
    assert len((folder / "2dseq").read_bytes()) == 420
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    started = time.perf_counter()
    with pytest.raises(error, match=name):
        read_headers(folder)
    assert time.perf_counter() - started < 1.0
    assert sorted(tmp_path.rglob("*")) == before


def test_truncated_header_never_gives_a_raw_exception(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    folder = paravision(tmp_path, asymmetric, dims=2, groups=["FG_SLICE"])
    whole = (folder / "visu_pars").read_bytes()
    refused = 0
    for cut in range(0, len(whole), 29):
        (folder / "visu_pars").write_bytes(whole[:cut])
        try:
            read_headers(folder)
        except SrmriError:
            refused += 1
    assert refused > 10


def test_mutated_header_never_gives_a_raw_exception(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    folder = paravision(tmp_path, asymmetric, dims=2, groups=["FG_SLICE"])
    whole = bytearray((folder / "visu_pars").read_bytes())
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in random.integers(0, len(damaged), 3):
            damaged[at] = random.choice(list(b"0129.-+e @*()<>#$=\n\x00\xffxi"))
        (folder / "visu_pars").write_bytes(damaged)
        try:
            read_headers(folder)
        except SrmriError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("what", ["evenly", "turned"])
def test_slices_that_are_no_stack_are_refused(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, what: str
) -> None:
    positions = [(0, 0, 0.3 * k) for k in range(5)]
    rotations = [np.eye(3).ravel() for _ in range(5)]
    if what == "evenly":
        positions[3] = (0, 0, 1.1)
    else:
        angle = 0.05
        rotations[3] = np.array(
            [[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]]
        ).ravel()
    folder = paravision(
        tmp_path,
        asymmetric,
        dims=2,
        groups=["FG_SLICE"],
        VisuCorePosition="( 5, 3 )\n" + " ".join(f"{v:.6f}" for p in positions for v in p),
        VisuCoreOrientation="( 5, 9 )\n" + " ".join(f"{v:.9f}" for r in rotations for v in r),
    )
    with pytest.raises(AffineError, match=what):
        read_headers(folder)


def test_gaps_and_overlaps_are_told(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    for thickness, word in ((0.1, "gaps"), (0.5, "overlapping")):
        folder = paravision(
            tmp_path / word, asymmetric, dims=2, groups=["FG_SLICE"], thickness=thickness
        )
        assert word in read_headers(folder)[0].provenance.warnings[0]


def test_link_out_of_the_folder_is_not_followed(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    folder = paravision(tmp_path / "5/pdata/1", asymmetric)
    secret = tmp_path / "secret"
    (folder / "2dseq").rename(secret)
    (folder / "2dseq").symlink_to(secret)
    with pytest.raises(FormatError, match="leads out"):
        read_headers(folder)


_PEAK = """
import sys
from pathlib import Path
from srmri_data.formats import bruker, nifti, read_headers, read_volume

def peak():
    # VmHWM starts anew with the program; ru_maxrss would inherit the parent's peak.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

header = read_headers(Path(sys.argv[1]))[0]
before = peak()
volume = read_volume(header)
print((peak() - before) * 1024 / volume.data.nbytes)
"""


def peak_ratio(path: Path) -> float:
    """Peak memory of reading over the size of the float32 array, in a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)], check=True, capture_output=True, text=True
    )
    return float(run.stdout)


@pytest.mark.parametrize(
    "shape", [(180, 256, 304), pytest.param((720, 512, 304), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_peak_memory_of_reading(
    paravision: Write, tmp_path: Path, shape: tuple[int, int, int], dims: int
) -> None:
    stored = np.zeros(shape, dtype=np.int16, order="F")
    stored[::7] = 5
    folder = paravision(
        tmp_path, stored, dims=dims, groups=["FG_SLICE"] if dims == 2 else [], slope=0.5
    )
    ratio = peak_ratio(folder)
    print(shape, dims, ratio)
    assert 0.9 < ratio < 1.25


def test_every_shared_scan_equals_brukerapi(shared_data: Path) -> None:
    compared = 0
    for image in find_images(shared_data / "bruker"):
        try:
            headers = read_headers(image)
        except AffineError:
            assert "banana" in str(image)
            continue
        reference = Dataset(image / "2dseq")
        for header in headers:
            first, count = reference.slice_packages_index()[header.package - 1]
            for choice in itertools.product(
                *(range(1, n + 1) for n in header.frame_groups.values())
            ):
                frame = dict(zip(header.frame_groups, choice, strict=True))
                at: list[slice | int] = []
                for axis, kind in enumerate(reference.dim_type):
                    name = str(kind).removeprefix("FG_").lower()
                    if axis < reference.encoded_dim:
                        at.append(slice(None))
                    elif name == "slice":
                        at.append(slice(first, first + count))
                    elif name == "frame":
                        at.append(slice(None) if reference.encoded_dim == 2 else 0)
                    else:
                        at.append(frame[name] - 1)
                expected = reference.data[tuple(at)].astype(np.float32)
                np.testing.assert_array_equal(
                    read_volume(header, frame=frame).data, expected, err_msg=str(image)
                )
                compared += 1
    assert compared >= 37


@pytest.mark.parametrize("scan", ["1", "2", "3"])
def test_values_and_geometry_equal_brukers_dicom(shared_data: Path, scan: str) -> None:
    import SimpleITK as sitk  # noqa: N813

    reco = shared_data / "bruker" / "pv6.0.1_mousebody_GPL3" / scan / "pdata" / "1"
    slices = {}
    for file in sorted(os.listdir(reco / "dicom")):
        image = sitk.ReadImage(str(reco / "dicom" / file), sitk.sitkFloat64)
        slices[np.round(image.GetOrigin(), 3).tobytes()] = image
    seen = 0
    for header in read_headers(reco):
        ours = read_volume(header)
        affine = dicom_affine(reco, package=header.package)
        for k in range(header.shape[2]):
            origin = affine[:3, 3] + k * affine[:3, 2]
            image = slices[np.round(origin, 3).tobytes()]
            np.testing.assert_allclose(image.GetOrigin(), origin, atol=1e-4)
            axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
            np.testing.assert_allclose(axes[:, :2], affine[:3, :2], atol=1e-4)
            theirs = sitk.GetArrayFromImage(image)[0].T
            np.testing.assert_allclose(
                ours.data[:, :, k], theirs, rtol=1e-6, atol=1e-6 * theirs.max()
            )
            seen += 1
    assert seen == len(slices)

"""Finding, choosing and pairing scans; the table of every real study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srmri_data.errors import (
    AffineError,
    AmbiguousScanError,
    FormatError,
    MissingInputError,
    NoScanError,
    SubjectMismatchError,
    TruncatedError,
    UsageError,
)
from srmri_data.formats import read_headers
from srmri_data.ingest import (
    check_same_subject,
    discover,
    load,
    plane_sizes,
    propose_roles,
    select,
)

Write = Callable[..., Path]
FINE = np.diag([0.1, 0.1, 0.1, 1.0])
COARSE = np.diag([0.2, 0.2, 0.2, 1.0])


@pytest.fixture
def study(paravision: Write, tmp_path: Path) -> Path:
    """A study with a localizer, HR (scan 5), LR (scan 10) and an unrelated method."""
    random = np.random.default_rng(0)

    def voxels(*shape: int) -> np.ndarray:
        return random.integers(0, 999, shape).astype(np.int16)

    root = tmp_path / "study"
    planes = [(1, FINE), (1, FINE[[1, 2, 0, 3]]), (1, FINE[[2, 0, 1, 3]])]
    paravision(root / "1/pdata/1", voxels(8, 8, 3), dims=2, groups=["FG_SLICE"], packages=planes)
    paravision(root / "5/pdata/1", voxels(16, 14, 12), affine=FINE)
    paravision(root / "10/pdata/1", voxels(8, 7, 6), affine=COARSE)
    paravision(
        root / "11/pdata/1",
        voxels(8, 7, 6),
        affine=COARSE,
        VisuAcqSequenceName="( 40 )\n<Bruker:RARE>",
    )
    return root


def test_discover_orders_numerically_and_ends_in_json(study: Path) -> None:
    records = discover(study)
    assert [(r.scan, r.reco, r.package) for r in records] == [
        (1, 1, 1),
        (1, 1, 2),
        (1, 1, 3),
        (5, 1, 1),
        (10, 1, 1),
        (11, 1, 1),
    ]
    assert [r.role for r in records] == [None, None, None, "HR", "LR", None]
    document = json.loads(json.dumps([r.to_json() for r in records], allow_nan=False))
    assert document[3]["matrix"] == [16, 14, 12]
    assert document[3]["planes"]["acquired"] == {"count": 12, "rows": 14, "cols": 16}
    assert document[3]["slopes"] == "one (1)"
    assert document[3]["readable"]
    assert document[0]["packages"] == 3


@pytest.mark.parametrize("place", [".", "5", "5/pdata", "5/pdata/1", "5/pdata/1/2dseq"])
def test_study_scan_and_reconstruction_are_accepted(study: Path, place: str) -> None:
    records = discover(study / place)
    assert [(r.scan, r.reco) for r in records if r.scan == 5] == [(5, 1)]
    assert len(records) == (6 if place == "." else 1)


def test_zip_gives_the_same_records(study: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", study))
    there, here = discover(archive), discover(study)
    for one, other in zip(there, here, strict=True):
        assert one.to_json() | {"path": ""} == other.to_json() | {"path": ""}
    np.testing.assert_array_equal(load(there[3]).data, load(here[3]).data)


def test_exports_inside_a_reconstruction_are_not_listed_again(study: Path) -> None:
    (study / "5/pdata/1/dicom").mkdir()
    (study / "5/pdata/1/dicom/a.dcm").write_bytes(b"x")
    (study / "5/pdata/1/export.nii").write_bytes(b"x")
    (study / "5/visu_pars").write_bytes(b"as ParaVision 6 writes it per scan")
    assert len(discover(study)) == 6


def test_bad_scans_are_listed_with_their_reason(study: Path) -> None:
    (study / "10/pdata/1/2dseq").write_bytes(b"")
    (study / "11/pdata/1/visu_pars").unlink()
    (study / "12/pdata/1").mkdir(parents=True)
    (study / "12/pdata/1/reco").write_text("aborted")
    records = discover(study)
    bad = {r.scan: r for r in records if r.header is None}
    assert set(bad) == {10, 11, 12}
    assert "0 bytes" in bad[10].problems[0]
    assert "visu_pars is missing" in bad[11].problems[0]
    assert bad[12].problems
    assert json.dumps([r.to_json() for r in bad.values()])
    with pytest.raises(TruncatedError):
        select(records, scan=10)
    with pytest.raises(MissingInputError):
        load(bad[11])
    with pytest.raises(NoScanError, match="no two comparable"):
        propose_roles(records)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        discover(tmp_path / "gone")
    with pytest.raises(NoScanError):
        discover(tmp_path)
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(NoScanError):
        discover(tmp_path)
    with pytest.raises(FormatError, match="not an image format"):
        discover(tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_select_lists_the_candidates_and_how_to_choose(study: Path) -> None:
    records = discover(study)
    with pytest.raises(AmbiguousScanError) as caught:
        select(records, option="--hr")
    lines = caught.value.message.splitlines()
    assert len(lines) == 7
    assert "--hr-scan 1 --hr-reco 1 --hr-package 2" in lines[2]
    assert "--hr-scan 5 --hr-reco 1" in lines[4]
    assert "16×14×12, 0.1×0.1×0.1 mm  FLASH" in lines[4]
    record, frame = select(records, scan=5)
    assert (record.scan, frame) == (5, {})
    record, _ = select(records, scan=1, package=2)
    assert record.package == 2
    with pytest.raises(NoScanError, match="--lr-scan 7"):
        select(records, scan=7)


def test_an_unreadable_scan_is_still_a_candidate(study: Path) -> None:
    for scan in ("1", "10", "11"):
        shutil.rmtree(study / scan)
    (study / "6/pdata/1").mkdir(parents=True)
    (study / "6/pdata/1/2dseq").write_bytes(b"")
    with pytest.raises(AmbiguousScanError, match="unreadable"):
        select(discover(study))


def test_frames_are_counted_from_one(paravision: Write, tmp_path: Path) -> None:
    stored = np.arange(8 * 7 * 6 * 3, dtype=np.int16).reshape(8, 7, 6, 3)
    paravision(tmp_path / "5/pdata/1", stored, groups=["FG_ECHO"])
    records = discover(tmp_path)
    with pytest.raises(AmbiguousScanError, match=r"--lr-frame echo=1\n.*echo=2\n.*echo=3"):
        select(records)
    with pytest.raises(UsageError, match=r"echo=0, expected echo=1\.\.3"):
        select(records, frame={"echo": 0})
    record, frame = select(records, frame={"echo": 1})
    np.testing.assert_array_equal(load(record, frame=frame).data, stored[..., 0])


def test_proposed_roles(study: Path) -> None:
    low, high = propose_roles(discover(study))
    assert (low.scan, high.scan) == (10, 5)


@pytest.mark.parametrize("change", ["reco", "level"])
def test_more_than_one_possible_pair_is_ambiguous(
    study: Path, paravision: Write, change: str
) -> None:
    if change == "reco":
        shutil.copytree(study / "5/pdata/1", study / "5/pdata/2")
    else:
        paravision(
            study / "12/pdata/1",
            np.ones((5, 5, 5), dtype=np.int16),
            affine=np.diag([0.3, 0.3, 0.3, 1.0]),
        )
    with pytest.raises(AmbiguousScanError) as caught:
        propose_roles(discover(study))
    expected = "--hr-scan 5 --hr-reco 2" if change == "reco" else "--lr-scan 12 --lr-reco 1"
    assert expected in caught.value.message


@pytest.mark.parametrize(
    ("affine", "records"),
    [
        (COARSE[[1, 0, 2, 3]], {}),
        (COARSE + np.outer([1, 0, 0, 0], [0, 0, 0, 9.0]), {}),
        (np.diag([0.105, 0.105, 0.105, 1.0]), {}),
        (COARSE, {"VisuSubjectId": "( 65 )\n<other>"}),
    ],
    ids=["turned", "elsewhere", "same resolution", "other subject"],
)
def test_what_is_not_comparable_has_no_role(
    study: Path, paravision: Write, affine: np.ndarray, records: dict[str, str]
) -> None:
    stored = np.ones((8, 7, 6), dtype=np.int16)
    paravision(study / "10/pdata/1", stored, affine=affine, **records)
    assert {r.role for r in discover(study)} == {None}
    paravision(study / "10/pdata/1", stored, affine=COARSE)
    assert {r.role for r in discover(study)} == {None, "HR", "LR"}


def test_subject_check(paravision: Write, tmp_path: Path) -> None:
    stored = np.ones((5, 5, 5), dtype=np.int16)
    headers = {
        name: read_headers(
            paravision(tmp_path / str(name), stored, VisuSubjectId=name and f"( 65 )\n<{name}>")
        )[0]
        for name in ("m01", "m02", None)
    }
    check_same_subject(headers["m01"], headers["m01"])
    check_same_subject(headers["m01"], headers[None])
    with pytest.raises(SubjectMismatchError, match=r"'m01'.*'m02'") as caught:
        check_same_subject(headers["m01"], headers["m02"])
    assert "--allow-subject-mismatch" in caught.value.hint


def test_plane_sizes(paravision: Write, tmp_path: Path) -> None:
    # DICOM axes: i to the head (rodent anterior), j to the left, k to the back (dorsal).
    affine = np.array([[0, 0.1, 0, 0], [0, 0, 0.1, 0], [0.1, 0, 0, 0], [0, 0, 0, 1]])
    folder = paravision(tmp_path, np.ones((9, 8, 7), dtype=np.int16), affine=affine)
    (header,) = read_headers(folder)
    assert header.orientation == "ALS"
    assert plane_sizes(header) == {
        "coronal": {"count": 9, "rows": 7, "cols": 8},
        "axial": {"count": 7, "rows": 9, "cols": 8},
        "sagittal": {"count": 8, "rows": 7, "cols": 9},
        "acquired": {"count": 7, "rows": 8, "cols": 9},
    }


def test_corrections_reach_every_scan(study: Path) -> None:
    records = discover(study, subject_type="Biped")
    assert {r.subject_type for r in records} == {"Biped"}
    assert records[3].orientation == "LPS"
    assert discover(study)[3].orientation == "LSA"
    turned = discover(study, subject_position="Head_Supine")
    assert turned[3].orientation == "RIA"


def test_headers_do_not_load_heavy_packages(study: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from srmri_data.ingest import discover;"
        "discover(Path(sys.argv[1]));"
        "print(sorted({'torch','pandas','sklearn','skimage','SimpleITK','matplotlib'}"
        "& set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(study)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


NO_TYPE = "subject type"
STUDIES: dict[str, list[tuple[object, ...]]] = {
    # scan, reco, package, matrix, spacing, orientation, dtype, method, type, frames, role, problem
    "pv360.3.6_mousebrain_NOLICENCE": [
        (1, 1, 1, (256, 256, 1), (0.1953, 0.1953, 1), "RIA", "int16", "FLASH", "Quadruped", {}),
        (1, 1, 2, (256, 256, 1), (0.1953, 0.1953, 1), "IPL", "int16", "FLASH", "Quadruped", {}),
        (1, 1, 3, (256, 256, 1), (0.1953, 0.1953, 1), "RPI", "int16", "FLASH", "Quadruped", {}),
        (5, 1, 1, (160, 100, 18), (0.1, 0.1, 0.5), "RIA", "int16", "RARE", "Quadruped", {}),
        (6, 1, 1, (256, 128, 18), (0.0625, 0.0781, 0.5), "RIA", "int16", "FLASH", "Quadruped", {}),
        (8, 1, 1, (64,) * 3, (0.2344,) * 3, "IPL", "int32", "FieldMap", "Quadruped", {}),
    ],
    "pv5.1_banana_MIT": [
        (1, 1, 1, (80, 64, 5), (0.55, 0.6875, 2), "LPS", "int16", "EPI", None, {}, None, NO_TYPE),
        (2, 1, 1, None, None, None, None, None, None, {}, None, "singular affine"),
        (3, 1, 1, None, None, None, None, None, None, {}, None, "singular affine"),
    ],
    "pv5.1_orient_phantom_NOLICENCE": [
        (1, 1, 1, (128, 128, 31), (0.2344, 0.2344, 1), "LPS", "int16", "RARE", None, {}, "LR"),
        (2, 1, 1, (128, 128, 11), (0.2344, 0.2344, 3), "LPS", "int16", "RARE", None, {}, "LR"),
        (3, 1, 1, (128, 128, 1), (0.3906, 0.3906, 2), "LPS", "int16", "FLASH", None, {}),
        (3, 1, 2, (128, 128, 1), (0.3906, 0.3906, 2), "PIR", "int16", "FLASH", None, {}),
        (3, 1, 3, (128, 128, 1), (0.3906, 0.3906, 2), "LIP", "int16", "FLASH", None, {}),
        (10, 1, 1, (128, 128, 61), (0.2344, 0.2344, 0.5), "LPS", "int16", "RARE", None, {}, "HR"),
    ],
    "pv5.1_tubes_Apache2": [
        (100, 1, 1, (128, 128, 1), (0.1953, 0.1953, 1), "LPS", "int16", "mic_flash", None, {}),
        (100, 1, 2, (128, 128, 1), (0.1953, 0.1953, 1), "PIR", "int16", "mic_flash", None, {}),
        (100, 1, 3, (128, 128, 1), (0.1953, 0.1953, 1), "LIP", "int16", "mic_flash", None, {}),
    ],
    "pv6.0.1_letters_phantom_NOLICENCE": [
        (
            *(2, reco, 1, (256, 256, 9), (0.1367, 0.1367, 1), "LSA"),
            *(dtype, "RARE", "OtherAnimal", {}, "HR"),
        )
        for reco, dtype in ((1, "int16"), (2, "uint8"), (3, "float32"))
    ]
    + [
        (4, 1, 1, (200, 200, 20), (0.175, 0.175, 0.5), "LSA", "int16", "RARE", "OtherAnimal", {}),
        (
            *(6, 1, 1, (192, 160, 9), (0.2083, 0.2188, 1), "LSA"),
            *("int16", "RARE", "OtherAnimal", {}, "LR"),
        ),
        (8, 1, 1, (200, 192, 20), (0.2, 0.1823, 0.5), "LPS", "int16", "RARE", "OtherAnimal", {}),
    ],
    "pv6.0.1_mouse3D_fieldmap_NOLICENCE": [
        (7, 1, 1, (64, 64, 8), (0.625, 0.625, 1), "LPS", "int32", "FieldMap", "Quadruped", {}),
        (
            *(7, 2, 1, (64, 64, 8), (0.625, 0.625, 1), "LPS"),
            *("int32", "FieldMap", "Quadruped", {"echo": 2}),
        ),
    ],
    "pv6.0.1_mouse_coronalRARE_NOLICENCE": [
        (5, 1, 1, (256, 256, 10), (0.1562, 0.1562, 0.8), "LPI", "int16", "RARE", "Quadruped", {}),
    ],
    "pv6.0.1_mousebody_GPL3": [
        (1, 1, 1, (256, 256, 1), (0.15, 0.15, 1), "LSA", "int16", "FLASH", "OtherAnimal", {}),
        (1, 1, 2, (256, 256, 1), (0.15, 0.15, 1), "SPR", "int16", "FLASH", "OtherAnimal", {}),
        (1, 1, 3, (256, 256, 1), (0.15, 0.15, 1), "LPS", "int16", "FLASH", "OtherAnimal", {}),
        (2, 1, 1, (128, 128, 24), (0.3, 0.3, 1), "LSA", "int16", "RARE", "OtherAnimal", {}),
        (3, 1, 1, (128, 128, 1), (0.3, 0.3, 1), "LSA", "int16", "RARE", "OtherAnimal", {}),
    ],
    "pv7.0.0_flat_c13_phantom_NOLICENCE": [
        (
            *(15, 1, 1, (64, 64, 1), (0.7812, 0.7812, 30), "LSA"),
            *("int16", "nes_IDEAL_spectrum", "Quadruped", {"cycle": 8}),
        ),
    ],
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_real_study_is_right(shared_data: Path, name: str) -> None:
    started = time.perf_counter()
    records = discover(shared_data / "bruker" / name)
    assert time.perf_counter() - started < 1.0
    assert len(records) == len(STUDIES[name])
    for record, row in zip(records, STUDIES[name], strict=True):
        wanted = (*row, None, None)[:12] if len(row) == 10 else (*row, None)[:12]
        spacing = None if record.spacing is None else tuple(record.spacing)
        assert (
            record.scan,
            record.reco,
            record.package,
            record.matrix,
            spacing and pytest.approx(wanted[4], abs=1e-4),
            record.orientation,
            record.dtype,
            record.method,
            record.subject_type,
            record.frame_groups,
            record.role,
        ) == (*wanted[:4], spacing, *wanted[5:11])
        if wanted[4] is not None:
            assert spacing == pytest.approx(wanted[4], abs=1e-4)
        unknown_type = record.header is not None and record.subject_type is None
        assert any(NO_TYPE in problem for problem in record.problems) == unknown_type
        if wanted[11] is not None:
            assert any(str(wanted[11]) in problem for problem in record.problems)
        elif record.subject_type is not None:
            assert record.problems == ()


def test_every_real_study_is_in_the_table(shared_data: Path) -> None:
    assert {p.name for p in (shared_data / "bruker").iterdir()} == set(STUDIES)


def test_the_letters_say_which_way_is_up_and_left(shared_data: Path) -> None:
    """The phantom carries a V at its ventral and an L at its left side, seen from behind."""
    study = shared_data / "bruker" / "pv6.0.1_letters_phantom_NOLICENCE"
    volume = load(select(discover(study), scan=4)[0])
    assert volume.orientation == "LSA"
    image = volume.data[::-1, :, 4].T  # rows to S, columns to R
    dark = image < 0.5 * np.median(image[image > 0.2 * image.max()])
    # A V, right way up, is narrow at its lower end.
    low, high = (np.ptp(np.flatnonzero(dark[row, 80:130])) for row in (35, 62))
    assert 0 < low < high
    # An L that is not mirrored has its upright on its own left, and its foot at the bottom.
    foot, above = dark[80:96], dark[96:118]
    assert above[:, 25:40].sum() > 100
    assert above[:, 45:60].sum() < 10
    assert foot[:, 45:60].sum() > 50


def test_real_ambiguity_and_roles(shared_data: Path) -> None:
    study = shared_data / "bruker" / "pv6.0.1_letters_phantom_NOLICENCE"
    with pytest.raises(AmbiguousScanError) as caught:
        propose_roles(discover(study))
    assert caught.value.message.count("--hr-scan 2") == 3
    assert caught.value.message.count("--lr-scan 6") == 1
    banana = discover(shared_data / "bruker" / "pv5.1_banana_MIT")
    with pytest.raises(AffineError, match="singular"):
        select(banana, scan=2)

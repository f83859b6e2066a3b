"""Subjects, sessions and roles in a tree: found with their source, or left to the user."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srmri_data.cohort import preview
from srmri_data.discovery import MAX_CANDIDATES, discover_cohort, open_cohort
from srmri_data.errors import FormatError, MissingInputError, NoScanError
from srmri_data.mapping import Corrections, mapping_text, read_mapping, write_mapping
from srmri_data.planning import PairingConfig
from srmri_data.slices import Trim


def image(path: Path, spacing: float, *, side: float = 2.4) -> Path:
    """Write a small NIfTI image of a fixed field of view."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(side / spacing),) * 3
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = spacing / 2
    nib.save(nib.Nifti1Image(np.zeros(shape, dtype=np.int16), affine), path)
    return path


@pytest.fixture
def study(paravision):
    """`study(folder, subject, {scan: spacing})` writes a ParaVision study."""

    def write(folder: Path, subject: str | None, scans: dict[int, float]) -> Path:
        for scan, spacing in scans.items():
            shape = (round(2.4 / spacing),) * 3
            affine = np.diag([spacing, spacing, spacing, 1.0])
            affine[:3, 3] = spacing / 2
            paravision(
                folder / str(scan) / "pdata" / "1",
                np.zeros(shape, dtype=np.int16),
                affine=affine,
                VisuSubjectId=None if subject is None else f"( 65 )\n<{subject}>",
                VisuExperimentNumber=str(scan),
            )
        return folder

    return write


def found(root: Path, **options):
    cohort = discover_cohort(root, **options)
    return {
        one.name: tuple(os.path.relpath(r.path, root) for r in (one.low, one.high))
        for one in cohort.units
    }, cohort.problems


def test_bids_names_say_subject_session_and_role(tmp_path):
    for sub, ses in (("m01", ""), ("m02", "ses-1"), ("m02", "ses-2")):
        prefix = "_".join(filter(None, (f"sub-{sub}", ses)))
        folder = tmp_path.joinpath(f"sub-{sub}", *filter(None, [ses]), "anat")
        # The voxels deny what the names say: names go first, and pairing checks the voxels.
        image(folder / f"{prefix}_acq-25um_T2starw.nii.gz", 0.2)
        image(folder / f"{prefix}_acq-FLASH0p05mm_T2starw.nii.gz", 0.4)
        image(folder / f"{prefix}_T1w.nii", 0.3)
    image(tmp_path / "derivatives/sub-m01/anat/sub-m01_acq-50um_desc-x_T2starw.nii", 0.4)
    units, problems = found(tmp_path)
    assert not problems
    assert list(units) == ["sub-m01", "sub-m02_ses-1", "sub-m02_ses-2"]
    assert units["sub-m02_ses-2"] == (
        "sub-m02/ses-2/anat/sub-m02_ses-2_acq-FLASH0p05mm_T2starw.nii.gz",
        "sub-m02/ses-2/anat/sub-m02_ses-2_acq-25um_T2starw.nii.gz",
    )
    sources = discover_cohort(tmp_path).units[1].sources
    assert sources == {
        "subject": "BIDS entity sub",
        "session": "BIDS entity ses",
        "lr": "size in the BIDS entity acq or res",
        "hr": "size in the BIDS entity acq or res",
    }


@pytest.mark.parametrize(("low", "high"), [("acq-lr", "acq-HR"), ("res-low", "res-high")])
def test_bids_words_for_resolution(tmp_path, low, high):
    image(tmp_path / f"sub-1_{low}_T2w.nii", 0.4)
    image(tmp_path / f"sub-1_{high}_T2w.nii", 0.2)
    units, problems = found(tmp_path)
    assert units == {"sub-1": (f"sub-1_{low}_T2w.nii", f"sub-1_{high}_T2w.nii")}
    assert not problems


def test_without_a_word_on_resolution_the_voxels_decide(tmp_path):
    image(tmp_path / "sub-1" / "sub-1_acq-a_T2w.nii", 0.4)
    image(tmp_path / "sub-1" / "sub-1_acq-b_T2w.nii", 0.2)
    units, _ = found(tmp_path)
    assert units == {"sub-1": ("sub-1/sub-1_acq-a_T2w.nii", "sub-1/sub-1_acq-b_T2w.nii")}
    assert discover_cohort(tmp_path).units[0].sources["lr"] == "voxel size in the headers"
    # A subject's own folder is a tree as well.
    assert list(found(tmp_path / "sub-1")[0]) == ["sub-1"]


def test_two_contrasts_at_both_resolutions_are_left_to_the_user(tmp_path):
    for suffix in ("T1w", "T2w"):
        for size, spacing in ((25, 0.2), (50, 0.4)):
            image(tmp_path / f"sub-1/anat/sub-1_acq-{size}um_{suffix}.nii", spacing)
    image(tmp_path / "sub-2_acq-25um_T2w.nii", 0.2)
    image(tmp_path / "sub-2_acq-50um_T2w.nii", 0.4)
    units, (problem,) = found(tmp_path)
    assert list(units) == ["sub-2"]
    assert problem.where == "subject '1'"
    assert "2 scans could be LR and 2 HR" in problem.reason
    assert len(problem.candidates) == 4


def test_a_path_that_contradicts_itself_is_left_out(tmp_path):
    image(tmp_path / "sub-1" / "sub-2_acq-25um_T2w.nii", 0.2)
    units, (problem,) = found(tmp_path)
    assert not units
    assert "both sub-1 and sub-2" in problem.reason


def test_earlier_results_are_no_scans(tmp_path):
    image(tmp_path / "data" / "sub-1_acq-25um_T2w.nii", 0.2)
    image(tmp_path / "data" / "sub-1_acq-50um_T2w.nii", 0.4)
    run = tmp_path / "data" / "sub-1" / "sub-1"
    image(run / "sub-1_acq-50um_hr_aligned.nii", 0.4)
    assert found(tmp_path)[1]
    for name in ("summary.json", "provenance.json"):
        (run / name).write_text("{}")
    assert list(found(tmp_path)[0]) == ["sub-1"]
    image(tmp_path / "out" / "sub-1_acq-50um_T2w.nii", 0.4)
    assert found(tmp_path)[1]
    assert list(found(tmp_path, leave_out=[tmp_path / "out"])[0]) == ["sub-1"]


def test_studies_are_brought_together_by_their_subject(tmp_path, study):
    study(tmp_path / "20240101_a", "m01", {5: 0.4, 6: 0.2})
    study(tmp_path / "20240102_b", "m02", {3: 0.2})
    study(tmp_path / "20240103_c", "m02", {4: 0.4})
    units, problems = found(tmp_path)
    assert not problems
    assert units == {
        "sub-m01": ("20240101_a/5/pdata/1", "20240101_a/6/pdata/1"),
        "sub-m02": ("20240103_c/4/pdata/1", "20240102_b/3/pdata/1"),
    }
    assert discover_cohort(tmp_path).units[0].sources["subject"] == "visu_pars:VisuSubjectId"


def test_studies_with_a_pair_each_are_sessions(tmp_path, study):
    study(tmp_path / "first", "m01", {1: 0.4, 2: 0.2})
    study(tmp_path / "second", "m01", {1: 0.4, 2: 0.2})
    units, problems = found(tmp_path)
    assert not problems
    assert list(units) == ["sub-m01_ses-first", "sub-m01_ses-second"]
    assert discover_cohort(tmp_path).units[0].sources["session"] == "name of the study's folder"
    # A third scan of the subject that could belong to either: nothing is certain any more.
    study(tmp_path / "third", "m01", {1: 0.2})
    units, (problem,) = found(tmp_path)
    assert not units
    assert "2 scans could be LR and 3 HR" in problem.reason


def test_archives_in_a_tree_are_opened(tmp_path, study):
    inner = study(tmp_path / "s", "m07", {1: 0.4, 2: 0.2})
    tree = tmp_path / "tree"
    tree.mkdir()
    with zipfile.ZipFile(tree / "m07.PvDatasets", "w") as archive:
        for file in sorted(inner.rglob("*")):
            archive.write(file, file.relative_to(inner))
    (tree / "broken.zip").write_bytes(b"PK not really")
    units, (problem,) = found(tree)
    assert units == {"sub-m07": ("m07.PvDatasets/1/pdata/1", "m07.PvDatasets/2/pdata/1")}
    assert problem.where.endswith("broken.zip")
    assert list(found(tree / "m07.PvDatasets")[0]) == ["sub-m07"]
    with pytest.raises(FormatError):
        discover_cohort(tree / "broken.zip")


def test_links_that_lead_out_are_not_followed(tmp_path, study):
    inner = study(tmp_path / "s", "m07", {1: 0.4, 2: 0.2})
    tree = tmp_path / "tree"
    tree.mkdir()
    shutil.make_archive(str(tmp_path / "elsewhere"), "zip", inner)
    os.symlink(tmp_path / "elsewhere.zip", tree / "link.zip")
    os.symlink(inner, tree / "link")
    with pytest.raises(NoScanError):
        discover_cohort(tree)


def test_scans_without_a_subject_are_left_to_the_user(tmp_path, study):
    study(tmp_path / "nobody", None, {1: 0.4, 2: 0.2})
    image(tmp_path / "plain" / "low.nii", 0.4)
    units, problems = found(tmp_path)
    assert not units
    by_place = {Path(p.where).name: p for p in problems}
    assert "write one into the row" in by_place["nobody"].reason
    assert len(by_place["nobody"].candidates) == 1
    assert "name no subject; no two comparable scans" in by_place["plain"].reason


def test_scans_that_can_not_be_read_are_named(tmp_path, study):
    study(tmp_path / "a", "m01", {1: 0.4, 2: 0.2, 3: 0.2})
    (tmp_path / "a/2/pdata/1/2dseq").write_bytes(b"")
    (tmp_path / "a/3/pdata/1/visu_pars").unlink()
    study(tmp_path / "b", "m02", {1: 0.4, 2: 0.2, 3: 0.2})
    (tmp_path / "b/3/pdata/1/2dseq").write_bytes(b"")
    study(tmp_path / "c", "m03", {1: 0.4})
    (tmp_path / "c/1/pdata/1/visu_pars").unlink()
    units, problems = found(tmp_path)
    # An unreadable scan that is not needed does no harm.
    assert list(units) == ["sub-m02"]
    of_m01, of_c = sorted(problems, key=lambda problem: "no scan" in problem.reason)
    assert of_m01.where == "subject 'm01'"
    assert of_m01.reason.count("unreadable") == 2
    assert of_c.where == str(tmp_path / "c")
    assert "visu_pars is missing" in of_c.reason


def test_many_candidates_are_listed_in_part(tmp_path, study):
    study(tmp_path / "a", "m01", {n: 0.4 if n % 2 else 0.2 for n in range(1, 13)})
    _, (problem,) = found(tmp_path)
    assert len(problem.candidates) == MAX_CANDIDATES
    assert f"the first {MAX_CANDIDATES} of 36 pairs" in problem.reason


def test_corrections_go_into_every_request(tmp_path, study):
    study(tmp_path / "a", "m01", {1: 0.4, 2: 0.2})
    corrections = Corrections("Quadruped", "Head_Prone", "Head_Supine")
    (one,) = discover_cohort(tmp_path, corrections=corrections).units
    assert (one.low.subject_type, one.low.subject_position) == ("Quadruped", "Head_Prone")
    assert one.high.subject_position == "Head_Supine"


def test_places_without_scans(tmp_path):
    with pytest.raises(NoScanError):
        discover_cohort(tmp_path)
    with pytest.raises(MissingInputError):
        open_cohort(tmp_path / "none")
    with pytest.raises(MissingInputError):
        open_cohort(tmp_path / "none.tsv")


def test_a_real_ambiguity_is_solved_in_the_table(shared_data, tmp_path):
    """The letters phantom has one LR scan and three reconstructions of HR: the user takes one."""
    cohort = discover_cohort(shared_data / "bruker")
    assert not cohort.units
    (letters,) = [problem for problem in cohort.problems if "fantome" in problem.where]
    assert [one.high.path.name for one in letters.candidates] == ["1", "2", "3"]
    assert {one.low.path.parts[-3] for one in letters.candidates} == {"6"}
    row = next(line for line in mapping_text(cohort, tmp_path).splitlines() if "2/pdata/3" in line
               and line.startswith("#plateforme"))  # fmt: skip
    path = tmp_path / "mapping.tsv"
    write_mapping(cohort, path)
    path.write_text(path.read_text(encoding="utf-8").replace(row, row[1:]), encoding="utf-8")
    cohort = read_mapping(path)
    assert [one.name for one in cohort.units] == ["sub-plateformefantomenouilleother"]
    (checked,) = preview(cohort, PairingConfig(plane="acquired", trim=Trim(0, "slices")))
    assert checked["error"] is None
    assert (checked["n_lr"], checked["n_hr"]) == (9, 9)

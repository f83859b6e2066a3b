"""The table of pairs: what it says, what it refuses, and that it survives being edited."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmri_data.errors import FormatError, MissingInputError
from srmri_data.mapping import (
    COLUMNS,
    CohortMap,
    Corrections,
    Problem,
    Unit,
    label,
    mapping_text,
    read_mapping,
    settled,
    write_mapping,
)
from srmri_data.planning import ScanRequest


def unit(subject="m01", session="", low="lr", high="hr", **more) -> Unit:
    return Unit(subject, session, ScanRequest(Path(low)), ScanRequest(Path(high)), **more)


def table(tmp_path: Path, *lines: str, newline: str = "\n") -> Path:
    path = tmp_path / "mapping.tsv"
    path.write_bytes((newline.join(lines) + newline).encode())
    return path


@given(st.text(max_size=200))
def test_labels_are_safe_folder_names(text):
    found = label(text)
    assert re.fullmatch(r"[A-Za-z0-9]{0,64}", found)
    assert label(found) == found or found.startswith(("sub", "ses"))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_no_name_leads_out_of_the_cohort(subject, session):
    cohort = settled(Path("t"), [unit(subject, session)])
    assert len(cohort.units) + len(cohort.problems) == 1
    for one in cohort.units:
        parts = one.folder.parts
        assert parts[0].startswith("sub-")
        assert len(parts) == (2 if session else 1)
        assert not set("".join(parts)) - set(string.ascii_letters + string.digits + "-")


def test_units_come_in_natural_order():
    units = [unit("m10"), unit("m2"), unit("m1", "2"), unit("m1", "10"), unit("m1", "1")]
    names = [one.name for one in settled(Path("t"), units).units]
    assert names == ["sub-m1_ses-1", "sub-m1_ses-2", "sub-m1_ses-10", "sub-m2", "sub-m10"]


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ([unit("m-01"), unit("m01")], "would share the folder"),
        ([unit("M01"), unit("m01")], "would share the folder"),
        ([unit("m-01", "1"), unit("m01", "2")], "would share the folder"),
        ([unit("мышь"), unit("ok")], "no letter or digit"),
        ([unit("m01", "…"), unit("ok")], "no letter or digit"),
        ([unit("m01", "1"), unit("m01", "1", "other")], "tell them apart by session"),
    ],
)
def test_units_that_could_be_mixed_up_are_left_out(units, reason):
    cohort = settled(Path("t"), [*units, unit("bystander")])
    assert "bystander" in {one.subject for one in cohort.units}
    assert cohort.problems
    assert all(reason in problem.reason for problem in cohort.problems)
    assert len(cohort.units) + len(cohort.problems) == len(units) + 1


def test_a_table_is_read_with_everything_it_says(tmp_path):
    path = table(
        tmp_path,
        "# a comment",
        "hr\tlr\tsubject\tsession\tlr_scan\tlr_reco\thr_package\thr_frame\ttruth",
        "",
        "a/hr.zip/3\t../lr\tm 01\t2\t7\t1\t2\techo=2,cycle=1\ttruth.json",
        "#x\ty\tout",
        newline="\r\n",
    )
    corrections = Corrections("Quadruped", "Head_Prone", "Head_Supine")
    (one,) = read_mapping(path, corrections).units
    assert (one.subject, one.session, one.name) == ("m 01", "2", "sub-m01_ses-2")
    assert one.low == ScanRequest(tmp_path.parent / "lr", 7, 1, None, {}, "Quadruped", "Head_Prone")
    assert one.high == ScanRequest(
        tmp_path / "a/hr.zip/3", None, None, 2, {"echo": 2, "cycle": 1}, "Quadruped", "Head_Supine"
    )
    assert one.truth == tmp_path / "truth.json"
    assert one.sources["subject"] == "mapping.tsv, line 4"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["subject\tlr"], "should name the columns"),
        (["lr\thr\tsubjet", "a\tb\tc"], "should name the columns, found lr, hr, subjet"),
        (["lr\thr\tlr", "a\tb\tc"], "should name the columns"),
        (["lr\thr\tsubject", "a\t\tm"], "line 2 names no hr scan"),
        (["lr\thr\tsubject\tlr_scan", "a\tb\tm\tseven"], "line 2: lr_scan 'seven' is no number"),
        (["lr\thr\tsubject\tlr_scan", "a\tb\tm\t-1"], "is no number"),
        (["lr\thr\tsubject\tlr_frame", "a\tb\tm\techo"], "NAME=NUMBER"),
        (["lr\thr\tsubject", "a\tb\tm\textra"], "line 2 has 4 cells, not 3"),
        (["lr\thr\tsubject", "a\0\tb\tm"], "NUL"),
        (["lr\thr\tsubject", 'a\t"b\tm'], "not a tab-separated table"),
        (["lr\thr\tsubject", 'a\t"b\t', 'c"\tm'], "line break"),
        (["lr\thr\tsubject"], "no rows"),
        (["# nothing"], "empty"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_its_line(tmp_path, lines, message):
    with pytest.raises(FormatError, match=re.escape(message)):
        read_mapping(table(tmp_path, *lines))


def test_other_files_are_no_tables(tmp_path):
    with pytest.raises(MissingInputError):
        read_mapping(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes("lr\thr\nä\tb\n".encode("latin-1"))
    with pytest.raises(FormatError, match="UTF-8"):
        read_mapping(tmp_path / "latin.tsv")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    (tmp_path / "excel.tsv").write_text("lr\thr\tsubject\na\tb\tm\n", encoding="utf-8-sig")
    assert read_mapping(tmp_path / "excel.tsv").units[0].subject == "m"


_CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], include_characters='\t"#'),
    min_size=1, max_size=20,
).map(str.strip).filter(lambda text: label(text))  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(_CELLS, st.none() | _CELLS)
def test_what_is_written_is_read_again(tmp_path_factory, subject, session):
    folder = tmp_path_factory.mktemp("map")
    written = Unit(
        subject,
        session or "",
        ScanRequest(folder / "lr study", 7, None, 2, {"echo": 1}),
        ScanRequest(folder.parent / "hr.nii.gz"),
        truth=folder / "truth.json",
    )
    write_mapping(settled(folder, [written]), folder / "mapping.tsv")
    read = read_mapping(folder / "mapping.tsv").units
    if read:
        (one,) = read
        assert (one.subject, one.session) == (written.subject, written.session)
        assert (one.low, one.high, one.truth) == (written.low, written.high, written.truth)
    else:
        raise AssertionError("the row was lost")


def test_a_candidate_is_chosen_by_taking_its_mark_away(tmp_path):
    hostile = "m\n02\tlr_evil\thr_evil"
    problem = Problem(
        "subject 'm\n02'\n#", "2 scans could be LR\nscan 7\nscan 8",
        (unit("m02", low="a"), unit("m02", low="b")),
    )  # fmt: skip
    cohort = CohortMap(tmp_path, (unit("m01"), unit(hostile, "1")), (problem,))
    text = mapping_text(cohort, Path.cwd())
    path = tmp_path / "mapping.tsv"
    path.write_text(text)
    subjects = [one.subject for one in read_mapping(path).units]
    assert subjects == ["m01", "m 02\tlr_evil\thr_evil"]
    path.write_text(text.replace("#m02\t\tb", "m02\t\tb"))
    chosen = [one for one in read_mapping(path).units if one.subject == "m02"]
    assert [one.low.path.name for one in chosen] == ["b"]


def test_the_subject_comes_from_the_header_when_the_table_has_none(tiny_pair, tmp_path):
    (tmp_path / "missing").mkdir()
    path = table(
        tmp_path, "lr\thr", f"{tiny_pair.low}\t{tiny_pair.high}", f"missing\t{tiny_pair.high}"
    )
    cohort = read_mapping(path)
    (one,) = cohort.units
    assert one.subject == "tiny-mouse"
    assert one.sources["subject"].startswith("visu_pars:VisuSubjectId of ")
    (problem,) = cohort.problems
    assert problem.where == "mapping.tsv, line 3"
    assert "no scan found" in problem.reason


def test_columns_are_those_of_the_guide():
    guide = Path(__file__).resolve().parents[2] / "docs" / "many-subjects.md"
    text = guide.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in COLUMNS)

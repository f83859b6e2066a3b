"""Pseudonyms, the allow-list, and a scanner that finds what it should and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import random
import stat
import tarfile
import zipfile
from datetime import date

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from srmri_data.decisions import Event
from srmri_data.deid import FIELDS, Pseudonyms, public_fields, scan
from srmri_data.deid.scan import scan_phi
from srmri_data.deid.trail import public_event
from srmri_data.deid.words import identifiers_in, is_harmless
from srmri_data.errors import FormatError, InputError, MissingInputError
from srmri_data.volumes import Sourced

NAMES = Pseudonyms(b"k" * 32)


def found(path, **settings):
    return {(f.kind, f.text) for f in scan_phi(path, **settings).findings}


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "settings" / "key"
    first = Pseudonyms.from_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Pseudonyms.from_file(path).subject("m1") == first.subject("m1")
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text().strip() not in repr(first)
    path.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        Pseudonyms.from_file(path)


def test_a_key_that_is_none_is_refused(tmp_path):
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(FormatError, match="64 hexadecimal digits"):
        Pseudonyms.from_file(tmp_path / "key")
    with pytest.raises(MissingInputError):
        Pseudonyms.from_file(tmp_path / "none", create=False)


def test_names_of_other_kinds_and_keys_differ():
    assert NAMES.subject("ann") == NAMES.subject("ann")
    assert NAMES.subject("ann")[1:] != NAMES.reviewer("ann")[1:]
    assert NAMES.subject("ann") != Pseudonyms(b"x" * 32).subject("ann")


def test_dates_move_far_and_together():
    one, other = date(2024, 1, 5), date(2024, 2, 29)
    assert NAMES.shifted(other, "m1") - NAMES.shifted(one, "m1") == other - one
    assert NAMES.shifted(one, "m1") < date(1926, 1, 1)
    assert len({NAMES.shifted(one, f"m{n}") for n in range(20)}) > 15


def test_only_listed_fields_of_the_listed_kind_leave():
    fields = {
        "echo_time_ms": 5, "repetition_time_ms": "100 by Ann", "method": "FLASH_ann",
        "subject_type": "Quadruped", "subject_id": "m1", "protocol": "Ann's",
        "flip_angle_deg": [45],
        "imaging_frequency_mhz": 400.3294651, "acquired_at": "2024-01-05", "averages": float("nan"),
        "nucleus": "<1H>",
        "field_of_view_mm": [1.0, "Ann"], "subject_position": {"a": 1},
    }  # fmt: skip
    left = public_fields({name: Sourced(value, "x") for name, value in fields.items()})
    assert left == {
        "echo_time_ms": 5.0,
        "subject_type": "Quadruped",
        "flip_angle_deg": [45.0],
        "field_strength_t": 9.4,
    }
    assert all(field.unit in field.name or field.unit in ("°", "Hz", "T", "") or field.unit == "ms"
               for field in FIELDS.values())  # fmt: skip


def test_the_trail_keeps_the_answers_and_no_words():
    event = Event(
        7, "00000000-0000-4000-8000-000000000001", "decision", 10, 23, "Ann Example",
        "2024-01-05T10:00:00.000Z", 1, None, 3, "as Bob said", (22, 23), 1200,
        ("blink", "ann-view"), "srmri 0.1.0", False,
    )  # fmt: skip
    public = public_event(event, NAMES)
    assert public["reviewer"] == NAMES.reviewer("Ann Example")
    assert (public["choice"], public["shown"], public["views"]) == (23, [22, 23], ["blink"])
    text = json.dumps(public)
    assert not any(word in text for word in ("Ann", "ann", "Bob", "2024", "0000-4000"))


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-05", "2024/01/05", "20240105", "05/01/2024", "5.1.2024", "5 Jan 2024",
        "January 5, 2024", "Fri Jan  5 12:00:00 2024", "2024-01-05T12:00:00,000+0100",
        "1704454800", "1704454800123", "20240105_mouse", "1.3.12.2.1107.5.2.43.66044",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "ann@lab.example.org", "ann@scanner",
        "192.168.0.17",
        "00:1B:44:11:3A:B7", "nmr-pc1.local", "/opt/PV6.0.1/data/ann/nmr", "/home/ann/x.nii",
        r"C:\Users\ann", r"\\server\share", "file:///x", "~ann/data", "Dr. House", "Prof Moriarty",
        "+49 551 3912345", "hf_abcdefghijklmnopqrstuv",
    ],
)  # fmt: skip
def test_identifiers_are_seen_anywhere(text):
    assert identifiers_in(f"x {text}, y")


@pytest.mark.parametrize(
    "text",
    [
        "3.141592653589793", "1728.25", "a1704454800b", "6.0.1", "0.100 x 0.100 mm", "1900-01-05",
        "5f" * 32, "sub-s0123456789_ses-01_acq-25um_T2starw.nii.gz", "12 of 150 pairs, 8.0 %",
        "volumes/s1704454800/s1704454800_01_hr.nii.gz", "train-00000-of-00001.parquet",
        "https://github.com/mlcommons/croissant/issues/80", "TR 100 ms, TE 5/10 ms", "data/pairs/x",
    ],
)  # fmt: skip
def test_figures_are_no_identifiers(text):
    assert identifiers_in(text) == []


def test_words_of_the_dataset_are_harmless_and_others_not():
    for word in (
        *("coronal", "auto", "1.5e-3", "srmri 0.1.0", "RAS", "ab" * 32, "375um", "", "1905-02-03"),
        *("s0123456789_01_lr_coronal_0030", "volumes/s0123456789/s0123456789_01_hr.nii.gz"),
    ):
        assert is_harmless(word)
    for word in ("Ann", "mouse 7", "operator", "coronal Ann", "/x", "12 Ann", "s0123456789_Ann"):
        assert not is_harmless(word)


def test_gzip_headers_and_what_is_inside(tmp_path):
    with (
        open(tmp_path / "a.gz", "wb") as file,
        gzip.GzipFile("ann.nii", "wb", fileobj=file, mtime=1704454800) as stream,
    ):
        stream.write(gzip.compress(b"by ann@lab.example", mtime=0))
    kinds = found(tmp_path)
    assert ("header", "ann.nii (file name)") in kinds
    assert ("date", "time 1704454800") in kinds
    assert ("e-mail", "ann@lab.example") in kinds
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"0 1 2\n", mtime=0))
    assert {kind for kind, _ in found(tmp_path)} <= {"unknown"}


def test_zip_and_tar_entries(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.comment = b"of Ann"
        archive.writestr(zipfile.ZipInfo("2024-01-05/x.tsv"), "reviewer\nAnn\n")
        entry = zipfile.ZipInfo("y.tsv", date_time=(2024, 1, 5, 1, 2, 4))
        archive.writestr(entry, "a\n1\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("z.tsv")
        entry.uname, entry.mtime, entry.size = "annlogin", 5, 4
        archive.addfile(entry, io.BytesIO(b"a\n1\n"))
    kinds = found(tmp_path)
    assert {("header", "of Ann"), ("date", "2024-01-05"), ("field", "Ann"),
            ("date", "(2024, 1, 5, 1, 2, 4)"), ("header", "annlogin (owner)"),
            ("date", "time 5")} <= kinds  # fmt: skip


def test_png_chunks(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Ann")
    info.add_text("Comment", "by Bob " * 30, zip=True)
    info.add_itxt("Title", "Zoë", lang="de", tkey="Titel")
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    image.save(tmp_path / "a.png", pnginfo=info)
    with open(tmp_path / "a.png", "ab") as file:
        file.write(b"trailer of Eve")
    text = " ".join(text for _, text in found(tmp_path))
    assert all(word in text for word in ("Ann", "Bob", "Zo", "Eve"))
    image.save(tmp_path / "a.png")
    assert found(tmp_path) == set()


def test_nifti_texts_and_extensions(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nib.save(image, tmp_path / "clean.nii")
    assert found(tmp_path / "clean.nii") == set()
    image.header["descrip"] = b"scan of ann"
    image.header["aux_file"] = b"ann.txt"
    image.header["intent_name"] = b"ann"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Ann at home"))
    nib.save(image, tmp_path / "a.nii")
    kinds = found(tmp_path / "a.nii")
    assert {("field", "scan of ann"), ("field", "ann.txt"), ("field", "ann")} <= kinds
    assert any(kind == "header" and "Ann at home" in text for kind, text in kinds)
    nib.save(nib.Nifti2Image(image.dataobj, np.eye(4)), tmp_path / "b.nii")
    second = nib.Nifti2Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    second.header["descrip"] = b"second ann"
    nib.save(second, tmp_path / "c.nii")
    assert ("field", "second ann") in found(tmp_path / "c.nii")


def test_parquet_metadata_columns_and_images(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Eve")
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(png, "PNG", pnginfo=info)
    table = pa.table({"operator": ["Ann"], "n": [1], "image": [{"bytes": png.getvalue()}]})
    table = table.replace_schema_metadata({"lab": "of Bob"})
    pq.write_table(table, tmp_path / "a.parquet")
    kinds = found(tmp_path)
    assert {("field", "Ann"), ("header", "lab = of Bob"), ("header", "Author Eve")} <= kinds
    pq.write_table(pa.table({"split": ["train"], "n": [1]}), tmp_path / "a.parquet")
    assert found(tmp_path) == set()


def test_json_and_tables(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [{"operator": "Ann"}], "split": "train"}))
    (tmp_path / "b.jsonl").write_text('{"note": "said Bob"}\n{"n": 1}\n')
    (tmp_path / "c.tsv").write_text("participant_id\tsex\nsub-s0123456789\tEve\n")
    kinds = found(tmp_path)
    assert kinds == {("field", "Ann"), ("field", "said Bob"), ("unknown", "Eve")}


def test_known_names_are_looked_for_in_pixels_too(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[3, :12] = np.frombuffer(b"mouse-of-ann", np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert found(tmp_path) == set()
    assert found(tmp_path, known=["mouse-of-ann"]) == {("known", "mouse-of-ann")}


def test_names_of_files_and_links(tmp_path):
    (tmp_path / "20240105_ann").write_text("")
    (tmp_path / "link").symlink_to("/etc/hostname")
    kinds = {kind for kind, _ in found(tmp_path)}
    assert kinds == {"date", "path"}


def test_damaged_files_are_not_vouched_for(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 1000, mtime=0)[:20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing PAR1")
    report = scan_phi(tmp_path)
    assert {f.file for f in report.findings} == {"a.gz", "b.parquet"}


def test_nothing_to_scan(tmp_path):
    with pytest.raises(MissingInputError):
        scan_phi(tmp_path / "none")


@pytest.mark.parametrize("pairs", [2, 5, 1 << 20])
def test_texts_are_found_in_one_pass_wherever_they_stand(pairs, monkeypatch):
    monkeypatch.setattr(scan, "_PAIRS", pairs)
    rng = random.Random(pairs)
    seen = 0
    for case in range(1000):
        words = ["".join(rng.choices("abc", k=rng.randint(8, 12))) for _ in range(3)]
        content = "".join(rng.choices("abc", k=rng.randint(0, 60)))
        if case % 2:
            content += rng.choice(words) + "ab"[: rng.randint(0, 2)]
        expected = [word for word in words if word in content]
        assert scan._Needles(words).found_in(content.encode()) == expected
        seen += bool(expected)
    assert seen >= 500

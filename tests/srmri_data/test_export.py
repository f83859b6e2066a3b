"""An export holds exactly what was scanned and decided, by subject, the same bytes every time."""

from __future__ import annotations

import io
import json
import pickle
import shutil

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from export_runs import KEY, make_run, study
from PIL import Image
from typer.testing import CliRunner

from cli import app
from srmri_data import ingest
from srmri_data.dataset import SliceDataset
from srmri_data.deid import Pseudonyms
from srmri_data.errors import (
    FormatError,
    MissingInputError,
    PrivacyError,
    SplitError,
    UsageError,
)
from srmri_data.export import (
    ExportConfig,
    StagedDataset,
    pixels_sha256,
    plan_export,
    write_export,
)
from srmri_data.pixels import SixteenBit
from srmri_data.review_merge import decide_at_terminal
from srmri_data.run_folder import read_pairs
from srmri_data.safe_io import read_json
from srmri_data.volumes import Provenance, Volume

NAMES = Pseudonyms(KEY)
SUBJECTS = ("ada", "bea", "cleo")


def plan(*runs, **settings):
    return plan_export(runs, config=ExportConfig(**settings), pseudonyms=NAMES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, name, seed) for seed, name in enumerate(SUBJECTS)]


@pytest.fixture(scope="module")
def staged(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged") / "out"
    return write_export(plan(*runs, preview=True), folder)


def rows(staged, config):
    files = sorted((staged.path / "data" / config).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def pixels(cell):
    return np.asarray(Image.open(io.BytesIO(cell["bytes"])))


def test_the_plan_names_every_file(runs, staged):
    found = {p.relative_to(staged.path).as_posix() for p in staged.path.rglob("*") if p.is_file()}
    assert found == set(plan(*runs, preview=True).files)
    assert staged.verify() == []
    assert set(staged.checksums) == found - {"checksums.sha256"}


def test_a_changed_file_is_found(staged, tmp_path):
    copy = shutil.copytree(staged.path, tmp_path / "copy")
    (copy / "splits.json").write_text("{}")
    (copy / "extra").write_text("x")
    (copy / "README.md").unlink()
    assert StagedDataset.open(copy).verify() == ["README.md", "extra", "splits.json"]


def test_the_same_runs_give_the_same_bytes(runs, staged, tmp_path):
    again = write_export(plan(*reversed(runs), preview=True), tmp_path / "elsewhere")
    assert again.tree_sha256 == staged.tree_sha256
    other_key = plan_export(runs, config=ExportConfig(), pseudonyms=Pseudonyms(b"x" * 32))
    assert set(other_key.splits).isdisjoint(plan(*runs).splits)


def test_pixels_of_pairs_are_those_of_the_scans(runs, staged):
    by_subject = {NAMES.subject(name): run for name, run in zip(SUBJECTS, runs, strict=True)}
    table = rows(staged, "pairs")
    assert len(table) == sum((read_pairs(run)["status"] == "auto").sum() for run in runs) > 0
    for row in table:
        run = by_subject[row["subject"]]
        low, high = (
            ingest.load(ingest.discover(run.parent / run.name[4:] / n)[0]) for n in ("2", "1")
        )
        # Coronal slices of a RAS volume: along j, superior on top.
        image = low.data[:, row["lr_slice"], ::-1].T
        found = pixels(row["lr"])
        assert found.dtype == np.uint16
        np.testing.assert_allclose(
            found * row["lr_scale"] + row["lr_offset"], image, rtol=1e-6, atol=1e-3
        )
        image = high.data[:, row["hr_slice"], ::-1].T
        np.testing.assert_allclose(
            pixels(row["hr"]) * row["hr_scale"] + row["hr_offset"], image, rtol=1e-6, atol=1e-3
        )
        aligned = nib.load(run / "hr_aligned.nii.gz")
        number = read_pairs(run)["lr_slice"].tolist().index(row["lr_slice"])
        raw = np.asarray(aligned.dataobj.get_unscaled())[:, :, number].T
        np.testing.assert_array_equal(pixels(row["hr_aligned"]), raw)
        assert row["hr_aligned_scale"] == aligned.dataobj.slope
        assert row["lr_lossless"]
        assert row["hr_lossless"]
        assert set(np.unique(pixels(row["mask"]))) <= {0, 255}
        assert pixels(row["preview"]).dtype == np.uint8


def test_volumes_have_voxels_and_place_of_the_scans(runs, staged):
    facts = read_json(staged.path / "provenance.json")["volumes"]
    for name, run in zip(SUBJECTS, runs, strict=True):
        for number, role in (("1", "hr"), ("2", "lr")):
            scan = ingest.load(ingest.discover(run.parent / name / number)[0])
            entry = facts[f"{NAMES.subject(name)}_01_{role}"]
            written = nib.load(staged.path / entry["path"])
            np.testing.assert_allclose(written.get_fdata(), scan.data, rtol=1e-6, atol=1e-3)
            np.testing.assert_allclose(written.affine, scan.affine, atol=1e-6)
            assert entry["affine"] == scan.affine.tolist()


def test_rows_come_in_small_groups(staged):
    for file in staged.path.rglob("data/*/*.parquet"):
        metadata = pq.ParquetFile(file).metadata
        assert all(metadata.row_group(n).num_rows <= 100 for n in range(metadata.num_row_groups))


def test_datasets_loads_the_folder(staged, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for config, name in ((None, "pairs"), ("slices_hr", "slices_hr")):
        loaded = datasets.load_dataset(str(staged.path), config, cache_dir=str(tmp_path / "cache"))
        streamed = datasets.load_dataset(str(staged.path), config, streaming=True)
        expected = rows(staged, name)
        for given in (loaded, streamed):
            got = [row for split in given for row in given[split]]
            key = "pair_id" if name == "pairs" else "slice_id"
            assert sorted(r[key] for r in got) == sorted(r[key] for r in expected)
            by_key = {row[key]: row for row in expected}
            for row in got:
                for column, value in by_key[row[key]].items():
                    if isinstance(value, dict) and "bytes" in value:
                        np.testing.assert_array_equal(np.asarray(row[column]), pixels(value))
                    else:
                        assert row[column] == value


def test_the_dataset_gives_arrays_in_the_intensity_map(staged):
    expected = [row for row in rows(staged, "pairs") if row["split"] == "train"]
    pairs = SliceDataset.open(staged.path, config="pairs", split="train")
    assert len(pairs) == len(expected)
    assert pairs.subjects == [row["subject"] for row in expected]
    copy = pickle.loads(pickle.dumps(pairs))
    for item, row in zip(copy, expected, strict=True):
        units = pixels(row["lr"]) * row["lr_scale"] + row["lr_offset"]
        low, high = row["lr_intensity_low"], row["lr_intensity_high"]
        assert item["low_res"].dtype == np.float32
        np.testing.assert_allclose(item["low_res"], (units - low) / (high - low), atol=1e-6)
        assert item["high_res"].shape == item["mask"].shape
    slices = SliceDataset.open(str(staged.path), plane="coronal")
    assert slices[0]["image"].min() < 0, "the measurement is clipped"
    assert (slices[-1]["plane"], slices[-1]["slice_index"]) == ("coronal", 29)
    with pytest.raises(IndexError):
        slices[len(slices)]
    with pytest.raises(UsageError, match="axial"):
        SliceDataset.open(staged.path, plane="axial")


def test_no_subject_is_in_two_splits(runs, staged):
    split_of = {}
    for config in ("pairs", "slices_hr"):
        for row in rows(staged, config):
            assert split_of.setdefault(row["subject"], row["split"]) == row["split"]
    assert sorted(split_of.values()) == ["test", "train", "validation"]
    listed = read_json(staged.path / "splits.json")["subjects"]
    assert {s: k for k, v in listed.items() for s in v} == split_of


def test_one_subject_is_for_training_with_a_warning(runs):
    alone = plan(runs[0])
    assert set(alone.splits.values()) == {"train"}
    assert any("no subject is left for testing" in text for text in alone.warnings)


def test_hr_only_subjects_are_trained_on(runs, tmp_path):
    extra = study(tmp_path / "dora", "dora", 9) / "1"
    found = plan(*runs, hr_only=(extra,))
    assert found.splits[NAMES.subject("dora")] == "train"
    counts = found.describe()["rows"]["slices_hr"]
    assert counts["train"] == 2 * counts["test"]


def test_more_hr_of_a_tested_subject_is_not_trained_on(runs, tmp_path):
    splits = plan(*runs).splits
    (tested,) = (name for name in SUBJECTS if splits[NAMES.subject(name)] == "test")
    extra = study(tmp_path / "again", tested, 11) / "1"
    found = plan(*runs, hr_only=(extra,))
    assert found.splits == splits
    sessions = {v.session for v in found.volumes if v.subject == NAMES.subject(tested)}
    assert sessions == {"01", "02"}
    before, after = (p.describe()["rows"]["slices_hr"] for p in (plan(*runs), found))
    assert after == before | {"test": 2 * before["test"]}


def test_given_splits_are_kept(runs, tmp_path):
    wanted = {"train": ["ada"], "test": ["bea"], "validation": []}
    (tmp_path / "mine.json").write_text(json.dumps(wanted))
    found = plan(*runs, splits=tmp_path / "mine.json")
    names = [NAMES.subject(name) for name in SUBJECTS]
    assert [found.splits[name] for name in names] == ["train", "test", "train"]
    assert any(names[2] in text for text in found.warnings)
    wanted["validation"] = ["bea"]
    (tmp_path / "mine.json").write_text(json.dumps(wanted))
    with pytest.raises(SplitError, match="bea"):
        plan(*runs, splits=tmp_path / "mine.json")


def test_the_same_scan_under_two_names_is_refused(runs, tmp_path):
    copy = shutil.copytree(runs[0].parent / "ada", tmp_path / "copy")
    for visu in copy.rglob("visu_pars"):
        visu.write_text(visu.read_text().replace("<ada>", "<eve>"))
    with pytest.raises(SplitError, match="'eve'"):
        plan(*runs, hr_only=(copy / "1",))


def test_the_same_voxels_in_another_format_are_refused(runs, tmp_path):
    from srmri_data.formats.nifti_writer import write_nifti

    scan = ingest.load(ingest.discover(runs[0].parent / "ada" / "1")[0], dtype="stored")
    path = write_nifti(tmp_path / "eve.nii.gz", scan.data, scan.affine)
    found = plan(*runs, hr_only=(path,), species="Mus musculus")
    with pytest.raises(SplitError, match="same voxels"):
        write_export(found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_settled_pairs_leave(runs):
    table = read_pairs(runs[0])
    assert (table["status"] == "review").any(), "the fixture should leave something undecided"
    settled = plan(runs[0])
    everything = plan(runs[0], include_queued=True)
    assert len(settled.runs[0].chosen) == (table["status"] == "auto").sum()
    assert len(everything.runs[0].chosen) == len(table)


def test_people_need_a_statement(runs):
    with pytest.raises(PrivacyError, match="consent"):
        plan(*runs, species="Homo sapiens")
    plan(*runs, species="Homo sapiens", human_statement="All consented; brains were extracted.")


def test_an_export_replaces_only_an_export(runs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="not an export"):
        write_export(plan(runs[0]), tmp_path / "mine", force=True)
    write_export(plan(runs[0]), tmp_path / "out")
    with pytest.raises(UsageError, match="exists already"):
        write_export(plan(runs[0]), tmp_path / "out")
    write_export(plan(runs[1]), tmp_path / "out", force=True)
    assert StagedDataset.open(tmp_path / "out").verify() == []


@pytest.fixture
def reviewed(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run-ada")
    shutil.copytree(runs[0].parent / "ada", tmp_path / "ada")
    table = read_pairs(run)
    queued = [int(n) for n in table["lr_slice"][table["status"] == "review"]]
    decide_at_terminal(run, f"{queued[0]}=5", reviewer="Ann Example", note="as Bob said")
    decide_at_terminal(run, f"{queued[1]}=none", reviewer="Zoë", confidence=2)
    return run, queued


def test_decisions_count_without_an_export_of_the_review(reviewed, tmp_path):
    run, queued = reviewed
    staged = write_export(plan(run), tmp_path / "out")
    by_slice = {row["lr_slice"]: row for row in rows(staged, "pairs")}
    decided = by_slice[queued[0]]
    assert (decided["status"], decided["hr_slice"], decided["reviewed_by_n"]) == ("decided", 5, 1)
    assert decided["hr_sha256"] == pixels_sha256(pixels(decided["hr"]))
    assert queued[1] not in by_slice, "a rejected pair left"
    assert read_pairs(run)["status"].tolist().count("decided") == 0, "the run was changed"


def test_the_trail_is_anonymous_and_complete(reviewed, tmp_path):
    run, queued = reviewed
    staged = write_export(plan(run), tmp_path / "out")
    (trail,) = (staged.path / "reviews").iterdir()
    events = [json.loads(line) for line in trail.read_text().splitlines()]
    assert [(e["lr_slice"], e["choice"]) for e in events] == [(queued[0], 5), (queued[1], "none")]
    assert [e["reviewer"] for e in events] == [NAMES.reviewer(n) for n in ("Ann Example", "Zoë")]
    assert not {"note", "at", "submission_id"} & set(events[0])
    (votes,) = (staged.path / "votes").iterdir()
    assert pq.read_table(votes).num_rows == pq.read_table(run / "votes.parquet").num_rows


def test_values_beyond_sixteen_bits_are_rounded_and_said_to_be(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1e4, (12, 12, 12)).astype(np.float32)
    data[0, 0, 0], data[1, 1, 1] = np.nan, np.inf
    found = SixteenBit.of(Volume(data, np.eye(4), Provenance(tmp_path, "memory")))
    back = found.pixels(found.volume.data) * found.scale + found.offset
    finite = np.isfinite(data)
    assert not found.lossless
    assert np.abs(back - data)[finite].max() <= found.scale / 2 * 1.001


@pytest.mark.parametrize(
    ("low", "high", "slope"), [(-32768, 32767, 0.5), (0, 65535, 1.0), (-5, 65530, 2.0), (7, 7, 1.0)]
)
def test_integers_that_fit_are_kept_exactly(tmp_path, low, high, slope):
    data = np.linspace(low, high, 1000).round().astype(np.int32).reshape(10, 10, 10)
    slopes, offsets = np.full(10, slope), np.full(10, 3.0)
    volume = Volume(data, np.eye(4), Provenance(tmp_path, "memory"), slopes, offsets)
    found = SixteenBit.of(volume)
    assert found.lossless
    back = found.pixels(data).astype(float) * found.scale + found.offset
    np.testing.assert_array_equal(back, data * slope + 3.0)
    # Control: with a slope of its own in one slice there is no exact way.
    slopes[3] = 9.0
    assert not SixteenBit.of(volume).lossless


def test_damaged_datasets_are_refused(staged, tmp_path):
    copy = shutil.copytree(staged.path, tmp_path / "copy")
    (file,) = (copy / "data" / "pairs").glob("train-*")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(FormatError, match="damaged"):
        SliceDataset.open(copy, config="pairs")
    with pytest.raises(MissingInputError, match="no such folder"):
        SliceDataset.open(tmp_path / "none")
    shutil.rmtree(copy / "data" / "pairs")
    with pytest.raises(MissingInputError, match="no pairs of split 'train'"):
        SliceDataset.open(copy, config="pairs")
    with pytest.raises(UsageError, match="no revisions"):
        SliceDataset.open(copy, revision="v1.0.0")
    with pytest.raises(MissingInputError, match=r"no checksums\.sha256"):
        StagedDataset.open(tmp_path)


def test_the_command_line_plans_and_writes(runs, tmp_path):
    key, out = tmp_path / "key", tmp_path / "out"
    command = ["export-hf", *map(str, runs), "--key", str(key), "--out", str(out), "--quiet"]
    told = invoke([*command, "--dry-run", "--json"])
    assert json.loads(told.stdout)["rows"]["slices_hr"]
    assert not out.exists()
    assert "would write:" in invoke([*command, "--dry-run"]).stdout
    wrote = json.loads(invoke([*command, "--json"]).stdout)
    assert StagedDataset.open(out).tree_sha256 == wrote["tree_sha256"]
    assert invoke(["scan-phi", str(out)]).exit_code == 0
    (out / "note.json").write_text('{"operator": "Ann"}')
    found = invoke(["scan-phi", str(out), "--json"])
    assert found.exit_code == 3
    assert json.loads(found.stdout)["findings"][0]["text"] == "Ann"
    assert invoke(["export-hf", "--dry-run"]).exit_code == 2
    assert invoke(command[:-3]).exit_code == 2, "without --out"
    assert invoke(command[:4]).exit_code == 2
    bids = ["export-bids", str(runs[0]), "--key", str(key), "--dry-run"]
    assert "_acq-100um_T2starw.nii.gz" in invoke(bids).stdout


def invoke(arguments):
    return CliRunner().invoke(app, arguments)

"""A cohort: the command as a user runs it, poisoned subjects, the page, what is unusual."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_run import write_run
from typer.testing import CliRunner
from xss_payloads import PAYLOADS

from cli import app
from srmri_data import cohort as cohorts
from srmri_data.cohort import KEY_FIGURES, collect, refresh, robust_z, write_cohort
from srmri_data.errors import FormatError, MissingInputError, UsageError
from srmri_data.jobs import Task, config_json, read_status
from srmri_data.mapping import CohortMap, Problem, Unit
from srmri_data.planning import PairingConfig, ScanRequest
from srmri_data.run_folder import open_run
from srmri_data.slices import Trim

PROJECT = Path(__file__).resolve().parents[2]
FAST = ["--method", "paper", "--voters", "ssim", "--trim", "0", "-q"]


def pair_all(*arguments, code=0):
    result = CliRunner().invoke(app, ["pair-all", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output + result.stderr
    return result


@settings(deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=30),
    st.floats(0.01, 100),
    st.floats(-1e3, 1e3),
)
def test_robust_z_does_not_depend_on_unit_and_origin(values, scale, shift):
    values = np.array(values, dtype=float)
    scores = robust_z(values)
    assert np.isfinite(scores).all()
    if np.ptp(values) > 0:
        np.testing.assert_allclose(robust_z(values * scale + shift), scores, rtol=1e-6, atol=1e-6)


def test_robust_z_by_its_definition():
    values = np.random.default_rng(0).normal(5, 2, 100_001)
    np.testing.assert_allclose(robust_z(values), (values - 5) / 2, atol=0.05)
    assert robust_z(np.full(6, 3.0)).tolist() == [0.0] * 6
    # More than half alike: the mean deviation is the measure, and the odd one still stands out.
    assert robust_z(np.array([1.0] * 9 + [2.0]))[-1] > cohorts.OUTLIER_Z
    assert np.isnan(robust_z(np.array([np.nan, 1.0, 2.0]))[0])
    assert np.isnan(robust_z(np.array([np.nan]))).all()


@pytest.fixture
def cohort(tmp_path):
    """Seven units with made-up runs, one of them far off, one failed, one not started."""
    units = tuple(
        Unit(f"m{n:02d}", "", ScanRequest(tmp_path / f"lr{n}"), ScanRequest(tmp_path / f"hr{n}"))
        for n in range(1, 10)
    )
    problem = Problem("subject 'm10'", "2 scans could be LR and 1 HR\na\nb", units[:2])
    made = CohortMap(tmp_path / "mapping.tsv", units, (problem,))
    out = tmp_path / "out"
    for n, unit in enumerate(units[:8]):
        folder = out / unit.folder
        state = "failed" if n == 7 else "done"
        error = {"type": "TruncatedError", "message": "too short", "hint": "copy again"}
        if state == "done":
            run = write_run(folder / unit.name)
            summary = json.loads((run / "summary.json").read_text())
            summary["seconds"] = 300.0 if n == 3 else 20.0 + n
            (run / "summary.json").write_text(json.dumps(summary))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "status.json").write_text(
            json.dumps(
                {
                    "schema_version": 1,
                    "state": state,
                    "config_sha256": "",
                    "request_sha256": "",
                    "inputs": None,
                    "attempts": 1,
                    "finished": "2024-01-01T00:00:00+00:00",
                    "error": error if state == "failed" else None,
                    "peak_memory_mb": 500.0,
                }
            )
        )
    return made, out


def test_key_figures_come_from_the_runs(cohort):
    made, out = cohort
    rows = collect(made, out)["units"]
    assert [row["state"] for row in rows] == ["done"] * 7 + ["failed", "waiting"]
    first = rows[0]
    assert first["accepted_share"] == 0.5
    assert first["unanimous_share"] == 0.5
    assert first["within_1_share"] == 1.0
    assert first["offset_um"] == pytest.approx((0.25 + 0.3) * 50)
    assert first["scatter_um"] == pytest.approx(0, abs=1e-6)
    assert first["peak_memory_mb"] == 500
    assert rows[7]["error"]["message"] == "too short"
    assert rows[8]["n_lr"] is None


def test_the_one_that_is_far_off_is_marked(cohort):
    made, out = cohort
    document = collect(made, out)
    assert [row["unit"] for row in document["units"] if row["outlier_in"]] == ["sub-m04"]
    assert document["units"][3]["outlier_in"] == ["seconds"]
    assert document["counts"]["outliers"] == 1
    # With four of them nobody can say what is usual.
    four = replace(made, units=made.units[:4])
    assert collect(four, out)["counts"]["outliers"] == 0


def test_a_difference_that_does_not_matter_is_no_outlier(cohort):
    made, out = cohort
    for n, unit in enumerate(made.units[:7]):
        path = out / unit.folder / unit.name / "summary.json"
        summary = json.loads(path.read_text())
        summary["seconds"] = 20.0 + (KEY_FIGURES["seconds"].least - 1 if n == 3 else 0.0)
        path.write_text(json.dumps(summary))
    assert collect(made, out)["counts"]["outliers"] == 0


def test_tables_and_page_say_the_same(cohort):
    made, out = cohort
    document = write_cohort(made, out)
    assert document == json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    lines = (out / "cohort.tsv").read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t")
    table = [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]
    assert [row["unit"] for row in table] == [row["unit"] for row in document["units"]]
    assert table[3]["outlier_in"] == "seconds"
    assert table[8]["n_lr"] == "n/a"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "7 of 9 subjects paired, 1 failed, 1 not finished" in page
    assert 'href="sub-m01/sub-m01/index.html"' in page
    assert "too short" in page
    assert "2 scans could be LR" in page
    links = set(re.findall(r"(?:src|href)=[\"']([^\"'#][^\"']*)", page))
    assert links
    assert all(link.startswith("sub-m") for link in links)
    # Drawn again it is the same page.
    write_cohort(made, out)
    assert (out / "index.html").read_text(encoding="utf-8") == page


def test_texts_from_outside_stay_texts(cohort):
    made, out = cohort
    problems = tuple(Problem(payload, payload) for payload in PAYLOADS)
    hostile = tuple(
        replace(unit, subject=unit.subject + payload, sources={"lr": payload})
        for unit, payload in zip(made.units, PAYLOADS, strict=False)
    )
    for unit in hostile:
        folder = out / unit.folder
        folder.mkdir(parents=True, exist_ok=True)
        status = read_status(out / made.units[7].folder)
        status["error"] = dict.fromkeys(("type", "message", "hint"), unit.subject)
        (folder / "status.json").write_text(json.dumps(status))
    write_cohort(CohortMap(Path(PAYLOADS[0]), hostile, problems), out)
    page = (out / "index.html").read_text(encoding="utf-8")
    write_cohort(replace(made, problems=()), out)
    plain = (out / "index.html").read_text(encoding="utf-8")

    found, usual = _Elements(page), _Elements(plain)
    assert found.names <= usual.names | {"h3", "pre"}
    assert found.attributes <= usual.attributes | {"tabindex", "role", "aria-label"}
    # The payloads are there, as text.
    assert all(" ".join(payload.split()) in " ".join(found.text.split()) for payload in PAYLOADS)


class _Elements(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, page):
        super().__init__()
        self.names, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_state_can_be_asked_for(cohort, tmp_path):
    made, out = cohort
    with pytest.raises(MissingInputError, match="not the folder of a cohort"):
        refresh(out)
    written = write_cohort(made, out)
    again = refresh(out)
    assert again["units"] == written["units"]
    assert again["counts"]["left_out"] == 1
    shown = json.loads(pair_all(out, "--status", "--json").stdout)
    assert shown == again
    text = pair_all(out, "--status").stdout
    assert "7 of 9 paired" in text
    assert "sub-m08" in text
    # The table in it stands for it as well.
    (out / "mapping.tsv").touch()
    assert json.loads(pair_all(out / "mapping.tsv", "--status", "--json").stdout) == again
    (out / "cohort.json").write_text('{"schema_version": 99}')
    with pytest.raises(FormatError, match="can read"):
        refresh(out)


def test_a_cohort_is_not_written_among_other_things(tmp_path):
    (tmp_path / "bids" / "sub-01").mkdir(parents=True)
    with pytest.raises(UsageError, match="it holds sub-01"):
        cohorts.check_cohort_folder(tmp_path / "bids")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        cohorts.check_cohort_folder(tmp_path / "file")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mapping.tsv").touch()
    cohorts.check_cohort_folder(tmp_path / "new")
    cohorts.check_cohort_folder(tmp_path / "none")
    assert cohorts.default_folder(tmp_path / "new" / "mapping.tsv") == tmp_path / "new"
    assert cohorts.default_folder(tmp_path / "bids") == Path("pairing_reports/bids")


def test_a_run_folder_that_is_gone_is_not_started(cohort):
    made, out = cohort
    shutil.rmtree(out / "sub-m01" / "sub-m01")
    row = collect(made, out)["units"][0]
    assert (row["state"], row["run"]) == ("waiting", None)
    assert row["error"]["type"] == "MissingInputError"


@pytest.fixture(scope="module")
def tree(tiny_pair, tmp_path_factory):
    """Three subjects as studies in a tree."""
    root = tmp_path_factory.mktemp("cohort") / "studies"
    for name in ("m01", "m02", "m03"):
        for role, source in (("lr", tiny_pair.low), ("hr", tiny_pair.high)):
            study = shutil.copytree(source, root / f"{name}_{role}")
            for visu in study.rglob("visu_pars"):
                visu.write_text(visu.read_text().replace("tiny-mouse", name))
    return root


@pytest.fixture(scope="module")
def done(tree):
    """The whole way: dry run, table, two workers."""
    out = tree.parent / "out"
    preview = json.loads(pair_all(tree, "--out", out, "--dry-run", "--json", *FAST).stdout)
    table = out / "mapping.tsv"
    result = pair_all(table, "--workers", "2", "--threads", "1", "--json", *FAST)
    return out, preview, json.loads(result.stdout)


def test_from_a_tree_to_a_report(done):
    out, preview, document = done
    assert preview["mapping"] == str(out / "mapping.tsv")
    assert [row["n_lr"] for row in preview["units"]] == [60, 60, 60]
    assert document["this_run"] == {
        "attempted": ["sub-m01", "sub-m02", "sub-m03"], "unchanged": [], "not_done": []
    }  # fmt: skip
    assert document["counts"]["done"] == 3
    for row in document["units"]:
        run = open_run(out / row["run"])
        assert run.summary["n_pairs"] == row["n_pairs"]
        assert (run.path / "index.html").is_file()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "3 of 3 subjects paired" in page
    # The same scans three times: which process paired them, and what before, changes nothing.
    decisions = {
        open_run(out / row["run"]).summary["decisions_sha256"] for row in document["units"]
    }
    assert len(decisions) == 1


def test_the_second_time_nothing_is_done(done):
    out, _, _ = done
    table = out / "mapping.tsv"
    before = {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*")}
    document = json.loads(pair_all(table, "--json", *FAST).stdout)
    assert document["this_run"]["attempted"] == []
    assert len(document["this_run"]["unchanged"]) == 3
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("sub-*/**/*")}
    assert "3 unchanged" in pair_all(table, *FAST).stdout


def test_a_table_that_was_edited_is_not_overwritten(done, tree):
    out, _, _ = done
    table = out / "mapping.tsv"
    text = table.read_text(encoding="utf-8")
    assert "can be paired" in pair_all(tree, "--out", out, "--dry-run", *FAST).stdout
    try:
        table.write_text(text.replace("m01", "m09", 1), encoding="utf-8")
        result = pair_all(tree, "--out", out, "--dry-run", *FAST, code=2)
        assert "says something else" in result.stderr
        assert "m09" in table.read_text(encoding="utf-8")
        pair_all(tree, "--out", out, "--dry-run", "--force", *FAST)
        assert table.read_text(encoding="utf-8") == text
    finally:
        table.write_text(text, encoding="utf-8")


@pytest.fixture
def handed_out(monkeypatch):
    """The tasks that would be run; nothing is."""
    tasks = []
    monkeypatch.setattr(cohorts, "run_tasks", lambda given, **_: tasks.extend(given))
    return tasks


def test_shards_do_their_share(tree, tmp_path, handed_out):
    for shard, names in (("1/2", ["sub-m01", "sub-m03"]), ("2/2", ["sub-m02"])):
        arguments = [tree, "--out", tmp_path / "out", "--shard", shard, "--json", *FAST]
        document = json.loads(pair_all(*arguments, code=4).stdout)
        assert document["this_run"]["attempted"] == names
        assert document["this_run"]["not_done"] == names
        assert [task.unit.name for task in handed_out] == names
        assert document["counts"]["units"] == 3
        handed_out.clear()


def poisoned_table(tree: Path, root: Path) -> Path:
    """Copy the tree and spoil most of it; returns the table."""
    shutil.copytree(tree, root / "data")
    rows = ["subject\tlr\thr"]
    for name in ("good1", "truncated", "headless", "swapped", "mismatch", "crash", "good2"):
        low = shutil.copytree(tree / "m01_lr", root / "data" / f"{name}_lr")
        high = shutil.copytree(tree / "m01_hr", root / "data" / f"{name}_hr")
        if name == "truncated":
            path = next(low.rglob("2dseq"))
            path.write_bytes(path.read_bytes()[:-1])
        if name == "headless":
            next(high.rglob("visu_pars")).unlink()
        if name == "swapped":
            low, high = high, low
        if name == "mismatch":
            high = root / "data" / "m02_hr"
        rows.append(f"{name}\t{low.relative_to(root)}\t{high.relative_to(root)}")
    (root / "table.tsv").write_text("\n".join(rows) + "\n")
    return root / "table.tsv"


def start(*arguments) -> subprocess.Popen[str]:
    code = "from cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "pair-all", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def wait_for_state(folder: Path, state: str) -> dict:
    for _ in range(1200):
        status = read_status(folder)
        if status is not None and status["state"] == state:
            return status
        time.sleep(0.02)
    raise AssertionError(f"{folder} did not become {state}")


def test_poisoned_subjects_do_not_hurt_the_others(tree, tmp_path):
    table = poisoned_table(tree, tmp_path)
    out = tmp_path / "out"
    process = start(table, "--out", out, "-j", "2", "--threads", "1", *FAST)
    # What a crash in native code or the system's memory guard does to a process.
    worker = wait_for_state(out / "sub-crash", "running")["worker"]["pid"]
    os.kill(worker, signal.SIGSEGV)
    text, errors = process.communicate()
    assert process.returncode == 4, errors
    found = {
        row["unit"]: row
        for row in json.loads((out / "cohort.json").read_text(encoding="utf-8"))["units"]
    }
    assert {name for name, row in found.items() if row["state"] == "done"} == {
        "sub-good1", "sub-good2"
    }  # fmt: skip
    kinds = {name: row["error"]["type"] for name, row in found.items() if row["error"]}
    assert kinds == {
        "sub-truncated": "TruncatedError",
        "sub-headless": "MissingInputError",
        "sub-swapped": "ResolutionError",
        "sub-mismatch": "SubjectMismatchError",
        "sub-crash": "WorkerDied",
    }
    assert all(name in text for name in kinds)
    crash = read_status(out / "sub-crash")
    assert "SIGSEGV" in crash["error"]["message"]
    assert "Segmentation fault" in crash["error"]["traceback"]
    # The same again changes nothing; a retry gives those a chance that deserve one.
    again = json.loads(pair_all(table, "--out", out, "--json", *FAST, code=4).stdout)
    assert again["this_run"]["attempted"] == []
    assert len(again["this_run"]["not_done"]) == 5
    retried = pair_all(table, "--out", out, "--retry-failed", "--json", *FAST, code=4)
    states = {row["unit"]: row["state"] for row in json.loads(retried.stdout)["units"]}
    assert states["sub-crash"] == "done"
    assert list(states.values()).count("failed") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_continued(tree, tmp_path, number):
    out = tmp_path / "out"
    process = start(tree, "--out", out, *FAST)
    worker = wait_for_state(out / "sub-m01", "running")["worker"]["pid"]
    process.send_signal(number)
    process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert not Path(f"/proc/{worker}").exists()
    assert not list(out.rglob("*.building-*"))
    states = [
        row["state"]
        for row in json.loads((out / "cohort.json").read_text(encoding="utf-8"))["units"]
    ]
    assert states == ["interrupted", "waiting", "waiting"]
    shown = json.loads(pair_all(out, "--status", "--json").stdout)
    assert shown["counts"]["interrupted"] == 1
    if number == signal.SIGTERM:
        document = json.loads(
            pair_all(tree, "--out", out, "--shard", "1/3", "--json", *FAST).stdout
        )
        assert document["units"][0]["state"] == "done"
        assert read_status(out / "sub-m01")["reason"] == "interrupted"


def test_what_is_not_clear_is_left_out_with_exit_4(tree, tmp_path, handed_out):
    studies = shutil.copytree(tree, tmp_path / "studies")
    shutil.copytree(studies / "m02_hr", studies / "m02_hr_again")
    for study in ("m01_lr", "m01_hr"):
        shutil.rmtree(studies / study)
    result = pair_all(studies, "--out", tmp_path / "out", "--dry-run", *FAST, code=4)
    assert "left out: subject 'm02': 1 scan could be LR and 2 HR" in result.stdout
    assert "m02_hr_again" in result.stdout
    document = json.loads(
        pair_all(studies, "--out", tmp_path / "out", "--json", *FAST, code=4).stdout
    )
    assert [row["unit"] for row in document["units"]] == ["sub-m03"]
    assert [task.unit.name for task in handed_out] == ["sub-m03"]
    assert document["problems"][0]["where"] == "subject 'm02'"
    assert len(document["problems"][0]["candidates"]) == 2


def test_every_setting_of_pair_is_one_of_pair_all(tree, tmp_path, handed_out):
    own = {"lr", "hr", "study", "truth", "lr_scan", "lr_reco", "lr_package", "lr_frame", "hr_scan",
           "hr_reco", "hr_package", "hr_frame"}  # fmt: skip
    options = {
        command.name or command.callback.__name__: set(signature(command.callback).parameters)
        for command in app.registered_commands
    }
    assert options["pair"] - own <= options["pair-all"]
    table = tmp_path / "one.tsv"
    table.write_text(f"subject\tlr\thr\nm01\t{tree}/m01_lr\t{tree}/m01_hr\n")
    pair_all(
        table, "--out", tmp_path / "out", "--plane", "acquired", "--trim", "1", "--voters", "ssim",
        "--seed", "3", "--pca-components", "4", "--allow-subject-mismatch", "--lpips-trunk", "w",
        "--subject-type", "OtherAnimal", "--hr-subject-position", "Head_Prone", "-q", code=4,
    )  # fmt: skip
    (task,) = handed_out
    assert task.config == PairingConfig(
        plane="acquired", trim=Trim(1, "slices"), voters=("ssim",), seed=3, pca_components=4,
        allow_subject_mismatch=True, lpips_trunk=Path("w"),
    )  # fmt: skip
    assert task.unit.low.subject_type == task.unit.high.subject_type == "OtherAnimal"
    assert task.unit.high.subject_position == "Head_Prone"
    assert config_json(task.config)["lpips_trunk"] == "w"


def test_waiting_pairs_can_fail_the_command(done):
    out, _, _ = done
    pair_all(out / "mapping.tsv", "--fail-on-queue", *FAST, code=5)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["none.tsv"], 3),
        (["none"], 3),
        (["none.tsv", "--shard", "3/2"], 2),
        (["none.tsv", "--engine", "slurm", "--slurm-option", "account"], 2),
        (["none.tsv", "--engine", "cloud"], 2),
        (["none.tsv", "--workers", "0"], 2),
        (["none", "--status"], 3),
    ],
)
def test_wrong_usage_is_refused(tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    pair_all(*arguments, code=code)
    assert list(tmp_path.iterdir()) == []


def test_tasks_are_named_by_their_units(tmp_path):
    unit = Unit("m 1", "x", ScanRequest(tmp_path), ScanRequest(tmp_path))
    task = Task(unit, tmp_path, PairingConfig())
    assert task.run == tmp_path / "sub-m1" / "ses-x" / "sub-m1_ses-x"

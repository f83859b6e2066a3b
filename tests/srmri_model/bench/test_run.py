"""A run of the tables: resumed, interrupted, failing in part, on little data."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli import app
from srmri_data.errors import UsageError
from srmri_model.bench.cells import CellStore, compute, fingerprint
from srmri_model.bench.methods import Interpolated
from srmri_model.bench.plan import METHOD_NAMES, TablesConfig
from srmri_model.bench.run import run_tables
from srmri_model.bench.smoke import crops

CONFIG = TablesConfig(methods=("lanczos3", "fast"), slices=2, budget=0.1, draws=2, sigma_y=0.02)
"""No ρ to tune."""


class Untrained:
    """No network."""

    def sha256(self, _name):
        return ""


def run(animals, out, config=CONFIG, **options):
    return run_tables(
        [str(animals.data)], out, config, split=animals.split, weights=animals.weights, **options
    )


def figures(out: Path) -> list[dict[str, str]]:
    """Rows of the results without what a clock says."""
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(animals, tmp_path_factory):
    """A finished run; tests work on copies."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return run(animals, out), out


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[1], tmp_path / "out"))


def test_every_method_is_judged_on_every_slice(finished):
    document, out = finished
    rows = figures(out)
    assert {row["method"] for row in rows} == {"bicubic", "lanczos3", "fast", "hr-repeat"}
    assert {row["subject"] for row in rows} == {"c1"}
    assert len({row["slice"] for row in rows}) == 2
    assert document["failures"] == {}
    assert document["cells"] == {"computed": 8, "kept": 0}
    native = {row["method"]: row for row in rows if row["mask"] == "foreground"}
    assert float(native["hr-repeat"]["psnr"]) > float(native["bicubic"]["psnr"])
    assert {row["nfe"] for row in rows if row["method"] == "fast"} == {"20"}


def test_nothing_is_computed_twice(animals, copied, finished):
    document = run(animals, copied)
    assert document["cells"] == {"computed": 0, "kept": 8}
    assert (copied / "results.csv").read_text() == (finished[1] / "results.csv").read_text()


def test_only_what_is_new_or_changed_is_computed(animals, copied):
    more = replace(CONFIG, methods=(*CONFIG.methods, "b-spline-3"))
    assert run(animals, copied, more)["cells"] == {"computed": 2, "kept": 8}
    noisier = replace(CONFIG, methods=("lanczos3",), sigma_y=0.03)
    assert run(animals, copied, noisier)["cells"] == {"computed": 6, "kept": 0}


def test_an_interrupted_run_goes_on_to_the_same_figures(animals, tmp_path, finished):
    def stop(stage, done, _total):
        if stage == "slices" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(animals, tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "index.html").exists()
    document = run(animals, tmp_path / "out")
    assert document["cells"] == {"computed": 3, "kept": 5}
    assert figures(tmp_path / "out") == figures(finished[1])


def test_a_method_that_fails_is_told_of_and_the_others_go_on(animals, tmp_path):
    # KernelGAN and ZSSR take whole factors only.
    arguments = [
        "bench", "tables", "--data", str(animals.data), "--split", str(animals.split), "--weights",
        str(animals.weights), "--factor", "1.5", "--methods", "kernelgan+zssr,lanczos3",
        "--slices", "1", "--budget", "0.1", "--out", str(tmp_path), "--json", "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 4, result.output
    document = json.loads(result.stdout)
    assert "whole factor" in document["failures"]["kernelgan+zssr"]
    assert {row["method"] for row in figures(tmp_path)} == {"bicubic", "lanczos3", "hr-repeat"}
    assert "whole factor" in (tmp_path / "index.html").read_text()
    assert "Traceback" in (tmp_path / "failures.txt").read_text()


def test_the_page_needs_no_other_file_and_runs_nothing(finished):
    page = (finished[1] / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<h1") == 1
    for text in ("srmri fast, one draw", "Conditions", "PSNR − best rival", "c1"):
        assert text in page


def test_conditions_tell_what_it_stands_on_and_no_machines_folders(finished, animals):
    document, out = finished
    conditions = dict(document["conditions"])
    assert conditions["subjects tested"] == "1: c1"
    assert conditions["long samplers"].startswith("N = 20 levels")
    assert "kspace" in conditions["LR"]
    for name in ("tables.md", "index.html", "conditions.json"):
        assert str(animals.data.parent) not in (out / name).read_text(encoding="utf-8")


def test_figures_show_every_subject_and_table_with_methods(finished):
    names = {path.name for path in (finished[1] / "figures").glob("*.png")}
    assert names == {"table1-c1.png", "table2-c1.png"}


def test_subjects_and_methods_that_are_not_there_are_refused(animals, tmp_path):
    with pytest.raises(UsageError, match="unknown swin"):
        TablesConfig(methods=("swin",))
    with pytest.raises(UsageError, match="no test subject is called a1"):
        run(animals, tmp_path, replace(CONFIG, subjects=("a1",)))
    with pytest.raises(UsageError, match="--data is missing"):
        run_tables([], tmp_path, CONFIG)


def test_acquired_pairs_of_an_exported_dataset_are_judged_as_they_are(exported, animals, tmp_path):
    config = TablesConfig.chosen(smoke=True, methods=("lanczos3",))
    document = run_tables([str(exported)], tmp_path / "out", config, weights=animals.weights)
    assert document["failures"] == {}
    conditions = dict(document["conditions"])
    assert conditions["LR"] == "acquired"
    rows = figures(tmp_path / "out")
    assert {row["method"] for row in rows} == {"bicubic", "lanczos3", "hr-repeat"}
    assert all(float(row["psnr"]) > 5 for row in rows)


def test_a_smoke_run_leaves_the_test_animals_alone(animals, tmp_path):
    data = Path(shutil.copytree(animals.data, tmp_path / "data"))
    (data / "c1.nii.gz").write_bytes((data / "c1.nii.gz").read_bytes()[:4000])
    split = crops([str(data)], animals.split, tmp_path / "crops", "coronal")
    assert json.loads(split.read_text()) == {"train": ["a1", "a2"], "tune": ["a3"], "test": ["b1"]}
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(animals.data / "a1.nii.gz", alone)
    with pytest.raises(UsageError, match="three animals"):
        crops([str(alone)], None, tmp_path / "few", "coronal")


def test_a_cell_of_other_inputs_or_half_a_file_is_computed_again(task, tmp_path):
    store, method, models = CellStore(tmp_path), Interpolated("bicubic"), Untrained()
    key = fingerprint(method, task, models, 0)
    path = store.path("bicubic", task, 0)
    assert store.read(path, key) is None
    cell = compute("bicubic", method, task, models, 0)
    store.write(path, key, cell)
    again = store.read(path, key)
    assert again.scores == cell.scores
    assert np.array_equal(again.image, cell.image)
    brighter = {**task.pair, "high_res": task.pair["high_res"] + 1}
    others = {
        fingerprint(Interpolated("lanczos3"), task, models, 0),
        fingerprint(method, replace(task, sigma_y=0.5), models, 0),
        fingerprint(method, replace(task, pair=brighter), models, 0),
        fingerprint(method, task, models, 1),
    }
    assert key not in others
    assert len(others) == 4
    assert all(store.read(path, other) is None for other in others)
    path.write_bytes(path.read_bytes()[:-30])
    assert store.read(path, key) is None


def test_names_that_differ_have_cells_that_differ(task):
    store = CellStore(Path("cells"))
    names = ("paper-k2-n/2", "paper-k2-n_2", "paper-k2-n 2", "paper-k2@box", "a+b")
    paths = {store.path(name, task, 0) for name in names}
    assert len(paths) == len(names)
    assert all(".." not in str(path) and path.parts[0] == "cells" for path in paths)


@pytest.mark.slow
def test_every_method_of_every_table_runs_on_the_phantom(tmp_path):
    result = CliRunner().invoke(
        app, ["bench", "tables", "--smoke", "--out", str(tmp_path), "--json", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    rows = figures(tmp_path)
    assert {row["method"] for row in rows} == set(METHOD_NAMES)
    assert all(row["psnr"] and row["lpips"] for row in rows)

"""Means are over subjects, rivals are the best others, intervals are those of the bootstrap."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from srmri_model.bench.cells import Cell
from srmri_model.bench.methods import methods_for
from srmri_model.bench.plan import METHOD_NAMES, TABLES, TablesConfig
from srmri_model.bench.scores import MASKS, REGISTERED, Score
from srmri_model.bench.summary import over_subjects, paired_difference, rows_of
from srmri_model.bench.tables import COLUMNS, results_csv, tables_latex, tables_markdown

NAMED = methods_for(TablesConfig(), {})


def cell(method, subject, psnr, *, number=0, lpips=0.1) -> Cell:
    scores = tuple(Score(m, r, psnr, 0.5, lpips) for m in MASKS for r in REGISTERED)
    return Cell(
        method, subject, number, 0, np.zeros((4, 4), np.float16), scores, chi2=1.0, nfe=20, nbe=0,
        seconds=1.5, peak_mb=100.0, spread={},
    )  # fmt: skip


@pytest.fixture
def cells():
    by_method = {"bicubic": (22.0, 24.0), "fast": (25.0, 26.0), "hr-repeat": (30.0, 30.0)}
    return {
        name: [cell(name, subject, p) for subject, p in zip(("m1", "m2"), values, strict=True)]
        for name, values in by_method.items()
    }


def test_slices_are_averaged_before_subjects():
    found = over_subjects([("m1", 1.0), ("m1", 1.0), ("m1", 4.0), ("m2", 6.0)])
    assert found.mean == 4.0
    assert found.sd == pytest.approx(math.sqrt(8))
    assert math.isnan(over_subjects([("m1", 1.0)]).sd)


def test_the_interval_of_two_subjects_spans_them():
    first = over_subjects([("m1", 3.0), ("m2", 7.0)])
    second = over_subjects([("m1", 2.0), ("m2", 2.0)])
    found = paired_difference(first, second, "rival")
    assert (found.mean, found.low, found.high) == (3.0, 1.0, 5.0)


def test_the_interval_of_many_subjects_is_that_of_their_mean():
    gains = np.random.default_rng(0).standard_normal(400)
    first = over_subjects([(str(n), gain) for n, gain in enumerate(gains)])
    second = over_subjects([(str(n), 0.0) for n in range(400)])
    found = paired_difference(first, second, "rival")
    half = 1.96 * gains.std() / 20
    assert found.high - found.mean == pytest.approx(half, rel=0.06)
    assert found.mean - found.low == pytest.approx(half, rel=0.06)


def test_only_subjects_that_both_have_are_compared():
    first = over_subjects([("m1", 3.0), ("m2", 7.0)])
    second = over_subjects([("m2", 5.0), ("m3", 100.0)])
    found = paired_difference(first, second, "rival")
    assert found.mean == 2.0
    assert math.isnan(found.low)


def test_the_ceiling_is_nobodys_rival(cells):
    rows = {row.name: row for row in rows_of(TABLES["1"], cells, NAMED, {})}
    assert rows["fast"].differences["psnr"].rival == "Bicubic"
    assert rows["fast"].differences["psnr"].mean == 2.5
    assert rows["bicubic"].differences["psnr"].rival == "srmri fast, one draw"


def test_a_method_that_failed_keeps_its_row_and_its_reason(cells):
    rows = rows_of(TABLES["1"], cells, NAMED, {"dps": "left the numbers"})
    (failed,) = (row for row in rows if row.name == "dps")
    assert (failed.slices, failed.failure) == (0, "left the numbers")
    text = tables_markdown({"1": rows}, [("data", "mice")])
    assert "**left the numbers**" in text
    assert "| DPS (k = 1) | – | – | – |" in text


def test_the_csv_has_a_row_for_every_mask_and_way_of_every_cell(cells):
    every = [cell for kept in cells.values() for cell in kept]
    rows = list(csv.DictReader(io.StringIO(results_csv(every))))
    assert tuple(rows[0]) == COLUMNS == (
        "method", "subject", "slice", "mask", "registered", "psnr", "ssim", "lpips", "chi2",
        "nfe", "nbe", "seconds", "seed",
    )  # fmt: skip
    assert len(rows) == len(every) * len(MASKS) * len(REGISTERED)
    keys = {tuple(row[n] for n in ("method", "subject", "slice", "mask", "registered", "seed"))
            for row in rows}  # fmt: skip
    assert len(keys) == len(rows)
    unknown = results_csv([cell("fast", "m1", 20.0, lpips=math.nan)])
    assert next(csv.DictReader(io.StringIO(unknown)))["lpips"] == ""


def test_the_best_is_bold_and_the_papers_figures_stand_beside(cells):
    rows = rows_of(TABLES["1"], cells, NAMED, {})
    text = tables_markdown({"1": rows}, [])
    assert "**25.50 ± 0.71**" in text
    assert "other data" in text
    latex = tables_latex({"1": rows})
    assert "\\textbf{25.50 $\\pm$ 0.71}" in latex
    assert latex.count("\\\\") == 1 + len(rows)
    assert "±" not in latex


def test_every_method_of_every_table_is_defined():
    assert set(NAMED) == set(METHOD_NAMES)
    for table in TABLES.values():
        assert set(table.paper) <= set(table.methods)
        assert {"bicubic", "hr-repeat"} <= set(table.methods)


def test_the_budget_and_tuning_reach_the_methods():
    named = methods_for(TablesConfig(budget=60, draws=5), {"paper-k2": 0.7})
    assert named["dps"].method.settings.steps == 600
    assert named["paper-k2"].method.settings.rho == 0.7
    assert named["paper-k2@box"].method.settings.rho == 0.7
    assert named["paper-k2@box"].method.operator == "box"
    assert named["fast-mean"].method.draws == 5

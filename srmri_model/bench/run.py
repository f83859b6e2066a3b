"""`srmri bench tables`: strings data, networks, cells, tables and page together."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srmri_data.errors import SrmriError, UsageError
from srmri_data.safe_io import sweep_temporaries, write_json, write_text
from srmri_data.voters.lpips import lpips_model
from srmri_model.bench.cells import Cell, CellStore, compute, fingerprint
from srmri_model.bench.conditions import data_conditions, machine_conditions, run_conditions
from srmri_model.bench.methods import Named, methods_for
from srmri_model.bench.models import Trained, misfit
from srmri_model.bench.plan import TablesConfig
from srmri_model.bench.results import Results
from srmri_model.bench.smoke import crops, phantoms
from srmri_model.bench.summary import QUALITIES, Row, rows_of
from srmri_model.bench.tables import results_csv, tables_latex, tables_markdown
from srmri_model.bench.tasks import Physics, Task, tasks_of
from srmri_model.bench.tuning import tuned_rhos
from srmri_model.checkpoints import read_description
from srmri_model.training.pairs import Degradation, PairData, Pairs, open_pairs
from srmri_model.training.slices import is_dataset
from srmri_model.weights import bundled_weights

Progress = Callable[[str, int, int], None]

_TUNED_SLICES = 2


def run_tables(
    data: Sequence[str],
    out: Path,
    config: TablesConfig,
    *,
    split: Path | None = None,
    weights: Path | None = None,
    command: Sequence[str] = (),
    progress: Progress = lambda _stage, _done, _total: None,
    warn: Callable[[str], None] = lambda _text: None,
    before_leaving: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Compute the paper's tables, or what is missing of them, and write them.

    Parameters
    ----------
    data : sequence of str
        HR volumes or folders of them, degraded here; or one exported dataset or Hub id, whose
        pairs were acquired. Empty only for a smoke run, which then takes the phantom.
    out : Path
        Folder of cells, models and results. What is there of the same inputs is not computed
        again.
    config : TablesConfig
        Settings.
    split : Path, optional
        Who trains, tunes and is tested; see `srmri_model.training.slices.read_split`.
    weights : Path, optional
        Score model; by default the one that comes with the package if these images are of its
        kind, else one is trained.
    command : sequence of str
        How the run was started, for its records.
    progress : callable
        Called as ``progress(stage, done, total)``.
    warn : callable
        Called with what a careful user should know at once.
    before_leaving : callable
        Called when a signal ends the process while a network is trained: restores the terminal.

    Returns
    -------
    dict
        ``tables``: by number, rows with the figures of the foreground. ``failures``: by method.
        ``cells``: ``computed`` and ``kept``. Where the files are.

    Raises
    ------
    UsageError
        If there is nothing to test.
    SrmriError
        If the data can not be read, or LPIPS has no weights.
    """
    # Before hours of work: without its weights no table can be filled.
    lpips_model()
    out = Path(out)
    sweep_temporaries(out / "cells")
    given, (data, split) = data, _data(data, split, out, config)
    acquired = len(data) == 1 and is_dataset(data[0])
    degradation = None if acquired else _degradation(config)
    pairs = open_pairs(
        data, out / "cache", plane=config.plane, split=split, degradation=degradation,
        progress=progress,
    )  # fmt: skip
    tested, notes = _tested(pairs)
    weights, note = _weights(weights, pairs, config)
    for text in (*notes, *note):
        warn(text)
    models = Trained(
        data=data,
        split=split,
        out=out / "models",
        config=config,
        pairs=pairs,
        weights=weights,
        degradation=degradation,
        progress=progress,
        before_leaving=before_leaving,
    )
    domain = _domain(models, config)
    physics = Physics(config.operator, config.width, pairs.grid)
    subjects = _subjects(tested, config)
    tasks = []
    for done, subject in enumerate(subjects):
        progress("measure subjects", done, len(subjects))
        tasks += tasks_of(tested, subject, config.slices, physics, domain)
    progress("measure subjects", len(subjects), len(subjects))
    rhos: dict[str, float] = {}
    if not config.smoke and tested is pairs.test:
        trials = _trials(pairs.validation, physics, domain)
        rhos = tuned_rhos(
            methods_for(config, {}), config.names, trials, models, CellStore(out / "cells-tuning"),
            seed=config.seed, progress=progress,
        )  # fmt: skip
    named = methods_for(config, rhos)
    cells, failures, computed = _cells(named, tasks, models, config, out, progress)
    conditions = [
        *data_conditions(given, pairs, tasks, acquired=acquired, cropped=config.smoke),
        *(("note", text) for text in (*notes, *note)),
        *run_conditions(config, rhos, models),
        *machine_conditions(command),
    ]
    results = Results(
        config=config,
        tasks=tasks,
        cells=cells,
        named=named,
        rows={key: rows_of(table, cells, named, failures) for key, table in config.tables.items()},
        failures=failures,
        conditions=conditions,
    )
    _write(results, out)
    kept = sum(map(len, cells.values())) - computed
    return {
        "out": str(out),
        "page": str(out / "index.html"),
        "results": str(out / "results.csv"),
        "tables": {key: [_row_json(row) for row in rows] for key, rows in results.rows.items()},
        "failures": dict(failures),
        "cells": {"computed": computed, "kept": kept},
        "conditions": [list(pair) for pair in conditions],
    }


def _data(
    data: Sequence[str], split: Path | None, out: Path, config: TablesConfig
) -> tuple[list[str], Path | None]:
    """Take the data as they are, or little of them."""
    if not data and not config.smoke:
        raise UsageError("--data is missing", hint="give HR volumes, an exported dataset or Hub id")
    if not config.smoke or (len(data) == 1 and is_dataset(data[0])):
        return list(data), split
    folder = out / "smoke-data" / ("phantom" if not data else "crops")
    made = crops(data, split, folder, config.plane) if data else phantoms(folder, config.plane)
    return [str(folder)], made


def _degradation(config: TablesConfig) -> Degradation:
    return Degradation(
        operator=config.operator,
        width=config.width,
        factor=config.factor,
        sigma_y=config.sigma_y,
        grid=config.grid,
        seed=config.seed,
    )


def _tested(pairs: PairData) -> tuple[Pairs, list[str]]:
    if len(pairs.test):
        return pairs.test, []
    note = "no subject is for testing: those held out for tuning are tested, which flatters"
    return pairs.validation, [note]


def _subjects(tested: Pairs, config: TablesConfig) -> list[str]:
    """Return the subjects to test: all, or those that are asked for in full or in part."""
    there = list(dict.fromkeys(tested.subjects))
    if not config.subjects:
        return there
    from srmri_model.training.slices import assign

    asked = assign(there, {"asked": config.subjects})
    missing = [name for name in config.subjects if not assign(there, {"asked": [name]})]
    if missing:
        raise UsageError(
            f"--subjects: no test subject is called {', '.join(missing)}",
            hint=f"there are {', '.join(there)}",
        )
    return [name for name in there if name in asked]


def _weights(
    weights: Path | None, pairs: PairData, config: TablesConfig
) -> tuple[Path | None, list[str]]:
    """Choose the score model; None has one trained."""
    if weights is not None:
        return weights, []
    bundled = bundled_weights()
    reason = misfit(bundled, pairs.validation)
    if not reason:
        return bundled, []
    if config.smoke:
        return bundled, [f"the bundled score model was taken although {reason}"]
    return None, [f"the bundled score model does not fit, so one is trained: {reason}"]


def _domain(models: Trained, config: TablesConfig) -> Mapping[str, Any]:
    """Read what the score model knows of its images; nothing where no method needs one."""
    methods = methods_for(config, {})
    if models.weights is None and all(methods[n].method.needs != "score" for n in config.names):
        return {}
    try:
        return read_description(models.score_path())[1].get("domain") or {}
    except SrmriError:
        # The methods that need it will tell why.
        return {}


def _trials(pairs: Pairs, physics: Physics, domain: Mapping[str, Any]) -> list[Task]:
    """Take a slice of each of the first subjects, or more of a single one."""
    subjects = list(dict.fromkeys(pairs.subjects))[:_TUNED_SLICES]
    each = math.ceil(_TUNED_SLICES / len(subjects))
    return [t for s in subjects for t in tasks_of(pairs, s, each, physics, domain)]


def _cells(
    named: Mapping[str, Named],
    tasks: Sequence[Task],
    models: Trained,
    config: TablesConfig,
    out: Path,
    progress: Progress,
) -> tuple[dict[str, list[Cell]], dict[str, str], int]:
    """Compute what is missing; a method that fails is told of and the others go on."""
    store, names = CellStore(out / "cells"), config.names
    cells: dict[str, list[Cell]] = {}
    failures: dict[str, str] = {}
    traces, computed = [], 0

    def inner(done: int, total: int) -> None:
        progress("this slice", done, total)

    for place, name in enumerate(names):
        method = named[name].method
        for n, task in enumerate(tasks):
            progress("slices", place * len(tasks) + n, len(names) * len(tasks))
            try:
                path = store.path(name, task, config.seed)
                key = fingerprint(method, task, models, config.seed)
                cell = store.read(path, key)
                if cell is None:
                    cell = compute(name, method, task, models, config.seed, progress=inner)
                    store.write(path, key, cell)
                    computed += 1
            except Exception as error:
                failures.setdefault(name, _reason(error))
                traces.append(f"{name}, {task.pair['subject']}\n{traceback.format_exc()}")
                continue
            cells.setdefault(name, []).append(cell)
    progress("slices", len(names) * len(tasks), len(names) * len(tasks))
    if traces:
        write_text(out / "failures.txt", "\n".join(traces))
    else:
        (out / "failures.txt").unlink(missing_ok=True)
    return cells, failures, computed


def _reason(error: Exception) -> str:
    if isinstance(error, SrmriError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _write(results: Results, out: Path) -> None:
    from srmri_model.bench.page import write_page
    from srmri_model.bench.panels import write_panels

    every = [cell for cells in results.cells.values() for cell in cells]
    write_text(out / "results.csv", results_csv(every))
    write_text(out / "tables.md", tables_markdown(results.rows, results.conditions))
    write_text(out / "tables.tex", tables_latex(results.rows))
    write_json(
        out / "conditions.json",
        {"config": asdict(results.config), "conditions": dict(results.conditions)},
    )
    write_panels(results, out / "figures")
    write_page(results, out)


def _row_json(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"method": row.name, "label": row.label, "slices": row.slices}
    for quality in QUALITIES:
        spread = row.of(quality)
        found[quality], found[f"{quality}_sd"] = _finite(spread.mean), _finite(spread.sd)
    for name in ("chi2", "nfe", "nbe", "seconds", "peak_mb"):
        found[name] = _finite(getattr(row, name))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

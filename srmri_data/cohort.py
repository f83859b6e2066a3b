"""What a cohort has come to: one row per unit, outliers marked, tables and a page."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.errors import FormatError, MissingInputError, SrmriError, UsageError
from srmri_data.formats.archive import split_archive
from srmri_data.jobs import (
    LOG_FILE,
    Clock,
    Progress,
    Shard,
    State,
    plan_tasks,
    read_status,
    run_tasks,
    state_of,
)
from srmri_data.mapping import CohortMap, Problem, Unit, mapping_text, write_mapping
from srmri_data.planning import VOTER_NAMES, PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.reports.cohort import KeyFigure, write_cohort_page
from srmri_data.run_folder import open_run, read_pairs
from srmri_data.safe_io import read_bounded, read_json, write_json, write_text

if TYPE_CHECKING:
    from srmri_data.cluster import ClusterOptions

COHORT_VERSION = 1
COHORT_FILE = "cohort.json"
MAPPING = "mapping.tsv"
OUTLIER_Z = 3.5
"""Modified z-score beyond which a value is an outlier (Iglewicz and Hoaglin 1993)."""
MIN_FOR_OUTLIERS = 5
"""Fewer values than this say nothing about what is usual."""


KEY_FIGURES: Mapping[str, KeyFigure] = {
    "accepted_share": KeyFigure("Accepted", "%", 100, 0, 0.02),
    "unanimous_share": KeyFigure("Unanimous", "%", 100, 0, 0.02),
    "within_1_share": KeyFigure("Votes within 1 slice", "%", 100, 0, 0.02),
    "offset_um": KeyFigure("Median offset", "µm", 1, 0, 10.0),
    "scatter_um": KeyFigure("Scatter of offsets", "µm", 1, 0, 5.0),
    "motion_um": KeyFigure("Motion between scans", "µm", 1, 0, 50.0),
    "turn_deg": KeyFigure("Rotation between scans", "°", 1, 1, 0.5),
    "start_spread_um": KeyFigure("Spread of registrations", "µm", 1, 0, 5.0),
    "margin": KeyFigure("Median margin", "", 1, 3, 0.005),
    "confidence": KeyFigure("Median confidence", "", 1, 2, 0.02),
    "exact": KeyFigure("Exact", "%", 100, 0, 0.02),
    "mae_um": KeyFigure("Mean error", "µm", 1, 0, 2.0),
    "seconds": KeyFigure("Time", "s", 1, 0, 5.0),
    "peak_memory_mb": KeyFigure("Peak memory", "MB", 1, 0, 100.0),
}
"""Figures of the cohort's table, by their column."""

_COUNTS = ("n_lr", "n_hr", "n_pairs", "queued", "empty", "warnings")
_TABLE = ("unit", "subject", "session", "state", *_COUNTS, *KEY_FIGURES, "outlier_in", "run")


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return modified z-scores: the distance from the median in robust standard deviations.

    Parameters
    ----------
    values : (n,) ndarray
        Any scale; NaN where unknown.

    Returns
    -------
    (n,) ndarray
        0.6745 (x − median) / MAD. Where more than half of the values are equal
        the MAD is 0 and the mean absolute deviation takes its place; where all
        are equal, 0.

    References
    ----------
    Iglewicz and Hoaglin, How to Detect and Handle Outliers, ASQC 1993.

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(2)
    array([-1.35, -0.67,  0.  ,  0.67, 65.43])
    """
    known = np.isfinite(values)
    scores = np.full(len(values), np.nan)
    if not known.any():
        return scores
    deviation = values[known] - np.median(values[known])
    spread = np.median(np.abs(deviation)) / 0.6745
    if spread == 0:
        spread = np.abs(deviation).mean() * 1.253314
    scores[known] = deviation / spread if spread > 0 else 0.0
    return scores


def collect(cohort: CohortMap, out: Path) -> dict[str, Any]:
    """Read what the units of a cohort have come to.

    Parameters
    ----------
    cohort : CohortMap
        Its units and problems.
    out : Path
        Folder of the cohort.

    Returns
    -------
    dict
        ``cohort.json``, see ``docs/many-subjects.md``.
    """
    rows = [_row(unit, out) for unit in cohort.units]
    _mark_outliers(rows)
    states: list[State] = ["done", "failed", "running", "interrupted", "waiting"]
    return {
        "schema_version": COHORT_VERSION,
        "srmri": version("srmri"),
        "origin": _relative(cohort.origin, out),
        "counts": {
            "units": len(rows),
            **{state: sum(row["state"] == state for row in rows) for state in states},
            "left_out": len(cohort.problems),
            "queued": sum(row["queued"] or 0 for row in rows),
            "outliers": sum(bool(row["outlier_in"]) for row in rows),
        },
        "units": rows,
        "problems": [_problem_json(problem, out) for problem in cohort.problems],
    }


def write_cohort(cohort: CohortMap, out: Path) -> dict[str, Any]:
    """Write ``cohort.json``, ``cohort.tsv`` and the page of a cohort.

    Parameters
    ----------
    cohort : CohortMap
        Its units and problems.
    out : Path
        Folder of the cohort.

    Returns
    -------
    dict
        ``cohort.json``.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "wb") as lock:
        # Shards end at about the same time: who writes last has read what all others did.
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = collect(cohort, out)
        write_json(out / COHORT_FILE, document)
        write_text(out / "cohort.tsv", _table_text(document["units"]))
        write_cohort_page(out, document, KEY_FIGURES)
    return document


def refresh(out: Path) -> dict[str, Any]:
    """Read the present state of a cohort that was started; nothing is written.

    Parameters
    ----------
    out : Path
        Folder of the cohort.

    Returns
    -------
    dict
        As `collect`.

    Raises
    ------
    MissingInputError
        If this is not the folder of a cohort.
    FormatError
        If its ``cohort.json`` is damaged.
    """
    if not (out / COHORT_FILE).is_file():
        raise MissingInputError(
            f"{out}: not the folder of a cohort (no {COHORT_FILE})",
            hint="give the --out of an earlier `srmri pair-all`",
        )
    document = read_json(out / COHORT_FILE)
    known = isinstance(document, dict) and document.get("schema_version") == COHORT_VERSION
    if not known:
        raise FormatError(
            f"{out / COHORT_FILE}: not a cohort this srmri can read",
            hint="use the srmri version that wrote it",
        )
    units = tuple(
        Unit(
            row["subject"],
            row["session"],
            ScanRequest(out / row["lr"]),
            ScanRequest(out / row["hr"]),
            sources=row["sources"],
        )
        for row in document["units"]
    )
    problems = tuple(Problem(p["where"], p["reason"]) for p in document["problems"])
    return collect(CohortMap(out / document["origin"], units, problems), out)


def _row(unit: Unit, out: Path) -> dict[str, Any]:
    folder = out / unit.folder
    status = read_status(folder) or {}
    state = state_of(folder)
    row: dict[str, Any] = {
        "unit": unit.name,
        "subject": unit.subject,
        "session": unit.session,
        "state": state,
        "lr": _relative(unit.low.path, out),
        "hr": _relative(unit.high.path, out),
        "sources": dict(unit.sources),
        **dict.fromkeys((*_COUNTS, *KEY_FIGURES)),
        "outlier_in": [],
        "run": None,
        "log": None,
        "error": None,
    }
    if (folder / LOG_FILE).is_file():
        row["log"] = f"{unit.folder}/{LOG_FILE}"
    if state == "failed":
        row["error"] = {name: status["error"][name] for name in ("type", "message", "hint")}
    if state == "done":
        run = folder / unit.name
        try:
            row |= _figures(run)
        except SrmriError as error:
            # Somebody moved or damaged the run folder since.
            row["state"] = "waiting"
            row["error"] = {
                "type": type(error).__name__, "message": error.message, "hint": error.hint
            }  # fmt: skip
        else:
            row["run"] = f"{unit.folder}/{unit.name}"
            row["peak_memory_mb"] = status.get("peak_memory_mb")
    return row


def _figures(run: Path) -> dict[str, Any]:
    """Key figures of a run, by the matcher's own decisions, whatever reviewers did since."""
    summary = open_run(run).summary
    pairs = read_pairs(run)
    shown = pairs[~pairs["empty"]]
    accepted = shown[shown["auto_status"] == "auto"]
    offset = accepted["auto_offset_um"].to_numpy(dtype=float)
    middle = _median(offset)
    figures: dict[str, Any] = {
        **{name: summary.get(name) for name in _COUNTS},
        "warnings": sum(check.get("level") != "ok" for check in summary.get("checks") or []),
        "offset_um": middle,
        "scatter_um": None if middle is None else _median(np.abs(offset - middle), scale=1.4826),
        "margin": _median(shown["margin"].to_numpy(dtype=float)),
        "confidence": _median(shown["confidence"].to_numpy(dtype=float)),
        **_motion(summary.get("registration")),
        **{name: summary.get(name) for name in ("exact", "mae_um", "seconds")},
    }
    if len(shown):
        votes = shown[[f"vote_{name}" for name in VOTER_NAMES]].dropna(axis=1)
        figures["accepted_share"] = len(accepted) / len(shown)
        figures["unanimous_share"] = float((votes.nunique(axis=1) == 1).mean())
        figures["within_1_share"] = float((shown["spread"] <= 1).mean())
    return figures


def _motion(registration: Mapping[str, Any] | None) -> dict[str, float]:
    """Say in three numbers what the registration found, where there was one."""
    if registration is None or not registration["n_starts"]:
        return {}
    return {
        "motion_um": float(np.linalg.norm(registration["shift_um"])),
        "turn_deg": float(np.abs(registration["angles_deg"]).max()),
        "start_spread_um": float(registration["spread_um"]),
    }


def _median(values: NDArray[np.float64], *, scale: float = 1.0) -> float | None:
    values = values[np.isfinite(values)]
    return float(np.median(values)) * scale if len(values) else None


def _mark_outliers(rows: Sequence[dict[str, Any]]) -> None:
    for name, figure in KEY_FIGURES.items():
        values = np.array(
            [np.nan if row[name] is None else float(row[name]) for row in rows], dtype=np.float64
        )
        if np.isfinite(values).sum() < MIN_FOR_OUTLIERS:
            continue
        far = np.abs(values - np.nanmedian(values)) >= figure.least
        for row in np.flatnonzero((np.abs(robust_z(values)) > OUTLIER_Z) & far):
            rows[int(row)]["outlier_in"].append(name)


def _problem_json(problem: Problem, out: Path) -> dict[str, Any]:
    return {
        "where": problem.where,
        "reason": problem.reason,
        "candidates": [
            {
                "lr": _relative(unit.low.path, out),
                "hr": _relative(unit.high.path, out),
                "session": unit.session,
            }
            for unit in problem.candidates
        ],
    }


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.absolute(), out.absolute())).as_posix()


def _table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        if isinstance(value, list):
            return ",".join(value)
        # As BIDS writes what is not known.
        return "n/a" if value in (None, "") else str(value)

    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(_TABLE)
    table.writerows([cell(row[name]) for name in _TABLE] for row in rows)
    return text.getvalue()


def run_cohort(
    cohort: CohortMap,
    out: Path,
    config: PairingConfig,
    *,
    shard: Shard | None = None,
    workers: int = 1,
    threads: int | None = None,
    cluster: ClusterOptions | None = None,
    retry_failed: bool = False,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    clock: Clock = time.time,
) -> dict[str, Any]:
    """Pair what has to be paired and report on the whole cohort.

    Parameters
    ----------
    cohort : CohortMap
        Its units and problems.
    out : Path
        Folder of the cohort; created, or continued.
    config : PairingConfig
        How to pair.
    shard : Shard, optional
        Share of the units to work on.
    workers : int
        Local processes.
    threads : int, optional
        Threads of each process; default: the usable processors, shared out.
    cluster : ClusterOptions, optional
        Work in job arrays instead of local processes.
    retry_failed, force : bool
        Do what failed again; do everything again.
    command : sequence of str
        Command line to record.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    clock : callable
        Seconds since the epoch.

    Returns
    -------
    dict
        ``cohort.json``, and under ``this_run`` the names of the units that were
        ``attempted``, were ``unchanged``, and are ``not_done`` after all.

    Raises
    ------
    UsageError
        If `out` holds something else, or the cluster can not be used.
    """
    check_cohort_folder(out)
    units = list(cohort.units) if shard is None else shard.of(cohort.units)
    tasks = plan_tasks(
        units,
        out,
        config,
        retry_failed=retry_failed,
        force=force,
        command=command,
        clock=clock,
    )
    if tasks:
        # From the start, so that the state can be asked for while it runs.
        write_cohort(cohort, out)
    try:
        if cluster is None:
            run_tasks(tasks, workers=workers, threads=threads, progress=progress, clock=clock)
        elif tasks:
            from srmri_data.cluster import submit, wait

            wait(submit(tasks, out, cluster), progress=progress, clock=clock)
    finally:
        document = write_cohort(cohort, out)
    attempted = [task.unit.name for task in tasks]
    share = {unit.name for unit in units}
    return {
        **document,
        "this_run": {
            "attempted": attempted,
            "unchanged": [unit.name for unit in units if unit.name not in attempted],
            "not_done": [
                row["unit"]
                for row in document["units"]
                if row["unit"] in share and row["state"] != "done"
            ],
        },
    }


def default_folder(source: Path) -> Path:
    """Name the folder of a cohort when the user gives none.

    Parameters
    ----------
    source : Path
        Table, tree or folder of a cohort.

    Returns
    -------
    Path
        A cohort's folder itself; the folder of a table that a dry run left there;
        else one in ``pairing_reports`` named as the source.
    """
    if (source / COHORT_FILE).is_file():
        return source
    if source.name == MAPPING and not _foreign_content(source.absolute().parent):
        return source.parent
    return Path("pairing_reports") / (source.absolute().stem or "cohort")


def check_cohort_folder(out: Path) -> None:
    """Refuse to write a cohort among other things.

    Parameters
    ----------
    out : Path
        Folder of the cohort.

    Raises
    ------
    UsageError
        If it exists, is not empty, and no cohort was begun in it.
    """
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise UsageError(f"{out} is not a folder", hint="choose another --out")
    if other := _foreign_content(out):
        raise UsageError(
            f"{out} exists and is not the folder of a cohort: it holds {other}",
            hint="choose another --out",
        )


def _foreign_content(folder: Path) -> str:
    """Name something that is there and belongs to no cohort; nothing once one was begun."""
    names = sorted(entry.name for entry in os.scandir(folder))
    # Asked last: another shard may have begun in between.
    other = [name for name in names if not name.startswith(".") and name != MAPPING]
    return "" if not other or (folder / COHORT_FILE).is_file() else other[0]


def preview(cohort: CohortMap, config: PairingConfig) -> list[dict[str, Any]]:
    """Check every unit by its headers, without reading voxels or writing.

    Parameters
    ----------
    cohort : CohortMap
        Its units.
    config : PairingConfig
        How they would be paired.

    Returns
    -------
    list of dict
        One per unit: ``unit``, ``subject``, ``session``, ``lr``, ``hr``, ``sources``,
        ``n_lr``, ``n_hr``, ``warnings`` and ``error`` (None, or message and hint).
    """
    rows = []
    for unit in cohort.units:
        row: dict[str, Any] = {
            "unit": unit.name,
            "subject": unit.subject,
            "session": unit.session,
            "lr": str(unit.low.path),
            "hr": str(unit.high.path),
            "sources": dict(unit.sources),
            "n_lr": None,
            "n_hr": None,
            "warnings": [],
            "error": None,
        }
        try:
            selected = find_scans(unit.low, unit.high, propose=unit.is_one_study)
            plan = plan_pairing(*selected, config)
        except SrmriError as error:
            row["error"] = {"message": error.message, "hint": error.hint}
        else:
            row["n_lr"], row["n_hr"] = plan.low_window.shape[0], plan.high_window.shape[0]
            row["warnings"] = [
                f"{check.name}: {check.text}" for check in plan.checks if check.level != "ok"
            ]
        rows.append(row)
    return rows


def propose_mapping(cohort: CohortMap, out: Path, *, force: bool = False) -> Path | None:
    """Write the table that a user can edit and give back.

    Parameters
    ----------
    cohort : CohortMap
        What was discovered.
    out : Path
        Folder of the cohort; the table is ``mapping.tsv`` in it.
    force : bool
        Replace a table that says something else.

    Returns
    -------
    Path or None
        The table; None when the cohort came from a table already.

    Raises
    ------
    UsageError
        If another table is there, perhaps edited, and `force` is not given.
    """
    if not cohort.origin.is_dir() and split_archive(cohort.origin) is None:
        return None
    path = out / MAPPING
    if path.exists() and not force:
        if read_bounded(path, 16 << 20).decode("utf-8", "replace") != mapping_text(cohort, out):
            raise UsageError(
                f"{path} exists already and says something else",
                hint=f"if you edited it: srmri pair-all {path}; to write it anew: --force",
            )
        return path
    write_mapping(cohort, path)
    return path

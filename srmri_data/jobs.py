"""Many subjects: which units have to be paired, and pairing them so that one can not hurt another.

What is known about a unit is in its ``status.json`` and nowhere else. Every engine,
local processes, SLURM or a workflow manager, calls `pair_unit` and reads that file,
so a run can be stopped, repeated, divided and continued anywhere.
"""

from __future__ import annotations

import faulthandler
import fcntl
import hashlib
import json
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

from srmri_data.errors import (
    ChecksumError,
    FormatError,
    MissingInputError,
    SrmriError,
    UsageError,
)
from srmri_data.formats.archive import split_archive
from srmri_data.mapping import Unit
from srmri_data.planning import PairingConfig, ScanRequest, Selected, find_scans, plan_pairing
from srmri_data.safe_io import read_json, sha256_file, write_json
from srmri_data.workers import Ended, run_isolated

STATUS_VERSION = 1
STATUS_FILE = "status.json"
LOG_FILE = "log.txt"

State = Literal["waiting", "running", "interrupted", "done", "failed"]
Clock = Callable[[], float]
Progress = Callable[[str, int, int], None]

# What the next run of a unit relies on.
_STATUS_KEYS = {"state", "config_sha256", "request_sha256", "inputs", "attempts", "finished"}
_LOCK_FILE = ".lock"
_LOCK_TRIES = 10
_LOCK_WAIT_SECONDS = 0.1
# A file written in the same instant as it was hashed could change without a new time stamp.
_RACY_NS = 2_000_000_000
_MAX_LISTED = 20_000
_LAST_LINES = 24
_CRASH = "Fatal Python error"


@dataclass(frozen=True)
class Task:
    """One unit with everything a worker needs to know.

    Parameters
    ----------
    unit : Unit
        The two scans.
    out : Path
        Folder of the cohort.
    config : PairingConfig
        How to pair.
    reason : str
        Why it is run, for the record.
    since : float
        Seconds since the epoch; what was finished later need not be done again.
    command : tuple of str
        Command line to record.
    """

    unit: Unit
    out: Path
    config: PairingConfig
    reason: str = "new"
    since: float = float("inf")
    command: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Folder of the unit; its status is in there."""
        return self.out / self.unit.folder

    @property
    def run(self) -> Path:
        """Run folder that `srmri_data.pairing.run_pairing` writes."""
        return self.folder / self.unit.name


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a cohort.

    Parameters
    ----------
    number, count : int
        The share, from 1, and how many there are.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a share that does not exist."""
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"--shard {self.number}/{self.count}: the share must be between 1 and {self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``k/n``.

        Parameters
        ----------
        text : str
            For instance ``"2/8"``.

        Returns
        -------
        Shard
            The share.

        Raises
        ------
        UsageError
            If it is not of that form.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise UsageError(f"--shard {text!r} is not of the form K/N, for instance 2/8")
        return cls(int(number), int(count))

    def of(self, items: Sequence[Any]) -> list[Any]:
        """Return this share; all shares together are the whole, without overlap.

        Parameters
        ----------
        items : sequence
            The whole, in an order all shares agree on.

        Returns
        -------
        list
            Every `count`-th item.
        """
        return list(items[self.number - 1 :: self.count])


def read_status(folder: Path) -> dict[str, Any] | None:
    """Read what is known about a unit.

    Parameters
    ----------
    folder : Path
        Folder of the unit.

    Returns
    -------
    dict or None
        ``status.json``; None when there is none that can be understood, which
        means that the unit has to be done.
    """
    try:
        status = read_json(folder / STATUS_FILE)
    except (MissingInputError, FormatError):
        return None
    is_known = (
        isinstance(status, dict)
        and status.get("schema_version") == STATUS_VERSION
        and status.keys() >= _STATUS_KEYS
    )
    return status if is_known else None


def state_of(folder: Path) -> State:
    """Tell how far a unit is.

    Parameters
    ----------
    folder : Path
        Folder of the unit.

    Returns
    -------
    {"waiting", "running", "interrupted", "done", "failed"}
        ``running`` only while a process holds the unit's lock.
    """
    status = read_status(folder)
    if status is None:
        return "waiting"
    state: State = status["state"]
    if state == "running" and not _is_locked(folder):
        return "interrupted"
    return state


def why_run(task: Task, *, retry_failed: bool = False) -> str:
    """Say why a unit has to be paired.

    Parameters
    ----------
    task : Task
        The unit.
    retry_failed : bool
        Whether a failure is to be tried again although nothing changed.

    Returns
    -------
    str
        The reason; empty when it can be left as it is.

    Notes
    -----
    A file counts as unchanged when size and time of change are the recorded
    ones, or else when its SHA-256 is.
    """
    status = read_status(task.folder)
    if status is None:
        return "new"
    if status["state"] not in ("done", "failed"):
        return "interrupted"
    if status["config_sha256"] != _sha256(config_json(task.config)):
        return "settings changed"
    if status["request_sha256"] != _sha256(_request_json(task)):
        return "mapping changed"
    if not _is_same_input(task, status["inputs"]):
        return "input changed"
    if status["state"] == "failed":
        return "failed before" if retry_failed else ""
    if not (task.run / "summary.json").is_file():
        return "run folder is gone"
    return ""


def plan_tasks(
    units: Iterable[Unit],
    out: Path,
    config: PairingConfig,
    *,
    retry_failed: bool = False,
    force: bool = False,
    command: Sequence[str] = (),
    clock: Clock = time.time,
) -> list[Task]:
    """Choose the units that have to be paired.

    Parameters
    ----------
    units : iterable of Unit
        The cohort, or a share of it.
    out : Path
        Folder of the cohort.
    config : PairingConfig
        How to pair.
    retry_failed, force : bool
        Do what failed again; do everything again.
    command : sequence of str
        Command line to record.
    clock : callable
        Seconds since the epoch.

    Returns
    -------
    list of Task
        What is left to do, with the reason.
    """
    tasks = []
    for unit in units:
        task = Task(unit, out.absolute(), config, since=clock(), command=tuple(command))
        reason = "forced" if force else why_run(task, retry_failed=retry_failed)
        if reason:
            tasks.append(replace(task, reason=reason))
    return tasks


def run_tasks(
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    clock: Clock = time.time,
) -> None:
    """Pair units in local processes; every outcome is in its ``status.json``.

    Parameters
    ----------
    tasks : sequence of Task
        What to do.
    workers : int
        Processes at a time.
    threads : int, optional
        Threads of each; default: the usable processors, shared out.
    progress : callable, optional
        Called as ``progress("subjects", done, total)``.
    clock : callable
        Seconds since the epoch.
    """
    step = progress or (lambda *_: None)
    step("subjects", 0, len(tasks))
    ended_units = run_isolated(pair_unit, tasks, workers=workers, threads=threads)
    for done, ended in enumerate(ended_units, 1):
        if ended.death:
            record_death(ended, clock=clock)
        step("subjects", done, len(tasks))


def pair_unit(task: Task, *, clock: Clock = time.time) -> State:
    """Pair one unit and keep its ``status.json``.

    Parameters
    ----------
    task : Task
        The unit.
    clock : callable
        Seconds since the epoch.

    Returns
    -------
    {"done", "failed", "running"}
        How it ended; ``running`` when another process is at it.

    Raises
    ------
    SystemExit, KeyboardInterrupt
        When it was told to stop; the unit is then ``interrupted``.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    with _claimed(task.folder) as is_ours:
        if not is_ours:
            return "running"
        earlier = read_status(task.folder)
        if is_finished(task):
            return state_of(task.folder)
        with _logged(task.folder / LOG_FILE) as log:
            # After the log is open: a unit that is known to run leaves its last words.
            status = _new_status(task, earlier, clock)
            write_json(task.folder / STATUS_FILE, status)
            _reset_peak_memory()
            watch = _Stopwatch(clock)
            try:
                _pair(task, status, earlier, watch)
                status["state"] = "done"
            except (KeyboardInterrupt, SystemExit):
                status["state"] = "interrupted"
                raise
            except Exception as error:
                log.write(traceback.format_exc().encode(errors="replace"))
                status["state"] = "failed"
                status["error"] = _error_json(error)
            finally:
                if status["inputs"] is None:
                    status["inputs"] = _listed_inputs(task)
                status["inputs_sha256"] = _inputs_sha256(status["inputs"])
                status["timings"] = watch.timings()
                status["peak_memory_mb"] = _peak_memory_mb()
                status["finished"] = _iso(clock())
                write_json(task.folder / STATUS_FILE, status)
        state: State = status["state"]
        return state


def _pair(
    task: Task, status: dict[str, Any], earlier: Mapping[str, Any] | None, watch: _Stopwatch
) -> None:
    from srmri_data.pairing import run_pairing
    from srmri_data.simulate import read_truth

    unit = task.unit
    selected = find_scans(unit.low, unit.high, propose=unit.is_one_study)
    status["inputs"] = _hashed_inputs(task, selected, earlier)
    plan = plan_pairing(*selected, task.config)
    truth = None if unit.truth is None else read_truth(unit.truth)
    run_pairing(
        plan,
        task.run,
        truth=truth,
        # What stands there was written for this unit, unless nobody has a record of it.
        force=earlier is not None,
        command=task.command,
        progress=watch.step,
    )
    provenance = read_json(task.run / "provenance.json")
    used = {f["sha256"] for role in ("lr", "hr") for f in provenance["sources"][role]["files"]}
    known = {f["sha256"] for f in status["inputs"]["files"]}
    if not used <= known:
        raise ChecksumError(
            f"the scans of {unit.name} changed while they were being paired",
            hint="let the transfer of the data finish, then run the command again",
        )
    status["run"] = unit.name
    status["versions"] = provenance["versions"]


def _new_status(task: Task, earlier: Mapping[str, Any] | None, clock: Clock) -> dict[str, Any]:
    request, config = _request_json(task), config_json(task.config)
    return {
        "schema_version": STATUS_VERSION,
        "unit": task.unit.name,
        "subject": task.unit.subject,
        "session": task.unit.session,
        "sources": dict(task.unit.sources),
        "state": "running",
        "reason": task.reason,
        "attempts": 1 + (earlier["attempts"] if earlier else 0),
        "request": request,
        "request_sha256": _sha256(request),
        "config": config,
        "config_sha256": _sha256(config),
        "inputs": None,
        "inputs_sha256": None,
        "started": _iso(clock()),
        "finished": None,
        "timings": None,
        "peak_memory_mb": None,
        "worker": {"host": socket.gethostname(), "pid": os.getpid()},
        "versions": {"python": platform.python_version(), "srmri": version("srmri")},
        "run": None,
        "error": None,
    }


def is_finished(task: Task) -> bool:
    """Tell whether a unit was brought to an end since the task was planned, here or elsewhere.

    Parameters
    ----------
    task : Task
        The unit.

    Returns
    -------
    bool
        Whether its status is ``done`` or ``failed``, of this very task.
    """
    status = read_status(task.folder)
    if status is None or status["state"] not in ("done", "failed"):
        return False
    return (
        datetime.fromisoformat(status["finished"]).timestamp() >= task.since
        and status["config_sha256"] == _sha256(config_json(task.config))
        and status["request_sha256"] == _sha256(_request_json(task))
    )


def record_death(ended: Ended[Task], *, clock: Clock = time.time) -> None:
    """Write down that the process of a unit died.

    Parameters
    ----------
    ended : Ended
        The task and how its process ended.
    clock : callable
        Seconds since the epoch.
    """
    record_loss(
        ended.item,
        f"{ended.item.unit.name}: {ended.death}",
        "too little memory ends a process with SIGKILL (try fewer --workers); a library that "
        f"crashes shows its last steps in {ended.item.unit.folder / LOG_FILE}",
        kind="WorkerDied",
        clock=clock,
    )


def record_loss(
    task: Task, message: str, hint: str, *, kind: str = "JobLost", clock: Clock = time.time
) -> None:
    """Write down that a unit ended without saying how.

    Parameters
    ----------
    task : Task
        The unit.
    message, hint : str
        What is known, and what to do about it.
    kind : str
        Name of the error.
    clock : callable
        Seconds since the epoch.
    """
    earlier = read_status(task.folder)
    # Of this attempt, if it got as far as to write one.
    begun = earlier is not None and earlier["state"] == "running"
    status = earlier if earlier and begun else _new_status(task, earlier, clock)
    inputs = status["inputs"] or _listed_inputs(task)
    status |= {
        "inputs": inputs,
        "inputs_sha256": _inputs_sha256(inputs),
        "state": "failed",
        "finished": _iso(clock()),
        "run": None,
        "error": {
            "type": kind,
            "message": message,
            "hint": hint,
            "traceback": _last_words(task.folder / LOG_FILE),
        },
    }
    write_json(task.folder / STATUS_FILE, status)


def _error_json(error: Exception) -> dict[str, Any]:
    expected = isinstance(error, SrmriError)
    hint = error.hint if isinstance(error, SrmriError) else ""
    if isinstance(error, MemoryError):
        hint = "run fewer --workers, or ask for more memory"
    elif not expected:
        hint = "this is a bug in srmri: please report it with the traceback"
    return {
        "type": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "hint": hint,
        "traceback": None if expected else "".join(traceback.format_exception(error)),
    }


def config_json(config: PairingConfig) -> dict[str, Any]:
    """Return the settings of a pairing as JSON types.

    Parameters
    ----------
    config : PairingConfig
        The settings.

    Returns
    -------
    dict
        One entry per field; what JSON does not know is written as text.
    """
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    document: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return document


def _request_json(task: Task) -> dict[str, Any]:
    def scan(request: ScanRequest) -> dict[str, Any]:
        return {**asdict(request), "path": _relative(request.path, task.folder)}

    truth = task.unit.truth
    return {
        "lr": scan(task.unit.low),
        "hr": scan(task.unit.high),
        "truth": None if truth is None else _relative(truth, task.folder),
    }


def _relative(path: Path, folder: Path) -> str:
    """Name a path from the unit's folder, so that a project can be moved as a whole."""
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _sha256(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs_sha256(inputs: Mapping[str, Any]) -> str:
    """Stand for the content of the inputs, or for their list where they could not be read."""
    return _sha256(
        [
            [facts["role"], facts["path"], facts["bytes"], facts["sha256"] or facts["mtime_ns"]]
            for facts in inputs["files"]
        ]
    )


def _hashed_inputs(
    task: Task, selected: Sequence[Selected], earlier: Mapping[str, Any] | None
) -> dict[str, Any]:
    """List the files of two scans, of the truth and of given weights, with their SHA-256."""
    files: list[tuple[str, Path]] = []
    for role, (record, _) in zip(("lr", "hr"), selected, strict=True):
        files += [(role, path) for path in record.readable().provenance.files]
    if task.unit.truth is not None:
        files.append(("truth", task.unit.truth))
    if task.config.lpips_trunk is not None:
        files.append(("lpips_trunk", task.config.lpips_trunk))
    recorded = earlier and earlier["inputs"]
    cache = {facts["path"]: facts for facts in recorded["files"]} if recorded else {}
    found = []
    for role, path in files:
        name = _relative(path, task.folder)
        known = cache.get(name)
        if known is not None and known["sha256"] and _is_same_stat(path, known):
            found.append({**known, "role": role})
            continue
        facts = _stat_facts(role, path, name)
        found.append({**facts, "sha256": sha256_file(path), "hashed_ns": time.time_ns()})
    return {"complete": True, "files": found}


def _listed_inputs(task: Task) -> dict[str, Any]:
    """List what lies where the scans should be, when they could not be told apart or read."""
    files = []
    for role, request in (("lr", task.unit.low), ("hr", task.unit.high)):
        for path in _files_below(request.path):
            name = _relative(path, task.folder)
            try:
                files.append({**_stat_facts(role, path, name), "sha256": None, "hashed_ns": None})
            except OSError:
                continue
    return {"complete": False, "files": files}


def _files_below(path: Path) -> list[Path]:
    inside = split_archive(path)
    if inside is not None:
        return [inside[0]]
    if not path.is_dir():
        return [path] if path.exists() else []
    found: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        found += [Path(folder, name) for name in sorted(names)]
        if len(found) > _MAX_LISTED:
            return found[:_MAX_LISTED]
    return found


def _stat_facts(role: str, path: Path, name: str) -> dict[str, Any]:
    stat = path.stat()
    return {"role": role, "path": name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_same_stat(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    same = stat.st_size == facts["bytes"] and stat.st_mtime_ns == facts["mtime_ns"]
    hashed = facts["hashed_ns"]
    return same and (hashed is None or stat.st_mtime_ns < hashed - _RACY_NS)


def _is_same_input(task: Task, inputs: Mapping[str, Any] | None) -> bool:
    if inputs is None:
        return False
    if not inputs["complete"]:
        return bool(_listed_inputs(task)["files"] == inputs["files"])
    for facts in inputs["files"]:
        path = Path(os.path.normpath(task.folder / facts["path"]))
        if _is_same_stat(path, facts):
            continue
        try:
            if path.stat().st_size != facts["bytes"] or sha256_file(path) != facts["sha256"]:
                return False
        except OSError:
            return False
    return True


class _Stopwatch:
    """Adds up the time of the stages that a pairing reports."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = self._last = clock()
        self._stage = "preparing"
        self._stages: dict[str, float] = {}

    def step(self, stage: str, done: int, total: int) -> None:
        """Take note of progress; called as ``step(stage, done, total)``."""
        if stage != self._stage:
            self._close()
            self._stage = stage

    def _close(self) -> None:
        now = self._clock()
        self._stages[self._stage] = self._stages.get(self._stage, 0.0) + now - self._last
        self._last = now

    def timings(self) -> dict[str, Any]:
        self._close()
        return {
            "seconds": round(self._last - self._started, 3),
            "stages": {stage: round(spent, 3) for stage, spent in self._stages.items()},
        }


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold the unit's lock, which the kernel gives back when a process dies."""
    with open(folder / _LOCK_FILE, "wb") as file:
        for attempt in range(_LOCK_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Whoever only asks whether it is taken holds it for a moment.
                if attempt + 1 < _LOCK_TRIES:
                    time.sleep(_LOCK_WAIT_SECONDS)
            else:
                yield True
                return
        yield False


def _is_locked(folder: Path) -> bool:
    try:
        with open(folder / _LOCK_FILE, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _logged(path: Path) -> Iterator[IO[bytes]]:
    """Send what this process and its libraries print into a file, also a crash's last words."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    was_enabled = faulthandler.is_enabled()
    with open(path, "ab", buffering=0) as log:
        log.write(f"--- {_iso(time.time())}\n".encode())
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(log)
        try:
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            faulthandler.disable()
            if was_enabled:
                faulthandler.enable()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


def _last_words(path: Path) -> str | None:
    """Return the end of a log, from where a crash begins if there was one."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    crashes = [number for number, line in enumerate(lines) if line.startswith(_CRASH)]
    start = crashes[-1] if crashes else -_LAST_LINES
    return "\n".join(lines[start:][:_LAST_LINES])


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_memory_mb() -> float | None:
    """Most memory this process held since the reset, where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    peak = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else round(int(peak.split()[1]) / 1024, 1)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

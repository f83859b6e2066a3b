"""Stress the review store: many writers, processes killed at random, clocks that are wrong.

Run it with ``python -m benchmarks.store``. Every LR slice is raced for by two threads of different
processes that decide as the same reviewer at the same revision: one has to win, the other has to
be told. Processes are killed and started again; a new life sends again whatever has no recorded
answer, with the same submission ids. Then the log is compared with what the threads were told.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srmri_data.run_folder import (
    PAIRS_DTYPES,
    REVIEW_DATABASE,
    SCHEMA_VERSION,
    with_review_columns,
    write_pairs,
)
from srmri_data.safe_io import write_json
from srmri_data.store import ReviewStore, StaleRevision, Submission

_NAMESPACE = uuid.UUID("6c1d1b6e-3f3a-4d6a-9d6c-0c5f6a1e2b77")
_REVIEWER = "Stress"
_RESERVED_BYTE = 0x40000001
"""Byte of the database file that SQLite locks for as long as it writes."""


def synthetic_run(run: Path, items: int) -> Path:
    """Write a run folder with nothing but what the store reads."""
    slices = np.arange(items)
    missing = pd.array([None] * items, dtype="Float64")
    table: dict[str, Any] = {
        "lr_slice": slices,
        "hr_slice": 2 * slices,
        "hr_position": 2.0 * slices,
        "method": "paper",
        "status": "review",
        "reason": "all voters differ",
        "empty": False,
        "truth_position": missing,
        "error_slices": missing,
    }
    table |= {f"vote_{name}": 2 * slices + n for n, name in enumerate(("pca", "lpips", "ssim"))}
    numbers = ("ref_row", "ref_col", "offset_um", "n_votes", "spread", "margin", "confidence")
    pairs = pd.DataFrame(table | dict.fromkeys(numbers, 1))
    run.mkdir(parents=True)
    write_pairs(run, with_review_columns(pairs).astype(PAIRS_DTYPES))
    high = {"slices_total": 2 * items, "slice_spacing_um": 50.0}
    write_json(run / "summary.json", {"schema_version": SCHEMA_VERSION, "hr": high})
    write_json(run / "provenance.json", {"schema_version": SCHEMA_VERSION})
    return run


@dataclass(frozen=True)
class Attempt:
    """One contender for one LR slice."""

    lr_slice: int
    contender: int

    @property
    def submission_id(self) -> str:
        """The same in every life of the process."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.lr_slice}/{self.contender}"))

    @property
    def choice(self) -> int:
        """Different for the two contenders, so that an exchange would be seen."""
        return self.lr_slice + self.contender


def attempts_of(
    process: int, thread: int, processes: int, threads: int, items: int
) -> list[Attempt]:
    """List what one thread has to submit; contenders of a slice sit in different processes."""
    slot, slots = process * threads + thread, processes * threads
    shift = (processes // 2) * threads
    return [
        Attempt(lr_slice, contender)
        for lr_slice in range(items)
        for contender in (0, 1)
        if (lr_slice + contender * shift) % slots == slot
    ]


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """Read what a worker was told, by submission id; a torn last line is no answer."""
    answers = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        answers[answer["submission_id"]] = answer
    return answers


def work(run: Path, process: int, life: int, processes: int, threads: int, items: int) -> None:
    """One life of a process: submit all that has no answer yet and record the answers."""
    shaking = random.Random(f"{process}/{life}")

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(days=shaking.uniform(-1, 1))

    store = ReviewStore.open(run, clock=clock)
    path = run.parent / f"answers-{process}.jsonl"
    answered = read_answers(path)
    # Unbuffered and appended: once written, the line outlives the process.
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, b"\n")

    def submit(attempt: Attempt) -> dict[str, Any]:
        try:
            event = store.decide(
                Submission(
                    lr_slice=attempt.lr_slice,
                    choice=attempt.choice,
                    reviewer=_REVIEWER,
                    expected_revision=0,
                    submission_id=attempt.submission_id,
                    tool_version=f"life {life}",
                )
            )
        except StaleRevision as stale:
            return {"stale": stale.current_revision, "choice": stale.state.mine}
        # An event from an earlier life was on disk, but its process died before it was told.
        return {"event": event.id, "choice": event.choice, "life": event.tool_version}

    def run_thread(thread: int) -> None:
        for attempt in attempts_of(process, thread, processes, threads, items):
            if attempt.submission_id in answered:
                continue
            answer = submit(attempt)
            # The way to the client takes time, and is where a kill hurts most.
            time.sleep(shaking.uniform(0, 0.02))
            answer |= {"submission_id": attempt.submission_id, "told_in": f"life {life}"}
            os.write(log, (json.dumps(answer) + "\n").encode())

    # A thread that dies would otherwise be made good, unseen, by the next life of its process.
    with ThreadPoolExecutor(threads) as crew:
        for done in [crew.submit(run_thread, thread) for thread in range(threads)]:
            done.result()


def start(run: Path, process: int, life: int, *sizes: int) -> subprocess.Popen[bytes]:
    """Start one life of a process."""
    arguments = [str(value) for value in (run, process, life, *sizes)]
    return subprocess.Popen([sys.executable, "-m", "benchmarks.store", "--work", *arguments])


def stress(
    root: Path, *, processes: int, threads: int, items: int, kills: int, seed: int
) -> dict[str, Any]:
    """Run the whole stress and compare the log with what the threads were told."""
    run = synthetic_run(root / "run", items)
    sizes = (processes, threads, items)
    chance = random.Random(seed)
    ReviewStore.open(run)
    lives = Counter[int]()
    submissions = [
        {a.submission_id for thread in range(threads) for a in attempts_of(n, thread, *sizes)}
        for n in range(processes)
    ]
    workers = {n: start(run, n, 0, *sizes) for n in range(processes)}
    started, killed, while_writing = time.perf_counter(), 0, 0
    try:
        target = 1
        while workers:
            time.sleep(0.02)
            for n, worker in list(workers.items()):
                code = worker.poll()
                if code == 0:
                    del workers[n]
                elif code is not None:
                    raise RuntimeError(f"process {n} ended with {code}")
            progress = count_events(run)
            # Kills are spread over the progress made, not over time.
            if workers and killed < kills and progress >= target:
                victim = chance.choice(sorted(workers))
                workers[victim].send_signal(signal.SIGSTOP)
                # Every second kill waits for what is hardest: on disk, and the client not told.
                if killed % 2 == 0 and not untold(run, root, victim, submissions[victim]):
                    workers[victim].send_signal(signal.SIGCONT)
                    continue
                while_writing += writer(run) == workers[victim].pid
                workers[victim].kill()
                if workers[victim].wait() != -signal.SIGKILL:
                    # It had ended, or failed, before it could be killed; the next round sees to it.
                    continue
                killed += 1
                lives[victim] += 1
                workers[victim] = start(run, victim, lives[victim], *sizes)
                target = progress + chance.randint(1, max(1, int(1.5 * items / (kills + 1))))
    finally:
        # After an error the others must not go on without anybody to see.
        for worker in workers.values():
            worker.kill()
            worker.wait()
    seconds = time.perf_counter() - started
    figures = compare(run, root, processes=processes, items=items)
    return figures | {
        "kills": killed,
        "killed_while_writing": while_writing,
        "seconds": round(seconds, 1),
        "database_mb": round((run / REVIEW_DATABASE).stat().st_size / 1e6, 2),
    }


def writer(run: Path) -> int | None:
    """Ask the kernel which process has a write transaction open."""
    question = struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _RESERVED_BYTE, 1, 0)
    with open(run / REVIEW_DATABASE, "rb+") as file:
        kind, _, _, _, pid = struct.unpack(
            "@hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, question)[: struct.calcsize("@hhqqi")]
        )
    return None if kind == fcntl.F_UNLCK else int(pid)


def untold(run: Path, root: Path, process: int, submissions: set[str]) -> set[str]:
    """Submissions of a process that are on disk and that it has not been told about."""
    with closing(sqlite3.connect(run / REVIEW_DATABASE, timeout=0.01)) as db:
        try:
            # The latest are enough: what is older has been told.
            query = "SELECT submission_id FROM events ORDER BY id DESC LIMIT 500"
            written = {name for (name,) in db.execute(query)}
        except sqlite3.OperationalError:
            # The process was stopped in the middle of a commit, and holds the lock.
            return set()
    return submissions & written - set(read_answers(root / f"answers-{process}.jsonl"))


def count_events(run: Path) -> int:
    """Count the events without the store's help."""
    with closing(sqlite3.connect(run / REVIEW_DATABASE, timeout=60)) as db:
        return int(db.execute("SELECT count(*) FROM events").fetchone()[0])


def compare(run: Path, root: Path, *, processes: int, items: int) -> dict[str, Any]:
    """Compare the log with the answers; every figure that is an error has to be 0."""
    events = list(ReviewStore.open(run).events())
    by_submission = {event.submission_id: event for event in events}
    answers: dict[str, dict[str, Any]] = {}
    for process in range(processes):
        answers |= read_answers(root / f"answers-{process}.jsonl")
    accepted = {name: answer for name, answer in answers.items() if "event" in answer}
    lost = [
        name
        for name, answer in accepted.items()
        if name not in by_submission
        or (by_submission[name].id, by_submission[name].choice)
        != (answer["event"], answer["choice"])
    ]
    per_slice = Counter(event.lr_slice for event in events)
    attempts = [Attempt(n, contender) for n in range(items) for contender in (0, 1)]
    with closing(sqlite3.connect(run / REVIEW_DATABASE)) as db:
        (integrity,) = db.execute("PRAGMA integrity_check").fetchone()
    return {
        "items": items,
        "submissions": len(attempts),
        "accepted": len(accepted),
        "stale": len(answers) - len(accepted),
        "unanswered": sum(attempt.submission_id not in answers for attempt in attempts),
        "lost": len(lost),
        "doubled": sum(count > 1 for count in per_slice.values()),
        "never_decided": sum(per_slice[n] == 0 for n in range(items)),
        "accepted_but_not_told": len(set(by_submission) - set(accepted)),
        "told_in_a_later_life": sum(a["life"] != a["told_in"] for a in accepted.values()),
        "gaps": sum(event.id != n for n, event in enumerate(events, 1)),
        "clock_went_back": sum(b.at < a.at for a, b in pairwise(events)),
        "integrity": integrity,
    }


def latencies(root: Path, *, items: int, decisions: int) -> dict[str, Any]:
    """Fill a store and time the calls a page makes when it is full."""
    run = synthetic_run(root / "full", items)
    store = ReviewStore.open(run)
    reviewers = ("Ann", "Bob")

    def decide(n: int) -> None:
        name, lr_slice = reviewers[n % 2], (n // 2) % items
        store.decide(
            Submission(
                lr_slice=lr_slice,
                choice=2 * lr_slice,
                reviewer=name,
                expected_revision=store.item(lr_slice, name).revision,
                submission_id=str(uuid.UUID(int=random.getrandbits(128))),
                confidence=3,
                note="a note of ordinary length, as one writes it",
                shown=tuple(range(lr_slice, lr_slice + 9)),
                visible_ms=4000,
                views=("blink", "checker", "difference"),
                tool_version="srmri 0.1.0",
            )
        )

    started = time.perf_counter()
    for n in range(decisions):
        decide(n)
    rate = decisions / (time.perf_counter() - started)
    calls = {
        "decide": lambda n: decide(decisions + n),
        "item": lambda n: store.item(n % items, "Ann"),
        "queue": lambda _: store.queue("Ann"),
        "undoable": lambda _: store.undoable("Ann"),
        "merged": lambda _: store.merged(),
    }
    return {
        "decisions": decisions,
        "decisions_per_second": round(rate, 1),
        "database_mb": round((run / REVIEW_DATABASE).stat().st_size / 1e6, 2),
        "p95_ms": {name: p95_ms(call) for name, call in calls.items()},
    }


def p95_ms(call: Any, repeats: int = 60) -> float:
    """Time a call."""
    return round(float(np.percentile(list(_times(call, repeats)), 95)) * 1000, 2)


def _times(call: Any, repeats: int) -> Iterator[float]:
    for n in range(repeats):
        started = time.perf_counter()
        call(n)
        yield time.perf_counter() - started


@dataclass(frozen=True)
class Sizes:
    """How much stress."""

    processes: int = 8
    threads: int = 16
    items: int = 5000
    kills: int = 60
    seed: int = 1


def main() -> None:
    """Print the figures as JSON."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), *map(int, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="work here, on the disk to be measured")
    given = vars(parser.parse_args())
    decisions, out = given.pop("decisions"), given.pop("out")
    sizes = Sizes(**given)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        root = Path(folder)
        figures: dict[str, Any] = {"stress": stress(root, **asdict(sizes))}
        if decisions:
            figures["full"] = latencies(root, items=sizes.items, decisions=decisions)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

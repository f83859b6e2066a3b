"""The review store: who decided what about which pair, in SQLite inside the run folder.

The only SQL of the project. Decisions are events that are appended and never changed; every event
carries what its reviewer holds about the slice from then on, so the present is the last event of
each slice and reviewer. The contract for users is ``docs/run-folder.md``.

A connection lives for one call: nothing is shared between threads or inherited over a fork, and
no lock outlives the call that took it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from srmri_data.decisions import (
    Answer,
    AutoDecision,
    Choice,
    Event,
    ItemState,
    Submission,
    TrialKind,
    Verdict,
    check_address,
    is_word,
    merge,
    reviewer_name,
)
from srmri_data.errors import (
    ChecksumError,
    FormatError,
    InputError,
    SrmriError,
    UsageError,
)
from srmri_data.run_folder import REVIEW_DATABASE, open_run, read_pairs

__all__ = [
    "AutoDecision",
    "Choice",
    "Clock",
    "Event",
    "ItemState",
    "ReviewStore",
    "StaleRevision",
    "StoreBusyError",
    "Submission",
    "SubmissionConflictError",
    "UnknownItemError",
    "Verdict",
    "reviewer_name",
]

Clock: TypeAlias = Callable[[], datetime]
"""Returns the time, with its zone."""

OLDEST_SQLITE = (3, 37)
"""The first with STRICT tables."""

_BUSY_SECONDS = 60.0
_SEED_BITS = 48
_APPLICATION_ID = int.from_bytes(b"srmr", "big")

# Entry n takes a database from version n to n + 1. An entry is never edited once released.
# Triggers, not good intentions, keep the log append-only; the check before an insert is there
# because INSERT OR REPLACE would delete a row without firing the delete trigger.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE run (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            fingerprint TEXT NOT NULL
        ) STRICT""",
        "CREATE TABLE items (lr_slice INTEGER PRIMARY KEY) STRICT",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY,
            submission_id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL CHECK (kind IN ('decision', 'undo')),
            lr_slice INTEGER NOT NULL REFERENCES items (lr_slice),
            choice ANY CHECK (typeof(choice) = 'integer' OR choice IN ('none', 'unsure')),
            reviewer TEXT NOT NULL,
            at TEXT NOT NULL,
            revision INTEGER NOT NULL,
            undoes INTEGER REFERENCES events (id),
            confidence INTEGER CHECK (confidence BETWEEN 1 AND 4),
            note TEXT NOT NULL,
            shown TEXT NOT NULL,
            visible_ms INTEGER NOT NULL CHECK (visible_ms >= 0),
            views TEXT NOT NULL,
            tool_version TEXT NOT NULL,
            adjudicates INTEGER NOT NULL CHECK (adjudicates IN (0, 1)),
            UNIQUE (lr_slice, revision),
            CHECK ((kind = 'undo') = (undoes IS NOT NULL)),
            CHECK (kind = 'undo' OR choice IS NOT NULL)
        ) STRICT""",
        "CREATE INDEX events_by_reviewer ON events (reviewer, lr_slice)",
        """CREATE TRIGGER events_are_appended BEFORE INSERT ON events
            WHEN NEW.id <> (SELECT coalesce(max(id), 0) + 1 FROM events)
                OR EXISTS (SELECT 1 FROM events WHERE submission_id = NEW.submission_id)
                OR EXISTS (SELECT 1 FROM events
                    WHERE lr_slice = NEW.lr_slice AND revision = NEW.revision)
            BEGIN SELECT RAISE(ABORT, 'events are appended'); END""",
        """CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never changed'); END""",
        """CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END""",
    ),
    (
        """ALTER TABLE events ADD COLUMN trial TEXT NOT NULL DEFAULT ''
            CHECK (trial IN ('', 'catch', 'repeat'))""",
        "ALTER TABLE events ADD COLUMN truth INTEGER CHECK (truth IS NULL OR trial = 'catch')",
        "DROP INDEX events_by_reviewer",
        "CREATE INDEX events_by_reviewer ON events (reviewer, lr_slice, trial)",
        # Reviews that began before orders had a seed go on with 0.
        "ALTER TABLE run ADD COLUMN seed INTEGER NOT NULL DEFAULT 0",
    ),
)


class UnknownItemError(InputError):
    """An LR slice that is not in the run."""


class SubmissionConflictError(UsageError):
    """A submission id that was used before, for something else."""


class StoreBusyError(SrmriError):
    """Other writers kept the database locked for too long; nothing was written."""


class StaleRevision(SrmriError):  # noqa: N818 -- an answer every client has to expect, no fault
    """The reviewer's own answer changed since the caller read it; nothing was written.

    Parameters
    ----------
    state : ItemState
        What the reviewer holds about the slice now.
    expected : int
        Revision the caller knew.
    """

    def __init__(self, state: ItemState, expected: int) -> None:
        super().__init__(
            f"LR slice {state.lr_slice}: revision {expected} is out of date, "
            f"it is at {state.revision} now",
            hint="look at the present answer and decide again",
        )
        self.state = state

    @property
    def current_revision(self) -> int:
        """Revision to send next."""
        return self.state.revision


class ReviewStore:
    """The decisions about one run. Safe to use from any number of threads and processes.

    Build it with `ReviewStore.open`.

    Parameters
    ----------
    path : Path
        The database.
    items : mapping of int to AutoDecision
        The matcher's decision about every LR slice of the run, in order.
    n_high : int
        HR slices of the whole stack; a choice is below it.
    clock : callable
        Time to record.
    seed : int
        Seed for a new database; an existing one has its own, which becomes `self.seed`.
    """

    def __init__(
        self,
        path: Path,
        *,
        items: Mapping[int, AutoDecision],
        n_high: int,
        clock: Clock,
        seed: int,
    ) -> None:
        self.path = path
        self.items = items
        self.n_high = n_high
        self.seed = seed
        self._clock = clock
        # SQLite's waiting is not fair: with one waiter per process nobody waits for ever.
        self._one_writer = threading.Lock()

    @classmethod
    def open(
        cls,
        run: Path,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        seed: int | None = None,
    ) -> ReviewStore:
        """Open the store of a run folder; the first time makes it.

        Parameters
        ----------
        run : Path
            Run folder.
        clock : callable
            Returns the time to record, with its zone.
        seed : int, optional
            Seed of the order of candidates and of the trials, kept when the store is made: the
            orders of a review do not change half-way. Drawn at random by default.

        Returns
        -------
        ReviewStore
            Ready to use, at this version's schema.

        Raises
        ------
        MissingInputError
            If `run` is not a run folder.
        ChecksumError
            If the decisions are about another run's pairs.
        FormatError
            If ``review.sqlite`` is damaged, of another program, or of a newer version.
        """
        opened = open_run(run)
        pairs = read_pairs(run)
        spacing_um = float(opened.summary["hr"]["slice_spacing_um"])
        items = dict(_auto_decision(row, spacing_um) for row in pairs.itertuples(index=False))
        path = opened.path / REVIEW_DATABASE
        if path.is_symlink():
            raise FormatError(f"{path}: a link; decisions are kept inside the run folder")
        n_high = int(opened.summary["hr"]["slices_total"])
        seed = secrets.randbits(_SEED_BITS) if seed is None else seed
        store = cls(path, items=items, n_high=n_high, clock=clock, seed=seed)
        store._prepare()
        return store

    def _prepare(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise InputError(
                f"SQLite {sqlite3.sqlite_version} is too old to keep decisions, "
                f"{'.'.join(map(str, OLDEST_SQLITE))} is needed",
                hint="use a Python that brings its own SQLite, for instance from python.org",
            )
        fingerprint = _fingerprint(self.items)
        with self._transaction(create=True) as db:
            self._migrate(db)
            found = db.execute("SELECT fingerprint, seed FROM run").fetchone()
            if found is None:
                db.execute("INSERT INTO run VALUES (1, ?, ?)", (fingerprint, self.seed))
                db.executemany("INSERT INTO items VALUES (?)", ((n,) for n in self.items))
                return
            if found[0] != fingerprint:
                raise ChecksumError(
                    f"{self.path}: the decisions are about other pairs than those of this run",
                    hint="put the review.sqlite of this run back, or move this one away",
                )
            self.seed = int(found[1])

    def _migrate(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (n_tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        is_new = (version, application, n_tables) == (0, 0, 0)
        if not is_new and application != _APPLICATION_ID:
            raise FormatError(f"{self.path}: a database, but not one of srmri")
        if version > len(_MIGRATIONS):
            raise FormatError(
                f"{self.path}: version {version}, this srmri reads up to {len(_MIGRATIONS)}",
                hint="use the srmri version that wrote it, or a newer one",
            )
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                db.execute(statement)
        if version < len(_MIGRATIONS):
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    # -- reading ---------------------------------------------------------------------------

    def queue(self, reviewer: str) -> list[ItemState]:
        """Return what is to be reviewed, as one reviewer may see it.

        Parameters
        ----------
        reviewer : str
            Who asks.

        Returns
        -------
        list of ItemState
            The slices the matcher queued, and accepted ones that somebody has an answer to;
            by LR slice.
        """
        name = reviewer_name(reviewer)
        with self._reading() as db:
            mine = {
                lr_slice: rest
                for lr_slice, *rest in db.execute(
                    f"""SELECT lr_slice, {_OWN} FROM events WHERE id IN
                        (SELECT max(id) FROM events WHERE reviewer = ? AND trial = ''
                        GROUP BY lr_slice)""",  # noqa: S608
                    (name,),
                )
            }
            counts = dict(
                db.execute(
                    """SELECT lr_slice, count(*) FROM events WHERE choice IS NOT NULL AND id IN
                        (SELECT max(id) FROM events WHERE trial = '' GROUP BY reviewer, lr_slice)
                        GROUP BY lr_slice"""
                )
            )
        return [
            self._item_state(lr_slice, mine.get(lr_slice), counts.get(lr_slice, 0))
            for lr_slice, auto in self.items.items()
            if auto.status == "review" or lr_slice in counts
        ]

    def trials(self, reviewer: str) -> dict[tuple[int, TrialKind], ItemState]:
        """Return a reviewer's answers to catch trials and repeats.

        Parameters
        ----------
        reviewer : str
            Who asks.

        Returns
        -------
        dict of (int, str) to ItemState
            By LR slice and kind of trial, those that have an event.
        """
        name = reviewer_name(reviewer)
        with self._reading() as db:
            rows = db.execute(
                f"""SELECT lr_slice, trial, {_OWN} FROM events WHERE id IN
                    (SELECT max(id) FROM events WHERE reviewer = ? AND trial <> ''
                    GROUP BY lr_slice, trial)""",  # noqa: S608
                (name,),
            ).fetchall()
        return {
            (lr_slice, trial): self._item_state(lr_slice, rest, 0)
            for lr_slice, trial, *rest in rows
        }

    def item(self, lr_slice: int, reviewer: str, *, trial: TrialKind = "") -> ItemState:
        """Return one LR slice as one reviewer may see it, also one that was accepted.

        Parameters
        ----------
        lr_slice : int
            LR slice.
        reviewer : str
            Who asks.
        trial : {"", "catch", "repeat"}
            Which question about it.

        Returns
        -------
        ItemState
            Its present state.

        Raises
        ------
        UnknownItemError
            If the run has no such LR slice.
        """
        self._auto(lr_slice)
        name = reviewer_name(reviewer)
        with self._reading() as db:
            return self._state(db, lr_slice, name, trial)

    def events(self) -> Iterator[Event]:
        """Return the whole log.

        Yields
        ------
        Event
            By id.
        """
        with self._reading() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM events ORDER BY id").fetchall()  # noqa: S608
        yield from map(_event, rows)

    def reviewers(self) -> list[str]:
        """Return who has taken part.

        Returns
        -------
        list of str
            Sorted names.
        """
        with self._reading() as db:
            rows = db.execute("SELECT DISTINCT reviewer FROM events ORDER BY reviewer").fetchall()
        return [name for (name,) in rows]

    def undoable(self, reviewer: str, *, trials: bool = True) -> Event | None:
        """Return the decision a reviewer's next undo takes back, on whichever slice.

        Parameters
        ----------
        reviewer : str
            Who asks.
        trials : bool
            Whether answers to trials count.

        Returns
        -------
        Event or None
            The last decision that stands, or None.
        """
        return self._history(reviewer, trials)[0]

    def redoable(self, reviewer: str, *, trials: bool = True) -> Event | None:
        """Return the undo a reviewer's next redo takes back, on whichever slice.

        Parameters
        ----------
        reviewer : str
            Who asks.
        trials : bool
            Whether answers to trials count.

        Returns
        -------
        Event or None
            The last undo, unless the reviewer has decided something since.
        """
        return self._history(reviewer, trials)[1]

    def choices(self, lr_slice: int) -> dict[str, Choice]:
        """Return everybody's present answer: for adjudication, never for a blind reviewer.

        Parameters
        ----------
        lr_slice : int
            LR slice.

        Returns
        -------
        dict of str to choice
            By reviewer.

        Raises
        ------
        UnknownItemError
            If the run has no such LR slice.
        """
        self._auto(lr_slice)
        with self._reading() as db:
            rows = db.execute(
                """SELECT reviewer, choice FROM events WHERE choice IS NOT NULL AND id IN
                    (SELECT max(id) FROM events WHERE lr_slice = ? AND trial = ''
                    GROUP BY reviewer)""",
                (lr_slice,),
            )
            return dict(rows)

    def disputed(self) -> dict[int, dict[str, Choice]]:
        """Return what reviewers disagree on: for adjudication, never for a blind reviewer.

        Returns
        -------
        dict of int to dict
            By LR slice, the answers by reviewer, where they are not all the same; without
            those that adjudicate. In the order of LR slices.
        """
        answers: dict[int, dict[str, Choice]] = {}
        with self._reading() as db:
            rows = db.execute(
                """SELECT lr_slice, reviewer, choice FROM events
                    WHERE choice IS NOT NULL AND id IN (SELECT max(id) FROM events
                    WHERE trial = '' AND adjudicates = 0 GROUP BY reviewer, lr_slice)
                    ORDER BY lr_slice, reviewer"""
            )
            for lr_slice, reviewer, choice in rows:
                answers.setdefault(lr_slice, {})[reviewer] = choice
        return {n: found for n, found in answers.items() if len(set(found.values())) > 1}

    def merged(self) -> list[Verdict]:
        """Return what the answers come to, for every LR slice that has one.

        Returns
        -------
        list of Verdict
            By LR slice.
        """
        with self._reading() as db:
            return merge(_answers(db))

    @contextmanager
    def frozen(self) -> Iterator[tuple[list[Event], list[Verdict]]]:
        """Keep everybody from writing while the log is exported.

        Yields
        ------
        events, verdicts : list
            The whole log and what it comes to.
        """
        with self._transaction() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM events ORDER BY id").fetchall()  # noqa: S608
            yield [_event(row) for row in rows], merge(_answers(db))

    # -- writing ---------------------------------------------------------------------------

    def decide(self, submission: Submission) -> Event:
        """Record a decision. When this returns, it is on disk.

        Parameters
        ----------
        submission : Submission
            The decision.

        Returns
        -------
        Event
            The new event; for a repeated submission the one that it made the first time.

        Raises
        ------
        UnknownItemError
            If the run has no such LR slice.
        UsageError
            If HR has no such slice.
        StaleRevision
            If the reviewer's answer changed since ``expected_revision``.
        SubmissionConflictError
            If the submission id was used for something else.
        StoreBusyError
            If other writers keep the database locked; send the same submission again.
        """
        sent = submission
        self._auto(sent.lr_slice)
        if isinstance(sent.choice, int) and sent.choice >= self.n_high:
            raise UsageError(
                f"choice: HR has slices 0 to {self.n_high - 1}, there is no {sent.choice}"
            )
        with self._transaction() as db:
            earlier = _find(db, "submission_id", sent.submission_id)
            if earlier is not None:
                same = (
                    "lr_slice", "choice", "reviewer", "confidence", "note", "adjudicates", "trial",
                )  # fmt: skip
                return _check_repeat(earlier, "decision", {n: getattr(sent, n) for n in same})
            self._check_revision(
                db, sent.lr_slice, sent.reviewer, sent.trial, sent.expected_revision
            )
            event = Event(
                id=_next_id(db),
                submission_id=sent.submission_id,
                kind="decision",
                lr_slice=sent.lr_slice,
                choice=sent.choice,
                reviewer=sent.reviewer,
                at=self._now(),
                revision=_next_revision(db, sent.lr_slice),
                undoes=None,
                confidence=sent.confidence,
                note=sent.note,
                shown=sent.shown,
                visible_ms=sent.visible_ms,
                views=sent.views,
                tool_version=sent.tool_version,
                adjudicates=sent.adjudicates,
                trial=sent.trial,
                truth=sent.truth,
            )
            _append(db, event)
        return event

    def undo(
        self,
        reviewer: str,
        lr_slice: int,
        *,
        expected_revision: int,
        submission_id: str,
        undoes: int | None = None,
        trial: TrialKind = "",
        tool_version: str = "",
    ) -> Event:
        """Take back a reviewer's last decision on a slice, or their last undo of one.

        Parameters
        ----------
        reviewer : str
            Who.
        lr_slice : int
            LR slice.
        expected_revision : int
            `ItemState.revision` as this reviewer last saw it.
        submission_id : str
            UUID made by the client, as in `Submission`.
        undoes : int, optional
            Event to take back: ``undoable(reviewer).id`` to undo, ``redoable(reviewer).id``
            to redo. By default the reviewer's last standing decision on the slice.
        trial : {"", "catch", "repeat"}
            Which question about the slice was answered.
        tool_version : str
            Version of the program that asked.

        Returns
        -------
        Event
            The new event, which carries the answer that holds again.

        Raises
        ------
        UsageError
            If there is nothing to take back, or `undoes` is not the last thing done.
        UnknownItemError, StaleRevision, SubmissionConflictError, StoreBusyError
            As `decide`.
        """
        check_address(lr_slice, expected_revision, submission_id, undoes)
        self._auto(lr_slice)
        name = reviewer_name(reviewer)
        if tool_version and not is_word(tool_version):
            raise UsageError("tool_version: not a short text")
        with self._transaction() as db:
            earlier = _find(db, "submission_id", submission_id)
            if earlier is not None:
                sent = {
                    "lr_slice": lr_slice, "reviewer": name, "trial": trial,
                    "undoes": undoes or earlier.undoes,
                }  # fmt: skip
                return _check_repeat(earlier, "undo", sent)
            self._check_revision(db, lr_slice, name, trial, expected_revision)
            done, undone = _timeline(
                db.execute(
                    """SELECT id, undoes FROM events
                        WHERE reviewer = ? AND lr_slice = ? AND trial = ? ORDER BY id""",
                    (name, lr_slice, trial),
                )
            )
            if undoes is None and done:
                undoes = done[-1]
            if undoes is not None and done and undoes == done[-1]:
                holds = _find(db, "id", done[-2]) if len(done) > 1 else None
            elif undoes is not None and undone and undoes == undone[-1][0]:
                holds = _find(db, "id", undone[-1][1])
            else:
                what = "nothing" if undoes is None else f"event {undoes} is not the last thing"
                raise UsageError(f"LR slice {lr_slice}: {what} to undo for {name}")
            taken_back = _find(db, "id", undoes)
            event = Event(
                id=_next_id(db),
                submission_id=submission_id,
                kind="undo",
                lr_slice=lr_slice,
                choice=holds.choice if holds else None,
                reviewer=name,
                at=self._now(),
                revision=_next_revision(db, lr_slice),
                undoes=undoes,
                confidence=holds.confidence if holds else None,
                note=holds.note if holds else "",
                shown=(),
                visible_ms=0,
                views=(),
                tool_version=tool_version,
                adjudicates=holds is not None and holds.adjudicates,
                trial=trial,
                truth=taken_back.truth if taken_back else None,
            )
            _append(db, event)
        return event

    # -- inside ----------------------------------------------------------------------------

    def _auto(self, lr_slice: int) -> AutoDecision:
        try:
            return self.items[lr_slice]
        except KeyError:
            raise UnknownItemError(
                f"the run has no LR slice {lr_slice}",
                hint=f"it has {len(self.items)}, from {min(self.items)} to {max(self.items)}",
            ) from None

    def _now(self) -> str:
        moment = self._clock().astimezone(UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _check_revision(
        self,
        db: sqlite3.Connection,
        lr_slice: int,
        reviewer: str,
        trial: TrialKind,
        expected: int,
    ) -> None:
        # A reviewer's own revision: what others do must neither disturb nor tell them anything.
        state = self._state(db, lr_slice, reviewer, trial)
        if state.revision != expected:
            raise StaleRevision(state, expected)

    def _state(
        self, db: sqlite3.Connection, lr_slice: int, reviewer: str, trial: TrialKind
    ) -> ItemState:
        row = db.execute(
            f"""SELECT {_OWN} FROM events WHERE id =
                (SELECT max(id) FROM events WHERE reviewer = ? AND lr_slice = ? AND trial = ?)""",  # noqa: S608
            (reviewer, lr_slice, trial),
        ).fetchone()
        (n_reviewers,) = db.execute(
            """SELECT count(*) FROM events WHERE choice IS NOT NULL AND id IN
                (SELECT max(id) FROM events WHERE lr_slice = ? AND trial = ? GROUP BY reviewer)""",
            (lr_slice, trial),
        ).fetchone()
        return self._item_state(lr_slice, row, n_reviewers)

    def _item_state(self, lr_slice: int, last: Sequence[Any] | None, n_reviewers: int) -> ItemState:
        revision, choice, confidence, note, adjudicates = last or (0, None, None, "", 0)
        auto = self.items[lr_slice]
        return ItemState(
            lr_slice=lr_slice,
            revision=revision,
            status=auto.status,
            mine=choice,
            my_confidence=confidence,
            my_note=note,
            adjudicates=bool(adjudicates),
            n_reviewers=n_reviewers,
            auto=auto,
        )

    def _history(self, reviewer: str, trials: bool) -> tuple[Event | None, Event | None]:
        name = reviewer_name(reviewer)
        with self._reading() as db:
            done, undone = _timeline(
                db.execute(
                    """SELECT id, undoes FROM events
                        WHERE reviewer = ? AND (trial = '' OR ?) ORDER BY id""",
                    (name, trials),
                )
            )
            return (
                _find(db, "id", done[-1]) if done else None,
                _find(db, "id", undone[-1][0]) if undone else None,
            )

    @contextmanager
    def _connection(self, mode: Literal["rw", "rwc"] = "rw") -> Iterator[sqlite3.Connection]:
        try:
            # Never created in passing: a run folder that was moved away must not come back.
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(
                sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
            ) as db:
                db.execute("PRAGMA trusted_schema = OFF")
                db.execute("PRAGMA foreign_keys = ON")
                # A rollback journal: write-ahead logs of SQLite before 3.51.3 can lose data
                # when two processes checkpoint, and they need shared memory.
                db.execute("PRAGMA journal_mode = DELETE")
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreBusyError(
                    f"{self.path}: locked by another process for {_BUSY_SECONDS:.0f} s",
                    hint="nothing was written; try again",
                ) from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
                raise FormatError(
                    f"{self.path}: damaged ({error})",
                    hint="reviews.jsonl, if it was exported, holds the decisions up to then",
                ) from error
            raise InputError(
                f"{self.path}: {error}", hint="is the disk full, or the folder write-protected?"
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as db:
            # One transaction: several SELECTs see one moment.
            db.execute("BEGIN")
            yield db

    @contextmanager
    def _transaction(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        with self._one_writer, self._connection("rwc" if create else "rw") as db:
            # Closing the connection takes back whatever was not committed.
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")


_NAMES = tuple(field.name for field in fields(Event))
_COLUMNS = ", ".join(_NAMES)
_OWN = "revision, choice, confidence, note, adjudicates"
"""What a reviewer's last event about an item says."""


def _event(row: Sequence[Any]) -> Event:
    values = dict(zip(_NAMES, row, strict=True))
    values["shown"] = tuple(json.loads(values["shown"]))
    values["views"] = tuple(json.loads(values["views"]))
    values["adjudicates"] = bool(values["adjudicates"])
    return Event(**values)


def _append(db: sqlite3.Connection, event: Event) -> None:
    values = [json.dumps(value) if isinstance(value, tuple) else value for value in astuple(event)]
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT INTO events ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608


def _find(
    db: sqlite3.Connection, column: Literal["id", "submission_id"], value: int | str
) -> Event | None:
    row = db.execute(
        f"SELECT {_COLUMNS} FROM events WHERE {column} = ?",  # noqa: S608
        (value,),
    ).fetchone()
    return _event(row) if row else None


def _next_id(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(id), 0) + 1 FROM events").fetchone()[0])


def _next_revision(db: sqlite3.Connection, lr_slice: int) -> int:
    query = "SELECT coalesce(max(revision), 0) + 1 FROM events WHERE lr_slice = ?"
    return int(db.execute(query, (lr_slice,)).fetchone()[0])


def _check_repeat(earlier: Event, kind: str, sent: Mapping[str, object]) -> Event:
    found = {name: getattr(earlier, name) for name in sent}
    if (earlier.kind, found) != (kind, dict(sent)):
        raise SubmissionConflictError(
            f"submission_id {earlier.submission_id} was used before, for something else",
            hint="make a new one for every submission",
        )
    return earlier


def _timeline(events: Iterable[tuple[int, int | None]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Replay (id, undoes): decisions that stand, and undos that can be redone, last one last."""
    done: list[int] = []
    undone: list[int] = []
    decision_of: dict[int, int] = {}
    for number, undoes in events:
        if undoes is None:
            done.append(number)
            undone.clear()
        elif undoes in decision_of:
            done.append(decision_of[undoes])
            if undoes in undone:
                undone.remove(undoes)
        else:
            done.remove(undoes)
            undone.append(number)
            decision_of[number] = undoes
    return done, [(number, decision_of[number]) for number in undone]


def _answers(db: sqlite3.Connection) -> list[Answer]:
    """Present answer of every reviewer to every slice, in the order in which they were given."""
    rows = db.execute(
        """SELECT lr_slice, reviewer, choice, confidence, adjudicates FROM events
            WHERE choice IS NOT NULL AND id IN
            (SELECT max(id) FROM events WHERE trial = '' GROUP BY reviewer, lr_slice)
            ORDER BY id"""
    )
    return [
        Answer(lr_slice, reviewer, choice, confidence, bool(adjudicates))
        for lr_slice, reviewer, choice, confidence, adjudicates in rows
    ]


def _auto_decision(row: Any, spacing_um: float) -> tuple[int, AutoDecision]:
    from pandas import isna

    registered = getattr(row, "geom_position", None)
    affine = row.auto_hr_position - row.auto_offset_um / spacing_um

    votes = {name: getattr(row, f"vote_{name}") for name in ("pca", "lpips", "ssim")}
    votes = {name: int(vote) for name, vote in votes.items() if not isna(vote)}
    return int(row.lr_slice), AutoDecision(
        hr_slice=int(row.auto_hr_slice),
        hr_position=float(row.auto_hr_position),
        geometry=float(affine if registered is None or isna(registered) else registered),
        status=str(row.auto_status),
        reason=str(row.auto_reason),
        votes=votes,
        n_votes=sum(vote == row.auto_hr_slice for vote in votes.values()),
        spread=int(row.spread),
        margin=float(row.margin),
        confidence=float(row.confidence),
        empty=bool(row.empty),
    )


def _fingerprint(items: Mapping[int, AutoDecision]) -> str:
    facts = [
        (lr_slice, auto.hr_slice, repr(auto.hr_position), auto.status, sorted(auto.votes.items()))
        for lr_slice, auto in items.items()
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

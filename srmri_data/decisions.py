"""What reviewers say about a pair, and what their answers come to. Plain values, no storage."""

from __future__ import annotations

import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, cast

from srmri_data.errors import UsageError

Choice: TypeAlias = int | Literal["none", "unsure"]
"""An HR slice, "none" of the HR slices, or "unsure"."""

TrialKind: TypeAlias = Literal["", "catch", "repeat"]
"""What an item is for: "" to settle a pair; a catch trial or a repeat, to know the reviewer."""

BULK_VIEW = "bulk"
"""The view recorded with answers that were accepted together, without a look at each."""

MAX_NOTE = 2000
MAX_REVIEWER = 80
_MAX_SHOWN = 64
_MAX_VIEWS = 32
_MAX_WORD = 40
_MAX_VISIBLE_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Submission:
    """A decision as a reviewer sends it.

    Parameters
    ----------
    lr_slice : int
        LR slice.
    choice : int or {"none", "unsure"}
        HR slice, or that none fits, or that it can not be told.
    reviewer : str
        Who decides; see `reviewer_name`.
    expected_revision : int
        `ItemState.revision` as this reviewer last saw it.
    submission_id : str
        UUID made by the client. Sending the same one again returns the first event.
    confidence : int, optional
        1 (guess) to 4 (certain).
    note : str
        Free text, at most `MAX_NOTE` characters.
    shown : tuple of int
        HR slices offered, in the order shown.
    visible_ms : int
        How long the slice was on screen, in milliseconds.
    views : tuple of str
        Views that were used.
    tool_version : str
        Version of the program that asked.
    adjudicates : bool
        Settles what the reviewers disagree on.
    trial : {"", "catch", "repeat"}
        What was asked. Answers to trials tell about the reviewer, never about the pair.
    truth : int, optional
        HR slice a catch trial was simulated from.

    Raises
    ------
    UsageError
        If a value is of the wrong type or out of range; the message names the field.
    """

    lr_slice: int
    choice: Choice
    reviewer: str
    expected_revision: int
    submission_id: str
    confidence: int | None = None
    note: str = ""
    shown: tuple[int, ...] = ()
    visible_ms: int = 0
    views: tuple[str, ...] = ()
    tool_version: str = ""
    adjudicates: bool = False
    trial: TrialKind = ""
    truth: int | None = None

    def __post_init__(self) -> None:
        """Refuse what came in wrong: most submissions come over the network."""
        check_address(self.lr_slice, self.expected_revision, self.submission_id)
        if self.choice not in ("none", "unsure") and not _is_whole(self.choice, 0):
            raise UsageError(f'choice: {self.choice!r} is no HR slice, nor "none" or "unsure"')
        if self.reviewer != reviewer_name(self.reviewer):
            raise UsageError(f"reviewer: {self.reviewer!r} has space around it")
        if self.confidence is not None and not _is_whole(self.confidence, 1, 4):
            raise UsageError(f"confidence: {self.confidence!r} is not 1, 2, 3 or 4")
        if not _is_text(self.note, MAX_NOTE):
            raise UsageError(f"note: not a text of at most {MAX_NOTE} characters")
        if not _is_whole(self.visible_ms, 0, _MAX_VISIBLE_MS):
            raise UsageError(f"visible_ms: {self.visible_ms!r} is not 0 to {_MAX_VISIBLE_MS}")
        if not _is_tuple_of(self.shown, _MAX_SHOWN, _is_whole):
            raise UsageError(f"shown: not a tuple of at most {_MAX_SHOWN} HR slices")
        if not _is_tuple_of(self.views, _MAX_VIEWS, is_word):
            raise UsageError(f"views: not a tuple of at most {_MAX_VIEWS} names")
        if not (self.tool_version == "" or is_word(self.tool_version)):
            raise UsageError(f"tool_version: not a text of at most {_MAX_WORD} characters")
        if not isinstance(self.adjudicates, bool):
            raise UsageError(f"adjudicates: {self.adjudicates!r} is neither true nor false")
        if self.trial not in ("", "catch", "repeat") or (self.trial and self.adjudicates):
            raise UsageError(f"trial: {self.trial!r} is no kind of trial, or adjudicates")
        if (self.trial == "catch") != (self.truth is not None and _is_whole(self.truth)):
            raise UsageError(f"truth: {self.truth!r} does not belong to trial {self.trial!r}")


@dataclass(frozen=True)
class Event:
    """One entry of the log. `choice`, `confidence` and `note` are what holds after it.

    Parameters
    ----------
    id : int
        1, 2, 3 … in the order of writing, which is the only order: clocks can be wrong.
    submission_id : str
        UUID of the submission that made it.
    kind : {"decision", "undo"}
        What happened. A redo is an undo of an undo.
    lr_slice : int
        LR slice.
    choice : int or {"none", "unsure"} or None
        What the reviewer says from now on; None when an undo left no answer.
    reviewer : str
        Who.
    at : str
        When, UTC, ISO 8601 with milliseconds.
    revision : int
        Number of the event among those of its slice, from 1.
    undoes : int or None
        Event that an undo takes back.
    confidence : int or None
        1 to 4, if stated.
    note : str
        Free text.
    shown : tuple of int
        HR slices offered, in the order shown; empty for an undo.
    visible_ms : int
        How long the slice was on screen, in milliseconds.
    views : tuple of str
        Views that were used.
    tool_version : str
        Version of the program that asked.
    adjudicates : bool
        Settles what the reviewers disagree on.
    trial : {"", "catch", "repeat"}
        What was asked; only "" says something about the pair.
    truth : int or None
        HR slice a catch trial was simulated from.
    """

    id: int
    submission_id: str
    kind: Literal["decision", "undo"]
    lr_slice: int
    choice: Choice | None
    reviewer: str
    at: str
    revision: int
    undoes: int | None
    confidence: int | None
    note: str
    shown: tuple[int, ...]
    visible_ms: int
    views: tuple[str, ...]
    tool_version: str
    adjudicates: bool
    trial: TrialKind = ""
    truth: int | None = None


@dataclass(frozen=True)
class AutoDecision:
    """What the matcher said about an LR slice; no review changes it.

    Parameters
    ----------
    hr_slice : int
        HR slice it chose or, in the queue, proposes.
    hr_position : float
        The same as a coordinate.
    geometry : float
        Where the method's geometry puts the slice, as a coordinate: its registration, or the
        affines where it has none.
    status : {"auto", "review"}
        Whether it asked for a person.
    reason : str
        Why, in words.
    votes : mapping of str to int
        HR slice named by each voter that took part.
    n_votes : int
        Voters that chose `hr_slice`.
    spread : int
        Largest minus smallest vote.
    margin : float
        How clearly the agreeing voters preferred their choice.
    confidence : float
        0 to 1.
    empty : bool
        Near-empty slice.
    """

    hr_slice: int
    hr_position: float
    geometry: float
    status: str
    reason: str
    votes: Mapping[str, int]
    n_votes: int
    spread: int
    margin: float
    confidence: float
    empty: bool


@dataclass(frozen=True)
class ItemState:
    """An LR slice as one reviewer may see it: nobody else's answer is in it.

    Parameters
    ----------
    lr_slice : int
        LR slice.
    revision : int
        What to send as ``expected_revision``; 0 before this reviewer's first event.
    status : {"auto", "review"}
        The matcher's status.
    mine : int or {"none", "unsure"} or None
        The reviewer's present answer.
    my_confidence : int or None
        1 to 4, if stated.
    my_note : str
        Free text.
    adjudicates : bool
        The answer settles what the reviewers disagree on.
    n_reviewers : int
        How many reviewers have an answer now, this one included.
    auto : AutoDecision
        What the matcher said.
    """

    lr_slice: int
    revision: int
    status: str
    mine: Choice | None
    my_confidence: int | None
    my_note: str
    adjudicates: bool
    n_reviewers: int
    auto: AutoDecision


@dataclass(frozen=True)
class Verdict:
    """What the reviewers' answers about one LR slice come to.

    Parameters
    ----------
    lr_slice : int
        LR slice.
    status : {"decided", "rejected", "review"}
        ``review``: they disagree or one is unsure, so the slice stays in the queue.
    hr_slice : int or None
        HR slice, if decided.
    n_reviewers : int
        Reviewers with an answer.
    confidence : int or None
        Lowest confidence that was stated.
    reason : str
        The same in words.
    """

    lr_slice: int
    status: Literal["decided", "rejected", "review"]
    hr_slice: int | None
    n_reviewers: int
    confidence: int | None
    reason: str


def reviewer_name(text: str) -> str:
    """Return a reviewer's name as it is recorded.

    Parameters
    ----------
    text : str
        As typed.

    Returns
    -------
    str
        Without space around it, in Unicode's composed form, so that one person typing on two
        systems is one reviewer.

    Raises
    ------
    UsageError
        If nothing is left, or it is longer than `MAX_REVIEWER`, or not printable.

    Examples
    --------
    >>> reviewer_name("  Zoë ")
    'Zoë'
    """
    name = unicodedata.normalize("NFC", text).strip() if isinstance(text, str) else ""
    if not name or len(name) > MAX_REVIEWER or not name.isprintable():
        raise UsageError(
            f"reviewer: {text!r} is not a name of 1 to {MAX_REVIEWER} printable characters",
            hint="say who decides with --reviewer NAME",
        )
    return name


def _is_whole(value: object, least: int = 0, most: int = 2**31 - 1) -> bool:
    # True is an int in Python, but nobody means slice 1 by it.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_text(value: object, most: int) -> bool:
    if not isinstance(value, str) or len(value) > most or "\x00" in value:
        return False
    # JSON may hold half a surrogate pair, which no file can.
    return not any("\ud800" <= character <= "\udfff" for character in value)


def is_word(value: object) -> bool:
    """Tell whether a value is a short printable text.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    bool
        True for 1 to 40 printable characters.
    """
    return isinstance(value, str) and 0 < len(value) <= _MAX_WORD and value.isprintable()


def _is_tuple_of(value: object, most: int, is_one: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and len(value) <= most and all(map(is_one, value))


def check_address(
    lr_slice: object,
    expected_revision: object,
    submission_id: object,
    undoes: object = None,
    *,
    name: str = "lr_slice",
) -> None:
    """Refuse a request that names no slice, revision, submission or event.

    Parameters
    ----------
    lr_slice, expected_revision, submission_id : object
        As in `Submission`.
    undoes : object, optional
        Number of an event.
    name : str
        What the caller calls the slice.

    Raises
    ------
    UsageError
        If one is of the wrong type or out of range.
    """
    if not _is_whole(lr_slice):
        raise UsageError(f"{name}: {lr_slice!r} is not a whole number")
    if not _is_whole(expected_revision):
        raise UsageError(f"expected_revision: {expected_revision!r} is not a whole number")
    if undoes is not None and not _is_whole(undoes, 1):
        raise UsageError(f"undoes: {undoes!r} is not an event number")
    try:
        canonical = str(uuid.UUID(cast(str, submission_id)))
    except (ValueError, AttributeError, TypeError):
        canonical = ""
    if not canonical or canonical != submission_id:
        raise UsageError(f"submission_id: {submission_id!r} is not a UUID in lower case")


class Answer(NamedTuple):
    """What a reviewer says about an LR slice at present.

    Attributes
    ----------
    lr_slice : int
        LR slice.
    reviewer : str
        Who.
    choice : int or {"none", "unsure"}
        The answer.
    confidence : int or None
        1 to 4, if stated.
    adjudicates : bool
        Settles what the reviewers disagree on.
    """

    lr_slice: int
    reviewer: str
    choice: Choice
    confidence: int | None
    adjudicates: bool


def merge(answers: Iterable[Answer]) -> list[Verdict]:
    """Work out what the reviewers' answers come to.

    Parameters
    ----------
    answers : iterable of Answer
        One per LR slice and reviewer, in the order in which they were given.

    Returns
    -------
    list of Verdict
        One per LR slice with an answer, by LR slice.

    Notes
    -----
    All answers the same decide the slice, or reject it; "unsure" and disagreement leave it in
    the queue. An answer given to adjudicate stands above the others, the latest one first.
    """
    by_slice: dict[int, list[Answer]] = {}
    for answer in answers:
        by_slice.setdefault(answer.lr_slice, []).append(answer)
    return [_verdict(lr_slice, found) for lr_slice, found in sorted(by_slice.items())]


def _verdict(lr_slice: int, answers: Sequence[Answer]) -> Verdict:
    adjudicated = [answer for answer in answers if answer.adjudicates][-1:]
    heard = adjudicated or answers
    counts = Counter(answer.choice for answer in heard)
    listed = ", ".join(map(str, sorted(c for c in counts if isinstance(c, int))))
    who = "1 reviewer" if len(heard) == 1 else f"{len(heard)} reviewers"
    who = "the adjudicator" if adjudicated else who
    choice = heard[0].choice if len(counts) == 1 else None
    status: Literal["decided", "rejected", "review"] = "review"
    if isinstance(choice, int):
        status, reason = "decided", f"{who} chose {choice}"
    elif choice == "none":
        status, reason = "rejected", f"{who} found no HR slice that fits"
    elif choice == "unsure":
        reason = f"{who} could not tell"
    elif "unsure" in counts:
        others = [listed] if listed else []
        others += ["none fits"] if "none" in counts else []
        reason = f"{counts['unsure']} of {who} could not tell; others: {', '.join(others)}"
    else:
        reason = f"{who} disagree: {listed}{', none fits' if 'none' in counts else ''}"
    stated = [answer.confidence for answer in heard if answer.confidence is not None]
    return Verdict(
        lr_slice=lr_slice,
        status=status,
        hr_slice=choice if isinstance(choice, int) else None,
        n_reviewers=len(answers),
        confidence=min(stated, default=None),
        reason=reason,
    )

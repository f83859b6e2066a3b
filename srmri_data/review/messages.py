"""What the page may send: JSON in, typed requests out, everything else refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeAlias

from srmri_data.decisions import Submission, check_address, reviewer_name
from srmri_data.errors import UsageError
from srmri_data.review_plan import Question

Find: TypeAlias = Callable[[str, int], Question]
"""Returns what a reviewer's item stands for, or raises."""

_ADDRESS = frozenset({"item", "reviewer", "expected_revision", "submission_id"})
# Which run the page was opened for; `app` compares it before anything is recorded.
_RUN = frozenset({"run"})
# The server knows its own version better than the page does: it is accepted, not believed.
_DETAILS = frozenset({"confidence", "note", "shown", "visible_ms", "views", "tool_version"})


@dataclass(frozen=True)
class UndoRequest:
    """Take back a reviewer's last step on an item.

    Parameters
    ----------
    question : Question
        The item.
    reviewer : str
        Who.
    expected_revision : int
        Revision of the item the reviewer saw.
    submission_id : str
        UUID made by the page; a retry carries the same.
    undoes : int, optional
        Event to take back; an undo, to redo.
    """

    question: Question
    reviewer: str
    expected_revision: int
    submission_id: str
    undoes: int | None = None


def parse_json(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    body : bytes
        Request body.

    Returns
    -------
    mapping
        The object.

    Raises
    ------
    UsageError
        If it is anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def number(text: str) -> float | int:
        # JSON has one kind of number: 4.0 is 4.
        value = float(text)
        return int(value) if value.is_integer() else value

    try:
        document = json.loads(body.decode("utf-8"), parse_constant=refuse, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise UsageError("the body is not valid JSON", hint="send one JSON object") from error
    if not isinstance(document, dict):
        raise UsageError("the body is not a JSON object", hint="send one JSON object")
    return document


def parse_decision(
    document: Mapping[str, Any], find: Find, *, adjudicates: bool = False
) -> Submission:
    """Check a decision.

    Parameters
    ----------
    document : mapping
        From `parse_json`.
    find : callable
        Returns the question behind the number of an item.
    adjudicates : bool
        Whether it settles what reviewers disagree on.

    Returns
    -------
    Submission
        For the store.

    Raises
    ------
    UsageError
        If a member is missing, unknown or out of range.
    UnknownItemError
        If there is no such item.
    """
    _check_members(document, required=_ADDRESS | {"choice"}, optional=_DETAILS | _RUN)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in document.items()
        if name not in _RUN | {"item"}
    }
    values["reviewer"] = reviewer_name(values["reviewer"])
    values["tool_version"] = version("srmri")
    question = _question(document, find)
    return Submission(
        **values,
        lr_slice=question.lr_slice,
        trial=question.trial,
        truth=question.truth,
        adjudicates=adjudicates,
    )


def _question(document: Mapping[str, Any], find: Find) -> Question:
    check_address(
        document["item"],
        document["expected_revision"],
        document["submission_id"],
        document.get("undoes"),
        name="item",
    )
    return find(reviewer_name(document["reviewer"]), document["item"])


def parse_undo(document: Mapping[str, Any], find: Find) -> UndoRequest:
    """Check a request to undo or redo.

    Parameters
    ----------
    document : mapping
        From `parse_json`.
    find : callable
        Returns the question behind the number of an item.

    Returns
    -------
    UndoRequest
        For the store.

    Raises
    ------
    UsageError
        If a member is missing, unknown or out of range.
    UnknownItemError
        If there is no such item.
    """
    _check_members(document, required=_ADDRESS, optional=_RUN | {"undoes"})
    return UndoRequest(
        question=_question(document, find),
        reviewer=reviewer_name(document["reviewer"]),
        expected_revision=document["expected_revision"],
        submission_id=document["submission_id"],
        undoes=document.get("undoes"),
    )


def _check_members(
    document: Mapping[str, Any], *, required: frozenset[str], optional: frozenset[str]
) -> None:
    missing = sorted(required - set(document))
    if missing:
        raise UsageError(f"{missing[0]} is missing")
    unknown = set(document) - required - optional
    if unknown:
        raise UsageError(
            f"{len(unknown)} of the members are unknown",
            hint="known are " + ", ".join(sorted(required | optional)),
        )

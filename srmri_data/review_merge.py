"""From the review store to the tables everybody reads, and the review at the terminal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srmri_data.decisions import (
    BULK_VIEW,
    Choice,
    Event,
    Submission,
    Verdict,
    reviewer_name,
)
from srmri_data.errors import UsageError
from srmri_data.review_plan import clear_choice, review_order
from srmri_data.reviewers import reviewer_figures
from srmri_data.run_folder import open_run, read_pairs, write_pairs
from srmri_data.safe_io import write_json, write_text
from srmri_data.store import ReviewStore

if TYPE_CHECKING:
    import pandas as pd


def export_reviews(run: Path) -> dict[str, int]:
    """Write the log and merge what the reviewers decided into the tables of the run.

    Parameters
    ----------
    run : Path
        Run folder.

    Returns
    -------
    dict of str to int
        ``events`` in the log and the counts that went into ``summary.json``: ``n_pairs``,
        ``queued``, ``decided`` and ``rejected``.

    Raises
    ------
    MissingInputError, ChecksumError, FormatError, StoreBusyError
        As `ReviewStore.open`.

    Notes
    -----
    The tables follow from the matcher's own columns and the log alone: an export of the same log
    gives the same bytes, whatever was exported before, and an interrupted one is put right by the
    next.
    """
    store = ReviewStore.open(run)
    with store.frozen() as (events, verdicts):
        opened = open_run(run)
        spacing_um = float(opened.summary["hr"]["slice_spacing_um"])
        pairs = merge_verdicts(read_pairs(run), verdicts, spacing_um)
        status = pairs["status"].value_counts()
        counts = {
            "n_pairs": int(status.get("auto", 0)),
            "queued": int(status.get("review", 0)),
            "decided": int(status.get("decided", 0)),
            "rejected": int(status.get("rejected", 0)),
        }
        figures = [asdict(figure) for figure in reviewer_figures(events, spacing_um)]
        review = {"seed": store.seed, "reviewers": figures}
        write_text(run / "reviews.jsonl", "".join(map(_json_line, events)))
        write_pairs(run, pairs)
        write_json(run / "summary.json", {**opened.summary, **counts, "review": review})
    return {"events": len(events), **counts}


def merge_verdicts(
    pairs: pd.DataFrame, verdicts: Sequence[Verdict], spacing_um: float
) -> pd.DataFrame:
    """Apply verdicts to the pairs the matcher made.

    Parameters
    ----------
    pairs : DataFrame
        Pairs, with or without an earlier review merged in.
    verdicts : sequence of Verdict
        What the reviewers' answers come to.
    spacing_um : float
        Distance of HR slices in µm.

    Returns
    -------
    DataFrame
        A new table: rows with a verdict follow it, all others are as the matcher made them.
    """
    import pandas as pd

    by_slice = {verdict.lr_slice: verdict for verdict in verdicts}
    found = [by_slice.get(lr_slice) for lr_slice in pairs["lr_slice"]]
    automatic = pairs["auto_hr_slice"].to_numpy()
    chosen = np.array(
        [
            auto if verdict is None or verdict.hr_slice is None else verdict.hr_slice
            for verdict, auto in zip(found, automatic, strict=True)
        ],
        dtype=automatic.dtype,
    )
    # Who confirms the matcher's slice confirms its position between slices, too.
    position = np.where(chosen == automatic, pairs["auto_hr_position"], chosen.astype(float))
    moved = position - pairs["auto_hr_position"]
    votes = pairs.filter(regex="^vote_")
    return pairs.assign(
        hr_slice=chosen,
        hr_position=position,
        offset_um=pairs["auto_offset_um"] + moved * spacing_um,
        # With a registration they are counted around it, whatever is chosen.
        n_votes=pairs["n_votes"].where(
            pairs["geom_position"].notna(), votes.eq(chosen, axis=0).sum(axis=1)
        ),
        status=_where(found, "status", pairs["auto_status"]),
        reason=_where(found, "reason", pairs["auto_reason"]),
        error_slices=position - pairs["truth_position"],
        reviewed_by_n=[verdict.n_reviewers if verdict else 0 for verdict in found],
        review_confidence=pd.array(
            [verdict.confidence if verdict else None for verdict in found], dtype="Int32"
        ),
    )


def _where(found: Sequence[Verdict | None], name: str, otherwise: pd.Series[Any]) -> list[Any]:
    return [
        auto if verdict is None else getattr(verdict, name)
        for verdict, auto in zip(found, otherwise, strict=True)
    ]


def _json_line(event: Event) -> str:
    return json.dumps(asdict(event), ensure_ascii=False) + "\n"


def list_reviews(run: Path, *, disputed: bool = False) -> dict[str, list[dict[str, Any]]]:
    """List the slices that are or were in the queue, and what the answers come to.

    Parameters
    ----------
    run : Path
        Run folder.
    disputed : bool
        Only those that reviewers disagree on.

    Returns
    -------
    dict
        ``items`` in the order of review, each with ``lr_slice``, ``status`` (``review``,
        ``decided`` or ``rejected``), ``hr_slice`` (the proposal until it is decided), ``votes``
        by voter, ``clear`` (the HR slice it can be accepted as without a look, or None),
        ``n_reviewers``, ``confidence`` and ``reason``; and ``reviewers``, their figures
        (`srmri_data.reviewers.ReviewerFigures`).

    Raises
    ------
    MissingInputError, ChecksumError, FormatError, StoreBusyError
        As `ReviewStore.open`.
    """
    store = ReviewStore.open(run)
    with store.frozen() as (events, found):
        verdicts = {verdict.lr_slice: verdict for verdict in found}
    asked = [n for n, auto in store.items.items() if auto.status == "review" or n in verdicts]
    if disputed:
        asked = list(store.disputed())
    rows = []
    for lr_slice in (n for block in review_order(store.items, asked) for n in block):
        auto, verdict = store.items[lr_slice], verdicts.get(lr_slice)
        decided = verdict is not None and verdict.hr_slice is not None
        rows.append(
            {
                "lr_slice": lr_slice,
                "status": verdict.status if verdict else auto.status,
                "hr_slice": verdict.hr_slice if verdict and decided else auto.hr_slice,
                "votes": dict(auto.votes),
                "clear": clear_choice(auto),
                "n_reviewers": verdict.n_reviewers if verdict else 0,
                "confidence": verdict.confidence if verdict else None,
                "reason": verdict.reason if verdict else auto.reason,
            }
        )
    spacing_um = float(open_run(run).summary["hr"]["slice_spacing_um"])
    figures = [asdict(figure) for figure in reviewer_figures(events, spacing_um)]
    return {"items": rows, "reviewers": figures}


def accept_clear(run: Path, *, reviewer: str) -> list[Event]:
    """Accept, for one reviewer, every item whose voters all but agree and fit the geometry.

    Parameters
    ----------
    run : Path
        Run folder.
    reviewer : str
        Who vouches for them.

    Returns
    -------
    list of Event
        One for each item that had no answer of this reviewer; recorded with the view ``bulk``.

    Raises
    ------
    UsageError
        If the reviewer has no name.
    MissingInputError, ChecksumError, FormatError, StoreBusyError
        As `ReviewStore.open`.
    """
    name = reviewer_name(reviewer)
    store = ReviewStore.open(run)
    events = []
    for state in store.queue(name):
        choice = clear_choice(state.auto)
        if choice is None or state.mine is not None:
            continue
        events.append(
            store.decide(
                Submission(
                    lr_slice=state.lr_slice,
                    choice=choice,
                    reviewer=name,
                    expected_revision=state.revision,
                    submission_id=str(uuid.uuid4()),
                    views=(BULK_VIEW,),
                    tool_version=tool_version(),
                )
            )
        )
    return events


def parse_decision(text: str) -> tuple[int, Choice]:
    """Read ``LR=HR``, ``LR=none`` or ``LR=unsure``.

    Parameters
    ----------
    text : str
        As given to ``--decide``.

    Returns
    -------
    lr_slice, choice : int and choice
        LR slice and the answer.

    Raises
    ------
    UsageError
        If it is neither.

    Examples
    --------
    >>> parse_decision("41=83"), parse_decision("42=none")
    ((41, 83), (42, 'none'))
    """
    low, _, high = text.partition("=")
    try:
        if high == "none":
            return int(low), "none"
        return int(low), "unsure" if high == "unsure" else int(high)
    except ValueError:
        raise UsageError(
            f"--decide {text}: not of the form LR=HR", hint="for instance 41=83 or 41=none"
        ) from None


def decide_at_terminal(
    run: Path,
    decision: str,
    *,
    reviewer: str,
    confidence: int | None = None,
    note: str = "",
    adjudicates: bool = False,
) -> Event:
    """Record one decision that was typed.

    Parameters
    ----------
    run : Path
        Run folder.
    decision : str
        ``LR=HR``, ``LR=none`` or ``LR=unsure``.
    reviewer : str
        Who decides.
    confidence : int, optional
        1 (guess) to 4 (certain).
    note : str
        Free text.
    adjudicates : bool
        Settle what the reviewers disagree on.

    Returns
    -------
    Event
        The entry in the log.

    Raises
    ------
    UsageError
        If the decision or another value makes no sense.
    UnknownItemError
        If the run has no such LR slice.
    MissingInputError, ChecksumError, FormatError, StoreBusyError
        As `ReviewStore.open`.
    """
    lr_slice, choice = parse_decision(decision)
    name = reviewer_name(reviewer)
    store = ReviewStore.open(run)
    return store.decide(
        Submission(
            lr_slice=lr_slice,
            choice=choice,
            reviewer=name,
            expected_revision=store.item(lr_slice, name).revision,
            submission_id=str(uuid.uuid4()),
            confidence=confidence,
            note=note,
            tool_version=tool_version(),
            adjudicates=adjudicates,
        )
    )


def tool_version() -> str:
    """Return what is recorded as the program that asked.

    Returns
    -------
    str
        For instance ``srmri 0.1.0``.
    """
    try:
        return f"srmri {version('srmri')}"
    except PackageNotFoundError:
        return "srmri"

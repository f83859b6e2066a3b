"""How well each reviewer sees: what catch trials, repeats and other reviewers say about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median

from srmri_data.decisions import BULK_VIEW, Choice, Event


@dataclass(frozen=True)
class ReviewerFigures:
    """One reviewer's figures. Shares are None where there is nothing to count.

    Parameters
    ----------
    reviewer : str
        Who.
    answered : int
        LR slices with an answer, without trials and adjudication.
    bulk : int
        Those of them that were accepted together.
    seconds : float or None
        Median time an item was on screen.
    catch_trials : int
        Catch trials answered.
    exact : float or None
        Share of them answered with the HR slice they were simulated from.
    mean_error_slices, mean_error_um : float or None
        Mean distance from it where an HR slice was named, in HR slices and µm.
    repeats : int
        Items that were answered twice, in the reviewer's ignorance.
    same_again : float or None
        Share of them with the same answer (test–retest).
    retest_error_slices : float or None
        Mean distance of the two answers where both name an HR slice.
    shared : int
        Answers that can be compared with another reviewer's, one for each such reviewer.
    agreement : float or None
        Share of them that are the same.
    within_1 : float or None
        Share that are the same or name neighbouring HR slices.
    """

    reviewer: str
    answered: int
    bulk: int
    seconds: float | None
    catch_trials: int
    exact: float | None
    mean_error_slices: float | None
    mean_error_um: float | None
    repeats: int
    same_again: float | None
    retest_error_slices: float | None
    shared: int
    agreement: float | None
    within_1: float | None


def reviewer_figures(events: Iterable[Event], spacing_um: float) -> list[ReviewerFigures]:
    """Work out every reviewer's figures from the log.

    Parameters
    ----------
    events : iterable of Event
        The whole log, by id.
    spacing_um : float
        Distance of HR slices in µm.

    Returns
    -------
    list of ReviewerFigures
        By name.

    Notes
    -----
    Present answers count, those to trials like the others: a reviewer does not know which are
    which. Answers that were accepted together are nobody's eyesight and are compared with
    nothing; what was said to adjudicate is not independent.
    """
    present: dict[str, dict[tuple[int, str], Event]] = {}
    for event in events:
        if not event.adjudicates:
            own = present.setdefault(event.reviewer, {})
            own[event.lr_slice, event.trial] = event
    given = {
        name: {key: event for key, event in own.items() if event.choice is not None}
        for name, own in present.items()
    }
    looked = {
        name: {
            n: event.choice
            for (n, trial), event in own.items()
            if not trial and event.choice is not None and not _is_bulk(event)
        }
        for name, own in given.items()
    }
    return [
        _figures(name, list(own.values()), looked, spacing_um)
        for name, own in sorted(given.items())
    ]


def _is_bulk(event: Event) -> bool:
    return event.views == (BULK_VIEW,)


def _figures(
    name: str,
    own: list[Event],
    looked: Mapping[str, Mapping[int, Choice]],
    spacing_um: float,
) -> ReviewerFigures:
    pairs = [event for event in own if not event.trial]
    catches = [event for event in own if event.trial == "catch"]
    error = _mean_distance((event.choice, event.truth) for event in catches)
    mine = looked[name]
    repeats = [
        (mine[event.lr_slice], event.choice)
        for event in own
        if event.trial == "repeat" and event.lr_slice in mine
    ]
    shared = [
        (mine[n], choice)
        for other, theirs in looked.items()
        if other != name
        for n, choice in theirs.items()
        if n in mine
    ]
    seen = [event.visible_ms for event in own if event.visible_ms]
    return ReviewerFigures(
        reviewer=name,
        answered=len(pairs),
        bulk=sum(map(_is_bulk, pairs)),
        seconds=round(median(seen) / 1000, 1) if seen else None,
        catch_trials=len(catches),
        exact=_share(event.choice == event.truth for event in catches),
        mean_error_slices=error,
        mean_error_um=None if error is None else error * spacing_um,
        repeats=len(repeats),
        same_again=_share(one == other for one, other in repeats),
        retest_error_slices=_mean_distance(repeats),
        shared=len(shared),
        agreement=_share(one == other for one, other in shared),
        within_1=_share(one == other or _distance(one, other) == 1 for one, other in shared),
    )


def _distance(one: object, other: object) -> int | None:
    return abs(one - other) if isinstance(one, int) and isinstance(other, int) else None


def _mean_distance(pairs: Iterable[tuple[object, object]]) -> float | None:
    distances = [_distance(one, other) for one, other in pairs]
    known = [distance for distance in distances if distance is not None]
    return fmean(known) if known else None


def _share(hits: Iterable[bool]) -> float | None:
    found = list(hits)
    return sum(found) / len(found) if found else None

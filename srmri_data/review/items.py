"""What is known about an item besides its pictures: candidates, votes, scores, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.decisions import AutoDecision, Choice
from srmri_data.review_plan import Question, catch_picks, curve_position, shuffled
from srmri_data.run_folder import Run, read_votes

if TYPE_CHECKING:
    import pandas as pd

MAX_CANDIDATES = 9
"""As many as there are digit keys."""

CURVE_REACH = 15
"""LR slices shown on each side in the correspondence curve."""


class ItemFacts:
    """The machine's side of every item of a run.

    Parameters
    ----------
    items : mapping of int to AutoDecision
        The matcher's decisions; what reviewers decided since is not looked at.
    votes : DataFrame
        ``votes.parquet``.
    seed : int
        Seed of the order of candidates.
    """

    def __init__(
        self, items: Mapping[int, AutoDecision], votes: pd.DataFrame, *, seed: int
    ) -> None:
        self._items = items
        self._seed = seed
        self._high = np.unique(votes["hr_slice"].to_numpy())
        self._scores = _scores(votes, list(items), self._high)

    @classmethod
    def open(cls, opened: Run, items: Mapping[int, AutoDecision], *, seed: int) -> ItemFacts:
        """Read the votes of a run.

        Parameters
        ----------
        opened : Run
            From `run_folder.open_run`.
        items : mapping of int to AutoDecision
            Its decisions.
        seed : int
            Seed of the order of candidates.

        Returns
        -------
        ItemFacts
            Facts about every LR slice.
        """
        return cls(items, read_votes(opened.path), seed=seed)

    @property
    def hr_range(self) -> tuple[int, int]:
        """First HR slice that was compared, and one past the last."""
        return int(self._high[0]), int(self._high[-1]) + 1

    def describe(
        self,
        question: Question,
        *,
        reviewer: str,
        shuffle: bool = False,
        covered: bool = False,
        blind: bool = False,
        answers: Mapping[str, Choice] | None = None,
        number: Callable[[int], int | None] = lambda lr_slice: lr_slice,
    ) -> dict[str, Any]:
        """Return everything to show beside an item's pictures, as JSON-able values.

        Parameters
        ----------
        question : Question
            The item.
        reviewer : str
            Who looks.
        shuffle : bool
            Shuffle the candidates, in an order of this reviewer's and item's own. Otherwise they
            are in the order of their slices.
        covered : bool
            Leave out what the voters say, and what the item is for.
        blind : bool
            Leave out the proposals for neighbours that were queued, too.
        answers : mapping of str to choice, optional
            What reviewers said, for an adjudicator.
        number : callable
            LR slice to the number of its item, for neighbours; None for one that has none.

        Returns
        -------
        dict
            ``candidates``, ``covered``, ``votes``, ``scores``, ``expected``, ``neighbours``,
            ``reason``, …
        """
        lr_slice, auto = question.lr_slice, self._items[question.lr_slice]
        answers = answers or {}
        labels = self._candidates(question, reviewer, answers)
        order = sorted(labels)
        if shuffle:
            order = shuffled(order, seed=self._seed, reviewer=reviewer, question=question)
        # No voter has seen what was simulated here.
        shown = not covered and question.trial != "catch"
        scores = {name: self._scores[name][lr_slice] for name in self._scores}
        return {
            "candidates": [
                {"hr_slice": hr, "labels": [] if covered else labels[hr]} for hr in order
            ],
            "covered": covered,
            "votes": dict(auto.votes) if shown else {},
            "scores": scores if shown else {},
            "expected": round(auto.geometry, 3),
            "reason": "" if covered else _reason(question, auto, answers),
            "empty": auto.empty,
            "neighbours": [
                self._neighbour(n, n - lr_slice, blind=blind, number=number(n))
                for n in range(lr_slice - CURVE_REACH, lr_slice + CURVE_REACH + 1)
                if n in self._items and n != lr_slice
            ],
        }

    def _neighbour(
        self, lr_slice: int, distance: int, *, blind: bool, number: int | None
    ) -> dict[str, Any]:
        auto = self._items[lr_slice]
        hidden = blind and auto.status == "review"
        return {
            "distance": distance,
            "item": number,
            "hr_slice": None if hidden else auto.hr_slice,
            "expected": round(auto.geometry, 3),
            "status": auto.status,
        }

    def _candidates(
        self, question: Question, reviewer: str, answers: Mapping[str, Choice]
    ) -> dict[int, list[str]]:
        """Answers to settle, voters' picks, geometry, the curve, then what lies around."""
        auto = self._items[question.lr_slice]
        picks = list(auto.votes.values())
        named = [(name, choice) for name, choice in answers.items() if isinstance(choice, int)]
        named += [(name.upper(), vote) for name, vote in auto.votes.items()]
        if question.truth is not None:
            picks = catch_picks(
                self._items, question, hr_range=self.hr_range, seed=self._seed, reviewer=reviewer
            )
            named = [("truth", question.truth), *(("decoy", pick) for pick in picks[1:])]
        named.append(("geometry", self._clip(auto.geometry)))
        curve = curve_position(self._items, question.lr_slice)
        if curve is not None:
            named.append(("curve", self._clip(curve)))
        labels: dict[int, list[str]] = {}
        for name, hr_slice in named:
            if hr_slice in labels or len(labels) < MAX_CANDIDATES:
                labels.setdefault(hr_slice, []).append(name)
        for hr_slice in self._around(picks or [self._clip(auto.geometry)]):
            if hr_slice not in labels and len(labels) < MAX_CANDIDATES:
                labels[hr_slice] = ["neighbour"]
        return labels

    def _around(self, picks: Iterable[int]) -> list[int]:
        """HR slices near the picks, the nearest and most central first."""
        found = sorted(picks)
        centre = found[(len(found) - 1) // 2]
        reach = {int(hr): min(abs(hr - pick) for pick in found) for hr in self._high}
        near = [hr for hr, distance in reach.items() if distance <= 4]
        return sorted(near, key=lambda hr: (reach[hr], abs(hr - centre), hr))

    def _clip(self, position: float) -> int:
        return int(np.clip(round(position), self._high[0], self._high[-1]))


def _reason(question: Question, auto: AutoDecision, answers: Mapping[str, Choice]) -> str:
    if question.trial == "catch":
        return f"a catch trial, simulated from HR slice {question.truth}"
    if question.trial == "repeat":
        return f"a repeat, to see whether you answer the same again; {auto.reason}"
    said = [
        f"{name}: {f'HR {choice}' if isinstance(choice, int) else choice}"
        for name, choice in answers.items()
    ]
    return " · ".join([*said, auto.reason])


def _scores(
    votes: pd.DataFrame, low: list[int], high: NDArray[Any]
) -> dict[str, dict[int, list[float]]]:
    """Each voter's distances, scaled per LR slice to 0 (best) … 1 (worst)."""
    scores: dict[str, dict[int, list[float]]] = {}
    for name, table in votes.groupby("voter", sort=False):
        grid = table.pivot(index="lr_slice", columns="hr_slice", values="distance")
        matrix = grid.reindex(index=low, columns=high).to_numpy(dtype=np.float64)
        best = matrix.min(axis=1, keepdims=True)
        span = matrix.max(axis=1, keepdims=True) - best
        scaled = np.divide(matrix - best, span, out=np.zeros_like(matrix), where=span > 0)
        scores[str(name)] = {
            number: np.round(row, 4).tolist() for number, row in zip(low, scaled, strict=True)
        }
    return scores

"""What is known about an item besides its pictures: candidates, votes, scores, neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.errors import MissingInputError
from srmri_data.planning import VOTER_NAMES
from srmri_data.run_folder import Run, read_pairs, read_votes

if TYPE_CHECKING:
    import pandas as pd

MAX_CANDIDATES = 9
"""As many as there are digit keys."""

CURVE_REACH = 15
"""LR slices shown on each side in the correspondence curve."""

_NEIGHBOURS_USED = 6


class ItemFacts:
    """The machine's side of every item of a run.

    Parameters
    ----------
    pairs : DataFrame
        ``pairs.parquet``; what reviewers decided since is not looked at.
    votes : DataFrame
        ``votes.parquet``.
    hr_spacing_um : float
        Distance of HR slices.
    """

    def __init__(self, pairs: pd.DataFrame, votes: pd.DataFrame, *, hr_spacing_um: float) -> None:
        self._rows: dict[int, dict[Any, Any]] = {
            int(row["lr_slice"]): row for row in pairs.to_dict("records")
        }
        self._expected = {
            number: float(row["auto_hr_position"] - row["auto_offset_um"] / hr_spacing_um)
            for number, row in self._rows.items()
        }
        self._high = np.unique(votes["hr_slice"].to_numpy())
        self._scores = _scores(votes, list(self._rows), self._high)

    @classmethod
    def open(cls, opened: Run) -> ItemFacts:
        """Read the tables of a run.

        Parameters
        ----------
        opened : Run
            From `run_folder.open_run`.

        Returns
        -------
        ItemFacts
            Facts about every LR slice.
        """
        return cls(
            read_pairs(opened.path),
            read_votes(opened.path),
            hr_spacing_um=opened.summary["hr"]["slice_spacing_um"],
        )

    def describe(self, lr_slice: int, *, shuffle_for: str | None = None) -> dict[str, Any]:
        """Return everything to show beside an item's pictures, as JSON-able values.

        Parameters
        ----------
        lr_slice : int
            The item.
        shuffle_for : str, optional
            Reviewer to shuffle the candidates for; the same name gives the same order.
            Without, they are in the order of their slices.

        Returns
        -------
        dict
            ``candidates``, ``votes``, ``scores``, ``expected``, ``neighbours``, ``reason``, …

        Raises
        ------
        MissingInputError
            If the run has no such LR slice.
        """
        if lr_slice not in self._rows:
            raise MissingInputError(f"this run has no LR slice {lr_slice}")
        row = self._rows[lr_slice]
        votes = _votes(row)
        candidates = self._candidates(lr_slice, votes)
        if shuffle_for is not None:
            digest = hashlib.sha256(f"{shuffle_for}\0{lr_slice}".encode()).digest()
            order = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            candidates = [candidates[n] for n in order.permutation(len(candidates))]
        return {
            "candidates": candidates,
            "votes": votes,
            "scores": {name: self._scores[name][lr_slice] for name in self._scores},
            "proposal": int(row["auto_hr_slice"]),
            "expected": round(self._expected[lr_slice], 3),
            "reason": str(row["auto_reason"]),
            "empty": bool(row["empty"]),
            "neighbours": [
                {
                    "lr_slice": number,
                    "hr_slice": int(self._rows[number]["auto_hr_slice"]),
                    "expected": round(self._expected[number], 3),
                    "status": str(self._rows[number]["auto_status"]),
                }
                for number in range(lr_slice - CURVE_REACH, lr_slice + CURVE_REACH + 1)
                if number in self._rows and number != lr_slice
            ],
        }

    def _candidates(self, lr_slice: int, votes: Mapping[str, int]) -> list[dict[str, Any]]:
        """Voters' picks, geometry, the curve, then what lies around the picks."""
        labels: dict[int, list[str]] = {}
        for name, vote in votes.items():
            labels.setdefault(vote, []).append(name.upper())
        labels.setdefault(self._clip(self._expected[lr_slice]), []).append("geometry")
        curve = self._curve_position(lr_slice)
        if curve is not None:
            labels.setdefault(self._clip(curve), []).append("curve")
        picks = sorted(votes.values())
        centre = picks[(len(picks) - 1) // 2]
        around = sorted(
            {int(hr) for hr in self._high if min(abs(hr - vote) for vote in picks) <= 4},
            key=lambda hr: (min(abs(hr - vote) for vote in picks), abs(hr - centre), hr),
        )
        for hr_slice in around:
            if len(labels) >= MAX_CANDIDATES:
                break
            labels.setdefault(hr_slice, ["neighbour"])
        return [{"hr_slice": hr_slice, "labels": labels[hr_slice]} for hr_slice in sorted(labels)]

    def _clip(self, position: float) -> int:
        return int(np.clip(round(position), self._high[0], self._high[-1]))

    def _curve_position(self, lr_slice: int) -> float | None:
        """Where the accepted pairs nearby would put this slice."""
        accepted = sorted(
            (
                number
                for number, row in self._rows.items()
                if row["auto_status"] == "auto" and number != lr_slice
            ),
            key=lambda number: abs(number - lr_slice),
        )[:_NEIGHBOURS_USED]
        if not accepted:
            return None
        offsets = [self._rows[n]["auto_hr_position"] - self._expected[n] for n in accepted]
        return self._expected[lr_slice] + float(np.median(offsets))


def _votes(row: Mapping[Any, Any]) -> dict[str, int]:
    import pandas as pd

    votes = {name: row[f"vote_{name}"] for name in VOTER_NAMES}
    return {name: int(vote) for name, vote in votes.items() if not pd.isna(vote)}


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

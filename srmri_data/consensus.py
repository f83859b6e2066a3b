"""From the distances of the voters to one decision per LR slice.

`paper_vote` is the rule of the paper's sections 4.1 and A.2: every voter names its nearest HR
slice, the most votes win, and when all differ a person looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, Int, Shaped

from srmri_data.errors import InputError, UsageError
from srmri_data.types import DistanceMatrix

Candidates: TypeAlias = Int[np.ndarray, " n_hr"]
"""HR slice number of every column of a distance matrix."""

Status: TypeAlias = Literal["auto", "review"]


@dataclass(frozen=True)
class Decision:
    """The partner proposed for one LR slice, and how much to trust it.

    Parameters
    ----------
    hr_slice : int
        Number of the HR slice.
    hr_position : float
        The same as a coordinate; a sub-slice estimate where the method gives one.
    votes : mapping of str to int
        HR slice named by every voter.
    n_votes : int
        How many voters named `hr_slice`.
    spread : int
        Largest minus smallest vote, in HR slices.
    margin : float
        How clearly the agreeing voters prefer their slice, 0 … 1; see `paper_vote`.
    confidence : float
        0 … 1. The paper's vote gives the share of voters that agree, which is not calibrated:
        voters err together when the animal has moved.
    status : {"auto", "review"}
        Whether a person has to look.
    reason : str
        Why, in words.
    """

    hr_slice: int
    hr_position: float
    votes: Mapping[str, int]
    n_votes: int
    spread: int
    margin: float
    confidence: float
    status: Status
    reason: str


def paper_vote(distances: Mapping[str, DistanceMatrix], candidates: Candidates) -> list[Decision]:
    """Decide by the most votes, exact agreement, as the paper does.

    Parameters
    ----------
    distances : mapping of str to (n_lr, n_hr) ndarray
        Per voter how unlike each LR slice is to each candidate; smaller is more alike.
    candidates : (n_hr,) ndarray of int
        HR slice number of every column, increasing.

    Returns
    -------
    list of Decision
        One per LR slice, in order.

    Raises
    ------
    UsageError
        If there is no voter.
    InputError
        If the matrices differ in shape, do not fit `candidates`, or hold a value that is not
        finite.

    Notes
    -----
    A voter names the first of its nearest candidates. If no slice has more votes than every
    other, the (lower) median vote is proposed and the slice goes to review. One voter alone is
    believed; the reason says so.

    The margin of a voter is the distance of its runner-up minus that of its choice, divided by
    the distance of the median candidate minus that of its choice: 0 is a tie, 1 a choice that
    stands apart from all others. A decision has the smallest margin of the voters that named
    its slice. It is 0 where there is nothing to compare. Two HR slices at equal distance from
    an LR slice, the rule on voxel-centre grids at a ratio of 2, have margins near 0 and yet
    neither is wrong by more than half a slice.

    Examples
    --------
    >>> near_5 = np.array([[0.2, 0.1, 0.9]], dtype=np.float32)
    >>> near_6 = np.array([[0.8, 0.7, 0.1]], dtype=np.float32)
    >>> [decision] = paper_vote(
    ...     {"pca": near_6, "lpips": near_5, "ssim": near_5}, np.array([4, 5, 6])
    ... )
    >>> decision.hr_slice, decision.status, decision.reason
    (5, 'auto', 'LPIPS and SSIM agree; PCA says 6')
    """
    n_lr = _check_distances(distances, candidates)
    votes = {name: candidates[matrix.argmin(axis=1)] for name, matrix in distances.items()}
    margins = {name: _margins(matrix) for name, matrix in distances.items()}
    return [
        _decide(
            {name: int(vote[row]) for name, vote in votes.items()},
            {name: float(margin[row]) for name, margin in margins.items()},
        )
        for row in range(n_lr)
    ]


def vote_table(
    distances: Mapping[str, DistanceMatrix],
    low_slices: Int[np.ndarray, " n_lr"],
    candidates: Candidates,
) -> dict[str, Shaped[np.ndarray, " n_rows"]]:
    """Lay the distances out in long form, one row per voter, LR slice and candidate.

    Parameters
    ----------
    distances : mapping of str to (n_lr, n_hr) ndarray
        Distances per voter.
    low_slices : (n_lr,) ndarray of int
        LR slice number of every row.
    candidates : (n_hr,) ndarray of int
        HR slice number of every column.

    Returns
    -------
    dict of str to ndarray
        Columns of equal length: ``lr_slice`` int32, ``hr_slice`` int32, ``voter`` str,
        ``distance`` float32, ``rank`` int32 (1 is the voter's choice among the candidates).

    Raises
    ------
    UsageError
        If there is no voter.
    InputError
        As `paper_vote`.

    Examples
    --------
    >>> table = vote_table({"ssim": np.float32([[0.3, 0.1]])}, np.array([7]), np.array([14, 15]))
    >>> table["hr_slice"].tolist(), table["rank"].tolist()
    ([14, 15], [2, 1])
    """
    n_lr = _check_distances(distances, candidates)
    if low_slices.shape != (n_lr,):
        raise InputError(f"{n_lr} rows of distances, but {low_slices.size} LR slice numbers")
    n_hr, n_voters = len(candidates), len(distances)
    stacked = np.stack(list(distances.values()))
    # Ties keep the order of the candidates, as argmin does.
    ranks = stacked.argsort(axis=2, kind="stable").argsort(axis=2, kind="stable") + 1
    return {
        "lr_slice": np.tile(np.repeat(low_slices, n_hr), n_voters).astype(np.int32),
        "hr_slice": np.tile(candidates, n_voters * n_lr).astype(np.int32),
        "voter": np.repeat(list(distances), n_lr * n_hr),
        "distance": stacked.ravel().astype(np.float32),
        "rank": ranks.ravel().astype(np.int32),
    }


def _check_distances(distances: Mapping[str, DistanceMatrix], candidates: Candidates) -> int:
    """Return the number of LR slices of sound distances."""
    if not distances:
        raise UsageError("no voter to decide with", "name at least one with --voters")
    first = next(iter(distances.values()))
    for name, matrix in distances.items():
        if matrix.ndim != 2 or matrix.shape != (len(first), len(candidates)) or not matrix.size:
            raise InputError(
                f"{name}: distances of shape {matrix.shape} for {len(first)} LR slices and "
                f"{len(candidates)} HR candidates"
            )
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            raise InputError(
                f"{name}: the distance of LR row {row} to HR slice {candidates[column]} is "
                f"{matrix[row, column]}",
                "look at the intensities of both slices",
            )
    if (np.diff(candidates) <= 0).any():
        raise InputError("HR candidates must be increasing slice numbers")
    return len(first)


def _margins(matrix: DistanceMatrix) -> Float64[np.ndarray, " n_lr"]:
    if matrix.shape[1] == 1:
        return np.zeros(len(matrix))
    ordered = np.sort(matrix.astype(np.float64), axis=1)
    gap = ordered[:, 1] - ordered[:, 0]
    scale = np.median(ordered, axis=1) - ordered[:, 0]
    # Of two candidates the median is halfway, so the ratio is 2.
    return np.minimum(np.divide(gap, scale, out=np.zeros_like(gap), where=scale > 0), 1.0)


def _decide(votes: Mapping[str, int], margins: Mapping[str, float]) -> Decision:
    counts = Counter(votes.values())
    most = max(counts.values())
    leaders = [hr_slice for hr_slice, count in counts.items() if count == most]
    decided = len(leaders) == 1
    hr_slice = leaders[0] if decided else median_low(votes.values())
    agreeing = [name for name, vote in votes.items() if vote == hr_slice]
    return Decision(
        hr_slice=hr_slice,
        hr_position=float(hr_slice),
        votes=votes,
        n_votes=len(agreeing),
        spread=max(votes.values()) - min(votes.values()),
        margin=min(margins[name] for name in agreeing),
        confidence=len(agreeing) / len(votes),
        status="auto" if decided else "review",
        reason=_reason(votes, agreeing, decided),
    )


def _reason(votes: Mapping[str, int], agreeing: Sequence[str], decided: bool) -> str:
    if not decided:
        slices = ", ".join(str(vote) for vote in votes.values())
        differ = "all voters differ" if len(set(votes.values())) == len(votes) else "tied vote"
        return f"{differ} ({slices})"
    if len(votes) == 1:
        return f"{agreeing[0].upper()} is the only voter"
    dissent = [
        f"{name.upper()} says {vote}" for name, vote in votes.items() if name not in agreeing
    ]
    return "; ".join([f"{_in_words(agreeing)} agree", *dissent])


def _in_words(names: Sequence[str]) -> str:
    *others, last = [name.upper() for name in names]
    return f"{', '.join(others)} and {last}" if others else last

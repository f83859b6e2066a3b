"""From the distances of the voters to one decision per LR slice.

`paper_vote` is the rule of the paper's sections 4.1 and A.2: every voter names its nearest HR
slice, the most votes win, and when all differ a person looks. `geometry_vote` takes the position
from the registration and lets the voters contradict it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64, Int, Shaped

from srmri_data.confidence import confidence, confidence_features
from srmri_data.errors import InputError, UsageError
from srmri_data.path import monotone_path, relative_costs
from srmri_data.types import DistanceMatrix

# Two affines that meet at half a slice do so to a few digits only.
_SLACK = 1e-3

Candidates: TypeAlias = Int[np.ndarray, " n_hr"]
"""HR slice number of every column of a distance matrix."""

Status: TypeAlias = Literal["auto", "review"]


@dataclass(frozen=True, eq=False)
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
    path_slice : int, optional
        Where the monotone path of all slices passes, in HR slices at the same point.
    features : (5,) ndarray, optional
        What the confidence was computed from; see `srmri_data.confidence`.
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
    path_slice: int | None = None
    features: Float64[np.ndarray, " feature"] | None = None


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


@dataclass(frozen=True)
class Evidence:
    """What `geometry_vote` knows beside the voters' distances, one value per LR slice.

    Parameters
    ----------
    centre : (n_lr,) ndarray
        HR slice coordinate of the LR slice in the middle of the field of view: where its
        plane lies among the planes that were compared.
    position : (n_lr,) ndarray
        HR slice coordinate of the LR slice's reference point, by the registration.
    position_error : (n_lr,) ndarray
        Standard error of `position` in HR slices.
    slope : float
        HR slices per LR slice.
    quality : float
        Of the registration, 0 … 1; see `Registration.quality`.
    orientation_margin : float
        How much better the headers' orientation fits than its best rival.
    objections : tuple of str
        What is wrong with the registration as a whole; any sends all slices to review.
    """

    centre: Float64[np.ndarray, " n_lr"]
    position: Float64[np.ndarray, " n_lr"]
    position_error: Float64[np.ndarray, " n_lr"]
    slope: float
    quality: float
    orientation_margin: float
    objections: tuple[str, ...] = ()


def geometry_vote(
    distances: Mapping[str, DistanceMatrix],
    candidates: Candidates,
    evidence: Evidence,
    *,
    tolerance: float = 1.0,
    follow_path: bool = True,
) -> list[Decision]:
    """Take the registration's position unless the voters contradict it.

    Parameters
    ----------
    distances : mapping of str to (n_lr, n_hr) ndarray
        Per voter how unlike each LR slice is to each plane; NaN where not compared.
    candidates : (n_hr,) ndarray of int
        HR slice number of every plane, increasing by one.
    evidence : Evidence
        What the registration says.
    tolerance : float
        HR slices that a vote may lie from the registration's position and still agree.
    follow_path : bool
        Ask the monotone path, too.

    Returns
    -------
    list of Decision
        One per LR slice, in order. `hr_position` is the registration's, between slices.

    Raises
    ------
    UsageError
        If there is no voter, or the tolerance is negative.
    InputError
        If the matrices do not fit together.

    Notes
    -----
    A pair is accepted when nothing speaks against the registration as a whole, more than half of
    the voters name a plane within `tolerance` of it, the joint path of all voters passes within
    `tolerance` or half an LR slice, whichever is more, and its standard error is below half the
    tolerance.
    Votes are given as HR slices at the reference point, where `hr_position` is, too.

    Examples
    --------
    >>> near_5 = np.array([[0.9, 0.1, 0.2, 0.9]], dtype=np.float32)
    >>> evidence = Evidence(*(np.array([v]) for v in (5.4, 5.4, 0.02)), 2.0, 1.0, 0.1)
    >>> [decision] = geometry_vote(
    ...     {"pca": near_5, "ssim": near_5}, np.array([4, 5, 6, 7]), evidence
    ... )
    >>> decision.hr_position, decision.status, decision.reason
    (5.4, 'auto', 'PCA and SSIM agree with the registration')
    """
    if not tolerance >= 0:
        raise UsageError(f"the tolerance is a number of HR slices, not {tolerance}")
    n_lr = _check_distances(distances, candidates, banded=True)
    costs = {name: relative_costs(d.astype(np.float64)) for name, d in distances.items()}
    compared = np.isfinite(next(iter(distances.values()))).any(axis=1)
    votes = {
        name: candidates[np.where(np.isfinite(cost), cost, np.inf).argmin(axis=1)]
        for name, cost in costs.items()
    }
    margins = {name: _banded_margins(cost) for name, cost in costs.items()}
    path = monotone_path(np.mean(list(costs.values()), axis=0), slope=evidence.slope)
    decisions = []
    for row in range(n_lr):
        centre, position = float(evidence.centre[row]), float(evidence.position[row])
        # The plane tilts: at the reference point it is this far from where it crosses the middle.
        tilt = position - centre
        slack = _SLACK + tolerance
        apart = {name: abs(float(vote[row]) - centre) for name, vote in votes.items()}
        agreeing = [name for name, distance in apart.items() if distance <= slack]
        on_path = not follow_path or (
            bool(path.matched[row])
            and abs(float(candidates[path.columns[row]]) - centre)
            <= max(tolerance, evidence.slope / 2) + _SLACK
        )
        at = {name: round(float(vote[row]) + tilt) for name, vote in votes.items()}
        uncertain = float(evidence.position_error[row]) > max(0.25, tolerance / 2)
        doubts = list(evidence.objections)
        if not compared[row]:
            doubts.append("its place lies outside the HR slices compared")
        else:
            if 2 * len(agreeing) <= len(votes):
                doubts.append(_contradiction(at, agreeing, position))
            elif not on_path:
                doubts.append(
                    "the path of all slices passes elsewhere"
                    if path.matched[row]
                    else "no HR slice stands out as its partner"
                )
            if uncertain:
                doubts.append(
                    f"the registration is uncertain by {evidence.position_error[row]:.1f} slices"
                )
        features = confidence_features(
            agreeing=len(agreeing) / len(votes) if compared[row] else 0.0,
            on_path=on_path and bool(compared[row]),
            quality=evidence.quality,
            orientation_margin=evidence.orientation_margin,
            position_error=float(evidence.position_error[row]),
        )
        decisions.append(
            Decision(
                hr_slice=int(np.clip(round(position), candidates[0], candidates[-1])),
                hr_position=position,
                votes=at if compared[row] else {},
                n_votes=len(agreeing) if compared[row] else 0,
                spread=max(at.values()) - min(at.values()) if compared[row] else 0,
                margin=min((margins[name][row] for name in agreeing), default=0.0),
                confidence=float(confidence(features)),
                features=features,
                status="review" if doubts else "auto",
                reason="; ".join(doubts) if doubts else _agreement(at, agreeing),
                path_slice=(
                    round(float(candidates[path.columns[row]]) + tilt)
                    if follow_path and path.matched[row]
                    else None
                ),
            )
        )
    return decisions


def _agreement(votes: Mapping[str, int], agreeing: Sequence[str]) -> str:
    verb = "agree" if len(agreeing) > 1 else "agrees"
    dissent = [f"{name.upper()} says {v}" for name, v in votes.items() if name not in agreeing]
    return "; ".join([f"{_in_words(agreeing)} {verb} with the registration", *dissent])


def _contradiction(votes: Mapping[str, int], agreeing: Sequence[str], position: float) -> str:
    said = ", ".join(f"{name.upper()} {vote}" for name, vote in votes.items())
    who = f"only {_in_words(agreeing)} agrees" if agreeing else "no voter agrees"
    return f"{who} with the registration at {position:.1f} ({said})"


def vote_table(
    distances: Mapping[str, DistanceMatrix],
    low_slices: Int[np.ndarray, " n_lr"],
    candidates: Candidates,
) -> dict[str, Shaped[np.ndarray, " n_rows"]]:
    """Lay the distances out in long form, one row per voter, LR slice and candidate.

    Parameters
    ----------
    distances : mapping of str to (n_lr, n_hr) ndarray
        Distances per voter; NaN where not compared, which gives no row.
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
    n_lr = _check_distances(distances, candidates, banded=True)
    if low_slices.shape != (n_lr,):
        raise InputError(f"{n_lr} rows of distances, but {low_slices.size} LR slice numbers")
    n_hr, n_voters = len(candidates), len(distances)
    stacked = np.stack(list(distances.values()))
    # Ties keep the order of the candidates, as argmin does.
    ranks = stacked.argsort(axis=2, kind="stable").argsort(axis=2, kind="stable") + 1
    table = {
        "lr_slice": np.tile(np.repeat(low_slices, n_hr), n_voters).astype(np.int32),
        "hr_slice": np.tile(candidates, n_voters * n_lr).astype(np.int32),
        "voter": np.repeat(list(distances), n_lr * n_hr),
        "distance": stacked.ravel().astype(np.float32),
        "rank": ranks.ravel().astype(np.int32),
    }
    compared = np.isfinite(table["distance"])
    return table if compared.all() else {name: column[compared] for name, column in table.items()}


def _check_distances(
    distances: Mapping[str, DistanceMatrix], candidates: Candidates, *, banded: bool = False
) -> int:
    """Return the number of LR slices of sound distances; `banded` ones may hold NaN."""
    if not distances:
        raise UsageError("no voter to decide with", "name at least one with --voters")
    first = next(iter(distances.values()))
    for name, matrix in distances.items():
        if matrix.ndim != 2 or matrix.shape != (len(first), len(candidates)) or not matrix.size:
            raise InputError(
                f"{name}: distances of shape {matrix.shape} for {len(first)} LR slices and "
                f"{len(candidates)} HR candidates"
            )
        unsound = np.isinf(matrix) if banded else ~np.isfinite(matrix)
        if unsound.any():
            row, column = np.argwhere(unsound)[0]
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


def _banded_margins(costs: Float64[np.ndarray, "n_lr n_hr"]) -> Float64[np.ndarray, " n_lr"]:
    """Gap between best and second best, on the scale where the median candidate is 1."""
    if costs.shape[1] == 1:
        return np.zeros(len(costs))
    second = np.sort(np.where(np.isfinite(costs), costs, np.inf), axis=1)[:, 1]
    return np.minimum(np.where(np.isfinite(second), second, 0.0), 1.0)


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

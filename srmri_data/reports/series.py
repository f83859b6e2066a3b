"""What a report shows, in numbers: the columns of a run as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64

from srmri_data.types import SliceArray

if TYPE_CHECKING:
    import pandas as pd

VOTERS: Mapping[str, str] = {"pca": "PCA", "lpips": "LPIPS", "ssim": "SSIM"}
"""Voter names as they stand in the tables, and as people write them."""

EXACT_SLICES = 0.5 + 1e-6
"""Largest error that counts as exact; half a slice is a tie by construction, not a mistake."""

BLUNDER_SLICES = 3.0
"""An error above this is a blunder."""

PairFloats = Float64[np.ndarray, " pair"]
PairFlags = Bool[np.ndarray, " pair"]


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything a report is made of.

    Parameters
    ----------
    summary : mapping
        Content of ``summary.json``. Only what is present is shown.
    pairs : (n,) DataFrame
        One row per LR slice, the columns of ``pairs.csv`` and ``empty`` (bool);
        ``truth_position`` (HR slices) where the truth is known.
    votes : DataFrame
        Columns ``lr_slice, hr_slice, voter, distance``, one row per candidate.
    low_res : (n, rows, cols) float32 ndarray
        LR slices in the order of `pairs`, intensities in [0, 1].
    high_res_slice : callable
        HR slice number to its (rows, cols) image in [0, 1], same field of view.
    slice_spacing_um : tuple of float
        Distance between slices of LR and of HR, in µm.
    pixel_aspect : float
        Row spacing over column spacing of an LR pixel.
    seed : int
        Picks the random pairs of the mosaic.
    """

    summary: Mapping[str, Any]
    pairs: pd.DataFrame
    votes: pd.DataFrame
    low_res: SliceArray
    high_res_slice: Callable[[int], Float32[np.ndarray, "_row _col"]]
    slice_spacing_um: tuple[float, float]
    pixel_aspect: float
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PairSeries:
    """The columns of a run, one value per LR slice, NaN where there is none.

    Parameters
    ----------
    low_res_slice, high_res_slice : (n,) ndarray
        Slice numbers, untrimmed, from 0.
    position : (n,) ndarray
        Sub-slice HR position that was decided on, in HR slices.
    expected : (n,) ndarray
        HR position by the affines alone, in HR slices.
    votes : mapping of str to (n,) ndarray
        HR slice picked by each voter that took part.
    n_votes, spread, margin : (n,) ndarray
        Voters behind the decision, distance of the votes in HR slices, and how
        clearly the best candidate beats the next.
    paired, review, empty : (n,) ndarray of bool
        Accepted without a person; waiting for one; hardly any signal.
    truth : (n,) ndarray
        True HR position in HR slices, NaN when unknown.
    high_res_um : float
        Distance between HR slices in µm.
    """

    low_res_slice: PairFloats
    high_res_slice: PairFloats
    position: PairFloats
    expected: PairFloats
    votes: Mapping[str, PairFloats]
    n_votes: PairFloats
    spread: PairFloats
    margin: PairFloats
    paired: PairFlags
    review: PairFlags
    empty: PairFlags
    truth: PairFloats
    high_res_um: float

    @property
    def has_truth(self) -> bool:
        """Whether the truth is known for any slice."""
        return bool(np.isfinite(self.truth).any())

    def residual_um(self, position: PairFloats) -> PairFloats:
        """Return how far positions lie from where the affines put them.

        Parameters
        ----------
        position : (n,) ndarray
            HR positions in HR slices.

        Returns
        -------
        (n,) ndarray
            Distance in µm, positive towards higher HR slice numbers.
        """
        residual: PairFloats = (position - self.expected) * self.high_res_um
        return residual


class PairwiseAgreement(NamedTuple):
    """How often two voters pick the same slice.

    Attributes
    ----------
    first, second : str
        The voters.
    exact, within_1 : float
        Share of slices in [0, 1] on which they agree, and agree within one.
    """

    first: str
    second: str
    exact: float
    within_1: float


class ErrorRow(NamedTuple):
    """Errors of one source of positions against the truth.

    Attributes
    ----------
    source : str
        A voter, or the decision.
    slices : int
        How many positions were compared.
    exact, within_1 : float
        Share in [0, 1] within half an HR slice and within one.
    mae_um : float
        Mean absolute error in µm.
    blunders : int
        How many are more than three slices off.
    """

    source: str
    slices: int
    exact: float
    within_1: float
    mae_um: float
    blunders: int


def pair_series(inputs: ReportInputs) -> PairSeries:
    """Turn the tables of a run into arrays.

    Parameters
    ----------
    inputs : ReportInputs
        The run.

    Returns
    -------
    PairSeries
        One value per row of ``inputs.pairs``.
    """
    pairs = inputs.pairs
    high_res_um = float(inputs.slice_spacing_um[1])
    low_res_slice = _floats(pairs, "lr_slice")
    position = _floats(pairs, "hr_position")
    votes = {name: _floats(pairs, f"vote_{name}") for name in VOTERS}
    status = pairs["status"].astype(str).to_numpy(dtype=object)
    empty = _flags(pairs, "empty")
    high_res_slice = _floats(pairs, "hr_slice")
    truth = _floats(pairs, "truth_position")
    if not np.isfinite(truth).any():
        truth = position - _floats(pairs, "error_slices")
    return PairSeries(
        low_res_slice=low_res_slice,
        high_res_slice=high_res_slice,
        position=position,
        expected=_expected(inputs, low_res_slice, position, high_res_um),
        votes={name: vote for name, vote in votes.items() if np.isfinite(vote).any()},
        n_votes=_floats(pairs, "n_votes"),
        spread=_floats(pairs, "spread"),
        margin=_floats(pairs, "margin"),
        paired=np.isin(status, ["auto", "decided"]) & np.isfinite(high_res_slice) & ~empty,
        review=status == "review",
        empty=empty,
        truth=truth,
        high_res_um=high_res_um,
    )


def agreement(series: PairSeries) -> list[tuple[str, int]]:
    """Count the slices by how many voters stand behind the decision.

    Parameters
    ----------
    series : PairSeries
        The run.

    Returns
    -------
    list of (str, int)
        Label and count, best first; empty with fewer than two voters.
    """
    n_votes = series.n_votes[~series.empty]
    match len(series.votes):
        case 3:
            levels = [("All three agree", 3), ("Two of three", 2), ("All differ", 1)]
        case 2:
            levels = [("Both agree", 2), ("They differ", 1)]
        case _:
            return []
    return [
        (label, int(np.sum(n_votes <= 1 if level == 1 else n_votes == level)))
        for label, level in levels
    ]


def pairwise_agreement(series: PairSeries) -> list[PairwiseAgreement]:
    """Compare the picks of every two voters over the slices that are not empty.

    Parameters
    ----------
    series : PairSeries
        The run.

    Returns
    -------
    list of PairwiseAgreement
        One entry per two voters that share at least one slice.
    """
    rows = []
    for first, second in combinations(series.votes, 2):
        distance = np.abs(series.votes[first] - series.votes[second])[~series.empty]
        distance = distance[np.isfinite(distance)]
        if distance.size:
            rows.append(
                PairwiseAgreement(
                    VOTERS[first],
                    VOTERS[second],
                    float(np.mean(distance == 0)),
                    float(np.mean(distance <= 1)),
                )
            )
    return rows


def error_table(series: PairSeries) -> list[ErrorRow]:
    """Measure every voter and the decision against the truth.

    Parameters
    ----------
    series : PairSeries
        A run whose truth is known.

    Returns
    -------
    list of ErrorRow
        The voters, then the decision on all slices, then on the accepted ones.
        Slices that are empty or have no truth do not count.
    """
    known = np.isfinite(series.truth) & ~series.empty
    sources = [(VOTERS[name], vote, known) for name, vote in series.votes.items()]
    sources.append(("Decision", series.position, known))
    sources.append(("Accepted only", series.position, known & series.paired))
    rows = []
    for label, position, counted in sources:
        error = np.abs(position - series.truth)[counted]
        error = error[np.isfinite(error)]
        if error.size:
            rows.append(
                ErrorRow(
                    label,
                    int(error.size),
                    float(np.mean(error <= EXACT_SLICES)),
                    float(np.mean(error <= 1)),
                    float(np.mean(error)) * series.high_res_um,
                    int(np.sum(error > BLUNDER_SLICES)),
                )
            )
    return rows


def distance_maps(
    votes: pd.DataFrame, series: PairSeries
) -> dict[str, tuple[Float64[np.ndarray, "hr lr"], tuple[float, float, float, float]]]:
    """Lay the distances of every voter out as a picture.

    Every LR slice is scaled to its own best (0) and median (1) candidate, so a
    wide dark stretch means that many HR slices look alike, whatever the voter's
    unit.

    Parameters
    ----------
    votes : DataFrame
        Columns ``lr_slice, hr_slice, voter, distance``.
    series : PairSeries
        The run; its voters are the ones that are laid out.

    Returns
    -------
    mapping of str to (picture, extent)
        Picture with HR slices along rows and LR slices along columns, NaN where
        nothing was compared, and its (left, right, bottom, top) edges.
    """
    maps = {}
    for name in series.votes:
        mine = votes[votes["voter"].astype(str) == name]
        low_res = mine["lr_slice"].to_numpy(dtype=np.int64)
        high_res = mine["hr_slice"].to_numpy(dtype=np.int64)
        if low_res.size == 0:
            continue
        left, bottom = int(low_res.min()), int(high_res.min())
        picture = np.full((int(high_res.max()) - bottom + 1, int(low_res.max()) - left + 1), np.nan)
        picture[high_res - bottom, low_res - left] = _floats(mine, "distance")
        compared = np.isfinite(picture).any(axis=0)
        column = picture[:, compared]
        best = np.nanmin(column, axis=0)
        reach = np.nanmedian(column, axis=0) - best
        picture[:, compared] = (column - best) / np.where(reach > 0, reach, 1.0)
        edges = (
            left - 0.5,
            left + picture.shape[1] - 0.5,
            bottom - 0.5,
            bottom + picture.shape[0] - 0.5,
        )
        maps[name] = (picture, edges)
    return maps


def _expected(
    inputs: ReportInputs, low_res_slice: PairFloats, position: PairFloats, high_res_um: float
) -> PairFloats:
    """Position by the affines: exact where an offset is stored, else the straight line."""
    geometry = inputs.summary.get("geometry") or {}
    slope, offset = geometry.get("slope"), geometry.get("offset")
    line = (
        np.full_like(position, np.nan)
        if slope is None or offset is None
        else float(slope) * low_res_slice + float(offset)
    )
    exact = position - _floats(inputs.pairs, "offset_um") / high_res_um
    return np.where(np.isfinite(exact), exact, line)


def _floats(table: pd.DataFrame, name: str) -> PairFloats:
    if name not in table:
        return np.full(len(table), np.nan)
    return table[name].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)


def _flags(table: pd.DataFrame, name: str) -> PairFlags:
    if name not in table:
        return np.zeros(len(table), dtype=bool)
    return table[name].fillna(False).to_numpy(dtype=bool)

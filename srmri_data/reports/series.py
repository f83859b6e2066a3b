"""What a report shows, in numbers: the columns of a run as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray

from srmri_data.path import relative_costs
from srmri_data.types import SliceArray

if TYPE_CHECKING:
    import pandas as pd

    from srmri_data.reports.planes import PlaneView

VOTERS: Mapping[str, str] = {"pca": "PCA", "lpips": "LPIPS", "ssim": "SSIM"}
"""Voter names as they stand in the tables, and as people write them."""

EXACT_SLICES = 0.5 + 1e-6
"""Largest error that counts as exact; half a slice is a tie by construction, not a mistake."""

BLUNDER_SLICES = 3.0
"""An error above this is a blunder."""

Picture = Float32[np.ndarray, "_row _col"]
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
    partner : callable
        Row of `pairs` to its HR partner as two images in [0, 1] with the same field of view: at
        HR's resolution, and at the resolution and pixels of `low_res`. Only asked for rows with
        an ``hr_slice``.
    slice_spacing_um : tuple of float
        Distance between slices of LR and of HR, in µm.
    pixel_aspect : float
        Row spacing over column spacing of an LR pixel.
    seed : int
        Picks the random pairs of the mosaic.
    planes : sequence of PlaneView
        LR against HR in three planes, before and after the registration.
    certificate : mapping, optional
        Content of ``certificate.json``: accuracy on simulated scans like these.
    """

    summary: Mapping[str, Any]
    pairs: pd.DataFrame
    votes: pd.DataFrame
    low_res: SliceArray
    partner: Callable[[int], tuple[Picture, Picture]]
    slice_spacing_um: tuple[float, float]
    pixel_aspect: float
    seed: int = 0
    planes: Sequence[PlaneView] = ()
    certificate: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class PairSeries:
    """The columns of a run, one value per LR slice, NaN where there is none.

    Parameters
    ----------
    low_res_slice, high_res_slice : (n,) ndarray
        Slice numbers, untrimmed, from 0.
    position : (n,) ndarray
        Sub-slice HR position that was decided on, in HR slices.
    auto_position : (n,) ndarray
        The same before any review.
    expected : (n,) ndarray
        Position that the votes are held against, in HR slices: the registration's, or without
        one that of the affines alone.
    centre : (n,) ndarray
        Where the plane crosses the middle of the field of view, in HR slices.
    by_registration : bool
        Whether the pairs were taken from the geometry, which the votes only check.
    registered : bool
        Whether `expected` comes from a registration, not from the headers alone.
    tolerance : float
        HR slices that a vote may be off `expected` and still agree with it.
    confidence, position_error, similarity : (n,) ndarray
        Chance that the pair is right; standard error of `expected` in HR slices; correlation of
        LR with HR's plane there.
    path : (n,) ndarray
        HR position of the monotone path of all slices.
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
    auto_position: PairFloats
    expected: PairFloats
    centre: PairFloats
    by_registration: bool
    registered: bool
    tolerance: float
    confidence: PairFloats
    position_error: PairFloats
    similarity: PairFloats
    path: PairFloats
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

    @property
    def reference(self) -> str:
        """What `expected` comes from, in a word."""
        return "registration" if self.registered else "affines"

    @property
    def judged(self) -> PairFloats:
        """What is held against `expected`: decided positions, or votes where it decided."""
        if not self.by_registration or not self.votes:
            return self.position
        votes = np.stack(list(self.votes.values()))
        middle = np.full(len(self.position), np.nan)
        some = np.isfinite(votes).any(axis=0)
        middle[some] = np.nanmedian(votes[:, some], axis=0)
        return middle

    def residual_um(self, position: PairFloats) -> PairFloats:
        """Return how far positions lie from `expected`.

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


class AgreementFigures(NamedTuple):
    """How far all voters agree.

    Attributes
    ----------
    slices : int
        Slices with a vote of every voter.
    unanimous, within_1 : float
        Share on which all name the same slice, and lie within one.
    median_spread_um, p95_spread_um : float
        Largest minus smallest vote, median and 95th percentile, in µm.
    ac1, kappa : float
        Gwet's AC1 and Fleiss' kappa on slice numbers.
    """

    slices: int
    unanimous: float
    within_1: float
    median_spread_um: float
    p95_spread_um: float
    ac1: float
    kappa: float


class VoterBias(NamedTuple):
    """How far one voter lies from the reference.

    Attributes
    ----------
    voter : str
        Which.
    slices : int
        Votes that were compared.
    mean_um, sd_um : float
        Mean signed residual and its standard deviation in µm.
    within : float
        Share within the tolerance.
    """

    voter: str
    slices: int
    mean_um: float
    sd_um: float
    within: float


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
    by_affines = _expected(inputs, low_res_slice, position, high_res_um)
    geom_position = _floats(pairs, "geom_position")
    expected = np.where(np.isfinite(geom_position), geom_position, by_affines)
    by_registration = bool(np.isfinite(geom_position).any())
    line = _line(inputs, low_res_slice)
    path = _floats(pairs, "path_slice")
    if by_registration:
        # The path runs along whole slices in the middle of the field of view.
        path = np.rint(path - (expected - line)) + (expected - line)
    auto_position = _floats(pairs, "auto_hr_position")
    return PairSeries(
        low_res_slice=low_res_slice,
        high_res_slice=high_res_slice,
        position=position,
        auto_position=np.where(np.isfinite(auto_position), auto_position, position),
        expected=expected,
        centre=line,
        by_registration=by_registration,
        registered=by_registration
        and bool((inputs.summary.get("registration") or {}).get("n_starts", 1)),
        tolerance=float((inputs.summary.get("config") or {}).get("tolerance") or 1.0)
        if by_registration
        else 1.0,
        confidence=_floats(pairs, "confidence"),
        position_error=_floats(pairs, "position_error"),
        similarity=_floats(pairs, "similarity"),
        path=path,
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
        Label and count, best first; empty with fewer than two voters. Voters that agree name the
        same slice, or in ``--method geometry`` one within the tolerance of the registration.
    """
    n_votes = series.n_votes[~series.empty]
    if series.by_registration and len(series.votes) in (2, 3):
        words = ("None", "One", "Two", "Three")
        return [
            ("All" if level == len(series.votes) else words[level], int(np.sum(n_votes == level)))
            for level in range(len(series.votes), -1, -1)
        ]
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


def agreement_figures(series: PairSeries, *, n_candidates: int) -> AgreementFigures | None:
    """Sum up how far the voters agree, over the slices that are not empty.

    Parameters
    ----------
    series : PairSeries
        The run.
    n_candidates : int
        HR slices that could be voted for.

    Returns
    -------
    AgreementFigures or None
        None when no slice has two votes.

    Notes
    -----
    AC1 and kappa correct the exact agreement for chance, each HR slice being a category: AC1 by
    ``sum(p (1 - p)) / (q - 1)`` for q candidates, Fleiss' kappa by ``sum(p^2)``, where p is the
    share of all votes that a slice has. Neither knows that slices have neighbours.

    References
    ----------
    .. [1] K. L. Gwet, "Computing inter-rater reliability and its variance in the presence of high
       agreement", Br. J. Math. Stat. Psychol. 61 (2008) 29-48.
    .. [2] J. L. Fleiss, "Measuring nominal scale agreement among many raters", Psychol. Bull. 76
       (1971) 378-382.
    """
    if len(series.votes) < 2:
        return None
    votes = np.stack(list(series.votes.values()))[:, ~series.empty]
    votes = votes[:, np.isfinite(votes).all(axis=0)]
    raters, n = votes.shape
    if not n:
        return None
    spread = np.ptp(votes, axis=0)
    pairs = list(combinations(range(raters), 2))
    observed = float(np.mean([votes[a] == votes[b] for a, b in pairs]))
    _, counts = np.unique(votes, return_counts=True)
    share = counts / votes.size
    by_kappa = float(np.sum(share**2))
    by_ac1 = float(np.sum(share * (1 - share))) / max(1, n_candidates - 1)
    return AgreementFigures(
        slices=n,
        unanimous=float(np.mean(spread == 0)),
        within_1=float(np.mean(spread <= 1)),
        median_spread_um=float(np.median(spread)) * series.high_res_um,
        p95_spread_um=float(np.percentile(spread, 95)) * series.high_res_um,
        ac1=(observed - by_ac1) / (1 - by_ac1) if by_ac1 < 1 else np.nan,
        kappa=(observed - by_kappa) / (1 - by_kappa) if by_kappa < 1 else np.nan,
    )


def voter_bias(series: PairSeries) -> list[VoterBias]:
    """Measure how far each voter lies from the reference, over the slices that are not empty.

    Parameters
    ----------
    series : PairSeries
        The run.

    Returns
    -------
    list of VoterBias
        One entry per voter with at least one vote to compare.
    """
    rows = []
    for name, vote in series.votes.items():
        residual = series.residual_um(vote)[~series.empty]
        residual = residual[np.isfinite(residual)]
        if residual.size:
            rows.append(
                VoterBias(
                    VOTERS[name],
                    int(residual.size),
                    float(residual.mean()),
                    float(residual.std(ddof=1)) if residual.size > 1 else np.nan,
                    float(np.mean(np.abs(residual) <= series.tolerance * series.high_res_um)),
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


def score_maps(
    votes: pd.DataFrame, series: PairSeries
) -> dict[str, tuple[Float64[np.ndarray, "lr offset"], tuple[float, float, float, float]]]:
    """Lay the relative costs of the HR slices near `PairSeries.expected` out as pictures.

    Every LR slice is scaled to its own best (0) and median (1) candidate; the joint cost is the
    mean over the voters, which the monotone path minimises.

    Parameters
    ----------
    votes : DataFrame
        Columns ``lr_slice, hr_slice, voter, distance``.
    series : PairSeries
        The run.

    Returns
    -------
    mapping of str to (picture, extent)
        ``joint`` first when there are several voters. Picture with LR slices along rows and
        offsets in HR slices along columns, NaN where nothing was compared, and its
        (left, right, top, bottom) edges.
    """
    table = distance_table(votes, series)
    if table is None:
        return {}
    costs = {name: relative_costs(matrix) for name, matrix in table.distances.items()}
    if len(costs) > 1:
        costs = {"joint": np.mean(list(costs.values()), axis=0), **costs}
    compared = np.isfinite(next(iter(costs.values())))
    away = np.where(compared, table.candidates[None, :] - series.centre[:, None], np.nan)
    if not np.isfinite(away).any():
        return {}
    reach = float(np.ceil(np.nanmax(np.abs(away))))
    first, last = int(series.low_res_slice.min()), int(series.low_res_slice.max())
    # The centre lies between slices, elsewhere for every row: fine columns, each the nearest slice.
    columns = np.arange(-reach - 0.5 + 1 / 8, reach + 0.5, 1 / 4)
    maps = {}
    for name, cost in costs.items():
        picture = np.full((last - first + 1, columns.size), np.nan)
        for row, number in enumerate(series.low_res_slice):
            index = np.rint(series.centre[row] + columns).astype(np.int64) - table.candidates[0]
            inside = (index >= 0) & (index < table.candidates.size)
            picture[int(number) - first, inside] = cost[row, index[inside]]
        maps[name] = (picture, (-reach - 0.5, reach + 0.5, first - 0.5, last + 0.5))
    return maps


class Table(NamedTuple):
    """Distances of a run as matrices again.

    Attributes
    ----------
    distances : mapping of str to (n, n_hr) ndarray
        Per voter; NaN where not compared.
    candidates : (n_hr,) ndarray of int
        HR slice number of every column.
    """

    distances: Mapping[str, Float64[np.ndarray, "n n_hr"]]
    candidates: NDArray[np.int64]


def distance_table(votes: pd.DataFrame, series: PairSeries) -> Table | None:
    """Lay the long table of votes out as matrices.

    Parameters
    ----------
    votes : DataFrame
        Columns ``lr_slice, hr_slice, voter, distance``.
    series : PairSeries
        The run.

    Returns
    -------
    Table or None
        One row per LR slice of the run; None if there is nothing.
    """
    if not len(votes) or not series.votes:
        return None
    low = votes["lr_slice"].to_numpy(dtype=np.int64)
    high = votes["hr_slice"].to_numpy(dtype=np.int64)
    voter = votes["voter"].astype(str).to_numpy(dtype=object)
    value = votes["distance"].to_numpy(dtype=np.float64)
    first = int(high.min())
    candidates = np.arange(first, int(high.max()) + 1)
    rows = {int(number): row for row, number in enumerate(series.low_res_slice)}
    at = np.array([rows.get(int(number), -1) for number in low])
    distances = {}
    for name in series.votes:
        mine = (voter == name) & (at >= 0)
        if mine.any():
            matrix = np.full((len(series.low_res_slice), candidates.size), np.nan)
            matrix[at[mine], high[mine] - first] = value[mine]
            distances[name] = matrix
    return Table(distances, candidates) if distances else None


def _line(inputs: ReportInputs, low_res_slice: PairFloats) -> PairFloats:
    """Position in the middle of the field of view, by the straight line of the summary."""
    geometry = inputs.summary.get("geometry") or {}
    slope, offset = geometry.get("slope"), geometry.get("offset")
    if slope is None or offset is None:
        return np.full_like(low_res_slice, np.nan)
    line: PairFloats = float(slope) * low_res_slice + float(offset)
    return line


def _expected(
    inputs: ReportInputs, low_res_slice: PairFloats, position: PairFloats, high_res_um: float
) -> PairFloats:
    """Position by the affines: exact where an offset is stored, else the straight line."""
    exact = position - _floats(inputs.pairs, "offset_um") / high_res_um
    return np.where(np.isfinite(exact), exact, _line(inputs, low_res_slice))


def _floats(table: pd.DataFrame, name: str) -> PairFloats:
    if name not in table:
        return np.full(len(table), np.nan)
    return table[name].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)


def _flags(table: pd.DataFrame, name: str) -> PairFlags:
    if name not in table:
        return np.zeros(len(table), dtype=bool)
    return table[name].fillna(False).to_numpy(dtype=bool)

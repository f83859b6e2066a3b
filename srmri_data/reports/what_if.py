"""What other settings would have queued: the run's own rule on the run's own votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srmri_data.consensus import Evidence, geometry_vote
from srmri_data.reports.series import PairSeries, ReportInputs, distance_table

TOLERANCES = (0.5, 1.0, 1.5, 2.0, 3.0)
"""HR slices."""

_PAPER_TOLERANCES = (0.0, 1.0, 2.0, 3.0)


class WhatIf(NamedTuple):
    """What one pair of settings would have done.

    Attributes
    ----------
    tolerance : float
        HR slices that a vote may be off and still agree.
    window : int or None
        HR slices to either side that the voters look at; None in the paper's method.
    queued : int
        Slices that would wait for a person.
    wrong : int or None
        Accepted slices more than one HR slice off, where the truth is known.
    """

    tolerance: float
    window: int | None
    queued: int
    wrong: int | None


def what_if(inputs: ReportInputs, series: PairSeries) -> list[WhatIf]:
    """Decide the run again with other tolerances and narrower windows.

    Parameters
    ----------
    inputs : ReportInputs
        The run.
    series : PairSeries
        The same run as arrays.

    Returns
    -------
    list of WhatIf
        By window, then by tolerance; empty without votes.

    Notes
    -----
    In ``--method geometry`` the whole rule is applied again (`geometry_vote`), with the run's
    registration. In ``--method paper`` a slice is accepted when more than half of its voters lie
    within the tolerance of the same vote; at 0 this is the paper's rule.
    """
    if not series.by_registration:
        return _paper(series)
    table = distance_table(inputs.votes, series)
    registration: Mapping[str, Any] = inputs.summary.get("registration") or {}
    if table is None or not np.isfinite(series.centre).all():
        return []
    compared = np.isfinite(next(iter(table.distances.values())))
    away = np.abs(table.candidates[None, :] - series.centre[:, None])
    widest = int(np.ceil(away[compared].max())) if compared.any() else 0
    evidence = Evidence(
        centre=series.centre,
        position=series.expected,
        position_error=np.nan_to_num(series.position_error, nan=0.0),
        slope=float(inputs.summary["geometry"]["slope"]),
        quality=float(registration.get("quality") or 0.0) if registration.get("n_starts") else 1.0,
        orientation_margin=0.0,
        objections=tuple(registration.get("objections") or ()),
    )
    skip = (inputs.summary.get("config") or {}).get("skip") or ()
    rows = []
    for window in sorted({w for w in (2, 4) if w < widest} | {widest}):
        near = {name: np.where(away <= window, d, np.nan) for name, d in table.distances.items()}
        for tolerance in TOLERANCES:
            if tolerance > window:
                continue
            decisions = geometry_vote(
                near, table.candidates, evidence, tolerance=tolerance,
                follow_path="path" not in skip,
            )  # fmt: skip
            accepted = np.array([decision.status == "auto" for decision in decisions])
            rows.append(_row(series, tolerance, window, accepted & ~series.empty))
    return rows


def _paper(series: PairSeries) -> list[WhatIf]:
    if len(series.votes) < 2:
        return []
    votes = np.stack(list(series.votes.values()))
    apart = np.abs(votes[:, None] - votes[None, :])
    return [
        _row(
            series,
            tolerance,
            None,
            (2 * (apart <= tolerance).sum(axis=0) > len(votes)).any(axis=0) & ~series.empty,
        )
        for tolerance in _PAPER_TOLERANCES
    ]


def _row(
    series: PairSeries, tolerance: float, window: int | None, accepted: NDArray[np.bool_]
) -> WhatIf:
    wrong = None
    if series.has_truth:
        off = np.abs(series.auto_position - series.truth) > 1
        wrong = int((off & accepted).sum())
    return WhatIf(tolerance, window, int((~accepted).sum()), wrong)


def windows(rows: Sequence[WhatIf]) -> list[int | None]:
    """Return the windows of a what-if table in order.

    Parameters
    ----------
    rows : sequence of WhatIf
        From `what_if`.

    Returns
    -------
    list of int or None
        Each once.
    """
    return list(dict.fromkeys(row.window for row in rows))

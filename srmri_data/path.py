"""A monotone path through a matrix of distances: slices stay in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from srmri_data.errors import InputError

_STEP_WEIGHT = 0.05
UNMATCHED_COST = 0.7
"""Cost of leaving a slice unmatched, on the scale of `relative_costs`: 1 is a candidate that is no
better than the typical one."""


class Path(NamedTuple):
    """What `monotone_path` found.

    Attributes
    ----------
    columns : (n,) ndarray of int
        Candidate of every row; where unmatched, the place between its neighbours.
    matched : (n,) ndarray of bool
        False where no candidate on the way was good enough.
    """

    columns: Int[np.ndarray, " n"]
    matched: Bool[np.ndarray, " n"]


def relative_costs(distances: Float64[np.ndarray, "n m"]) -> Float64[np.ndarray, "n m"]:
    """Scale each row to 0 at its best candidate and 1 at its median one.

    Parameters
    ----------
    distances : (n, m) ndarray
        NaN where a candidate was not compared.

    Returns
    -------
    (n, m) ndarray
        NaN where it was; 0 throughout a row whose candidates are all alike.
    """
    compared = np.isfinite(distances)
    filled = np.where(compared, distances, np.inf)
    best = filled.min(axis=1, keepdims=True)
    scaled = np.full(distances.shape, np.nan)
    for row, values in enumerate(distances):
        some = compared[row]
        if some.any():
            span = np.median(values[some]) - best[row, 0]
            scaled[row, some] = (values[some] - best[row, 0]) / span if span > 0 else 0.0
    return scaled


def monotone_path(
    costs: Float64[np.ndarray, "n m"], *, slope: float, unmatched_cost: float = UNMATCHED_COST
) -> Path:
    """Find the cheapest increasing path by dynamic programming.

    Parameters
    ----------
    costs : (n, m) ndarray
        Cost of every candidate, from `relative_costs`; NaN where it was not compared.
    slope : float
        Expected step from row to row, in candidates, > 0; other steps cost the square of
        their relative difference.
    unmatched_cost : float
        Cost of a row that takes none of its candidates.

    Returns
    -------
    Path
        A path that never goes back, and moves on by at least one candidate per row when `slope`
        is at least 1.

    Raises
    ------
    InputError
        If there are no candidates or `slope` is not positive.

    Notes
    -----
    An unmatched row still stands somewhere between its neighbours, so its cost is that of its place
    or `unmatched_cost`, whichever is less, and one table of states is enough.

    References
    ----------
    .. [1] H. Sakoe, S. Chiba, "Dynamic programming algorithm optimization for spoken word
       recognition", IEEE Trans. ASSP 26 (1978) 43-49.

    Examples
    --------
    >>> costs = np.array([[0.0, 0.4, 1.0, 1.0], [0.1, 1.0, 0.2, 1.0], [1.0, 1.0, 1.0, 0.0]])
    >>> monotone_path(costs, slope=1.5).columns
    array([0, 2, 3])
    """
    n, m = costs.shape
    if not n or not m or not slope > 0:
        raise InputError(f"no path through {n} rows of {m} candidates with a slope of {slope}")
    local = np.minimum(np.where(np.isfinite(costs), costs, np.inf), unmatched_cost)
    least = 1 if slope >= 1 else 0
    most = min(m - 1, max(least, int(np.ceil(3 * slope)) + 1))
    steps = np.arange(least, most + 1)
    step_costs = _STEP_WEIGHT * ((steps - slope) / max(slope, 1.0)) ** 2
    total = local[0].copy()
    came_from = np.zeros((n, m), dtype=np.intp)
    for row in range(1, n):
        best = np.full(m, np.inf)
        for step, cost in zip(steps, step_costs, strict=True):
            reached = np.full(m, np.inf)
            reached[step:] = total[: m - step] + cost
            better = reached < best
            best[better] = reached[better]
            came_from[row, better] = step
        total = best + local[row]
        if not np.isfinite(total).any():
            # More rows than candidates to give them: stay at the last one.
            total, came_from[row] = local[row].copy(), 0
    columns = np.empty(n, dtype=np.intp)
    columns[-1] = int(total.argmin())
    for row in range(n - 1, 0, -1):
        columns[row - 1] = columns[row] - came_from[row, columns[row]]
    chosen = costs[np.arange(n), columns]
    return Path(columns, np.isfinite(chosen) & (chosen < unmatched_cost))

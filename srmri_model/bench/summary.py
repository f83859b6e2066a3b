"""From cells to rows of tables: means over slices, then over subjects, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from srmri_model.bench.cells import Cell
from srmri_model.bench.methods import Family, Named
from srmri_model.bench.plan import Figures, Table

Quality = Literal["psnr", "ssim", "lpips"]
QUALITIES: tuple[Quality, ...] = ("psnr", "ssim", "lpips")

_RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)


class Spread(NamedTuple):
    """A figure over subjects.

    Attributes
    ----------
    mean : float
        Mean of the subjects' means over their slices.
    sd : float
        Standard deviation over subjects; NaN for one subject.
    by_subject : dict of str to float
        Each subject's mean.
    """

    mean: float
    sd: float
    by_subject: dict[str, float]


class Difference(NamedTuple):
    """A method less its best rival, subject by subject.

    Attributes
    ----------
    rival : str
        The best other method of the table.
    mean : float
        Mean difference.
    low, high : float
        95 % interval of a bootstrap over subjects; NaN for fewer than two.
    """

    rival: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A method in a table.

    Parameters
    ----------
    name, label : str
        What it is called, in options and in tables.
    family : str
        What kind it is.
    quality : dict
        A `Spread` by mask, kind of registration and measure.
    chi2, nfe, nbe, seconds, peak_mb : float
        Means over slices; NaN where nothing is known.
    differences : dict of str to Difference
        By measure, in the foreground as the method gives it.
    paper : Figures or None
        What the paper reports for it.
    slices : int
        Cells it stands on.
    failure : str
        Why cells are missing; empty if none is.
    """

    name: str
    label: str
    family: Family
    quality: dict[tuple[str, str, Quality], Spread]
    chi2: float
    nfe: float
    nbe: float
    seconds: float
    peak_mb: float
    differences: dict[Quality, Difference]
    paper: Figures | None
    slices: int
    failure: str

    def of(self, quality: Quality, mask: str = "foreground", registered: str = "no") -> Spread:
        """Look a figure up.

        Parameters
        ----------
        quality : str
            Which measure.
        mask, registered : str
            As in `Score`.

        Returns
        -------
        Spread
            NaN for a method without cells.
        """
        return self.quality.get((mask, registered, quality), Spread(math.nan, math.nan, {}))


def over_subjects(values: Sequence[tuple[str, float]]) -> Spread:
    """Average over slices, then over subjects.

    Parameters
    ----------
    values : sequence of (str, float)
        Subject and figure of every slice.

    Returns
    -------
    Spread
        NaN values are left out.

    Examples
    --------
    >>> over_subjects([("a", 1.0), ("a", 3.0), ("b", 4.0)])
    Spread(mean=3.0, sd=1.4142135623730951, by_subject={'a': 2.0, 'b': 4.0})
    """
    found: dict[str, list[float]] = {}
    for subject, value in values:
        if not math.isnan(value):
            found.setdefault(subject, []).append(value)
    means = {subject: float(np.mean(kept)) for subject, kept in found.items()}
    if not means:
        return Spread(math.nan, math.nan, {})
    table = np.array(list(means.values()))
    sd = float(np.std(table, ddof=1)) if table.size > 1 else math.nan
    return Spread(float(table.mean()), sd, means)


def paired_difference(first: Spread, second: Spread, rival: str, *, seed: int = 0) -> Difference:
    """Compare two methods on the subjects both have.

    Parameters
    ----------
    first, second : Spread
        The method and its rival.
    rival : str
        Name of the second.
    seed : int
        Of the resampling.

    Returns
    -------
    Difference
        With the interval of means of resampled subjects.

    References
    ----------
    B. Efron, R. Tibshirani, An introduction to the bootstrap, 1993, chapter 13: the percentile
    interval.

    Examples
    --------
    >>> a, b = (over_subjects([("m1", x), ("m2", x + 1)]) for x in (3.0, 1.0))
    >>> paired_difference(a, b, "b")
    Difference(rival='b', mean=2.0, low=2.0, high=2.0)
    """
    both = [name for name in first.by_subject if name in second.by_subject]
    gains = np.array([first.by_subject[name] - second.by_subject[name] for name in both])
    if not gains.size or not np.isfinite(gains).all():
        return Difference(rival, math.nan, math.nan, math.nan)
    if gains.size < 2:
        return Difference(rival, float(gains.mean()), math.nan, math.nan)
    random = np.random.default_rng(seed)
    means = gains[random.integers(0, gains.size, (_RESAMPLES, gains.size))].mean(axis=1)
    low, high = np.percentile(means, _INTERVAL)
    return Difference(rival, float(gains.mean()), float(low), float(high))


def better(quality: Quality, a: float, b: float) -> bool:
    """Tell whether a figure is better than another.

    Parameters
    ----------
    quality : str
        Which measure.
    a, b : float
        Two of its values.

    Returns
    -------
    bool
        Whether `a` is; a number is better than NaN.

    Examples
    --------
    >>> better("psnr", 30, 29), better("lpips", 0.3, 0.2)
    (True, False)
    """
    if math.isnan(b):
        return not math.isnan(a)
    return a < b if quality == "lpips" else a > b


def best_of(rows: Sequence[Row], quality: Quality) -> Row | None:
    """Return the best method, the ceiling apart.

    Parameters
    ----------
    rows : sequence of Row
        Some of a table.
    quality : str
        By which measure, in the foreground as methods give it.

    Returns
    -------
    Row or None
        None where no row has a figure.
    """
    best = None
    for row in rows:
        value = row.of(quality).mean
        if row.family == "ceiling" or math.isnan(value):
            continue
        if best is None or better(quality, value, best.of(quality).mean):
            best = row
    return best


def rows_of(
    table: Table,
    cells: Mapping[str, Sequence[Cell]],
    named: Mapping[str, Named],
    failures: Mapping[str, str],
) -> list[Row]:
    """Fill a table.

    Parameters
    ----------
    table : Table
        Which.
    cells : mapping of str to sequence of Cell
        Cells by method.
    named : mapping of str to Named
        Every method.
    failures : mapping of str to str
        Why cells are missing, by method.

    Returns
    -------
    list of Row
        For every method that was asked for, in the table's order.
    """
    rows = [
        _row(name, table, cells.get(name, ()), named[name], failures.get(name, ""))
        for name in table.methods
        if name in cells or name in failures
    ]
    return [_compared(row, rows) for row in rows]


def _row(name: str, table: Table, cells: Sequence[Cell], named: Named, failure: str) -> Row:
    collected: dict[tuple[str, str, Quality], list[tuple[str, float]]] = {}
    for cell in cells:
        for score in cell.scores:
            for quality in QUALITIES:
                key = (score.mask, score.registered, quality)
                value = float(getattr(score, quality))
                collected.setdefault(key, []).append((cell.subject, value))
    peaks = [cell.peak_mb for cell in cells if cell.peak_mb is not None]
    return Row(
        name=name,
        label=named.label,
        family=named.family,
        quality={key: over_subjects(values) for key, values in collected.items()},
        chi2=_mean([cell.chi2 for cell in cells]),
        nfe=_mean([cell.nfe for cell in cells]),
        nbe=_mean([cell.nbe for cell in cells]),
        seconds=_mean([cell.seconds for cell in cells]),
        peak_mb=max(peaks, default=math.nan),
        differences={},
        paper=table.paper.get(name),
        slices=len(cells),
        failure=failure,
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _compared(row: Row, rows: Sequence[Row]) -> Row:
    differences = {}
    for quality in QUALITIES:
        rival = best_of([other for other in rows if other.name != row.name], quality)
        if rival is not None and not math.isnan(row.of(quality).mean):
            differences[quality] = paired_difference(
                row.of(quality), rival.of(quality), rival.label
            )
    return replace(row, differences=differences)

"""The monotone path: the cheapest of all, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srmri_data.errors import InputError
from srmri_data.path import _STEP_WEIGHT, UNMATCHED_COST, monotone_path, relative_costs


def cost_of(columns, costs, slope):
    rows = np.minimum(costs[np.arange(len(columns)), columns], UNMATCHED_COST)
    steps = np.diff(columns)
    return rows.sum() + (_STEP_WEIGHT * ((steps - slope) / max(slope, 1)) ** 2).sum()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_no_other_increasing_path_is_cheaper(seed, slope):
    costs = np.random.default_rng(seed).random((4, 6))
    found = monotone_path(costs, slope=slope)
    least = 1 if slope >= 1 else 0
    others = [
        columns
        for columns in itertools.product(range(6), repeat=4)
        if all(b - a >= least for a, b in itertools.pairwise(columns))
    ]
    assert (np.diff(found.columns) >= least).all()
    assert cost_of(found.columns, costs, slope) == pytest.approx(
        min(cost_of(np.array(columns), costs, slope) for columns in others)
    )


def test_a_slice_like_none_of_its_candidates_is_unmatched():
    costs = np.abs(np.arange(12)[None] - 2.0 * np.arange(6)[:, None]) / 3
    costs[3] = 1.0
    found = monotone_path(costs, slope=2.0)
    assert found.matched.tolist() == [True, True, True, False, True, True]
    assert found.columns[3] == 6


def test_what_was_not_compared_is_not_taken():
    costs = np.full((3, 9), np.nan)
    for row, at in enumerate((1, 3, 5)):
        costs[row, at : at + 2] = 0.0
    found = monotone_path(costs, slope=2.0)
    assert np.isfinite(costs[np.arange(3), found.columns]).all()


def test_more_slices_than_candidates_is_no_crash():
    found = monotone_path(np.zeros((5, 3)), slope=1.0)
    assert (np.diff(found.columns) >= 0).all()


def test_costs_are_zero_at_the_best_and_one_at_the_median():
    costs = relative_costs(np.array([[3.0, 1.0, 2.0, np.nan], [5.0, 5.0, 5.0, np.nan]]))
    assert costs[0, :3].tolist() == [2.0, 0.0, 1.0]
    assert costs[1, :3].tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(costs[:, 3]).all()


@pytest.mark.parametrize(("shape", "slope"), [((0, 4), 1.0), ((3, 0), 1.0), ((3, 4), 0.0)])
def test_nothing_to_walk_through_is_refused(shape, slope):
    with pytest.raises(InputError, match="no path"):
        monotone_path(np.zeros(shape), slope=slope)

"""Each reviewer's figures, worked out by hand."""

from __future__ import annotations

import uuid

import pytest

from srmri_data.decisions import Event
from srmri_data.reviewers import reviewer_figures


def log(*entries):
    """Events from (reviewer, lr_slice, choice, changes)."""
    return [
        Event(
            id=n, submission_id=str(uuid.UUID(int=n)), kind="decision", lr_slice=lr_slice,
            choice=choice, reviewer=reviewer, at="", revision=n, undoes=None, confidence=None,
            note="", shown=(), tool_version="", adjudicates=changes.get("adjudicates", False),
            visible_ms=changes.get("visible_ms", 0), views=changes.get("views", ()),
            trial=changes.get("trial", ""), truth=changes.get("truth"),
        )
        for n, (reviewer, lr_slice, choice, changes) in enumerate(entries, 1)
    ]  # fmt: skip


def one(*entries, name="ann"):
    (found,) = [f for f in reviewer_figures(log(*entries), 25.0) if f.reviewer == name]
    return found


def catch(choice, truth, lr_slice):
    return ("ann", lr_slice, choice, {"trial": "catch", "truth": truth})


def test_catch_trials_give_exact_rate_and_mean_error():
    found = one(catch(40, 40, 1), catch(43, 40, 2), catch("unsure", 40, 3), catch(39, 40, 4))
    # Exact of four; the error of the three that named a slice.
    assert (found.catch_trials, found.exact) == (4, 0.25)
    assert found.mean_error_slices == pytest.approx(4 / 3)
    assert found.mean_error_um == pytest.approx(100 / 3)
    assert found.answered == 0


def test_repeats_are_compared_with_the_first_answer():
    repeat = {"trial": "repeat"}
    found = one(
        ("ann", 1, 40, {}), ("ann", 1, 40, repeat),
        ("ann", 2, 42, {}), ("ann", 2, 45, repeat),
        ("ann", 3, "none", {}), ("ann", 3, "none", repeat),
        # The first answer is missing, taken back, or nobody's eyesight.
        ("ann", 4, 40, repeat),
        ("ann", 5, 40, {}), ("ann", 5, None, {}), ("ann", 5, 41, repeat),
        ("ann", 6, 40, {"views": ("bulk",)}), ("ann", 6, 41, repeat),
    )  # fmt: skip
    assert (found.repeats, found.same_again) == (3, pytest.approx(2 / 3))
    assert found.retest_error_slices == 1.5
    assert (found.answered, found.bulk) == (4, 1)


def test_agreement_is_with_the_others_and_never_with_oneself():
    entries = (
        ("ann", 1, 40, {}), ("bob", 1, 40, {}), ("eve", 1, 41, {}),
        ("ann", 2, "none", {}), ("bob", 2, 44, {}),
        # Not independent, and nobody's eyesight.
        ("ann", 3, 50, {}), ("pi", 3, 50, {"adjudicates": True}),
        ("ann", 4, 50, {}), ("bob", 4, 50, {"views": ("bulk",)}),
        ("bob", 9, 1, {"trial": "catch", "truth": 1}), ("ann", 9, 1, {}),
    )  # fmt: skip
    found = {f.reviewer: f for f in reviewer_figures(log(*entries), 25.0)}
    assert set(found) == {"ann", "bob", "eve"}
    ann = found["ann"]
    assert (ann.shared, ann.agreement, ann.within_1) == (
        3, pytest.approx(1 / 3), pytest.approx(2 / 3),
    )  # fmt: skip
    assert (found["eve"].shared, found["eve"].agreement, found["eve"].within_1) == (2, 0, 1)


def test_present_answers_count():
    found = one(catch(40, 41, 1), catch(41, 41, 1), ("ann", 2, 40, {}), ("ann", 2, None, {}))
    assert (found.exact, found.answered) == (1.0, 0)
    # Who adjudicates what they reviewed keeps their own answer.
    found = one(
        ("ann", 1, 40, {}), ("bob", 1, 41, {}), ("ann", 1, 41, {"adjudicates": True})
    )  # fmt: skip
    assert found.agreement == 0


def test_nothing_to_count_is_not_zero():
    found = one(("ann", 1, 40, {"visible_ms": 1500}), ("ann", 2, 40, {"visible_ms": 2500}))
    assert (found.exact, found.mean_error_um, found.same_again, found.agreement) == (None,) * 4
    assert found.seconds == 2.0
    assert reviewer_figures([], 25.0) == []

"""What reviewers are asked: in which order, with which trials among it."""

from __future__ import annotations

import pytest

from srmri_data.decisions import AutoDecision
from srmri_data.review_plan import (
    BLOCK,
    Question,
    catch_picks,
    clear_choice,
    curve_position,
    numbered,
    open_bits,
    plan_questions,
    review_order,
    shuffled,
)

RANGE = (0, 200)


def auto(votes=(40, 40, 40), *, geometry=None, status="review", empty=False, position=None):
    middle = sorted(votes)[len(votes) // 2]
    return AutoDecision(
        hr_slice=middle,
        hr_position=float(middle if position is None else position),
        geometry=float(middle if geometry is None else geometry),
        status=status,
        reason="",
        votes=dict(zip(("pca", "lpips", "ssim"), votes, strict=False)),
        n_votes=1,
        spread=max(votes) - min(votes),
        margin=0.1,
        confidence=0.5,
        empty=empty,
    )


def volume(queued=range(20, 50), n=60):
    """A run whose HR slice is 2 LR + 3 where the geometry says 2 LR."""
    return {
        lr: auto(
            (2 * lr + 2, 2 * lr + 3, 2 * lr + 4) if lr in queued else (2 * lr + 3,) * 3,
            geometry=2 * lr,
            status="review" if lr in queued else "auto",
        )
        for lr in range(5, n)
    }


def plan(items, **options):
    return plan_questions(items, hr_range=RANGE, **{"seed": 1, "reviewer": "ann", **options})


# -- order ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "geometry", "bits"),
    [((40, 40, 40), 40, 0), ((40, 41, 41), 40.4, 1), ((40, 40), 43, 2), ((10, 25, 11), 11, 4)],
)
def test_open_bits_count_the_slices_between_the_picks(votes, geometry, bits):
    assert open_bits(auto(votes, geometry=geometry)) == bits


def test_the_most_informative_block_comes_first_and_neighbours_stay_together():
    items = {lr: auto((2 * lr, 2 * lr + 1)) for lr in (3, 4, 5, 20, 22, 40, 60, 61)}
    items[4] = auto((8, 60))
    items[40] = auto((80, 100))
    items[60], items[61] = auto((1, 100), empty=True), auto((1, 100), empty=True)
    assert review_order(items, list(items)) == [[40], [3, 4, 5], [20, 22], [60, 61]]
    assert review_order(items, []) == []


def test_a_long_stretch_is_cut_into_blocks_that_cover_it():
    items = {lr: auto((2 * lr, 2 * lr + lr % 7)) for lr in range(100)}
    blocks = review_order(items, list(items))
    assert max(map(len, blocks)) == BLOCK
    assert sorted(lr for block in blocks for lr in block) == list(range(100))
    assert all(block == list(range(block[0], block[-1] + 1)) for block in blocks)
    bits = [sum(open_bits(items[lr]) for lr in block) / len(block) for block in blocks]
    assert bits == sorted(bits, reverse=True)


# -- what is clear -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "geometry", "choice"),
    [
        ((40, 41), 40.2, 40),
        ((40, 41), 41.4, 41),
        ((40, 41, 42), 41.9, 41),
        # One slice beside the geometry, and no further.
        ((40, 41, 42), 42.0, 41),
        ((40, 41, 42), 42.1, None),
        ((40, 42), 41.0, None),
        ((40, 40, 42), 40.0, None),
        ((40,), 40.0, None),
    ],
)
def test_clear_is_one_slice_apart_and_at_the_geometry(votes, geometry, choice):
    assert clear_choice(auto(votes, geometry=geometry)) == choice


def test_what_is_empty_or_accepted_is_never_clear():
    assert clear_choice(auto((40, 41))) is not None
    assert clear_choice(auto((40, 41), empty=True)) is None
    assert clear_choice(auto((40, 41), status="auto")) is None


# -- trials --------------------------------------------------------------------------------


def test_without_shares_the_plan_is_the_order_of_review():
    items = volume()
    order = [lr for block in review_order(items, range(20, 50)) for lr in block]
    assert plan(items) == [Question(lr) for lr in order]


@pytest.mark.parametrize(("catch", "repeat"), [(0.1, 0.05), (0.5, 0.3), (1, 0), (0, 1)])
def test_trials_are_added_and_nothing_is_lost(catch, repeat):
    items = volume()
    questions = plan(items, catch=catch, repeat=repeat)
    counts = {kind: [q for q in questions if q.trial == kind] for kind in ("", "catch", "repeat")}
    assert sorted(q.lr_slice for q in counts[""]) == list(range(20, 50))
    assert len(counts["catch"]) == min(-(-30 * catch // 1), 25)
    assert len(counts["repeat"]) == min(-(-30 * repeat // 1), 20)
    assert len(set(questions)) == len(questions)


def test_repeats_come_late_and_catches_stand_where_nothing_was_queued():
    items = volume()
    for reviewer in "abcdefgh":
        questions = plan(items, reviewer=reviewer, catch=0.3, repeat=0.3)
        for place, question in enumerate(questions):
            if question.trial == "repeat":
                original = questions.index(Question(question.lr_slice))
                assert place - original > 10
            if question.trial == "catch":
                assert items[question.lr_slice].status == "auto"
                # The curve is at 2 LR + 3; the truth is near it, and often beside it.
                assert abs(question.truth - (2 * question.lr_slice + 3)) <= 2
    truths = [q.truth - 2 * q.lr_slice - 3 for q in plan(items, catch=1) if q.trial == "catch"]
    assert len(set(truths)) == 5


def test_trials_do_not_cut_through_neighbours():
    questions = plan(volume(), catch=1, repeat=1)
    blocks, last = 0, None
    for question in questions:
        if question.trial:
            last = None
        else:
            blocks += last is None or question.lr_slice != last + 1
            last = question.lr_slice
    assert blocks == len(review_order(volume(), range(20, 50)))


def test_plans_repeat_grow_and_differ_between_reviewers():
    items = volume()
    small, large = (plan(items, catch=c, repeat=c) for c in (0.1, 0.4))
    assert small == plan(items, catch=0.1, repeat=0.1)
    assert set(small) < set(large)
    assert small != plan(items, catch=0.1, repeat=0.1, reviewer="bob")
    assert small != plan(items, catch=0.1, repeat=0.1, seed=2)


@pytest.mark.parametrize("queued", [(), (20,), (20, 21), range(5, 60)])
def test_short_and_full_queues(queued):
    questions = plan(volume(queued), catch=0.1, repeat=0.05)
    trials = sorted(q.trial for q in questions if q.trial)
    n = len(queued)
    assert trials == ["catch"] * -(-n // 10) + ["repeat"] * -(-n // 20)
    if n == 2:
        assert questions.index(Question(20, "repeat")) > questions.index(Question(20))


def test_near_empty_slices_are_asked_once_and_come_last():
    items = volume() | {lr: auto((1, 90), empty=True) for lr in range(60, 64)}
    questions = plan(items, catch=1, repeat=1)
    assert questions[-4:] == [Question(lr) for lr in range(60, 64)]


def test_where_all_is_near_empty_trials_are_too():
    items = volume(queued=()) | {lr: auto((1, 90), empty=True) for lr in range(60, 72)}
    trials = [question for question in plan(items, catch=0.1, repeat=0.05) if question.trial]
    assert sorted(question.trial for question in trials) == ["catch", "catch", "repeat"]
    assert all(items[question.lr_slice].empty for question in trials)


def test_the_curve_follows_the_accepted_pairs():
    assert curve_position(volume(), 30) == 63
    assert curve_position({3: auto((6, 7))}, 3) is None


def test_candidates_of_a_catch_trial_hold_the_truth_and_look_like_picks():
    items = volume()
    for question in plan(items, catch=1):
        if question.trial == "catch":
            picks = catch_picks(items, question, hr_range=RANGE, seed=1, reviewer="ann")
            assert question.truth in picks
            assert len(picks) == 4
            assert max(picks) - min(picks) <= 4
    with pytest.raises(ValueError, match="no truth"):
        catch_picks(items, Question(20), hr_range=RANGE, seed=1, reviewer="ann")


# -- orders and numbers --------------------------------------------------------------------


def test_the_order_of_candidates_is_that_of_reviewer_question_and_seed():
    def order(seed=1, reviewer="ann", lr_slice=20, trial=""):
        question = Question(lr_slice, trial)
        return shuffled(range(9), seed=seed, reviewer=reviewer, question=question)

    orders = [order(), order(2), order(reviewer="bob"), order(trial="repeat"), order(lr_slice=21)]
    assert order() == orders[0]
    assert len({tuple(found) for found in orders}) == 5
    assert all(sorted(found) == list(range(9)) for found in orders)


def test_numbers_tell_nothing_and_stay():
    questions = plan(volume(), catch=0.3, repeat=0.3)
    found = numbered(questions, seed=1, reviewer="ann")
    assert list(found.values()) == questions
    assert list(found) == list(numbered(questions, seed=1, reviewer="ann"))
    assert list(found) != sorted(found)
    assert all(0 <= number < 2**31 for number in found)
    assert not set(found) & set(numbered(questions, seed=1, reviewer="bob"))
    assert not set(found) & set(numbered(questions, seed=2, reviewer="ann"))

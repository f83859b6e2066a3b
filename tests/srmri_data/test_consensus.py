from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srmri_data.confidence import FEATURES, WEIGHTS, confidence, confidence_features
from srmri_data.consensus import Evidence, geometry_vote, paper_vote, vote_table
from srmri_data.errors import InputError, UsageError

CANDIDATES = np.arange(30, 60)


def matrix(*choices: int) -> np.ndarray:
    """Return distances that fall towards one HR slice per row."""
    return np.abs(CANDIDATES - np.array(choices)[:, None]).astype(np.float32)


def vote(**choices: int):
    [decision] = paper_vote({k: matrix(v) for k, v in choices.items()}, CANDIDATES)
    return decision


@pytest.mark.parametrize(
    ("choices", "hr_slice", "n_votes", "spread", "status", "reason"),
    [
        ({"pca": 40, "lpips": 40, "ssim": 40}, 40, 3, 0, "auto", "PCA, LPIPS and SSIM agree"),
        ({"pca": 41, "lpips": 40, "ssim": 40}, 40, 2, 1, "auto",
         "LPIPS and SSIM agree; PCA says 41"),
        ({"pca": 40, "lpips": 58, "ssim": 40}, 40, 2, 18, "auto",
         "PCA and SSIM agree; LPIPS says 58"),
        ({"pca": 52, "lpips": 38, "ssim": 41}, 41, 1, 14, "review",
         "all voters differ (52, 38, 41)"),
        ({"pca": 40, "ssim": 40}, 40, 2, 0, "auto", "PCA and SSIM agree"),
        ({"pca": 44, "ssim": 40}, 40, 1, 4, "review", "all voters differ (44, 40)"),
        ({"lpips": 40}, 40, 1, 0, "auto", "LPIPS is the only voter"),
        ({"a": 40, "b": 40, "c": 50, "d": 50}, 40, 2, 10, "review", "tied vote (40, 40, 50, 50)"),
    ],
)  # fmt: skip
def test_the_most_votes_win_and_no_majority_is_reviewed(
    choices, hr_slice, n_votes, spread, status, reason
):
    decision = vote(**choices)
    assert decision.hr_slice == hr_slice
    assert decision.hr_position == float(hr_slice)
    assert decision.votes == choices
    assert decision.n_votes == n_votes
    assert decision.spread == spread
    assert decision.confidence == pytest.approx(n_votes / len(choices))
    assert decision.status == status
    assert decision.reason == reason


def test_every_low_res_slice_gets_its_own_decision():
    decisions = paper_vote(
        {"pca": matrix(31, 45), "lpips": matrix(31, 47), "ssim": matrix(33, 49)}, CANDIDATES
    )
    assert [d.hr_slice for d in decisions] == [31, 47]
    assert [d.status for d in decisions] == ["auto", "review"]


def test_a_tie_inside_one_voter_goes_to_the_first_candidate_and_has_no_margin():
    distances = np.float32([[3, 1, 1, 2, 5]])
    [decision] = paper_vote({"ssim": distances}, np.array([4, 6, 8, 10, 12]))
    assert decision.hr_slice == 6
    assert decision.margin == 0


def test_the_margin_is_the_smallest_of_the_agreeing_voters():
    candidates = np.arange(5)
    clear = np.float32([[0, 8, 10, 12, 14]])
    close = np.float32([[0, 1, 10, 12, 14]])
    other = np.float32([[10, 10, 10, 9.9, 10]])
    assert paper_vote({"pca": clear}, candidates)[0].margin == pytest.approx(0.8)
    [decision] = paper_vote({"pca": clear, "lpips": close, "ssim": other}, candidates)
    assert decision.n_votes == 2
    assert decision.margin == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("row", "margin"), [([5.0], 0.0), ([5.0, 5.0, 5.0], 0.0), ([1.0, 2.0], 1.0)]
)
def test_the_margin_where_there_is_little_to_compare(row, margin):
    [decision] = paper_vote({"pca": np.float32([row])}, np.arange(len(row)))
    assert decision.hr_slice == 0
    assert decision.margin == margin


@given(st.lists(st.integers(30, 59), min_size=1, max_size=3), st.randoms())
def test_the_order_of_the_voters_changes_nothing(choices, shuffler):
    distances = {
        name: matrix(c) for name, c in zip(("pca", "lpips", "ssim"), choices, strict=False)
    }
    names = list(distances)
    shuffler.shuffle(names)
    [one] = paper_vote(distances, CANDIDATES)
    [other] = paper_vote({name: distances[name] for name in names}, CANDIDATES)
    assert (one.hr_slice, one.status, one.n_votes, one.margin, one.spread) == (
        other.hr_slice, other.status, other.n_votes, other.margin, other.spread
    )  # fmt: skip
    assert one.hr_slice in choices
    assert (one.status == "auto") == (len(choices) == 1 or one.n_votes >= 2)
    assert 0 <= one.margin <= 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_distance_that_is_not_finite_is_an_error(bad):
    distances = matrix(40, 41)
    distances[1, 4] = bad
    with pytest.raises(InputError, match="lpips: the distance of LR row 1 to HR slice 34"):
        paper_vote({"pca": matrix(40, 41), "lpips": distances}, CANDIDATES)


def test_distances_that_do_not_belong_together_are_an_error():
    with pytest.raises(UsageError, match="no voter"):
        paper_vote({}, CANDIDATES)
    with pytest.raises(InputError, match="ssim: distances of shape"):
        paper_vote({"pca": matrix(40, 41), "ssim": matrix(40)}, CANDIDATES)
    with pytest.raises(InputError, match="HR candidates"):
        paper_vote({"pca": matrix(40)}, CANDIDATES[:-1])
    with pytest.raises(InputError, match="increasing"):
        paper_vote({"pca": matrix(40)}, CANDIDATES[::-1])
    with pytest.raises(InputError, match="LR slice numbers"):
        vote_table({"pca": matrix(40)}, np.array([1, 2]), CANDIDATES)


def test_the_table_has_every_distance_once():
    distances = {"pca": matrix(33, 40), "ssim": matrix(34, 41) / 7}
    table = vote_table(distances, np.array([15, 16]), CANDIDATES)
    assert {name: column.dtype.kind + str(column.dtype.itemsize) for name, column in table.items()
            if name != "voter"} == {
        "lr_slice": "i4", "hr_slice": "i4", "distance": "f4", "rank": "i4"
    }  # fmt: skip
    assert {len(column) for column in table.values()} == {2 * 2 * 30}
    for voter, name in enumerate(distances):
        for row, lr_slice in enumerate([15, 16]):
            rows = (table["voter"] == name) & (table["lr_slice"] == lr_slice)
            np.testing.assert_array_equal(table["hr_slice"][rows], CANDIDATES)
            np.testing.assert_array_equal(table["distance"][rows], distances[name][row])
            ranks = table["rank"][rows]
            assert sorted(ranks) == list(range(1, 31))
            assert CANDIDATES[ranks.argmin()] == [33, 40, 34, 41][2 * voter + row]


def test_the_ranks_agree_with_the_vote_also_in_a_tie():
    tied = np.float32([[2, 1, 1]])
    table = vote_table({"pca": tied}, np.array([0]), np.array([5, 6, 7]))
    assert table["rank"].tolist() == [3, 1, 2]
    assert paper_vote({"pca": tied}, np.array([5, 6, 7]))[0].hr_slice == 6


N_ROWS = 8
ROWS = np.arange(N_ROWS)


def evidence(**changes) -> Evidence:
    """Return a sound registration of slices 34.5, 36.5 …"""
    place = 34.5 + 2.0 * ROWS
    facts = {
        "centre": place,
        "position": place,
        "position_error": np.full(N_ROWS, 0.02),
        "slope": 2.0,
        "quality": 0.98,
        "orientation_margin": 0.05,
    }
    return Evidence(**(facts | changes))


def places(offsets=0.0) -> np.ndarray:
    """Return distances with their minimum at the registration's place plus an offset."""
    at = 34.6 + 2.0 * ROWS + np.broadcast_to(offsets, N_ROWS)
    return np.abs(CANDIDATES - at[:, None]).astype(np.float32)


def one_off(row: int, by: float) -> np.ndarray:
    return places(np.where(row == ROWS, by, 0.0))


def test_agreeing_voters_confirm_the_registration_between_slices():
    decisions = geometry_vote(
        {"pca": places(), "lpips": places(), "ssim": places()}, CANDIDATES, evidence()
    )
    assert {d.status for d in decisions} == {"auto"}
    assert [d.hr_position for d in decisions] == (34.5 + 2.0 * ROWS).tolist()
    assert decisions[0].reason == "PCA, LPIPS and SSIM agree with the registration"
    assert {d.n_votes for d in decisions} == {3}


def test_one_dissenter_is_named_and_two_send_the_slice_to_review():
    votes = {"pca": one_off(3, 5), "lpips": places(), "ssim": places()}
    decision = geometry_vote(votes, CANDIDATES, evidence())[3]
    assert decision.status == "auto"
    assert decision.reason == "LPIPS and SSIM agree with the registration; PCA says 46"
    votes["lpips"] = one_off(3, 4)
    decisions = geometry_vote(votes, CANDIDATES, evidence())
    assert [d.status for d in decisions] == ["review" if row == 3 else "auto" for row in ROWS]
    assert decisions[3].hr_position == 40.5
    assert decisions[3].reason.startswith("only SSIM agrees with the registration at 40.5 (PCA 46")


@pytest.mark.parametrize(("tolerance", "status"), [(0.5, "review"), (1.0, "review"), (2.0, "auto")])
def test_the_tolerance_is_in_slices(tolerance, status):
    # Votes 36 where the registration says 34.5: a slice and a half.
    votes = {"pca": one_off(0, 1.5), "ssim": one_off(0, 1.5)}
    decision = geometry_vote(votes, CANDIDATES, evidence(), tolerance=tolerance)[0]
    assert decision.status == status


def test_a_tilted_plane_reports_votes_where_the_position_is():
    tilted = evidence(position=evidence().centre + 3.2)
    decision = geometry_vote({"pca": places(), "ssim": places()}, CANDIDATES, tilted)[2]
    assert decision.status == "auto"
    assert decision.hr_position == pytest.approx(41.7)
    assert all(abs(vote - decision.hr_position) <= 1 for vote in decision.votes.values())


def test_an_objection_to_the_registration_queues_everything():
    objected = evidence(objections=("LR is mirrored",))
    decisions = geometry_vote({"pca": places(), "ssim": places()}, CANDIDATES, objected)
    assert {d.status for d in decisions} == {"review"}
    assert {d.reason for d in decisions} == {"LR is mirrored"}


def test_an_uncertain_registration_is_not_accepted():
    unsure = evidence(position_error=np.where(ROWS == 1, 1.4, 0.02))
    decisions = geometry_vote({"pca": places(), "ssim": places()}, CANDIDATES, unsure)
    assert [d.status for d in decisions].count("review") == 1
    assert "uncertain by 1.4 slices" in decisions[1].reason


def test_a_slice_outside_the_candidates_is_queued_with_the_reason():
    votes = places()
    votes[0] = np.nan
    decision = geometry_vote({"pca": votes, "ssim": votes}, CANDIDATES, evidence())[0]
    assert decision.status == "review"
    assert "outside the HR slices compared" in decision.reason
    assert decision.votes == {}


def test_a_slice_that_nothing_resembles_is_off_the_path():
    flat = places()
    # All candidates alike but for one far away: the vote there is no majority for the place.
    flat[4] = 1.0
    flat[4, 0] = 0.9
    decision = geometry_vote({"pca": flat, "ssim": flat}, CANDIDATES, evidence())[4]
    assert decision.status == "review"


def test_banded_distances_leave_no_votes_where_nothing_was_compared():
    distances = places()
    distances[:, 10:] = np.where(np.abs(distances[:, 10:]) > 6, np.nan, distances[:, 10:])
    table = vote_table({"ssim": distances}, ROWS, CANDIDATES)
    assert len(table["distance"]) == np.isfinite(distances).sum()
    first = table["lr_slice"] == 0
    assert sorted(table["rank"][first]) == list(range(1, first.sum() + 1))


def test_infinite_distances_are_refused():
    bad = places()
    bad[2, 3] = np.inf
    with pytest.raises(InputError, match="LR row 2"):
        geometry_vote({"pca": bad}, CANDIDATES, evidence())
    with pytest.raises(UsageError, match="tolerance"):
        geometry_vote({"pca": places()}, CANDIDATES, evidence(), tolerance=-1)


GOOD = {
    "agreeing": 1.0, "on_path": True, "quality": 0.98, "orientation_margin": 0.1,
    "position_error": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    "worse",
    [
        {"agreeing": 0.0, "on_path": False},
        {"on_path": False, "agreeing": 1 / 3},
        {"quality": 0.6},
        {"orientation_margin": -0.1},
    ],
)
def test_confidence_falls_with_what_speaks_against_a_pair(worse):
    good = confidence(confidence_features(**GOOD))
    assert 0.95 < good <= 1
    assert confidence(confidence_features(**(GOOD | worse))) < good - 0.2


def test_every_feature_has_a_weight():
    assert confidence_features(**GOOD).shape == (len(FEATURES),) == (len(WEIGHTS),)

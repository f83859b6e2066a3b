"""An export follows from the matcher's columns and the log alone, and says what was decided."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from review_run import SPACING_UM, write_run

from srmri_data import review_merge
from srmri_data.errors import UsageError
from srmri_data.review_merge import (
    decide_at_terminal,
    export_reviews,
    list_reviews,
    parse_decision,
    tool_version,
)
from srmri_data.run_folder import PAIRS_DTYPES, read_pairs, write_pairs
from srmri_data.safe_io import read_json
from srmri_data.store import ReviewStore, UnknownItemError

FILES = ("pairs.csv", "pairs.parquet", "summary.json", "reviews.jsonl")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def content(run, *names):
    return [(run / name).read_bytes() for name in names or FILES]


def rows(run):
    return {row.lr_slice: row for row in read_pairs(run).itertuples(index=False)}


def undo(run, lr_slice, reviewer):
    store = ReviewStore.open(run)
    state = store.item(lr_slice, reviewer)
    store.undo(
        reviewer, lr_slice, expected_revision=state.revision,
        submission_id="00000000-0000-4000-8000-000000000001",
    )  # fmt: skip


def test_without_decisions_nothing_changes_but_the_counts(run):
    before = content(run, "pairs.csv", "pairs.parquet")
    counts = export_reviews(run)
    assert counts == {"events": 0, "n_pairs": 3, "queued": 3, "decided": 0, "rejected": 0}
    assert content(run, "pairs.csv", "pairs.parquet") == before
    assert (run / "reviews.jsonl").read_bytes() == b""
    summary = read_json(run / "summary.json")
    assert (summary["decided"], summary["rejected"], summary["seconds"]) == (0, 0, 1.5)


def test_decided_and_rejected_rows_follow_the_reviewers(run):
    matcher = rows(run)
    decide_at_terminal(run, "10=23", reviewer="Ann", confidence=3)
    decide_at_terminal(run, "10=23", reviewer="Bob", confidence=2)
    decide_at_terminal(run, "11=none", reviewer="Ann")
    decide_at_terminal(run, "12=unsure", reviewer="Ann")
    counts = export_reviews(run)
    assert counts == {"events": 4, "n_pairs": 3, "queued": 1, "decided": 1, "rejected": 1}
    assert counts.items() <= (read_json(run / "summary.json") | {"events": 4}).items()
    merged = rows(run)
    decided = merged[10]
    assert (decided.status, decided.reason) == ("decided", "2 reviewers chose 23")
    assert (decided.hr_slice, decided.hr_position, decided.n_votes) == (23, 23.0, 0)
    assert decided.offset_um == pytest.approx(matcher[10].offset_um + 3 * SPACING_UM)
    assert decided.error_slices == pytest.approx(23 - 20.5)
    assert (decided.reviewed_by_n, decided.review_confidence) == (2, 2)
    # What the matcher said is still there.
    assert (decided.auto_hr_slice, decided.auto_hr_position) == (20, 20.0)
    assert (decided.auto_status, decided.auto_reason) == ("review", "all voters differ")
    assert (decided.spread, decided.margin, decided.confidence) == (1, 0.1, 0.5)
    rejected = merged[11]
    assert (rejected.status, rejected.hr_slice, rejected.reviewed_by_n) == ("rejected", 22, 1)
    assert rejected.review_confidence is pd.NA
    unsure = merged[12]
    assert (unsure.status, unsure.reason) == ("review", "1 reviewer could not tell")
    assert unsure.hr_position == matcher[12].hr_position
    assert [merged[n] for n in (13, 14, 15)] == [matcher[n] for n in (13, 14, 15)]
    table = pd.read_csv(run / "pairs.csv")
    assert list(table) == list(PAIRS_DTYPES)
    np.testing.assert_allclose(table["offset_um"], read_pairs(run)["offset_um"], atol=1e-6)
    assert table["status"].tolist() == ["decided", "rejected", "review"] + ["auto"] * 3


def test_votes_for_the_decided_slice_are_counted_anew(run):
    decide_at_terminal(run, "10=21", reviewer="Ann")
    export_reviews(run)
    assert (rows(run)[10].vote_ssim, rows(run)[10].n_votes) == (21, 1)


def test_confirming_the_matcher_keeps_its_position_between_slices(run):
    before = rows(run)[14]
    decide_at_terminal(run, "14=28", reviewer="Ann")
    decide_at_terminal(run, "15=31", reviewer="Ann")
    export_reviews(run)
    confirmed, moved = rows(run)[14], rows(run)[15]
    assert (confirmed.status, confirmed.hr_position) == ("decided", 28.25)
    assert (confirmed.offset_um, confirmed.n_votes) == (before.offset_um, before.n_votes)
    assert (moved.hr_position, moved.offset_um) == (31.0, moved.auto_offset_um + 0.75 * SPACING_UM)


def test_exporting_again_gives_the_same_bytes(run):
    decide_at_terminal(run, "10=23", reviewer="Ann", note="µ “ok”\nyes")
    export_reviews(run)
    first = content(run)
    export_reviews(run)
    assert content(run) == first


def test_a_decision_taken_back_leaves_no_trace_in_the_tables(run):
    untouched = content(run, "pairs.csv", "pairs.parquet")
    decide_at_terminal(run, "10=23", reviewer="Ann")
    decide_at_terminal(run, "15=none", reviewer="Ann")
    export_reviews(run)
    assert content(run, "pairs.csv", "pairs.parquet") != untouched
    undo(run, 10, "Ann")
    export_reviews(run)
    store = ReviewStore.open(run)
    state = store.item(15, "Ann")
    store.undo(
        "Ann", 15, expected_revision=state.revision,
        submission_id="00000000-0000-4000-8000-000000000002",
    )  # fmt: skip
    counts = export_reviews(run)
    assert content(run, "pairs.csv", "pairs.parquet") == untouched
    assert counts == {"events": 4, "n_pairs": 3, "queued": 3, "decided": 0, "rejected": 0}


def test_the_log_is_exported_line_by_line(run):
    decide_at_terminal(run, "10=23", reviewer="Ann", note="µ\nnew line")
    decide_at_terminal(run, "12=none", reviewer="Zoë", confidence=1)
    export_reviews(run)
    lines = (run / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [json.loads(line) for line in lines]
    events = [json.loads(json.dumps(asdict(e))) for e in ReviewStore.open(run).events()]
    assert logged == events
    assert [entry["id"] for entry in logged] == [1, 2]
    assert logged[0]["tool_version"] == tool_version()


def test_an_export_cut_short_is_put_right_by_the_next(run, monkeypatch):
    decide_at_terminal(run, "10=23", reviewer="Ann")

    def fail(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(review_merge, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        export_reviews(run)
    assert rows(run)[10].status == "decided"
    assert "decided" not in read_json(run / "summary.json")
    monkeypatch.undo()
    export_reviews(run)
    assert read_json(run / "summary.json")["decided"] == 1
    # Nobody is locked out by what was interrupted.
    assert decide_at_terminal(run, "10=24", reviewer="Ann").id == 2


def test_nobody_decides_between_the_log_and_the_tables(run, monkeypatch):
    from srmri_data import store as store_module
    from srmri_data.store import StoreBusyError

    decide_at_terminal(run, "10=23", reviewer="Ann")
    other = ReviewStore.open(run)
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.05)
    attempts = []

    def write_and_interfere(*args):
        state = other.item(11, "Bob")
        submission = review_merge.Submission(
            11, 5, "Bob", state.revision, "00000000-0000-4000-8000-000000000003"
        )
        with pytest.raises(StoreBusyError):
            other.decide(submission)
        attempts.append(submission)

    monkeypatch.setattr(review_merge, "write_pairs", write_and_interfere)
    export_reviews(run)
    assert other.decide(attempts[0]).id == 2


def test_a_run_from_before_there_was_a_review_can_be_reviewed(run):
    table = pd.read_parquet(run / "pairs.parquet")
    with_review = content(run, "pairs.csv", "pairs.parquet")
    added = [name for name in table if name.startswith(("auto_", "review"))]
    assert len(added) == 7
    table.drop(columns=added).to_parquet(run / "pairs.parquet", index=False)
    assert rows(run)[14].auto_hr_position == 28.25
    export_reviews(run)
    assert content(run, "pairs.csv", "pairs.parquet") == with_review


def test_votes_around_a_registration_are_not_counted_again(run):
    pairs = read_pairs(run)
    table = pairs.assign(geom_position=pairs["hr_position"] + 0.4, n_votes=3)
    write_pairs(run, table.astype(PAIRS_DTYPES))
    decide_at_terminal(run, "10=23", reviewer="Ann")
    export_reviews(run)
    assert (read_pairs(run)["n_votes"] == 3).all()


def test_a_run_without_truth_stays_without(tmp_path):
    run = write_run(tmp_path / "run", truth=False)
    decide_at_terminal(run, "10=23", reviewer="Ann")
    export_reviews(run)
    assert read_pairs(run)["error_slices"].isna().all()


def test_the_store_lost_after_an_export_can_be_started_anew(run):
    decide_at_terminal(run, "10=23", reviewer="Ann")
    decide_at_terminal(run, "15=none", reviewer="Ann")
    export_reviews(run)
    (run / "review.sqlite").unlink()
    assert [state.lr_slice for state in ReviewStore.open(run).queue("Ann")] == [10, 11, 12]


def test_listing_says_what_is_open_and_what_was_decided(run):
    decide_at_terminal(run, "10=23", reviewer="Ann", confidence=4)
    decide_at_terminal(run, "11=none", reviewer="Ann")
    decide_at_terminal(run, "14=unsure", reviewer="Ann")
    listed = list_reviews(run)["items"]
    assert json.loads(json.dumps(listed)) == listed
    assert [(row["lr_slice"], row["status"], row["hr_slice"]) for row in listed] == [
        (10, "decided", 23), (11, "rejected", 22), (12, "review", 24), (14, "review", 28),
    ]  # fmt: skip
    assert listed[0] == {
        "lr_slice": 10, "status": "decided", "hr_slice": 23, "votes": {"pca": 20, "ssim": 21},
        "clear": 20, "n_reviewers": 1, "confidence": 4, "reason": "1 reviewer chose 23",
    }  # fmt: skip
    assert listed[2]["reason"] == "all voters differ"


def test_the_terminal_decides_and_decides_again(run):
    first = decide_at_terminal(run, "10=23", reviewer=" Ann ", confidence=2, note="why")
    assert (first.reviewer, first.choice, first.confidence, first.note) == ("Ann", 23, 2, "why")
    assert decide_at_terminal(run, "10=unsure", reviewer="Ann").revision == 2
    assert decide_at_terminal(run, "10=1", reviewer="Eve", adjudicates=True).adjudicates
    with pytest.raises(UnknownItemError):
        decide_at_terminal(run, "99=1", reviewer="Ann")
    with pytest.raises(UsageError, match="reviewer"):
        decide_at_terminal(run, "10=1", reviewer="")


@pytest.mark.parametrize("text", ["", "10", "10=", "=20", "10:20", "10=maybe", "a=1", "10=2.5"])
def test_what_is_no_decision_is_refused(text):
    with pytest.raises(UsageError, match="not of the form LR=HR"):
        parse_decision(text)


def test_slices_do_not_count_from_the_end(run):
    with pytest.raises(UsageError, match="choice: -5"):
        decide_at_terminal(run, "10=-5", reviewer="Ann")
    with pytest.raises(UnknownItemError, match="no LR slice -1"):
        decide_at_terminal(run, "-1=5", reviewer="Ann")

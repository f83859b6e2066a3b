"""The review at the terminal, as a user runs it."""

from __future__ import annotations

import json

import pytest
from review_run import write_run
from typer.testing import CliRunner

from cli import app


@pytest.fixture
def run(tmp_path):
    """LR 10, 11, 12 are queued; each has its voters one slice apart, at the geometry."""
    return write_run(tmp_path / "run")


def review(run, *arguments, code=0):
    result = CliRunner().invoke(app, ["review", str(run), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def listed(run, *arguments):
    return json.loads(review(run, "--list", "--json", *arguments).stdout)


def test_decide_list_and_export(run):
    event = json.loads(
        review(run, "--decide", "10=23", "--reviewer", "ann", "--confidence", "3", "--json").stdout
    )
    assert (event[0]["choice"], event[0]["confidence"], event[0]["trial"]) == (23, 3, "")
    document = listed(run)
    assert [item["status"] for item in document["items"]] == ["decided", "review", "review"]
    (ann,) = document["reviewers"]
    assert (ann["reviewer"], ann["answered"], ann["exact"]) == ("ann", 1, None)
    text = review(run, "--list").stdout
    assert "2 of 3 wait for a decision; --accept-clear would settle 2" in text
    assert "ann" in text
    assert "1 decided, 0 rejected, 2 still queued" in review(run, "--export").stdout


def test_clear_items_are_accepted_with_one_event_each_and_once(run):
    review(run, "--decide", "10=none", "--reviewer", "ann")
    events = json.loads(review(run, "--accept-clear", "--reviewer", "ann", "--json").stdout)
    # What ann said before stays.
    assert [(event["lr_slice"], event["choice"]) for event in events] == [(11, 22), (12, 24)]
    assert all(event["views"] == ["bulk"] for event in events)
    assert "nothing is that clear" in review(run, "--accept-clear", "--reviewer", "ann").stdout
    (ann,) = listed(run)["reviewers"]
    assert (ann["answered"], ann["bulk"]) == (3, 2)


def test_disagreements_are_listed_and_settled(run):
    for reviewer, choice in (("ann", 21), ("bob", 22)):
        review(run, "--decide", f"11={choice}", "--reviewer", reviewer)
        review(run, "--decide", "12=24", "--reviewer", reviewer)
    (item,) = listed(run, "--adjudicate")["items"]
    assert (item["lr_slice"], item["status"]) == (11, "review")
    assert [row["agreement"] for row in listed(run)["reviewers"]] == [0.5, 0.5]
    review(run, "--decide", "11=22", "--adjudicate", "--reviewer", "pi")
    settled = {row["lr_slice"]: row["reason"] for row in listed(run)["items"]}
    assert settled[11] == "the adjudicator chose 22"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--list", "--export"], "choose one"),
        (["--list", "--accept-clear"], "choose one"),
        (["--decide", "10=20"], "--decide needs --reviewer"),
        (["--accept-clear"], "--accept-clear needs --reviewer"),
        (["--no-blind", "--catch", "0.1"], "--catch and --repeat"),
        (["--adjudicate", "--repeat", "0.1"], "--adjudicate settles pairs"),
    ],
)
def test_what_makes_no_sense_is_refused(run, arguments, message):
    assert message in review(run, *arguments, code=2).stderr

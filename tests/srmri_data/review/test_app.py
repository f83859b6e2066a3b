"""The review application by itself: no socket, no browser."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from srmri_data.decisions import AutoDecision
from srmri_data.errors import UsageError
from srmri_data.geometry import apply_affine
from srmri_data.review import ReviewImages, SittingConfig, create_app
from srmri_data.review.items import ItemFacts
from srmri_data.review_merge import export_reviews
from srmri_data.review_plan import Question
from srmri_data.run_folder import Run, open_run, read_pairs
from srmri_data.safe_io import read_json
from srmri_data.slices import IntensityMap
from srmri_data.store import ReviewStore

HOST = "127.0.0.1:8000"
TOKEN = "token-of-the-test"
FROM_PAGE = {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def paired(tiny_pair, tmp_path_factory) -> Run:
    from srmri_data.pairing import run_pairing
    from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
    from srmri_data.slices import Trim

    scans = find_scans(ScanRequest(tiny_pair.low), ScanRequest(tiny_pair.high))
    config = PairingConfig(method="paper", trim=Trim(2, "slices"), voters=("pca", "ssim"))
    run = tmp_path_factory.mktemp("paired") / "run"
    run_pairing(plan_pairing(*scans, config), run)
    return open_run(run)


@pytest.fixture(scope="module")
def images(paired) -> ReviewImages:
    return ReviewImages.open(paired)


@pytest.fixture
def run(paired, tmp_path) -> Path:
    return Path(shutil.copytree(paired.path, tmp_path / "run"))


@pytest.fixture
def store(run) -> ReviewStore:
    return ReviewStore.open(run)


@pytest.fixture
def make_client(run, store, images):
    def make(**options) -> TestClient:
        app = create_app(
            run, store=store, images=images, token=TOKEN, allowed_hosts=[HOST], **options
        )
        return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)

    return make


@pytest.fixture
def client(make_client) -> TestClient:
    client = make_client()
    assert client.get(f"/auth?token={TOKEN}").status_code == 303
    return client


def decision(lr_slice: int, **changes) -> dict:
    return {
        "item": lr_slice,
        "choice": "none",
        "reviewer": "ann",
        "expected_revision": 0,
        "submission_id": str(uuid.uuid4()),
        **changes,
    }


def first_item(client: TestClient, reviewer: str = "ann") -> int:
    return client.get("/api/queue", params={"reviewer": reviewer}).json()["items"][0]["item"]


def test_the_token_opens_one_session_once(make_client):
    client = make_client()
    assert client.get("/").status_code == 401
    # A link preview must not use it up.
    assert client.head(f"/auth?token={TOKEN}").status_code in (401, 405)
    answer = client.get(f"/auth?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200
    again = client.get(f"/auth?token={TOKEN}", headers={"Accept": "text/html"})
    assert again.status_code == 403
    assert "the tab that is open" in again.text


def test_a_link_on_another_site_leads_in_by_a_page_of_our_own(make_client):
    client = make_client()
    answer = client.get(f"/auth?token={TOKEN}", headers={"Sec-Fetch-Site": "cross-site"})
    # A redirect would still count as theirs, and the browser would withhold the cookie.
    assert answer.status_code == 200
    assert 'http-equiv="refresh"' in answer.text
    assert client.get("/").status_code == 200


def test_images_are_raw_little_endian_16_bit(client, images):
    n = images.low_range[0]
    answer = client.get(f"/api/image/lr/{n}?reviewer=ann")
    shape = int(answer.headers["x-rows"]), int(answer.headers["x-cols"])
    pixels = np.frombuffer(answer.content, "<u2").reshape(shape)
    assert shape == images.shape
    np.testing.assert_array_equal(pixels, images.low_res(n))
    native = client.get("/api/image/hr/20").content
    matched = client.get("/api/image/hr/20?match=1").content
    assert len(native) == len(matched) == len(answer.content)
    assert native != matched
    assert client.get("/api/image/hr/100000").status_code == 404
    assert client.get("/api/image/hr/20?match=yes").status_code == 422


def test_low_res_lies_exactly_on_high_res(paired):
    """Both volumes show the same ramp in world coordinates; so must the images."""
    from srmri_data.pairing import plan_of_run

    plan = plan_of_run(paired)

    def ramp(frame) -> np.ndarray:
        index = np.stack(np.meshgrid(*map(np.arange, frame.shape), indexing="ij"), axis=-1)
        world = apply_affine(frame.affine, index.reshape(-1, 3))
        return (world @ [0.02, 0.05, 0.07] + 0.5).reshape(frame.shape).astype(np.float32)

    same = IntensityMap(low=0.0, high=1.0, foreground=0.1)
    images = ReviewImages(
        plan,
        ramp(plan.low_frame),
        ramp(plan.high_frame),
        low_intensity=same,
        high_intensity=same,
    )
    lr_slice = (images.low_range[0] + images.low_range[1]) // 2
    position = float(apply_affine(plan.low_to_high, [lr_slice, 0.0, 0.0])[0])
    below, above = (images.high_res(int(np.floor(position)) + n, matched=False) for n in (0, 1))
    share = position - np.floor(position)
    expected = below * (1 - share) + above * share
    inside = (slice(8, -8), slice(8, -8))
    error = (images.low_res(lr_slice) - expected)[inside]
    pixel = float(np.abs(np.diff(expected, axis=1)).mean())
    assert np.abs(error).max() < 0.02 * pixel + 2
    # Positive control: one pixel to the side is seen.
    assert (
        np.abs((images.low_res(lr_slice) - np.roll(expected, 1, axis=1))[inside]).max() > pixel / 2
    )
    blurred = images.high_res(int(np.floor(position)), matched=True)
    assert np.abs((blurred - below.astype(float))[inside]).max() < 0.02 * pixel + 2


def test_both_volumes_share_one_grey_scale(images, paired):
    about = images.describe()
    black, white = about["window"]["black"], about["window"]["white"]
    assert 0 <= black < white <= 65535
    source = paired.provenance["sources"]["hr"]["intensity"]
    assert images.scale.level(1.0) == white
    assert images.scale.quantise(np.array([-1e9, 1e9], np.float32)).tolist() == [0, 65535]
    assert source["high"] > source["low"]


def test_candidates_hold_every_pick_in_an_order_of_the_reviewers_own(client, make_client):
    lr_slice = first_item(client)
    items = {
        name: client.get(f"/api/item/{lr_slice}", params={"reviewer": name}).json()
        for name in ("ann", "bob", "eve")
    }
    orders = {
        name: [candidate["hr_slice"] for candidate in item["candidates"]]
        for name, item in items.items()
    }
    again = client.get(f"/api/item/{lr_slice}", params={"reviewer": "ann"}).json()
    assert again == items["ann"]
    assert len({tuple(order) for order in orders.values()}) > 1
    assert len({frozenset(order) for order in orders.values()}) == 1
    assert len(set(orders["ann"])) == len(orders["ann"]) <= 9
    open_eyed = make_client(config=SittingConfig(blind=False))
    open_eyed.get(f"/auth?token={TOKEN}")
    shown = open_eyed.get(f"/api/item/{lr_slice}", params={"reviewer": "ann"}).json()
    slices = [candidate["hr_slice"] for candidate in shown["candidates"]]
    assert slices == sorted(orders["ann"])
    assert set(shown["votes"].values()) <= set(slices)
    labels = {label for c in shown["candidates"] for label in c["labels"]}
    assert {"PCA", "SSIM", "geometry"} <= labels


def test_a_blind_reviewer_is_told_nothing_before_the_decision(client):
    number = first_item(client)
    item = client.get(f"/api/item/{number}", params={"reviewer": "ann"}).json()
    assert (item["covered"], item["votes"], item["scores"], item["reason"]) == (True, {}, {}, "")
    assert all(candidate["labels"] == [] for candidate in item["candidates"])
    queued = [n for n in item["neighbours"] if n["status"] == "review"]
    assert queued
    assert all(neighbour["hr_slice"] is None for neighbour in queued)
    client.post("/api/decision", json=decision(number), headers=FROM_PAGE)
    told = client.get(f"/api/item/{number}", params={"reviewer": "ann"}).json()
    assert (told["covered"], set(told["votes"])) == (False, {"pca", "ssim"})
    assert told["reason"]
    # Somebody else is as blind as before.
    other = client.get(f"/api/item/{number}", params={"reviewer": "bob"}).json()
    assert (other["covered"], other["votes"]) == (True, {})


def test_near_empty_slices_come_last(client, store):
    items = client.get("/api/queue", params={"reviewer": "ann"}).json()["items"]
    empty = [store.items[item["item"]].empty for item in items]
    assert empty == sorted(empty)


def test_decide_retry_conflict_undo_and_redo(client, store):
    lr_slice = first_item(client)
    sent = decision(lr_slice, choice=20, confidence=3, note="<b>gds</b>", shown=[20, 21])
    saved = client.post("/api/decision", json=sent, headers=FROM_PAGE)
    assert saved.status_code == 200
    assert saved.json()["note"] == "<b>gds</b>"
    assert client.post("/api/decision", json=sent, headers=FROM_PAGE).json() == saved.json()
    assert len(list(store.events())) == 1
    stale = client.post("/api/decision", json=decision(lr_slice), headers=FROM_PAGE)
    assert stale.status_code == 409
    assert stale.json()["current_revision"] == saved.json()["revision"]
    assert stale.json()["state"]["mine"] == 20
    queue = client.get("/api/queue", params={"reviewer": "ann"}).json()
    assert queue["undoable"]["id"] == saved.json()["id"]
    step = {key: sent[key] for key in ("item", "reviewer")}
    undone = client.post(
        "/api/undo",
        json={
            **step,
            "expected_revision": saved.json()["revision"],
            "submission_id": str(uuid.uuid4()),
        },
        headers=FROM_PAGE,
    ).json()
    assert (undone["kind"], undone["choice"]) == ("undo", None)
    redone = client.post(
        "/api/undo",
        json={
            **step,
            "expected_revision": undone["revision"],
            "submission_id": str(uuid.uuid4()),
            "undoes": undone["id"],
        },
        headers=FROM_PAGE,
    ).json()
    assert redone["choice"] == 20


def test_a_page_of_another_run_records_nothing(client, store):
    served = client.get("/api/run").json()["id"]
    lr_slice = first_item(client)
    for path, extra in (("/api/decision", {"choice": "none"}), ("/api/undo", {})):
        sent = {k: v for k, v in decision(lr_slice).items() if k != "choice"} | extra
        other = client.post(path, json={**sent, "run": "0" * 16}, headers=FROM_PAGE)
        assert (other.status_code, other.json()["other_run"]) == (409, True)
    assert list(store.events()) == []
    own = client.post("/api/decision", json=decision(lr_slice, run=served), headers=FROM_PAGE)
    assert own.status_code == 200


def test_a_whole_number_may_be_written_as_json_likes(client):
    sent = json.dumps(decision(first_item(client), choice=20)).replace("20,", "2.0e1,")
    headers = {**FROM_PAGE, "Content-Type": "application/json"}
    assert client.post("/api/decision", content=sent, headers=headers).json()["choice"] == 20


def test_reviewers_see_their_own_answers_only(client):
    lr_slice = first_item(client)
    secret = decision(lr_slice, choice=20, note="what ann thinks")
    assert client.post("/api/decision", json=secret, headers=FROM_PAGE).status_code == 200
    for path in ("/api/queue", f"/api/item/{lr_slice}"):
        seen = client.get(path, params={"reviewer": "bob"}).text
        assert "ann" not in json.loads(seen).get("reviewer", "")
        assert "what ann thinks" not in seen
        assert '"mine": 20' not in seen


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 30_000,
        b'{"item": NaN}',
        b'{"item": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_a_json_object_is_refused(client, body):
    headers = {**FROM_PAGE, "Content-Type": "application/json"}
    answer = client.post("/api/decision", content=body, headers=headers)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "hint"}


@pytest.mark.parametrize(
    "changes",
    [
        {"choice": "maybe"},
        {"choice": True},
        {"choice": 10**6},
        {"confidence": 5},
        {"note": "x" * 2001},
        {"note": "\ud800"},
        {"reviewer": " "},
        {"reviewer": ["ann"]},
        {"submission_id": "1"},
        {"shown": "20"},
        {"views": [["swipe"]]},
        {"visible_ms": -1},
        {"expected_revision": None},
        {"surprise": 1},
    ],
)
def test_a_value_out_of_range_is_refused(client, store, changes):
    sent = json.dumps(decision(first_item(client), **changes))
    headers = {**FROM_PAGE, "Content-Type": "application/json"}
    assert client.post("/api/decision", content=sent, headers=headers).status_code == 422
    assert list(store.events()) == []


def test_a_bug_is_answered_without_its_traceback(client, images, monkeypatch, caplog):
    def fail(number: int) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(images, "low_res", fail)
    answer = client.get(f"/api/image/lr/{first_item(client)}?reviewer=ann")
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "hint"}
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "a secret of the inside" in caplog.text


def test_the_description_names_every_route(client):
    described = client.get("/api/openapi.json").json()["paths"]
    routes = {route.path.replace(":int", "") for route in client.app.routes}
    assert set(described) == routes


def test_the_page_loads_nothing_but_its_own_files(client):
    page = client.get("/").text
    assert "http://" not in page
    assert "https://" not in page
    assert "<script>" not in page
    assert "style=" not in page
    for name in ("main.js", "style.css", "icon.svg", "viewer.js"):
        assert client.get(f"/static/{name}").status_code == 200
    assert client.get("/static/app.py").status_code == 404


def test_a_slice_no_voter_could_compare_has_candidates(images, paired):
    facts = ItemFacts.open(
        paired,
        {9: AutoDecision(30, 30.0, 30.4, "review", "outside", {}, 0, 0, 0.0, 0.0, False)},
        seed=1,
    )
    item = facts.describe(Question(9), reviewer="ann")
    slices = [candidate["hr_slice"] for candidate in item["candidates"]]
    assert slices == list(range(26, 35))
    assert item["candidates"][4]["labels"] == ["geometry"]


# -- trials, adjudication, what is clear -----------------------------------------------------


@pytest.fixture
def mixed(make_client) -> TestClient:
    """A page with trials."""
    client = make_client(config=SittingConfig(catch=0.2, repeat=0.1))
    client.get(f"/auth?token={TOKEN}")
    return client


def answer_all(client: TestClient, reviewer: str = "ann", choice: object = "unsure") -> None:
    for item in client.get("/api/queue", params={"reviewer": reviewer}).json()["items"]:
        sent = decision(item["item"], reviewer=reviewer, choice=choice)
        assert client.post("/api/decision", json=sent, headers=FROM_PAGE).status_code == 200


def test_trials_can_not_be_told_from_other_items(mixed, store):
    queue = mixed.get("/api/queue", params={"reviewer": "ann"}).json()["items"]
    queued = [lr for lr, auto in store.items.items() if auto.status == "review"]
    shown = sum(not store.items[lr].empty for lr in queued)
    assert len(queue) == len(queued) + -(-shown * 2 // 10) + -(-shown // 10)
    answers = [
        mixed.get(f"/api/item/{item['item']}", params={"reviewer": "ann"}).json() for item in queue
    ]
    # The same members, nothing uncovered, no word of the slice or the trial.
    assert len({tuple(answer) for answer in answers}) == 1
    assert all(answer["covered"] and answer["reason"] == "" for answer in answers)
    text = json.dumps([queue, answers]) + mixed.get("/api/run").text
    for word in ("lr_slice", "catch", "repeat", "truth"):
        assert word not in text
    assert not {item["item"] for item in queue} & set(store.items)
    sizes = {
        len(mixed.get(f"/api/image/lr/{i['item']}", params={"reviewer": "ann"}).content)
        for i in queue
    }
    assert len(sizes) == 1
    saved = mixed.post("/api/decision", json=decision(queue[0]["item"]), headers=FROM_PAGE).json()
    assert not {"lr_slice", "trial", "truth"} & set(saved)
    # Decided, and still covered: the next items would be easier to tell.
    item = mixed.get(f"/api/item/{queue[0]['item']}", params={"reviewer": "ann"}).json()
    assert item["covered"]
    # Another reviewer's numbers are others.
    other = mixed.get("/api/queue", params={"reviewer": "bob"}).json()["items"]
    assert not {i["item"] for i in other} & {i["item"] for i in queue}
    assert mixed.get(f"/api/item/{queued[0]}", params={"reviewer": "ann"}).status_code == 404


def test_trials_are_recorded_apart_and_never_merged(mixed, store, run):
    answer_all(mixed, choice=20)
    events = list(store.events())
    trials = [event for event in events if event.trial]
    assert {event.trial for event in trials} == {"catch", "repeat"}
    assert all((event.truth is not None) == (event.trial == "catch") for event in trials)
    queued = {lr for lr, auto in store.items.items() if auto.status == "review"}
    assert {verdict.lr_slice for verdict in store.merged()} == queued
    before = read_pairs(run)
    counts = export_reviews(run)
    assert (counts["decided"], counts["events"]) == (len(queued), len(events))
    after = read_pairs(run)
    untouched = ~after["lr_slice"].isin(queued)
    assert after[untouched].equals(before[untouched])
    lines = [json.loads(line) for line in (run / "reviews.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == [event.trial for event in events]
    review = read_json(run / "summary.json")["review"]
    assert review["seed"] == store.seed
    (figures,) = review["reviewers"]
    catches = [event for event in trials if event.trial == "catch"]
    assert figures["catch_trials"] == len(catches)
    assert figures["exact"] == sum(event.truth == 20 for event in catches) / len(catches)
    assert (figures["repeats"], figures["same_again"]) == (len(trials) - len(catches), 1.0)


def test_trials_are_told_when_all_is_answered_and_undone_like_the_rest(mixed, store):
    answer_all(mixed)
    queue = mixed.get("/api/queue", params={"reviewer": "ann"}).json()
    reasons = {}
    for item in queue["items"]:
        facts = mixed.get(f"/api/item/{item['item']}", params={"reviewer": "ann"}).json()
        assert not facts["covered"]
        reasons[item["item"]] = facts["reason"]
    assert sum("catch trial" in reason for reason in reasons.values()) >= 1
    assert sum("a repeat" in reason for reason in reasons.values()) >= 1
    (catch, *_) = (number for number, reason in reasons.items() if "catch trial" in reason)
    revision = next(i["revision"] for i in queue["items"] if i["item"] == catch)
    step = {"item": catch, "reviewer": "ann", "expected_revision": revision}
    undone = mixed.post(
        "/api/undo", json={**step, "submission_id": str(uuid.uuid4())}, headers=FROM_PAGE
    ).json()
    assert (undone["item"], undone["choice"]) == (catch, None)
    last = list(store.events())[-1]
    assert (last.trial, last.truth is not None) == ("catch", True)
    stale = {**step, "expected_revision": revision, "submission_id": str(uuid.uuid4())}
    refused = mixed.post("/api/undo", json=stale, headers=FROM_PAGE)
    assert refused.status_code == 409
    assert refused.json()["state"]["item"] == catch
    assert "LR" not in refused.json()["error"]


def test_answers_to_trials_do_not_disturb_a_review_without_them(mixed, make_client, store):
    answer_all(mixed)
    plain = make_client()
    plain.get(f"/auth?token={TOKEN}")
    queue = plain.get("/api/queue", params={"reviewer": "ann"}).json()
    assert {i["item"] for i in queue["items"]} == {
        lr for lr, auto in store.items.items() if auto.status == "review"
    }
    assert all(item["mine"] == "unsure" for item in queue["items"])
    assert queue["undoable"]["item"] in store.items


def test_a_catch_trial_shows_its_place_as_the_low_res_scan_would(images):
    first, last = images.low_range
    low = (first + last) // 2
    high = range(*images.high_range)
    made = images.simulated(len(high) // 2, seed=1).astype(float)
    assert made.shape == images.shape
    errors = [
        np.abs(made - images.high_res(n, matched=True)).mean()
        for n in range(len(high) // 2 - 4, len(high) // 2 + 5)
    ]
    assert int(np.argmin(errors)) == 4
    # As bright, as noisy and as sharp as an LR slice; HR is sharper.
    real = images.low_res(low).astype(float)
    assert made.mean() == pytest.approx(real.mean(), rel=0.2)

    def sharpness(image):
        return np.abs(np.diff(image, axis=1)).mean() / image.std()

    native = images.high_res(len(high) // 2, matched=False).astype(float)
    assert sharpness(made) == pytest.approx(sharpness(real), rel=0.25)
    assert sharpness(native) > 1.2 * sharpness(made)
    assert not np.array_equal(made, images.simulated(len(high) // 2, seed=2))
    np.testing.assert_array_equal(made, images.simulated(len(high) // 2, seed=1))


def test_disagreements_are_put_to_an_adjudicator(make_client, store):
    plain = make_client()
    plain.get(f"/auth?token={TOKEN}")
    one, two, three = [
        item["item"]
        for item in plain.get("/api/queue", params={"reviewer": "ann"}).json()["items"][:3]
    ]
    for reviewer, number, choice in (
        ("ann", one, 20), ("bob", one, 21), ("ann", two, 20), ("bob", two, 20),
        ("ann", three, "none"), ("bob", three, 22), ("ann", 99, 20),
    ):  # fmt: skip
        sent = decision(number, reviewer=reviewer, choice=choice)
        plain.post("/api/decision", json=sent, headers=FROM_PAGE)
    judge = make_client(config=SittingConfig(adjudicate=True))
    judge.get(f"/auth?token={TOKEN}")
    for reviewer in ("pi", "ann"):
        queue = judge.get("/api/queue", params={"reviewer": reviewer}).json()["items"]
        assert {item["item"] for item in queue} == {one, three}
        # Having reviewed is not having settled.
        assert all(item["mine"] is None for item in queue)
    item = judge.get(f"/api/item/{one}", params={"reviewer": "pi"}).json()
    assert {20, 21} <= {candidate["hr_slice"] for candidate in item["candidates"]}
    # Who said what stays covered until it is settled.
    assert "ann" not in json.dumps(item)
    assert judge.get("/api/clear", params={"reviewer": "pi"}).json() == {"items": []}
    sent = decision(one, reviewer="pi", choice=21)
    assert judge.post("/api/decision", json=sent, headers=FROM_PAGE).json()["adjudicates"]
    assert {v.lr_slice: v.status for v in store.merged()}[one] == "decided"
    told = judge.get(f"/api/item/{one}", params={"reviewer": "pi"}).json()
    assert "ann: HR 20 · bob: HR 21" in told["reason"]
    labels = {c["hr_slice"]: c["labels"] for c in told["candidates"]}
    assert "ann" in labels[20]
    queue = judge.get("/api/queue", params={"reviewer": "pi"}).json()["items"]
    assert {i["item"]: i["mine"] for i in queue} == {one: 21, three: None}


def test_what_is_clear_is_listed_once_asked_for(client, store, monkeypatch):
    (first, *_) = [lr for lr, auto in store.items.items() if auto.status == "review"]
    auto = store.items[first]
    for other in store.items:
        unclear = replace(store.items[other], votes={"pca": 10, "ssim": 40}, geometry=30.3)
        monkeypatch.setitem(store.items, other, unclear)
    clear = replace(auto, votes={"pca": 30, "ssim": 31}, geometry=30.3, empty=False)
    monkeypatch.setitem(store.items, first, clear)
    (listed,) = client.get("/api/clear", params={"reviewer": "ann"}).json()["items"]
    assert (listed["item"], listed["choice"], listed["revision"]) == (first, 30, 0)
    sent = decision(first, choice=30, views=["bulk"])
    client.post("/api/decision", json=sent, headers=FROM_PAGE)
    assert client.get("/api/clear", params={"reviewer": "ann"}).json() == {"items": []}
    assert len(client.get("/api/clear", params={"reviewer": "bob"}).json()["items"]) == 1


@pytest.mark.parametrize(
    "options",
    [{"catch": 1.5}, {"repeat": -0.1}, {"catch": 0.1, "blind": False},
     {"repeat": 0.1, "adjudicate": True}],
)  # fmt: skip
def test_ways_to_review_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        SittingConfig(**options)

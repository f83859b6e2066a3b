"""Text that people and scanners write stays text: 120 payloads in every field."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from asgi_client import call
from xss_payloads import PAYLOADS

from srmri_data.decisions import MAX_REVIEWER
from srmri_data.review_merge import decide_at_terminal
from srmri_data.run_folder import read_pairs, write_pairs

HOST = "127.0.0.1:8000"


RISKY_ELEMENTS = """() => [...document.querySelectorAll(
  'script, iframe, object, embed, video, audio, base, meta, form, img, style, math'
)].map(element => element.outerHTML.slice(0, 60))"""

RISKY_ATTRIBUTES = """() => [...document.querySelectorAll('*')].flatMap(element =>
  [...element.attributes].filter(({name, value}) =>
    name.startsWith('on') || /^\\s*javascript:/i.test(value)).map(({name}) => name))"""


class Skeleton(HTMLParser):
    """The elements and attribute names of a page, without its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))


def test_the_payloads_are_distinct_and_would_run(browser):
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 120
    page = browser.new_page()
    ran = 0
    for payload in PAYLOADS:
        page.set_content(f"<title>{payload}</title><input value='{payload}'><p>{payload}</p>")
        page.wait_for_timeout(10)
        ran += page.evaluate("document.documentElement.dataset.owned") is not None
    page.close()
    # The others need a click, a frame or a template engine; other browsers run some of them.
    assert ran >= 60


def test_markup_in_names_does_not_change_the_page(make_app, copy_run, rename):
    run = copy_run()

    def skeleton(*names: str) -> list[tuple[str, tuple[str, ...]]]:
        rename(run, run_name=names[0], plane=names[1])
        review = make_app(HOST, run=run, reviewer=names[2])
        answer = call(review.app, "GET", "/", [("Host", HOST), ("Cookie", review.cookie)])
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        return Skeleton(answer.body.decode()).elements

    plain = skeleton("run", "coronal", "ann")
    for number in range(0, len(PAYLOADS), 3):
        for turn in range(3):
            names = [PAYLOADS[number + (turn + n) % 3] for n in range(3)]
            if turn == 0 or number % 30 == 0:
                assert skeleton(*names) == plain, names
    # Pasted as it is, it would.
    assert Skeleton(f"<p>{PAYLOADS[0]}</p>").elements != Skeleton("<p>mouse</p>").elements


def test_the_api_gives_text_back_as_json(make_app):
    review = make_app(HOST)
    item = review.store.queue("ann")[0]
    headers = [("Host", HOST), ("Cookie", review.cookie)]
    writing = [
        *headers,
        ("Content-Type", "application/json"),
        ("Origin", f"http://{HOST}"),
        ("Sec-Fetch-Site", "same-origin"),
    ]

    def post(**fields: object):
        body = {
            "item": item.lr_slice, "choice": "unsure", "reviewer": "ann",
            "expected_revision": 0, "submission_id": str(uuid.uuid4()), "confidence": None,
            "note": "", "shown": [], "visible_ms": 0, "views": [], **fields,
        }  # fmt: skip
        answer = call(review.app, "POST", "/api/decision", writing, json.dumps(body).encode())
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        return answer

    revision = 0
    for payload in PAYLOADS:
        saved = post(note=payload, expected_revision=revision)
        assert saved.status == 200, saved.body
        assert saved.json()["note"] == payload
        revision = saved.json()["revision"]
        shown = call(review.app, "GET", f"/api/item/{item.lr_slice}?reviewer=ann", headers)
        assert shown.headers["content-type"] == "application/json"
        assert payload in json.dumps(shown.json(), ensure_ascii=False).replace("\\n", "\n").replace(
            '\\"', '"'
        )
        # These are refused or kept; either way nothing but JSON comes back.
        for field in ("reviewer", "submission_id", "choice", "tool_version"):
            answer = post(**{field: payload, "expected_revision": -1})
            assert answer.status in {409, 422}, (field, answer.body)
            assert answer.json()["error"]
        for field in ("views", "shown"):
            assert post(**{field: [payload], "expected_revision": -1}).status in {409, 422}


def test_the_page_writes_text_as_text(new_window, copy_run, serving, rename, set_reasons):
    run = copy_run()
    every = "".join(PAYLOADS)
    rename(run, run_name=every, plane=every, subject=every)
    set_reasons(run, PAYLOADS)
    with serving(run) as server:
        server.log_in()
        page = new_window(server).new_page()
        page.add_init_script(
            "window.violations = []; document.addEventListener("
            "'securitypolicyviolation', e => violations.push(e.violatedDirective + e.blockedURI))"
        )
        page.goto(server.origin + "/")
        page.fill("#reviewer-name", PAYLOADS[5][:60])
        page.click("#reviewer-start")
        page.wait_for_selector("body[data-ready='1']")
        count = int(page.get_attribute("#progress", "data-total"))
        before = page.evaluate(RISKY_ELEMENTS)
        per_item = -(-len(PAYLOADS) // count)
        for index in range(count):
            note = "".join(PAYLOADS[index * per_item : (index + 1) * per_item])
            page.fill("#note", note[:2000])
            page.locator("#note").blur()
            page.keyboard.press("u")
            page.wait_for_function(
                "done => document.querySelector('#progress').dataset.done === done",
                arg=str(index + 1),
            )
        page.keyboard.press("r")
        page.keyboard.press("?")
        page.keyboard.press("Escape")
        for _ in range(count):
            page.keyboard.press("k")
            page.wait_for_timeout(30)
        assert {event.lr_slice for event in server.events()} == {
            item["item"] for item in server.get_json("/api/queue?reviewer=ann")["items"]
        }
        assert page.evaluate("document.documentElement.dataset.owned") is None
        assert page.evaluate("window.violations") == []
        assert page.evaluate(RISKY_ATTRIBUTES) == []
        assert page.evaluate(RISKY_ELEMENTS) == before


def test_names_of_reviewers_stay_text_before_an_adjudicator(
    new_window, copy_run, serving, open_page
):
    run = copy_run()
    names = [name for payload in PAYLOADS if (name := payload[:MAX_REVIEWER].strip()).isprintable()]
    assert len(names) > 100
    for number, name in enumerate(names):
        decide_at_terminal(run, f"30={58 + number % 5}", reviewer=name)
    with serving(run, "--adjudicate") as server:
        server.log_in()
        page = open_page("pi", at=server)
        before = page.evaluate(RISKY_ELEMENTS)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_selector("#finished")
        page.wait_for_function("() => /^Saved/.test(document.querySelector('#status').textContent)")
        page.keyboard.press("r")
        page.wait_for_selector("#strip[data-revealed='1']")
        assert names[0] in page.text_content("#reason")
        assert page.evaluate("document.documentElement.dataset.owned") is None
        assert page.evaluate(RISKY_ATTRIBUTES) == []
        assert page.evaluate(RISKY_ELEMENTS) == before


@pytest.fixture(scope="module")
def rename():
    """Write a name everywhere a run folder can hold one."""

    def rename(run: Path, *, run_name: str, plane: str, subject: str = "mouse") -> None:
        file = run / "summary.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        document |= {"run": run_name, "plane": plane}
        for role in ("lr", "hr"):
            document[role]["subject_id"] = subject
        file.write_text(json.dumps(document), encoding="utf-8")

    return rename


@pytest.fixture(scope="module")
def set_reasons():
    """Write reasons into the table of pairs."""

    def set_reasons(run: Path, reasons: Sequence[str]) -> None:
        pairs = read_pairs(run)
        pairs["reason"] = pairs["auto_reason"] = [
            reasons[n % len(reasons)] for n in range(len(pairs))
        ]
        write_pairs(run, pairs)

    return set_reasons

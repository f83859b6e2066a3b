"""Who is answered: every route the application has, times every combination of headers.

The rules are written down a second time here, as plainly as possible; the application and they
must agree on every combination, and whatever is refused must leave the store as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from asgi_client import Response, call

import srmri_data.review

HOST = "127.0.0.1:8000"
HOSTS = (HOST, "localhost:8000", "127.0.0.1:9999", "127.0.0.1", "evil.test:8000", "", None)
COOKIES = ("valid", "wrong", None)
FETCH_SITES = ("same-origin", "same-site", "cross-site", "none", None)
ORIGINS = (f"http://{HOST}", "http://evil.test", "http://127.0.0.1:9999", "null", None)
CONTENT_TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", None)
SAFE = {"GET", "HEAD"}
REFUSED = {400, 401, 403, 415, 421}

DEFENCES = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


@dataclass(frozen=True)
class Combination:
    """The headers of one request."""

    host: str | None
    cookie: str | None
    fetch_site: str | None
    origin: str | None = None
    content_type: str | None = None

    def headers(self, session: str) -> list[tuple[str, str]]:
        wrong = session.split("=")[0] + "=" + "0" * 43
        cookie = {"valid": session, "wrong": wrong, None: None}[self.cookie]
        named = {
            "Host": self.host,
            "Cookie": cookie,
            "Sec-Fetch-Site": self.fetch_site,
            "Origin": self.origin,
            "Content-Type": self.content_type,
        }
        return [(name, value) for name, value in named.items() if value is not None]

    def refusals(self, method: str, *, needs_session: bool) -> set[int]:
        """Return the answers a refusal may have; empty when the request is in order."""
        if self.host not in (HOST, "localhost:8000"):
            return {400, 421}
        if needs_session and self.cookie != "valid":
            return REFUSED - {400, 421}
        if method in SAFE:
            return set()
        if self.origin is not None and self.origin != f"http://{self.host}":
            return {403, 415}
        if self.fetch_site not in ("same-origin", None):
            return {403, 415}
        if self.fetch_site is None and self.origin is None:
            return {403, 415}
        return set() if self.content_type == "application/json" else {415}


READS = [Combination(*headers) for headers in product(HOSTS, COOKIES, FETCH_SITES)]
WRITES = [
    Combination(*headers)
    for headers in product(HOSTS, COOKIES, FETCH_SITES, ORIGINS, CONTENT_TYPES)
]


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Yield (method, target) of every route, parameters filled in."""
    for route in app.routes:
        path = route.path
        for parameter, value in PARAMETERS.items():
            path = path.replace(parameter, value)
        # A route with a parameter nobody thought about here must not pass unseen.
        assert "{" not in path, f"say what {route.path} shall be asked for"
        for method in sorted(route.methods):
            yield method, path


STATIC = Path(srmri_data.review.__file__).parent / "static"
PARAMETERS = {"{item:int}": "LR", "{n:int}": "3", "{name}": "STATIC"}


@pytest.fixture(scope="module")
def review(make_app):
    """One application, its session and its store."""
    return make_app(HOST, "localhost:8000")


@pytest.fixture(scope="module")
def targets(review) -> list[tuple[str, str]]:
    lr_slice = review.store.queue("ann")[0].lr_slice
    static = next(STATIC.iterdir()).name
    return [
        (method, path.replace("LR", str(lr_slice)).replace("STATIC", static))
        for method, path in routes(review.app)
    ]


def _check_refusal(answer: Response, expected: set[int], what: object) -> None:
    assert answer.status in expected, (what, answer.status, expected)
    if answer.headers["content-type"].startswith("application/json"):
        assert set(answer.json()) >= {"error", "hint"}, what
    assert b"Traceback" not in answer.body


def _check_defences(answer: Response, what: object) -> None:
    for name, value in DEFENCES.items():
        assert answer.headers.get(name) == value, (what, name)
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
        if part.strip()
    )  # fmt: skip
    assert {name: policy.get(name) for name in POLICY} == POLICY, what
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers, what


def test_there_are_enough_combinations(targets):
    assert len(READS) >= 60
    assert len(WRITES) >= 60
    assert {method for method, _ in targets} == {"GET", "HEAD", "POST"}
    # All that changes anything, the complete list.
    assert {path for method, path in targets if method == "POST"} == {
        "/api/decision",
        "/api/undo",
    }


def test_reading_needs_the_right_host_and_a_session(review, targets):
    answered = set()
    for method, target in targets:
        if method not in SAFE or target == "/auth":
            continue
        for combination in READS:
            what = (method, target, combination)
            asked = f"{target}?reviewer=ann" if target.startswith("/api/") else target
            answer = call(review.app, method, asked, combination.headers(review.cookie))
            _check_defences(answer, what)
            expected = combination.refusals(method, needs_session=True)
            if expected:
                _check_refusal(answer, expected, what)
            else:
                assert answer.status == 200, what
                answered.add(target)
    assert len(answered) >= 8


def test_writing_needs_the_page_itself(review, targets):
    before = len(list(review.store.events()))
    passed = 0
    for method, target in targets:
        if method in SAFE:
            continue
        for combination in WRITES:
            what = (method, target, combination)
            # Not a decision: what passes the guards is answered 422 and still changes nothing.
            answer = call(review.app, method, target, combination.headers(review.cookie), b"{}")
            _check_defences(answer, what)
            expected = combination.refusals(method, needs_session=True)
            if expected:
                _check_refusal(answer, expected, what)
            else:
                assert answer.status == 422, (what, answer.body)
                passed += 1
    assert passed >= 4
    assert len(list(review.store.events())) == before


def test_a_wrong_token_opens_nothing(review):
    for combination in READS:
        for token in ("", "?token=", "?token=" + "0" * 43, "?token=%00", "?token=a&token=b"):
            answer = call(review.app, "GET", "/auth" + token, combination.headers(review.cookie))
            assert answer.status in {400, 401, 403, 421}, combination
            assert "set-cookie" not in answer.headers
            _check_defences(answer, combination)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_other_methods_are_refused(review, targets, method):
    good = Combination(HOST, "valid", "same-origin", f"http://{HOST}", "application/json")
    for _, target in targets:
        answer = call(review.app, method, target, good.headers(review.cookie), b"{}")
        assert answer.status in {403, 405}, (method, target)
        _check_defences(answer, target)


@pytest.mark.parametrize(
    "target",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd",
        "/static/C:\\x", "/static/", "/api/image/hr/-1", "/api/image/hr/99999999999999999999",
        "/api/image/lr/1e3",
        "/api/image/lr/20", "/api/image/lr/2147483648?reviewer=a",
        "/api/item/-1?reviewer=a", "/api/item/2147483648?reviewer=a",
        "/api/item/99999999999999999999?reviewer=a", "/etc/passwd", "/%00", "//evil.test/",
        "/api/image/hr/../lr/0", "/api/image/hr/3?match=http://evil.test/",
        "/api/queue", "/api/clear", "/api/queue?reviewer=", "/api/queue?reviewer=" + "a" * 10_000,
    ],
)  # fmt: skip
def test_nothing_outside_is_reached(review, target):
    good = Combination(HOST, "valid", "same-origin")
    answer = call(review.app, "GET", target, good.headers(review.cookie))
    assert answer.status in {400, 404, 414, 422}, answer.body[:200]
    assert b"root:" not in answer.body
    assert b"Traceback" not in answer.body


def test_no_route_takes_a_path_or_an_address(review):
    assert all(":path}" not in route.path for route in review.app.routes)
    assert {route.path for route in review.app.routes} == {
        "/", "/auth", "/static/{name}", "/api/run", "/api/queue", "/api/clear",
        "/api/item/{item:int}", "/api/image/lr/{item:int}", "/api/image/hr/{n:int}",
        "/api/decision", "/api/undo",
        "/api/openapi.json",
    }  # fmt: skip


def test_a_large_body_is_refused(review):
    good = Combination(HOST, "valid", "same-origin", f"http://{HOST}", "application/json")
    headers = good.headers(review.cookie)
    body = json.dumps({"note": "x" * 70_000}).encode()
    for target in ("/api/decision", "/api/undo"):
        # Whether or not the sender says how much will come.
        for more in ([], [("Content-Length", str(len(body)))], [("Content-Length", "5")]):
            answer = call(review.app, "POST", target, [*headers, *more], body)
            assert answer.status == 413, answer.body[:200]

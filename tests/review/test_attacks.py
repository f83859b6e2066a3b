"""Attacks on a local server by pages a reviewer happens to have open.

Each is real: an attacker's page in Chromium, with a reviewer logged in in the same window. Each
must succeed against `naive_server.py` and fail here; an attack that fails at both proves nothing.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Victim:
    """A server under attack: where it is, what a forged decision looks like, what it saved."""

    port: int
    decision: dict[str, Any]
    count: Callable[[], int]
    marked_page: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Attacker:
    """A web server that hands out whatever page it was given last."""

    server: ThreadingHTTPServer
    pages: dict[str, str]

    def publish(self, body: str, *, host: str = "attacker.test") -> str:
        """Put a page up and return its address: another site, or a neighbouring local port."""
        self.pages["/"] = f"<!doctype html><meta charset=utf-8><body>{body}"
        return f"http://{host}:{self.server.server_port}/"


@pytest.fixture(scope="module")
def attacker():
    pages: dict[str, str] = {}

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path, "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Attacker(server, pages)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def naive():
    """The positive control."""
    script = Path(__file__).with_name("naive_server.py")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    port = int(json.loads(process.stdout.readline())["url"].split(":")[-1].strip("/"))

    def count() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/decisions")
            return int(connection.getresponse().read())
        finally:
            connection.close()

    yield Victim(port, {"item": 0, "choice": 1}, count, f"http://127.0.0.1:{port}/")
    process.terminate()
    process.wait(timeout=10)
    process.stdout.close()


MARKUP = "<img src=/nothing onerror=\"document.documentElement.dataset.owned='1'\">"


@pytest.fixture(scope="module")
def ours(copy_run, serving):
    """The real server; its subject is called something unpleasant, everywhere a name can be."""
    run = copy_run()
    for name in ("summary.json", "provenance.json"):
        text = (run / name).read_text(encoding="utf-8")
        assert "tiny-mouse" in text
        escaped = json.dumps(MARKUP)[1:-1]
        (run / name).write_text(text.replace("tiny-mouse", escaped), encoding="utf-8")
    with serving(run) as server:
        server.log_in()
        item = server.get_json("/api/queue?reviewer=victim")["items"][0]
        decision = {
            "item": item["item"],
            "choice": "none",
            "reviewer": "victim",
            "expected_revision": item["revision"],
            "submission_id": "7d3c3b1e-54c9-4f39-a2f8-0c9c1a2f7b11",
            "confidence": None,
            "note": "",
            "shown": [],
            "visible_ms": 1,
            "views": [],
        }
        yield (
            server,
            Victim(server.port, decision, lambda: len(server.events()), server.origin + "/"),
        )


def dns_rebinding(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """The attacker's name now means 127.0.0.1, so its page is "same origin" with the server."""
    page = context.new_page()
    address = f"http://rebind.test:{victim.port}/attack"
    # Only the first page comes from the attacker's own machine.
    page.route(address, lambda route: route.fulfill(content_type="text/html", body="<body>hello"))
    page.goto(address)
    status, text = page.evaluate(
        "async () => { const r = await fetch('/api/queue?reviewer=victim');"
        " return [r.status, await r.text()]; }"
    )
    return status == 200 and '"mine"' in text


def _post(context: Any, victim: Victim, attacker: Attacker, host: str) -> bool:
    before = victim.count()
    # A form can send text/plain, and the note swallows the "=" it puts between name and value.
    body = json.dumps({**victim.decision, "note": "#"})
    name, value = body.split("#")
    form = (
        f"<form id=f method=post enctype=text/plain action='{victim.origin}/api/decision'>"
        f"<input name='{name}' value='{value}'></form>"
    )
    page = context.new_page()
    page.goto(attacker.publish(form, host=host))
    with page.expect_navigation():
        page.evaluate("document.querySelector('#f').submit()")
    page.goto(attacker.publish("", host=host))
    for mode in ("no-cors", "cors"):
        for content_type in ("text/plain", "application/json"):
            page.evaluate(
                "([url, mode, type, body]) => fetch(url, {method: 'POST', mode, body,"
                " credentials: 'include', headers: {'Content-Type': type}}).catch(() => 0)",
                [f"{victim.origin}/api/decision", mode, content_type, json.dumps(victim.decision)],
            )
    return victim.count() > before


def cross_site_post(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """Another web site sends a decision."""
    return _post(context, victim, attacker, "attacker.test")


def neighbouring_port_post(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """Another local program's page does: cookies ignore ports, so ours comes along."""
    return _post(context, victim, attacker, "127.0.0.1")


def state_changing_get(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """An image address with a decision in its query."""
    before = victim.count()
    query = "&".join(f"{name}={value}" for name, value in victim.decision.items())
    page = context.new_page()
    page.goto(attacker.publish("", host="127.0.0.1"))
    for path in ("/api/decision", "/api/undo", "/", "/api/queue"):
        page.evaluate(
            "url => new Promise(done => { const i = new Image(); i.onload = i.onerror = done;"
            " i.src = url; })",
            f"{victim.origin}{path}?{query}",
        )
    return victim.count() > before


def cross_site_read(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """Another page reads the queue."""
    for host in ("attacker.test", "127.0.0.1"):
        page = context.new_page()
        page.goto(attacker.publish("", host=host))
        for credentials in ("include", "omit"):
            text = page.evaluate(
                "([url, credentials]) => fetch(url, {credentials})"
                ".then(r => r.text()).catch(() => '')",
                [f"{victim.origin}/api/queue?reviewer=victim", credentials],
            )
            if '"mine"' in text:
                return True
    return False


def clickjacking(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """The page lies invisible over a button the reviewer wants to press."""
    before = victim.count()
    for host in ("attacker.test", "127.0.0.1"):
        page = context.new_page()
        page.set_viewport_size({"width": 1200, "height": 900})
        style = "position:fixed;inset:0;width:1200px;height:900px;opacity:0.01;border:0"
        bait = f"<button>Win</button><iframe src='{victim.origin}/' style='{style}'></iframe>"
        page.goto(attacker.publish(bait, host=host))
        inside = page.frames[1]
        button = inside.query_selector("#accept")
        box = button.bounding_box() if button else None
        if box:
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_timeout(300)
        if victim.count() > before:
            return True
    return False


def markup_in_a_name(context: Any, victim: Victim, attacker: Attacker) -> bool:
    """The scanner's operator typed markup as the animal's name."""
    page = context.new_page()
    page.goto(victim.marked_page)
    if page.query_selector("#reviewer-name"):
        page.fill("#reviewer-name", "victim")
        page.click("#reviewer-start")
        page.wait_for_selector("body[data-ready='1']")
        page.keyboard.press("?")
    page.wait_for_timeout(300)
    return page.evaluate("document.documentElement.dataset.owned") == "1"


ATTACKS = (
    dns_rebinding,
    cross_site_post,
    neighbouring_port_post,
    state_changing_get,
    cross_site_read,
    clickjacking,
    markup_in_a_name,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_works_on_a_naive_server(attack, browser, naive, attacker):
    window = browser.new_context()
    try:
        assert attack(window, naive, attacker)
    finally:
        window.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_fails_here(attack, browser, ours, attacker):
    server, victim = ours
    window = browser.new_context()
    window.add_cookies(server.cookies)
    try:
        assert not attack(window, victim, attacker)
    finally:
        window.close()


def test_the_forged_decision_would_be_a_good_one(ours):
    # Otherwise the attacks above could fail because the decision was malformed.
    server, victim = ours
    (cookie,) = server.cookies
    headers = {
        "Cookie": f"{cookie['name']}={cookie['value']}",
        "Origin": server.origin,
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/json",
    }
    before = victim.count()
    status, _, body = server.request("POST", "/api/decision", headers, json.dumps(victim.decision))
    assert status == 200, body
    assert victim.count() == before + 1

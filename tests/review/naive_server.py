"""A review server as one writes it in an afternoon: every attack of `test_attacks` succeeds here.

It is the positive control. No Host check, no token, any content type, any origin, state changed by
GET, names pasted into the page, open to every frame. Never serve real data with it.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

SUBJECT = "<img src=/nothing onerror=\"document.documentElement.dataset.owned='1'\">"

PAGE = """<!doctype html><title>review</title><h1>Subject SUBJECT</h1>
<button id="accept" style="width: 300px; height: 200px">Accept</button>
<script>
document.querySelector("#accept").onclick = () =>
  fetch("/api/decision", {method: "POST", body: JSON.stringify({item: 0, choice: 1})});
</script>"""

decisions: list[Any] = []


class Naive(BaseHTTPRequestHandler):
    """Answers whoever asks."""

    def do_GET(self) -> None:
        """Serve everything, and change state when a query says so."""
        url = urlsplit(self.path)
        if url.path == "/":
            self._answer("text/html", PAGE.replace("SUBJECT", SUBJECT))
        elif url.path == "/api/decision":
            decisions.append(parse_qs(url.query))
            self._answer("application/json", "{}")
        elif url.path == "/api/queue":
            self._answer("application/json", json.dumps([{"item": 0, "mine": None}]))
        elif url.path == "/decisions":
            self._answer("application/json", json.dumps(len(decisions)))
        else:
            self._answer("text/plain", "?")

    def do_POST(self) -> None:
        """Believe whatever parses."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        decisions.append(json.loads(body))
        self._answer("application/json", "{}")

    def _answer(self, content_type: str, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Naive)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/"}), flush=True)
    sys.exit(server.serve_forever())

"""Call an ASGI application with exactly the headers a test names, and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

_THREAD = ThreadPoolExecutor(max_workers=1)


@dataclass(frozen=True)
class Response:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


def call(
    app: Any, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
) -> Response:
    """Send one request to an application in this process.

    An exception the application lets through is raised here: it would be a 500.
    """
    path, _, query = target.partition("?")
    sent: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    requests = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(requests, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    # In a thread of its own: Playwright's event loop may be running in this one.
    _THREAD.submit(lambda: asyncio.run(app(scope, receive, send))).result()
    start = next(message for message in sent if message["type"] == "http.response.start")
    chunks = [message.get("body", b"") for message in sent if message["type"] != start["type"]]
    found = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return Response(start["status"], found, b"".join(chunks))

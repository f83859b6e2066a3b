"""Who may talk to the review page: one browser, on this computer, from the page itself.

The page answers on a port that every program on the computer, and through DNS
rebinding every web site, can reach. `Guard` therefore looks at each request
before the application does: the host it was meant for, the session cookie and,
where it could change something, who sent it.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
"""Largest request body in bytes; a decision with its note is below 20 kB."""

MAX_TARGET = 2048
"""Longest path with query in bytes."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Nothing of a subject stays in the browser's cache on disk.
    "Cache-Control": "no-store",
}

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logging.getLogger("srmri.review")


class Session:
    """The one-time token and the session it opens.

    Parameters
    ----------
    token : str
        Secret of the printed address; opens the session once.
    cookie : str
        Name of the session cookie. Cookies are shared by all ports of a host,
        so two reviews side by side need two names.
    """

    def __init__(self, token: str, *, cookie: str) -> None:
        self.cookie = cookie
        self._token: str | None = token
        self._secret = secrets.token_urlsafe(32)

    def open(self, token: str) -> str | None:
        """Exchange the token for the session's secret, once.

        Parameters
        ----------
        token : str
            As the browser sent it.

        Returns
        -------
        str or None
            Value of the session cookie; None if the token is wrong or used up.
        """
        if self._token is None or not _same(token, self._token):
            return None
        self._token = None
        return self._secret

    def holds(self, headers: Headers) -> bool:
        """Return whether a request carries the session cookie.

        Parameters
        ----------
        headers : Headers
            Of the request.

        Returns
        -------
        bool
            True for the browser that opened the session.
        """
        # Read by hand: the cookies of other programs on this computer arrive too, and a strict
        # parser stops at the first one it does not like.
        for line in headers.getlist("cookie"):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.cookie and _same(value, self._secret):
                    return True
        return False


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))


class Guard:
    """Middleware that refuses what did not come from the page, and seals every answer.

    Parameters
    ----------
    app : ASGI application
        What to protect.
    session : Session
        Who is in.
    allowed_hosts : iterable of str
        Accepted ``Host`` headers, with port: ``127.0.0.1:8123``.
    any_address : bool
        Also accept every IP address as host (``--allow-remote``): DNS rebinding
        needs a name.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        session: Session,
        allowed_hosts: Iterable[str],
        any_address: bool = False,
    ) -> None:
        self._app = app
        self._session = session
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Parameters
        ----------
        scope, receive, send
            As ASGI defines them.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sealed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await error_response(scope, *refusal)(scope, receive, sealed)
            return
        try:
            body = await _bounded_body(scope, receive)
            if body is None:
                refused = error_response(
                    scope, 413, f"the request is larger than {MAX_BODY} bytes", "shorten the note"
                )
                await refused(scope, receive, sealed)
                return
            await self._app(scope, body, sealed)
        except _DisconnectedError:
            return
        except Exception:
            # The last line of defence: the reader gets a sentence, the log the traceback.
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            answer = error_response(
                scope, 500, "the review server failed", "look at the terminal it was started in"
            )
            await answer(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, error and hint when a request must not reach the application."""
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET:
            return 414, "the address is too long", "open the page with the printed address"
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return 400, "a request needs exactly one Host header", ""
        host = hosts[0].lower()
        if not self._is_own_host(host):
            return (
                421,
                "this server does not answer under that name",
                "open http://127.0.0.1 with the port that was printed; through an SSH tunnel, "
                "use the same port number on both sides",
            )
        opens_session = scope["path"] == "/auth" and scope["method"] == "GET"
        if not opens_session and not self._session.holds(headers):
            return (
                401,
                "this browser has not signed in",
                "open the address that `srmri review` printed",
            )
        if scope["method"] in _SAFE_METHODS:
            return None
        return _foreign(headers, host)

    def _is_own_host(self, host: str) -> bool:
        if host in self._hosts:
            return True
        if not self._any_address:
            return False
        name, _, port = host.rpartition(":")
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return any(own.rpartition(":")[2] == port for own in self._hosts)


def _foreign(headers: Headers, host: str) -> tuple[int, str, str] | None:
    """Return why a request that could change something did not come from the page."""
    origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
    if (
        any(origin.lower() != f"http://{host}" for origin in origins)
        or any(site != "same-origin" for site in sites)
        or max(len(origins), len(sites)) > 1
        or not (origins or sites)
    ):
        return 403, "the request did not come from the review page", "use the page itself"
    if headers.getlist("content-type") != ["application/json"]:
        return 415, "the request is not JSON", "send Content-Type: application/json"
    return None


class _DisconnectedError(Exception):
    """The browser went away before its request was complete."""


async def _bounded_body(scope: Scope, receive: Receive) -> Receive | None:
    """Read a request's body, or return None as soon as it is too large."""
    claimed = Headers(scope=scope).get("content-length", "0")
    if not claimed.isascii() or not claimed.isdigit() or len(claimed) > 9:
        return None
    if int(claimed) > MAX_BODY:
        return None
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def error_response(scope: Scope, status: int, error: str, hint: str = "", **facts: Any) -> Response:
    """Return an error: a sentence for a person who opened a page, JSON for the page.

    Parameters
    ----------
    scope : mapping
        ASGI scope of the request.
    status : int
        HTTP status.
    error : str
        What is wrong.
    hint : str
        What to do about it.
    **facts
        More members of the JSON object, such as ``current_revision``.

    Returns
    -------
    Response
        Never a traceback.
    """
    accepts = Headers(scope=scope).get("accept", "")
    if "text/html" in accepts and not scope["path"].startswith("/api/"):
        page = Markup(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><title>srmri review</title>'
            "<main><h1>{}</h1><p>{}</p></main></html>"
        ).format(error[:1].upper() + error[1:] + ".", hint[:1].upper() + hint[1:])
        return HTMLResponse(page, status)
    return json_response({"error": error, "hint": hint, **facts}, status)


def json_response(document: Any, status: int = 200) -> Response:
    """Return a JSON document.

    Parameters
    ----------
    document : JSON-able
        What to send; infinities and NaN are refused.
    status : int
        HTTP status.

    Returns
    -------
    Response
        Not cached.
    """
    text = json.dumps(document, allow_nan=False, ensure_ascii=True)
    return Response(text, status, media_type="application/json")

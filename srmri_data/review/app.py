"""The review application: every route it has, and what each one answers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from srmri_data.errors import MissingInputError, SrmriError, UsageError
from srmri_data.review.images import ReviewImages
from srmri_data.review.items import ItemFacts
from srmri_data.review.messages import parse_decision, parse_json, parse_undo
from srmri_data.review.openapi import openapi_document
from srmri_data.review.security import Guard, Session, error_response, json_response
from srmri_data.run_folder import Run, open_run
from srmri_data.store import (
    Event,
    ItemState,
    ReviewStore,
    StaleRevision,
    StoreBusyError,
    SubmissionConflictError,
    UnknownItemError,
    reviewer_name,
)

VIEWS = ("single", "blink", "swipe", "checker", "difference", "edges", "opacity", "side")
"""Ways to look at a pair, in the order of the page's buttons."""

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _ConflictError(UsageError):
    """A sound request that what was decided meanwhile has made pointless."""


class _OtherRunError(UsageError):
    """A tab left open, and today's run answers at yesterday's address."""


_STATUS: tuple[tuple[type[SrmriError], int], ...] = (
    (UnknownItemError, 404),
    (MissingInputError, 404),
    (SubmissionConflictError, 409),
    (_ConflictError, 409),
    (StoreBusyError, 503),
)
"""HTTP status of each error; anything else the caller said is 422."""


def create_app(
    run: Path,
    *,
    store: ReviewStore,
    images: ReviewImages,
    token: str,
    allowed_hosts: Iterable[str],
    reviewer_default: str | None = None,
    blind: bool = True,
    cookie: str = "srmri_session",
    any_address: bool = False,
) -> Starlette:
    """Build the review application of one run.

    Parameters
    ----------
    run : Path
        Run folder.
    store : ReviewStore
        Its decisions.
    images : ReviewImages
        Its slices.
    token : str
        One-time token of the address that opens the page.
    allowed_hosts : iterable of str
        Accepted ``Host`` headers, with port.
    reviewer_default : str, optional
        Reviewer to begin with; otherwise the page asks.
    blind : bool
        Keep the voters' picks covered until the reviewer has decided, and shuffle the
        candidates; the order shown is recorded with each decision.
    cookie : str
        Name of the session cookie.
    any_address : bool
        Also accept every IP address as host.

    Returns
    -------
    Starlette
        The application. No route takes a path or an address, and apart from the
        exchange of the token no GET changes anything.
    """
    session = Session(token, cookie=cookie)
    pages = _Pages(run, store=store, images=images, reviewer=reviewer_default, blind=blind)
    routes = [
        Route("/auth", functools.partial(_authenticate, session=session)),
        Route("/", pages.index),
        Route("/static/{name}", pages.static),
        Route("/api/run", pages.run),
        Route("/api/queue", pages.queue),
        Route("/api/item/{lr_slice:int}", pages.item),
        Route("/api/image/lr/{n:int}", pages.low_res),
        Route("/api/image/hr/{n:int}", pages.high_res),
        Route("/api/decision", pages.decide, methods=["POST"]),
        Route("/api/undo", pages.undo, methods=["POST"]),
        Route("/api/openapi.json", pages.openapi),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, session=session, allowed_hosts=allowed_hosts, any_address=any_address)
        ],
        exception_handlers={
            SrmriError: _expected_error,
            HTTPException: _http_error,
        },
    )


async def _authenticate(request: Request, *, session: Session) -> Response:
    """Exchange the one-time token for the session cookie."""
    if request.method != "GET":
        # A link preview asks with HEAD; it must not use the token up.
        raise HTTPException(405)
    secret = session.open(request.query_params.get("token", ""))
    if secret is None:
        return error_response(
            request.scope,
            403,
            "this address has been used already, or is not the one that was printed",
            "go on in the tab that is open, or stop `srmri review` and start it again",
        )
    response: Response
    if request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        response = RedirectResponse("/", 303)
    else:
        # The link was clicked on another site, a notebook or a chat. A browser does not send a
        # strict cookie along a redirect that began elsewhere; a page that moves on by itself is
        # a new beginning.
        response = HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>srmri review</title>'
            '<meta http-equiv="refresh" content="0;url=/"><a href="/">Open the review page</a>'
        )
    response.set_cookie(session.cookie, secret, path="/", httponly=True, samesite="strict")
    return response


class _Pages:
    """The endpoints, and what they share."""

    def __init__(
        self,
        run: Path,
        *,
        store: ReviewStore,
        images: ReviewImages,
        reviewer: str | None,
        blind: bool,
    ) -> None:
        opened = open_run(run)
        self._store, self._images, self._blind = store, images, blind
        self._facts = ItemFacts.open(opened)
        self._about = _about(opened, images, store, blind=blind)
        self._index = _render_index(opened.summary, reviewer)
        self._static = _static_files()

    def index(self, request: Request) -> Response:
        return HTMLResponse(self._index)

    def static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        content, media_type = found
        return Response(content, headers={"Content-Type": media_type})

    def run(self, request: Request) -> Response:
        return json_response(self._about)

    def openapi(self, request: Request) -> Response:
        return json_response(openapi_document(self._store.n_high))

    def queue(self, request: Request) -> Response:
        reviewer = _reviewer(request)
        # Slices that show next to nothing come last: they teach least, and cost patience most.
        states = sorted(self._store.queue(reviewer), key=lambda state: state.auto.empty)
        return json_response(
            {
                "reviewer": reviewer,
                "items": [_own_state(state) for state in states],
                "undoable": _event(self._store.undoable(reviewer)),
                "redoable": _event(self._store.redoable(reviewer)),
            }
        )

    def item(self, request: Request) -> Response:
        reviewer = _reviewer(request)
        lr_slice = request.path_params["lr_slice"]
        state = self._store.item(lr_slice, reviewer)
        facts = self._facts.describe(lr_slice, shuffle_for=reviewer if self._blind else None)
        return json_response({**_own_state(state), **facts})

    def low_res(self, request: Request) -> Response:
        return _image(self._images.low_res(request.path_params["n"]))

    def high_res(self, request: Request) -> Response:
        match = request.query_params.get("match", "0")
        if match not in ("0", "1"):
            return error_response(request.scope, 422, "match must be 0 or 1")
        return _image(self._images.high_res(request.path_params["n"], matched=match == "1"))

    async def decide(self, request: Request) -> Response:
        document = parse_json(await request.body())
        submission = parse_decision(document)
        self._check_run(document)
        return json_response(_event(await run_in_threadpool(self._store.decide, submission)))

    async def undo(self, request: Request) -> Response:
        document = parse_json(await request.body())
        wanted = parse_undo(document)
        self._check_run(document)
        try:
            event = await run_in_threadpool(
                self._store.undo,
                wanted.reviewer,
                wanted.lr_slice,
                expected_revision=wanted.expected_revision,
                submission_id=wanted.submission_id,
                undoes=wanted.undoes,
                tool_version=version("srmri"),
            )
        except SubmissionConflictError:
            raise
        except UsageError as error:
            # The request is sound: what it wants to take back is not there any more.
            raise _ConflictError(error.message, error.hint) from error
        return json_response(_event(event))

    def _check_run(self, document: Mapping[str, Any]) -> None:
        """Refuse a page that was opened for another run behind the same address."""
        if document.get("run", self._about["id"]) != self._about["id"]:
            raise _OtherRunError(
                "this page was opened for another run than the one that is served now",
                hint="reload the page",
            )


def _reviewer(request: Request) -> str:
    return reviewer_name(request.query_params.get("reviewer", ""))


def _own_state(state: ItemState) -> dict[str, Any]:
    """Return what a reviewer may know about an item: nothing of the other reviewers."""
    return {
        "lr_slice": state.lr_slice,
        "revision": state.revision,
        "status": state.status,
        "mine": state.mine,
        "my_confidence": state.my_confidence,
        "my_note": state.my_note,
    }


def _event(event: Event | None) -> dict[str, Any] | None:
    return None if event is None else asdict(event)


def _image(pixels: Any) -> Response:
    rows, cols = pixels.shape
    return Response(
        pixels.tobytes(),
        media_type="application/octet-stream",
        headers={"X-Rows": str(rows), "X-Cols": str(cols)},
    )


def _about(opened: Run, images: ReviewImages, store: ReviewStore, *, blind: bool) -> dict[str, Any]:
    summary = opened.summary
    return {
        "run": summary["run"],
        "id": _identity(opened, store),
        "subject": summary["hr"]["subject_id"],
        "plane": summary["plane"],
        "n_items": sum(auto.status == "review" for auto in store.items.values()),
        "n_lr": summary["n_lr"],
        "n_hr": summary["n_hr"],
        "lr_spacing_um": summary["lr"]["slice_spacing_um"],
        "hr_spacing_um": summary["hr"]["slice_spacing_um"],
        "scored": {
            "first": summary["hr"]["window"]["slices"][0],
            "last": summary["hr"]["window"]["slices"][1] - 1,
        },
        "voters": list(summary["voters"]),
        "views": list(VIEWS),
        "blind": blind,
        "images": images.describe(),
        "version": version("srmri"),
    }


def _identity(opened: Run, store: ReviewStore) -> str:
    """Tell runs apart: what a browser keeps for one must not be sent to another."""
    facts = json.dumps(opened.provenance) + repr(sorted(store.items.items()))
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _render_index(summary: Mapping[str, Any], reviewer: str | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("srmri_data.review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html.j2").render(
        run=summary["run"], plane=summary["plane"], reviewer=reviewer or "", views=VIEWS
    )


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Read everything the page loads, once: a request can only name what is here."""
    return {
        entry.name: (entry.read_bytes(), _TYPES[Path(entry.name).suffix])
        for entry in files("srmri_data.review").joinpath("static").iterdir()
        if Path(entry.name).suffix in _TYPES
    }


async def _expected_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, SrmriError):
        raise error
    if isinstance(error, StaleRevision):
        return error_response(
            request.scope,
            409,
            error.message,
            error.hint,
            current_revision=error.current_revision,
            state=_own_state(error.state),
        )
    if isinstance(error, _OtherRunError):
        return error_response(request.scope, 409, error.message, error.hint, other_run=True)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 422)
    return error_response(request.scope, status, error.message, error.hint)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    text, hint = {
        404: ("there is nothing at this address", "the page is at /"),
        405: ("this address does not take that method", ""),
    }.get(error.status_code, (error.detail, ""))
    response = error_response(request.scope, error.status_code, text, hint)
    response.headers.update(error.headers or {})
    return response

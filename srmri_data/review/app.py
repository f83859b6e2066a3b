"""The review application: every route it has, and what each one answers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
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
from srmri_data.review.sitting import Item, Sitting, SittingConfig
from srmri_data.run_folder import Run, open_run
from srmri_data.store import (
    Event,
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
    config: SittingConfig | None = None,
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
    config : SittingConfig, optional
        Blind without trials by default.
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
    pages = _Pages(
        run,
        store=store,
        images=images,
        reviewer=reviewer_default,
        config=config or SittingConfig(),
    )
    routes = [
        Route("/auth", functools.partial(_authenticate, session=session)),
        Route("/", pages.index),
        Route("/static/{name}", pages.static),
        Route("/api/run", pages.run),
        Route("/api/queue", pages.queue),
        Route("/api/clear", pages.clear),
        Route("/api/item/{item:int}", pages.item),
        Route("/api/image/lr/{item:int}", pages.low_res),
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
        config: SittingConfig,
    ) -> None:
        opened = open_run(run)
        if not any(auto.status == "review" for auto in store.items.values()):
            # Nothing to mix trials into: slices keep their numbers.
            config = replace(config, catch=0.0, repeat=0.0)
        self._store, self._images, self._config = store, images, config
        self._facts = ItemFacts.open(opened, store.items, seed=store.seed)
        self._sitting = Sitting(store, config, hr_range=self._facts.hr_range)
        self._about = _about(opened, images, store, config)
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
        known = {} if self._config.masked else {"last_item": max(self._store.items)}
        return json_response(openapi_document(self._store.n_high, **known))

    def queue(self, request: Request) -> Response:
        reviewer = _reviewer(request)
        trials = self._config.masked
        return json_response(
            {
                "reviewer": reviewer,
                "items": [_own_state(item) for item in self._sitting.queue(reviewer)],
                "undoable": self._event(reviewer, self._store.undoable(reviewer, trials=trials)),
                "redoable": self._event(reviewer, self._store.redoable(reviewer, trials=trials)),
            }
        )

    def clear(self, request: Request) -> Response:
        """Items whose voters all but agree, for one look at the list instead of one at each."""
        reviewer = _reviewer(request)
        return json_response(
            {
                "items": [
                    {**_own_state(item), "choice": choice}
                    for item, choice in self._sitting.clear(reviewer)
                ]
            }
        )

    def item(self, request: Request) -> Response:
        reviewer = _reviewer(request)
        item = self._sitting.item(reviewer, request.path_params["item"])
        facts = self._facts.describe(
            item.question,
            reviewer=reviewer,
            shuffle=self._config.blind,
            covered=self._sitting.covered(reviewer, item),
            blind=self._config.blind,
            answers=self._sitting.answers(item.question.lr_slice),
            number=self._sitting.numbers(reviewer).get,
        )
        return json_response({**_own_state(item), **facts})

    def low_res(self, request: Request) -> Response:
        question = self._sitting.question(_reviewer(request), request.path_params["item"])
        if question.truth is None:
            return _image(self._images.low_res(question.lr_slice))
        seed = self._store.seed + question.lr_slice
        return _image(self._images.simulated(question.truth, seed=seed))

    def high_res(self, request: Request) -> Response:
        match = request.query_params.get("match", "0")
        if match not in ("0", "1"):
            return error_response(request.scope, 422, "match must be 0 or 1")
        return _image(self._images.high_res(request.path_params["n"], matched=match == "1"))

    async def decide(self, request: Request) -> Response:
        document = parse_json(await request.body())
        submission = parse_decision(
            document, self._sitting.question, adjudicates=self._config.adjudicate
        )
        self._check_run(document)
        try:
            event = await run_in_threadpool(self._store.decide, submission)
        except StaleRevision as stale:
            return self._stale(request, document, stale)
        return json_response(self._event(submission.reviewer, event))

    async def undo(self, request: Request) -> Response:
        document = parse_json(await request.body())
        wanted = parse_undo(document, self._sitting.question)
        self._check_run(document)
        try:
            event = await run_in_threadpool(
                self._store.undo,
                wanted.reviewer,
                wanted.question.lr_slice,
                expected_revision=wanted.expected_revision,
                submission_id=wanted.submission_id,
                undoes=wanted.undoes,
                trial=wanted.question.trial,
                tool_version=version("srmri"),
            )
        except StaleRevision as stale:
            return self._stale(request, document, stale)
        except SubmissionConflictError:
            raise
        except UsageError as error:
            # The request is sound: what it wants to take back is not there any more.
            raise _ConflictError("there is nothing to undo here", "reload the page") from error
        return json_response(self._event(wanted.reviewer, event))

    def _event(self, reviewer: str, event: Event | None) -> dict[str, Any] | None:
        """Return an event as its reviewer may see it: what the item is for stays out."""
        number = self._sitting.number(reviewer, event)
        if event is None or number is None:
            return None
        facts = asdict(event)
        for name in ("lr_slice", "trial", "truth"):
            del facts[name]
        return {"item": number, **facts}

    def _stale(
        self, request: Request, document: Mapping[str, Any], stale: StaleRevision
    ) -> Response:
        item = self._sitting.item(reviewer_name(document["reviewer"]), document["item"])
        return error_response(
            request.scope,
            409,
            "the answer to this item changed since the page read it",
            stale.hint,
            current_revision=stale.current_revision,
            state=_own_state(item),
        )

    def _check_run(self, document: Mapping[str, Any]) -> None:
        """Refuse a page that was opened for another run behind the same address."""
        if document.get("run", self._about["id"]) != self._about["id"]:
            raise _OtherRunError(
                "this page was opened for another run than the one that is served now",
                hint="reload the page",
            )


def _reviewer(request: Request) -> str:
    return reviewer_name(request.query_params.get("reviewer", ""))


def _own_state(item: Item) -> dict[str, Any]:
    """Return what a reviewer may know about an item: nothing of the other reviewers."""
    state = item.state
    return {
        "item": item.number,
        "revision": state.revision,
        "mine": state.mine,
        "my_confidence": state.my_confidence,
        "my_note": state.my_note,
    }


def _image(pixels: Any) -> Response:
    rows, cols = pixels.shape
    return Response(
        pixels.tobytes(),
        media_type="application/octet-stream",
        headers={"X-Rows": str(rows), "X-Cols": str(cols)},
    )


def _about(
    opened: Run, images: ReviewImages, store: ReviewStore, config: SittingConfig
) -> dict[str, Any]:
    summary = opened.summary
    return {
        "run": summary["run"],
        "id": _identity(opened, store, config),
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
        "blind": config.blind,
        "masked": config.masked,
        "adjudicate": config.adjudicate,
        "images": images.describe(),
        "version": version("srmri"),
    }


def _identity(opened: Run, store: ReviewStore, config: SittingConfig) -> str:
    """Tell runs and ways to review apart: what a browser keeps for one is not sent to another."""
    facts = json.dumps(opened.provenance) + repr(sorted(store.items.items()))
    facts += repr((store.seed, config.masked, config.adjudicate))
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

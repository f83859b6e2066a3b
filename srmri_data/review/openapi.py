"""The description of the review server for programs, OpenAPI 3.1."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from srmri_data.decisions import MAX_NOTE, MAX_REVIEWER

_MAX_INT = 2**31 - 1
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Schema = dict[str, Any]

# Not of spaces alone, as Python counts them. That a name is printable is beyond a pattern.
_REVIEWER: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_REVIEWER,
    "pattern": "[^\\s\\u001c-\\u001f\\u0085]",
}


def openapi_document(n_high: int, *, last_item: int = _MAX_INT) -> dict[str, Any]:
    """Return the description of every route.

    Parameters
    ----------
    n_high : int
        HR slices of the run; a choice is below it.
    last_item : int
        Largest number of an item.

    Returns
    -------
    dict
        An OpenAPI 3.1 document.
    """
    item = _path("item", "an item of the queue", last_item)
    number = _path("n", "slice number")
    reviewer: Schema = {
        "name": "reviewer",
        "in": "query",
        "required": True,
        "description": "who reviews",
        "schema": _REVIEWER,
    }
    match: Schema = {
        "name": "match",
        "in": "query",
        "required": False,
        "description": "1: at LR's in-plane resolution",
        "schema": {"type": "string", "enum": ["0", "1"], "default": "0"},
    }
    token: Schema = {
        "name": "token",
        "in": "query",
        "required": True,
        "description": "the one-time token that was printed",
        "schema": {"type": "string"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "srmri review",
            "version": version("srmri"),
            "description": "Settle undecided LR-HR pairs by eye. Requests that change something "
            "must come from the page itself: same Origin, JSON.",
        },
        "paths": {
            "/auth": {
                "get": {
                    "summary": "Exchange the one-time token for a session",
                    "security": [],
                    "parameters": [token],
                    "responses": {
                        "303": {"description": "the cookie is set; go to /"},
                        **_errors(400, 403, 414, 421),
                    },
                }
            },
            "/": {
                "get": {
                    "summary": "The page",
                    "responses": {
                        "200": _content("the page", "text/html", {"type": "string"}),
                        **_errors(400, 401, 414, 421),
                    },
                }
            },
            "/static/{name}": {
                "get": {
                    "summary": "Scripts and styles of the page",
                    "parameters": [
                        {
                            "name": "name",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "pattern": "^[a-z_]+\\.(js|css|svg)$"},
                        }
                    ],
                    "responses": {
                        "200": {
                            "description": "the file",
                            "content": {
                                name: {"schema": {"type": "string"}}
                                for name in ("text/javascript", "text/css", "image/svg+xml")
                            },
                        },
                        **_errors(400, 401, 404, 414, 421),
                    },
                }
            },
            "/api/run": {"get": _read("The run", "Run")},
            "/api/queue": {"get": _read("A reviewer's own answers", "Queue", reviewer)},
            "/api/clear": {
                "get": _read("Items that can be accepted together, and as what", "Clear", reviewer)
            },
            "/api/item/{item}": {
                "get": _read("Everything to show for one item", "Item", item, reviewer)
            },
            "/api/image/lr/{item}": {
                "get": _read_image("An item's LR slice at HR's pixels", item, reviewer)
            },
            "/api/image/hr/{n}": {"get": _read_image("An HR slice", number, match)},
            "/api/decision": {"post": _write("Record a decision", "Submission")},
            "/api/undo": {"post": _write("Undo, or redo", "Undo")},
            "/api/openapi.json": {
                "get": {
                    "summary": "This document",
                    "responses": {
                        "200": _content("OpenAPI 3.1", "application/json", {"type": "object"}),
                        **_errors(400, 401, 414, 421),
                    },
                }
            },
        },
        "security": [{"session": []}],
        "components": {
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "srmri_session"}
            },
            "schemas": _schemas(n_high, last_item),
        },
    }


def _path(name: str, description: str, most: int = _MAX_INT) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": _integer(high=most),
    }


def _integer(low: int = 0, high: int = _MAX_INT) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(description: str, media_type: str, schema: Schema) -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


_MEANINGS = {
    400: "not exactly one Host header",
    401: "not signed in",
    403: "not from the page, or a used token",
    404: "no such item, slice or file",
    409: "the item or the run is another now, there is nothing to undo, or the id was used before",
    413: "the body is too large",
    414: "the address is too long",
    415: "not JSON",
    421: "another host's name",
    422: "a value is missing or out of range",
    503: "the database is locked; send the same again",
}


def _errors(*statuses: int) -> Schema:
    return {
        str(status): _content(
            _MEANINGS[status],
            "application/json",
            _reference("Conflict" if status == 409 else "Error"),
        )
        for status in statuses
    }


def _read(summary: str, schema: str, *parameters: Schema) -> Schema:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": _content(summary, "application/json", _reference(schema)),
            **_errors(400, 401, 404, 414, 421, 422, 503),
        },
    }


def _read_image(summary: str, *parameters: Schema) -> Schema:
    size = {"schema": {"type": "integer", "minimum": 1}, "required": True}
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {
                **_content(
                    "raw little-endian uint16, row after row",
                    "application/octet-stream",
                    {"type": "string", "format": "binary"},
                ),
                "headers": {"X-Rows": size, "X-Cols": size},
            },
            **_errors(400, 401, 404, 414, 421, 422, 503),
        },
    }


def _write(summary: str, schema: str) -> Schema:
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _reference(schema)}},
        },
        "responses": {
            "200": _content("the event that was recorded", "application/json", _reference("Event")),
            **_errors(400, 401, 403, 404, 409, 413, 414, 415, 421, 422, 503),
        },
    }


def _object(properties: Schema, *, optional: tuple[str, ...] = (), closed: bool = True) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        **({"additionalProperties": False} if closed else {}),
    }


def _schemas(n_high: int, last_item: int) -> Schema:
    text: Schema = {"type": "string"}
    choice: Schema = {
        "anyOf": [_integer(high=n_high - 1), {"type": "string", "enum": ["none", "unsure"]}]
    }
    confidence = _or_null(_integer(1, 4))
    note: Schema = {"type": "string", "maxLength": MAX_NOTE}
    slices: Schema = {"type": "array", "items": _integer(), "maxItems": 64}
    views: Schema = {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 40},
        "maxItems": 32,
    }
    submission_id: Schema = {"type": "string", "pattern": _UUID}
    address: Schema = {
        "item": _integer(high=last_item),
        "reviewer": _REVIEWER,
        "expected_revision": _integer(),
        "submission_id": submission_id,
    }
    own_state: Schema = {
        "item": _integer(),
        "revision": _integer(),
        "mine": _or_null(choice),
        "my_confidence": confidence,
        "my_note": note,
    }
    pixel = {"first": _integer(), "last": _integer()}
    return {
        "Error": _object({"error": text, "hint": text}),
        "Conflict": _object(
            {
                "error": text,
                "hint": text,
                "current_revision": _integer(),
                "state": _reference("State"),
                "other_run": {"type": "boolean"},
            },
            optional=("current_revision", "state", "other_run"),
        ),
        "State": _object(own_state),
        "Submission": _object(
            {
                **address,
                "choice": choice,
                "confidence": confidence,
                "note": note,
                "shown": slices,
                "visible_ms": _integer(high=7 * 24 * 3600 * 1000),
                "views": views,
                "tool_version": {"type": "string", "maxLength": 40},
                "run": {"type": "string", "description": "id of the run the page was opened for"},
            },
            optional=("run", "confidence", "note", "shown", "visible_ms", "views", "tool_version"),
        ),
        "Undo": _object(
            {**address, "undoes": _or_null(_integer(low=1)), "run": text},
            optional=("undoes", "run"),
        ),
        "Event": _object(
            {
                "id": _integer(low=1),
                "kind": {"type": "string", "enum": ["decision", "undo"]},
                "item": _integer(),
                "reviewer": _REVIEWER,
                "submission_id": submission_id,
                "choice": _or_null(choice),
                "at": {"type": "string", "format": "date-time"},
                "revision": _integer(low=1),
                "undoes": _or_null(_integer(low=1)),
                "confidence": confidence,
                "note": note,
                "shown": slices,
                "visible_ms": _integer(),
                "views": views,
                "tool_version": text,
                "adjudicates": {"type": "boolean"},
            }
        ),
        "Queue": _object(
            {
                "reviewer": _REVIEWER,
                "items": {"type": "array", "items": _reference("State")},
                "undoable": _or_null(_reference("Event")),
                "redoable": _or_null(_reference("Event")),
            }
        ),
        "Clear": _object(
            {"items": {"type": "array", "items": _object({**own_state, "choice": _integer()})}}
        ),
        "Item": _object(
            {
                **own_state,
                "candidates": {
                    "type": "array",
                    "maxItems": 9,
                    "items": _object(
                        {"hr_slice": _integer(), "labels": {"type": "array", "items": text}}
                    ),
                },
                "votes": {"type": "object", "additionalProperties": _integer()},
                "scores": {
                    "type": "object",
                    "additionalProperties": {"type": "array", "items": {"type": "number"}},
                },
                "covered": {"type": "boolean"},
                "expected": {"type": "number"},
                "reason": text,
                "empty": {"type": "boolean"},
                "neighbours": {
                    "type": "array",
                    "items": _object(
                        {
                            "distance": {"type": "integer"},
                            "item": _or_null(_integer()),
                            "hr_slice": _or_null(_integer()),
                            "expected": {"type": "number"},
                            "status": text,
                        }
                    ),
                },
            }
        ),
        "Run": _object(
            {
                "run": text,
                "id": text,
                "plane": text,
                "n_items": _integer(),
                "version": text,
                "views": {"type": "array", "items": text},
                "voters": {"type": "array", "items": text},
                "blind": {"type": "boolean"},
                "masked": {"type": "boolean", "description": "trials are among the items"},
                "adjudicate": {"type": "boolean"},
                "images": _object(
                    {
                        "rows": _integer(1),
                        "cols": _integer(1),
                        "lr": _object(pixel),
                        "hr": _object(pixel),
                    },
                    closed=False,
                ),
            },
            closed=False,
        ),
    }

"""Whatever is sent, the API answers as its own description says, and never 5xx."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from asgi_client import call
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis")

# The host schemathesis uses when it tries what happens without the cookie.
HOST = "testserver"


@pytest.fixture(scope="module")
def review(make_app):
    return make_app(HOST)


@pytest.fixture(scope="module")
def headers(review) -> dict[str, str]:
    return {
        "Host": HOST,
        "Cookie": review.cookie,
        "Origin": f"http://{HOST}",
        "Sec-Fetch-Site": "same-origin",
    }


@pytest.fixture(scope="module")
def description(review, headers) -> dict[str, Any]:
    return call(review.app, "GET", "/api/openapi.json", headers.items()).json()


def test_every_api_route_is_described(review, description):
    described = {
        (path, method.upper())
        for path, operations in description["paths"].items()
        for method in operations
    }
    served = {
        (route.path.replace(":int", ""), method)
        for route in review.app.routes
        if route.path.startswith("/api/")
        for method in route.methods - {"HEAD"}
    }
    assert served <= described
    assert description["openapi"].startswith("3.1")


def sayable(case: Any) -> bool:
    """Whether texts are printable: a rule that JSON Schema has no words for."""
    return all(text.strip().isprintable() for text in _texts([case.query, case.body]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def as_first_answers(description: dict[str, Any]) -> dict[str, Any]:
    """Narrow good decisions to those of a reviewer who has not answered: they can be saved."""
    narrowed = copy.deepcopy(description)
    fields = narrowed["components"]["schemas"]["Submission"]["properties"]
    fields["expected_revision"] = {"type": "integer", "minimum": 0, "maximum": 0}
    return narrowed


def fuzz(review, description, headers, *, examples: int) -> Counter[tuple[str, int]]:
    """Call every operation with valid and with broken data; count the answers by status."""
    answers: Counter[tuple[str, int]] = Counter()
    # Broken data shall be broken in itself: every call carries the cookie, so leaving it out is
    # no way to break one. (That it is needed is tried with the good data.)
    open_to_all = {name: part for name, part in description.items() if name != "security"}

    # Without a word from us an answer within ten seconds is asked for: a busy machine draws the
    # first picture of a run more slowly.
    unhurried = {"timeout": None}
    acceptance = schemathesis.checks.positive_data_acceptance

    def check(case: Any) -> None:
        response = case.call(headers=headers, **unhurried)
        answers[case.operation.label, response.status_code] += 1
        case.validate_response(
            response,
            headers=headers,
            transport_kwargs=unhurried,
            excluded_checks=[] if sayable(case) else [acceptance],
        )

    generous = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for mode in schemathesis.GenerationMode:
        positive = mode == schemathesis.GenerationMode.POSITIVE
        schema = schemathesis.openapi.from_dict(
            as_first_answers(description) if positive else open_to_all
        )
        schema.app = review.app
        # What takes nothing can not be sent anything broken.
        nothing_to_break = () if positive else (Unsatisfiable,)
        for result in schema.get_all_operations():
            with suppress(*nothing_to_break):
                generous(given(case=result.ok().as_strategy(generation_mode=mode))(check))()
    return answers


def test_answers_are_as_described(review, description, headers):
    answers = fuzz(review, description, headers, examples=15)
    assert sum(answers.values()) >= 200
    assert max(status for _, status in answers) < 500


@pytest.mark.slow
def test_answers_are_as_described_two_thousand_times(review, description, headers):
    answers = fuzz(review, description, headers, examples=200)
    print(sum(answers.values()), dict(sorted(answers.items())))
    assert sum(answers.values()) >= 2000
    assert max(status for _, status in answers) < 500
    assert answers["POST /api/decision", 200] > 0
    # Good requests were among them, and conflicts.
    assert {status for _, status in answers} >= {200, 404, 409, 422}

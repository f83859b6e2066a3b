"""The review as it may be published: what was answered and how, never by whom or in which words."""

from __future__ import annotations

import re
from typing import Any

from srmri_data.decisions import Event
from srmri_data.deid.pseudonyms import Pseudonyms

# What the page knows; anything else came from somewhere else and could say anything.
_VIEWS = frozenset(
    [
        *("bulk", "single", "blink", "swipe", "checker", "difference", "edges", "opacity", "side"),
        *("hold", "matched", "reveal"),
    ]
)
_TOOL = re.compile(r"srmri[ /-]?\d+(\.\d+){0,3}")


def public_event(event: Event, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """Return an entry of the log without names, notes, times and random numbers.

    Parameters
    ----------
    event : Event
        As logged.
    pseudonyms : Pseudonyms
        Names of the reviewers.

    Returns
    -------
    dict
        JSON-able values.
    """
    return {
        "id": event.id,
        "kind": event.kind,
        "lr_slice": event.lr_slice,
        "choice": event.choice,
        "reviewer": pseudonyms.reviewer(event.reviewer),
        "revision": event.revision,
        "undoes": event.undoes,
        "confidence": event.confidence,
        "shown": list(event.shown),
        "visible_ms": event.visible_ms,
        "views": [view for view in event.views if view in _VIEWS],
        "tool_version": event.tool_version if _TOOL.fullmatch(event.tool_version) else "",
        "adjudicates": event.adjudicates,
        "trial": event.trial,
        "truth": event.truth,
    }

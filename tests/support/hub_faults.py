"""Which requests of a push to break, and how: the list the fault tests go through."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from local_hub import Entry, Fault

EVERYWHERE = ("500", "503", "429", "drop", "lost")
WITH_BODY = ("abort",)
WITH_ANSWER = ("cut", "garbage")
CONTENT = {
    "refs": "stale",
    "put": "corrupt",
    "complete": "corrupt",
    "object": "corrupt",
    "resolve": "corrupt",
}
FINAL = ("401", "403", "404")
KILLS = ("kill before", "kill amid", "kill after")


@dataclass(frozen=True)
class Case:
    """The nth request on a route, and what befalls it."""

    route: str
    nth: int
    kind: str

    def __str__(self) -> str:
        return f"{self.route}-{self.nth}-{self.kind.replace(' ', '-')}"

    def fault(self) -> Fault:
        """Return the fault to arm; for a kill, its action is still to be set."""
        if self.kind in KILLS:
            kind = "abort" if self.kind == "kill amid" else "call"
            return Fault(self.route, kind, self.nth, after=self.kind == "kill after")
        headers = {"Retry-After": "7"} if self.kind == "429" else {}
        return Fault(self.route, self.kind, self.nth, headers=headers)


def possible(log: Sequence[Entry], *, kills: bool) -> list[Case]:
    """Return all there is to break in a push that went well, in a fixed order."""
    cases = []
    counts: dict[str, int] = {}
    for entry in log:
        counts[entry.route] = counts.get(entry.route, 0) + 1
        nth = counts[entry.route]
        kinds = list(KILLS) if kills else [*EVERYWHERE, *FINAL]
        if kills and not entry.received:
            kinds.remove("kill amid")
        if not kills and entry.received:
            kinds += WITH_BODY
        if not kills and entry.method == "GET":
            kinds += WITH_ANSWER
        if not kills and entry.route in CONTENT:
            kinds.append(CONTENT[entry.route])
        cases += [Case(entry.route, nth, kind) for kind in kinds]
    return sorted(set(cases), key=str)


def sample(cases: Sequence[Case], n: int, seed: int) -> list[Case]:
    """Draw n cases, of every route and every kind before any comes again."""
    rng = random.Random(seed)
    left = list(cases)
    rng.shuffle(left)
    chosen: list[Case] = []
    routes: dict[str, int] = {}
    kinds: dict[str, int] = {}
    while left and len(chosen) < n:
        case = min(left, key=lambda c: routes.get(c.route, 0) + kinds.get(c.kind, 0))
        left.remove(case)
        chosen.append(case)
        routes[case.route] = routes.get(case.route, 0) + 1
        kinds[case.kind] = kinds.get(case.kind, 0) + 1
    return chosen

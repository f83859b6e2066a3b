"""What a reviewer is asked, and in which order. Plain values: no storage, no images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from srmri_data.decisions import AutoDecision, TrialKind

BLOCK = 8
"""Most neighbouring LR slices that are asked for in one go."""

_NEIGHBOURS_USED = 6
_NEIGHBOUR_GAP = 2
_CATCH_REACH = 2
_REPEAT_LAG = 10


@dataclass(frozen=True)
class Question:
    """One item of a reviewer's queue.

    Parameters
    ----------
    lr_slice : int
        LR slice that is shown, or whose place a simulated slice takes.
    trial : {"", "catch", "repeat"}
        "" settles a pair. The others tell how well the reviewer sees.
    truth : int, optional
        HR slice a catch trial is simulated from.
    """

    lr_slice: int
    trial: TrialKind = ""
    truth: int | None = None


def open_bits(auto: AutoDecision) -> float:
    """Return how much an item leaves open, in bits.

    Parameters
    ----------
    auto : AutoDecision
        What the matcher said.

    Returns
    -------
    float
        log2 of the number of HR slices from the lowest to the highest pick, the geometry's
        among them: 0 when all picks are the same slice.

    Examples
    --------
    >>> picks = {"pca": 60, "ssim": 63}
    >>> open_bits(AutoDecision(60, 60.0, 60.4, "review", "", picks, 1, 3, 0.1, 0.5, False))
    2.0
    """
    picks = [*auto.votes.values(), round(auto.geometry)]
    return math.log2(1 + max(picks) - min(picks))


def clear_choice(auto: AutoDecision) -> int | None:
    """Return the HR slice of an item that can be accepted without a look at each.

    Parameters
    ----------
    auto : AutoDecision
        What the matcher said.

    Returns
    -------
    int or None
        For a queued slice that shows something: the pick that no voter is more than one slice
        away from and that lies within one slice of the geometry, the nearest to it if there are
        several. None when there is no such pick, or only one voter took part.
    """
    votes = sorted(auto.votes.values())
    if auto.status != "review" or auto.empty or len(votes) < 2:
        return None
    centres = [vote for vote in votes if max(votes[-1] - vote, vote - votes[0]) <= 1]
    centres = [vote for vote in centres if abs(vote - auto.geometry) <= 1]
    return min(centres, key=lambda vote: abs(vote - auto.geometry), default=None)


def curve_position(items: Mapping[int, AutoDecision], lr_slice: int) -> float | None:
    """Return where the accepted pairs nearby would put an LR slice.

    Parameters
    ----------
    items : mapping of int to AutoDecision
        The whole run.
    lr_slice : int
        LR slice.

    Returns
    -------
    float or None
        HR slice coordinate: the geometry plus the median offset from it of the nearest accepted
        pairs. None when no pair was accepted.
    """
    accepted = sorted(
        (n for n, auto in items.items() if auto.status == "auto" and n != lr_slice),
        key=lambda n: abs(n - lr_slice),
    )[:_NEIGHBOURS_USED]
    if not accepted:
        return None
    offsets = [items[n].hr_position - items[n].geometry for n in accepted]
    return items[lr_slice].geometry + float(np.median(offsets))


def review_order(items: Mapping[int, AutoDecision], asked: Collection[int]) -> list[list[int]]:
    """Put LR slices in the order of review.

    Parameters
    ----------
    items : mapping of int to AutoDecision
        The whole run.
    asked : collection of int
        LR slices to be reviewed.

    Returns
    -------
    list of list of int
        Blocks of neighbouring slices, at most `BLOCK` long, which are asked for in their order
        in the volume. The blocks that leave most bits open per item come first, near-empty
        slices last: they teach least, and cost patience most.
    """
    blocks: list[list[int]] = []
    for lr_slice in sorted(asked, key=lambda n: (items[n].empty, n)):
        block = blocks[-1] if blocks else []
        if (
            block
            and 0 < lr_slice - block[-1] <= _NEIGHBOUR_GAP
            and items[lr_slice].empty == items[block[-1]].empty
            and len(block) < BLOCK
        ):
            block.append(lr_slice)
        else:
            blocks.append([lr_slice])

    def urgency(block: list[int]) -> tuple[bool, float, int]:
        bits = sum(open_bits(items[n]) for n in block) / len(block)
        return items[block[0]].empty, -bits, block[0]

    return sorted(blocks, key=urgency)


def plan_questions(
    items: Mapping[int, AutoDecision],
    *,
    hr_range: tuple[int, int],
    seed: int,
    reviewer: str,
    catch: float = 0.0,
    repeat: float = 0.0,
) -> list[Question]:
    """Plan what one reviewer is asked: what the matcher queued, with trials among it.

    Parameters
    ----------
    items : mapping of int to AutoDecision
        The whole run.
    hr_range : tuple of int
        First HR slice that was compared, and one past the last.
    seed : int
        Seed of the review.
    reviewer : str
        Every reviewer has trials of their own.
    catch, repeat : float
        Catch trials and repeats per queued slice that shows something (per queued slice, where
        none does), rounded up.

    Returns
    -------
    list of Question
        In order. The same arguments give the same plan; with a larger share, the trials of a
        smaller one are among those of the larger.

    Notes
    -----
    A catch trial takes the place of an LR slice that was accepted, if there is one, so that the
    queue does not hold its place twice. Its truth lies up to two slices off the curve of the
    accepted pairs: who follows the curve instead of the eyes is found out. A repeat comes at
    least ten items, or half of a short queue, after what it repeats. Both stand between blocks.
    """
    asked = [n for n, auto in items.items() if auto.status == "review"]
    blocks = review_order(items, asked)
    # Trials look like what they stand among: near-empty only where all that is asked is.
    shown = [block for block in blocks if not items[block[0]].empty] or blocks
    last = blocks[len(shown) :]
    order = [n for block in shown for n in block]
    starts = np.cumsum([0, *map(len, shown)])

    before: list[list[Question]] = [[] for _ in starts]
    rng = _rng(seed, reviewer, "catch")
    free = [
        n
        for n, auto in items.items()
        if auto.status == "auto" and all(auto.empty == items[block[0]].empty for block in shown)
    ]
    for lr_slice in _drawn(free or sorted(order), catch * len(order), rng):
        own = _rng(seed, reviewer, "catch", lr_slice)
        curve = curve_position(items, lr_slice)
        middle = items[lr_slice].geometry if curve is None else curve
        truth = round(middle) + int(own.integers(-_CATCH_REACH, _CATCH_REACH + 1))
        truth = min(max(truth, hr_range[0] + 1), hr_range[1] - 2)
        place = int(own.integers(len(starts)))
        before[place].append(Question(lr_slice, "catch", truth))
    rng = _rng(seed, reviewer, "repeat")
    lag = min(_REPEAT_LAG, len(order) // 2)
    early = order[: max(len(order) - lag, 1)]
    for lr_slice in _drawn(early, repeat * len(order), rng):
        places = np.flatnonzero(starts > order.index(lr_slice) + lag)
        own = _rng(seed, reviewer, "repeat", lr_slice)
        place = int(own.choice(places)) if len(places) else len(starts) - 1
        before[place].append(Question(lr_slice, "repeat"))

    plan: list[Question] = []
    for trials, block in zip(before, [*shown, []], strict=True):
        plan += [*trials, *map(Question, block)]
    return plan + [Question(n) for block in last for n in block]


def _drawn(pool: Sequence[int], count: float, rng: np.random.Generator) -> list[int]:
    """Draw without replacement; a larger count only adds."""
    order = rng.permutation(len(pool))
    return [pool[n] for n in order[: math.ceil(count)]]


def shuffled(slices: Sequence[int], *, seed: int, reviewer: str, question: Question) -> list[int]:
    """Return candidates in the order one reviewer sees them.

    Parameters
    ----------
    slices : sequence of int
        HR slices.
    seed : int
        Seed of the review.
    reviewer : str
        Who looks.
    question : Question
        At what.

    Returns
    -------
    list of int
        The same slices; the same arguments give the same order.
    """
    rng = _rng(seed, reviewer, "order", question.trial, question.lr_slice)
    return [slices[n] for n in rng.permutation(len(slices))]


def numbered(questions: Iterable[Question], *, seed: int, reviewer: str) -> dict[int, Question]:
    """Give questions numbers that tell nothing about them.

    Parameters
    ----------
    questions : iterable of Question
        Different ones.
    seed : int
        Seed of the review.
    reviewer : str
        Whose questions.

    Returns
    -------
    dict of int to Question
        In the order given, by a number of 31 bits that follows from seed, reviewer and question.
    """
    found: dict[int, Question] = {}
    for question in questions:
        rng = _rng(seed, reviewer, "number", question.trial, question.lr_slice)
        number = int(rng.integers(2**31))
        while number in found:
            number = int(rng.integers(2**31))
        found[number] = question
    return found


def _rng(seed: int, *words: object) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(map(str, (seed, *words))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def catch_picks(
    items: Mapping[int, AutoDecision],
    question: Question,
    *,
    hr_range: tuple[int, int],
    seed: int,
    reviewer: str,
) -> list[int]:
    """Return candidates for a catch trial, scattered as the voters' picks of real items are.

    Parameters
    ----------
    items : mapping of int to AutoDecision
        The whole run.
    question : Question
        A catch trial.
    hr_range : tuple of int
        First HR slice that was compared, and one past the last.
    seed : int
        Seed of the review.
    reviewer : str
        Whose trial.

    Returns
    -------
    list of int
        HR slices: the truth, and what stands in for the picks.
    """
    if question.truth is None:
        raise ValueError(f"{question} has no truth")
    rng = _rng(seed, reviewer, "picks", question.lr_slice)
    real = [auto for auto in items.values() if auto.status == "review" and not auto.empty]
    model = real[int(rng.integers(len(real)))] if real else items[question.lr_slice]
    centre = question.truth + int(rng.integers(-1, 2))
    picks = [centre + vote - model.hr_slice for vote in model.votes.values()]
    return [question.truth, *(min(max(n, hr_range[0]), hr_range[1] - 1) for n in picks)]

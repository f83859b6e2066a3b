"""How a run is put to its reviewers: which items, in which order, under which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from srmri_data.decisions import Choice
from srmri_data.errors import UsageError
from srmri_data.review_plan import Question, clear_choice, numbered, plan_questions, review_order
from srmri_data.store import Event, ItemState, ReviewStore, UnknownItemError

_CACHED_REVIEWERS = 32


@dataclass(frozen=True)
class SittingConfig:
    """How a run is reviewed.

    Parameters
    ----------
    blind : bool
        Keep the voters' picks covered until the reviewer has decided, and shuffle the candidates.
    catch, repeat : float
        Catch trials and repeats per queued slice that shows something, 0 to 1. With either, the
        page names no slice, and nothing is uncovered before the last item has its answer: a
        reviewer could tell the trials.
    adjudicate : bool
        Put what reviewers disagree on, to be settled.

    Raises
    ------
    UsageError
        If a share is out of range, or the options do not fit together.
    """

    blind: bool = True
    catch: float = 0.0
    repeat: float = 0.0
    adjudicate: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("catch", "repeat"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} {getattr(self, name)}: not a share from 0 to 1")
        if self.masked and not self.blind:
            raise UsageError(
                "--catch and --repeat tell nothing about a reviewer who sees the votes",
                hint="leave out --no-blind",
            )
        if self.masked and self.adjudicate:
            raise UsageError(
                "--adjudicate settles pairs; trials belong to a first review",
                hint="leave out --catch and --repeat",
            )

    @property
    def masked(self) -> bool:
        """Whether there are trials, so that items must not be told apart."""
        return self.catch > 0 or self.repeat > 0


@dataclass(frozen=True)
class Item:
    """One item of a reviewer's queue.

    Parameters
    ----------
    number : int
        What the page calls it: the LR slice, or a number that tells nothing where there are
        trials.
    question : Question
        What it is.
    state : ItemState
        The reviewer's answer.
    """

    number: int
    question: Question
    state: ItemState

    @property
    def mine(self) -> Choice | None:
        """The reviewer's answer to this very question."""
        return self.state.mine


class Sitting:
    """The queue of every reviewer of one run.

    Parameters
    ----------
    store : ReviewStore
        Decisions.
    config : SittingConfig
        How the run is reviewed.
    hr_range : tuple of int
        First HR slice that was compared, and one past the last.
    """

    def __init__(
        self, store: ReviewStore, config: SittingConfig, *, hr_range: tuple[int, int]
    ) -> None:
        self.config = config
        self.hr_range = hr_range
        self._store = store
        self._plan = lru_cache(_CACHED_REVIEWERS)(self._make_plan)

    def _make_plan(self, reviewer: str) -> dict[int, Question]:
        """Every question that can be asked, by number; what was queued comes first, in order."""
        items, seed = self._store.items, self._store.seed
        planned = plan_questions(
            items,
            hr_range=self.hr_range,
            seed=seed,
            reviewer=reviewer,
            catch=self.config.catch,
            repeat=self.config.repeat,
        )
        others = [Question(n) for n, auto in items.items() if auto.status != "review"]
        if self.config.masked:
            return numbered([*planned, *others], seed=seed, reviewer=reviewer)
        return {question.lr_slice: question for question in [*planned, *others]}

    def queue(self, reviewer: str) -> list[Item]:
        """Return a reviewer's items, in order.

        Parameters
        ----------
        reviewer : str
            Who; a name as it is recorded.

        Returns
        -------
        list of Item
            What the matcher queued with the trials among it, then accepted slices that somebody
            has an answer to; when adjudicating, what is disputed.
        """
        states = {state.lr_slice: state for state in self._store.queue(reviewer)}
        if self.config.adjudicate:
            order = review_order(self._store.items, list(self._store.disputed()))
            return [
                Item(n, Question(n), self._adjudicated(states[n])) for block in order for n in block
            ]
        trials = self._store.trials(reviewer) if self.config.masked else {}
        found = []
        for number, question in self._plan(reviewer).items():
            state = states.get(question.lr_slice)
            if question.trial:
                key = (question.lr_slice, question.trial)
                state = trials.get(key) or self._fresh(question)
            if state is not None:
                found.append(Item(number, question, state))
        return found

    def item(self, reviewer: str, number: int) -> Item:
        """Return one item, also one that is not queued.

        Parameters
        ----------
        reviewer : str
            Who.
        number : int
            What the page calls it.

        Returns
        -------
        Item
            With its present state.

        Raises
        ------
        UnknownItemError
            If there is no such item.
        """
        question = self.question(reviewer, number)
        state = self._store.item(question.lr_slice, reviewer, trial=question.trial)
        return Item(number, question, self._adjudicated(state) if self.config.adjudicate else state)

    def question(self, reviewer: str, number: int) -> Question:
        """Return what a number stands for.

        Parameters
        ----------
        reviewer : str
            Who.
        number : int
            What the page calls it.

        Returns
        -------
        Question
            What it is.

        Raises
        ------
        UnknownItemError
            If there is no such item.
        """
        try:
            return self._plan(reviewer)[number]
        except KeyError:
            raise UnknownItemError(f"there is no item {number}") from None

    def covered(self, reviewer: str, item: Item) -> bool:
        """Tell whether the machine's opinion of an item is kept from a reviewer.

        Parameters
        ----------
        reviewer : str
            Who.
        item : Item
            Which.

        Returns
        -------
        bool
            In a blind review, true until the reviewer has decided; with trials, until every item
            of the queue has an answer.
        """
        if self.config.masked:
            return any(other.mine is None for other in self.queue(reviewer))
        return self.config.blind and item.mine is None

    def numbers(self, reviewer: str) -> dict[int, int]:
        """Return the numbers of the items that settle pairs.

        Parameters
        ----------
        reviewer : str
            Who.

        Returns
        -------
        dict of int to int
            By LR slice.
        """
        return {q.lr_slice: n for n, q in self._plan(reviewer).items() if not q.trial}

    def number(self, reviewer: str, event: Event | None) -> int | None:
        """Return the number of the item an event is about.

        Parameters
        ----------
        reviewer : str
            Whose.
        event : Event or None
            From the log.

        Returns
        -------
        int or None
            None where the item is not among the reviewer's.
        """
        if event is None:
            return None
        key = (event.lr_slice, event.trial)
        return next(
            (n for n, q in self._plan(reviewer).items() if (q.lr_slice, q.trial) == key), None
        )

    def clear(self, reviewer: str) -> list[tuple[Item, int]]:
        """Return the items that can be accepted together, and the HR slice of each.

        Parameters
        ----------
        reviewer : str
            Who.

        Returns
        -------
        list of (Item, int)
            Without those that have the reviewer's answer, and without trials.
        """
        if self.config.adjudicate:
            return []
        found = []
        for item in self.queue(reviewer):
            choice = clear_choice(item.state.auto)
            if not item.question.trial and item.mine is None and choice is not None:
                found.append((item, choice))
        return found

    def answers(self, lr_slice: int) -> Mapping[str, Choice]:
        """Return what an adjudicator has to settle.

        Parameters
        ----------
        lr_slice : int
            LR slice.

        Returns
        -------
        mapping of str to choice
            The reviewers' answers; empty unless this is an adjudication.
        """
        return self._store.disputed().get(lr_slice, {}) if self.config.adjudicate else {}

    def _fresh(self, question: Question) -> ItemState:
        """State of a trial that has no answer."""
        auto = self._store.items[question.lr_slice]
        return ItemState(question.lr_slice, 0, auto.status, None, None, "", False, 0, auto)

    @staticmethod
    def _adjudicated(state: ItemState) -> ItemState:
        """Leave out an answer that adjudicates nothing, also of an adjudicator who reviewed."""
        if state.adjudicates:
            return state
        return replace(state, mine=None, my_confidence=None, my_note="")

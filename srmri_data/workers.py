"""Processes that work through a list, where the death of one loses nothing but its own item.

Knows nothing of scans: a function, its items, and how many processes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
"""What the numerical libraries (torch by OMP and MKL) read when they are imported."""

GRACE_SECONDS = 15.0
"""How long a worker may take to tidy up after it was asked to stop."""


@dataclass(frozen=True)
class Ended(Generic[Item]):
    """How the work on one item ended.

    Parameters
    ----------
    item : object
        What was worked on.
    result : object
        What the function returned; None when the process died.
    exit_code : int or None
        Exit status of the process when it died, negative for a signal; else None.
    """

    item: Item
    result: Any = None
    exit_code: int | None = None

    @property
    def death(self) -> str:
        """How the process died, in words; empty when it did not."""
        if self.exit_code is None:
            return ""
        if self.exit_code >= 0:
            return f"its process ended with exit code {self.exit_code}"
        try:
            name = signal.Signals(-self.exit_code).name
        except ValueError:
            name = f"signal {-self.exit_code}"
        return f"its process was ended by {name}"


def usable_processors() -> int:
    """Count the processors this process may use.

    Returns
    -------
    int
        At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_isolated(
    function: Callable[[Item], Any],
    items: Iterable[Item],
    *,
    workers: int = 1,
    threads: int | None = None,
) -> Iterator[Ended[Item]]:
    """Call a function on every item in processes of their own.

    A process works through items one after another. When one dies, of a
    segmentation fault or for want of memory, its item ends with its exit code,
    and a new process goes on with the rest. When the iteration is left early,
    also by an exception in the caller, the processes are asked to stop
    (SIGTERM, which raises `SystemExit` in `function`) and after `GRACE_SECONDS`
    killed. They end by themselves when this process is killed.

    Parameters
    ----------
    function : callable
        Importable by name; it should handle its own exceptions, since an
        exception ends the process.
    items : iterable
        What to call it on; they are pickled.
    workers : int
        Processes at a time.
    threads : int, optional
        Threads of each; default: the usable processors, shared out.

    Yields
    ------
    Ended
        In the order of completion.

    Notes
    -----
    Processes are spawned: a script that calls this needs the usual
    ``if __name__ == "__main__":``.
    """
    waiting = deque(items)
    workers = max(1, min(workers, len(waiting)))
    threads = threads or max(1, usable_processors() // workers)
    pool: list[_Worker[Item]] = []
    try:
        while waiting or any(worker.is_busy for worker in pool):
            while waiting and len(pool) < workers:
                pool.append(_Worker(function, threads))
            for worker in pool:
                if waiting and not worker.is_busy:
                    worker.give(waiting.popleft())
            signs = [sign for worker in pool for sign in worker.signs]
            ready = set(connection.wait(signs))
            for worker in [worker for worker in pool if ready.intersection(worker.signs)]:
                ended = worker.take()
                if ended is None or ended.exit_code is not None:
                    pool.remove(worker)
                    worker.process.join()
                if ended is not None:
                    yield ended
        for worker in pool:
            worker.pipe.close()
        for worker in pool:
            worker.process.join(GRACE_SECONDS)
    finally:
        _stop(pool)


class _Worker(Generic[Item]):
    """One process, and the item it is at."""

    def __init__(self, function: Callable[[Item], Any], threads: int) -> None:
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.given: tuple[Item, ...] = ()
        self.process: SpawnProcess = context.Process(target=_work, args=(function, other))
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(threads))):
            self.process.start()
        other.close()

    @property
    def is_busy(self) -> bool:
        """Whether it has an item to work on."""
        return bool(self.given)

    @property
    def signs(self) -> tuple[Any, int]:
        """What becomes ready when there is something to take."""
        return self.pipe, self.process.sentinel

    def give(self, item: Item) -> None:
        self.given = (item,)
        try:
            self.pipe.send(item)
        except BrokenPipeError:
            # It died idle: `take` will see that.
            return

    def take(self) -> Ended[Item] | None:
        """Return how the item ended, or None when the process died without one."""
        try:
            # What it sent before it died is taken first.
            results: list[Any] = [self.pipe.recv()] if self.pipe.poll() else []
        except (EOFError, ConnectionResetError):
            results = []
        if not results:
            self.process.join()
        given, self.given = self.given, ()
        if not given:
            return None
        if not results:
            return Ended(given[0], exit_code=self.process.exitcode)
        return Ended(given[0], result=results[0])


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Start children with variables that are read when a library is imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _stop(pool: list[_Worker[Any]]) -> None:
    alive = [worker.process for worker in pool if worker.process.is_alive()]
    try:
        for process in alive:
            process.terminate()
        for process in alive:
            process.join(GRACE_SECONDS)
    finally:
        # Also when a second Ctrl-C cut the wait short.
        for process in alive:
            if process.is_alive():
                process.kill()
                process.join()


def _work(function: Callable[[Any], Any], pipe: connection.Connection) -> None:
    """Body of a worker process."""
    # Ctrl-C in a terminal reaches every process; the parent decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

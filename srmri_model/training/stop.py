"""Save and leave within seconds of being told to, whatever is being computed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def saves_when_stopped(save: Callable[[], None], changing: threading.Lock) -> Iterator[None]:
    """Save from a thread when SIGTERM or Ctrl-C comes, and leave with 128 + signal.

    A Python signal handler would wait for the end of the current backward pass,
    minutes for a large network on a processor. A thread that reads the wake-up
    file need not: between optimiser steps the state does not change.

    Parameters
    ----------
    save : callable
        Saves, closes logs and restores the terminal; what it raises makes the exit code 1.
    changing : Lock
        Held while the state changes or is being saved.

    Yields
    ------
    None
        While stop signals are handled. Outside the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_handlers = {number: signal.signal(number, _ignored) for number in STOP_SIGNALS}
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(
        target=_watch, args=(reader, save, changing), name="stop", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)


def _ignored(_number: int, _frame: object) -> None:
    """Let the signal only wake the thread."""


def _watch(reader: int, save: Callable[[], None], changing: threading.Lock) -> None:
    while byte := os.read(reader, 1):
        if byte[0] not in STOP_SIGNALS:
            continue
        code = 1
        try:
            with changing:
                save()
            code = 128 + byte[0]
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

"""How much memory something takes while it runs."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(work: Callable[[], Result]) -> tuple[Result, float | None]:
    """Run something and tell the most memory the process held meanwhile.

    Parameters
    ----------
    work : callable
        What to run.

    Returns
    -------
    result : object
        What it returns.
    megabytes : float or None
        Resident memory of the process, libraries included, and on a GPU what was allocated there
        on top; None where the system can not count from now on.
    """
    gc.collect()
    countable = _reset()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    result = work()
    if not countable:
        return result, None
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    peak = int(found[1]) * 1024 if found else 0
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
    return result, peak / 1e6


def _reset() -> bool:
    """Let the kernel count the peak from now on."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True

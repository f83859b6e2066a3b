"""Functions for worker processes, which find them by this module's name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def act(item: tuple[str, Any]) -> Any:
    """Do what the item says."""
    verb, value = item
    if verb == "square":
        return value * value
    if verb == "signal":
        os.kill(os.getpid(), value)
        time.sleep(60)
    if verb == "exit":
        os._exit(value)
    if verb == "raise":
        raise ValueError(value)
    if verb == "wait":
        # Says that it began, and what it was told before it ended.
        begun = Path(value)
        try:
            begun.write_text(str(os.getpid()), encoding="ascii")
            time.sleep(60)
        except SystemExit:
            begun.with_suffix(".stopped").touch()
            raise
    return None


def ignore(_: Any) -> str:
    """Take no notice of the item."""
    return "ignored"


def threads(_: Any) -> dict[str, int]:
    """Ask every numerical library how many threads it would use."""
    import numba
    import numpy as np
    import SimpleITK
    import torch
    from threadpoolctl import threadpool_info

    np.ones((4, 4)) @ np.ones((4, 4))
    return {
        "numba": numba.get_num_threads(),
        "torch": torch.get_num_threads(),
        "ITK": SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads(),
        **{info["prefix"] + info["filepath"]: info["num_threads"] for info in threadpool_info()},
    }

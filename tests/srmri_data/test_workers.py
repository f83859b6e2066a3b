"""Worker processes: nobody's death costs more than its own item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import work_items

from srmri_data.workers import Ended, run_isolated

_SUPPORT = Path(__file__).resolve().parents[1] / "support"


def test_results_come_back_with_their_items():
    items = [("square", n) for n in range(5)]
    ended = list(run_isolated(work_items.act, items, workers=2, threads=1))
    assert {e.item: e.result for e in ended} == {("square", n): n * n for n in range(5)}
    assert all(e.death == "" for e in ended)


def test_deaths_are_told_and_the_rest_is_done():
    fatal = [
        ("signal", int(signal.SIGSEGV)), ("signal", int(signal.SIGKILL)), ("exit", 3),
        ("raise", "unexpected"),
    ]  # fmt: skip
    harmless = [("square", n) for n in range(4)]
    items = [item for pair in zip(fatal, harmless, strict=True) for item in pair]
    ended = {e.item: e for e in run_isolated(work_items.act, items, workers=2, threads=1)}
    assert [ended[item].result for item in harmless] == [0, 1, 4, 9]
    assert [ended[item].exit_code for item in fatal] == [-11, -9, 3, 1]
    assert "SIGSEGV" in ended[fatal[0]].death
    assert "SIGKILL" in ended[fatal[1]].death
    assert "exit code 3" in ended[fatal[2]].death


def test_nothing_to_do():
    assert list(run_isolated(work_items.act, [], workers=3)) == []
    (ended,) = run_isolated(work_items.ignore, [None])
    assert ended == Ended(None, result="ignored")


def test_unknown_signals_have_a_number():
    assert "signal 250" in Ended(None, exit_code=-250).death


@pytest.mark.parametrize("count", [1, 2])
def test_every_library_keeps_to_its_threads(count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (ended,) = run_isolated(work_items.threads, [0], workers=1, threads=count)
    assert set(ended.result.values()) == {count}, ended.result
    assert {"numba", "torch", "ITK"} < ended.result.keys()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_leaving_early_stops_the_workers(tmp_path):
    begun = tmp_path / "begun"
    work = run_isolated(work_items.act, [("square", 1), ("wait", str(begun))], workers=1)
    assert next(work).result == 1
    # The second item is handed over while the first is being looked at.
    with pytest.raises(RuntimeError, match="enough"):
        for _ in _with_interruption(work, begun):
            pass
    assert begun.with_suffix(".stopped").exists()
    assert _is_gone(int(begun.read_text()))


def _with_interruption(work, begun):
    """Go on with the work, and be interrupted when the waiting item has begun."""

    def look(*_):
        if begun.exists():
            raise RuntimeError("enough")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        yield from work
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_workers_end_with_a_killed_parent(tmp_path):
    begun = tmp_path / "begun"
    code = (
        "import work_items; from srmri_data.workers import run_isolated\n"
        f"list(run_isolated(work_items.act, [('wait', {str(begun)!r})]))"
    )
    path = os.pathsep.join([str(_SUPPORT), *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    worker = int(_read_when_there(begun))
    parent.kill()
    parent.wait()
    for _ in range(200):
        if _is_gone(worker):
            break
        time.sleep(0.05)
    assert _is_gone(worker)
    assert begun.with_suffix(".stopped").exists()


def _read_when_there(path: Path) -> str:
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"

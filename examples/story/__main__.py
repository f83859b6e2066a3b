"""``python -m examples.story``: tells the story, or goes on where it stopped."""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.story.page import write_page
from examples.story.steps import PROJECT, TOKEN, Shell, Step, steps
from srmri_data.errors import ExitCode, SrmriError, UsageError
from srmri_data.safe_io import read_json, write_json

_LEDGER = "story.json"
_SCHEMA = 1


def tell(out: Path, *, minutes: float, force: bool, console: Console) -> Path:
    """Run every step and check it; what is done and unchanged is checked only.

    Parameters
    ----------
    out : Path
        Folder to work in.
    minutes : float
        Of training.
    force : bool
        Begin anew.
    console : Console
        Where to tell it.

    Returns
    -------
    Path
        The page with all of it.

    Raises
    ------
    UsageError
        If `out` holds something else.
    StoryError
        If a step fails, or made something wrong.
    """
    # The hub of the tests: it answers the very clients that publish and read.
    sys.path.insert(0, str(PROJECT / "tests" / "support"))
    from local_hub import LocalHub, User  # type: ignore[import-not-found]

    ledger = _open_ledger(out, minutes, force=force)
    told = list(steps(minutes))
    with LocalHub({TOKEN: User("story")}) as hub:
        for number, step in enumerate(told, start=1):
            console.print(f"[bold]{number}/{len(told)} {step.title}[/]")
            kept = step.lasting and step.name in ledger["steps"]
            if not kept:
                shell = Shell(out, hub.endpoint, out / "logs" / f"{step.name}.txt")
                ledger["steps"][step.name] = _run(step, shell, console)
            found = step.check(out)
            record = ledger["steps"][step.name]
            record["found"] = found
            write_json(out / _LEDGER, ledger)
            for text in found:
                console.print(f"    [green]✓[/] {text}", soft_wrap=True)
            spent = f"{record['seconds']:.0f} s, {record['processor_seconds']:.0f} s of processor"
            console.print(f"    [dim]{'kept from before; it took ' if kept else ''}{spent}[/]")
    return write_page(out, told, ledger["steps"])


def _run(step: Step, shell: Shell, console: Console) -> dict[str, Any]:
    shell.log.unlink(missing_ok=True)
    started, worked = time.monotonic(), _processor_seconds()
    with _waiting(console):
        step.run(shell)
    return {
        "commands": shell.commands,
        "seconds": time.monotonic() - started,
        "processor_seconds": _processor_seconds() - worked,
    }


def _processor_seconds() -> float:
    usages = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextmanager
def _waiting(console: Console) -> Iterator[None]:
    """Show that something happens where somebody looks on."""
    if not console.is_terminal:
        yield
        return
    with console.status("working"):
        yield


def _open_ledger(out: Path, minutes: float, *, force: bool) -> dict[str, Any]:
    """Read what was done of the same story; begin anew when it, or the code, is another."""
    fresh = {"schema_version": _SCHEMA, "minutes": minutes, "code": _code_sha256(), "steps": {}}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / _LEDGER).is_file():
            raise UsageError(f"{out} is no story's folder", hint="choose another --out")
        earlier = read_json(out / _LEDGER)
        if not force and {**earlier, "steps": {}} == fresh:
            return dict(earlier)
        shutil.rmtree(out)
    (out / "logs").mkdir(parents=True)
    write_json(out / _LEDGER, fresh)
    return fresh


def _code_sha256() -> str:
    digest = hashlib.sha256()
    rooms = ("srmri_data", "srmri_model", "examples/story")
    files = [PROJECT / "cli.py", *(p for room in rooms for p in (PROJECT / room).rglob("*.py"))]
    for path in sorted(files):
        digest.update(f"{path.relative_to(PROJECT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> None:
    """Parse, tell, and map errors to the exit codes of ``srmri``."""
    parser = argparse.ArgumentParser(prog="python -m examples.story", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("srmri-story"), help="folder to work in")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training")
    parser.add_argument("--force", action="store_true", help="begin anew")
    given = parser.parse_args()
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        page = tell(given.out, minutes=given.minutes, force=given.force, console=console)
    except SrmriError as error:
        console.print(f"error: {error.message}", style="bold red", markup=False, soft_wrap=True)
        if error.hint:
            console.print(f"hint:  {error.hint}", style="yellow", markup=False, soft_wrap=True)
        raise SystemExit(int(error.exit_code)) from error
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on", style="yellow")
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None
    console.print(f"\n[bold]The whole chain holds[/], {(time.monotonic() - started) / 60:.1f} min")
    console.print(f"look at it: {page}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()

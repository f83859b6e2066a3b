"""Redraw the pictures of the review page: the demo's run, reviewed in Chromium.

Run from the project's root: ``python docs/make_review_pictures.py [RUN]``. Without a run folder the
demo makes one, which takes half a minute; a given one is copied beside itself, not touched.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srmri_data.demo import run_demo

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def review(page: Any, reviewer: str) -> None:
    """Decide a few items and leave one open, as one finds it in the middle of a session."""
    page.fill("#reviewer-name", reviewer)
    page.click("#reviewer-start")
    page.wait_for_selector("body[data-ready='1']")
    for _ in range(3):
        drawn = page.get_attribute("#canvas", "data-item")
        page.keyboard.press(middle_candidate(page))
        page.keyboard.press("Enter")
        page.wait_for_function(
            "lr => document.querySelector('#canvas').dataset.item !== lr", arg=drawn
        )
    # What the matcher leaves open lies at the ends; the pictures show the middle of the brain.
    first, last = (int(page.get_attribute("#goto", name)) for name in ("min", "max"))
    page.fill("#goto", str((first + last) // 2))
    page.keyboard.press("Enter")
    page.wait_for_function(
        "lr => document.querySelector('#canvas').dataset.item === lr", arg=str((first + last) // 2)
    )
    page.keyboard.press(middle_candidate(page))
    page.keyboard.press("Shift+Digit3")
    page.keyboard.press("g")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)


def middle_candidate(page: Any) -> str:
    """Return the digit of the candidate in the middle of those offered: a plausible one."""
    offered = page.query_selector_all("#strip [data-candidate]")
    ordered = sorted(offered, key=lambda button: int(button.get_attribute("data-hr")))
    return str(ordered[len(ordered) // 2].get_attribute("data-candidate"))


def take_pictures(run: Path) -> None:
    """Photograph the page, light and dark."""
    from playwright.sync_api import sync_playwright

    for scheme in ("light", "dark"):
        (run / "review.sqlite").unlink(missing_ok=True)
        with served(run) as url, sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(CHROMIUM)
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
            page.goto(url)
            review(page, "ann")
            page.screenshot(path=ROOT / "docs" / "images" / f"review-{scheme}.png")
            browser.close()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Run ``srmri review`` and yield the address it prints."""
    server = subprocess.Popen(
        [
            sys.executable, "-m", "cli", "review", str(run),
            "--port", "0", "--no-browser", "--json",
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.communicate(timeout=20)


def main() -> None:
    """Make the run where none is given, and the pictures."""
    if shutil.which("chromium") is None:
        print("no Chromium here: the pictures were left as they are")
        return
    if len(sys.argv) > 1:
        run = Path(sys.argv[1])
        # Beside the original, so that the scans are found where they were recorded.
        copy = Path(shutil.copytree(run, run.with_name(run.name + "-pictures")))
        try:
            take_pictures(copy)
        finally:
            shutil.rmtree(copy)
        return
    with tempfile.TemporaryDirectory() as folder:
        demo = run_demo(Path(folder) / "demo", progress=lambda *_: None)
        take_pictures(Path(demo["run"]))


if __name__ == "__main__":
    main()

"""How long a reviewer waits: the next item, a view, and the server's answers.

    python -m benchmarks.review [--shape 720 512 80] [--decisions 10000] [--keep DIR] [--json]

A run of 720x512 slices is made of the built-in phantom (or kept in ``--keep DIR`` for the next
time), served by ``srmri review`` and reviewed in Chromium, once at a person's pace and once as fast
as the page can. Two clocks run: the page's own marks (``srmri:item``, ``srmri:view``), from the
key press to the drawn frame, and an observer from outside, from the key's event to the frame
after the canvas said what it shows. Then the store is filled and the calls of the page are timed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from srmri_data import ingest
from srmri_data.formats.paravision_writer import write_paravision_study
from srmri_data.pairing import run_pairing
from srmri_data.phantom import mouse_brain
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.run_folder import read_pairs, write_pairs
from srmri_data.simulate import SimulationConfig, run_simulate
from srmri_data.slices import Trim
from srmri_data.store import ReviewStore, Submission

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# From a key's event until the frame in which the canvas shows something else has been drawn.
OBSERVER = """
window.waits = [];
let pressed = null;
addEventListener('keydown', event => { pressed = event.timeStamp; }, true);
addEventListener('DOMContentLoaded', () => {
  const canvas = document.querySelector('#canvas');
  let {item} = canvas.dataset;
  new MutationObserver(() => {
    const moved = canvas.dataset.item !== item;
    ({item} = canvas.dataset);
    if (pressed === null) return;
    const start = pressed;
    pressed = null;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () =>
        window.waits.push([moved ? 'item' : 'view', performance.now() - start]);
      channel.port2.postMessage(null);
    });
  }).observe(canvas, {attributes: true});
});
"""


MARKS = "() => performance.getEntriesByType('measure').length"


def make_run(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Pair a phantom of `shape` (rows, cols, slices) with its LR copy; every slice is queued."""
    rows, cols, slices = shape
    brain = mouse_brain((cols, slices, rows), 0.025, noise=0.04)
    high = write_paravision_study(brain, folder / "hr_study", subject_id="bench-mouse")
    (record,) = ingest.discover(high)
    config = SimulationConfig(factor=(2.0, 2.0, 2.0), shift_um=(20.0, 60.0, -20.0), snr=20, seed=1)
    low = run_simulate(ingest.load(record), config, folder / "lr_study", format="paravision")
    plan = plan_pairing(
        *find_scans(ScanRequest(Path(low["low_res"])), ScanRequest(high)),
        PairingConfig(method="paper", trim=Trim(0, "slices"), voters=("pca",)),
    )
    run = folder / "run"
    run_pairing(plan, run)
    pairs = read_pairs(run)
    pairs["status"] = pairs["auto_status"] = "review"
    write_pairs(run, pairs)
    return run


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Run ``srmri review`` and yield the address it prints."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "cli", "review", str(run),
            "--port", "0", "--no-browser", "--json",
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(timeout=20)


def percentiles(values: list[float]) -> dict[str, float]:
    """Return count, median, 95th percentile and maximum."""
    found = np.array(values)
    return {
        "n": len(found),
        "median_ms": round(float(np.median(found)), 1),
        "p95_ms": round(float(np.percentile(found, 95)), 1),
        "max_ms": round(float(found.max()), 1),
    }


def in_browser(url: str, *, pace: float, reviewer: str) -> dict[str, dict[str, float]]:
    """Review as a person does, `pace` seconds between keys, and return both clocks."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(CHROMIUM)
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.add_init_script(OBSERVER)
        page.goto(url)
        page.fill("#reviewer-name", reviewer)
        page.click("#reviewer-start")
        page.wait_for_selector("body[data-ready='1']")
        page.wait_for_timeout(500)
        views = "hbsgdeop"

        def press(key: str) -> None:
            count = page.evaluate(MARKS)
            page.keyboard.press(key)
            page.wait_for_function(f"count => ({MARKS})() > count", arg=count, timeout=5000)
            page.wait_for_timeout(1000 * pace)

        total = int(page.get_attribute("#progress", "data-total") or 0)
        for number in range(total - 1):
            for key in views[number % 4 :: 4]:
                press(key)
            press("ArrowRight")
            press("1")
            press("Enter" if number % 2 else "j")
        marks = page.evaluate(
            "performance.getEntriesByType('measure').map(e => [e.name, e.duration])"
        )
        waits = page.evaluate("window.waits")
        browser.close()
    result = {}
    for name in ("item", "view"):
        result[f"{name}, page's mark"] = [d for found, d in marks if found == f"srmri:{name}"]
        result[f"{name}, observed"] = [d for found, d in waits if found == name]
    return {name: percentiles(values) for name, values in result.items() if values}


def fill(run: Path, decisions: int) -> float:
    """Write decisions of ten reviewers and return seconds."""
    store = ReviewStore.open(run)
    started = time.perf_counter()
    numbers = [item.lr_slice for item in store.queue("reviewer-0")]
    for n in range(decisions):
        reviewer = f"reviewer-{n % 10}"
        lr_slice = numbers[(n // 10) % len(numbers)]
        store.decide(
            Submission(
                lr_slice=lr_slice,
                choice=n % 40,
                reviewer=reviewer,
                expected_revision=store.item(lr_slice, reviewer).revision,
                submission_id=str(uuid.uuid4()),
                confidence=1 + n % 4,
                note="a note of usual length",
                shown=tuple(range(9)),
                visible_ms=4000,
                views=("blink", "difference"),
                tool_version="bench",
            )
        )
    return time.perf_counter() - started


def calls(url: str, run: Path, *, repeats: int) -> dict[str, dict[str, float]]:
    """Time every call the page makes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    cookie = str(answer.getheader("Set-Cookie")).split(";")[0]
    answer.read()
    headers = {
        "Cookie": cookie,
        "Origin": f"http://127.0.0.1:{parts.port}",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/json",
    }

    def timed(method: str, target: str, body: str | None = None) -> tuple[float, Any]:
        started = time.perf_counter()
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        elapsed = 1000 * (time.perf_counter() - started)
        assert answer.status == 200, content
        return elapsed, json.loads(content) if "json" in answer.headers["Content-Type"] else None

    numbers = [item.lr_slice for item in ReviewStore.open(run).queue("reviewer-0")]
    waits: dict[str, list[float]] = {}
    for n in range(repeats):
        lr_slice = numbers[n % len(numbers)]
        reviewer = "reviewer=reviewer-0"
        for name, target in (
            ("queue", f"/api/queue?{reviewer}"),
            ("item", f"/api/item/{lr_slice}?{reviewer}"),
            ("image lr", f"/api/image/lr/{lr_slice}?{reviewer}"),
            ("image hr", f"/api/image/hr/{n % 2 + 2 * (n % len(numbers))}"),
            ("image hr matched", f"/api/image/hr/{n % 2 + 2 * (n % len(numbers))}?match=1"),
        ):
            elapsed, document = timed("GET", target)
            waits.setdefault(name, []).append(elapsed)
            if name == "item":
                revision = document["revision"]
        decision = {
            "item": lr_slice, "choice": "unsure", "reviewer": "reviewer-0",
            "expected_revision": revision, "submission_id": str(uuid.uuid4()), "note": "",
        }  # fmt: skip
        elapsed, event = timed("POST", "/api/decision", json.dumps(decision))
        waits.setdefault("decision", []).append(elapsed)
        undo = {
            "item": lr_slice, "reviewer": "reviewer-0",
            "expected_revision": event["revision"], "submission_id": str(uuid.uuid4()),
        }  # fmt: skip
        waits.setdefault("undo", []).append(timed("POST", "/api/undo", json.dumps(undo))[0])
    return {name: percentiles(values) for name, values in waits.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(720, 512, 80))
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {"shape": list(options.shape)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        run = folder / "run"
        if not run.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run = make_run(folder, tuple(options.shape))
        (run / "review.sqlite").unlink(missing_ok=True)
        for name, pace in (("a person's pace", 0.25), ("as fast as it goes", 0.0)):
            with served(run) as url:
                result[name] = in_browser(url, pace=pace, reviewer=name)
        result["seconds to fill"] = round(fill(run, options.decisions), 1)
        result["database MB"] = round((run / "review.sqlite").stat().st_size / 1e6, 2)
        with served(run) as url:
            result[f"calls after {options.decisions} decisions"] = calls(url, run, repeats=100)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if not isinstance(value, dict):
            print(f"{name}: {value}")
            continue
        print(f"{name}:")
        for what, figures in value.items():
            print(f"  {what:<20}", "  ".join(f"{key} {n}" for key, n in figures.items()))


if __name__ == "__main__":
    main()

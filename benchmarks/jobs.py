"""How much faster two workers are than one on many subjects, each with one thread.

    python -m benchmarks.jobs [--subjects 8] [--shape 180 256 108] [--method geometry] [--json]

The same phantom subjects are paired by `srmri pair-all` twice, with one and with two workers,
one thread each, in fresh processes and folders. The time is that of the whole command: starting
workers, pairing, cohort report. A skip afterwards, when nothing changed, is timed as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pairing import write_studies


def pair_all(table: Path, out: Path, workers: int, method: str) -> float:
    """Run the command and return its wall time in seconds."""
    started = time.perf_counter()
    arguments = ["pair-all", str(table), "--out", str(out), "--workers", str(workers)]
    arguments += ["--threads", "1", "--method", method, "--plane", "acquired", "-q"]
    subprocess.run(
        [sys.executable, "-c", "from cli import main; main()", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[1],
    )
    return time.perf_counter() - started


def compare(folder: Path, subjects: int, shape: tuple[int, int, int], method: str) -> Any:
    """Time one worker, two workers, and a repetition with nothing to do."""
    low, high = write_studies(folder / "studies", shape, 18.0 / max(shape))
    table = folder / "mapping.tsv"
    rows = [f"m{number:02d}\t{low}\t{high}" for number in range(1, subjects + 1)]
    table.write_text("\n".join(["subject\tlr\thr", *rows]) + "\n", encoding="utf-8")
    seconds = {}
    for workers in (1, 2):
        seconds[workers] = pair_all(table, folder / f"out{workers}", workers, method)
    return {
        "subjects": subjects,
        "shape": list(shape),
        "method": method,
        "one_worker_s": seconds[1],
        "two_workers_s": seconds[2],
        "ratio": seconds[1] / seconds[2],
        "nothing_to_do_s": pair_all(table, folder / "out2", 2, method),
    }


def table(result: dict[str, Any]) -> str:
    """Lay out the result for reading."""
    size = "×".join(str(n) for n in result["shape"])
    return "\n".join(
        [
            f"{result['subjects']} subjects, HR {size}, method {result['method']}, 1 thread each",
            f"1 worker          {result['one_worker_s']:8.1f} s",
            f"2 workers         {result['two_workers_s']:8.1f} s",
            f"nothing to do     {result['nothing_to_do_s']:8.1f} s",
            f"2 workers are {result['ratio']:.2f}× as fast (goal: 1.7×)",
        ]
    )


def main() -> None:
    """Read the options and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--shape", type=int, nargs=3, default=(180, 256, 108))
    parser.add_argument("--method", default="geometry")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    i, j, k = options.shape
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(Path(temporary), options.subjects, (i, j, k), options.method)
    sys.stdout.write((json.dumps(result, indent=2) if options.json else table(result)) + "\n")


if __name__ == "__main__":
    main()

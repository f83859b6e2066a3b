"""Time and memory of reading and of `srmri pair` at the paper's size, beside the obvious loop.

    python -m benchmarks.pairing [--shape 720 512 304] [--spacing 0.025] [--sample 40] [--json]

Two ParaVision studies of the built-in phantom are written to a temporary folder (or kept in
``--keep DIR`` for the next time), then each row is a fresh process: its peak memory is the
kernel's figure for that process, and its time includes starting Python. The obvious loop reads
both scans with brukerapi, resizes HR to LR's size with scikit-image, and compares pair by pair
with the lpips package and scikit-image, and with scikit-learn's PCA; its voters are timed on a
sample of pairs and scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# The child reports its own peak: what the kernel saw, Python and libraries included.
_START = """
import json, time
from benchmarks.memory import peak_mb
start = time.perf_counter()
"""
_END = """
peak = peak_mb()
print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak, **result}))
"""

_IDLE = "import numpy, nibabel, srmri_data.ingest; result = {}"

_READ_OURS = """
from pathlib import Path
from srmri_data import ingest
(record,) = ingest.discover(Path(high_study))
volume = ingest.load(record)
result = {"array_mb": volume.data.nbytes / 2**20, "sum": float(volume.data[::7, ::7, ::7].sum())}
"""

_READ_BRUKERAPI = """
from pathlib import Path
from brukerapi.dataset import Dataset
data = Dataset(next(Path(high_study).glob("*/pdata/1/2dseq"))).data
result = {"sum": float(data[::7, ::7, ::7].sum())}
"""

_PAIR = """
import io, contextlib
from cli import app
from typer.testing import CliRunner
arguments = ["pair", "--lr", low_study, "--hr", high_study, "--plane", "acquired", "--out", out]
done = CliRunner().invoke(app, [*arguments, "--json", "-q"])
assert done.exit_code == 0, done.stderr
summary = json.loads(done.stdout)
result = {"n_lr": summary["n_lr"], "n_hr": summary["n_hr"], "n_pairs": summary["n_pairs"]}
"""

_LOOP = """
from pathlib import Path
import numpy as np
from brukerapi.dataset import Dataset
from skimage.transform import resize
from benchmarks.voters import LOOPS
def volume(study):
    data = Dataset(next(Path(study).glob("*/pdata/1/2dseq"))).data.squeeze()
    low, high = np.percentile(data, [0.1, 99.9])
    return np.clip((data - low) / (high - low), 0, 1).astype(np.float32).transpose(2, 1, 0)
low = volume(low_study)[15:-15]
high = volume(high_study)[15:-15]
high = np.stack([resize(image, low.shape[1:], order=3, anti_aliasing=True) for image in high])
prepared = time.perf_counter() - start
rng = np.random.default_rng(0)
pairs = [(int(rng.integers(len(low))), int(rng.integers(len(high)))) for _ in range(sample)]
total = prepared
seconds = {}
for name, loop in LOOPS.items():
    begun = time.perf_counter()
    for _ in loop(low, high, pairs):
        pass
    spent = time.perf_counter() - begun
    # PCA is fitted once; lpips and skimage start anew for every pair.
    seconds[name] = spent if name == "pca" else spent / sample * len(low) * len(high)
result = {"whole_seconds": prepared + sum(seconds.values()), "prepared": prepared, **seconds}
"""


def child(body: str, **names: Any) -> dict[str, Any]:
    """Run code in a fresh process and return what it reports."""
    given = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    code = f"{_START}{given}\n{body}{_END}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def write_studies(folder: Path, shape: tuple[int, int, int], spacing: float) -> tuple[Path, Path]:
    """Write HR and LR studies of the phantom, or take those that are there."""
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain
    from srmri_data.simulate import SimulationConfig, run_simulate

    low, high = folder / "lr_study", folder / "hr_study"
    if not (low / "truth.json").is_file():
        brain = mouse_brain(shape, spacing, noise=0.04)
        write_paravision_study(brain, high, subject_id="bench-mouse")
        config = SimulationConfig(factor=(2.0, 2.0, 2.0), snr=20, seed=1)
        run_simulate(brain, config, low, subject_id="bench-mouse")
    return low, high


def compare(folder: Path, shape: tuple[int, int, int], spacing: float, sample: int) -> Any:
    """Measure everything once, one process after the other."""
    low, high = (str(path) for path in write_studies(folder, shape, spacing))
    with tempfile.TemporaryDirectory() as out:
        result: dict[str, Any] = {
            "shape": list(shape),
            "sample": sample,
            "idle": child(_IDLE),
            "read": child(_READ_OURS, high_study=high),
            "read_brukerapi": child(_READ_BRUKERAPI, high_study=high),
            "pair": child(_PAIR, low_study=low, high_study=high, out=f"{out}/run"),
            "loop": child(_LOOP, low_study=low, high_study=high, sample=sample),
        }
    read = result["read"]
    read["ratio_to_array"] = (read["peak_mb"] - result["idle"]["peak_mb"]) / read["array_mb"]
    other = result["read_brukerapi"]
    other["ratio_to_array"] = (other["peak_mb"] - result["idle"]["peak_mb"]) / read["array_mb"]
    assert np.isclose(read["sum"], other["sum"], rtol=1e-5), "the two readers differ"
    result["ratio"] = result["loop"]["whole_seconds"] / result["pair"]["seconds"]
    return result


def table(result: dict[str, Any]) -> str:
    """Lay out the result for reading."""
    read, other = result["read"], result["read_brukerapi"]
    pair, loop = result["pair"], result["loop"]
    size = "×".join(str(n) for n in result["shape"])
    return "\n".join(
        [
            f"HR {size}; {pair['n_lr']} LR × {pair['n_hr']} HR slices; "
            f"voters of the loop on {result['sample']} pairs, scaled to all",
            f"{'':34}{'seconds':>10}{'peak MB':>10}{'above idle / float32 array':>30}",
            f"{'read HR, srmri':34}{read['seconds']:10.1f}{read['peak_mb']:10.0f}"
            f"{read['ratio_to_array']:30.2f}",
            f"{'read HR, brukerapi':34}{other['seconds']:10.1f}{other['peak_mb']:10.0f}"
            f"{other['ratio_to_array']:30.2f}",
            f"{'srmri pair, everything':34}{pair['seconds']:10.1f}{pair['peak_mb']:10.0f}",
            f"{'the obvious loop, votes only':34}{loop['whole_seconds']:10.1f}"
            f"{loop['peak_mb']:10.0f}",
            f"loop / srmri: {result['ratio']:.1f}× the time, "
            f"{loop['peak_mb'] / pair['peak_mb']:.2f}× the memory",
        ]
    )


def main() -> None:
    """Read the options and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(720, 512, 304))
    parser.add_argument("--spacing", type=float, default=0.025, help="mm")
    parser.add_argument("--sample", type=int, default=40, help="pairs the loop is timed on")
    parser.add_argument("--keep", type=Path, help="keep the studies here for the next time")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    i, j, k = options.shape
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        result = compare(folder, (i, j, k), options.spacing, options.sample)
    sys.stdout.write((json.dumps(result, indent=2) if options.json else table(result)) + "\n")


if __name__ == "__main__":
    main()

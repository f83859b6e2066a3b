"""How soon `srmri pair` refuses bad input, and what it says.

    python -m benchmarks.refusals [--repeats 3] [--json]

Each case is `srmri pair` in a fresh process on a small pair of ParaVision studies with one thing
wrong; the time includes starting Python. Printed are the median time, the exit code, whether
anything was written, and the message. ``srmri --help`` stands beside them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

PROJECT = Path(__file__).resolve().parents[1]


def _edit(key: str, value: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        edited = re.sub(rf"(?ms)^##\${key}=.*?(?=^##|^\$\$)", f"##${key}={value}\n", text)
        assert edited != text, f"{key} is not in {path}"
        path.write_text(edited, encoding="utf-8")

    return change


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _rename(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("bench-mouse", "another-mouse"), encoding="utf-8")


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "zero-byte 2dseq": ("2dseq", _empty),
    "truncated 2dseq": ("2dseq", _cut),
    "no visu_pars": ("visu_pars", Path.unlink),
    "singular affine": ("visu_pars", _edit("VisuCoreOrientation", "( 1, 9 )\n1 0 0 1 0 0 0 0 1")),
    "slope of inf": ("visu_pars", _edit("VisuCoreDataSlope", "( 1 )\ninf")),
    "another subject": ("", _rename),
}
"""File of the LR study, and what is done to it; without a file, to all of its headers."""


def write_cases(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Write the LR and HR paths of every case."""
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain
    from srmri_data.simulate import SimulationConfig, run_simulate

    brain = mouse_brain((80, 120, 50), 0.15, noise=0.04)
    high = write_paravision_study(brain, folder / "hr", subject_id="bench-mouse")
    config = SimulationConfig(factor=(2.0, 2.0, 2.0), snr=20, seed=1)
    made = run_simulate(brain, config, folder / "lr", subject_id="bench-mouse")
    low = Path(made["low_res"])
    cases = {"LR and HR swapped": (high, low)}
    for name, (file, damage) in DAMAGES.items():
        study = folder / name.replace(" ", "-") / "study"
        shutil.copytree(low, study)
        wanted = [file] if file else ["subject", "visu_pars"]
        for path in [found for one in wanted for found in study.rglob(one)]:
            damage(path)
        cases[name] = (study, high)
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    claim = folder / "claim.nii.gz"
    claim.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4))
    cases[f"{claim.stat().st_size}-byte .nii.gz of 32 GB"] = (claim, high)
    flip = folder / "flip.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 999, (40, 60, 25), dtype=np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.3, 0.3, 0.3, 1.0])), flip)
    content = bytearray(flip.read_bytes())
    content[len(content) // 2] ^= 4
    flip.write_bytes(content)
    cases["bit flip in .nii.gz"] = (flip, high)
    (folder / "empty").mkdir()
    cases["empty folder"] = (folder / "empty", high)
    return cases


def measure(arguments: list[str], repeats: int) -> dict[str, Any]:
    """Run the command line in fresh processes."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        done = subprocess.run(
            [str(Path(sys.executable).parent / "srmri"), *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error:")] or [""]
    return {"seconds": statistics.median(seconds), "exit_code": done.returncode, "said": said}


def main() -> None:
    """Make the cases, run them, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    rows = {"srmri --help": measure(["--help"], options.repeats)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out = folder / "run"
        for name, (low, high) in write_cases(folder).items():
            scans = ["--lr", str(low), "--hr", str(high)]
            row = measure(["pair", *scans, "--out", str(out), "-q"], options.repeats)
            rows[name] = {**row, "written": out.exists()}
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    for name, row in rows.items():
        written = ", WROTE SOMETHING" if row.get("written") else ""
        said = row["said"].replace(str(folder), "…")
        print(f"{name:30} {row['seconds']:5.2f} s  exit {row['exit_code']}{written}  {said[:90]}")


if __name__ == "__main__":
    main()

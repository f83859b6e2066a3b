"""Images per second of training with one and two processes.

    python -m benchmarks.training [--preset tiny] [--batch 8] [--patch 64] [--steps 30]

Trains on the phantom: one process with one thread, one with two, and two processes (gloo) with
one thread each and half of the batch each, so that every step sees the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def write_phantoms(folder: Path) -> None:
    import nibabel as nib

    from srmri_data.phantom import mouse_brain

    for animal in range(2):
        brain = mouse_brain((128, 180, 76), 0.1, animal=animal)
        nib.save(nib.Nifti1Image(brain.data, brain.affine), folder / f"sub-p{animal}.nii.gz")


def images_per_second(options: argparse.Namespace, data: Path, ranks: int, threads: int) -> float:
    """Train for a few steps and read what the run says."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks),
            "--master-port", str(free_port()), "-m", "cli", "train", "--data", str(data),
            "--out", out, "--preset", options.preset, "--steps", str(options.steps),
            "--batch", str(options.batch // ranks), "--patch", str(options.patch),
            "--validate-every", "1000000", "--device", "cpu", "-q", "--json",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return float(json.loads(done.stdout)["images_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="images per step, in all")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_phantoms(data)
        one = None
        for ranks, threads in ((1, 1), (1, 2), (2, 1)):
            speed = images_per_second(options, data, ranks, threads)
            one = one or speed
            print(
                f"{ranks} processes × {threads} threads: {speed:6.1f} images/s  "
                f"({speed / one:.2f}×)",
                flush=True,
            )


if __name__ == "__main__":
    main()

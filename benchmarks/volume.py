"""Time and memory of whole volumes, and whether tiles change them.

``python -m benchmarks.volume --volume HR.nii.gz --out WORK`` makes a scan of half the resolution of
an HR volume, in plane and along all axes (k-space truncated, complex noise, magnitude), and runs
`srmri upsample` on it as a user does, in a process of its own: with slices seen whole, with tiles,
and along three axes. What the paper's sampler would take is timed on one of its steps (--dry-run).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.superres import Image, write_low

SIGMA_Y = 0.01
TILE_GOAL = 0.5
"""RMS difference of tiles and whole slices in the foreground that is allowed, in σ_y."""
RUNS = {
    "in plane": ("single", ()),
    "in plane, tiles": ("single", ("--tile", "96")),
    "three axes": ("3", ()),
}


@dataclass(frozen=True)
class Scan:
    """An HR volume and where its LR scans are.

    Parameters
    ----------
    truth : (i, j, k) ndarray of float32
        HR, tissue in [0, 1].
    low, span : float
        Scanner units of 0 and of the range.
    axis : int
        Along which slices are stacked.
    paths : dict of str to Path
        LR by ``"single"`` (in plane) and ``"3"``.
    """

    truth: Image
    low: float
    span: float
    axis: int
    paths: dict[str, Path]

    def read(self, path: Path) -> Image:
        """Super-resolved volume on the truth's scale."""
        import nibabel

        volume = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
        return np.asarray((volume - self.low) / self.span, dtype=np.float32)


def make_scans(path: Path, out: Path) -> Scan:
    """Degrade the volume and write the scans."""
    from srmri_data import ingest
    from srmri_data.slices import intensity_map, stack_frame
    from srmri_model.upsampling.denoising import stack_axes

    record, frame = ingest.select(ingest.discover(path), option="--volume")
    loaded = ingest.load(record, frame=frame)
    mapping = intensity_map(loaded.data)
    span = mapping.high - mapping.low
    high = loaded.data.astype(np.float32)
    axis = stack_axes(stack_frame(loaded.affine, high.shape, "coronal"))[0]
    paths = {}
    for planes in ("single", "3"):
        factors = tuple(1.0 if planes == "single" and a == axis else 2.0 for a in range(3))
        paths[planes] = out / f"low-{planes}.nii.gz"
        write_low(paths[planes], high, loaded.affine, factors, span=span, sigma=SIGMA_Y, seed=0)
    truth = np.asarray((high - mapping.low) / span, dtype=np.float32)
    return Scan(truth, mapping.low, span, axis, paths)


def upsample(*arguments: str) -> dict[str, Any]:
    """Run the command in a process of its own; its document, time and largest memory."""
    command = [str(Path(sys.executable).parent / "srmri"), "upsample", *arguments, "--json", "-q"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    found: dict[str, Any] = json.loads(said)
    # ru_maxrss is in KiB on Linux; the child began as a copy of this process, which is smaller.
    return {**found, "wall": time.perf_counter() - began, "gb": usage.ru_maxrss / (1 << 20)}


def main() -> None:
    """Make the scans, run everything, print."""
    from srmri_model.baselines.interpolation import interpolate
    from srmri_model.metrics import psnr
    from srmri_model.upsampling.trust import regions

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--volume", type=Path, required=True, help="HR volume")
    parser.add_argument("--out", type=Path, required=True, help="folder for scans and results")
    parser.add_argument("--weights", type=Path, help="default: the bundled model")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    scan = make_scans(options.volume, options.out)
    weights = ["--weights", str(options.weights)] if options.weights else []
    inside = scan.truth > 0
    eroded = np.moveaxis(regions(inside).foreground, scan.axis, 0)

    def step(volume: Image) -> float:
        change = np.diff(np.moveaxis(volume, scan.axis, 0), axis=0)[eroded[1:] & eroded[:-1]]
        return float(np.sqrt(np.mean(change.astype(np.float64) ** 2)))

    print(f"HR {'×'.join(map(str, scan.truth.shape))}, σ_y {SIGMA_Y}, {os.cpu_count()} processors")
    print(f"{'':22s}{'minutes':>9s}{'GB':>7s}{'PSNR, dB':>10s}{'z ratio':>9s}{'χ²/m':>7s}")

    def show(name: str, seconds: float, volume: Image, gb: str = "", chi2: str = "") -> None:
        print(
            f"{name:22s}{seconds / 60:9.2f}{gb:>7s}{psnr(volume, scan.truth, inside):10.2f}"
            f"{step(volume) / step(scan.truth):9.2f}{chi2:>7s}",
            flush=True,
        )

    volumes, minutes = {}, {}
    for name, (planes, more) in RUNS.items():
        out = options.out / f"{name.replace(' ', '-').replace(',', '')}.nii.gz"
        low = str(scan.paths[planes])
        found = upsample(low, str(out), "--planes", planes, *more, *weights, "--force")
        volumes[name], minutes[name] = scan.read(out), found["wall"] / 60
        show(name, found["wall"], volumes[name], f"{found['gb']:.2f}", f"{found['chi2']:.2f}")
    for planes, path in scan.paths.items():
        low_res = scan.read(path)
        factors = tuple(h / w for h, w in zip(scan.truth.shape, low_res.shape, strict=True))
        began = time.perf_counter()
        spline = interpolate(low_res, scan.truth.shape, factors, "b-spline 3")
        name = "spline, in plane" if planes == "single" else "spline, three axes"
        show(name, time.perf_counter() - began, spline)
    whole, tiled = volumes["in plane"], volumes["in plane, tiles"]
    difference = float(np.sqrt(np.mean((whole - tiled)[inside].astype(np.float64) ** 2)))
    print(f"tiles against whole slices: {difference / SIGMA_Y:.2f} σ_y RMS, goal {TILE_GOAL}")
    paper = upsample(
        str(scan.paths["single"]), str(options.out / "paper.nii.gz"), "--sampler", "paper",
        "--set", "rho=0.3", "--dry-run", *weights,
    )  # fmt: skip
    ratio = paper["seconds"] / 60 / minutes["in plane"]
    print(f"the paper's 2000 levels, by one step: {paper['seconds'] / 3600:.1f} h, {ratio:.0f} ×")


if __name__ == "__main__":
    main()

"""Memory and throughput of an export at the paper's size, beside `datasets`' own way.

Synthetic scans of the paper's size (LR 360×256×152, HR 720×512×304, 15 slices left out at each
end, the acquired plane) are exported in a process of its own. `datasets` then gets the same
slices from a generator and writes Parquet files as `push_to_hub` does; it writes neither NIfTI
volumes nor checksums, and looks for no identifiers. Beside its own way (uncompressed TIFF, from
arrays) stands PNG by Pillow, and PNG by srmri's encoder.

    python -m benchmarks.export                     # 2 subjects
    python -m benchmarks.export --subjects 10       # the figure to hold: less than 2 GB
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

HIGH_SHAPE, LOW_SHAPE = (720, 512, 304), (360, 256, 152)
KEY = b"b" * 32
MOST_MEMORY = 2 << 30


def make_subjects(root: Path, count: int, shrink: int) -> list[Path]:
    """Write studies and run folders; every subject is the first one rolled along k."""
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.volumes import Provenance, Volume

    rng = np.random.default_rng(0)
    scans = []
    for number, (shape, spacing) in enumerate(((HIGH_SHAPE, 0.025), (LOW_SHAPE, 0.05)), start=1):
        shape = (shape[0] // shrink, shape[1] // shrink, shape[2])
        plane = 2000 * np.exp(
            -3 * np.add(*np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]) ** 2
        )
        data = np.empty(shape, dtype=np.float32, order="F")
        noise = rng.normal(300, 60, (shape[0], shape[1], 8)).astype(np.float32)
        for k in range(shape[2]):
            data[:, :, k] = np.abs(
                plane * (1 + 0.2 * np.sin(k / 9)) + np.roll(noise[:, :, k % 8], k)
            )
        affine = np.diag([spacing * shrink, spacing * shrink, spacing, 1.0])
        affine[:3, 3] = spacing / 2
        scans.append((number, Volume(data, affine, Provenance(Path("x"), "memory"))))
    first = write_paravision_study(scans, root / "animal-00", subject_id="animal-00")
    first_run = _make_run(first, root / "run-00")
    return [first_run, *(_like_the_first(root, n) for n in range(1, count))]


def _like_the_first(root: Path, n: int) -> Path:
    """Copy the first subject under another name, one plane of each scan darker."""
    from srmri_data.safe_io import read_json, sha256_file, write_json

    name = f"animal-{n:02d}"
    place = shutil.copytree(root / "animal-00", root / name)
    run = shutil.copytree(root / "run-00", root / f"run-{n:02d}")
    provenance = read_json(run / "provenance.json")
    for role, number in (("hr", 1), ("lr", 2)):
        reco = place / str(number) / "pdata" / "1"
        stored = np.memmap(reco / "2dseq", dtype="<i2", mode="r+")
        stored[n * 1000 : n * 1000 + 500] //= 2
        stored.flush()
        text = (reco / "visu_pars").read_text(encoding="utf-8")
        (reco / "visu_pars").write_text(text.replace("animal-00", name), encoding="utf-8")
        source = provenance["sources"][role]
        source["path"] = source["path"].replace("animal-00", name)
        for file in source["files"]:
            path = reco / file["path"]
            file |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(run / "provenance.json", provenance)
    return run


def _make_run(study: Path, run: Path) -> Path:
    """Write a run folder as `srmri pair` would, without pairing."""
    import pandas as pd

    from srmri_data import ingest
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_data.pairing import describe_source
    from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
    from srmri_data.run_folder import PAIRS_DTYPES, with_review_columns, write_pairs, write_votes
    from srmri_data.safe_io import write_json
    from srmri_data.slices import intensity_map

    config = PairingConfig(method="paper", plane="acquired", voters=("ssim",))
    plan = plan_pairing(*find_scans(ScanRequest(study / "2"), ScanRequest(study / "1")), config)
    run.mkdir()
    sources = {}
    for role, record in (("lr", plan.low), ("hr", plan.high)):
        volume = ingest.load(record)
        sources[role] = {
            **describe_source(record, {}, volume, run),
            "corrections": {"subject_type": None, "subject_position": None},
            "intensity": asdict(intensity_map(volume.data)),
            "fields": {},
        }
        if role == "hr":
            first, last = plan.low_window.slices
            data = volume.data[:, :, 2 * first : 2 * last : 2]
            write_nifti(run / "hr_aligned.nii.gz", data.astype(np.uint16), volume.affine)
            mask = np.ones(data.shape, dtype=np.uint8)
            write_nifti(run / "hr_aligned_mask.nii.gz", mask, volume.affine)
    low = plan.low_window.slice_numbers
    table = dict.fromkeys(PAIRS_DTYPES, 0.0) | {
        "lr_slice": low,
        "hr_slice": 2 * low,
        "method": "paper",
        "status": "auto",
        "reason": "x",
        "empty": False,
    }
    kept = {k: v for k, v in table.items() if not k.startswith(("auto_", "review"))}
    write_pairs(run, with_review_columns(pd.DataFrame(kept)).astype(PAIRS_DTYPES))
    votes = {"lr_slice": low, "hr_slice": low, "voter": ["ssim"] * len(low)}
    votes |= {"distance": low, "rank": low}
    write_votes(run, {name: np.asarray(column) for name, column in votes.items()})
    settings = {k: v for k, v in asdict(config).items() if k not in ("trim", "lpips_trunk")}
    config_document = {**settings, "trim": "15", "lpips_trunk": None}
    write_json(
        run / "provenance.json",
        {"schema_version": 1, "sources": sources, "truth": None, "config": config_document},
    )
    write_json(run / "summary.json", {"schema_version": 1, **plan.describe()})
    return run


def _plan(runs: list[Path]) -> Any:
    from srmri_data.deid import Pseudonyms
    from srmri_data.export import ExportConfig, plan_export

    return plan_export(runs, config=ExportConfig(), pseudonyms=Pseudonyms(KEY))


def export(runs: list[Path], out: Path) -> dict[str, Any]:
    """Export as `srmri export-hf` does, and note when each stage began."""
    from srmri_data.export import write_export

    begun: dict[str, float] = {}

    def note(stage: str, _done: int, _total: int) -> None:
        begun.setdefault(stage, time.perf_counter())

    plan = _plan(runs)
    write_export(plan, out, progress=note)
    times = [*begun.values(), time.perf_counter()]
    return {
        "stages": {
            name: round(stop - start, 1)
            for name, start, stop in zip(begun, times, times[1:], strict=False)
        }
    }


def by_datasets(runs: list[Path], out: Path, kind: str) -> dict[str, Any]:
    """Give `datasets` the same slices from a generator; let it write Parquet files."""
    import datasets
    from PIL import Image

    from srmri_data import ingest
    from srmri_data.png import encode_grey
    from srmri_data.run_folder import read_aligned

    def image(pixels: Any) -> Any:
        pixels = np.ascontiguousarray(pixels, dtype=np.uint16)
        if kind == "tiff":
            return pixels
        if kind == "png by srmri":
            return {"bytes": encode_grey(pixels), "path": None}
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    plan = _plan(runs)

    def pairs() -> Iterator[dict[str, Any]]:
        for run in plan.runs:
            low, high = (
                ingest.load(v.record, frame=v.selection, dtype="stored").data
                for v in (run.low, run.high)
            )
            aligned = read_aligned(run.run.path)[0].data
            settled = zip(run.pairs["lr_slice"], run.pairs["hr_slice"], strict=True)
            for n, (i, j) in enumerate(settled):
                yield {
                    "subject": run.low.subject,
                    "lr": image(low[:, :, i].T),
                    "hr": image(high[:, :, j].T),
                    "hr_aligned": image(aligned[:, :, n].T),
                }

    def slices() -> Iterator[dict[str, Any]]:
        for run in plan.runs:
            high = ingest.load(run.high.record, frame=run.high.selection, dtype="stored").data
            for k in range(*run.high.stacks["acquired"][1].slices):
                yield {"subject": run.high.subject, "image": image(high[:, :, k].T)}

    tables = (("pairs", pairs, ("lr", "hr", "hr_aligned")), ("slices", slices, ("image",)))
    for name, rows, columns in tables:
        features = datasets.Features(
            {"subject": datasets.Value("string")} | {c: datasets.Image() for c in columns}
        )
        table = datasets.Dataset.from_generator(
            rows, features=features, cache_dir=str(out / "cache"), writer_batch_size=20
        )
        table.to_parquet(str(out / f"{name}.parquet"), batch_size=20)
    return {}


def raw_bytes(runs: list[Path]) -> int:
    """Pixels in both tables, 16 bits each."""
    total = 0
    for run in _plan(runs).runs:
        low, high = run.plan.low_window.shape, run.plan.high_window.shape
        aligned = int(np.prod(run.aligned_shape))
        total += 2 * low[0] * (low[1] * low[2] + high[1] * high[2] + aligned)
        total += 2 * int(np.prod(run.high.stacks["acquired"][1].shape))
    return total


def measured(mode: str, root: Path, count: int) -> dict[str, Any]:
    """Run one way in a process of its own."""
    out = root / f"out {mode}"
    command = [sys.executable, "-m", "benchmarks.export", "--root", str(root), "--out", str(out)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--mode", mode, "--subjects", str(count)], capture_output=True, check=True
    )
    seconds = time.perf_counter() - started
    size = sum(f.stat().st_size for f in out.rglob("*.parquet"))
    shutil.rmtree(out)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds, "parquet": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--compare", type=int, help="subjects datasets gets; default: as many")
    parser.add_argument("--shrink", type=int, default=1, help="fewer rows and columns")
    parser.add_argument("--kinds", default="tiff,png by Pillow,png by srmri")
    for hidden in ("--mode", "--root", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.mode:
        runs = sorted(Path(asked.root).glob("run-*"))[: asked.subjects]
        found = (
            export(runs, Path(asked.out))
            if asked.mode == "srmri"
            else by_datasets(runs, Path(asked.out), asked.mode)
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime
        print(json.dumps({**found, "peak": used.ru_maxrss * 1024, "cpu": spent}))
        return
    compared = min(asked.subjects, asked.compare or asked.subjects)
    with tempfile.TemporaryDirectory(prefix="srmri-export-", dir=asked.root) as folder:
        root = Path(folder)
        runs = make_subjects(root, asked.subjects, asked.shrink)
        print(f"{asked.subjects} subjects, {raw_bytes(runs) / 1e9:.2f} GB of pixels in the tables")
        print(f"{'':<14}{'subjects':>9}{'seconds':>9}{'CPU s':>8}{'peak GB':>9}{'parquet GB':>12}")
        ours: dict[str, float] = {}
        for mode, count in [("srmri", asked.subjects)] + [
            (kind, compared) for kind in asked.kinds.split(",") if kind
        ]:
            found = measured(mode, root, count)
            per_byte = {name: found[name] / raw_bytes(runs[:count]) for name in ("seconds", "cpu")}
            ours = ours or per_byte
            ratio = {name: per_byte[name] / ours[name] for name in ours}
            print(
                f"{mode:<14}{count:>9}{found['seconds']:>9.1f}{found['cpu']:>8.1f}"
                f"{found['peak'] / 2**30:>9.2f}{found['parquet'] / 1e9:>12.2f}",
                ""
                if mode == "srmri"
                else f"  {ratio['seconds']:.2f} × the time, {ratio['cpu']:.2f} × the CPU of srmri",
                flush=True,
            )
            if "stages" in found:
                print("  " + ", ".join(f"{k} {v} s" for k, v in found["stages"].items()))
            if mode == "srmri" and found["peak"] > MOST_MEMORY:
                raise SystemExit("the export took more than 2 GB")


if __name__ == "__main__":
    main()

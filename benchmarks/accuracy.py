"""Accuracy of pairing on known truth, `--method geometry` beside the paper's vote.

    python -m benchmarks.accuracy --data ../shared/data [--seeds 20] [--only tilt2,decoy-mirror]
        [--volumes c57,1,3,10] [--workers 2] [--out results.jsonl] [--json]

LR scans are simulated from real volumes (`srmri simulate`'s code: rigid motion, k-space truncation,
gain field, Rician noise), then paired in memory. Results are kept in a file, one line a run, and a
run that is in it is not made again. Every figure is over the slices that show anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from srmri_data.choices import Method

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

MICE = "nifti/mouse_invivo_T2w_150um_GPL3"
C57 = "nifti/mouse_C57BL6_50um_dMRI_template_NOLICENCE/C57BL6_mouse.ISO.nii.gz"
DEFAULT_VOLUMES = ("c57", "1", "3", "10")


@dataclass(frozen=True)
class Case:
    """What happens between the two scans, and to the files."""

    title: str
    slices: float = 3.3
    in_plane: float = 2.0
    tilt: float = 0.0
    snr: float | None = None
    bias: float = 0.0
    contrast: float = 1.0
    factor: tuple[float, float, float] = (2.0, 2.0, 2.0)
    change: str = ""
    decoy: bool = False
    goal: Mapping[str, float] = field(default_factory=dict)


HARD: dict[str, Any] = {"tilt": 2.0, "snr": 10.0, "bias": 0.1}
CASES: dict[str, Case] = {
    "still": Case("no motion", 0, 0, goal={"exact": 1.0, "mae_slices": 0.02}),
    "shift": Case("shift and in-plane motion", goal={"exact": 0.995, "mae_slices": 0.05}),
    "tilt2": Case(
        "tilt ≤ 2°, bias field, SNR 10", **HARD, goal={"exact": 0.99, "mae_slices": 0.08}
    ),
    "tilt4": Case(
        "tilt 4°, contrast change, SNR 20",
        tilt=4.0,
        snr=20.0,
        contrast=1.6,
        goal={"exact": 0.97, "mae_slices": 0.15},
    ),
    "scale": Case("1 % scale difference", **HARD, change="scale"),
    "origin": Case("header origin wrong by 2 mm", **HARD, change="origin"),
    "orientation": Case("acquired in another orientation", **HARD, change="stored"),
    "third": Case("LR covers a third of HR", **HARD, change="third"),
    "factor": Case("factor 1.52", **HARD, factor=(1.52, 1.52, 1.52)),
    "thick": Case("LR slices 4 × thicker", **HARD, factor=(2.0, 4.0, 2.0)),
    "flipped": Case("axis flipped in the header", **HARD, change="flipped", decoy=True),
    "permuted": Case("axes permuted in the header", **HARD, change="permuted", decoy=True),
    "decoy-subject": Case("another subject", **HARD, change="subject", decoy=True),
    "decoy-mirror": Case("mirrored left–right", **HARD, change="mirror", decoy=True),
    "decoy-reversed": Case("slices reversed", **HARD, change="reversed", decoy=True),
    "duplicate": Case("three duplicated slices", **HARD, change="duplicate"),
    "blank": Case("two blank slices", **HARD, change="blank"),
}


def volume_path(data: Path, name: str) -> Path:
    """Find a volume: ``c57`` or the number of a mouse."""
    if name == "c57":
        return data / C57
    (path,) = (data / MICE).glob(f"tg4510_tp3_{name}_*.nii.gz")
    return path


def changed(low: Any, truth: Any, change: str) -> tuple[Any, Any]:
    """Return what the LR scan is, or says, in a case; and the truth about it."""
    import numpy as np

    from srmri_data.geometry import apply_affine

    affine, data = low.affine.copy(), low.data
    n = data.shape[1]
    index = np.eye(4)
    if change == "scale":
        stretch = np.diag([1.01, 1.01, 1.01, 1.0])
        middle = apply_affine(affine, (np.array(data.shape) - 1) / 2)
        stretch[:3, 3] = middle - stretch[:3, :3] @ middle
        affine = stretch @ affine
    elif change == "origin":
        affine[:3, 3] += (1.2, 1.4, -0.8)
    elif change == "third":
        index[1, 3] = n // 3
        data = data[:, n // 3 : 2 * n // 3]
    elif change == "stored":
        index = np.eye(4)[[2, 0, 1, 3]]
        data = data.transpose(1, 2, 0)
    elif change == "flipped":
        # The header says the first axis runs the other way; the voxels are as they were.
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = data.shape[0] - 1
        affine = affine @ flip
    elif change == "permuted":
        affine = affine @ np.eye(4)[[1, 0, 2, 3]]
    elif change == "mirror":
        data = data[::-1]
    elif change == "reversed":
        data = data[:, ::-1]
    elif change == "duplicate":
        data = data.copy(order="F")
        for at in (n // 3, n // 2, 2 * n // 3):
            data[:, at] = data[:, at - 1]
    elif change == "blank":
        data = data.copy(order="F")
        for at in (n // 3, n // 2):
            data[:, at] = 0
    if change in ("third", "stored"):
        affine = affine @ index
        truth = replace(truth, low_to_high=truth.low_to_high @ index)
    return replace(low, data=np.asfortranarray(data), affine=affine), truth


def run(data: Path, name: str, case_name: str, seed: int, method: Method) -> dict[str, Any]:
    """Simulate one LR scan and pair it; runs in a process of its own."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    from srmri_data import ingest
    from srmri_data.pairing import Stacks, accuracy, pair_stacks
    from srmri_data.planning import Comparison, PairingConfig
    from srmri_data.simulate import SimulationConfig, Truth, simulate_low_res
    from srmri_data.slices import Trim

    case = CASES[case_name]
    (record,) = ingest.discover(volume_path(data, name))
    high = ingest.load(record)
    random = np.random.default_rng([seed, 11])
    spacing_um = 1000 * np.array(high.spacing)
    shift = random.uniform(-1, 1, 3) * spacing_um
    shift *= np.array([case.in_plane, case.slices, case.in_plane])
    tilt = random.uniform(-1, 1, 3)
    tilt *= case.tilt / np.abs(tilt).max()
    config = SimulationConfig(
        factor=case.factor,
        shift_um=tuple(shift),
        tilt_deg=tuple(tilt),
        snr=case.snr,
        bias=case.bias,
        contrast=case.contrast,
        seed=seed,
    )
    made = simulate_low_res(high, config)
    truth = Truth(
        made.low_to_high, made.low_res.shape, high.shape, made.low_res.affine, high.affine,
        config, made.noise_sigma,
    )  # fmt: skip
    low, truth = changed(made.low_res, truth, case.change)
    if case.change == "subject":
        others = [other for other in ("7", "9", "11", "13", "14", "15", "17") if other != name]
        (record,) = ingest.discover(volume_path(data, others[seed % len(others)]))
        high = ingest.load(record)
    plan = Comparison.of(low, high, PairingConfig(method=method, trim=Trim(0, "slices")))
    stacks = Stacks.of(plan, low, high, lambda *_: None)
    paired = pair_stacks(plan, stacks, truth=None if case.decoy else truth)
    pairs = paired.pairs
    shown = pairs[~pairs["empty"]]
    accepted = shown["status"] == "auto"
    result: dict[str, Any] = {
        "volume": name, "case": case_name, "seed": seed, "method": method,
        "shown": len(shown), "accepted": int(accepted.sum()),
    }  # fmt: skip
    if not case.decoy:
        if case.change == "duplicate":
            # What a copied slice shows is what its neighbour shows.
            n = low.shape[1]
            copied = pairs["lr_slice"].isin([n // 3, n // 2, 2 * n // 3])
            slope = plan.voxel_ratio[0]
            pairs.loc[copied, "error_slices"] += slope
            shown = pairs[~pairs["empty"]]
            result["copies_accepted"] = int((pairs.loc[copied, "status"] == "auto").sum())
        if case.change == "blank":
            n = low.shape[1]
            blank = pairs["lr_slice"].isin([n // 3, n // 2])
            result["copies_accepted"] = int((pairs.loc[blank, "status"] == "auto").sum())
        result |= accuracy(pairs, plan.high_frame.spacing[0])
        error = np.abs(shown["error_slices"].to_numpy(dtype=float))
        result["accepted_blunders"] = int(((error > 3) & accepted.to_numpy()).sum())
    result["slices"] = {
        "confidence": shown["confidence"].round(4).tolist(),
        "accepted": accepted.astype(int).tolist(),
        "error": [None] * len(shown)
        if case.decoy
        else shown["error_slices"].astype(float).round(4).tolist(),
        "features": [d.round(4).tolist() for d in paired.features[(~pairs["empty"]).to_numpy()]]
        if paired.features is not None
        else None,
    }
    if paired.alignment is not None:
        registration = paired.alignment.registration
        result |= {
            "quality": registration.quality,
            "orientation_margin": registration.margin,
            "objections": list(paired.alignment.evidence.objections),
        }
    return result


def key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Name of a run."""
    return result["volume"], result["case"], result["seed"], result["method"]


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per case and method."""
    import numpy as np

    rows = []
    for case_name in CASES:
        for method in ("geometry", "paper"):
            some = [r for r in results if r["case"] == case_name and r["method"] == method]
            if not some:
                continue
            shown = sum(r["shown"] for r in some)
            row: dict[str, Any] = {
                "case": case_name, "method": method, "runs": len(some), "slices": shown,
                "accepted": sum(r["accepted"] for r in some) / shown,
            }  # fmt: skip
            if not CASES[case_name].decoy:
                error = np.abs(np.concatenate([r["slices"]["error"] for r in some]))
                row |= {
                    "exact": float((error <= 0.5 + 1e-6).mean()),
                    "mae_slices": float(error.mean()),
                    "p95_slices": float(np.percentile(error, 95)),
                    "worst_mae": max(r["mae_slices"] for r in some),
                    "accepted_blunders": sum(r["accepted_blunders"] for r in some),
                    "wrongly_accepted": sum(r["wrongly_accepted"] for r in some),
                }
            rows.append(row)
    return rows


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print what the goals are about."""
    print(
        f"{'case':34} {'method':9} {'runs':>4} {'slices':>6} {'accepted':>8} {'exact':>7} "
        f"{'MAE':>6} {'p95':>6} {'blunders*':>9} {'wrong*':>6}   goal"
    )
    for row in rows:
        case = CASES[row["case"]]
        line = (
            f"{case.title:34} {row['method']:9} {row['runs']:4} {row['slices']:6} "
            f"{row['accepted']:8.1%}"
        )
        if not case.decoy:
            line += (
                f" {row['exact']:7.2%} {row['mae_slices']:6.3f} {row['p95_slices']:6.3f} "
                f"{row['accepted_blunders']:9} {row['wrongly_accepted']:6}"
            )
        if case.goal and row["method"] == "geometry":
            line += f"   exact ≥ {case.goal['exact']:.1%}, MAE ≤ {case.goal['mae_slices']}"
        elif case.decoy:
            line += " " * 41 + "none accepted"
        print(line)
    print("* among the accepted; slices with an error above 3 and above 1 HR slice")


def main() -> None:
    """Make the runs that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--volumes", default=",".join(DEFAULT_VOLUMES))
    parser.add_argument("--methods", default="geometry,paper")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("accuracy.jsonl"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    if args.out.exists():
        results = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {key(result) for result in results}
    wanted = [
        (volume, case, seed, method)
        for seed in range(args.first_seed, args.first_seed + args.seeds)
        for case in args.only.split(",")
        for volume in args.volumes.split(",")
        for method in args.methods.split(",")
        if not (method == "paper" and CASES[case].decoy)
        and not (volume == "c57" and CASES[case].change == "subject")
    ]
    missing = [item for item in wanted if item not in done]
    os.environ.update(dict.fromkeys(THREADS, "1"))
    with ProcessPoolExecutor(args.workers) as pool, args.out.open("a") as file:
        jobs = {pool.submit(run, args.data, *item): item for item in missing}
        for n, job in enumerate(as_completed(jobs), start=1):
            result = job.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            results.append(result)
            print(f"\r{n} of {len(missing)} runs", end="", file=sys.stderr, flush=True)
    rows = summarise([result for result in results if key(result) in set(wanted)])
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()

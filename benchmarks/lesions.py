"""Whether small lesions survive degradation and sampling, and whether none grow.

``python -m benchmarks.lesions --model M --data FOLDER --split splits.json --out WORK`` puts a ball
into every chosen slice of the HR volumes of the tune animals, degrades them (k-space truncated by
2, complex noise, magnitude), super-resolves them with and without the lesion under the same noise,
and prints how much of the lesion's contrast against the ring around it comes back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.superres import Image, Job, Setting, jobs_of, sampling_options

DIAMETERS = (2, 3, 4, 6)
"""HR voxels; 2 are one LR voxel."""
CONTRASTS = (0.3, -0.3)
"""Of the range of the image."""
SURVIVES = 0.5
"""Share of its contrast that a lesion has to keep, and that none may gain from nothing."""


def places(setting: Setting, diameter: int, seed: int) -> list[tuple[int, int]]:
    """One centre per chosen slice, deep enough in the tissue for the ring."""
    random = np.random.default_rng(seed)
    found = []
    for inside in setting.stack(setting.truth > 0):
        depth = ndimage.distance_transform_edt(inside)
        rows, cols = np.nonzero(depth >= min(diameter / 2 + 3, depth.max()))
        n = random.integers(len(rows))
        found.append((int(rows[n]), int(cols[n])))
    return found


def ball(shape: tuple[int, int], centre: tuple[int, int], diameter: float) -> Image:
    """Its share of every pixel of the middle slice, with an edge one voxel wide."""
    rows, cols = np.indices(shape)
    distance = np.hypot(rows - centre[0], cols - centre[1])
    return np.asarray(np.clip(diameter / 2 - distance + 0.5, 0, 1), dtype=np.float32)


def with_lesions(
    high: Image,
    span: float,
    *,
    setting: Setting,
    centres: list[tuple[int, int]],
    diameter: int,
    contrast: float,
) -> Image:
    """Add one to each chosen slice: slices are degraded alone, so one slice each will do."""
    changed = high.copy()
    stack = changed.transpose(setting.axes)
    for n, centre in zip(setting.chosen, centres, strict=True):
        shape: Any = stack.shape[1:]
        stack[n] += contrast * span * ball(shape, centre, diameter)
    return np.maximum(changed, 0)


def contrasts(stack: Image, centres: list[tuple[int, int]], diameter: int) -> NDArray[np.float64]:
    """Mean of the core minus that of the ring, for every slice."""
    found = []
    for image, centre in zip(stack, centres, strict=True):
        rows, cols = np.indices(image.shape)
        distance = np.hypot(rows - centre[0], cols - centre[1])
        core, edge = distance <= max(diameter / 2 - 0.5, 0.5), diameter / 2
        ring = (distance > edge + 1) & (distance <= edge + 3)
        found.append(float(image[core].mean() - image[ring].mean()))
    return np.array(found)


def run(job: Job) -> list[dict[str, Any]]:
    """Figures of one animal."""
    import torch

    torch.set_num_threads(1)
    free = Setting(job)
    plain = np.stack([free.draw(number)[0] for number in range(job.samples)])
    filled = free.context()["rival zero-filled"]
    rows = []
    for diameter in DIAMETERS:
        centres = places(free, diameter, seed=int(job.subject) + diameter)

        def of(stack: Image, centres: Any = centres, diameter: int = diameter) -> Any:
            return contrasts(stack, centres, diameter)

        for contrast in CONTRASTS:
            edit = partial(
                with_lesions, setting=free, centres=centres, diameter=diameter, contrast=contrast
            )
            ill = Setting(replace(job, label=f"{job.label}-lesions"), edit)
            drawn = np.stack([ill.draw(number)[0] for number in range(job.samples)])
            put = of(ill.stack(ill.truth)) - of(free.stack(free.truth))
            rival = ill.context()["rival zero-filled"]
            methods = {
                "zero-filled": (rival[None], filled[None]),
                "single draw": (drawn, plain),
                "mean": (drawn.mean(axis=0)[None], plain.mean(axis=0)[None]),
            }
            for name, (after, before) in methods.items():
                kept = np.array([of(a) - of(b) for a, b in zip(after, before, strict=True)]) / put
                grown = np.array([of(b) - of(free.stack(free.truth)) for b in before]) / put
                rows.append(
                    {
                        "method": name,
                        "diameter": diameter,
                        "contrast": contrast,
                        "kept": kept.ravel().tolist(),
                        "grown": grown.ravel().tolist(),
                    }
                )
    return rows


def main() -> None:
    """Draw, judge and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    sampling_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for LR volumes")
    parser.add_argument("--json", type=Path, help="keep the figures here")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.workers) as pool:
        rows = [row for found in pool.imap(run, jobs_of(options)) for row in found]
    print(f"{'':12s}{'diameter':>9s}{'kept':>8s}{'± sd':>7s}{'survive':>9s}{'grown':>8s}")
    table = []
    for name in ("zero-filled", "single draw", "mean"):
        for diameter in DIAMETERS:
            these = [r for r in rows if r["method"] == name and r["diameter"] == diameter]
            kept = np.concatenate([r["kept"] for r in these])
            grown = np.concatenate([r["grown"] for r in these])
            row = {
                "method": name,
                "diameter": diameter,
                "n": len(kept),
                "kept": float(kept.mean()),
                "sd": float(kept.std()),
                "survive": float((kept >= SURVIVES).mean()),
                "grown": float((grown >= SURVIVES).mean()),
            }
            table.append(row)
            print(
                f"{name:12s}{diameter:9d}{row['kept']:8.2f}{row['sd']:7.2f}"
                f"{100 * row['survive']:8.1f}%{100 * row['grown']:7.1f}%"
            )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

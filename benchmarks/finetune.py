"""What ten minutes of fine-tuning do for the bundled model on another contrast.

``python -m benchmarks.finetune --volume HEAD.nii.gz --out WORK`` trains on the back half of a
volume (``srmri train --init bundled``) and super-resolves coronal slices of its front half with the
bundled model, whose refusal is overridden, and with the new one, as `benchmarks.superres` does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.superres import Job, report, run
from srmri_data.geometry import closest_axes
from srmri_model.weights import bundled_weights


def halves(volume: Path, out: Path) -> tuple[Path, Path]:
    """Write the back and the front half of a volume."""
    image = nib.nifti1.load(volume)
    world_axis, sign = closest_axes(image.affine)
    axis = int(np.flatnonzero(world_axis == 1)[0])
    middle = image.shape[axis] // 2
    parts = [slice(None, middle), slice(middle, None)][:: int(sign[axis])]
    paths = out / "back.nii.gz", out / "front.nii.gz"
    for path, part in zip(paths, parts, strict=True):
        chosen = tuple(part if n == axis else slice(None) for n in range(3))
        nib.save(image.slicer[chosen], path)
    return paths


def main() -> None:
    """Train, draw with both models, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--volume", type=Path, required=True, help="HR, of another contrast")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--slices", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    back, front = halves(options.volume, options.out)
    mine = options.out / "mine"
    if not (mine / "model.safetensors").exists():
        command = [
            *(sys.executable, "-m", "cli", "train", "--init", "bundled", "--data", str(back)),
            *("--plane", "coronal", "--minutes", str(options.minutes)),
            *("--learning-rate", "1e-3", "--out", str(mine)),
        ]
        subprocess.run(command, check=True)
    models = {"bundled": bundled_weights(), "fine-tuned": mine / "model.safetensors"}
    for label, model in models.items():
        job = Job(
            volume=front,
            subject="0",
            sigma_y=options.noise,
            model=model,
            out=options.out / "draws",
            label=label,
            planes="single",
            plane="coronal",
            sampler="fast",
            steps=None,
            settings={},
            samples=options.samples,
            slices=options.slices,
            noise=None,
        )
        print(run(job))
    report(options.out / "draws", list(models), scale=1.0)


if __name__ == "__main__":
    main()

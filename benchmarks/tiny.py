"""Which shape denoises best after equal compute: the choice of the preset `tiny`.

    python -m benchmarks.tiny --data ../shared/data --shape NAME [--seconds 230] [--crop 64]

Trains a shape on the training mice for a fixed number of processor seconds on one thread, then
denoises slices of the tune mice. Prints one JSON line: dB inside the foreground ([0, 1] units)
per σ. The training is a plain loop, the same for every shape; only differences count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_model.networks.config import PRESETS, NetworkConfig

FOLDER = "nifti/mouse_invivo_T2w_150um_GPL3"
SIGMAS = (0.05, 0.1, 0.25)
EDM = replace(PRESETS["tiny"], nf=24)
THREE: dict[str, Any] = {"ch_mult": (1, 2, 2), "attention": (False,) * 3}
SHAPES: dict[str, NetworkConfig] = {
    "small": PRESETS["small"],
    "small-edm": replace(EDM, nf=32, blocks=4, middle_attention=True, progressive_input="residual"),
    "24x2": EDM,
    "16x2": replace(EDM, nf=16),
    "16x2-ve": replace(EDM, nf=16, preconditioning="ve", scale_by_sigma=True),
    "patch32x2": replace(EDM, nf=32, patch=2, **THREE),
    "patch32x2-attention": replace(
        EDM, nf=32, patch=2, ch_mult=(1, 2, 2), attention=(False, False, True)
    ),
    "patch32x2-average": replace(EDM, nf=32, patch=2, fir=False, **THREE),
    "patch48x1": replace(EDM, nf=48, patch=2, blocks=1, ch_mult=(1, 1, 2), attention=(False,) * 3),
}

Array = NDArray[np.float32]


def slices_of(data: Path, split: str) -> tuple[Array, NDArray[np.bool_]]:
    """Return coronal slices in [0, 1] and their foreground."""
    import nibabel as nib

    from srmri_data.intensity import foreground_mask
    from srmri_data.slices import intensity_map

    subjects = set(json.loads((data / "splits.json").read_text())[split])
    images, masks = [], []
    for path in sorted((data / FOLDER).glob("*.nii.gz")):
        if path.name.split("_")[2] not in subjects:
            continue
        voxels = np.asarray(nib.load(path).dataobj, dtype=np.float32)
        mask = foreground_mask(voxels)
        used = mask.sum((0, 2)) > 0.05 * mask.sum((0, 2)).max()
        images.append(np.moveaxis(intensity_map(voxels).apply(voxels), 1, 0)[used])
        masks.append(np.moveaxis(mask, 1, 0)[used])
    return np.concatenate(images).astype(np.float32), np.concatenate(masks)


def tune_cases(data: Path) -> tuple[Array, NDArray[np.bool_], dict[float, Array]]:
    """Return every fourth slice of the tune mice, with its noisy versions."""
    images, masks = slices_of(data, "tune")
    images, masks = images[::4], masks[::4]
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    return images, masks, {sigma: images + np.float32(sigma) * noise for sigma in SIGMAS}


def decibels(clean: Array, denoised: Array, mask: NDArray[np.bool_]) -> float:
    error = float(np.mean((clean[mask] - denoised[mask]) ** 2, dtype=np.float64))
    return round(-10 * math.log10(error), 3)


def train(
    config: NetworkConfig, data: Path, seconds: float, *, crop: int, learning_rate: float
) -> dict[str, Any]:
    """Train for `seconds` of processor time, then denoise the tune slices."""
    import torch

    from srmri_model.networks import (
        Denoiser,
        build_network,
        forward_flops,
        loss_weight,
        parameter_count,
    )

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images = torch.from_numpy(slices_of(data, "train")[0])[:, None]
    generator = torch.Generator().manual_seed(0)
    network = build_network(config)
    average = build_network(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    denoiser = Denoiser(network, config)
    start, steps = time.process_time(), 0
    while (progress := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (
                learning_rate * min(1, steps / 50) * 0.5 * (1 + math.cos(math.pi * progress))
            )
        clean = images[torch.randint(len(images), (4,), generator=generator)]
        if steps % 2:
            clean = clean.flip(2)
        if crop:
            # Around the middle: the corners of a skull-stripped slice are empty.
            row, col = (
                int(torch.randint(max(size - crop, 0) + 1, (1,), generator=generator))
                for size in clean.shape[2:]
            )
            clean = clean[:, :, row : row + crop, col : col + crop]
        log_sigma = math.log(0.15) + 1.2 * torch.randn(4, generator=generator)
        sigma = log_sigma.exp().clamp(config.sigma_min, config.sigma_max)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = clean + sigma[:, None, None, None] * noise
        error = (denoiser(noisy, sigma) - clean).square().mean(dim=(1, 2, 3))
        optimizer.zero_grad()
        (loss_weight(config, sigma) * error).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        steps += 1
        decay = min(0.99, steps / (10 + steps))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
    truth, mask, cases = tune_cases(data)
    best = Denoiser(average.requires_grad_(False), config)
    scores = {}
    for level, images_with_noise in cases.items():
        stack = torch.from_numpy(images_with_noise)[:, None]
        parts = [best(stack[i : i + 8], level) for i in range(0, len(stack), 8)]
        scores[str(level)] = decibels(truth, torch.cat(parts)[:, 0].numpy(), mask)
    return {
        "parameters": parameter_count(network),
        "gflop": round(forward_flops(config, 112, 80) / 1e9, 2),
        "steps": steps,
        "db": scores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--seconds", type=float, default=230)
    parser.add_argument("--crop", type=int, default=64, help="side of a patch; 0: whole slices")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    result = train(
        SHAPES[options.shape],
        options.data,
        options.seconds,
        crop=options.crop,
        learning_rate=options.learning_rate,
    )
    settings = {name: value for name, value in vars(options).items() if name != "data"}
    print(json.dumps({**settings, **result}))


if __name__ == "__main__":
    main()

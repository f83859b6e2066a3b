"""Make the checkpoint that comes with the package of one that was trained.

``python -m benchmarks.bundle --model RUN/model.safetensors --data FOLDER --split splits.json
--out srmri_model/weights/mouse-t2w.safetensors [--std-scale S] [--seen-scale S …]`` measures again
what the samplers need to know, on more held-out slices than training looks at and on whole volumes,
and keeps it with the weights. The training itself is ``srmri train``, see ``MODEL_CARD.md``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from srmri_model.checkpoints import load_checkpoint, save_checkpoint
from srmri_model.networks import Denoiser, build_network
from srmri_model.training.domain import describe_slices, training_residuals
from srmri_model.training.slices import open_data, volumes_of
from srmri_model.training.validation import (
    LEVELS,
    VOLUME_LEVELS,
    levels_of,
    measure,
    measure_volumes,
)


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder for mapped volumes")
    parser.add_argument("--slices", type=int, default=96, help="held-out slices to measure on")
    parser.add_argument("--std-scale", type=float, help="of benchmarks.superres on tune animals")
    parser.add_argument(
        "--seen-scale",
        type=float,
        nargs="+",
        default=[1.0],
        help="of every level of the table of volumes, or one number; see docs/decisions/0024-…",
    )
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    checkpoint = load_checkpoint(options.model)
    network = build_network(checkpoint.network)
    network.load_state_dict(checkpoint.tensors)
    denoiser = Denoiser(network.requires_grad_(False), checkpoint.network)
    data = open_data(
        [options.data], checkpoint.metadata["planes"], options.cache, split=options.split
    )
    shape = checkpoint.network
    table = measure(denoiser, data.validation, levels_of(shape, LEVELS), count=options.slices)
    planes = checkpoint.metadata["planes"]
    whole = measure_volumes(
        denoiser, volumes_of(data.validation), planes, levels_of(shape, VOLUME_LEVELS)
    )
    residual = training_residuals(
        denoiser,
        data.validation,
        n_planes=shape.n_planes,
        sigma_max=shape.sigma_max,
        device=torch.device("cpu"),
        count=options.slices // 2,
    )
    scales = options.seen_scale
    seen_scale = scales[0] if len(scales) == 1 else scales
    metadata = {
        **checkpoint.metadata,
        "noise_table": table.to_json(),
        "volume_table": {**whole.to_json(), "seen_scale": seen_scale},
        "domain": {**describe_slices(data.train, n_volumes=99), "residual": residual},
    }
    if options.std_scale:
        metadata["std_scale"] = options.std_scale
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(save_checkpoint(options.out, replace(checkpoint, extra={}, metadata=metadata)))


if __name__ == "__main__":
    main()

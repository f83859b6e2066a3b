"""Writes checkpoints in the public layout, with random weights of this project's networks."""

from __future__ import annotations

from pathlib import Path

import torch

from srmri_model.networks import NetworkConfig, build_network


def public_state(config: NetworkConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by their public names, in the public order."""
    from srmri_model.public_checkpoints import _layout

    generator = torch.Generator().manual_seed(seed)
    own = build_network(config).state_dict()
    sigmas = torch.linspace(config.sigma_max, config.sigma_min, 5, dtype=torch.float64)
    state = {"module.sigmas": sigmas}
    for public, name in _layout(config):
        shape = list(own[name].shape)
        if "NIN_" in public:
            # Three matrices (in, out) for the one (3·out, in) here.
            shape = [config.nf * config.ch_mult[-1]] * len(shape)
        state[f"module.{public}"] = 0.1 * torch.randn(shape, generator=generator)
    return state


def write_public_checkpoint(path: Path, config: NetworkConfig, **changes: object) -> None:
    """Write one; `changes` replace entries of the file."""
    model = public_state(config)
    shadow = [
        value + 1
        for name, value in model.items()
        if name not in ("module.sigmas", "module.all_modules.0.W")
    ]
    document = {
        "optimizer": {"state": {}, "param_groups": []},
        "model": model,
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": shadow},
        "step": 7,
    }
    torch.save({**document, **changes}, path)

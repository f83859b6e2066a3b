"""A supervised baseline as it is used: LR of any size to HR of the size asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from srmri_data.choices import SupervisedName
from srmri_data.errors import CheckpointError, UsageError
from srmri_model.axes import apply_per_axis
from srmri_model.baselines import published
from srmri_model.baselines.carn import CARN
from srmri_model.baselines.config import UpscalerConfig
from srmri_model.baselines.ddbpn import DDBPN
from srmri_model.baselines.srcnn import SRCNN
from srmri_model.checkpoints import Kind, load_checkpoint
from srmri_model.operators import Grid, kernel_interpolation, low_size, resampling_matrix
from srmri_model.types import Images

_ENLARGING: Mapping[SupervisedName, Any] = MappingProxyType(
    {
        "ddbpn": DDBPN,
        "carn": CARN,
        "swinir": published.swinir,
        "rcan": published.rcan,
        "esrgan": published.rrdbnet,
    }
)
_LEAST_EDGE = 8
"""LR pixels per side below which windows can not be filled by reflection."""


class Upscaler(nn.Module):
    """A baseline's network between the grids of LR and HR.

    Networks enlarge by an integer; their output is taken at the places of HR's voxels, which
    changes nothing where the factor is that integer. SRCNN sees LR on the HR grid at once.

    Parameters
    ----------
    config : UpscalerConfig
        The baseline, its shape and the grids.

    Raises
    ------
    UsageError
        If the network's package is not installed.
    """

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.network: nn.Module
        if config.name == "srcnn":
            self.network = SRCNN(config.shape, channels=config.channels)  # type: ignore[arg-type]
        else:
            build = _ENLARGING[config.name]
            self.network = build(
                config.shape, factor=config.integer_factor, channels=config.channels
            )

    def forward(self, low_res: Images, high_size: tuple[int, int]) -> Images:
        """Enlarge.

        Parameters
        ----------
        low_res : (B, C, h, w) Tensor
            LR, on the [0, 1] scale of HR.
        high_size : (int, int)
            Rows and columns of HR, such that LR has `srmri_model.operators.low_size` of them.

        Returns
        -------
        (B, C, H, W) Tensor
            HR on the same scale, not clipped.

        Raises
        ------
        UsageError
            If the sizes do not fit the factor.
        """
        config = self.config
        size = (low_res.shape[-2], low_res.shape[-1])
        expected = tuple(low_size(n, f) for n, f in zip(high_size, config.factor, strict=True))
        if size != expected:
            raise UsageError(
                f"{config.name} enlarges by {config.factor}: LR of HR {tuple(high_size)} is "
                f"{expected} large; found {size}"
            )
        high = None
        if config.residual or config.name == "srcnn":
            high = _applied(_interpolation(size, high_size, config.factor, config.grid), low_res)
        made = self._network(low_res, high, high_size)
        return high + made if config.residual and high is not None else made

    def _network(
        self, low_res: Images, interpolated: Images | None, high_size: tuple[int, int]
    ) -> Images:
        if interpolated is not None and self.config.name == "srcnn":
            sharpened: Images = self.network(interpolated)
            return sharpened
        rows, cols = low_res.shape[-2:]
        missing = (max(0, _LEAST_EDGE - cols), max(0, _LEAST_EDGE - rows))
        if any(missing):
            low_res = nn.functional.pad(low_res, (0, missing[0], 0, missing[1]), mode="replicate")
        factor = self.config.integer_factor
        # A copy, because one of the published networks changes what it is given.
        fine: Images = self.network(low_res.clone())[..., : factor * rows, : factor * cols]
        if tuple(fine.shape[-2:]) == tuple(high_size) and set(self.config.factor) == {factor}:
            return fine
        size = (fine.shape[-2], fine.shape[-1])
        matrices = _resampling(size, high_size, factor, self.config.factor, self.config.grid)
        return _applied(matrices, fine)


def _applied(matrices: tuple[Tensor, Tensor], images: Images) -> Images:
    return apply_per_axis(images, [matrix.to(images.device) for matrix in matrices])


@functools.lru_cache(maxsize=16)
def _interpolation(
    size: tuple[int, int], high_size: tuple[int, int], factors: tuple[float, float], grid: Grid
) -> tuple[Tensor, Tensor]:
    rows, cols = (
        torch.from_numpy(kernel_interpolation("bicubic", n, f, grid=grid)).float()
        for n, f in zip(high_size, factors, strict=True)
    )
    return rows, cols


@functools.lru_cache(maxsize=16)
def _resampling(
    size: tuple[int, int],
    high_size: tuple[int, int],
    factor: int,
    factors: tuple[float, float],
    grid: Grid,
) -> tuple[Tensor, Tensor]:
    """From the network's grid, `factor` times as fine as LR's, to that of HR."""
    rows, cols = (
        torch.from_numpy(resampling_matrix(fine, high, factor / f, grid=grid)).float()
        for fine, high, f in zip(size, high_size, factors, strict=True)
    )
    return rows, cols


def build_upscaler(config: UpscalerConfig, *, seed: int = 0) -> Upscaler:
    """Make an upscaler with fresh weights.

    Parameters
    ----------
    config : UpscalerConfig
        The baseline.
    seed : int
        Seed of the weights; the global generator is left alone.

    Returns
    -------
    Upscaler
        On the CPU, in float32 and channels-last. One that learns what to add to the
        interpolation begins with nothing; SRCNN as published begins with normal weights of
        standard deviation 0.001.

    Raises
    ------
    UsageError
        If the network's package is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        upscaler = Upscaler(config)
        convolutions = [m for m in upscaler.modules() if isinstance(m, nn.Conv2d)]
        if config.residual:
            for values in convolutions[-1].parameters():
                nn.init.zeros_(values)
        elif config.name == "srcnn":
            for layer in convolutions:
                nn.init.normal_(layer.weight, std=1e-3)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return upscaler.to(memory_format=torch.channels_last)


def _parsed(path: Path, values: dict[str, Any]) -> UpscalerConfig:
    try:
        return UpscalerConfig.from_json(values)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: it describes no baseline ({error})") from error


@functools.lru_cache(maxsize=4)
def _weights(config: UpscalerConfig) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return Upscaler(config).state_dict()


UPSCALER: Kind[UpscalerConfig] = Kind(
    key="upscaler",
    what="a supervised baseline",
    use="give it to what takes upscalers, or train a score model with --model score",
    describe=UpscalerConfig.to_json,
    parse=_parsed,
    weights=_weights,
)
"""How checkpoints hold a baseline."""


def load_upscaler(path: Path, device: str = "cpu") -> Upscaler:
    """Read a baseline's checkpoint and make it ready to use.

    Parameters
    ----------
    path : Path
        ``model.safetensors`` of ``srmri train --model NAME``.
    device : str
        Where it is to run.

    Returns
    -------
    Upscaler
        With frozen weights: ``upscaler(low_res, high_size)``.

    Raises
    ------
    MissingInputError
        If there is no such file.
    CheckpointError
        If it is damaged, or holds something else.
    """
    checkpoint = load_checkpoint(path, UPSCALER)
    upscaler = build_upscaler(checkpoint.network)
    upscaler.load_state_dict(checkpoint.tensors)
    return upscaler.requires_grad_(False).eval().to(device)

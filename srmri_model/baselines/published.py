"""The networks whose published code is in the package `spandrel`: SwinIR, RCAN and RRDBNet."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from srmri_data.errors import UsageError
from srmri_model.baselines.config import RCANShape, RRDBShape, SwinIRShape


def swinir(shape: SwinIRShape, *, factor: int, channels: int = 1) -> nn.Module:
    """Build SwinIR for classical super-resolution.

    Parameters
    ----------
    shape : SwinIRShape
        Width and depth.
    factor : {2, 3, 4, 8}
        HR over LR pixels.
    channels : int
        Channels of an image.

    Returns
    -------
    Module
        LR to HR; images are padded to whole windows by reflection and cropped again.

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    kind = _class("SwinIR.__arch.SwinIR", "SwinIR", "swinir")
    with warnings.catch_warnings(), _NumbersAreReal():
        # The published code leaves out an argument that torch will ask for one day.
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        network: nn.Module = kind(
            img_size=48 // shape.window * shape.window or shape.window,
            in_chans=channels,
            embed_dim=shape.width,
            depths=list(shape.depths),
            num_heads=list(shape.heads),
            window_size=shape.window,
            mlp_ratio=shape.mlp_ratio,
            drop_path_rate=shape.drop_path,
            upscale=factor,
            upsampler="pixelshuffle",
        )
    return network


def rcan(shape: RCANShape, *, factor: int, channels: int = 1) -> nn.Module:
    """Build RCAN without the colour statistics of its training images.

    Parameters
    ----------
    shape : RCANShape
        Width and depth.
    factor : {2, 3, 4, 8}
        HR over LR pixels.
    channels : int
        Channels of an image.

    Returns
    -------
    Module
        LR to HR.

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    network: nn.Module = _class("RCAN.__arch.rcan_arch", "RCAN", "rcan")(
        scale=factor,
        n_resgroups=shape.groups,
        n_resblocks=shape.blocks,
        n_feats=shape.width,
        n_colors=channels,
        reduction=shape.reduction,
        norm=False,
    )
    return network


def rrdbnet(shape: RRDBShape, *, factor: int, channels: int = 1) -> nn.Module:
    """Build the generator of ESRGAN.

    Parameters
    ----------
    shape : RRDBShape
        Width and depth.
    factor : {2, 3, 4, 8}
        HR over LR pixels.
    channels : int
        Channels of an image.

    Returns
    -------
    Module
        LR to HR.

    Raises
    ------
    UsageError
        If the package is not installed.
    """
    network: nn.Module = _class("ESRGAN.__arch.RRDB", "RRDBNet", "esrgan")(
        in_nc=channels,
        out_nc=channels,
        num_filters=shape.width,
        num_blocks=shape.blocks,
        scale=factor,
    )
    return network


class _NumbersAreReal(TorchFunctionMode):
    """Keep the rates that the published code reads off a tensor from being made on ``meta``."""

    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        settings = dict(kwargs or {})
        if function is torch.linspace:
            settings["device"] = "cpu"
        return function(*args, **settings)


def _class(module: str, name: str, baseline: str) -> Any:
    try:
        return getattr(importlib.import_module(f"spandrel.architectures.{module}"), name)
    except ImportError as error:
        raise UsageError(
            f"{baseline} is built by the package spandrel, which can not be imported ({error})",
            hint="install it with: pip install 'srmri[baselines]'",
        ) from error

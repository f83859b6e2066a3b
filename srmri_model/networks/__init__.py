"""Score networks: their shapes, the networks themselves, and the denoiser around them.

Importing this package costs nothing; torch is loaded with the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srmri_model.networks.config import PRESETS, NetworkConfig

if TYPE_CHECKING:
    from srmri_model.networks.denoiser import Denoiser, loss_weight, sigma_at
    from srmri_model.networks.ncsnpp import (
        NCSNpp,
        build_network,
        forward_flops,
        parameter_count,
        shown_more,
    )

__all__ = [
    "PRESETS",
    "Denoiser",
    "NCSNpp",
    "NetworkConfig",
    "build_network",
    "forward_flops",
    "loss_weight",
    "parameter_count",
    "shown_more",
    "sigma_at",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from srmri_model.networks import denoiser, ncsnpp

    return getattr(denoiser if hasattr(denoiser, name) else ncsnpp, name)

"""What a model has to beat: interpolations, and networks that learn from pairs.

Importing this package costs nothing; torch is loaded with the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srmri_model.baselines.config import SUPERVISED, UpscalerConfig

if TYPE_CHECKING:
    from srmri_model.baselines.upscaler import Upscaler, load_upscaler

__all__ = ["SUPERVISED", "Upscaler", "UpscalerConfig", "load_upscaler"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from srmri_model.baselines import upscaler

    return getattr(upscaler, name)

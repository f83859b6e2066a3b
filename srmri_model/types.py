"""Tensor aliases: shape, type and unit, in the signature."""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Float, Float32, Int64
from torch import Tensor

Images: TypeAlias = Float32[Tensor, "batch channel row col"]
"""Images in [0, 1] by the per-volume map, noise at σ in the same units."""

ImagesShown: TypeAlias = Float32[Tensor, "batch shown row col"]
"""The same, and their neighbours as further channels."""

Features: TypeAlias = Float[Tensor, "batch _channel _row _col"]
"""Activations of a network, in its working precision; a layer may change their size."""

Sigmas: TypeAlias = Float32[Tensor, " batch"]
"""Standard deviation of the noise of each image."""

Planes: TypeAlias = Int64[Tensor, " batch"]
"""Index of the plane each image was cut along."""

Embedding: TypeAlias = Float[Tensor, "batch feature"]
"""What a network knows of σ and the plane."""

ImagesOrVolumes: TypeAlias = Float32[Tensor, "batch channel *size"]
"""What samplers work on: images, or whole volumes with a third axis; units as `Images`."""

Measurements: TypeAlias = Float32[Tensor, "batch channel *low_size"]
"""LR images or volumes; units as `Images`."""

WhiteNoise: TypeAlias = Float32[Tensor, "batch ..."]
"""Independent standard normal numbers."""

PerImage: TypeAlias = Float32[Tensor, " batch"]
"""One number for each image."""

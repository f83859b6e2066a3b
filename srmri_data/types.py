"""Array aliases: what an array means, its shape and its unit, in the signature."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

Affine: TypeAlias = Float64[np.ndarray, "4 4"]
"""Voxel (or slice, row, column) index to world RAS+ millimetres."""

VoxelArray: TypeAlias = Shaped[np.ndarray, "i j k"]
"""Voxels in stored axis order."""

SliceArray: TypeAlias = Float32[np.ndarray, "slice row col"]
"""A stack of 2-D images."""

LowResStack: TypeAlias = Float32[np.ndarray, "n_lr row col"]
"""LR slices, intensities mapped to [0, 1] by one affine map per volume."""

HighResStack: TypeAlias = Float32[np.ndarray, "n_hr row col"]
"""HR slices at the in-plane size of the LR slices, intensities likewise."""

DistanceMatrix: TypeAlias = Float32[np.ndarray, "n_lr n_hr"]
"""Dissimilarity of every LR slice to every HR slice; smaller is more alike, NaN not compared."""

Band: TypeAlias = Int[np.ndarray, "n_lr 2"]
"""Half-open range of HR candidates (columns) that each LR slice is compared with."""

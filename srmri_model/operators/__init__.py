"""What a scanner or a resampling makes of an HR image: H, its adjoint and its data steps."""

from srmri_model.operators.matrices import (
    GRIDS,
    KINDS,
    WIDTH_KINDS,
    Grid,
    Kind,
    degradation_matrix,
    interpolation_matrix,
    kernel_interpolation,
    low_offset,
    low_positions,
    low_size,
    resampling_matrix,
)
from srmri_model.operators.separable import (
    AxisFactors,
    SeparableOperator,
    factor_per_axis,
    make_operator,
)

__all__ = [
    "GRIDS",
    "KINDS",
    "WIDTH_KINDS",
    "AxisFactors",
    "Grid",
    "Kind",
    "SeparableOperator",
    "degradation_matrix",
    "factor_per_axis",
    "interpolation_matrix",
    "kernel_interpolation",
    "low_offset",
    "low_positions",
    "low_size",
    "make_operator",
    "resampling_matrix",
]

"""What a scanner or a resampling makes of an HR image: H, its adjoint and its data steps."""

from srmri_model.operators.matrices import (
    GRIDS,
    KINDS,
    Grid,
    Kind,
    degradation_matrix,
    interpolation_matrix,
    low_positions,
    low_size,
)
from srmri_model.operators.separable import AxisFactors, SeparableOperator, make_operator

__all__ = [
    "GRIDS",
    "KINDS",
    "AxisFactors",
    "Grid",
    "Kind",
    "SeparableOperator",
    "degradation_matrix",
    "interpolation_matrix",
    "low_positions",
    "low_size",
    "make_operator",
]

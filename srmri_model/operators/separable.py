"""A linear operator that is one matrix per axis, and the data steps it allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from srmri_data.errors import UsageError
from srmri_model.axes import apply_per_axis
from srmri_model.operators.matrices import (
    GRIDS,
    KINDS,
    WIDTH_KINDS,
    Grid,
    Kind,
    degradation_matrix,
    interpolation_matrix,
    low_size,
)

# Singular values below this share of the largest are rounding.
_RANK_TOLERANCE = 1e-7


@dataclass(frozen=True, eq=False)
class AxisFactors:
    """What an operator does along one axis.

    Parameters
    ----------
    forward : (m, n) Tensor
        HR line to LR line.
    up : (n, m) Tensor
        LR line interpolated on the HR grid.
    low_basis, high_basis : (m, m) and (n, m) Tensor
        Left and right singular vectors of `forward`, in columns.
    singular : (m,) Tensor
        Its singular values; 0 where they are rounding.
    """

    forward: Tensor
    up: Tensor
    low_basis: Tensor
    high_basis: Tensor
    singular: Tensor

    @classmethod
    def of(cls, forward: Tensor, up: Tensor) -> AxisFactors:
        """Factorise a matrix.

        Parameters
        ----------
        forward, up : (m, n) and (n, m) Tensor
            As in the class.

        Returns
        -------
        AxisFactors
            With the reduced singular value decomposition.
        """
        low_basis, singular, high_basis = torch.linalg.svd(forward, full_matrices=False)
        singular = torch.where(singular > _RANK_TOLERANCE * singular[0], singular, 0)
        return cls(forward, up, low_basis, high_basis.mT.contiguous(), singular)

    def to(self, device: torch.device, dtype: torch.dtype) -> AxisFactors:
        """Return the same on another device and in another type.

        Parameters
        ----------
        device : torch.device
            Where to.
        dtype : torch.dtype
            Floating-point type.

        Returns
        -------
        AxisFactors
            Converted.
        """
        return AxisFactors(*(getattr(self, f.name).to(device, dtype) for f in fields(self)))


class SeparableOperator:
    """HR images to LR images, one matrix along each of the last two or three axes.

    Leading axes are batch. All methods are differentiable. `make_operator` builds one.

    Parameters
    ----------
    axes : tuple of AxisFactors or None
        One per axis, float64; None leaves an axis as it is.
    high_shape : tuple of int
        Size of HR images.
    name : str
        What to call it.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    device : torch.device or str
        Where it works.
    dtype : torch.dtype
        In which type it works.

    Attributes
    ----------
    low_shape : tuple of int
        Size of LR images.
    noise_gain : float
        Standard deviation of H z for white z of standard deviation 1.
    """

    def __init__(
        self,
        axes: tuple[AxisFactors | None, ...],
        high_shape: tuple[int, ...],
        *,
        name: str,
        grid: Grid,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.high_shape = high_shape
        self.low_shape = tuple(
            n if axis is None else axis.forward.shape[0]
            for n, axis in zip(high_shape, axes, strict=True)
        )
        self.name = name
        self.grid = grid
        self.device = torch.device(device)
        self.dtype = dtype
        # The originals stay in float64, so that going to float64 and back loses nothing.
        self._exact = axes
        self._axes = tuple(axis and axis.to(self.device, dtype) for axis in axes)
        self.noise_gain = math.prod(
            float(axis.forward.square().sum(dim=1).mean().sqrt()) for axis in axes if axis
        )

    def __repr__(self) -> str:
        return f"<{self.name} {self.high_shape} to {self.low_shape}, grid {self.grid}>"

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SeparableOperator:
        """Return the same operator on another device or in another floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
            Where to; by default where it is.
        dtype : torch.dtype, optional
            ``torch.float32`` or ``torch.float64``; by default as it is.

        Returns
        -------
        SeparableOperator
            A new one.
        """
        return SeparableOperator(
            self._exact,
            self.high_shape,
            name=self.name,
            grid=self.grid,
            device=self.device if device is None else device,
            dtype=self.dtype if dtype is None else dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Degrade.

        Parameters
        ----------
        x : (..., *high_shape) Tensor
            HR images.

        Returns
        -------
        (..., *low_shape) Tensor
            H x.
        """
        self._check(x, self.high_shape, "HR")
        return apply_per_axis(x, self._matrices("forward"))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose: ⟨H x, y⟩ = ⟨x, Hᵀ y⟩.

        Parameters
        ----------
        y : (..., *low_shape) Tensor
            LR images.

        Returns
        -------
        (..., *high_shape) Tensor
            Hᵀ y.
        """
        self._check(y, self.low_shape, "LR")
        return apply_per_axis(y, self._matrices("forward", transposed=True))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Apply the Moore-Penrose inverse: the smallest image that explains y best.

        Parameters
        ----------
        y : (..., *low_shape) Tensor
            LR images.

        Returns
        -------
        (..., *high_shape) Tensor
            H† y.
        """
        self._check(y, self.low_shape, "LR")
        return self._from_high_basis(self._inverse_singular(0.0) * self._to_low_basis(y))

    def up(self, y: Tensor) -> Tensor:
        """Interpolate on the HR grid.

        Parameters
        ----------
        y : (..., *low_shape) Tensor
            LR images.

        Returns
        -------
        (..., *high_shape) Tensor
            Cubic interpolation at the places of HR voxels; zero-filled k-space for ``kspace``.
        """
        self._check(y, self.low_shape, "LR")
        return apply_per_axis(y, self._matrices("up"))

    def prox(self, d: Tensor, y: Tensor, noise: Tensor | float, prior: Tensor | float) -> Tensor:
        """Weigh an image against a measurement, exactly.

        Solves z = argmin ‖Hz − y‖² / (2 noise²) + ‖z − d‖² / (2 prior²) in the basis of
        singular vectors: z = d + V s / ((noise / prior)² + s²) (Uᵀ y − s Vᵀ d).

        Parameters
        ----------
        d : (..., *high_shape) Tensor
            What the image is without the measurement.
        y : (..., *low_shape) Tensor
            Measurement.
        noise : float or (B,) Tensor
            Standard deviation of the measurement's noise; 0 projects onto H z = y.
        prior : float or (B,) Tensor
            Standard deviation of the truth about d, > 0.

        Returns
        -------
        (..., *high_shape) Tensor
            z.

        Examples
        --------
        >>> mean_of_two = make_operator("box", (2, 2), 2)
        >>> mean_of_two.prox(torch.zeros(2, 2), torch.ones(1, 1), 0.0, 1.0)
        tensor([[1., 1.],
                [1., 1.]])
        """
        self._check(d, self.high_shape, "HR")
        self._check(y, self.low_shape, "LR")
        ratio = self._per_image(noise, d) / self._per_image(prior, d)
        missing = self._to_low_basis(y) - self._singular() * self._to_high_basis(d)
        return d + self._from_high_basis(self._inverse_singular(ratio) * missing)

    def prox_map(
        self, d: Tensor, y: Tensor, noise: Tensor | float, prior_map: Tensor, steps: int = 20
    ) -> Tensor:
        """Weigh an image against a measurement, with a prior of its own for every pixel.

        With P² the prior's variances, z = d + P² Hᵀ w where (noise² + H P² Hᵀ) w = y − H d.
        Conjugate gradients find w, an LR image, scaled by the root of the diagonal: unlike in
        z, their speed then depends on H alone, not on how far prior and noise are apart.

        Parameters
        ----------
        d : (..., *high_shape) Tensor
            What the image is without the measurement.
        y : (..., *low_shape) Tensor
            Measurement.
        noise : float or (B,) Tensor
            Standard deviation of the measurement's noise, > 0.
        prior_map : (..., *high_shape) Tensor
            Standard deviation of the truth about d at every pixel; 0 keeps d there. May leave
            out axes of d, or have size 1 along them.
        steps : int
            Steps of conjugate gradients; every image has step sizes of its own.

        Returns
        -------
        (..., *high_shape) Tensor
            z.

        References
        ----------
        M. Hestenes, E. Stiefel, Methods of conjugate gradients for solving linear systems,
        J. Res. NBS 49 (1952) 409-436.
        """
        self._check(d, self.high_shape, "HR")
        self._check(y, self.low_shape, "LR")
        variance = (prior_map**2).broadcast_to(d.shape)
        noise_variance = self._per_image(noise, d) ** 2
        squares = [m if m is None else m**2 for m in self._matrices("forward")]
        scale = (noise_variance + apply_per_axis(variance, squares)).rsqrt()
        residual = direction = scale * (y - self.forward(d))
        w = torch.zeros_like(residual)
        energy = self._dot(residual, residual)
        for _ in range(steps):
            scaled = scale * direction
            spread = self.forward(variance * self.adjoint(scaled))
            product = scale * (noise_variance * scaled + spread)
            step = _ratio(energy, self._dot(direction, product))
            w = w + step * direction
            residual = residual - step * product
            previous, energy = energy, self._dot(residual, residual)
            direction = residual + _ratio(energy, previous) * direction
        return d + variance * self.adjoint(scale * w)

    def _matrices(self, name: str, *, transposed: bool = False) -> list[Tensor | None]:
        found = [None if axis is None else getattr(axis, name) for axis in self._axes]
        return [matrix if matrix is None or not transposed else matrix.mT for matrix in found]

    def _to_low_basis(self, y: Tensor) -> Tensor:
        return apply_per_axis(y, self._matrices("low_basis", transposed=True))

    def _to_high_basis(self, x: Tensor) -> Tensor:
        return apply_per_axis(x, self._matrices("high_basis", transposed=True))

    def _from_high_basis(self, coefficients: Tensor) -> Tensor:
        return apply_per_axis(coefficients, self._matrices("high_basis"))

    def _singular(self) -> Tensor:
        """Singular values of the whole operator, an LR image."""
        values = torch.ones(self.low_shape, device=self.device, dtype=self.dtype)
        for n, axis in enumerate(self._axes):
            if axis is not None:
                values = values * axis.singular.reshape(-1, *[1] * (values.ndim - n - 1))
        return values

    def _inverse_singular(self, ratio: Tensor | float) -> Tensor:
        """Return s / (ratio² + s²), and 0 where s is 0 even if the ratio is."""
        singular = self._singular()
        return torch.where(singular > 0, singular / (singular**2 + ratio**2), 0)

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=tuple(range(-len(self.high_shape), 0)), keepdim=True)

    def _per_image(self, value: Tensor | float, like: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value

    def _check(self, images: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(images.shape[-len(shape) :]) != shape:
            raise UsageError(
                f"{self.name} takes {what} images of {shape}; found {tuple(images.shape)}",
                hint="make an operator for this size with make_operator",
            )
        if images.dtype != self.dtype:
            raise UsageError(
                f"{self.name} works in {self.dtype}; found {what} images in {images.dtype}",
                hint="convert the images, or the operator with .to(dtype=...)",
            )


def make_operator(
    kind: Kind,
    high_shape: tuple[int, ...],
    factor: float | tuple[float, ...],
    *,
    grid: Grid = "voxel-centre",
    axes: tuple[int, ...] | None = None,
    width: float | None = None,
) -> SeparableOperator:
    """Build the operator that makes LR images of HR images.

    Parameters
    ----------
    kind : str
        "bicubic", "bilinear", "lanczos2", "lanczos3", "box", "kspace", "gaussian" or
        "slice-profile"; see `degradation_matrix`.
    high_shape : tuple of 2 or 3 int
        Size of HR images; LR has ``round(high / factor)`` voxels along each axis.
    factor : float or tuple of float
        LR over HR voxel size, at least 1, one for all of `axes` or one per axis of the image.
        An axis of factor 1 is left as it is.
    grid : {"fourier", "voxel-centre"}
        The first LR voxel lies on the first HR voxel, or at (factor − 1) / 2.
    axes : tuple of int, optional
        Axes to degrade, by default all; only with a single factor.
    width : float, optional
        Edge of "box", full width at half maximum of "gaussian", thickness of "slice-profile",
        in LR voxels; by default 1.

    Returns
    -------
    SeparableOperator
        On the CPU, in float32.

    Raises
    ------
    UsageError
        If an option is unknown, out of range, or does not fit the others.

    Examples
    --------
    >>> make_operator("kspace", (720, 512), 2, grid="fourier")
    <kspace (720, 512) to (360, 256), grid fourier>
    >>> make_operator("slice-profile", (64, 64, 32), (1, 1, 4), width=0.8).low_shape
    (64, 64, 8)
    """
    if kind not in KINDS:
        raise UsageError(f"unknown operator {kind!r}; expected one of {', '.join(KINDS)}")
    if grid not in GRIDS:
        raise UsageError(f"unknown grid {grid!r}; expected {' or '.join(GRIDS)}")
    if width is not None and kind not in WIDTH_KINDS:
        raise UsageError(
            f"the width of {kind} can not be chosen", hint=f"use {', '.join(WIDTH_KINDS)}"
        )
    if width is not None and not 0 < width < math.inf:
        raise UsageError(f"width is a positive number of LR voxels; found {width}")
    high_shape = tuple(int(n) for n in high_shape)
    factors = factor_per_axis(len(high_shape), factor, axes)
    for n, f in zip(high_shape, factors, strict=True):
        if low_size(n, f) < 1:
            raise UsageError(f"{n} voxels are too few for a factor of {f}")

    def factorised(size: int, factor: float) -> AxisFactors | None:
        if factor == 1:
            return None
        forward = degradation_matrix(kind, size, factor, grid=grid, width=width or 1.0)
        up = interpolation_matrix(kind, size, factor, grid=grid)
        return AxisFactors.of(torch.from_numpy(forward), torch.from_numpy(up))

    parts = tuple(factorised(n, f) for n, f in zip(high_shape, factors, strict=True))
    return SeparableOperator(parts, high_shape, name=kind, grid=grid)


def factor_per_axis(
    n_axes: int, factor: float | tuple[float, ...], axes: tuple[int, ...] | None = None
) -> tuple[float, ...]:
    """Return one factor for every axis.

    Parameters
    ----------
    n_axes : int
        2 or 3.
    factor : float or tuple of float
        As in `make_operator`.
    axes : tuple of int, optional
        As in `make_operator`.

    Returns
    -------
    tuple of float
        1 where an axis is left alone.

    Raises
    ------
    UsageError
        If they do not fit together.

    Examples
    --------
    >>> factor_per_axis(3, 2, axes=(0, 1))
    (2.0, 2.0, 1.0)
    """
    if n_axes not in (2, 3):
        raise UsageError(f"operators work on images of 2 or 3 axes; found {n_axes}")
    if not isinstance(factor, tuple):
        chosen = range(n_axes) if axes is None else axes
        if not all(-n_axes <= axis < n_axes for axis in chosen):
            raise UsageError(f"images of {n_axes} axes have no axes {axes}")
        degraded = {axis % n_axes for axis in chosen}
        return tuple(float(factor) if n in degraded else 1.0 for n in range(n_axes))
    if axes is not None or len(factor) != n_axes:
        raise UsageError(
            f"one factor per axis is {n_axes} numbers without axes; found {factor}, axes {axes}"
        )
    return tuple(float(f) for f in factor)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient that is 0 where both are: an image that has converged stays."""
    return torch.where(denominator > 0, numerator / denominator, 0)

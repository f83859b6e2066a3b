"""What will be made of an LR volume, from headers alone and without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import (
    ANATOMICAL,
    Estimate,
    Grid,
    OperatorKind,
    OutputType,
    Plane,
    Precision,
    SamplerName,
    SlicePlanes,
)
from srmri_data.errors import InputError, UsageError
from srmri_data.geometry import voxel_spacing
from srmri_data.planning import Selected
from srmri_data.slices import StackFrame, stack_frame
from srmri_data.types import Affine
from srmri_model.checkpoints import read_description
from srmri_model.networks.config import NetworkConfig
from srmri_model.weights import bundled_weights

MIN_STD_SAMPLES = 4
"""Fewest samples whose standard deviation is worth a volume."""

_WIDTHS = ("box", "gaussian", "slice-profile")
_GRADIENTS = ("paper", "dps", "mcg")
_MAX_CORRELATION = 0.95
_SPACING_TOLERANCE = 1.25


@dataclass(frozen=True)
class UpsampleConfig:
    """Everything that decides what becomes of an LR volume.

    Parameters
    ----------
    factor : tuple of float
        LR over HR voxel size: one number for all axes that are made finer, or one for each
        stored axis.
    sampler : str
        How images are drawn; see `srmri_model.samplers`.
    steps : int, optional
        Noise levels; by default the sampler's.
    settings : mapping of str to str
        Further settings of the sampler, such as ``{"rho": "0.5"}``.
    samples : int
        Draws from the posterior.
    estimate : {"sample", "mean"}
        Which image of these to write.
    planes : {"single", "3"}
        Slices of one plane, or the volume with the network on three planes in turn.
    plane : {"coronal", "axial", "sagittal", "acquired"}
        Plane of the slices.
    operator : str
        What made LR of HR; see `srmri_model.operators.degradation_matrix`.
    width : float, optional
        Of "box", "gaussian" (at half maximum) and "slice-profile", in LR voxels.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie on the HR grid.
    noise : float, optional
        Standard deviation of LR's noise, for intensities in [0, 1]; by default it is estimated.
    z_correlation : float
        Correlation of the noise of neighbouring slices, 0 to 0.95.
    seed : int
        Of all noise.
    batch : int
        Slices a GPU works on at once.
    tile : int, optional
        Edge of the tiles the network sees, 0 for whole slices; by default as memory allows.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision : {"float32", "bf16"}
        Arithmetic of the network.
    dtype : {"float32", "int16", "uint16"}
        Voxels on disk.

    Raises
    ------
    UsageError
        If the values do not fit together.
    """

    factor: tuple[float, ...] = (2.0,)
    sampler: SamplerName = "fast"
    steps: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    samples: int = 1
    estimate: Estimate = "sample"
    planes: SlicePlanes = "single"
    plane: Plane = "coronal"
    operator: OperatorKind = "kspace"
    width: float | None = None
    grid: Grid = "voxel-centre"
    noise: float | None = None
    z_correlation: float = 0.0
    seed: int = 0
    batch: int = 4
    tile: int | None = None
    device: str = "auto"
    precision: Precision = "float32"
    dtype: OutputType = "float32"

    def __post_init__(self) -> None:
        problems = {
            "--factor is one number or three, each at least 1 and one of them above": len(
                self.factor
            )
            in (1, 3)
            and all(math.isfinite(f) and f >= 1 for f in self.factor)
            and max(self.factor) > 1,
            "--steps is at least 2": self.steps is None or self.steps >= 2,
            "--samples is at least 1": self.samples >= 1,
            "--estimate mean takes --samples 2 or more": self.estimate == "sample"
            or self.samples > 1,
            f"--width belongs to --operator {', '.join(_WIDTHS)}": self.width is None
            or self.operator in _WIDTHS,
            "--width is above 0": self.width is None or 0 < self.width < math.inf,
            "--noise is above 0 and below 1, for intensities in [0, 1]": self.noise is None
            or 0 < self.noise < 1,
            f"--z-correlation is 0 to {_MAX_CORRELATION}": 0
            <= self.z_correlation
            <= _MAX_CORRELATION,
            "--z-correlation is about slices: leave it out with --planes 3": self.z_correlation == 0
            or self.planes == "single",
            "--seed is at least 0": self.seed >= 0,
            "--batch is at least 1": self.batch >= 1,
            "--tile is 0 or at least 32": self.tile is None or self.tile == 0 or self.tile >= 32,
            f"--planes 3 keeps no gradients: --sampler {self.sampler} needs them": self.planes
            == "single"
            or self.sampler not in _GRADIENTS,
        }
        if broken := [rule for rule, holds in problems.items() if not holds]:
            raise UsageError("; ".join(broken), hint="see srmri upsample --help")

    @property
    def keeps_gradients(self) -> bool:
        """Whether the sampler differentiates through the network."""
        return self.sampler in _GRADIENTS


@dataclass(frozen=True, eq=False)
class UpsamplePlan:
    """What is read, what is made of it, and where it goes.

    Parameters
    ----------
    low : tuple
        LR scan with the selected frame.
    out : Path
        Written files begin with this: ``OUT.nii.gz``, ``OUT.json``, ….
    weights : Path
        Checkpoint.
    network : NetworkConfig
        Of the checkpoint.
    metadata : mapping
        Of the checkpoint.
    config : UpsampleConfig
        The settings.
    factors : tuple of float
        LR over HR voxel size along the stored axes.
    high_shape : tuple of int
        HR matrix (i, j, k).
    high_affine : (4, 4) ndarray
        HR voxel to world RAS mm.
    frames : tuple of StackFrame
        Geometry of the HR slices the network sees: one plane, or three.
    warnings : tuple of str
        What a careful user should know.
    objections : tuple of str
        Why the model may be wrong for this volume; only `--force` goes on.
    """

    low: Selected
    out: Path
    weights: Path
    network: NetworkConfig
    metadata: Mapping[str, Any]
    config: UpsampleConfig
    factors: tuple[float, float, float]
    high_shape: tuple[int, int, int]
    high_affine: Affine
    frames: tuple[StackFrame, ...]
    warnings: tuple[str, ...]
    objections: tuple[str, ...]

    @property
    def low_shape(self) -> tuple[int, int, int]:
        """LR matrix (i, j, k)."""
        return self.low[0].readable().shape

    @property
    def paths(self) -> dict[str, Path]:
        """Files that are written."""
        names = {"volume": ".nii.gz", "residual": "_residual.nii.gz", "sidecar": ".json"}
        names["page"] = ".html"
        if self.config.samples >= MIN_STD_SAMPLES:
            names["std"] = "_std.nii.gz"
        return {name: self.out.with_name(self.out.name + end) for name, end in names.items()}

    @property
    def work(self) -> Path:
        """Folder of partial results, which is gone when the run is complete."""
        return self.out.with_name(self.out.name + ".partial")

    def describe(self) -> dict[str, Any]:
        """Return the plan as plain JSON types.

        Returns
        -------
        dict
            For ``--dry-run``.
        """
        header = self.low[0].readable()
        return {
            "input": str(header.path),
            "out": str(self.paths["volume"]),
            "low_shape": list(header.shape),
            "low_spacing": [round(mm, 6) for mm in header.spacing],
            "high_shape": list(self.high_shape),
            "high_spacing": [round(mm, 6) for mm in voxel_spacing(self.high_affine)],
            "factors": list(self.factors),
            "slices": sum(frame.shape[0] for frame in self.frames),
            "config": asdict(self.config),
            "warnings": [*self.warnings, *self.objections],
        }


def plan_upsample(
    low: Selected, out: Path, weights: Path | None, config: UpsampleConfig, *, force: bool = False
) -> UpsamplePlan:
    """Work out the geometry, and refuse what can not be right.

    Parameters
    ----------
    low : tuple
        LR scan with the selected frame (`srmri_data.planning.find_scan`).
    out : Path
        Name of the volume to write, with or without ``.nii.gz``.
    weights : Path, optional
        Checkpoint; by default the one that comes with the package.
    config : UpsampleConfig
        The settings.
    force : bool
        Replace what stands at `out`; go on although the model was trained on other voxels.

    Returns
    -------
    UpsamplePlan
        Nothing of the voxels or weights has been read.

    Raises
    ------
    UsageError
        If an output exists, or the settings do not fit the scan or the checkpoint.
    InputError
        If the model was trained for other voxels.
    """
    header = low[0].readable()
    network, metadata = read_description(weights := weights or bundled_weights())
    factors = _factors_per_axis(header.affine, header.shape, config)
    affine, shape = high_geometry(header.affine, header.shape, factors, config.grid)
    planes = ANATOMICAL if config.planes == "3" else (config.plane,)
    plan = UpsamplePlan(
        low=low,
        out=_stem(Path(out)),
        weights=weights,
        network=network,
        metadata=metadata,
        config=config,
        factors=factors,
        high_shape=shape,
        high_affine=affine,
        frames=tuple(stack_frame(affine, shape, plane) for plane in planes),
        warnings=(),
        objections=(),
    )
    _check_network(plan)
    _check_outputs(plan, force=force)
    plan = replace(
        plan,
        warnings=(*header.provenance.warnings, *_warnings(plan)),
        objections=tuple(_spacing_objections(plan)),
    )
    refuse(plan.objections, force=force)
    return plan


def refuse(objections: tuple[str, ...], *, force: bool) -> None:
    """Stop where the model is likely to be wrong.

    Parameters
    ----------
    objections : tuple of str
        Why.
    force : bool
        Go on.

    Raises
    ------
    InputError
        If there are any, without `force`.
    """
    if objections and not force:
        raise InputError(
            "; ".join(objections),
            hint="an image of something the model does not know looks convincing and is wrong; "
            "--force goes on, with a warning in the outputs",
        )


def high_geometry(
    affine: Affine, shape: tuple[int, int, int], factors: tuple[float, float, float], grid: Grid
) -> tuple[Affine, tuple[int, int, int]]:
    """Return the geometry of the HR volume.

    Parameters
    ----------
    affine : (4, 4) ndarray
        LR voxel to world RAS mm.
    shape : tuple of int
        LR matrix.
    factors : tuple of float
        LR over HR voxel size along each axis.
    grid : {"fourier", "voxel-centre"}
        LR voxel 0 lies on HR voxel 0, or at (factor − 1) / 2.

    Returns
    -------
    affine : (4, 4) ndarray
        HR voxel to world RAS mm.
    shape : tuple of int
        HR matrix; LR has ``round(n / factor)`` voxels of its n.

    Examples
    --------
    >>> affine, shape = high_geometry(np.eye(4), (4, 5, 6), (2.0, 1.5, 1.0), "voxel-centre")
    >>> shape, affine[:3, 3].round(3).tolist()
    ((8, 8, 6), [-0.25, -0.167, 0.0])
    """
    to_low = np.eye(4)
    for axis, factor in enumerate(factors):
        to_low[axis, axis] = 1 / factor
        if grid == "voxel-centre":
            to_low[axis, 3] = -(factor - 1) / 2 / factor
    i, j, k = (_high_size(n, factor) for n, factor in zip(shape, factors, strict=True))
    return np.asarray(affine @ to_low), (i, j, k)


def _high_size(low_size: int, factor: float) -> int:
    """Round half up: the HR size nearest to LR's field of view."""
    return math.floor(low_size * Fraction(factor).limit_denominator(1000) + Fraction(1, 2))


def nearest(plan: UpsamplePlan, low: NDArray[Any]) -> NDArray[Any]:
    """Take values of LR voxels to the HR voxels nearest to them.

    Parameters
    ----------
    plan : UpsamplePlan
        Geometry.
    low : (i, j, k) ndarray
        An LR volume or mask.

    Returns
    -------
    (i, j, k) ndarray
        Of HR's shape.
    """
    for axis, (n, factor) in enumerate(zip(plan.high_shape, plan.factors, strict=True)):
        offset = (factor - 1) / 2 if plan.config.grid == "voxel-centre" else 0.0
        places = np.floor((np.arange(n) - offset) / factor + 0.5).astype(int)
        low = low.take(places.clip(0, low.shape[axis] - 1), axis)
    return low


def _factors_per_axis(
    affine: Affine, shape: tuple[int, int, int], config: UpsampleConfig
) -> tuple[float, float, float]:
    # The stored axis along which slices follow each other.
    through = int(np.abs(stack_frame(affine, shape, config.plane).to_voxel[:3, 0]).argmax())
    if len(config.factor) == 3:
        factors = list(config.factor)
        if config.planes == "single" and factors[through] != 1:
            raise UsageError(
                f"--planes single makes no slices: the factor along stored axis {through + 1}, "
                f"across {config.plane} slices, is 1; found {factors[through]:g}",
                hint="--planes 3 makes the slices thinner too",
            )
    else:
        factors = [config.factor[0]] * 3
        if config.planes == "single":
            factors[through] = 1.0
    i, j, k = factors
    return i, j, k


def _stem(out: Path) -> Path:
    if out.is_dir():
        raise UsageError(
            f"{out} is a folder", hint=f"name the volume to write, as {out / 'sr.nii.gz'}"
        )
    name = out.name.removesuffix(".nii.gz")
    if name.endswith((".nii", ".nrrd", ".mha", ".mhd", ".json", ".gz")) or not name:
        raise UsageError(
            f"{out}: volumes are written as .nii.gz; give such a name, or one without an ending"
        )
    return out.with_name(name)


def _check_outputs(plan: UpsamplePlan, *, force: bool) -> None:
    header = plan.low[0].readable()
    sources = {path.resolve() for path in (*header.provenance.files, plan.weights)}
    for path in plan.paths.values():
        if path.resolve() in sources:
            raise UsageError(f"{path} is an input of this run", hint="choose another name")
        # Where partial results are, replacing was allowed when they were begun.
        if path.exists() and not force and not plan.work.is_dir():
            raise UsageError(f"{path} exists", hint="choose another name, or replace with --force")


def _check_network(plan: UpsamplePlan) -> None:
    network, config, kind = plan.network, plan.config, plan.metadata.get("kind", "score")
    if kind != "score" or network.in_channels != 1:
        raise UsageError(
            f"{plan.weights}: expected a score model of one channel; found {kind!r} with "
            f"{network.in_channels}"
        )
    if config.sampler == "fast" and noise_table(plan.metadata) is None:
        raise UsageError(
            f"{plan.weights} does not tell how well the model denoises, which --sampler fast needs",
            hint="--sampler diffpir does without",
        )
    if network.n_planes and (config.planes, config.plane) == ("single", "acquired"):
        raise UsageError(
            f"{plan.weights} tells {', '.join(ANATOMICAL)} planes apart; --plane acquired is none",
            hint="give the anatomical plane of the slices",
        )


def noise_table(
    metadata: Mapping[str, Any], planes: SlicePlanes = "single"
) -> tuple[tuple[float, ...], ...] | None:
    """Return how far denoised images are from the truth in the foreground, v(σ).

    Parameters
    ----------
    metadata : mapping
        Of a checkpoint.
    planes : {"single", "3"}
        Of slices, or of whole volumes; where only the former is known, that.

    Returns
    -------
    tuple of tuple of float, or None
        Noise levels, variance per pixel and, where it was measured, the variance as a
        measurement sees it, times the table's ``seen_scale`` if it has one, a number or one for
        every level; None where there are fewer than two levels.
    """
    table = _table(metadata, planes)
    if not table.get("seen"):
        return _columns(table, "sigmas", "foreground")
    scales = np.broadcast_to(table.get("seen_scale", 1.0), len(table["seen"]))
    seen = [s and s * scale for s, scale in zip(table["seen"], scales.tolist(), strict=True)]
    return _columns({**table, "seen": seen}, "sigmas", "foreground", "seen")


def background_table(
    metadata: Mapping[str, Any], planes: SlicePlanes = "single"
) -> tuple[tuple[float, ...], ...] | None:
    """Return how far denoised images are from the truth around the animal, v(σ).

    Parameters
    ----------
    metadata : mapping
        Of a checkpoint.
    planes : {"single", "3"}
        As in `noise_table`.

    Returns
    -------
    tuple of tuple of float, or None
        Noise levels and variance per pixel; None where it was not measured.
    """
    return _columns(_table(metadata, planes), "sigmas", "background")


def _table(metadata: Mapping[str, Any], planes: SlicePlanes) -> Mapping[str, Any]:
    name = "volume_table" if planes == "3" and metadata.get("volume_table") else "noise_table"
    return metadata.get(name) or {}


def _columns(table: Mapping[str, Any], *names: str) -> tuple[tuple[float, ...], ...] | None:
    columns = [table.get(name) or [] for name in names]
    if not all(columns):
        return None
    rows = [row for row in zip(*columns, strict=True) if all(value for value in row)]
    if len(rows) < 2:
        return None
    return tuple(tuple(float(value) for value in column) for column in zip(*rows, strict=True))


def _warnings(plan: UpsamplePlan) -> list[str]:
    known, found = plan.metadata.get("planes"), []
    wanted = [frame.plane for frame in plan.frames]
    if known and not set(wanted) <= set(known):
        found.append(
            f"the model was trained on {', '.join(known)} slices and is used on {', '.join(wanted)}"
        )
    if not plan.metadata.get("domain"):
        found.append(
            "the checkpoint does not tell what it was trained on: whether it fits this volume "
            "could not be checked"
        )
    if plan.config.sampler == "pc":
        found.append("the sampler pc takes no notice of the measurement")
    return found


def _spacing_objections(plan: UpsamplePlan) -> list[str]:
    domain = plan.metadata.get("domain")
    if not domain:
        return []
    finest, coarsest = domain["spacing_mm"]
    spacing = [mm for frame in plan.frames for mm in frame.spacing[1:]]
    if finest / _SPACING_TOLERANCE <= min(spacing) <= max(spacing) <= coarsest * _SPACING_TOLERANCE:
        return []
    learned = f"{1000 * finest:.4g}"
    if coarsest > 1.01 * finest:
        learned += f" to {1000 * coarsest:.4g}"
    return [
        f"pixels of the result are {1000 * min(spacing):.4g} to {1000 * max(spacing):.4g} µm wide; "
        f"the model was trained on {learned} µm"
    ]

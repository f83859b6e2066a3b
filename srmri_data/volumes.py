"""`Volume`: voxels, where they are in the world, and where every fact came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from srmri_data.errors import AffineError
from srmri_data.geometry import check_affine, orientation_code, voxel_spacing
from srmri_data.types import Affine, VoxelArray


@dataclass(frozen=True)
class Sourced:
    """A value together with the place it was read from.

    Parameters
    ----------
    value : object
        JSON-able value.
    source : str
        For instance ``"visu_pars:VisuSubjectType"`` or ``"override"``.
    """

    value: Any
    source: str


@dataclass(frozen=True)
class Provenance:
    """Where a volume came from.

    Parameters
    ----------
    path : Path
        The image as the user would name it: a ``pdata/N`` folder, a zip, a file.
    format : str
        ``paravision``, ``nifti``, ``nrrd``, ``metaimage``, ``dicom`` or ``memory``.
    files : tuple of Path
        Every file whose bytes matter; their SHA-256 goes into the run's provenance.
    fields : mapping of str to Sourced
        Facts about the scan, each with its source.
    warnings : tuple of str
        What a careful user should know before trusting the geometry.
    """

    path: Path
    format: str
    files: tuple[Path, ...] = ()
    fields: Mapping[str, Sourced] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, or `default` when it is unknown.

        Parameters
        ----------
        name : str
            Field name.
        default : object
            Returned when the field is absent.

        Returns
        -------
        object
            The value without its source.
        """
        entry = self.fields.get(name)
        return default if entry is None else entry.value


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D scalar image in world coordinates.

    Parameters
    ----------
    data : (i, j, k) ndarray
        Voxels in stored axis order; float32 in scanner units, or the stored
        integers when `slope` and `intercept` say how to scale them.
    affine : (4, 4) ndarray
        Voxel index to world, RAS+, millimetres, voxel centres at integers.
    provenance : Provenance
        Where it came from.
    slope, intercept : (k,) ndarray or None
        Scanner units are ``data * slope + intercept``, per slice along the last
        axis; None when `data` is in scanner units already.

    Raises
    ------
    AffineError
        If the affine is singular, not finite or not (4, 4), or `data` is not 3-D.
    """

    data: VoxelArray
    affine: Affine
    provenance: Provenance
    slope: np.ndarray | None = None
    intercept: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse geometry that can not be right."""
        if self.data.ndim != 3 or 0 in self.data.shape:
            raise AffineError(
                f"{self.provenance.path}: expected a 3-D image with at least one voxel, "
                f"found shape {self.data.shape}"
            )
        object.__setattr__(
            self, "affine", check_affine(self.affine, name=str(self.provenance.path))
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrix size (i, j, k)."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis, in mm."""
        return voxel_spacing(self.affine)

    @property
    def orientation(self) -> str:
        """Closest anatomical direction of each array axis, for instance ``"RAS"``."""
        return orientation_code(self.affine)

    def scaled(self) -> Volume:
        """Return the volume in scanner units as float32.

        Returns
        -------
        Volume
            `self` when nothing is to be scaled.
        """
        if self.slope is None and self.intercept is None and self.data.dtype == np.float32:
            return self
        data = np.array(self.data, dtype=np.float32, order="K")
        if self.slope is not None:
            data *= self.slope.astype(np.float32)
        if self.intercept is not None:
            data += self.intercept.astype(np.float32)
        return replace(self, data=data, slope=None, intercept=None)

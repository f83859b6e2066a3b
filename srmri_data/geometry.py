"""Affine arithmetic on plain arrays: spacing, orientation, planes, corners.

World coordinates are RAS+ millimetres; voxel centres sit at integer indices.
"""

from __future__ import annotations

import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation
from numpy.typing import ArrayLike, NDArray

from srmri_data.errors import AffineError
from srmri_data.types import Affine

PLANE_AXES: dict[str, tuple[tuple[int, int], ...]] = {
    "coronal": ((1, +1), (2, -1), (0, +1)),
    "axial": ((2, +1), (1, -1), (0, +1)),
    "sagittal": ((0, +1), (2, -1), (1, +1)),
}
"""World axis and direction of the slices, rows and columns of each anatomical plane.

Rows run downwards on a screen, so superior and anterior are on top.
"""


def check_affine(affine: ArrayLike, *, name: str = "affine") -> Affine:
    """Return `affine` as float64 after refusing what can not be a geometry.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel-to-world affine in mm.
    name : str
        What to call it in the error, usually the file.

    Returns
    -------
    (4, 4) ndarray
        A float64 copy.

    Raises
    ------
    AffineError
        If the shape is wrong, a value is not finite, the last row is not
        (0, 0, 0, 1), or two voxel axes are parallel or of zero length.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise AffineError(f"{name}: expected a (4, 4) affine, found shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise AffineError(f"{name}: the affine holds values that are not finite")
    if not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
        raise AffineError(f"{name}: last affine row is {matrix[3].tolist()}, expected 0 0 0 1")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    # A determinant alone depends on the voxel size; that of the unit axes does not.
    if (lengths < 1e-9).any() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-3:
        raise AffineError(
            f"{name}: singular affine (voxel axes {lengths.tolist()} mm long, "
            "two of them parallel or one of zero length)",
            hint="the header was probably edited by hand; convert from the original study",
        )
    return matrix


def voxel_spacing(affine: ArrayLike) -> tuple[float, float, float]:
    """Return the voxel spacing encoded in an affine.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel-to-world affine, world axes in RAS order, in millimetres.

    Returns
    -------
    spacing : tuple of float
        Distance between voxel centres along each *array* axis, in millimetres.

    Raises
    ------
    AffineError
        If `affine` is not (4, 4) or is singular.

    Examples
    --------
    >>> voxel_spacing(np.diag([-0.1, 0.1, 0.5, 1.0]))
    (0.1, 0.1, 0.5)
    """
    x, y, z = np.linalg.norm(check_affine(affine)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def orientation_code(affine: ArrayLike) -> str:
    """Return the closest anatomical direction of each array axis.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel-to-world affine in RAS mm.

    Returns
    -------
    str
        Three letters, the direction each array axis points *to*.

    Examples
    --------
    >>> orientation_code(np.diag([-0.1, 0.1, 0.5, 1.0]))
    'LAS'
    """
    return "".join(str(code) for code in aff2axcodes(check_affine(affine)))


def closest_axes(affine: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Assign each array axis to a world axis, one to one.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel-to-world affine in RAS mm; any of the 48 orientations, also oblique.

    Returns
    -------
    world_axis : (3,) ndarray of int
        World axis (0 = x, 1 = y, 2 = z) of each array axis.
    sign : (3,) ndarray of int
        +1 when the array axis runs towards R, A or S, else -1.
    """
    orientation = io_orientation(check_affine(affine))
    return orientation[:, 0].astype(np.intp), orientation[:, 1].astype(np.intp)


def apply_affine(affine: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Map points through an affine.

    Parameters
    ----------
    affine : (4, 4) array_like
        Any affine.
    points : (..., 3) array_like
        Points in the affine's source space.

    Returns
    -------
    (..., 3) ndarray
        Points in its target space.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def volume_centre(affine: ArrayLike, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the world position of the centre of the field of view.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel-to-world affine in RAS mm.
    shape : tuple of int
        Matrix size.

    Returns
    -------
    (3,) ndarray
        World RAS mm.
    """
    return apply_affine(affine, (np.asarray(shape, dtype=np.float64) - 1) / 2)

"""Write NIfTI: the same voxels give the same bytes, and never half a file."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, NDArray

from srmri_data.errors import UsageError
from srmri_data.geometry import check_affine
from srmri_data.safe_io import atomic_write
from srmri_data.volumes import Volume

# gzip without a time or a name. Voxels are noise, in which there are no strings to find: run
# lengths alone come within 1 % of zlib's own search, in 40 % of the time (docs/decisions/0012).
_GZIP = (1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)


def write_nifti(
    path: Path,
    data: NDArray[Any],
    affine: ArrayLike,
    *,
    slope: float | None = None,
    intercept: float | None = None,
    description: str = "",
) -> Path:
    """Write a 3-D image as ``.nii.gz``.

    No time stamp and no file name go into the gzip header, so that equal images
    are equal files and no name of a user travels with them.

    Parameters
    ----------
    path : Path
        Destination, ending in ``.nii.gz``.
    data : (i, j, k) ndarray
        Voxels of a type NIfTI knows, stored as they are.
    affine : (4, 4) array_like
        Voxel to world RAS mm.
    slope, intercept : float, optional
        Scanner units are ``data * slope + intercept``.
    description : str
        For the header, at most 79 bytes of ASCII.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If the name does not end in ``.nii.gz`` or NIfTI can not hold the array.
    AffineError
        If the affine is no geometry.
    """
    if not path.name.endswith(".nii.gz"):
        raise UsageError(f"{path}: expected a name that ends in .nii.gz")
    matrix = check_affine(affine, name=str(path))
    header = nib.Nifti1Header(endianness="<")
    try:
        header.set_data_dtype(data.dtype)
        header.set_data_shape(data.shape)
    except HeaderDataError as error:
        raise UsageError(f"{path}: NIfTI can not hold this array ({error})") from error
    header.set_slope_inter(1.0 if slope is None else slope, intercept or 0.0)
    header.set_xyzt_units("mm")
    header.set_sform(matrix, code=1)
    try:
        header.set_qform(matrix, code=1, strip_shears=False)
    except HeaderDataError:
        # A quaternion has no room for shear; readers then use the sform.
        header.set_qform(None, code=0)
    header["descrip"] = description.encode("ascii")
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    little_endian = data.dtype.newbyteorder("<")
    gzipped = zlib.compressobj(*_GZIP)
    with atomic_write(path) as file:
        file.write(gzipped.compress(header.binaryblock + b"\0\0\0\0"))
        for k in range(data.shape[2]):
            plane = data[:, :, k].astype(little_endian, copy=False).tobytes(order="F")
            file.write(gzipped.compress(plane))
        file.write(gzipped.flush())
    return path


def write_volume(path: Path, volume: Volume) -> Path:
    """Write a volume as ``.nii.gz``, the stored numbers where one slope serves all of them.

    Parameters
    ----------
    path : Path
        Destination, ending in ``.nii.gz``.
    volume : Volume
        As stored, or in scanner units.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError, AffineError
        As `write_nifti`.
    """
    slope, intercept = volume.slope, volume.intercept
    varies = any(x is not None and (x != x.flat[0]).any() for x in (slope, intercept))
    if varies or volume.data.dtype.kind not in "iu":
        return write_nifti(path, volume.scaled().data, volume.affine)
    return write_nifti(
        path,
        volume.data,
        volume.affine,
        slope=None if slope is None else float(slope.flat[0]),
        intercept=None if intercept is None else float(intercept.flat[0]),
    )

"""NIfTI-1 and NIfTI-2: ``.nii``, ``.nii.gz`` and ``.hdr``/``.img`` pairs.

`nibabel` interprets the header. The voxels are streamed here, because the gzip
checksum stands at the end of the file and is only seen by who reads that far.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from srmri_data.choices import VoxelType
from srmri_data.errors import (
    AffineError,
    ChecksumError,
    FormatError,
    MissingInputError,
    SizeLawError,
    TruncatedError,
)
from srmri_data.formats import ImageHeader
from srmri_data.formats.archive import DEFLATE_RATIO
from srmri_data.formats.streaming import (
    ByteSource,
    check_scaling,
    noting_strange_values,
    read_planes,
)
from srmri_data.geometry import apply_affine, check_affine
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Sourced, Volume

_UNITS = {0: ("unknown", 1.0), 1: ("meter", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
_EXTRA_DIMENSIONS = ("volume", "vector", "dim6", "dim7")
_MAX_TRAILER = 64 << 20


def read_headers(place: Path, *, name: Path | None = None) -> list[ImageHeader]:
    """Read the header of a NIfTI image.

    Parameters
    ----------
    place : Path
        The file; either one of a ``.hdr``/``.img`` pair.
    name : Path, optional
        What the user calls it.

    Returns
    -------
    list of ImageHeader
        Always one.

    Raises
    ------
    FormatError
        If it is no NIfTI image of real numbers with three dimensions or more.
    TruncatedError, SizeLawError
        If the file can not hold what the header claims.
    AffineError
        If neither sform nor qform says where the voxels are.
    """
    name = place if name is None else name
    raw, data_path, header_path = _raw_header(place, name)
    shape = tuple(int(side) for side in raw.get_data_shape())
    if len(shape) < 3:
        raise FormatError(f"{name}: a {len(shape)}-D image of {shape}, expected 3-D")
    if any(side < 1 for side in shape):
        raise FormatError(f"{name}: impossible matrix size {shape}")
    dtype = _voxel_dtype(raw, name)
    _check_size(data_path, int(raw["vox_offset"]) + math.prod(shape) * dtype.itemsize, name)
    with np.errstate(all="ignore"):
        slope, intercept = _scaling(raw, name)
        affine, source, doubt = _affine(raw, name)
    code = int(raw["xyzt_units"]) & 7
    if code not in _UNITS:
        raise AffineError(f"{name}: unknown length unit (code {code})")
    unit, mm_per_unit = _UNITS[code]
    warnings = []
    if unit == "unknown":
        warnings.append("the header does not name its length unit, mm is assumed")
    warnings += doubt
    affine[:3] *= mm_per_unit
    extra = dict(zip(_EXTRA_DIMENSIONS, shape[3:], strict=False))
    facts: dict[str, Any] = {
        "affine_source": (source, f"header:{source}_code"),
        "word_type": (dtype.name, "header:datatype"),
        "byte_order": ("little" if raw.endianness == "<" else "big", "header:sizeof_hdr"),
        "slope": ({"kind": "one", "min": slope, "max": slope}, "header:scl_slope"),
        "intercept": (
            {"kind": "one", "min": intercept, "max": intercept},
            "header:scl_inter",
        ),
        "length_unit": (unit, "header:xyzt_units"),
    }
    description = bytes(raw["descrip"]).split(b"\0")[0].decode("latin-1").strip()
    if description:
        facts["description"] = (description, "header:descrip")
    stored = tuple(dict.fromkeys(name.with_name(p.name) for p in (header_path, data_path)))
    return [
        ImageHeader(
            path=name,
            format="nifti",
            shape=(shape[0], shape[1], shape[2]),
            affine=check_affine(affine, name=str(name)),
            dtype=dtype.name,
            frame_groups={group: count for group, count in extra.items() if count > 1},
            provenance=Provenance(
                path=name,
                format="nifti",
                files=stored,
                fields={key: Sourced(value, origin) for key, (value, origin) in facts.items()},
                warnings=tuple(warnings),
            ),
        )
    ]


def read_volume(
    place: Path, header: ImageHeader, *, frame: dict[str, int], dtype: VoxelType
) -> Volume:
    """Read one volume of a NIfTI image.

    A compressed file is read to its end, so that its checksum is compared.

    Parameters
    ----------
    place : Path
        Where the file lies.
    header : ImageHeader
        As `read_headers` gave it.
    frame : dict of str to int
        A number, from 1, for every frame group.
    dtype : {"float32", "stored"}
        Scanner units, or stored numbers with slope and intercept per slice.

    Returns
    -------
    Volume
        The voxels; peak memory is the result and a few megabytes.

    Raises
    ------
    TruncatedError
        If the file ends early.
    ChecksumError
        If the content does not match the checksum of the gzip stream.
    """
    raw, data_path, _ = _raw_header(place, header.path)
    shape = tuple(int(side) for side in raw.get_data_shape())
    voxel = _voxel_dtype(raw, header.path)
    _check_size(data_path, int(raw["vox_offset"]) + math.prod(shape) * voxel.itemsize, header.path)
    if shape[:3] != header.shape:
        raise FormatError(f"{header.path}: changed since its header was read")
    with np.errstate(all="ignore"):
        slope, intercept = _scaling(raw, header.path)
    index, stride = 0, 1
    for group, count in zip(_EXTRA_DIMENSIONS, shape[3:], strict=False):
        index += stride * (frame.get(group, 1) - 1)
        stride *= count
    stored = dtype == "stored"
    data = np.empty(
        header.shape, dtype=voxel.newbyteorder("=") if stored else np.float32, order="F"
    )
    volume_bytes = math.prod(shape[:3]) * voxel.itemsize
    with _opened(data_path, header.path) as source:
        source.seek(int(raw["vox_offset"]) + index * volume_bytes)
        strange = read_planes(
            source,
            data,
            dtype=voxel,
            slope=1.0 if stored else slope,
            intercept=0.0 if stored else intercept,
            path=header.path,
        )
        if data_path.suffix.lower() == ".gz":
            drain(source, limit=volume_bytes * stride + _MAX_TRAILER, path=header.path)
    provenance = noting_strange_values(header.provenance, strange)
    depth = header.shape[2]
    return Volume(
        data,
        header.affine,
        provenance,
        slope=np.full(depth, slope) if stored else None,
        intercept=np.full(depth, intercept) if stored else None,
    )


def drain(source: ByteSource, *, limit: int, path: Path) -> None:
    """Read a compressed stream to its end, where its checksum is.

    Parameters
    ----------
    source : ByteSource
        The stream.
    limit : int
        More bytes than this are refused.
    path : Path
        What to call the file.

    Raises
    ------
    FormatError
        If the stream goes on for longer than `limit`.
    """
    buffer = bytearray(1 << 20)
    while got := source.readinto(buffer):
        limit -= got
        if limit < 0:
            raise FormatError(f"{path}: the compressed data go on far beyond the voxels")


@contextmanager
def compressed_errors(path: Path) -> Iterator[None]:
    """Turn what gzip and zlib raise into typed errors.

    Parameters
    ----------
    path : Path
        What to call the file.

    Yields
    ------
    None
        The body reads the stream.

    Raises
    ------
    TruncatedError
        If the stream ends early.
    ChecksumError
        If it is damaged.
    """
    try:
        yield
    except EOFError as error:
        raise TruncatedError(
            f"{path}: the compressed data end early", hint="the file was cut, copy it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ChecksumError(
            f"{path}: the compressed data are damaged ({error})", hint="copy the file again"
        ) from error


@contextmanager
def _opened(path: Path, name: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, whatever wraps it
    except FileNotFoundError as error:
        raise MissingInputError(f"{name.with_name(path.name)}: no such file") from error
    with file, compressed_errors(name):
        if path.suffix.lower() == ".gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield unpacked
        else:
            yield file


def _raw_header(place: Path, name: Path) -> tuple[Any, Path, Path]:
    """Header without extensions, and the files of voxels and of the header.

    Extensions are left alone: they have sizes of their own to lie about.
    """
    header_path = data_path = place
    if place.suffix.lower() in (".hdr", ".img"):
        header_path, data_path = place.with_suffix(".hdr"), place.with_suffix(".img")
    with _opened(header_path, name) as file:
        start = file.read(540)
    kinds: dict[bytes, Any] = {
        b"n+1\0": nib.Nifti1Header,
        b"ni1\0": nib.Nifti1Pair.header_class,
        b"n+2\0": nib.Nifti2Header,
        b"ni2\0": nib.Nifti2Pair.header_class,
    }
    if len(start) < 348:
        raise TruncatedError(f"{name}: {len(start)} bytes, a NIfTI header has 348")
    kind = kinds.get(start[344:348]) or kinds.get(start[4:8])
    if kind is None:
        raise FormatError(
            f"{name}: no NIfTI header",
            hint="an Analyze 7.5 image does not say how it lies in space; convert the original",
        )
    try:
        size = int(kind.template_dtype.itemsize)
        raw = kind.from_fileobj(io.BytesIO(start[:size]), check=False)
    except Exception as error:
        raise FormatError(f"{name}: damaged NIfTI header ({error})") from error
    offset = float(raw["vox_offset"])
    single = data_path == header_path
    if not size * single <= offset <= 1 << 40:
        raise FormatError(f"{name}: the voxels are said to start at byte {offset}")
    if not 1 <= int(raw["dim"][0]) <= 7:
        raise FormatError(f"{name}: {int(raw['dim'][0])} dimensions, expected 3 to 7")
    return raw, data_path, header_path


def _voxel_dtype(raw: Any, name: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(raw.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise FormatError(f"{name}: unknown voxel type ({error})") from error
    if dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8):
        raise FormatError(f"{name}: voxels of type {dtype}, expected one real number each")
    return dtype


def _scaling(raw: Any, name: Path) -> tuple[float, float]:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    check_scaling(slope, intercept, path=name)
    # The standard reserves a slope of zero for "do not scale".
    return (slope, intercept) if slope else (1.0, 0.0)


def _check_size(data_path: Path, claimed: int, name: Path) -> None:
    try:
        size = os.stat(data_path).st_size
    except FileNotFoundError as error:
        raise MissingInputError(f"{name.with_name(data_path.name)}: no such file") from error
    if data_path.suffix.lower() == ".gz":
        if claimed > size * DEFLATE_RATIO:
            raise SizeLawError(
                f"{name}: the header claims {claimed} bytes, "
                f"{size} compressed bytes can hold {size * DEFLATE_RATIO} at most"
            )
    elif claimed > size:
        raise TruncatedError(
            f"{name}: {size} bytes, the header claims {claimed}",
            hint="the file was cut, copy it again",
        )


def _affine(raw: Any, name: Path) -> tuple[Affine, str, list[str]]:
    """Affine by sform, else by qform, as NIfTI readers agree to; never by voxel size alone."""
    has_sform, has_qform = int(raw["sform_code"]) > 0, int(raw["qform_code"]) > 0
    qform = None
    if has_qform:
        try:
            qform = np.asarray(raw.get_qform(), dtype=np.float64)
        except (HeaderDataError, ValueError) as error:
            if not has_sform:
                raise AffineError(f"{name}: invalid qform ({error})") from error
            return _sform(raw), "sform", [f"the qform is invalid ({error}), the sform is used"]
    if has_sform:
        sform = _sform(raw)
        warnings = []
        if qform is not None:
            shape = [int(side) - 1 for side in raw.get_data_shape()[:3]]
            corners = np.indices((2, 2, 2)).reshape(3, -1).T * shape
            apart = np.abs(apply_affine(sform, corners) - apply_affine(qform, corners)).max()
            if not apart <= 0.1 * np.linalg.norm(sform[:3, :3], axis=0).min():
                warnings.append(
                    f"sform and qform disagree by up to {apart:.3g} length units, sform is used"
                )
        return sform, "sform", warnings
    if qform is not None:
        return qform, "qform", []
    raise AffineError(
        f"{name}: neither sform nor qform is set, so it is unknown where the voxels are",
        hint="convert from the original scan, or set the affine deliberately",
    )


def _sform(raw: Any) -> Affine:
    return np.asarray(raw.get_sform(), dtype=np.float64)

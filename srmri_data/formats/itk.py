"""NRRD, MetaImage and DICOM series, with geometry from SimpleITK.

ITK fills in an identity geometry where a file states none, follows data file
names wherever they lead, and allocates what a header claims. The text headers
of NRRD and MetaImage are therefore looked at first, and their voxels streamed
like those of every other format. DICOM files are decoded by ITK one by one.
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import SubjectType, VoxelType
from srmri_data.errors import (
    AffineError,
    FormatError,
    MissingInputError,
    SizeLawError,
    TruncatedError,
)
from srmri_data.formats import ImageHeader
from srmri_data.formats.archive import DEFLATE_RATIO
from srmri_data.formats.nifti import compressed_errors, drain
from srmri_data.formats.streaming import ByteSource, noting_strange_values, read_planes
from srmri_data.geometry import check_affine
from srmri_data.safe_io import contained
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Sourced, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MAX_TEXT_HEADER = 1 << 20
_MAX_TRAILER = 1 << 20
_MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3}

_NRRD_TYPES = {
    name: code
    for code, names in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for name in names
}
_NRRD_SPACES = (
    *("right-anterior-superior", "ras", "left-anterior-superior", "las"),
    *("left-posterior-superior", "lps"),
)
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_UNCOMPRESSED_DICOM = (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2")


@dataclass(frozen=True)
class _Payload:
    """Where and how the voxels of a NRRD or MetaImage file are stored."""

    path: Path
    offset: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    encoding: str
    mm_per_unit: float
    unit_source: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(place: Path, *, name: Path | None = None) -> list[ImageHeader]:
    """Read the header of a NRRD or MetaImage file.

    Parameters
    ----------
    place : Path
        The file, or the header of a detached pair.
    name : Path, optional
        What the user calls it.

    Returns
    -------
    list of ImageHeader
        Always one.

    Raises
    ------
    FormatError
        If it is not a 3-D image of real numbers in a supported encoding.
    TruncatedError, SizeLawError
        If the data can not be what the header claims.
    AffineError
        If the file does not say where its voxels are.
    """
    name = place if name is None else name
    payload = _payload(place, name)
    size, affine = _itk_geometry(place, name)
    if size != payload.shape:
        raise FormatError(f"{name}: ITK reads a matrix of {size}, the header says {payload.shape}")
    affine[:3] *= payload.mm_per_unit
    kind = _kind(place)
    facts = {
        "word_type": Sourced(payload.dtype.name, "header"),
        "encoding": Sourced(payload.encoding, "header"),
        "length_unit_mm": Sourced(payload.mm_per_unit, payload.unit_source),
        "affine_source": Sourced("directions, spacing and origin", "header"),
        "slope": Sourced({"kind": "one", "min": 1.0, "max": 1.0}, "format has none"),
    }
    files = tuple(dict.fromkeys((name, name.with_name(payload.path.name))))
    return [
        ImageHeader(
            path=name,
            format=kind,
            shape=payload.shape,
            affine=check_affine(_LPS_TO_RAS @ affine, name=str(name)),
            dtype=payload.dtype.name,
            provenance=Provenance(path=name, format=kind, files=files, fields=facts),
        )
    ]


def read_volume(place: Path, header: ImageHeader, *, dtype: VoxelType) -> Volume:
    """Read the voxels of a NRRD or MetaImage file.

    Parameters
    ----------
    place : Path
        Where the file lies.
    header : ImageHeader
        As `read_headers` gave it.
    dtype : {"float32", "stored"}
        Type of the result; neither format scales its voxels.

    Returns
    -------
    Volume
        The voxels; peak memory is the result and a few megabytes.

    Raises
    ------
    TruncatedError, ChecksumError
        If the data end early or are damaged.
    """
    payload = _payload(place, header.path)
    if payload.shape != header.shape:
        raise FormatError(f"{header.path}: changed since its header was read")
    target = payload.dtype.newbyteorder("=") if dtype == "stored" else np.dtype(np.float32)
    data = np.empty(header.shape, dtype=target, order="F")
    with ExitStack() as stack:
        file = stack.enter_context(open(payload.path, "rb"))
        stack.enter_context(compressed_errors(header.path))
        file.seek(payload.offset)
        source: ByteSource = file
        if payload.encoding == "gzip":
            source = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))
        elif payload.encoding == "zlib":
            source = _Inflated(file)
        strange = read_planes(source, data, dtype=payload.dtype, path=header.path)
        if payload.encoding != "raw":
            drain(source, limit=_MAX_TRAILER, path=header.path)
    provenance = noting_strange_values(header.provenance, strange)
    return Volume(data, header.affine, provenance)


class _Inflated:
    """Bytes of a zlib stream, which ends with a checksum of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # 32 + 15: take a zlib or a gzip header, writers differ.
        self._inflate = zlib.decompressobj(wbits=47)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                raise EOFError
            plain = self._inflate.decompress(packed, len(view))
            if plain:
                view[: len(plain)] = plain
                return len(plain)
        return 0


def _kind(place: Path) -> str:
    return "nrrd" if place.suffix.lower() in (".nrrd", ".nhdr") else "metaimage"


def _payload(place: Path, name: Path) -> _Payload:
    parse = _nrrd_payload if _kind(place) == "nrrd" else _meta_payload
    try:
        payload = parse(place, name)
        size = os.stat(payload.path).st_size
    except FileNotFoundError as error:
        raise MissingInputError(f"{error.filename or name}: no such file") from error
    except (ValueError, KeyError, UnicodeDecodeError, IndexError) as error:
        if isinstance(error, FormatError | AffineError):
            raise
        raise FormatError(f"{name}: damaged header ({type(error).__name__}: {error})") from error
    if not all(1 <= side <= 1 << 20 for side in payload.shape):
        raise FormatError(f"{name}: impossible matrix size {payload.shape}")
    held = size - payload.offset
    if payload.encoding == "raw" and held < payload.bytes:
        raise TruncatedError(
            f"{name}: {max(held, 0)} bytes of voxels, the header claims {payload.bytes}",
            hint="the file was cut, copy it again",
        )
    if payload.bytes > held * DEFLATE_RATIO:
        raise SizeLawError(
            f"{name}: the header claims {payload.bytes} bytes, "
            f"{held} compressed bytes can hold {held * DEFLATE_RATIO} at most"
        )
    return payload


def _text_header(
    file: BinaryIO, name: Path, is_last: Callable[[str], bool]
) -> tuple[list[str], int]:
    """Lines up to the last of the header, and the offset of the byte after it."""
    lines, used = [], 0
    while used < _MAX_TEXT_HEADER:
        raw = file.readline(_MAX_TEXT_HEADER - used)
        used += len(raw)
        if not raw.endswith(b"\n"):
            break
        line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
        lines.append(line)
        if is_last(line):
            return lines, used
    # A detached header may end with the file.
    return lines, used


def _fields(lines: Sequence[str], separator: str) -> dict[str, str]:
    pairs = (line.partition(separator) for line in lines if separator in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _nrrd_payload(place: Path, name: Path) -> _Payload:
    with open(place, "rb") as file:
        lines, used = _text_header(file, name, lambda line: not line)
    if not lines or not lines[0].startswith("NRRD000"):
        raise FormatError(f"{name}: no NRRD header")
    fields = _fields([n for n in lines[1:] if not n.startswith("#") and ":=" not in n], ":")
    fields = {key.lower(): value for key, value in fields.items()}
    detached = fields.get("data file", fields.get("datafile"))
    if detached is None and lines[-1]:
        raise TruncatedError(f"{name}: the header does not end", hint="copy the file again")
    if fields["dimension"] != "3":
        raise FormatError(
            f"{name}: {fields['dimension']} dimensions, expected 3 (vectors and series are refused)"
        )
    space = fields.get("space", "").lower()
    directions = fields.get("space directions", "")
    if space not in _NRRD_SPACES or directions.count("(") != 3 or "space origin" not in fields:
        raise AffineError(
            f"{name}: space {space or 'missing'!r}, directions {directions or 'missing'!r}: "
            "it is unknown where the voxels are",
            hint="expected space, space directions and space origin",
        )
    units = set(fields.get("space units", '"mm"').replace('"', " ").split())
    if len(units) != 1 or not units <= _MM_PER_UNIT.keys():
        raise AffineError(f"{name}: unknown length units {sorted(units)}")
    dtype = np.dtype(_NRRD_TYPES[fields["type"].lower()])
    encoding = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(fields["encoding"].lower())
    if encoding is None:
        raise FormatError(
            f"{name}: encoding {fields['encoding']!r}, expected raw or gzip",
            hint="write the file again with one of these",
        )
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder({"little": "<", "big": ">"}[fields["endian"].lower()])  # type: ignore[arg-type]
    path, offset = place, used
    if detached is not None:
        path, offset = _beside(place, detached, name), 0
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if int(fields.get("line skip", fields.get("lineskip", "0"))) or (skip and encoding != "raw"):
        raise FormatError(f"{name}: skipping lines or compressed bytes is not supported")
    i, j, k = (int(side) for side in fields["sizes"].split())
    if skip == -1:
        offset = os.stat(path).st_size - i * j * k * dtype.itemsize
    elif skip >= 0:
        offset += skip
    unit = units.pop()
    return _Payload(
        path,
        offset,
        (i, j, k),
        dtype,
        encoding,
        _MM_PER_UNIT[unit],
        "header:space units" if "space units" in fields else "format default",
    )


def _meta_payload(place: Path, name: Path) -> _Payload:
    with open(place, "rb") as file:
        lines, used = _text_header(file, name, lambda line: line.startswith("ElementDataFile"))
    fields = _fields(lines, "=")
    if "NDims" not in fields or "ElementDataFile" not in fields:
        raise FormatError(f"{name}: no MetaImage header")
    if fields["NDims"] != "3" or fields.get("ElementNumberOfChannels", "1") != "1":
        raise FormatError(
            f"{name}: {fields['NDims']} dimensions and "
            f"{fields.get('ElementNumberOfChannels', '1')} components, expected 3 and 1"
        )
    missing = [
        keys[0]
        for keys in (
            ("TransformMatrix", "Rotation", "Orientation"),
            ("Offset", "Position", "Origin"),
            ("ElementSpacing",),
        )
        if not any(key in fields for key in keys)
    ]
    if missing:
        raise AffineError(f"{name}: no {', '.join(missing)}: it is unknown where the voxels are")
    unit = fields.get("DistanceUnits", "mm")
    if unit not in _MM_PER_UNIT:
        raise AffineError(f"{name}: unknown length unit {unit!r}")
    flags = {key: value.lower() in ("true", "1", "t") for key, value in fields.items()}
    if not flags.get("BinaryData", True) or any(
        float(fields.get(f"ElementToIntensityFunction{part}", neutral)) != neutral
        for part, neutral in (("Slope", 1.0), ("Offset", 0.0))
    ):
        raise FormatError(f"{name}: text data and intensity functions are not supported")
    big = flags.get("ElementByteOrderMSB", flags.get("BinaryDataByteOrderMSB", False))
    dtype = np.dtype(_META_TYPES[fields["ElementType"]]).newbyteorder(">" if big else "<")
    i, j, k = (int(side) for side in fields["DimSize"].split())
    path, offset = place, used
    if fields["ElementDataFile"].upper() != "LOCAL":
        path, offset = _beside(place, fields["ElementDataFile"], name), 0
    skip = int(fields.get("HeaderSize", "0"))
    if skip == -1:
        offset = os.stat(path).st_size - i * j * k * dtype.itemsize
    elif skip > 0:
        offset = skip
    return _Payload(
        path,
        offset,
        (i, j, k),
        dtype,
        "zlib" if flags.get("CompressedData", False) else "raw",
        _MM_PER_UNIT[unit],
        "header:DistanceUnits" if "DistanceUnits" in fields else "format default",
    )


def _beside(place: Path, detached: str, name: Path) -> Path:
    """Name the data file of a detached header, which must lie in the same folder."""
    if (
        "/" in detached
        or "\\" in detached
        or "%" in detached
        or detached.upper().startswith("LIST")
    ):
        raise FormatError(
            f"{name}: data file {detached!r}, expected one file beside the header",
            hint="put header and data into the same folder",
        )
    return contained(place.parent, detached)


def _simpleitk() -> Any:
    """Import SimpleITK when it is needed, not when a header of another format is read."""
    import SimpleITK

    return SimpleITK


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK from writing warnings to the terminal; errors still arrive as exceptions."""
    sitk = _simpleitk()

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _itk_geometry(place: Path, name: Path) -> tuple[tuple[int, ...], Affine]:
    sitk = _simpleitk()

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if _kind(place) == "nrrd" else "MetaImageIO")
    reader.SetFileName(str(place))
    try:
        with _quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise FormatError(f"{name}: ITK can not read it ({_last_line(error)})") from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return tuple(reader.GetSize()), affine


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else "no reason given"


@dataclass(frozen=True, eq=False)
class _DicomSlice:
    """What one DICOM file says about itself."""

    name: str
    size: tuple[int, int]
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]
    tags: dict[str, str]

    @property
    def stack(self) -> tuple[Any, ...]:
        """Slices with equal keys belong to one volume."""
        return (
            self.tags.get("0020|000e", ""),
            self.size,
            tuple(np.round(self.spacing, 5)),
            tuple(np.round(self.axes.ravel(), 3) + 0.0),
        )


_DICOM_FACTS = {
    "subject_id": "0010|0020",
    "method": "0018|0024",
    "protocol": "0018|1030",
    "subject_position": "0018|5100",
    "series_number": "0020|0011",
    "series_uid": "0020|000e",
    "software_version": "0018|1020",
    "repetition_time_ms": "0018|0080",
    "echo_time_ms": "0018|0081",
    "flip_angle_deg": "0018|1314",
    "slice_thickness_mm": "0018|0050",
    "slope": "0028|1053",
    "intercept": "0028|1052",
}


def read_dicom_headers(
    place: Path, *, name: Path | None = None, subject_type: SubjectType | None = None
) -> list[ImageHeader]:
    """Read the headers of a DICOM folder, or of the series one file belongs to.

    Parameters
    ----------
    place : Path
        Folder of DICOM files, or one of them.
    name : Path, optional
        What the user calls it.
    subject_type : str, optional
        Quadruped or OtherAnimal puts the axes into the rodent frame; DICOM
        itself keeps the patient frame.

    Returns
    -------
    list of ImageHeader
        One per series and orientation, in order of series number.

    Raises
    ------
    FormatError
        If a file is damaged, multi-frame or in colour, or several images share a position.
    AffineError
        If slices are missing or not evenly spaced, or a position is not stated.
    """
    from srmri_data.formats.bruker import subject_frame

    name = place if name is None else name
    folder, name_folder = (place, name) if place.is_dir() else (place.parent, name.parent)
    slices = [_dicom_slice(folder / file, name_folder / file) for file in _dicom_files(folder)]
    if place.is_file():
        wanted = [s.tags.get("0020|000e") for s in slices if s.name == place.name]
        slices = [s for s in slices if s.tags.get("0020|000e") in wanted]
    if not slices:
        raise FormatError(f"{name}: no DICOM image in this folder")
    slices.sort(key=lambda s: (int(s.tags.get("0020|0011") or 0), repr(s.stack)))
    stacks = [list(group) for _, group in itertools.groupby(slices, key=lambda s: s.stack)]
    headers = []
    for number, stack in enumerate(stacks, start=1):
        ordered, affine = _stacked(stack, name)
        tags = ordered[0].tags
        to_ras, frame_name, _ = subject_frame(subject_type or "Human")
        facts = {
            field: Sourced(_as_number(tags[tag]), f"dicom:({tag.replace('|', ',')})")
            for field, tag in _DICOM_FACTS.items()
            if tags.get(tag)
        }
        slopes = [float(s.tags.get("0028|1053") or 1.0) for s in ordered]
        facts["slope"] = Sourced(
            {
                "kind": "one" if min(slopes) == max(slopes) else "per-frame",
                "min": min(slopes),
                "max": max(slopes),
            },
            "dicom:(0028,1053)" if "0028|1053" in tags else "format default",
        )
        facts["world_frame"] = Sourced(frame_name, "override" if subject_type else "dicom")
        if subject_type:
            facts["subject_type"] = Sourced(subject_type, "override")
        warnings = []
        if tags.get("0010|2210") == "QUADRUPED" and not subject_type:
            warnings.append(
                "the subject is a quadruped but the patient frame is used; "
                "give --subject-type Quadruped for the rodent frame"
            )
        headers.append(
            ImageHeader(
                path=name,
                format="dicom",
                shape=(*ordered[0].size, len(ordered)),
                affine=check_affine(to_ras @ affine, name=str(name)),
                dtype=("int" if tags.get("0028|0103") == "1" else "uint")
                + (tags.get("0028|0100") or "16"),
                packages=len(stacks),
                package=number,
                provenance=Provenance(
                    path=name,
                    format="dicom",
                    files=tuple(name_folder / s.name for s in ordered),
                    fields=facts,
                    warnings=tuple(warnings),
                ),
            )
        )
    return headers


def read_dicom_volume(place: Path, header: ImageHeader) -> Volume:
    """Read one stack of DICOM slices, each decoded and rescaled by ITK.

    Parameters
    ----------
    place : Path
        Where the folder or file lies.
    header : ImageHeader
        As `read_dicom_headers` gave it.

    Returns
    -------
    Volume
        Float32, in scanner units.

    Raises
    ------
    FormatError
        If a slice can not be decoded.
    """
    sitk = _simpleitk()

    folder = place if place.is_dir() else place.parent
    # The order of the slices is found again: the header may name an archive instead.
    stacks = read_dicom_headers(place, name=header.path)
    if len(stacks) < header.package or stacks[header.package - 1].shape != header.shape:
        raise FormatError(f"{header.path}: changed since its header was read")
    data = np.empty(header.shape, dtype=np.float32, order="F")
    for index, file in enumerate(stacks[header.package - 1].provenance.files):
        try:
            with _quiet():
                image = sitk.ReadImage(str(folder / file.name), imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise FormatError(f"{file}: can not be decoded ({_last_line(error)})") from error
        pixels = sitk.GetArrayViewFromImage(image)
        if pixels.size != header.shape[0] * header.shape[1]:
            raise FormatError(f"{file}: {pixels.shape} pixels, expected {header.shape[1::-1]}")
        data[:, :, index] = pixels.reshape(header.shape[1], header.shape[0]).T
    return Volume(data, header.affine, header.provenance)


def _dicom_files(folder: Path) -> list[str]:
    found = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        with open(contained(folder, file.name), "rb") as stream:
            marked = stream.read(132)[128:] == b"DICM"
        if marked:
            found.append(file.name)
        elif file.suffix.lower() in (".dcm", ".ima"):
            raise FormatError(f"{file}: no DICOM file, its marker is missing")
    return found


def _dicom_slice(path: Path, name: Path) -> _DicomSlice:
    sitk = _simpleitk()

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with _quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise FormatError(f"{name}: damaged DICOM file ({_last_line(error)})") from error
    keys = {*_DICOM_FACTS.values(), *_DICOM_NEEDED}
    tags = {
        key: reader.GetMetaData(key).strip().strip("\0")
        for key in keys
        if reader.HasMetaDataKey(key)
    }
    for key, what in (
        ("0020|0032", "position"),
        ("0020|0037", "orientation"),
        ("0028|0030", "pixel spacing"),
    ):
        if not tags.get(key):
            raise AffineError(f"{name}: no image {what} ({key}), it is unknown where the slice is")
    if int(tags.get("0028|0008") or 1) > 1:
        raise FormatError(
            f"{name}: a multi-frame DICOM file is not supported",
            hint="read the ParaVision study itself, or convert to NIfTI",
        )
    if int(tags.get("0028|0002") or 1) != 1:
        raise FormatError(f"{name}: {tags['0028|0002']} samples per pixel, expected 1")
    width, height = (int(side) for side in reader.GetSize()[:2])
    _check_dicom_size(path, name, width * height * int(tags.get("0028|0100") or 16) // 8)
    direction = np.reshape(reader.GetDirection(), (3, 3))
    column, row = (float(step) for step in reader.GetSpacing()[:2])
    return _DicomSlice(
        name=path.name,
        size=(width, height),
        position=np.array(reader.GetOrigin(), dtype=np.float64),
        axes=np.array(direction[:, :2], dtype=np.float64),
        spacing=(column, row),
        tags=tags,
    )


_DICOM_NEEDED = (
    *("0008|0060", "0010|2210", "0018|0088", "0020|0032", "0020|0037"),
    *("0028|0002", "0028|0008", "0028|0030", "0028|0100", "0028|0103"),
)


def _check_dicom_size(path: Path, name: Path, claimed: int) -> None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(1024)
    # The transfer syntax, (0002,0010) UI, always stands in the first few hundred bytes.
    at = start.find(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    syntax = start[at + 8 : at + 8 + length].rstrip(b"\0 ") if at >= 0 else b""
    if syntax in _UNCOMPRESSED_DICOM and claimed > size:
        raise TruncatedError(f"{name}: {size} bytes, {claimed} of pixels alone are claimed")
    if claimed > size * DEFLATE_RATIO:
        raise SizeLawError(f"{name}: {claimed} bytes of pixels claimed by a file of {size} bytes")


def _stacked(stack: Sequence[_DicomSlice], name: Path) -> tuple[list[_DicomSlice], Affine]:
    """Order slices along their normal and build the affine (LPS, mm) of the stack."""
    first = stack[0]
    normal = np.cross(first.axes[:, 0], first.axes[:, 1])
    ordered = sorted(stack, key=lambda s: float(normal @ s.position))
    origin = ordered[0].position
    if len(ordered) > 1:
        step = (ordered[-1].position - origin) / (len(ordered) - 1)
        gap = float(np.linalg.norm(step))
        steps = np.diff([normal @ s.position for s in ordered])
        if steps.min() < 1e-4:
            raise FormatError(
                f"{name}: several images at one slice position (echoes, phases or repetitions)",
                hint="split the series, or read the ParaVision study itself",
            )
        wanted = origin + np.outer(np.arange(len(ordered)), step)
        off = np.abs(np.array([s.position for s in ordered]) - wanted).max()
        if off > 0.01 * gap + 1e-3:
            raise AffineError(
                f"{name}: slices are not evenly spaced, {steps.min():.4g} to {steps.max():.4g} mm "
                "apart; probably files are missing"
            )
    else:
        distance = first.tags.get("0018|0088") or first.tags.get("0018|0050")
        if not distance:
            raise AffineError(f"{name}: a single slice without a thickness")
        step = normal * float(distance)
    affine = np.eye(4)
    affine[:3, :2] = first.axes * first.spacing
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return ordered, affine


def _as_number(text: str) -> Any:
    try:
        return float(text) if any(c in text for c in ".eE") else int(text)
    except ValueError:
        return text

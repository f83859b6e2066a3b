"""ParaVision 5.1, 6, 7 and 360 reconstructions (``2dseq`` with ``visu_pars``).

`brukerapi` interprets the header: parameter syntax, storage layout, geometry
of a slice package. What is added here: bounds on what a header may ask for,
checks that the geometry is one, the subject's own frame, and voxels streamed
into a single array.

Notes
-----
ParaVision writes geometry in the DICOM patient frame (x to the left, y to the
back, z to the head) of a patient lying as declared. For an animal on four legs
"to the back" is dorsal, which is *up*, and the head is *in front*: the rodent
frame. Everything else keeps the patient frame.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from brukerapi.dataset import DEFAULT_STATES, LOAD_STAGES, SUBJECT_POSITION_MATRICES, Dataset
from brukerapi.jcampdx import JCAMPDX, GenericParameter
from numpy.typing import NDArray

from srmri_data.choices import SubjectPosition, SubjectType, VoxelType
from srmri_data.errors import (
    AffineError,
    FormatError,
    MissingInputError,
    SrmriError,
    TruncatedError,
    UsageError,
)
from srmri_data.formats import ImageHeader
from srmri_data.formats.streaming import check_scaling, noting_strange_values, read_planes
from srmri_data.geometry import check_affine
from srmri_data.safe_io import contained, read_bounded
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Sourced, Volume

PATIENT_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM patient frame (L, P, H) to RAS of an upright subject."""

RODENT_TO_RAS = np.array(
    [[-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""DICOM patient frame to RAS of a subject on four legs: dorsal is up, the nose is in front."""

_FOUR_LEGS = ("Quadruped", "OtherAnimal")
_UPRIGHT = ("Biped", "Phantom", "Human")

_MAX_HEADER_BYTES = 16 << 20
_MAX_VALUE_CHARS = 8 << 20
_MAX_TEXT_CHARS = 8 << 10
_MAX_SIDE = 1 << 20
_MAX_DEPTH = 8

# What is read of visu_pars. Nothing else reaches the interpreter: other
# records can be of any size and shape, and none of them changes a voxel.
_NUMBERS = frozenset(
    {
        "VisuCoreFrameCount",
        "VisuCoreDim",
        "VisuCoreSize",
        "VisuCoreExtent",
        "VisuCoreFrameThickness",
        "VisuCoreOrientation",
        "VisuCorePosition",
        "VisuCoreDataOffs",
        "VisuCoreDataSlope",
        "VisuCoreSlicePacksSliceDist",
        "VisuCoreTransposition",
        "VisuExperimentNumber",
        "VisuProcessingNumber",
        "VisuAcqRepetitionTime",
        "VisuAcqEchoTime",
        "VisuAcqFlipAngle",
        "VisuAcqNumberOfAverages",
        "VisuAcqPixelBandwidth",
        "VisuAcqImagingFrequency",
    }
)
_TEXTS = frozenset(
    {
        "VisuCreatorVersion",
        "VisuCoreDimDesc",
        "VisuCoreUnits",
        "VisuCoreWordType",
        "VisuCoreByteOrder",
        "VisuCoreDiskSliceOrder",
        "VisuCoreDataUnits",
        "VisuCoreSlicePacksSlices",
        "VisuFGOrderDesc",
        "VisuSubjectId",
        "VisuSubjectType",
        "VisuSubjectPosition",
        "VisuAcqSequenceName",
        "VisuAcquisitionProtocol",
        "VisuAcqDate",
        "VisuAcqImagedNucleus",
    }
)
_REPEAT = re.compile(r"@(\d{1,9})\*\(([^()@<>]*)\)")


@dataclass(frozen=True, eq=False)
class _Layout:
    """How the frames of one 2dseq are stored and where its packages lie."""

    dtype: np.dtype[Any]
    core: tuple[int, ...]
    groups: tuple[tuple[str, int], ...]
    frames: int
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    transposition: NDArray[np.int64]
    reversed_slices: bool
    packages: tuple[tuple[int, int], ...]
    affines: tuple[Affine, ...]

    @property
    def is_3d(self) -> bool:
        return len(self.core) == 3

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.core) * self.dtype.itemsize

    def shape(self, package: int) -> tuple[int, int, int]:
        depth = self.core[2] if self.is_3d else self.packages[package][1]
        return self.core[0], self.core[1], depth

    def frame_index(self, slice_number: int, chosen: dict[str, int]) -> int:
        """Position in the file of one frame; the first frame group runs fastest."""
        index, stride = 0, 1
        for name, count in self.groups:
            index += stride * (slice_number if name == "slice" else chosen[name] - 1)
            stride *= count
        return index


def read_headers(
    folder: Path,
    *,
    name: Path | None = None,
    data_bytes: int | None = None,
    subject_type: SubjectType | None = None,
    subject_position: SubjectPosition | None = None,
) -> list[ImageHeader]:
    """Read the header of one reconstruction.

    Parameters
    ----------
    folder : Path
        A ``pdata/N`` or flat folder.
    name : Path, optional
        What the user calls it, when it was unpacked from an archive.
    data_bytes : int, optional
        Size of 2dseq, when it was left in the archive.
    subject_type : str, optional
        Overrides the type in the header.
    subject_position : str, optional
        The true position, see `position_correction`.

    Returns
    -------
    list of ImageHeader
        One per slice package.

    Raises
    ------
    MissingInputError
        If 2dseq or visu_pars is absent.
    TruncatedError
        If 2dseq is empty or shorter than the header claims.
    FormatError
        If the header can not be understood or does not fit the data.
    AffineError
        If the geometry is missing, singular or no rotation.
    """
    name = folder if name is None else name
    parameters = _parameters(folder, name)
    layout = _layout(parameters, folder=folder, name=name)
    _check_data_size(folder, name, layout, data_bytes)
    with _typed_errors(name):
        fields = _facts(parameters, layout, name)
    warnings = []

    declared = fields.get("subject_type")
    if subject_type is not None:
        fields["subject_type"] = Sourced(subject_type, "override")
    to_ras, frame_name, frame_warning = subject_frame(
        subject_type or (declared.value if declared else None)
    )
    if frame_warning:
        warnings.append(frame_warning)
    fields["world_frame"] = Sourced(
        frame_name,
        "override" if subject_type else "visu_pars:VisuSubjectType" if declared else "default",
    )
    correction = np.eye(4)
    if subject_position is not None:
        lying = fields.get("subject_position")
        correction = position_correction(lying.value if lying else None, subject_position, name)
        fields["subject_position"] = Sourced(subject_position, "override")
    groups = {group: count for group, count in layout.groups if group != "slice"}
    thickness = fields.get("slice_thickness_mm")
    headers = []
    for index, affine in enumerate(layout.affines):
        extra = _gap_warning(layout, index, thickness.value if thickness else None)
        headers.append(
            ImageHeader(
                path=name,
                format="paravision",
                shape=layout.shape(index),
                affine=check_affine(to_ras @ correction @ affine, name=str(name)),
                dtype=layout.dtype.name,
                frame_groups=groups,
                packages=len(layout.packages),
                package=index + 1,
                provenance=Provenance(
                    path=name,
                    format="paravision",
                    files=(name / "visu_pars", name / "2dseq"),
                    fields=dict(fields),
                    warnings=tuple(warnings + extra),
                ),
            )
        )
    return headers


def read_volume(
    folder: Path, header: ImageHeader, *, frame: dict[str, int], dtype: VoxelType
) -> Volume:
    """Read one volume of a reconstruction.

    Parameters
    ----------
    folder : Path
        Where the reconstruction lies on disk.
    header : ImageHeader
        As `read_headers` gave it; its affine becomes the volume's.
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
    TruncatedError, FormatError, AffineError, MissingInputError
        As `read_headers`.
    """
    layout = _layout(_parameters(folder, header.path), folder=folder, name=header.path)
    _check_data_size(folder, header.path, layout, None)
    package = header.package - 1
    if package >= len(layout.packages) or layout.shape(package) != header.shape:
        raise FormatError(f"{header.path}: changed since its header was read")
    first, count = layout.packages[package]
    stored = dtype == "stored"
    data = np.empty(
        header.shape, dtype=layout.dtype.newbyteorder("=") if stored else np.float32, order="F"
    )
    used: list[int] = []
    strange = 0
    with open(contained(folder, "2dseq"), "rb", buffering=0) as file:
        for position in range(count):
            number = first + position
            if layout.reversed_slices and not layout.is_3d:
                slices = dict(layout.groups).get("slice", 1)
                number = slices - 1 - number
            index = layout.frame_index(number, frame)
            used.append(index)
            target = data if layout.is_3d else data[:, :, position : position + 1]
            if layout.reversed_slices and layout.is_3d:
                target = target[:, :, ::-1]
            file.seek(index * layout.frame_bytes)
            strange += read_planes(
                file,
                _as_stored(target, layout, index),
                dtype=layout.dtype,
                slope=1.0 if stored else float(layout.slope[index]),
                intercept=0.0 if stored else float(layout.intercept[index]),
                path=header.path / "2dseq",
            )
    provenance = noting_strange_values(header.provenance, strange)
    slope = intercept = None
    if stored:
        depth = 1 if not layout.is_3d else layout.core[2]
        slope = np.repeat(layout.slope[used], depth)
        intercept = np.repeat(layout.intercept[used], depth)
    return Volume(data, header.affine, provenance, slope=slope, intercept=intercept)


def dicom_affine(folder: Path, *, package: int = 1) -> Affine:
    """Return the affine in the frame of Bruker's own DICOM export.

    Parameters
    ----------
    folder : Path
        A ``pdata/N`` or flat folder.
    package : int
        Slice package, from 1.

    Returns
    -------
    (4, 4) ndarray
        Voxel index to DICOM patient coordinates (L, P, H) in mm, before the
        subject frame and any override.

    Raises
    ------
    MissingInputError, FormatError, AffineError
        As `read_headers`.
    """
    layout = _layout(_parameters(folder, folder), folder=folder, name=folder)
    if not 1 <= package <= len(layout.affines):
        raise UsageError(f"{folder}: package {package}, expected 1..{len(layout.affines)}")
    return layout.affines[package - 1]


def position_correction(declared: str | None, true: SubjectPosition, name: Path) -> Affine:
    """Rotate geometry from the declared to the true position of the subject.

    ParaVision derives patient coordinates from magnet coordinates by a
    rotation that depends on the declared position. Operators often leave
    Head_Supine on prone animals; left and right, and up and down, are then
    both exchanged. Undoing the declared rotation and applying the true one
    gives the geometry that would have been written.

    Parameters
    ----------
    declared : str or None
        Position in the header.
    true : str
        Position the subject really had.
    name : Path
        What to call the scan in the error.

    Returns
    -------
    (4, 4) ndarray
        Rotation in DICOM patient coordinates about the magnet's isocentre.

    Raises
    ------
    UsageError
        If one of the positions is unknown: there is nothing to rotate from.

    Examples
    --------
    >>> position_correction("Head_Supine", "Head_Prone", Path("scan")).diagonal()
    array([-1., -1.,  1.,  1.])
    """
    for position in (declared, true):
        if position not in SUBJECT_POSITION_MATRICES:
            raise UsageError(
                f"{name}: subject position {position!r} is not one of "
                + ", ".join(SUBJECT_POSITION_MATRICES),
                hint="the position can be corrected only when the header declares one",
            )
    # The table maps magnet to ParaVision subject coordinates (R, A, H), and the
    # DICOM frame is that frame with x and y reversed.
    to_dicom = np.diag([-1.0, -1.0, 1.0])
    rotation = SUBJECT_POSITION_MATRICES[true] @ SUBJECT_POSITION_MATRICES[declared].T
    correction = np.eye(4)
    # Adding zero turns the -0.0 of the products into 0.0.
    correction[:3, :3] = to_dicom @ rotation @ to_dicom + 0.0
    return correction


def _parameters(folder: Path, name: Path) -> JCAMPDX:
    """Parse visu_pars and keep only records of known kind and bounded size."""
    path = contained(folder, "visu_pars")
    if not path.is_file():
        raise MissingInputError(
            f"{name / 'visu_pars'} is missing",
            hint="copy the whole reconstruction, 2dseq can not be read without it",
        )
    head = read_bounded(path, _MAX_HEADER_BYTES)
    if not head:
        raise TruncatedError(f"{name / 'visu_pars'} is empty")
    with _typed_errors(name):
        parameters = JCAMPDX(path)
    kept = {}
    for key in (_NUMBERS | _TEXTS) & parameters.params.keys():
        record = parameters.params[key]
        if not isinstance(record, GenericParameter):
            raise FormatError(f"{name / 'visu_pars'}: {key} is not written as a value")
        problem = _unreasonable(record.size_str, record.val_str, is_text=key in _TEXTS)
        if problem:
            raise FormatError(f"{name / 'visu_pars'}: {key} {problem}")
        kept[key] = record
    parameters.params = kept
    return parameters


def _unreasonable(size: str, value: str, *, is_text: bool) -> str:
    """Say why a record must not be expanded, or nothing."""
    if not re.fullmatch(r"(\(\s*\d{1,9}(\s*,\s*\d{1,9}){0,3}\s*\))?\s*", size):
        return f"has the size {size[:40]!r}"
    # ParaVision breaks lines anywhere, also inside a repeat count.
    value = value.replace("\r", "").replace("\n", "")
    if is_text:
        # Repetitions of text may nest: the product of all counts is an upper bound.
        counts = (int(count) for count in re.findall(r"@(\d{1,9})\d*\*\(", value))
        copies = math.prod(max(count, 1) for count in counts)
        if len(value) * copies > _MAX_TEXT_CHARS or _depth(value) > _MAX_DEPTH:
            return f"is a text of more than {_MAX_TEXT_CHARS} characters or nested too deep"
        return ""
    repeats = _REPEAT.findall(value)
    if value.count("@") != len(repeats):
        return "holds a malformed or nested repetition"
    expanded = len(value) + sum(int(count) * (len(body) + 1) for count, body in repeats)
    # Every repetition is undone by a copy of the whole value.
    if expanded > _MAX_VALUE_CHARS or len(repeats) * expanded > 64 * _MAX_VALUE_CHARS:
        return f"expands to {expanded} characters, at most {_MAX_VALUE_CHARS} are accepted"
    tokens = [*_REPEAT.sub(" ", value).split(), *(t for _, body in repeats for t in body.split())]
    if any(len(token) > 64 for token in tokens):
        return "holds a number of more than 64 characters"
    return ""


def _depth(text: str) -> int:
    """Deepest nesting of parentheses; interpreting costs its product with the length."""
    steps = ({"(": 1, ")": -1}.get(character, 0) for character in text)
    return max(itertools.accumulate(steps), default=0)


@contextmanager
def _typed_errors(name: Path) -> Iterator[None]:
    """Turn whatever interpreting a hostile header raises into a typed error."""
    try:
        with np.errstate(all="ignore"):
            yield
    except SrmriError:
        raise
    except Exception as error:
        raise FormatError(
            f"{name / 'visu_pars'}: can not be interpreted ({type(error).__name__}: {error})"
        ) from error


def _layout(parameters: JCAMPDX, *, folder: Path, name: Path) -> _Layout:
    with _typed_errors(name):
        return _interpret(parameters, folder=folder, name=name)


def _interpret(parameters: JCAMPDX, *, folder: Path, name: Path) -> _Layout:
    def numbers(key: str) -> NDArray[np.float64] | None:
        value = parameters.get_value(key)
        return None if value is None else np.atleast_1d(np.asarray(value, dtype=np.float64))

    described = [str(word) for word in np.atleast_1d(parameters.get_value("VisuCoreDimDesc", []))]
    if not described or set(described) != {"spatial"}:
        raise FormatError(
            f"{name}: its dimensions are {', '.join(described) or 'unknown'}, expected spatial",
            hint="spectra and other non-images can not be used",
        )
    units = {str(unit) for unit in np.atleast_1d(parameters.get_value("VisuCoreUnits", []))}
    if units != {"mm"}:
        raise AffineError(f"{name}: voxel sizes are in {sorted(units) or 'unknown units'}, not mm")

    dataset = Dataset(folder / "2dseq", load=LOAD_STAGES["empty"])
    dataset.parameters = {"visu_pars": parameters}
    dataset.add_property_file(DEFAULT_STATES["2dseq"]["property_files"][0])

    core = tuple(int(side) for side in dataset.shape_block)
    if len(core) not in (2, 3) or int(parameters.get_value("VisuCoreDim")) != len(core):
        raise FormatError(f"{name}: frames of size {core}, expected two or three dimensions")
    if not all(1 <= side <= _MAX_SIDE for side in core):
        raise FormatError(f"{name}: impossible matrix size {core}")
    if dataset.get("numpy_dtype") is None:
        raise FormatError(f"{name}: unknown word type or byte order")
    frames = int(np.atleast_1d(dataset.shape_frames)[0])
    groups = _frame_groups(dataset, frames, name)
    slices = dict(groups).get("slice", 1)

    def per_frame(key: str, default: float | None = None) -> NDArray[np.float64]:
        values = numbers(key)
        if values is None and default is not None:
            values = np.array([default])
        if values is None or values.size not in (1, frames):
            found = "missing" if values is None else f"{values.size} values"
            raise FormatError(f"{name}: {key} is {found}, expected 1 or {frames} values")
        return np.broadcast_to(values, (frames,)).copy()

    slope = per_frame("VisuCoreDataSlope")
    intercept = per_frame("VisuCoreDataOffs", 0.0)
    for index in np.flatnonzero(~np.isfinite(slope + intercept)):
        check_scaling(slope[index], intercept[index], path=name)
    if not slope.any():
        raise FormatError(f"{name}: every intensity slope is zero")

    packages, affines = _geometry(dataset, core, slices, name)
    order = str(parameters.get_value("VisuCoreDiskSliceOrder", "disk_normal_slice_order"))
    return _Layout(
        dtype=np.dtype(dataset.numpy_dtype),
        core=core,
        groups=groups,
        frames=frames,
        slope=slope,
        intercept=intercept,
        transposition=per_frame("VisuCoreTransposition", 0.0).astype(np.int64),
        reversed_slices=order.lower() == "disk_reverse_slice_order",
        packages=packages,
        affines=affines,
    )


def _frame_groups(dataset: Dataset, frames: int, name: Path) -> tuple[tuple[str, int], ...]:
    """Name and size of every frame group, the fastest first, slices called ``slice``."""
    kinds = [str(kind) for kind in dataset.dim_type[dataset.encoded_dim :]]
    sizes = [int(size) for size in dataset.shape_fg]
    groups = [
        (kind.upper().removeprefix("FG_").lower(), size)
        for kind, size in zip(kinds, sizes, strict=True)
        if not (kind == "frame" and size == 1)
    ]
    if math.prod(size for _, size in groups) != frames or len(dict(groups)) < len(groups):
        raise FormatError(f"{name}: {frames} frames do not fill the frame groups {groups}")
    if any(size < 1 for _, size in groups):
        raise FormatError(f"{name}: empty frame group among {groups}")
    return tuple(groups)


def _geometry(
    dataset: Dataset, core: tuple[int, ...], slices: int, name: Path
) -> tuple[tuple[tuple[int, int], ...], tuple[Affine, ...]]:
    """Slice packages as (first slice, count) and their affines, checked."""
    positions, orientations = dataset._frame_geometry()
    if not np.allclose(
        orientations.reshape(-1, 3, 3) @ orientations.reshape(-1, 3, 3).transpose(0, 2, 1),
        np.eye(3),
        atol=1e-3,
    ):
        raise AffineError(
            f"{name}: VisuCoreOrientation is not a rotation: singular or skewed affine",
            hint="the header was edited by hand; convert from the original study",
        )
    extent = np.atleast_1d(np.asarray(dataset["VisuCoreExtent"].value, dtype=np.float64))
    if extent.size != len(core) or not (np.isfinite(extent).all() and (extent > 0).all()):
        raise AffineError(f"{name}: field of view {extent.tolist()} mm for a frame of {core}")

    packages = tuple(dataset.slice_packages_index()) if slices > 1 else ((0, 1),)
    if len(core) == 3 and any(count != 1 for _, count in packages):
        raise FormatError(f"{name}: a stack of 3-D frames is not supported")
    if sum(count for _, count in packages) != slices or any(
        first < 0 or count < 1 or first + count > slices for first, count in packages
    ):
        raise FormatError(f"{name}: slice packages {packages} do not divide {slices} slices")
    if slices > 1 and len(positions) != slices:
        raise AffineError(f"{name}: {len(positions)} positions for {slices} slices")
    if len(core) == 2 and not (
        {"VisuCoreSlicePacksSliceDist", "VisuCoreFrameThickness"} & set(dataset.keys())
    ):
        raise AffineError(f"{name}: neither slice distance nor thickness is known")

    affines = []
    for package, (first, count) in enumerate(packages):
        affine = check_affine(dataset.affine_of_package(package), name=str(name))
        if slices > 1:
            wanted = affine[:3, 3] + np.outer(np.arange(count), affine[:3, 2])
            apart = np.abs(positions[first : first + count] - wanted).max()
            if apart > 0.01 * np.linalg.norm(affine[:3, 2]) + 1e-5:
                raise AffineError(f"{name}: slices are not evenly spaced ({apart:.4f} mm off)")
        turned = orientations[first : first + count]
        if len(orientations) == slices and not np.allclose(turned, turned[0], atol=1e-4):
            raise AffineError(f"{name}: slices of one package are turned against each other")
        affines.append(affine)
    return packages, tuple(affines)


def _check_data_size(folder: Path, name: Path, layout: _Layout, data_bytes: int | None) -> None:
    """Hold the header's claim against the size of 2dseq before anything is allocated."""
    if data_bytes is None:
        try:
            data_bytes = os.stat(contained(folder, "2dseq")).st_size
        except FileNotFoundError as error:
            raise MissingInputError(
                f"{name / '2dseq'} is missing", hint="reconstruct the scan, or copy it again"
            ) from error
    expected = layout.frames * layout.frame_bytes
    if data_bytes < expected:
        raise TruncatedError(
            f"{name / '2dseq'}: {data_bytes} bytes, the header claims {expected}",
            hint="the reconstruction was interrupted or the copy is incomplete",
        )
    if data_bytes > expected:
        raise FormatError(f"{name / '2dseq'}: {data_bytes} bytes, the header explains {expected}")


def _as_stored(target: NDArray[Any], layout: _Layout, index: int) -> NDArray[Any]:
    """View of the destination with the axes exchanged as the frame was written.

    A transposition of ``n`` exchanges the axes ``n - 1`` and ``n``; the number
    of dimensions exchanges the first and the last. Axes of equal length are
    written untransposed.
    """
    value = int(layout.transposition[index])
    if value == 0:
        return target
    last = len(layout.core) - 1
    one, other = (0, last) if value > last else (value - 1, value)
    if layout.core[one] == layout.core[other]:
        return target
    return np.swapaxes(target, one, other)


def subject_frame(subject_type: str | None) -> tuple[NDArray[np.float64], str, str]:
    """Choose the world frame of a subject.

    Parameters
    ----------
    subject_type : str or None
        ``VisuSubjectType``, or what the user says it should be.

    Returns
    -------
    to_ras : (4, 4) ndarray
        DICOM patient coordinates to RAS, both in mm.
    name : str
        ``rodent`` or ``patient``.
    warning : str
        Empty, or why the frame is only assumed.
    """
    if subject_type in _FOUR_LEGS:
        return RODENT_TO_RAS, "rodent", ""
    if subject_type in _UPRIGHT:
        return PATIENT_TO_RAS, "patient", ""
    found = "is not in the header" if subject_type is None else f"is {subject_type!r}"
    return (
        PATIENT_TO_RAS,
        "patient",
        f"the subject type {found}: the patient frame is assumed, where coronal slices of a "
        "rodent are called axial; give --subject-type Quadruped if it is one",
    )


def _gap_warning(layout: _Layout, package: int, thickness: float | None) -> list[str]:
    if layout.is_3d or thickness is None or layout.packages[package][1] < 2:
        return []
    distance = float(np.linalg.norm(layout.affines[package][:3, 2]))
    if abs(distance - thickness) <= 0.01 * thickness:
        return []
    kind = "gaps between slices" if distance > thickness else "overlapping slices"
    return [f"{kind}: {thickness:g} mm thick, {distance:g} mm apart"]


def _facts(parameters: JCAMPDX, layout: _Layout, name: Path) -> dict[str, Sourced]:
    """Collect what the header says about the scan; a fact it does not state is left out."""
    facts: dict[str, Sourced] = {}

    def note(field: str, key: str) -> None:
        value = parameters.get_value(key)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = None if not np.isfinite(value).all() else value
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value not in (None, "", []):
            facts[field] = Sourced(value, f"visu_pars:{key}")

    note("scan", "VisuExperimentNumber")
    note("reco", "VisuProcessingNumber")
    # The folder is what a user names; copied studies keep the old numbers inside.
    place = Path(os.path.abspath(name))
    if place.parent.name == "pdata":
        for field, part in (("reco", place.name), ("scan", place.parent.parent.name)):
            if part.isdecimal():
                facts[field] = Sourced(int(part), "folder name")
    note("method", "VisuAcqSequenceName")
    if "method" in facts:
        method = re.sub(r"^\w+:|\s*\(pvm\)$", "", str(facts["method"].value))
        facts["method"] = Sourced(method, facts["method"].source)
    note("protocol", "VisuAcquisitionProtocol")
    note("subject_id", "VisuSubjectId")
    note("subject_type", "VisuSubjectType")
    note("subject_position", "VisuSubjectPosition")
    note("software_version", "VisuCreatorVersion")
    note("repetition_time_ms", "VisuAcqRepetitionTime")
    note("echo_time_ms", "VisuAcqEchoTime")
    note("flip_angle_deg", "VisuAcqFlipAngle")
    note("field_of_view_mm", "VisuCoreExtent")
    note("averages", "VisuAcqNumberOfAverages")
    note("pixel_bandwidth_hz", "VisuAcqPixelBandwidth")
    note("nucleus", "VisuAcqImagedNucleus")
    note("imaging_frequency_mhz", "VisuAcqImagingFrequency")
    note("acquired_at", "VisuAcqDate")
    note("data_units", "VisuCoreDataUnits")
    note("word_type", "VisuCoreWordType")
    note("byte_order", "VisuCoreByteOrder")
    note("encoded_dimensions", "VisuCoreDim")
    note("slice_thickness_mm", "VisuCoreFrameThickness")
    thickness = facts.get("slice_thickness_mm")
    if thickness is not None and not isinstance(thickness.value, int | float):
        values = np.asarray(thickness.value, dtype=np.float64)
        facts["slice_thickness_mm"] = Sourced(float(values.flat[0]), thickness.source)
    for field, key, values in (
        ("slope", "VisuCoreDataSlope", layout.slope),
        ("intercept", "VisuCoreDataOffs", layout.intercept),
    ):
        low, high = float(values.min()), float(values.max())
        kind = "one" if low == high else "per-frame"
        facts[field] = Sourced({"kind": kind, "min": low, "max": high}, f"visu_pars:{key}")
    return facts

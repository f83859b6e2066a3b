"""What scans are in this place, which of them is meant, and which could be a pair."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from srmri_data.choices import SubjectPosition, SubjectType, VoxelType
from srmri_data.errors import (
    AmbiguousScanError,
    NoScanError,
    SrmriError,
    SubjectMismatchError,
    UsageError,
)
from srmri_data.formats import (
    ImageHeader,
    find_images,
    read_image_headers,
    read_volume,
    resolve_frame,
)
from srmri_data.geometry import PLANE_AXES, apply_affine, closest_axes
from srmri_data.volumes import Volume

Role = Literal["HR", "LR"]

MIN_PAIR_SLICES = 5
"""A scan with fewer slices is a localizer and takes no part in a pair."""
MAX_ANGLE_DEG = 15.0
"""Stored axes of comparable scans differ by less than this."""
MIN_OVERLAP = 0.5
"""Share of the smaller field of view that comparable scans have in common."""
MIN_VOXEL_RATIO = 1.25
"""Voxel volumes closer than this count as one resolution."""


@dataclass(frozen=True, eq=False)
class ScanRecord:
    """One line of ``srmri inspect``.

    Parameters
    ----------
    path : Path
        The image as the user would name it.
    header : ImageHeader or None
        None when the scan can not be read.
    scan, reco : int or None
        Numbers of scan and reconstruction, for ParaVision.
    role : {"HR", "LR"} or None
        Likely role in a pair, see `propose_roles`.
    problems : tuple of str
        Why the scan can not be read, or what to beware of.
    error : SrmriError or None
        What reading the scan raised.
    """

    path: Path
    header: ImageHeader | None
    scan: int | None = None
    reco: int | None = None
    role: Role | None = None
    problems: tuple[str, ...] = ()
    error: SrmriError | None = field(default=None, repr=False)

    @property
    def package(self) -> int:
        """Slice package, from 1."""
        return 1 if self.header is None else self.header.package

    @property
    def method(self) -> str | None:
        """Pulse sequence, for instance ``"FLASH"``."""
        return self._text("method")

    @property
    def protocol(self) -> str | None:
        """Name the operator gave the scan."""
        return self._text("protocol")

    @property
    def matrix(self) -> tuple[int, int, int] | None:
        """Voxels along i, j, k."""
        return None if self.header is None else self.header.shape

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Distance between voxel centres along i, j, k in mm."""
        return None if self.header is None else self.header.spacing

    @property
    def dtype(self) -> str | None:
        """Type of the stored voxels."""
        return None if self.header is None else self.header.dtype

    @property
    def slopes(self) -> str | None:
        """Intensity slope, ``"one (0.5)"`` or ``"per-frame (0.5 to 2)"``."""
        fact = self._fact("slope")
        if fact is None:
            return None
        low, high = f"{fact['min']:.6g}", f"{fact['max']:.6g}"
        return f"one ({low})" if fact["kind"] == "one" else f"per-frame ({low} to {high})"

    @property
    def orientation(self) -> str | None:
        """Direction each array axis points to, for instance ``"RAS"``."""
        return None if self.header is None else self.header.orientation

    @property
    def subject_id(self) -> str | None:
        """Identifier of the subject."""
        return self._text("subject_id")

    @property
    def subject_type(self) -> str | None:
        """What the subject is: Quadruped, Biped, …; None when nobody says."""
        return self._text("subject_type")

    @property
    def subject_position(self) -> str | None:
        """How the subject lay, for instance ``"Head_Prone"``."""
        return self._text("subject_position")

    @property
    def frame_groups(self) -> dict[str, int]:
        """Dimensions beyond space, for instance ``{"echo": 3}``."""
        return {} if self.header is None else dict(self.header.frame_groups)

    @property
    def planes(self) -> dict[str, dict[str, int]]:
        """Count and size of the slices each plane would give."""
        return {} if self.header is None else plane_sizes(self.header)

    def readable(self) -> ImageHeader:
        """Return the header of a scan that has one.

        Returns
        -------
        ImageHeader
            The header.

        Raises
        ------
        SrmriError
            What reading the scan raised.
        """
        if self.header is None:
            raise self.error or NoScanError(f"{self.path} can not be read")
        return self.header

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types.

        Returns
        -------
        dict
            Everything `srmri inspect --json` prints about one scan.
        """
        return {
            "path": str(self.path),
            "format": None if self.header is None else self.header.format,
            "scan": self.scan,
            "reco": self.reco,
            "package": self.package,
            "packages": 1 if self.header is None else self.header.packages,
            "method": self.method,
            "protocol": self.protocol,
            "matrix": None if self.matrix is None else list(self.matrix),
            "spacing": None if self.spacing is None else [round(mm, 6) for mm in self.spacing],
            "dtype": self.dtype,
            "slopes": self.slopes,
            "orientation": self.orientation,
            "subject_id": self.subject_id,
            "subject_type": self.subject_type,
            "subject_position": self.subject_position,
            "frame_groups": self.frame_groups,
            "planes": self.planes,
            "role": self.role,
            "readable": self.header is not None,
            "problems": list(self.problems),
        }

    def _fact(self, name: str) -> Any:
        return None if self.header is None else self.header.provenance.value(name)

    def _text(self, name: str) -> str | None:
        value = self._fact(name)
        return None if value is None else str(value)


def discover(
    path: Path,
    *,
    subject_type: SubjectType | None = None,
    subject_position: SubjectPosition | None = None,
) -> list[ScanRecord]:
    """List every scan in a place, the unreadable ones with their reason.

    Parameters
    ----------
    path : Path
        Study, scan, ``pdata/N`` or flat folder, image file, folder of images,
        or a zip archive of these.
    subject_type, subject_position : str, optional
        Corrections to what the headers declare, see `srmri_data.formats`.

    Returns
    -------
    list of ScanRecord
        One per slice package, in order of scan and reconstruction.

    Raises
    ------
    MissingInputError
        If there is no such path.
    NoScanError
        If nothing is found there, readable or not.
    UsageError
        If a correction does not fit the scans.
    """
    records: list[ScanRecord] = []
    for image in find_images(path):
        scan, reco = _numbers(image)
        try:
            headers = read_image_headers(
                image, subject_type=subject_type, subject_position=subject_position
            )
        except UsageError:
            raise
        except SrmriError as error:
            records.append(
                ScanRecord(image, None, scan, reco, problems=(error.message,), error=error)
            )
            continue
        for header in headers:
            facts = header.provenance
            records.append(
                ScanRecord(
                    image,
                    header,
                    scan if scan is not None else facts.value("scan"),
                    reco if reco is not None else facts.value("reco"),
                    problems=facts.warnings,
                )
            )
    if not records:
        raise NoScanError(
            f"{path}: no scan found",
            hint="expected a ParaVision study (numbered folders with pdata/N/2dseq), "
            "NIfTI, NRRD, MetaImage or DICOM files; links out of the folder are not followed",
        )
    roles = _roles(records)
    return [
        ScanRecord(r.path, r.header, r.scan, r.reco, roles.get(id(r)), r.problems, r.error)
        for r in records
    ]


def select(
    records: Sequence[ScanRecord],
    *,
    scan: int | None = None,
    reco: int | None = None,
    package: int | None = None,
    frame: Mapping[str, int] | None = None,
    option: str = "--lr",
) -> tuple[ScanRecord, dict[str, int]]:
    """Choose one scan, or say between which to choose.

    Parameters
    ----------
    records : sequence of ScanRecord
        What `discover` found.
    scan, reco, package : int, optional
        Numbers of scan, reconstruction and slice package; packages count from 1.
    frame : mapping of str to int, optional
        Frame group to number, from 1: ``{"echo": 1}`` is the first echo.
    option : {"--lr", "--hr"}
        How the command line calls this scan, for the messages.

    Returns
    -------
    record : ScanRecord
        The one that fits.
    frame : dict of str to int
        A number for every frame group of it.

    Raises
    ------
    NoScanError
        If none fits.
    SrmriError
        If the only one that fits can not be read, what reading it raised.
    AmbiguousScanError
        If several fit, or a frame has to be chosen; the candidates are listed.
    UsageError
        If the frame does not exist.
    """
    wanted = {"scan": scan, "reco": reco, "package": package}
    fitting = [
        record
        for record in records
        if all(number in (None, getattr(record, name)) for name, number in wanted.items())
    ]
    asked = " ".join(f"{option}-{k} {n}" for k, n in wanted.items() if n is not None)
    if not fitting:
        listing = "\n".join(_candidate(record, option) for record in records)
        raise NoScanError(f"no scan fits {asked or option}; there are\n{listing}")
    if len(fitting) > 1:
        listing = "\n".join(_candidate(record, option) for record in fitting)
        raise AmbiguousScanError(
            f"{len(fitting)} scans fit {asked or option}, choose one:\n{listing}",
            hint=f"add the options of one line, for instance {_choice(fitting[0], option).strip()}",
        )
    record = fitting[0]
    try:
        return record, resolve_frame(record.readable(), frame)
    except AmbiguousScanError as error:
        first = next(
            name for name, n in record.frame_groups.items() if n > 1 and name not in (frame or {})
        )
        lines = "\n".join(
            f"  {option}-frame {first}={number}"
            for number in range(1, record.frame_groups[first] + 1)
        )
        raise AmbiguousScanError(
            f"{error.message}\n{lines}", hint="frames are counted from 1"
        ) from error


def propose_roles(records: Sequence[ScanRecord]) -> tuple[ScanRecord, ScanRecord]:
    """Find the one pair of low- and high-resolution scans in a study.

    Scans are comparable when they are readable, have at least `MIN_PAIR_SLICES`
    slices, name the same subject, were acquired with the same method (and both
    in 2-D or both in 3-D), have parallel array axes within `MAX_ANGLE_DEG`, and
    share `MIN_OVERLAP` of the smaller field of view. Among comparable scans of
    at least two resolutions the finest voxels are HR, all coarser ones LR.

    Parameters
    ----------
    records : sequence of ScanRecord
        What `discover` found in one study.

    Returns
    -------
    low_res, high_res : ScanRecord
        The pair.

    Raises
    ------
    NoScanError
        If no two comparable scans differ in resolution.
    AmbiguousScanError
        If more than one scan could take a role; they are listed.
    """
    lows, highs = role_candidates(records)
    if not lows or not highs:
        listing = "\n".join(_candidate(record, "--lr") for record in records)
        raise NoScanError(
            f"no two comparable scans of different resolution among\n{listing}",
            hint="name the scans with --lr and --hr",
        )
    if len(lows) > 1 or len(highs) > 1:
        listing = "\n".join(
            [_candidate(record, "--lr") for record in lows]
            + [_candidate(record, "--hr") for record in highs]
        )
        raise AmbiguousScanError(
            f"{len(lows)} scans could be LR and {len(highs)} HR, choose one of each:\n{listing}"
        )
    return lows[0], highs[0]


def role_candidates(
    records: Sequence[ScanRecord],
) -> tuple[list[ScanRecord], list[ScanRecord]]:
    """List every scan that could take a role, by the rule of `propose_roles`.

    Parameters
    ----------
    records : sequence of ScanRecord
        What `discover` found.

    Returns
    -------
    low_res, high_res : list of ScanRecord
        Candidates; both lists are empty where nothing is comparable.
    """
    roles = _roles(records)
    lows = [record for record in records if roles.get(id(record)) == "LR"]
    highs = [record for record in records if roles.get(id(record)) == "HR"]
    return lows, highs


def load(
    record: ScanRecord, *, frame: Mapping[str, int] | None = None, dtype: VoxelType = "float32"
) -> Volume:
    """Read the voxels of a scan.

    Parameters
    ----------
    record : ScanRecord
        One that `discover` listed.
    frame : mapping of str to int, optional
        Frame group to number, from 1.
    dtype : {"float32", "stored"}
        Scanner units, or stored numbers with slope and intercept.

    Returns
    -------
    Volume
        The voxels.

    Raises
    ------
    SrmriError
        What `discover` met, or what reading the voxels meets.
    """
    return read_volume(record.readable(), frame=frame, dtype=dtype)


def check_same_subject(low_res: ImageHeader, high_res: ImageHeader) -> None:
    """Refuse a pair whose headers name different subjects.

    Parameters
    ----------
    low_res, high_res : ImageHeader
        The pair. A header that names no subject is taken on trust.

    Raises
    ------
    SubjectMismatchError
        If both name a subject and the names differ.
    """
    low, high = (h.provenance.value("subject_id") for h in (low_res, high_res))
    if low is not None and high is not None and low != high:
        raise SubjectMismatchError(
            f"LR and HR are different subjects: {low!r} in {low_res.path}, "
            f"{high!r} in {high_res.path}",
            hint="if they are the same animal, go on with --allow-subject-mismatch",
        )


def plane_sizes(header: ImageHeader) -> dict[str, dict[str, int]]:
    """Count the slices of every plane and give the size of their images.

    Parameters
    ----------
    header : ImageHeader
        Any of the 48 orientations, oblique ones by their closest axes.

    Returns
    -------
    dict of str to dict
        ``count``, ``rows`` and ``cols`` for ``coronal`` (rows along S/I, columns
        along R/L), ``axial`` (A/P, R/L), ``sagittal`` (S/I, A/P) and
        ``acquired`` (slices along k, rows along j, columns along i).
    """
    world_axis, _ = closest_axes(header.affine)
    of_world = {int(axis): header.shape[index] for index, axis in enumerate(world_axis)}
    planes = {
        plane: {
            name: of_world[axis]
            for name, (axis, _) in zip(("count", "rows", "cols"), axes, strict=True)
        }
        for plane, axes in PLANE_AXES.items()
    }
    i, j, k = header.shape
    planes["acquired"] = {"count": k, "rows": j, "cols": i}
    return planes


def _numbers(image: Path) -> tuple[int | None, int | None]:
    """Scan and reconstruction of an unreadable image, by its place in the study."""
    place = image.absolute()
    parts = place.parent.parent.name, place.name
    if place.parent.name == "pdata" and all(part.isdecimal() for part in parts):
        return int(parts[0]), int(parts[1])
    return None, None


def _choice(record: ScanRecord, option: str) -> str:
    if record.scan is None:
        text = f"  {option} {record.path}"
    else:
        text = f"  {option}-scan {record.scan} {option}-reco {record.reco}"
    if record.header is not None and record.header.packages > 1:
        text += f" {option}-package {record.package}"
    return text


def _candidate(record: ScanRecord, option: str) -> str:
    if record.header is None:
        return f"{_choice(record, option)}  unreadable: {'; '.join(record.problems)}"
    matrix = "×".join(str(side) for side in record.header.shape)
    spacing = "×".join(f"{step:.4g}" for step in record.header.spacing)
    what = " ".join(filter(None, (record.method, record.protocol)))
    return f"{_choice(record, option)}  {matrix}, {spacing} mm  {what}".rstrip()


def _roles(records: Sequence[ScanRecord]) -> dict[int, Role]:
    """Likely roles by identity of the record; the rule is told in `propose_roles`."""
    groups: list[list[ScanRecord]] = []
    for record in records:
        header = record.header
        if header is None or min(header.shape) < MIN_PAIR_SLICES:
            continue
        for group in groups:
            if all(_comparable(header, other.header) for other in group if other.header):
                group.append(record)
                break
        else:
            groups.append([record])
    roles: dict[int, Role] = {}
    for group in groups:
        sizes = [float(np.prod(record.spacing or ())) for record in group]
        if max(sizes) >= MIN_VOXEL_RATIO * min(sizes):
            for record, size in zip(group, sizes, strict=True):
                roles[id(record)] = "HR" if size < MIN_VOXEL_RATIO * min(sizes) else "LR"
    return roles


def _comparable(one: ImageHeader, other: ImageHeader) -> bool:
    same = ("method", "subject_id", "encoded_dimensions")
    if any(one.provenance.value(fact) != other.provenance.value(fact) for fact in same):
        return False
    axes = [h.affine[:3, :3] / np.linalg.norm(h.affine[:3, :3], axis=0) for h in (one, other)]
    if (np.abs((axes[0] * axes[1]).sum(axis=0)) < np.cos(np.radians(MAX_ANGLE_DEG))).any():
        return False
    low, high = np.array([_bounds(one), _bounds(other)]).swapaxes(0, 1)
    shared = np.clip(high.min(axis=0) - low.max(axis=0), 0.0, None)
    return bool(np.prod(shared) >= MIN_OVERLAP * np.prod(high - low, axis=1).min())


def _bounds(header: ImageHeader) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the world box around the field of view, voxel edges included."""
    ends = [(-0.5, side - 0.5) for side in header.shape]
    corners = apply_affine(header.affine, list(itertools.product(*ends)))
    return corners.min(axis=0), corners.max(axis=0)

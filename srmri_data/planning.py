"""What will be compared, worked out from the headers alone.

Everything that can be known to be wrong is found here, before a voxel is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from srmri_data import ingest
from srmri_data.choices import (
    Method,
    Plane,
    RegistrationMetric,
    Stage,
    SubjectPosition,
    SubjectType,
)
from srmri_data.errors import ResolutionError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.ingest import ScanRecord
from srmri_data.slices import (
    StackFrame,
    Trim,
    Window,
    common_field_of_view,
    stack_frame,
    trim_window,
)
from srmri_data.types import Affine

VOTER_NAMES = ("pca", "lpips", "ssim")

STAGES: tuple[str, ...] = get_args(Stage)
"""Stages of ``geometry`` that can be left out."""

DEFAULT_TRIM = Trim(15, "slices")
"""The paper's: the first and last fifteen slices of each volume."""

# An LR volume this much finer than HR was swapped; headers round below that.
_SWAPPED_RATIO = 0.98


@dataclass(frozen=True)
class ScanRequest:
    """What the user said about one of the two scans.

    Parameters
    ----------
    path : Path
        Study, scan, ``pdata/N``, zip or image file.
    scan, reco, package : int, optional
        Which scan, reconstruction and slice package, where there are several.
    frame : mapping of str to int
        Which frame of each frame group, 1-based, for instance ``{"echo": 1}``.
    subject_type, subject_position : str, optional
        Corrections of what the header says.
    """

    path: Path
    scan: int | None = None
    reco: int | None = None
    package: int | None = None
    frame: Mapping[str, int] = field(default_factory=dict)
    subject_type: SubjectType | None = None
    subject_position: SubjectPosition | None = None

    @property
    def is_numbered(self) -> bool:
        """Whether a scan, reconstruction or package was asked for by number."""
        return (self.scan, self.reco, self.package) != (None, None, None)


@dataclass(frozen=True)
class PairingConfig:
    """Everything that decides how two volumes are paired.

    Parameters
    ----------
    method : {"geometry", "paper"}
        ``geometry``: the registration gives the position, the voters check it on aligned slices.
        ``paper``: votes on unaligned slices, exact agreement, ties go to review.
    plane : {"coronal", "axial", "sagittal", "acquired"}
        Plane of the slices.
    trim : Trim
        What to leave out at each end of each volume.
    voters : tuple of str
        Any of ``pca``, ``lpips``, ``ssim``.
    pca_components : int, optional
        Components kept; min(50, n - 1) by default.
    lpips_trunk : Path, optional
        AlexNet trunk to use instead of the one that is found.
    allow_subject_mismatch : bool
        Go on when the headers name different subjects.
    tolerance : float
        HR slices that a vote may lie from the registration and still agree.
    window_mm : float
        How far the animal may have moved from where the headers put it.
    metric : {"auto", "correlation", "mutual-information"}
        What the registration's first levels compare images by.
    n_starts : int
        Perturbed starts of the registration.
    skip : tuple of str
        Stages of ``geometry`` to leave out: any of `STAGES`.
    seed : int
        Seed of the registration's starts, and of the random pairs of the report's mosaic.
    """

    method: Method = "geometry"
    plane: Plane = "coronal"
    trim: Trim = DEFAULT_TRIM
    voters: tuple[str, ...] = VOTER_NAMES
    pca_components: int | None = None
    lpips_trunk: Path | None = None
    allow_subject_mismatch: bool = False
    tolerance: float = 1.0
    window_mm: float = 1.0
    metric: RegistrationMetric = "auto"
    n_starts: int = 6
    skip: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that do not exist."""
        if not 0 <= self.tolerance < np.inf:
            raise UsageError(f"--tolerance is a number of HR slices, not {self.tolerance}")
        if not 0 < self.window_mm < np.inf or self.n_starts < 1:
            raise UsageError(
                f"the search needs a --window above 0 mm and at least one start; found "
                f"{self.window_mm} mm and {self.n_starts}"
            )
        unknown = [name for name in self.skip if name not in STAGES]
        if unknown:
            raise UsageError(
                f"--skip {unknown[0]}: no such stage", hint=f"stages are {', '.join(STAGES)}"
            )
        unknown = [name for name in self.voters if name not in VOTER_NAMES]
        if unknown or not self.voters or len(set(self.voters)) != len(self.voters):
            raise UsageError(
                f"--voters {','.join(self.voters) or '(none)'}: choose one or more of "
                f"{', '.join(VOTER_NAMES)}, each once"
            )


@dataclass(frozen=True)
class Check:
    """One thing that was verified about the two scans.

    Parameters
    ----------
    name : str
        What was looked at.
    level : {"ok", "warning"}
        Whether it is as expected.
    text : str
        What was found.
    """

    name: str
    level: Literal["ok", "warning"]
    text: str


@runtime_checkable
class Placed(Protocol):
    """What has a place in the world: a `Volume`, or a header without voxels."""

    @property
    def affine(self) -> Affine:
        """Voxel index to world RAS mm."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrix size (i, j, k)."""
        ...


@dataclass(frozen=True, eq=False)
class Comparison:
    """Which voxels of two volumes are compared, and how.

    Parameters
    ----------
    low_frame, high_frame : StackFrame
        Stacks with corresponding axes.
    low_window, high_window : Window
        Common field of view, trimmed.
    config : PairingConfig
        The settings.
    """

    low_frame: StackFrame
    high_frame: StackFrame
    low_window: Window
    high_window: Window
    config: PairingConfig

    @classmethod
    def of(cls, low: Placed, high: Placed, config: PairingConfig) -> Comparison:
        """Work out the windows from geometry alone.

        Parameters
        ----------
        low, high : Volume or VolumeHeader
            Anything with an `affine` and a `shape`.
        config : PairingConfig
            The settings.

        Returns
        -------
        Comparison
            Common field of view, trimmed.

        Raises
        ------
        ResolutionError
            If the volumes share no field of view.
        TrimError
            If too few slices remain.
        """
        low_frame = stack_frame(low.affine, low.shape, config.plane)
        high_frame = stack_frame(high.affine, high.shape, config.plane, like=low_frame)
        low_window, high_window = common_field_of_view(low_frame, high_frame)
        return cls(
            low_frame,
            high_frame,
            trim_window(low_window, low_frame, config.trim, name="LR"),
            trim_window(high_window, high_frame, config.trim, name="HR"),
            config,
        )

    @property
    def voxel_ratio(self) -> tuple[float, float, float]:
        """LR over HR voxel spacing along slices, rows and columns."""
        low, high = self.low_frame.spacing, self.high_frame.spacing
        return low[0] / high[0], low[1] / high[1], low[2] / high[2]

    @property
    def low_to_high(self) -> Affine:
        """LR to HR (slice, row, col) index according to the affines."""
        to_high: Affine = np.linalg.inv(self.high_frame.affine) @ self.low_frame.affine
        return to_high


@dataclass(frozen=True, eq=False)
class PairingPlan(Comparison):
    """Which voxels will be compared, known from the headers alone.

    Parameters
    ----------
    low_frame, high_frame : StackFrame
        Stacks with corresponding axes.
    low_window, high_window : Window
        Common field of view, trimmed.
    config : PairingConfig
        The settings.
    low, high : ScanRecord
        The two scans.
    low_selection, high_selection : mapping of str to int
        Frame of each frame group, 1-based.
    checks : tuple of Check
        What was found on the way.
    """

    low: ScanRecord
    high: ScanRecord
    low_selection: Mapping[str, int]
    high_selection: Mapping[str, int]
    checks: tuple[Check, ...]

    @property
    def run_name(self) -> str:
        """Name of the run folder when the user gives none."""
        subject = self.high.readable().provenance.value("subject_id")
        parts = [str(subject)] if subject else []
        for record in (self.low, self.high):
            stem = record.path.name.split(".", 1)[0]
            parts.append(stem if record.scan is None else f"{record.scan}-{record.reco}")
        # The name comes from a header: keep what every file system can hold.
        text = "_".join([*parts, self.config.plane])
        return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:120] or "run"

    def describe(self) -> dict[str, Any]:
        """Return what is known before a voxel is read, as JSON-able values.

        Returns
        -------
        dict
            The part of ``summary.json`` that comes from the headers.
        """
        middle = [(a + b - 1) / 2 for a, b in (self.low_window.rows, self.low_window.cols)]
        return {
            "n_lr": self.low_window.shape[0],
            "n_hr": self.high_window.shape[0],
            "method": self.config.method,
            "plane": self.config.plane,
            "trim": str(self.config.trim),
            "voters": list(self.config.voters),
            "lr": _describe(self.low, self.low_frame, self.low_window),
            "hr": _describe(self.high, self.high_frame, self.high_window),
            "voxel_ratio": list(self.voxel_ratio),
            "geometry": {
                "slope": float(self.low_to_high[0, 0]),
                "offset": float(apply_affine(self.low_to_high, [0.0, *middle])[0]),
            },
            "checks": [asdict(check) for check in self.checks],
        }


Selected = tuple[ScanRecord, Mapping[str, int]]
"""A scan with the frame of each of its frame groups."""


def find_scan(request: ScanRequest, option: str) -> Selected:
    """Find the one scan that was asked for; nothing is guessed.

    Parameters
    ----------
    request : ScanRequest
        What the user said.
    option : str
        Option to name in messages, ``--lr`` or ``--hr``.

    Returns
    -------
    record, frame : ScanRecord and mapping
        The scan and the selected frame of each frame group.

    Raises
    ------
    AmbiguousScanError
        If several scans fit; the message lists them.
    NoScanError
        If none fits.
    """
    return _select(_discover(request), request, option)


def find_scans(
    low: ScanRequest | None, high: ScanRequest | None, *, propose: bool = False
) -> tuple[Selected, Selected]:
    """Find both scans.

    Parameters
    ----------
    low, high : ScanRequest or None
        LR and HR.
    propose : bool
        Both requests name the same study; a role without a scan number is
        proposed from the headers.

    Returns
    -------
    low, high : tuple
        As `find_scan`.

    Raises
    ------
    UsageError
        If a request is missing.
    AmbiguousScanError
        If several scans fit; the message lists them.
    NoScanError
        If none fits.
    """
    if low is None or high is None:
        raise UsageError("give both --lr and --hr, or --study with a study that holds both")
    if not propose:
        return find_scan(low, "--lr"), find_scan(high, "--hr")
    records = _discover(low)
    found_low = _select(records, low, "--lr") if low.is_numbered else None
    found_high = _select(records, high, "--hr") if high.is_numbered else None
    if found_low is None or found_high is None:
        # A role that was given leaves its other candidates out of the proposal.
        settled = {
            role: found[0] for role, found in (("LR", found_low), ("HR", found_high)) if found
        }
        proposed_low, proposed_high = ingest.propose_roles(
            [r for r in records if r.role not in settled or r in settled.values()]
        )
        found_low = found_low or _select([proposed_low], low, "--lr")
        found_high = found_high or _select([proposed_high], high, "--hr")
    return found_low, found_high


def _discover(request: ScanRequest) -> list[ScanRecord]:
    return ingest.discover(
        request.path,
        subject_type=request.subject_type,
        subject_position=request.subject_position,
    )


def _select(records: list[ScanRecord], request: ScanRequest, option: str) -> Selected:
    return ingest.select(
        records,
        scan=request.scan,
        reco=request.reco,
        package=request.package,
        frame=request.frame,
        option=option,
    )


def plan_pairing(low: Selected, high: Selected, config: PairingConfig) -> PairingPlan:
    """Work out which voxels to compare, and refuse what can not be right.

    Parameters
    ----------
    low, high : tuple
        LR and HR scan with the selected frame (`find_scan`).
    config : PairingConfig
        The settings.

    Returns
    -------
    PairingPlan
        What `run_pairing` will do.

    Raises
    ------
    SubjectMismatchError
        If the headers name different subjects.
    ResolutionError
        If LR is finer than HR, or they share no field of view.
    TrimError
        If too few slices remain.
    """
    (low_record, low_selection), (high_record, high_selection) = low, high
    low_header, high_header = low_record.readable(), high_record.readable()
    checks = []
    if config.allow_subject_mismatch:
        checks.append(Check("subject", "warning", "not compared (--allow-subject-mismatch)"))
    else:
        ingest.check_same_subject(low_header, high_header)
        subject = low_header.provenance.value("subject_id")
        checks.append(
            Check("subject", "ok", f"both scans are of {subject}")
            if subject and high_header.provenance.value("subject_id")
            else Check("subject", "warning", "the headers do not both name a subject")
        )
    low_frame = stack_frame(low_header.affine, low_header.shape, config.plane)
    high_frame = stack_frame(high_header.affine, high_header.shape, config.plane, like=low_frame)
    checks.append(_check_resolution(low_frame, high_frame, low_record, high_record))
    checks.append(_check_orientation(low_frame, high_frame))
    low_window, high_window = common_field_of_view(low_frame, high_frame)
    checks.append(_check_overlap(low_frame, low_window))
    checks.append(_check_sequence(low_record, high_record))
    checks += [
        Check(f"{name} header", "warning", text)
        for name, header in (("LR", low_header), ("HR", high_header))
        for text in header.provenance.warnings
    ]
    return PairingPlan(
        low=low_record,
        high=high_record,
        low_selection=low_selection,
        high_selection=high_selection,
        low_frame=low_frame,
        high_frame=high_frame,
        low_window=trim_window(low_window, low_frame, config.trim, name="LR"),
        high_window=trim_window(high_window, high_frame, config.trim, name="HR"),
        checks=tuple(checks),
        config=config,
    )


def _check_resolution(
    low: StackFrame, high: StackFrame, low_record: ScanRecord, high_record: ScanRecord
) -> Check:
    ratio = np.array(low.spacing) / np.array(high.spacing)
    text = "LR / HR voxel spacing: " + " × ".join(f"{value:.3g}" for value in ratio)
    volume_ratio = float(ratio.prod())
    if volume_ratio < _SWAPPED_RATIO:
        raise ResolutionError(
            f"LR and HR are swapped: the voxels of LR {low_record.path} "
            f"({_millimetres(low.spacing)}) are smaller than those of HR {high_record.path} "
            f"({_millimetres(high.spacing)})",
            hint="exchange --lr and --hr",
        )
    if volume_ratio <= 1 / _SWAPPED_RATIO:
        return Check("voxel ratio", "warning", text + "; both scans have the same voxel size")
    if (ratio < _SWAPPED_RATIO).any():
        return Check("voxel ratio", "warning", text + "; LR is finer along one axis")
    return Check("voxel ratio", "ok", text)


def _millimetres(spacing: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing) + " mm"


def _check_orientation(low: StackFrame, high: StackFrame) -> Check:
    axes = [frame.affine[:3, :3] / np.array(frame.spacing) for frame in (low, high)]
    cosines = np.abs((axes[0] * axes[1]).sum(axis=0))
    angle = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
    stored = [int(np.abs(frame.to_voxel[:3, 0]).argmax()) for frame in (low, high)]
    if low.plane == "acquired" and stored[0] != stored[1]:
        return Check(
            "orientation",
            "warning",
            "HR was acquired in another plane; its slices are taken along LR's slice axis",
        )
    if angle > 2:
        return Check(
            "orientation",
            "warning",
            f"LR and HR are tilted by {angle:.1f}° against each other; "
            "a whole LR slice has no single HR partner",
        )
    return Check("orientation", "ok", f"axes parallel within {angle:.2f}°")


def _check_overlap(low: StackFrame, window: Window) -> Check:
    share = float(np.prod(window.shape) / np.prod(low.shape))
    text = f"{share:.0%} of LR lies in HR's field of view; both are cropped to it"
    return Check("field of view", "ok" if share > 0.7 else "warning", text)


def _check_sequence(low: ScanRecord, high: ScanRecord) -> Check:
    """Compare what makes the contrast: the method, TE, TR and flip angle."""
    differences = []
    known = 0
    for name, unit in (
        ("method", ""),
        ("echo_time_ms", " ms"),
        ("repetition_time_ms", " ms"),
        ("flip_angle_deg", "°"),
    ):
        values = [record.readable().provenance.value(name) for record in (low, high)]
        if None in values:
            continue
        known += 1
        same = (
            np.isclose(values[0], values[1], rtol=0.05)
            if isinstance(values[0], float | int)
            else values[0] == values[1]
        )
        if not same:
            label = name.rsplit("_", 1)[0].replace("_", " ") if unit else name
            differences.append(f"{label} {values[0]}{unit} / {values[1]}{unit}")
    if differences:
        return Check("sequence", "warning", "LR and HR differ in " + ", ".join(differences))
    if not known:
        return Check("sequence", "ok", "the headers say nothing about the sequence")
    return Check("sequence", "ok", "same sequence settings as far as the headers tell")


def _describe(record: ScanRecord, frame: StackFrame, window: Window) -> dict[str, Any]:
    header = record.readable()
    return {
        "scan": record.scan,
        "reco": record.reco,
        "format": header.format,
        "shape": list(header.shape),
        "spacing_mm": list(header.spacing),
        "orientation": header.orientation,
        "subject_id": header.provenance.value("subject_id"),
        "slices_total": frame.shape[0],
        "slice_spacing_um": frame.spacing[0] * 1000,
        "window": {
            "slices": list(window.slices),
            "rows": list(window.rows),
            "cols": list(window.cols),
        },
        "to_voxel": frame.to_voxel.tolist(),
    }

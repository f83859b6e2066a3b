"""`run_pairing`: the one place that strings reading, slicing, voting and reporting together.

Planning reads headers only and finds everything that can be known to be wrong
before a voxel is touched; running then does what the plan says.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from srmri_data import ingest
from srmri_data.choices import Method, Plane, SubjectPosition, SubjectType
from srmri_data.consensus import Decision, paper_vote, vote_table
from srmri_data.errors import FormatError, ResolutionError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.ingest import ScanRecord
from srmri_data.run_folder import (
    PAIRS_DTYPES,
    SCHEMA_VERSION,
    check_destination,
    new_run,
    open_run,
    read_pairs,
    read_votes,
    write_pairs,
    write_votes,
)
from srmri_data.safe_io import sha256_file, write_json
from srmri_data.slices import (
    IntensityMap,
    StackFrame,
    Trim,
    Window,
    common_field_of_view,
    intensity_map,
    reference_points,
    resize_to_low_res,
    stack_frame,
    trim_window,
)
from srmri_data.types import Affine, DistanceMatrix, HighResStack, LowResStack
from srmri_data.volumes import Sourced, Volume
from srmri_data.voters import trunk_source, voter_settings

if TYPE_CHECKING:
    import pandas as pd

    from srmri_data.simulate import Truth

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

VOTER_NAMES = ("pca", "lpips", "ssim")

DEFAULT_TRIM = Trim(15, "slices")
"""The paper's: the first and last fifteen slices of each volume."""

# An LR volume this much finer than HR was swapped; headers round below that.
_SWAPPED_RATIO = 0.98
_UNKNOWN = Sourced(None, "not in the header")
_EXACT = 0.5 + 1e-6
_BLUNDER = 3.0
_WRONG = 1.0


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
    method : {"paper"}
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
    seed : int
        Picks the random pairs of the report's mosaic; decisions do not depend on it.
    """

    method: Method = "paper"
    plane: Plane = "coronal"
    trim: Trim = DEFAULT_TRIM
    voters: tuple[str, ...] = VOTER_NAMES
    pca_components: int | None = None
    lpips_trunk: Path | None = None
    allow_subject_mismatch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse voters that do not exist."""
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


@dataclass(frozen=True, eq=False)
class PairingPlan:
    """Which voxels will be compared, known from the headers alone.

    Parameters
    ----------
    low, high : ScanRecord
        The two scans.
    low_selection, high_selection : mapping of str to int
        Frame of each frame group, 1-based.
    low_frame, high_frame : StackFrame
        Stacks with corresponding axes.
    low_window, high_window : Window
        Common field of view, trimmed.
    checks : tuple of Check
        What was found on the way.
    config : PairingConfig
        The settings.
    """

    low: ScanRecord
    high: ScanRecord
    low_selection: Mapping[str, int]
    high_selection: Mapping[str, int]
    low_frame: StackFrame
    high_frame: StackFrame
    low_window: Window
    high_window: Window
    checks: tuple[Check, ...]
    config: PairingConfig

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


def run_pairing(
    plan: PairingPlan,
    out: Path,
    *,
    truth: Truth | None = None,
    force: bool = False,
    command: Sequence[str] = (),
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Pair two volumes and write the run folder.

    Parameters
    ----------
    plan : PairingPlan
        From `plan_pairing`.
    out : Path
        Run folder to create; it appears when it is complete.
    truth : Truth, optional
        Known LR-to-HR map of a simulated scan; adds accuracy figures.
    force : bool
        Replace an existing run folder.
    command : sequence of str
        Command line to record.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    clock : callable
        Seconds; measures ``seconds`` of the summary.

    Returns
    -------
    dict
        ``summary.json``.

    Raises
    ------
    UsageError
        If `out` exists and `force` is not given.
    """
    started = clock()
    check_destination(out, force=force)
    step = progress or (lambda *_: None)
    if truth is not None:
        _check_truth(plan, truth)
    if "lpips" in plan.config.voters:
        # Weights of the wrong kind are found before minutes of work, not after.
        trunk_source(plan.config.lpips_trunk)
    # All of the input is read before anything is written.
    stacks = _Stacks.read(plan, step)
    with new_run(out, force=force) as run:
        step("aligning", 0, 1)
        _write_aligned(run, plan, stacks)
        step("aligning", 1, 1)
        distances = _vote(plan.config, stacks, step)
        settings = voter_settings(
            plan.config.voters,
            n_images=plan.low_window.shape[0] + plan.high_window.shape[0],
            n_components=plan.config.pca_components,
            trunk=plan.config.lpips_trunk,
        )
        decisions = paper_vote(distances, plan.high_window.slice_numbers)
        pairs = _pairs_table(plan, stacks, decisions, truth)
        write_pairs(run, pairs)
        votes = vote_table(distances, plan.low_window.slice_numbers, plan.high_window.slice_numbers)
        write_votes(run, votes)
        plan_facts = plan.describe()
        plan_facts["checks"].append(asdict(_check_contrast(stacks.contrast)))
        summary = {
            "schema_version": SCHEMA_VERSION,
            "run": out.name,
            **plan_facts,
            **_counts(pairs),
            **(accuracy(pairs, plan.high_frame.spacing[0]) if truth is not None else {}),
        }
        provenance = _provenance(plan, stacks, settings, truth, command, out)
        write_json(run / "provenance.json", provenance)
        step("reporting", 0, 1)
        _report(run, plan, stacks, summary, provenance)
        step("reporting", 1, 1)
        summary["seconds"] = round(clock() - started, 2)
        write_json(run / "summary.json", summary)
    return summary


def _check_truth(plan: PairingPlan, truth: Truth) -> None:
    for name, expected, record in (
        ("LR", truth.low_res_shape, plan.low),
        ("HR", truth.high_res_shape, plan.high),
    ):
        found = record.readable().shape
        if tuple(found) != tuple(expected):
            raise FormatError(
                f"--truth is of another {name} volume: it says {tuple(expected)} voxels, "
                f"{record.path} has {tuple(found)}",
                hint="give the truth.json that `srmri simulate` wrote beside this LR scan",
            )


@dataclass(frozen=True, eq=False)
class _Stacks:
    """The slices that are compared, and the volumes they were cut from."""

    low: Volume
    high: Volume
    low_slices: NDArray[Any]
    high_slices: NDArray[Any]
    low_intensity: IntensityMap
    high_intensity: IntensityMap
    low_images: LowResStack
    high_images: HighResStack
    reference: NDArray[np.float64]
    empty: NDArray[np.bool_]
    contrast: float

    @classmethod
    def read(cls, plan: PairingPlan, step: Progress) -> _Stacks:
        step("reading", 0, 2)
        low = ingest.load(plan.low, frame=plan.low_selection)
        step("reading", 1, 2)
        high = ingest.load(plan.high, frame=plan.high_selection)
        step("reading", 2, 2)
        low_slices, high_slices = plan.low_frame.view(low.data), plan.high_frame.view(high.data)
        low_intensity, high_intensity = intensity_map(low.data), intensity_map(high.data)
        window = plan.low_window
        cropped = low_slices[window.index]
        reference, empty = reference_points(
            cropped,
            low_intensity.foreground,
            origin=(window.rows[0], window.cols[0]),
        )
        low_images = low_intensity.apply(cropped)
        n_high = plan.high_window.shape[0]
        high_images = np.empty((n_high, *low_images.shape[1:]), dtype=np.float32)
        resized = resize_to_low_res(
            high_slices,
            plan.high_frame,
            plan.low_frame,
            window,
            plan.high_window.slices,
            high_intensity,
        )
        for n, image in enumerate(resized):
            high_images[n] = image
            step("resizing HR to LR", n + 1, n_high)
        return cls(
            low=low,
            high=high,
            low_slices=low_slices,
            high_slices=high_slices,
            low_intensity=low_intensity,
            high_intensity=high_intensity,
            low_images=np.ascontiguousarray(low_images),
            high_images=high_images,
            reference=reference,
            empty=empty,
            contrast=_contrast(plan, low_images, high_images, empty),
        )


def _contrast(
    plan: PairingPlan, low: LowResStack, high: HighResStack, empty: NDArray[np.bool_]
) -> float:
    """Median correlation of LR slices with the HR slices the affines put them at."""
    middle = [(a + b - 1) / 2 for a, b in (plan.low_window.rows, plan.low_window.cols)]
    numbers = plan.low_window.slice_numbers
    points = np.column_stack([numbers, np.tile(middle, (len(numbers), 1))])
    positions = np.rint(apply_affine(plan.low_to_high, points)[:, 0]).astype(int)
    positions -= plan.high_window.slices[0]
    values = [
        float(np.corrcoef(low[n].ravel(), high[p].ravel())[0, 1])
        for n, p in enumerate(positions)
        if 0 <= p < len(high) and not empty[n] and low[n].std() > 0 and high[p].std() > 0
    ]
    return float(np.median(values)) if values else float("nan")


def _vote(config: PairingConfig, stacks: _Stacks, step: Progress) -> dict[str, DistanceMatrix]:
    from srmri_data import voters

    low, high = stacks.low_images, stacks.high_images
    distances: dict[str, DistanceMatrix] = {}
    for name in config.voters:
        # The numbers of finished slices are the voter's own; the stage is known here.
        def advance(done: int, total: int, stage: str = f"voting: {name}") -> None:
            step(stage, done, total)

        advance(0, 1)
        if name == "pca":
            distances[name] = voters.pca_distances(low, high, n_components=config.pca_components)
        elif name == "lpips":
            distances[name] = voters.lpips_distances(
                low, high, trunk=config.lpips_trunk, progress=advance
            )
        else:
            distances[name] = voters.ssim_distances(low, high)
        advance(1, 1)
    return distances


def _positions(plan: PairingPlan, reference: NDArray[np.float64], to_high: Affine) -> Any:
    """HR slice coordinate of each LR slice's reference point under a map."""
    points = np.column_stack([plan.low_window.slice_numbers, reference])
    return apply_affine(to_high, points)[:, 0]


def _pairs_table(
    plan: PairingPlan, stacks: _Stacks, decisions: Sequence[Decision], truth: Truth | None
) -> pd.DataFrame:
    import pandas as pd

    spacing_um = plan.high_frame.spacing[0] * 1000
    hr_position = np.array([decision.hr_position for decision in decisions])
    expected = _positions(plan, stacks.reference, plan.low_to_high)
    empty = stacks.empty
    table: dict[str, Any] = {
        "lr_slice": plan.low_window.slice_numbers,
        "hr_slice": [decision.hr_slice for decision in decisions],
        "hr_position": hr_position,
        "ref_row": stacks.reference[:, 0],
        "ref_col": stacks.reference[:, 1],
        "offset_um": (hr_position - expected) * spacing_um,
    }
    for name in VOTER_NAMES:
        votes = [decision.votes.get(name) for decision in decisions]
        table[f"vote_{name}"] = pd.array(votes, dtype="Int32")
    for name in ("n_votes", "spread", "margin", "confidence"):
        table[name] = [getattr(decision, name) for decision in decisions]
    table["method"] = plan.config.method
    table["status"] = np.where(empty, "review", [decision.status for decision in decisions])
    table["reason"] = [
        f"near-empty slice; {decision.reason}" if is_empty else decision.reason
        for decision, is_empty in zip(decisions, empty, strict=True)
    ]
    table["empty"] = empty
    if truth is None:
        table["truth_position"] = table["error_slices"] = pd.array(
            [None] * len(decisions), dtype="Float64"
        )
    else:
        to_high = (
            np.linalg.inv(plan.high_frame.to_voxel) @ truth.low_to_high @ plan.low_frame.to_voxel
        )
        position = _positions(plan, stacks.reference, to_high)
        table["truth_position"] = position
        table["error_slices"] = hr_position - position
    return pd.DataFrame(table).astype(PAIRS_DTYPES)


def _counts(pairs: pd.DataFrame) -> dict[str, int]:
    votes = pairs[[f"vote_{name}" for name in VOTER_NAMES]].dropna(axis=1)
    return {
        "n_pairs": int((pairs["status"] == "auto").sum()),
        "unanimous": int((pairs["n_votes"] == votes.shape[1]).sum()),
        "within_1": int((pairs["spread"] <= 1).sum()),
        "queued": int((pairs["status"] == "review").sum()),
        "empty": int(pairs["empty"].sum()),
    }


def accuracy(pairs: pd.DataFrame, slice_spacing: float) -> dict[str, Any]:
    """Compare decided positions with the truth, over the slices that show anything.

    Parameters
    ----------
    pairs : DataFrame
        Pairs with ``error_slices``.
    slice_spacing : float
        Distance of HR slices in mm.

    Returns
    -------
    dict
        ``exact`` (share within half an HR slice), ``mae_slices``, ``mae_um``,
        ``p95_slices``, ``blunders`` (more than 3 slices off) and
        ``wrongly_accepted`` (status auto and more than 1 slice off).
    """
    shown = pairs[~pairs["empty"]]
    error = np.abs(shown["error_slices"].to_numpy(dtype=float))
    if not len(error):
        return {}
    accepted = (shown["status"] == "auto").to_numpy()
    return {
        "exact": float((error <= _EXACT).mean()),
        "mae_slices": float(error.mean()),
        "mae_um": float(error.mean() * slice_spacing * 1000),
        "p95_slices": float(np.percentile(error, 95)),
        "blunders": int((error > _BLUNDER).sum()),
        "wrongly_accepted": int((accepted & (error > _WRONG)).sum()),
    }


def _check_contrast(correlation: float) -> Check:
    text = f"median correlation {correlation:.2f} of LR with HR where the affines put it"
    if np.isnan(correlation):
        return Check("contrast", "warning", "no LR slice has an HR slice at its place to compare")
    if correlation < 0.3:
        return Check("contrast", "warning", text + "; another contrast, or the animal moved far")
    return Check("contrast", "ok", text)


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


def _provenance(
    plan: PairingPlan,
    stacks: _Stacks,
    settings: Mapping[str, Any],
    truth: Truth | None,
    command: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    config = {key: value for key, value in asdict(plan.config).items() if key != "trim"}
    return {
        "schema_version": SCHEMA_VERSION,
        "command": list(command),
        "config": {
            **config,
            "lpips_trunk": plan.config.lpips_trunk and str(plan.config.lpips_trunk),
            "trim": str(plan.config.trim),
        },
        "voters": settings,
        "sources": {
            "lr": _source(plan.low, plan.low_selection, stacks.low, stacks.low_intensity, out),
            "hr": _source(plan.high, plan.high_selection, stacks.high, stacks.high_intensity, out),
        },
        "truth": None if truth is None else {"low_to_high": truth.low_to_high.tolist()},
        "versions": _versions(),
    }


def _source(
    record: ScanRecord,
    selection: Mapping[str, int],
    volume: Volume,
    intensity: IntensityMap,
    out: Path,
) -> dict[str, Any]:
    def relative(path: Path, to: Path) -> str:
        return Path(os.path.relpath(path.resolve(), to.resolve())).as_posix()

    return {
        # Relative to the run folder: a project folder can be moved as a whole.
        "path": relative(record.path, out),
        "scan": record.scan,
        "reco": record.reco,
        "package": record.package,
        "frame": dict(selection),
        "corrections": {
            name: volume.provenance.value(name)
            if volume.provenance.fields.get(name, _UNKNOWN).source == "override"
            else None
            for name in ("subject_type", "subject_position")
        },
        "files": [
            {
                "path": relative(path, record.path),
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in volume.provenance.files
        ],
        "intensity": asdict(intensity),
        "fields": {name: asdict(item) for name, item in volume.provenance.fields.items()},
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in (
        "srmri",
        "numpy",
        "scipy",
        "nibabel",
        "brukerapi",
        "SimpleITK",
        "scikit-learn",
        "numba",
        "torch",
        "lpips",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _write_aligned(run: Path, plan: PairingPlan, stacks: _Stacks) -> None:
    """Write HR on LR's planes: what a network can be trained on, also when tilted."""
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_data.register import aligned_grid, reslice

    affine, shape = aligned_grid(plan.low_frame, plan.high_frame, plan.low_window)
    to_high = np.linalg.inv(plan.high_frame.affine) @ affine
    values, valid = reslice(stacks.high_slices, to_high, shape)
    # NIfTI's own axis order: columns first, slices last.
    to_nifti = affine @ np.eye(4)[[2, 1, 0, 3]]
    stored, slope, intercept = _sixteen_bit(values)
    del values
    write_nifti(run / "hr_aligned.nii.gz", stored.T, to_nifti, slope=slope, intercept=intercept)
    write_nifti(run / "hr_aligned_mask.nii.gz", valid.astype(np.uint8).T, to_nifti)


def _sixteen_bit(values: NDArray[np.float32]) -> tuple[NDArray[np.uint16], float, float]:
    """Quantise to the full 16-bit range; scanner units are stored * slope + intercept."""
    low, high = float(values.min()), float(values.max())
    slope = (high - low) / 65535 or 1.0
    return np.rint((values - low) / slope).astype(np.uint16), slope, low


def _report(
    run: Path,
    plan: PairingPlan,
    stacks: _Stacks,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    from srmri_data.reports import ReportInputs, write_report

    rows, cols = (slice(*window) for window in (plan.high_window.rows, plan.high_window.cols))

    def high_res_slice(number: int) -> NDArray[np.float32]:
        return stacks.high_intensity.apply(stacks.high_slices[number, rows, cols])

    _, row_spacing, col_spacing = plan.low_frame.spacing
    write_report(
        run,
        ReportInputs(
            # Without the time it took, which would make two drawings of one run differ.
            summary={
                **{key: value for key, value in summary.items() if key != "seconds"},
                "versions": provenance["versions"],
                "command": provenance["command"],
            },
            pairs=read_pairs(run),
            votes=read_votes(run),
            low_res=stacks.low_images,
            high_res_slice=high_res_slice,
            slice_spacing_um=(plan.low_frame.spacing[0] * 1000, plan.high_frame.spacing[0] * 1000),
            pixel_aspect=row_spacing / col_spacing,
            seed=plan.config.seed,
        ),
    )


def redraw_report(
    run: Path, *, sources: Path | None = None, progress: Progress | None = None
) -> Path:
    """Draw the report of a finished run again.

    Parameters
    ----------
    run : Path
        Run folder.
    sources : Path, optional
        Folder that holds the scans now, when they have moved.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Path
        ``index.html``.

    Raises
    ------
    MissingInputError, ChecksumError, FormatError
        If the run or its scans can not be read as they were.
    """
    opened = open_run(run)
    requests = []
    for role in ("lr", "hr"):
        entry = opened.provenance["sources"][role]
        requests.append(
            ScanRequest(
                opened.source_path(role, sources),
                entry["scan"],
                entry["reco"],
                entry["package"],
                entry["frame"],
                **entry["corrections"],
            )
        )
    config = opened.provenance["config"]
    plan = plan_pairing(
        *find_scans(*requests),
        PairingConfig(
            method=config["method"],
            plane=config["plane"],
            trim=Trim.parse(config["trim"]),
            voters=tuple(config["voters"]),
            allow_subject_mismatch=config["allow_subject_mismatch"],
            seed=config["seed"],
        ),
    )
    step = progress or (lambda *_: None)
    stacks = _Stacks.read(plan, step)
    _report(run, plan, stacks, opened.summary, opened.provenance)
    return run / "index.html"

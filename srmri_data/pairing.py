"""`run_pairing`: the one place that strings reading, slicing, voting and reporting together."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srmri_data import ingest
from srmri_data.consensus import Decision, Evidence, geometry_vote, paper_vote, vote_table
from srmri_data.errors import FormatError, RegistrationError
from srmri_data.geometry import apply_affine
from srmri_data.ingest import ScanRecord
from srmri_data.intensity import content_box
from srmri_data.planning import (
    VOTER_NAMES,
    Check,
    Comparison,
    PairingConfig,
    PairingPlan,
    ScanRequest,
    find_scans,
    plan_pairing,
)
from srmri_data.run_folder import (
    PAIRS_DTYPES,
    SCHEMA_VERSION,
    Run,
    check_destination,
    new_run,
    open_run,
    read_certificate,
    read_pairs,
    read_votes,
    with_review_columns,
    write_pairs,
    write_votes,
)
from srmri_data.safe_io import sha256_file, write_json
from srmri_data.slices import (
    IntensityMap,
    Trim,
    Window,
    copied_slices,
    intensity_map,
    reference_points,
    resize_to_low_res,
)
from srmri_data.types import Affine, Band, DistanceMatrix, HighResStack, LowResStack
from srmri_data.volumes import Sourced, Volume
from srmri_data.voters import trunk_source, voter_settings

if TYPE_CHECKING:
    import pandas as pd

    from srmri_data.matched import PlaneGeometry
    from srmri_data.rigid import Registration
    from srmri_data.simulate import Truth

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

_UNKNOWN = Sourced(None, "not in the header")
_EXACT = 0.5 + 1e-6
_BLUNDER = 3.0
WRONG = 1.0
"""HR slices; a pair that is further off is wrong."""

# Voters look this many LR slices, and at least this many HR slices, to either side of the place
# that the registration names.
_REACH_LOW, _REACH_HIGH = 3, 6
# Images are not cut to fewer pixels a side than LPIPS can look at.
_LEAST_SIDE = 32
# Below these the registration is not believed. Other mice of the same study reached a quality of
# 0.72 at most, the same animal 0.83 at least, with a third of it in LR (docs/decisions/0006).
_LEAST_QUALITY = 0.8
_LEAST_MARGIN = 0.004


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
    stacks = Stacks.read(plan, step)
    result = pair_stacks(plan, stacks, truth=truth, progress=step)
    alignment, pairs = result.alignment, result.pairs
    to_world = np.eye(4) if alignment is None else alignment.registration.matrix
    with new_run(out, force=force) as run:
        step("writing HR on LR's planes", 0, 1)
        _write_aligned(run, plan, stacks, to_world)
        if alignment is not None and alignment.registration.n_starts:
            from srmri_data.rigid import write_transform

            write_transform(run / "transform.tfm", alignment.registration)
        step("writing HR on LR's planes", 1, 1)
        settings = voter_settings(
            plan.config.voters,
            n_images=plan.low_window.shape[0] + plan.high_window.shape[0],
            n_components=plan.config.pca_components,
            trunk=plan.config.lpips_trunk,
        )
        write_pairs(run, pairs)
        numbers = plan.high_window.slice_numbers
        write_votes(run, vote_table(result.distances, plan.low_window.slice_numbers, numbers))
        plan_facts = plan.describe()
        plan_facts["checks"].append(asdict(_check_contrast(stacks.contrast)))
        if alignment is not None:
            plan_facts["checks"] += [asdict(check) for check in alignment.checks]
            plan_facts["geometry"] = {
                "slope": alignment.geometry.slope,
                "offset": alignment.geometry.offset,
                **_voted_line(result.distances, numbers, alignment),
            }
            plan_facts["registration"] = {
                **alignment.registration.describe(),
                "objections": list(alignment.evidence.objections),
            }
        summary = {
            "schema_version": SCHEMA_VERSION,
            "run": out.name,
            **plan_facts,
            **_counts(pairs),
            "decisions_sha256": decisions_sha256(pairs),
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


@dataclass(frozen=True, eq=False)
class Paired:
    """What `pair_stacks` found.

    Parameters
    ----------
    pairs : DataFrame
        One row per LR slice, the columns of ``pairs.parquet``.
    distances : mapping of str to (n_lr, n_hr) ndarray
        Per voter; NaN where not compared.
    alignment : Alignment or None
        None in ``--method paper``.
    features : (n_lr, feature) ndarray or None
        What the confidence was computed from; None in ``--method paper``.
    """

    pairs: pd.DataFrame
    distances: Mapping[str, DistanceMatrix]
    alignment: Alignment | None
    features: NDArray[np.float64] | None


def pair_stacks(
    plan: Comparison,
    stacks: Stacks,
    *,
    truth: Truth | None = None,
    progress: Progress | None = None,
) -> Paired:
    """Decide the pairs of two stacks, without reading or writing anything but weights.

    Parameters
    ----------
    plan : Comparison
        What to compare, and how.
    stacks : Stacks
        From `Stacks.read` or `Stacks.of`.
    truth : Truth, optional
        Known LR-to-HR map; fills in the errors.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Paired
        The pairs and what led to them.
    """
    step = progress or (lambda *_: None)
    alignment = None
    if plan.config.method == "geometry":
        alignment, stacks = _align(plan, stacks, step)
    distances = _vote(plan, stacks, None if alignment is None else alignment.band, step)
    numbers = plan.high_window.slice_numbers
    if alignment is None:
        decisions = paper_vote(distances, numbers)
    else:
        decisions = geometry_vote(
            distances,
            numbers,
            alignment.evidence,
            tolerance=plan.config.tolerance,
            follow_path="path" not in plan.config.skip,
        )
    pairs = _pairs_table(plan, stacks, decisions, alignment, truth)
    features = [d.features for d in decisions if d.features is not None]
    return Paired(pairs, distances, alignment, np.array(features) if features else None)


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
class Stacks:
    """The slices that are compared, and the volumes they were cut from.

    Parameters
    ----------
    low, high : Volume
        Scanner units.
    low_slices, high_slices : (slice, row, col) ndarray
        Views of whole volumes in the order of the plan's stack frames.
    low_intensity, high_intensity : IntensityMap
        Scanner units to [0, 1].
    low_images : (n_lr, row, col) ndarray
        The LR window in [0, 1].
    high_images : (n_hr, row, col) ndarray
        The HR candidates at LR's pixels, in [0, 1].
    reference : (n_lr, 2) ndarray
        Row and column of each LR slice's reference point, in the full frame.
    empty : (n_lr,) ndarray of bool
        Near-empty LR slices.
    copies : (n_lr,) ndarray of int
        Row of an LR slice with the same voxels, or -1.
    contrast : float
        Median correlation of LR with HR where the affines put it.
    """

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
    copies: NDArray[np.int64]
    contrast: float

    @classmethod
    def read(cls, plan: PairingPlan, step: Progress) -> Stacks:
        """Read both volumes and cut the slices.

        Parameters
        ----------
        plan : PairingPlan
            What to compare.
        step : callable
            Called as ``step(stage, done, total)``.

        Returns
        -------
        Stacks
            Everything the voters and the report look at.
        """
        step("reading", 0, 2)
        low = ingest.load(plan.low, frame=plan.low_selection)
        step("reading", 1, 2)
        high = ingest.load(plan.high, frame=plan.high_selection)
        step("reading", 2, 2)
        return cls.of(plan, low, high, step)

    @classmethod
    def of(cls, plan: Comparison, low: Volume, high: Volume, step: Progress) -> Stacks:
        """Cut the slices of two volumes.

        Parameters
        ----------
        plan : Comparison
            What to compare.
        low, high : Volume
            Both volumes in scanner units.
        step : callable
            Called as ``step(stage, done, total)``.

        Returns
        -------
        Stacks
            Everything the voters look at.
        """
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
            copies=copied_slices(cropped),
            contrast=_contrast(plan, low_images, high_images, empty),
        )


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the registration relates the stacks, and what the voters are to look at.

    Parameters
    ----------
    registration : Registration
        What was found; the headers' own relation when nothing was.
    geometry : PlaneGeometry
        The same in slice numbers.
    band : (n_lr, 2) ndarray of int
        Half-open range of candidates, as columns, for each LR slice.
    similarity : (n_lr,) ndarray
        Correlation of each LR slice with HR at its place; NaN where there is none.
    evidence : Evidence
        What the decision is taken from beside the votes.
    checks : tuple of Check
        What was found on the way.
    """

    registration: Registration
    geometry: PlaneGeometry
    band: Band
    similarity: NDArray[np.float64]
    evidence: Evidence
    checks: tuple[Check, ...]


def _align(plan: Comparison, stacks: Stacks, step: Progress) -> tuple[Alignment, Stacks]:
    """Register, and give the voters slices on the same planes at the same resolution."""
    from srmri_data.matched import (
        PlaneGeometry,
        even_gain,
        like_low_res,
        matched_slices,
        similarity,
    )
    from srmri_data.rigid import Registration, RegistrationConfig, register_rigid

    config, skip = plan.config, plan.config.skip
    objections: list[str] = []
    middle = apply_affine(plan.low_frame.affine, (np.array(plan.low_frame.shape) - 1) / 2)
    registration = Registration.of_headers(middle)
    if "register" not in skip:
        try:
            registration = register_rigid(
                stacks.low_slices,
                plan.low_frame.affine,
                stacks.high_slices,
                plan.high_frame.affine,
                RegistrationConfig(config.metric, config.window_mm, config.n_starts, config.seed),
                progress=lambda done, total: step("registering", done, total),
            )
            objections = registration_objections(registration)
        except RegistrationError as failure:
            objections = [f"the registration failed: {failure.message}"]
    geometry = PlaneGeometry.of(
        registration.matrix, plan.low_frame, plan.high_frame, plan.low_window
    )
    if geometry.slope <= 0.2 * plan.voxel_ratio[0]:
        # Slices of LR cut across those of HR: numbers of slices can not correspond.
        objections.append("LR's slices do not run along HR's")
        registration = Registration.of_headers(middle)
        geometry = PlaneGeometry.of(np.eye(4), plan.low_frame, plan.high_frame, plan.low_window)
    numbers, first = plan.low_window.slice_numbers, plan.high_window.slices[0]
    centre = geometry.at(numbers)
    n_high = plan.high_window.shape[0]
    nearest = np.rint(centre).astype(np.intp) - first
    nearest[(nearest < 0) | (nearest >= n_high)] = -1
    # Padding is not compared: it would have its part in every voter's distances.
    window, pixels = _without_padding(plan.low_window, stacks.low_slices)
    low_images, high_images = stacks.low_images[pixels], stacks.high_images[pixels]
    if "match" not in skip:
        images = matched_slices(
            stacks.high_slices,
            geometry,
            plan.low_frame,
            plan.high_frame,
            window,
            plan.high_window.slices,
            progress=lambda done, total: step("matching HR to LR", done, total),
        )
        high_images = like_low_res(images, stacks.high_intensity, low_images, nearest)
    if "gain" not in skip:
        low_images = even_gain(low_images, high_images, nearest)
    reach = max(_REACH_HIGH, int(np.ceil(_REACH_LOW * geometry.slope)))
    band = np.stack(
        [
            np.clip(np.ceil(centre - reach) - first, 0, n_high),
            np.clip(np.floor(centre + reach) + 1 - first, 0, n_high),
        ],
        axis=1,
    ).astype(np.int64)
    # A slice whose own place is outside has nothing to be compared with.
    band[nearest < 0] = 0
    points = apply_affine(plan.low_frame.affine, np.column_stack([numbers, stacks.reference]))
    error = registration.position_error(points, np.linalg.inv(plan.high_frame.affine))
    evidence = Evidence(
        centre=centre,
        position=geometry.at_points(numbers, stacks.reference),
        position_error=np.nan_to_num(error, nan=0.0),
        slope=geometry.slope,
        quality=registration.quality if registration.n_starts else 1.0,
        orientation_margin=registration.margin,
        objections=tuple(objections),
    )
    checks = _registration_checks(registration, objections)
    return (
        Alignment(
            registration,
            geometry,
            band,
            similarity(low_images, high_images, nearest),
            evidence,
            checks,
        ),
        replace(stacks, low_images=low_images, high_images=high_images),
    )


def _without_padding(
    window: Window, slices: NDArray[Any]
) -> tuple[Window, tuple[slice, slice, slice]]:
    """Return a window without constant borders, and where it lies in the images of the old one."""
    _, *box = content_box(slices[window.index])
    sides, within = [], [slice(None)]
    for (start, stop), content in zip((window.rows, window.cols), box, strict=True):
        if content.stop - content.start < min(_LEAST_SIDE, stop - start):
            content = slice(0, stop - start)
        sides.append((start + content.start, start + content.stop))
        within.append(content)
    whole, rows, cols = within
    return Window(window.slices, *sides), (whole, rows, cols)


def registration_objections(registration: Registration) -> list[str]:
    """Return reasons not to believe a registration as a whole.

    Parameters
    ----------
    registration : Registration
        What was found.

    Returns
    -------
    list of str
        In words; none when it is to be believed.
    """
    found = []
    doubted = registration.doubted
    if doubted is not None:
        found.append(
            f"HR fits LR better with its axes {doubted} (correlation {doubted.score:.2f} "
            f"instead of {doubted.score + registration.margin:.2f}): a header is wrong about "
            "the orientation, or the image is mirrored"
        )
    elif registration.margin < _LEAST_MARGIN:
        found.append(
            f"HR fits LR as well with its axes {registration.orientations[1]}, so the "
            "orientation is not certain"
        )
    if registration.place_margin < _LEAST_MARGIN:
        found.append(
            f"HR fits LR as well {registration.elsewhere_um:.0f} µm away (correlation less by "
            f"{registration.place_margin:.3f}), so the place is not certain"
        )
    if len(registration.replicates) < registration.n_parts:
        found.append(
            f"of {registration.n_parts} parts of the animal only {len(registration.replicates)} "
            "could be registered on their own, so the uncertainty is not known"
        )
    if registration.quality < _LEAST_QUALITY:
        found.append(
            f"LR and HR match less than two scans of one animal should "
            f"(quality {registration.quality:.2f}, expected {_LEAST_QUALITY} or more)"
        )
    return found


def _registration_checks(
    registration: Registration, objections: Sequence[str]
) -> tuple[Check, ...]:
    checks = [Check("registration", "warning", text) for text in objections]
    if not registration.n_starts:
        return (*checks, Check("registration", "warning", "none; the affines are believed"))
    turn = max(registration.angles_deg, key=abs)
    far = float(np.linalg.norm(registration.shift_um))
    text = (
        f"the animal moved {far:.0f} µm and turned {abs(turn):.1f}°; correlation "
        f"{registration.score:.2f} where noise allows {registration.ceiling:.2f}; "
        f"{registration.n_agreeing} of {registration.n_starts} starts agree within "
        f"{registration.spread_um:.0f} µm"
    )
    if not objections:
        checks.append(Check("registration", "ok", text))
    else:
        checks.append(Check("registration details", "warning", text))
    if registration.is_scaled:
        stretch = ", ".join(f"{100 * (value - 1):+.1f} %" for value in registration.scale)
        checks.append(
            Check("scale", "warning", f"LR and HR differ in scale ({stretch}); positions follow it")
        )
    return tuple(checks)


def _voted_line(
    distances: Mapping[str, DistanceMatrix],
    numbers: NDArray[np.int32],
    alignment: Alignment,
) -> dict[str, float | None]:
    """Offset and slope of *j = r i + b* by the votes alone; the free slope is a diagnostic."""
    shown = alignment.band[:, 1] > alignment.band[:, 0]
    if shown.sum() < 3:
        return {"voted_offset": None, "voted_slope": None}
    votes = np.median(
        [numbers[np.nan_to_num(d[shown], nan=np.inf).argmin(axis=1)] for d in distances.values()],
        axis=0,
    )
    apart = votes - alignment.evidence.centre[shown]
    line = np.polynomial.Polynomial.fit(alignment.evidence.centre[shown], votes, 1).convert()
    return {
        "voted_offset": float(alignment.geometry.offset + np.mean(apart)),
        "voted_slope": float(alignment.geometry.slope * line.coef[1]),
    }


def decisions_sha256(pairs: pd.DataFrame) -> str:
    """Return the hash of what was decided: slices, positions to 1e-3 slice, status.

    Parameters
    ----------
    pairs : DataFrame
        Pairs.

    Returns
    -------
    str
        64 hexadecimal digits, the same for the same decisions whatever the raw scores.
    """
    lines = [
        f"{row.lr_slice} {row.auto_hr_slice} {row.auto_hr_position:.3f} {row.auto_status}\n"
        for row in pairs.sort_values("lr_slice").itertuples()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _contrast(
    plan: Comparison, low: LowResStack, high: HighResStack, empty: NDArray[np.bool_]
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


def _vote(
    plan: Comparison, stacks: Stacks, band: Band | None, step: Progress
) -> dict[str, DistanceMatrix]:
    from srmri_data import voters
    from srmri_data.matched import enlarged

    config, low, high = plan.config, stacks.low_images, stacks.high_images
    distances: dict[str, DistanceMatrix] = {}
    for name in config.voters:
        # The numbers of finished slices are the voter's own; the stage is known here.
        def advance(done: int, total: int, stage: str = f"voting: {name}") -> None:
            step(stage, done, total)

        advance(0, 1)
        if name == "pca":
            distances[name] = voters.pca_distances(
                low, high, band=band, n_components=config.pca_components
            )
        elif name == "lpips":
            # The paper compares at LR's size; at HR's, and equally blurred, LPIPS errs far less.
            frames = (plan.low_frame, plan.high_frame)
            size = (
                (low, high) if band is None else (enlarged(low, *frames), enlarged(high, *frames))
            )
            distances[name] = voters.lpips_distances(
                *size, band=band, trunk=config.lpips_trunk, progress=advance
            )
        else:
            distances[name] = voters.ssim_distances(low, high, band=band)
        advance(1, 1)
    return distances


def _positions(plan: Comparison, reference: NDArray[np.float64], to_high: Affine) -> Any:
    """HR slice coordinate of each LR slice's reference point under a map."""
    points = np.column_stack([plan.low_window.slice_numbers, reference])
    return apply_affine(to_high, points)[:, 0]


def _pairs_table(
    plan: Comparison,
    stacks: Stacks,
    decisions: Sequence[Decision],
    alignment: Alignment | None,
    truth: Truth | None,
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
    # Of equal slices one at most is where it belongs.
    table["confidence"] = np.where(
        stacks.copies < 0, table["confidence"], np.minimum(table["confidence"], 0.5)
    )
    table["method"] = plan.config.method
    doubts = [
        f"near-empty slice; {decision.reason}" if is_empty
        else f"same voxels as LR slice {table['lr_slice'][copy]}; {decision.reason}" if copy >= 0
        else None
        for decision, is_empty, copy in zip(decisions, empty, stacks.copies, strict=True)
    ]  # fmt: skip
    table["status"] = ["review" if d else k.status for d, k in zip(doubts, decisions, strict=True)]
    table["reason"] = [d or k.reason for d, k in zip(doubts, decisions, strict=True)]
    table["empty"] = empty
    if alignment is not None:
        evidence = alignment.evidence
        table["geom_position"] = evidence.position
        if alignment.registration.n_starts:
            table["position_error"] = evidence.position_error
        table["similarity"] = pd.array(alignment.similarity, dtype="Float64")
        table["path_slice"] = pd.array([d.path_slice for d in decisions], dtype="Int32")
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
    return with_review_columns(pd.DataFrame(table)).astype(PAIRS_DTYPES)


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
        "wrongly_accepted": int((accepted & (error > WRONG)).sum()),
    }


def _check_contrast(correlation: float) -> Check:
    text = f"median correlation {correlation:.2f} of LR with HR where the affines put it"
    if np.isnan(correlation):
        return Check("contrast", "warning", "no LR slice has an HR slice at its place to compare")
    if correlation < 0.3:
        return Check("contrast", "warning", text + "; another contrast, or the animal moved far")
    return Check("contrast", "ok", text)


def _provenance(
    plan: PairingPlan,
    stacks: Stacks,
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
        "versions": versions(),
    }


def _source(
    record: ScanRecord,
    selection: Mapping[str, int],
    volume: Volume,
    intensity: IntensityMap,
    out: Path,
) -> dict[str, Any]:
    return {
        **describe_source(record, selection, volume, out),
        "corrections": {
            name: volume.provenance.value(name)
            if volume.provenance.fields.get(name, _UNKNOWN).source == "override"
            else None
            for name in ("subject_type", "subject_position")
        },
        "intensity": asdict(intensity),
        "fields": {name: asdict(item) for name, item in volume.provenance.fields.items()},
    }


def describe_source(
    record: ScanRecord, selection: Mapping[str, int], volume: Volume, out: Path
) -> dict[str, Any]:
    """Return which scan a volume was read from, with the SHA-256 of its files.

    Parameters
    ----------
    record : ScanRecord
        The scan.
    selection : mapping of str to int
        Frame of each frame group, 1-based.
    volume : Volume
        What was read.
    out : Path
        Folder that the paths are relative to: a project folder can be moved as a whole.

    Returns
    -------
    dict
        JSON-able values.
    """

    def relative(path: Path, to: Path) -> str:
        return Path(os.path.relpath(path.resolve(), to.resolve())).as_posix()

    return {
        "path": relative(record.path, out),
        "scan": record.scan,
        "reco": record.reco,
        "package": record.package,
        "frame": dict(selection),
        "files": [
            {
                "path": relative(path, record.path),
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in volume.provenance.files
        ],
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that has a part in the figures.

    Returns
    -------
    dict
        By name, of those that are installed.
    """
    found = {"python": platform.python_version()}
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
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_aligned(run: Path, plan: PairingPlan, stacks: Stacks, to_world: Affine) -> None:
    """Write HR on LR's planes: what a network can be trained on, also when tilted."""
    from srmri_data.formats.nifti_writer import write_nifti
    from srmri_data.register import aligned_grid, reslice

    affine, shape = aligned_grid(plan.low_frame, plan.high_frame, plan.low_window)
    to_high = np.linalg.inv(plan.high_frame.affine) @ to_world @ affine
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
    stacks: Stacks,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    from srmri_data.matched import PlaneGeometry
    from srmri_data.reports import ReportInputs, partner_images, plane_views, write_report

    pairs = read_pairs(run)
    registration = summary.get("registration")
    matrix = None if registration is None else np.array(registration["matrix"])
    low_frame, high_frame, window = plan.low_frame, plan.high_frame, plan.low_window
    geometry = PlaneGeometry.of(
        np.eye(4) if matrix is None else matrix, low_frame, high_frame, window
    )

    def partner(row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pair = pairs.iloc[row]
        if registration is None:
            rows, cols = (slice(*span) for span in (plan.high_window.rows, plan.high_window.cols))
            sharp = stacks.high_slices[int(pair["hr_slice"]), rows, cols]
            matched = stacks.high_images[int(pair["hr_slice"]) - plan.high_window.slices[0]]
            return stacks.high_intensity.apply(sharp), matched
        # Positions are those of the reference point; planes are named where they cross the middle.
        tilt = pair["geom_position"] - geometry.at(np.array([pair["lr_slice"]]))[0]
        return partner_images(
            stacks.high_slices,
            stacks.high_intensity,
            geometry,
            low_frame,
            high_frame,
            window,
            float(pair["hr_position"] - tilt),
        )

    _, row_spacing, col_spacing = low_frame.spacing
    write_report(
        run,
        ReportInputs(
            # Without the time it took, which would make two drawings of one run differ.
            summary={
                **{key: value for key, value in summary.items() if key != "seconds"},
                "config": provenance["config"],
                "versions": provenance["versions"],
                "command": provenance["command"],
            },
            pairs=pairs,
            votes=read_votes(run),
            # As scanned: evening out LR's gain is for the voters.
            low_res=stacks.low_intensity.apply(stacks.low_slices[window.index]),
            partner=partner,
            slice_spacing_um=(low_frame.spacing[0] * 1000, high_frame.spacing[0] * 1000),
            pixel_aspect=row_spacing / col_spacing,
            seed=plan.config.seed,
            planes=plane_views(
                stacks.low_slices,
                low_frame.affine,
                stacks.low_intensity,
                stacks.high_slices,
                high_frame.affine,
                stacks.high_intensity,
                matrix if registration is not None and registration["n_starts"] else None,
            ),
            certificate=read_certificate(run),
        ),
    )


def plan_of_run(opened: Run, sources: Path | None = None) -> PairingPlan:
    """Plan a finished run again, from its provenance.

    Parameters
    ----------
    opened : Run
        From `open_run`.
    sources : Path, optional
        Folder that holds the scans now, when they have moved.

    Returns
    -------
    PairingPlan
        The same windows of the same scans; their SHA-256 was checked.

    Raises
    ------
    MissingInputError
        If a scan is not there.
    ChecksumError
        If its content has changed.
    """
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
    config = dict(opened.provenance["config"])
    trunk = config.get("lpips_trunk")
    config |= {
        "trim": Trim.parse(config["trim"]),
        "voters": tuple(config["voters"]),
        "skip": tuple(config.get("skip", ())),
        "lpips_trunk": None if trunk is None else Path(trunk),
    }
    # Runs made before a setting existed were made with its default.
    return plan_pairing(*find_scans(*requests), PairingConfig(**config))


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
    MissingInputError
        If it is not a run folder, or a scan is not there.
    ChecksumError
        If a scan's content has changed.
    FormatError
        If the run was written by a version this one does not understand.
    """
    opened = open_run(run)
    plan = plan_of_run(opened, sources)
    stacks = Stacks.read(plan, progress or (lambda *_: None))
    _report(run, plan, stacks, opened.summary, opened.provenance)
    return run / "index.html"

"""`srmri certify`: how accurate pairing is on scans like the user's own.

LR scans with known truth are simulated from the user's own HR volume, with the motion and the noise
that are found in the user's own pair, and paired as `srmri pair` would pair them. The outcome is
``certificate.json`` (``docs/certificate.md``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from srmri_data import ingest
from srmri_data.choices import Method
from srmri_data.errors import InputError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.intensity import foreground_threshold
from srmri_data.pairing import (
    WRONG,
    Progress,
    Stacks,
    accuracy,
    describe_source,
    pair_stacks,
    plan_of_run,
    redraw_report,
    registration_objections,
    versions,
)
from srmri_data.planning import Comparison, PairingPlan
from srmri_data.rigid import Registration, RegistrationConfig, register_rigid
from srmri_data.run_folder import open_run
from srmri_data.safe_io import write_json
from srmri_data.simulate import SimulationConfig, Truth, simulate_low_res, voxels_sha256
from srmri_data.types import Affine, VoxelArray
from srmri_data.volumes import Volume
from srmri_data.voters import trunk_source

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
"""Layout of ``certificate.json``."""

FILE_NAME = "certificate.json"

_N_BINS = 10
# Fewer were scanned slice by slice, which k-space along them does not describe.
_FEW_SLICES = 16
# Quartiles of the magnitude of pure noise are 2.2 apart; air that is not like that was masked,
# smoothed, or is full of ringing.
_AIR_LEAST, _AIR_MOST = 1.7, 2.8
# Median absolute value of a normal distribution.
_NORMAL = 0.6745
# With less noise than this nothing changes any more.
_MOST_SNR = 200.0
# A factor of 1.998 is 2 with the rounding of a header.
_RATIO_ERROR = 0.005
# The scanner follows an animal that lies further away than this share of the field of view.
_FOLLOWED = 0.1
# An axis along which LR covers this share of HR counts as covered.
_COVERED = 0.9


@dataclass(frozen=True)
class Case:
    """How a simulated scan differs from what the pair suggests.

    Parameters
    ----------
    name : str
        For programs.
    title : str
        For people.
    motion : float
        Size of the motion relative to the pair's.
    signal : float
        SNR relative to LR's.
    """

    name: str
    title: str
    motion: float = 1.0
    signal: float = 1.0


CASES = (
    Case("as-yours", "as yours"),
    Case("twice-motion", "twice the motion", motion=2.0),
    Case("half-signal", "half the signal", signal=0.5),
)
"""What a certificate is about."""


@dataclass(frozen=True)
class Noise:
    """Noise of a magnitude image.

    Parameters
    ----------
    sigma : float
        Standard deviation in each of the two channels, scanner units.
    snr : float
        Mean of the foreground over `sigma`, at most 200.
    source : {"air", "detail"}
        The air around the animal, or the finest detail inside it: where the air was masked, or
        shows more than noise.
    """

    sigma: float
    snr: float
    source: Literal["air", "detail"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """What the pair says about how it was made.

    Parameters
    ----------
    registration : Registration
        Where LR's anatomy lies in HR.
    noise : Noise
        Of LR.
    notes : tuple of str
        Why not to rely on it.
    """

    registration: Registration
    noise: Noise
    notes: tuple[str, ...]


def estimate_noise(data: VoxelArray) -> Noise:
    """Estimate the noise of a magnitude image from a single scan.

    Parameters
    ----------
    data : (i, j, k) ndarray
        Scanner units.

    Returns
    -------
    Noise
        Standard deviation and SNR.

    Raises
    ------
    InputError
        If there is no foreground.

    Notes
    -----
    In air the magnitude has a Rayleigh distribution, whose median is σ √(2 ln 2). In the
    foreground third-order differences, one along each axis, leave the noise and little else; their
    median absolute value estimates σ. Ghosts in the air and anatomy in the differences add to the
    noise, never take from it, so the smaller of the two is nearer to the truth.

    References
    ----------
    .. [1] H. Gudbjartsson, S. Patz, "The Rician distribution of noisy MRI data", Magn. Reson. Med.
       34 (1995) 910-914.
    """
    threshold = foreground_threshold(data)
    inside = data > threshold
    if not inside.any():
        raise InputError(
            "LR shows no animal against its background, so its noise has no scale",
            hint="look at it with `srmri inspect`",
        )
    mean = float(data[inside].mean(dtype=np.float64))
    detail = np.asarray(data, dtype=np.float32)
    for axis in range(3):
        if detail.shape[axis] > 1:
            detail = np.diff(detail, axis=axis) / np.float32(np.sqrt(2))
    # A difference is about the tissue when its last voxel is; the edges are few.
    there = inside[tuple(slice(-n, None) for n in detail.shape)]
    sigma = float(np.median(np.abs(detail[there]))) / _NORMAL if there.any() else np.inf
    source: Literal["air", "detail"] = "detail"
    lower, middle, upper = np.percentile(data[~inside], (25, 50, 75))
    if lower > 0 and _AIR_LEAST < upper / lower < _AIR_MOST:
        in_air = float(middle) / np.sqrt(2 * np.log(2))
        if in_air < sigma:
            source, sigma = "air", in_air
    sigma = max(float(sigma), mean / _MOST_SNR)
    return Noise(sigma, mean / sigma, source)


def certify(
    plan: PairingPlan,
    folder: Path,
    *,
    n_runs: int = 3,
    seed: int = 0,
    cases: Sequence[Case] = CASES,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure how accurately pairs like this one are found; write nothing.

    Parameters
    ----------
    plan : PairingPlan
        The user's own pair.
    folder : Path
        Where the certificate will be; paths in it are relative to this.
    n_runs : int
        Simulated scans for each case.
    seed : int
        Seed of the directions of the motion, and of the noise.
    cases : sequence of Case
        What to simulate.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    clock : callable
        Seconds; measures ``seconds``.

    Returns
    -------
    dict
        ``certificate.json``; for one seed the same but for ``seconds``.

    Raises
    ------
    UsageError
        If there is nothing to run.
    RegistrationError
        If the two scans can not be aligned, so that the motion is not known.
    InputError
        If a scan shows nothing.
    """
    if n_runs < 1 or seed < 0:
        raise UsageError(
            f"a certificate needs at least one run and a seed of at least 0; found {n_runs} "
            f"runs, seed {seed}"
        )
    started = clock()
    step = progress or (lambda *_: None)
    if "lpips" in plan.config.voters:
        # Weights of the wrong kind are found before minutes of work, not after.
        trunk_source(plan.config.lpips_trunk)
    step("reading", 0, 2)
    high = ingest.load(plan.high, frame=plan.high_selection).scaled()
    step("reading", 1, 2)
    low = ingest.load(plan.low, frame=plan.low_selection).scaled()
    step("reading", 2, 2)
    found = _estimate(plan, low, high, step)
    simulator = _Simulator(plan, found, high)
    tables: dict[tuple[str, Method], list[pd.DataFrame]] = {}
    notes = list(found.notes)
    if (count := plan.high_frame.shape[0]) < _FEW_SLICES:
        notes.append(
            f"HR has {count} slices: moving so few, thick slices in the simulation leaves errors "
            "that a scanner does not make; your pair may be better than this says"
        )
    done, total = 0, len(cases) * n_runs * len(get_args(Method))
    stage = "simulating, pairing"
    step(stage, done, total)
    for case in cases:
        for run in range(n_runs):
            made, truth = simulator.scan(case, seed, run)
            comparison = Comparison.of(made, high, plan.config)
            stacks = Stacks.of(comparison, made, high, lambda *_: None)
            for method in get_args(Method):
                try:
                    pairs = _paired(comparison, stacks, truth, method)
                except InputError as error:
                    # The paper's voters can need larger slices than the aligned ones.
                    if method == "geometry":
                        raise
                    text = f"the paper's vote is left out: {error.message}"
                    notes += [text] if text not in notes else []
                else:
                    tables.setdefault((case.name, method), []).append(pairs)
                done += 1
                step(stage, done, total)
    spacing_um = 1000 * plan.high_frame.spacing[0]
    entries = [
        _figures(case, method, tables[case.name, method], spacing_um)
        for case in cases
        for method in get_args(Method)
        if (case.name, method) in tables
    ]
    aligned = [
        table for (_, method), some in tables.items() if method == "geometry" for table in some
    ]
    bins, ece = reliability(*_confidence(aligned))
    return {
        "schema_version": SCHEMA_VERSION,
        "cases": entries,
        "reliability": bins,
        "ece": ece,
        "noise_sigma": found.noise.sigma,
        "noise_source": found.noise.source,
        "snr": found.noise.snr,
        "motion": {
            "shift_um": list(found.registration.shift_um),
            "tilt_deg": list(found.registration.angles_deg),
        },
        "factor": list(simulator.factor),
        "notes": notes,
        "plane": plan.config.plane,
        "voters": list(plan.config.voters),
        "tolerance": plan.config.tolerance,
        "seed": seed,
        "n_runs": n_runs,
        "simulated_from": {
            **describe_source(plan.high, plan.high_selection, high, folder),
            "sha256": voxels_sha256(high.data),
        },
        "estimated_from": describe_source(plan.low, plan.low_selection, low, folder),
        "seconds": round(clock() - started, 2),
        "versions": versions(),
    }


def certify_pair(
    plan: PairingPlan, out: Path, *, force: bool = False, **options: Any
) -> dict[str, Any]:
    """Write the certificate of two scans into a folder of its own.

    Parameters
    ----------
    plan : PairingPlan
        The user's own pair.
    out : Path
        Folder to create.
    force : bool
        Replace an earlier certificate in it.
    **options : dict
        ``n_runs``, ``seed``, ``cases``, ``progress`` and ``clock`` of `certify`.

    Returns
    -------
    dict
        ``certificate.json``.

    Raises
    ------
    UsageError
        If a certificate is there and `force` is not given, or `out` is not a folder.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, expected a folder", hint="choose another --out")
    if (out / "summary.json").exists():
        raise UsageError(f"{out} is a run folder", hint=f"for its certificate: srmri certify {out}")
    if (out / FILE_NAME).exists() and not force:
        raise UsageError(
            f"{out / FILE_NAME} exists already", hint="choose another --out, or add --force"
        )
    certificate = certify(plan, out, **options)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE_NAME, certificate)
    return certificate


def certify_run(run: Path, *, sources: Path | None = None, **options: Any) -> dict[str, Any]:
    """Write the certificate of a finished run into its folder, and draw its report again.

    Parameters
    ----------
    run : Path
        Run folder; an earlier certificate is replaced.
    sources : Path, optional
        Folder that holds the scans now, when they have moved.
    **options : dict
        ``n_runs``, ``seed``, ``cases``, ``progress`` and ``clock`` of `certify`.

    Returns
    -------
    dict
        ``certificate.json``.

    Raises
    ------
    MissingInputError
        If it is not a run folder, or a scan is not there.
    ChecksumError
        If a scan's content has changed.
    FormatError
        If the run was written by a version this one does not understand.
    """
    certificate = certify(plan_of_run(open_run(run), sources), run, **options)
    write_json(run / FILE_NAME, certificate)
    redraw_report(run, sources=sources)
    return certificate


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[list[dict[str, Any]], float]:
    """Compare stated confidence with how often it was right.

    Parameters
    ----------
    confidence : (n,) ndarray
        0 … 1.
    right : (n,) ndarray of bool
        Whether each was right.

    Returns
    -------
    bins : list of dict
        ``confidence`` (mean), ``share_right`` and ``n`` of each tenth that is not empty.
    ece : float
        Expected calibration error: mean distance of the two, weighted by `n`.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks",
       ICML 2017.

    Examples
    --------
    >>> reliability(np.array([0.9, 1.0, 0.15, 0.15]), np.array([True, False, False, False]))[1]
    0.3
    """
    tenth = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    bins = [
        {
            "confidence": float(confidence[tenth == n].mean()),
            "share_right": float(right[tenth == n].mean()),
            "n": int((tenth == n).sum()),
        }
        for n in np.unique(tenth)
    ]
    apart = sum(b["n"] * abs(b["confidence"] - b["share_right"]) for b in bins)
    return bins, float(apart / len(confidence))


class _Simulator:
    """Scans the user's HR volume again, as the user's LR scan was made."""

    def __init__(self, plan: Comparison, found: Estimate, high: Volume) -> None:
        self._found, self._high = found, high
        # HR voxel axis of each axis of the stacks, and of each LR voxel axis.
        stack_axes = np.abs(plan.high_frame.to_voxel[:3, :3]).argmax(axis=0)
        low_axes = np.abs(plan.low_frame.to_voxel[:3, :3]).argmax(axis=0)
        ratio = np.empty(3)
        ratio[stack_axes] = plan.voxel_ratio
        i, j, k = (simple_factor(value, n) for value, n in zip(ratio, high.shape, strict=True))
        self.factor = i, j, k
        self._order = tuple(int(n) for n in stack_axes[np.argsort(low_axes)])
        self._covered = _covered(plan, found.registration.matrix, high)

    def scan(self, case: Case, seed: int, run: int) -> tuple[Volume, Truth]:
        """Return a scan and the truth about it."""
        found, high = self._found, self._high
        # The same directions and noise for a run of every case: cases differ by their size alone.
        random = np.random.default_rng([seed, run])
        far, turn = (
            case.motion * float(np.linalg.norm(size))
            for size in (found.registration.shift_um, found.registration.angles_deg)
        )
        shift_um, tilt_deg = far * _direction(random), turn * _direction(random)
        extent_um = 1000 * float(min(np.array(high.spacing) * high.shape))
        # Whoever scans an animal that lies elsewhere puts the field of view around it.
        followed = max(0.0, 1 - _FOLLOWED * extent_um / far) if far else 0.0
        config = SimulationConfig(
            factor=self.factor,
            shift_um=_triple((1 - followed) * shift_um),
            tilt_deg=_triple(tilt_deg),
            snr=case.signal * found.noise.snr,
            seed=int(random.integers(2**31)),
        )
        made = simulate_low_res(high, config)
        window = [
            (int(np.floor(a / f)), min(n, int(np.ceil(b / f))))
            for (a, b), f, n in zip(self._covered, self.factor, made.low_res.shape, strict=True)
        ]
        index = np.eye(4)[[*self._order, 3]].T
        index[:3, 3] = [a for a, _ in window]
        data = made.low_res.data[tuple(slice(a, b) for a, b in window)].transpose(self._order)
        affine = made.low_res.affine @ index
        affine[:3, 3] += followed * shift_um / 1000
        low = replace(made.low_res, data=np.asfortranarray(data), affine=affine)
        truth = Truth(
            low_to_high=made.low_to_high @ index,
            low_res_shape=low.shape,
            high_res_shape=high.shape,
            low_res_affine=affine,
            high_res_affine=high.affine,
            config=config,
            noise_sigma=made.noise_sigma,
        )
        return low, truth


def _estimate(plan: PairingPlan, low: Volume, high: Volume, step: Progress) -> Estimate:
    config = plan.config
    registration = register_rigid(
        plan.low_frame.view(low.data),
        plan.low_frame.affine,
        plan.high_frame.view(high.data),
        plan.high_frame.affine,
        RegistrationConfig(config.metric, config.window_mm, config.n_starts, config.seed),
        progress=lambda done, total: step("registering", done, total),
    )
    notes = tuple(
        f"the motion may be misjudged: {text}" for text in registration_objections(registration)
    )
    return Estimate(registration, estimate_noise(low.data), notes)


def simple_factor(ratio: float, size: int) -> float:
    """Return the simplest fraction that is a ratio of voxel sizes to within rounding.

    Parameters
    ----------
    ratio : float
        LR over HR voxel spacing.
    size : int
        HR voxels along the axis; LR has at least one.

    Returns
    -------
    float
        At least 1, as `SimulationConfig` wants it.

    Examples
    --------
    >>> simple_factor(1.9987, 100), simple_factor(1.503, 100), simple_factor(0.8, 100)
    (2.0, 1.5, 1.0)
    """
    ratio = float(np.clip(ratio, 1, size))
    fractions = [
        Fraction(round(ratio * denominator), denominator)
        for denominator in range(1, 101)
        if round(ratio * denominator) <= size
    ]
    near = [found for found in fractions if abs(found - ratio) <= _RATIO_ERROR * ratio]
    return float(near[0] if near else min(fractions, key=lambda found: abs(found - ratio)))


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in vector)
    return x, y, z


def _direction(random: np.random.Generator) -> NDArray[np.float64]:
    vector = random.standard_normal(3)
    return np.asarray(vector / np.linalg.norm(vector))


def _covered(plan: Comparison, matrix: Affine, high: Volume) -> list[tuple[float, float]]:
    """HR voxels, half-open, whose anatomy LR shows, along each voxel axis."""
    ends = [(-0.5, size - 0.5) for size in plan.low_frame.shape]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
    to_voxel = np.linalg.inv(high.affine) @ matrix @ plan.low_frame.affine
    places = apply_affine(to_voxel, corners) + 0.5
    ranges = []
    for first, last, size in zip(places.min(axis=0), places.max(axis=0), high.shape, strict=True):
        a, b = max(0.0, float(first)), min(float(size), float(last))
        ranges.append((0.0, float(size)) if b - a >= _COVERED * size else (a, b))
    return ranges


def _paired(plan: Comparison, stacks: Stacks, truth: Truth, method: Method) -> pd.DataFrame:
    config = replace(plan.config, method=method)
    return pair_stacks(replace(plan, config=config), stacks, truth=truth).pairs


def _figures(
    case: Case, method: Method, tables: Sequence[pd.DataFrame], spacing_um: float
) -> dict[str, Any]:
    import pandas as pd

    pairs = pd.concat(tables, ignore_index=True)
    shown = pairs[~pairs["empty"]]
    if not len(shown):
        raise InputError(
            "none of the simulated slices shows anything",
            hint="choose another --plane, or a smaller --trim",
        )
    figures = accuracy(pairs, spacing_um / 1000)
    return {
        "name": case.name,
        "title": case.title if method == "geometry" else f"{case.title}, the paper's vote",
        "method": method,
        "n_runs": len(tables),
        "n_slices": len(shown),
        "accepted": float((shown["status"] == "auto").mean()),
        **figures,
        "p95_um": figures["p95_slices"] * spacing_um,
    }


def _confidence(
    tables: Sequence[pd.DataFrame],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of all slices that show anything, and whether each is right."""
    shown = [table[~table["empty"]] for table in tables]
    stated = np.concatenate([table["confidence"].to_numpy(dtype=float) for table in shown])
    error = np.concatenate([table["error_slices"].to_numpy(dtype=float) for table in shown])
    return stated, np.abs(error) <= WRONG

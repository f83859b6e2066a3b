"""Pairs of simulated scans with known truth, found in several ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import HeldOut, Method, PairSource, Plane, SupervisedName
from srmri_data.errors import UsageError
from srmri_data.geometry import apply_affine
from srmri_data.pairing import Stacks, pair_stacks
from srmri_data.planning import VOTER_NAMES, Comparison, PairingConfig
from srmri_data.register import aligned_grid, reslice
from srmri_data.safe_io import atomic_path
from srmri_data.simulate import SimulationConfig, Truth, simulate_low_res
from srmri_data.slices import Trim
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Volume
from srmri_model.training.pairs import Degradation, SlicePair
from srmri_model.training.slices import CachedVolume

SOURCES: tuple[PairSource, ...] = get_args(PairSource)
"""Where pairs come from, in the order of the table."""

FACTOR = 2.0
"""LR over HR voxel size, along all three axes."""

_EXACT = 0.5 + 1e-6


@dataclass(frozen=True)
class CurationConfig:
    """How the study is made.

    Parameters
    ----------
    model : str
        Supervised baseline that learns from the pairs, in its scaled preset.
    steps : int
        Steps it learns for, the same for every kind of pairs.
    sources : tuple of str
        Kinds of pairs, of `SOURCES`.
    animals : int
        Training animals, at most.
    test_animals : int
        Animals to judge on, at most.
    test_slices : int
        LR slices of each that are judged, evenly spread.
    plane : {"coronal", "axial", "sagittal", "acquired"}
        Plane of the slices.
    snr : float
        Mean foreground of LR over the noise in each channel.
    shift : float
        Largest shift of a training animal along each axis, in HR voxels.
    tilt : float
        Largest rotation about each axis, in degrees.
    voters : tuple of str
        Who votes on pairs.
    n_starts : int
        Starts of the registration.
    trim : int
        Slices left out at each end of a scan before pairing.
    seed : int
        Of motion, noise, first weights and crops.
    role : {"test", "tune"}
        Which list of the split names the animals to judge on.

    Raises
    ------
    UsageError
        If a value is out of range.
    """

    model: SupervisedName = "srcnn"
    steps: int = 600
    sources: tuple[PairSource, ...] = SOURCES
    animals: int = 6
    test_animals: int = 4
    test_slices: int = 10
    plane: Plane = "coronal"
    snr: float = 25.0
    shift: float = 1.5
    tilt: float = 2.0
    voters: tuple[str, ...] = VOTER_NAMES
    n_starts: int = 3
    trim: int = 2
    seed: int = 0
    role: HeldOut = "test"

    def __post_init__(self) -> None:
        """Refuse what can not be studied."""
        unknown = [name for name in self.sources if name not in SOURCES]
        if unknown or not self.sources or len(set(self.sources)) != len(self.sources):
            raise UsageError(
                f"--sources {','.join(self.sources) or '(none)'}: choose one or more of "
                f"{', '.join(SOURCES)}, each once"
            )
        for name in ("steps", "animals", "test_animals", "test_slices", "n_starts"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1; found {getattr(self, name)}")
        if min(self.shift, self.tilt, self.trim, self.seed) < 0:
            raise UsageError("shift, tilt, trim and seed are not negative")

    def smoke(self) -> CurationConfig:
        """Return the same study at the least size that runs every part of it.

        Returns
        -------
        CurationConfig
            Two training animals, one test animal, few steps, two voters.
        """
        return replace(
            self, steps=40, animals=2, test_animals=1, test_slices=3, n_starts=1,
            voters=("pca", "ssim"),
        )  # fmt: skip

    def pairing(self, method: Method) -> PairingConfig:
        """Return how pairs are decided.

        Parameters
        ----------
        method : {"geometry", "paper"}
            As `srmri pair --method`.

        Returns
        -------
        PairingConfig
            Its settings.
        """
        return PairingConfig(
            method=method,
            plane=self.plane,
            trim=Trim(self.trim, "slices"),
            voters=self.voters,
            n_starts=self.n_starts,
            seed=self.seed,
        )


@dataclass(frozen=True, eq=False)
class PairedSlices:
    """Pairs of one animal, from one source.

    Parameters
    ----------
    low_res : (n, h, w) ndarray of float32
        LR slices on HR's [0, 1] scale.
    high_res : (n, H, W) ndarray of float32
        What they are paired with.
    foreground : (n, H, W) ndarray of bool
        Tissue that was measured.
    slices : (n,) ndarray of int
        Numbers of the slices.
    no_signal : float
        Where no signal lies on the scale.
    offered : int
        Slices that could have been paired.
    exact : float
        Share of the pairs within half an HR slice of the truth.
    misplaced : float
        Mean distance between where the pairs put the reference point in the plane and where it
        is, in HR voxels.
    """

    low_res: NDArray[np.float32]
    high_res: NDArray[np.float32]
    foreground: NDArray[np.bool_]
    slices: NDArray[np.int32]
    no_signal: float
    offered: int
    exact: float
    misplaced: float

    def save(self, path: Path) -> None:
        """Write them to a file.

        Parameters
        ----------
        path : Path
            An ``.npz`` file; it appears when it is complete.
        """
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> PairedSlices:
        """Read what `save` wrote.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        PairedSlices
            The pairs.
        """
        with np.load(path) as found:
            values = {name: found[name] for name in found.files}
        return cls(**{n: v if v.ndim else v.item() for n, v in values.items()})


class Gathered:
    """Pairs of several animals, as training takes them.

    Parameters
    ----------
    animals : mapping of str to PairedSlices
        By subject.
    plane : str
        Plane of the slices.
    """

    def __init__(self, animals: Mapping[str, PairedSlices], plane: Plane) -> None:
        self._animals, self._plane = animals, plane
        self._places = [(s, n) for s, found in animals.items() for n in range(len(found.slices))]
        self.subjects = [subject for subject, _ in self._places]
        self.sizes: list[tuple[int, int]] = [
            (found.high_res.shape[1], found.high_res.shape[2])
            for found in (animals[subject] for subject in self.subjects)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> SlicePair:
        subject, number = self._places[index]
        found = self._animals[subject]
        return SlicePair(
            low_res=found.low_res[number],
            high_res=found.high_res[number],
            foreground=found.foreground[number],
            subject=subject,
            volume=subject,
            plane=self._plane,
            slice_index=int(found.slices[number]),
            factor=(FACTOR, FACTOR),
            no_signal=found.no_signal,
        )


class Scanned:
    """An animal that was scanned at HR, and again at LR after it has moved.

    Parameters
    ----------
    volume : CachedVolume
        HR.
    config : CurationConfig
        The study.
    number : int
        Which animal: seed of its motion and noise.
    moves : bool
        Whether it has moved.
    """

    def __init__(
        self, volume: CachedVolume, config: CurationConfig, number: int, *, moves: bool
    ) -> None:
        low, high = volume.intensity
        self.no_signal = -low / (high - low)
        # Scanner units again, as magnitudes; what was 0 there has to be 0 here.
        signal = np.load(volume.path) - np.float32(self.no_signal)
        signal[np.abs(signal) < 1e-6] = 0
        scan = Volume(signal, np.array(volume.affine), Provenance(volume.path, "memory"))
        random = np.random.default_rng((config.seed, number))
        voxel = float(np.mean(np.linalg.norm(scan.affine[:3, :3], axis=0)))
        shift = random.uniform(-1, 1, 3) * config.shift * voxel * 1000 * moves
        tilt = random.uniform(-1, 1, 3) * config.tilt * moves
        made = simulate_low_res(
            scan,
            SimulationConfig(
                factor=(FACTOR,) * 3,
                shift_um=(shift[0], shift[1], shift[2]),
                tilt_deg=(tilt[0], tilt[1], tilt[2]),
                snr=config.snr,
                seed=config.seed + number,
            ),
        )
        self.config, self.subject = config, volume.subject
        self.low, self.high = made.low_res, made.high_res
        self.truth = Truth(
            low_to_high=made.low_to_high,
            low_res_shape=self.low.shape,
            high_res_shape=self.high.shape,
            low_res_affine=self.low.affine,
            high_res_affine=self.high.affine,
            config=made.config,
            noise_sigma=made.noise_sigma,
        )

    def examples(self, source: PairSource) -> PairedSlices:
        """Pair the animal's slices.

        Parameters
        ----------
        source : str
            Of `SOURCES`.

        Returns
        -------
        PairedSlices
            Pairs that were accepted.
        """
        method: Method = "paper" if source == "paper" else "geometry"
        plan = Comparison.of(self.low, self.high, self.config.pairing(method))
        stacks = Stacks.of(plan, self.low, self.high, lambda *_: None)
        if source == "bicubic":
            return self._made_smaller(plan, stacks)
        if source == "truth":
            taken = np.flatnonzero(~stacks.empty)
            images, measured = self._resliced(plan, stacks, self._true_map(plan))
            return self._examples(plan, stacks, taken, images[taken], measured[taken], 1.0, 0.0)
        paired = pair_stacks(plan, stacks, truth=self.truth)
        pairs = paired.pairs
        taken = np.flatnonzero((pairs["status"] == "auto").to_numpy())
        if source == "paper":
            # The pairs of the paper: whole HR slices as they were scanned.
            chosen = pairs["hr_slice"].to_numpy()[taken]
            window = plan.high_window
            images = stacks.high_slices[chosen][:, slice(*window.rows), slice(*window.cols)].astype(
                np.float32
            )
            measured = np.ones(images.shape, dtype=np.bool_)
            believed = np.linalg.inv(plan.high_frame.affine) @ plan.low_frame.affine
        else:
            alignment = paired.alignment
            assert alignment is not None  # noqa: S101
            believed = alignment.geometry.to_high
            images, measured = self._resliced(plan, stacks, believed)
            images, measured = images[taken], measured[taken]
        errors = np.abs(pairs["error_slices"].to_numpy(dtype=float)[taken])
        points = np.column_stack([plan.low_window.slice_numbers, stacks.reference])[taken]
        apart = apply_affine(believed, points) - apply_affine(self._true_map(plan), points)
        misplaced = np.linalg.norm(apart[:, 1:], axis=1)
        return self._examples(
            plan, stacks, taken, images, measured,
            float((errors <= _EXACT).mean()) if taken.size else np.nan,
            float(misplaced.mean()) if taken.size else np.nan,
        )  # fmt: skip

    def _true_map(self, plan: Comparison) -> Affine:
        """LR (slice, row, col) to HR (slice, row, col)."""
        to_high = np.linalg.inv(plan.high_frame.to_voxel) @ self.truth.low_to_high
        return np.asarray(to_high @ plan.low_frame.to_voxel)

    def _resliced(
        self, plan: Comparison, stacks: Stacks, low_to_high: Affine
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """HR on LR's planes, as a run folder's ``hr_aligned``."""
        affine, shape = aligned_grid(plan.low_frame, plan.high_frame, plan.low_window)
        to_low = np.linalg.inv(plan.low_frame.affine) @ affine
        return reslice(stacks.high_slices, low_to_high @ to_low, shape)

    def _examples(
        self,
        plan: Comparison,
        stacks: Stacks,
        taken: NDArray[np.int64],
        images: NDArray[np.float32],
        measured: NDArray[np.bool_],
        exact: float,
        misplaced: float,
    ) -> PairedSlices:
        zero = np.float32(self.no_signal)
        low = stacks.low_slices[plan.low_window.index][taken].astype(np.float32)
        return PairedSlices(
            low + zero, images + zero, (images + zero > 0) & measured,
            plan.low_window.slice_numbers[taken], self.no_signal,
            int((~stacks.empty).sum()), exact, misplaced,
        )  # fmt: skip

    def _made_smaller(self, plan: Comparison, stacks: Stacks) -> PairedSlices:
        """HR slices, and what bicubic interpolation makes of them: no scan is needed."""
        window = plan.high_window
        images = stacks.high_slices[window.index].astype(np.float32) + np.float32(self.no_signal)
        area = (images > 0).sum(axis=(1, 2))
        taken = np.flatnonzero(area >= max(1, 0.05 * area.max()))
        made = Degradation("bicubic", factor=FACTOR, sigma_y=0.0, magnitude=False)
        low = [made.apply(images[n], subject=self.subject, slice_index=int(n)) for n in taken]
        return PairedSlices(
            np.stack(low), images[taken], images[taken] > 0, window.slice_numbers[taken],
            self.no_signal, taken.size, 1.0, 0.0,
        )  # fmt: skip

"""Where pairs of LR and HR slices come from: degraded volumes, an exported dataset, or the Hub.

As in `srmri_model.training.slices`, everything is computed once into files that are memory-mapped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_data.choices import OperatorKind, Plane
from srmri_data.dataset import PairItem, SliceDataset
from srmri_data.dataset_schema import Split
from srmri_data.errors import FormatError, MissingInputError, UsageError
from srmri_data.safe_io import atomic_path, read_json, write_json
from srmri_data.slices import IntensityMap
from srmri_model.estimate import ForegroundLevels, foreground_levels, level_map, mean_levels
from srmri_model.operators import Grid, SeparableOperator, low_size, make_operator
from srmri_model.training.slices import (
    CachedVolume,
    Concatenation,
    ImageFile,
    Items,
    Parts,
    Progress,
    Subset,
    VolumeSlices,
    cache_volumes,
    divide,
    is_dataset,
    locate,
    roles_of,
)

_CACHE_SCHEMA = 1
_MEASURED = 0.99
"""Share of an LR voxel's HR voxels that have to be measured for it to count."""

Factors = tuple[float, float]


class SlicePair(TypedDict):
    """An LR slice and what it should become."""

    low_res: NDArray[np.float32]
    """(row, col), on HR's [0, 1] scale, not clipped."""
    high_res: NDArray[np.float32]
    """(row, col), in the volume's [0, 1] map, not clipped."""
    foreground: NDArray[np.bool_]
    """(row, col) of HR: tissue that was measured."""
    subject: str
    volume: str
    plane: Plane
    slice_index: int
    factor: Factors
    """HR voxels per LR voxel, along rows' and columns' axis."""
    no_signal: float
    """Where 0 scanner units of LR lie on the scale."""


class Pairs(Items[SlicePair], Protocol):
    """Pairs by number; sizes are those of HR."""


@dataclass(frozen=True)
class Degradation:
    """How LR slices are made of HR slices, within their plane.

    Parameters
    ----------
    operator : str
        Kind of `srmri_model.operators.make_operator`.
    width : float, optional
        Of a point spread, in LR voxels; by default 1.
    factor : float
        LR over HR voxel size, at least 1.
    sigma_y : float
        Standard deviation of LR's noise, on the volume's [0, 1] scale.
    magnitude : bool
        Complex noise in k-space, and the magnitude of what it gives; else real noise.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    seed : int
        Of the noise, which depends on it, the subject and the slice's number alone.

    Raises
    ------
    UsageError
        If the noise is negative; what the operator makes of the other values.
    """

    operator: OperatorKind = "kspace"
    width: float | None = None
    factor: float = 2.0
    sigma_y: float = 0.01
    magnitude: bool = True
    grid: Grid = "voxel-centre"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_y < float("inf"):
            raise UsageError(f"--sigma-y is {self.sigma_y}, expected 0 or more")
        _operator(self.operator, (8, 8), (self.factor,) * 2, self.grid, self.width)

    def apply(
        self,
        high_res: NDArray[np.float32],
        *,
        subject: str,
        slice_index: int,
        no_signal: float = 0.0,
    ) -> NDArray[np.float32]:
        """Degrade a slice.

        Parameters
        ----------
        high_res : (row, col) ndarray
            HR slice, float32.
        subject : str
            Whose it is.
        slice_index : int
            Its number.
        no_signal : float
            Value of no signal, about which magnitudes are taken.

        Returns
        -------
        (row, col) ndarray
            LR slice on the same scale, ``low_size(n, factor)`` voxels along each axis.

        Examples
        --------
        >>> box = Degradation("box", sigma_y=0.0)
        >>> box.apply(np.eye(4, dtype=np.float32), subject="m1", slice_index=0)
        array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)
        """
        shape = (high_res.shape[0], high_res.shape[1])
        operator = _operator(self.operator, shape, (self.factor,) * 2, self.grid, self.width)
        low: NDArray[np.float32] = operator.forward(torch.from_numpy(high_res)).numpy()
        name = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "little")
        random = np.random.default_rng((self.seed, name, slice_index))
        real, imaginary = random.standard_normal((2, *low.shape), dtype=np.float32)
        sigma = np.float32(self.sigma_y)
        if not self.magnitude:
            return np.asarray(low + sigma * real, dtype=np.float32)
        zero = np.float32(no_signal)
        return np.asarray(np.hypot(low - zero + sigma * real, sigma * imaginary) + zero)


@functools.lru_cache(maxsize=16)
def _operator(
    kind: OperatorKind, shape: tuple[int, int], factor: Factors, grid: Grid, width: float | None
) -> SeparableOperator:
    return make_operator(kind, shape, factor, grid=grid, width=width)


class VolumePairs:
    """Pairs of volumes' slices and the same slices degraded.

    Parameters
    ----------
    volumes : sequence of CachedVolume
        HR.
    plane : str
        Plane of the slices.
    degradation : Degradation
        What makes LR.
    cache : Path
        Folder for LR; what is there already is used again.
    progress : callable, optional
        Called as ``progress("low resolution", done, total)``.
    """

    def __init__(
        self,
        volumes: Sequence[CachedVolume],
        plane: Plane,
        degradation: Degradation,
        cache: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        self._slices = VolumeSlices(volumes, [plane])
        self._factor = (degradation.factor, degradation.factor)
        self._low = []
        for done, volume in enumerate(volumes):
            if progress is not None:
                progress("low resolution", done, len(volumes))
            self._low.append(_cache_degraded(volume, plane, degradation, cache))
        if progress is not None:
            progress("low resolution", len(volumes), len(volumes))
        self._starts = [0, *accumulate(len(volume.kept[plane]) for volume in volumes)]
        self._maps: dict[int, NDArray[np.float32]] = {}

    @property
    def subjects(self) -> list[str]:
        """Subject of every pair."""
        return self._slices.subjects

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of every HR slice."""
        return self._slices.sizes

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int, /) -> SlicePair:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} pairs")
        item = self._slices[index]
        number = bisect_right(self._starts, index) - 1
        if number not in self._maps:
            self._maps[number] = np.load(self._low[number], mmap_mode="r")
        low, high = item["intensity"]
        return SlicePair(
            low_res=np.array(self._maps[number][index - self._starts[number]]),
            high_res=item["image"],
            foreground=item["image"] > 0,
            subject=item["subject"],
            volume=item["volume"],
            plane=item["plane"],
            slice_index=item["slice_index"],
            factor=self._factor,
            no_signal=-low / (high - low),
        )


def _cache_degraded(
    volume: CachedVolume, plane: Plane, degradation: Degradation, cache: Path
) -> Path:
    """Degrade the slices of a volume that are kept, into one (slice, row, col) file."""
    facts = (_CACHE_SCHEMA, volume.path.name, volume.subject, plane, sorted(_facts(degradation)))
    path = cache / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        slices = VolumeSlices([volume], [plane])
        low, high = volume.intensity
        made = [
            degradation.apply(
                item["image"],
                subject=item["subject"],
                slice_index=item["slice_index"],
                no_signal=-low / (high - low),
            )
            for item in map(slices.__getitem__, range(len(slices)))
        ]
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack(made))
    return path


def _facts(degradation: Degradation) -> list[tuple[str, str]]:
    return [(name, repr(value)) for name, value in asdict(degradation).items()]


class DatasetPairs:
    """Pairs of one split of a dataset, decoded once.

    Parameters
    ----------
    folder : Path
        Where `cache_pairs` put them.

    Attributes
    ----------
    factors : set of tuple of float
        Factors that occur.
    references : list of (str, ForegroundLevels)
        Per volume, its subject, and what its HR slices look like at LR's resolution, on HR's
        scale.
    """

    def __init__(self, folder: Path) -> None:
        index = read_json(folder / "pairs.json", max_bytes=1 << 30)
        self._rows: list[dict[str, Any]] = index["rows"]
        self._volumes: dict[str, dict[str, Any]] = index["volumes"]
        self.subjects = [str(row["subject"]) for row in self._rows]
        self._low = ImageFile(folder / "low.f32", [row["low_size"] for row in self._rows])
        self._high = ImageFile(folder / "high.f32", [row["size"] for row in self._rows])
        self._inside = ImageFile(folder / "inside.u8", self._high.sizes, np.uint8)
        self.sizes = self._high.sizes
        self.factors = {(row["factor"][0], row["factor"][1]) for row in self._rows}
        self.references = [
            (str(found["subject"]), ForegroundLevels(**found["reference"]))
            for found in self._volumes.values()
        ]
        self._maps = {name: IntensityMap(0.0, 1.0, 0.0) for name in self._volumes}

    def bring_to(self, reference: ForegroundLevels) -> None:
        """Bring LR to HR's scale.

        Parameters
        ----------
        reference : ForegroundLevels
            What LR looks like there: the mean over the volumes that are trained on.
        """
        self._maps = {
            name: level_map(ForegroundLevels(**found["levels"]), reference)
            for name, found in self._volumes.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> SlicePair:
        row = self._rows[index]
        scale = self._maps[row["volume"]]
        span = scale.high - scale.low
        return SlicePair(
            low_res=((self._low[index] - scale.low) / span).astype(np.float32),
            high_res=self._high[index],
            foreground=self._inside[index] != 0,
            subject=row["subject"],
            volume=row["volume"],
            plane=row["plane"],
            slice_index=row["slice_index"],
            factor=(row["factor"][0], row["factor"][1]),
            no_signal=(row["no_signal"] - scale.low) / span,
        )


def fitting_sizes(low: int, high: int, factor: float) -> tuple[int, int]:
    """Return how much of an axis of a pair is used, from its start.

    Windows of exported pairs are cut at whole LR voxels and at HR's voxel centres, so HR may have
    a voxel too many or too few.

    Parameters
    ----------
    low, high : int
        LR and HR voxels there are.
    factor : float
        LR over HR voxel size.

    Returns
    -------
    low, high : int
        The largest sizes with ``low == low_size(high, factor)``.

    Raises
    ------
    ValueError
        If more than one LR voxel, or what lies in one and a half, would be left out.

    Examples
    --------
    >>> fitting_sizes(50, 102, 2.0)
    (50, 101)
    """
    used_low = min(low, low_size(high, factor))
    used_high = high
    while low_size(used_high, factor) > used_low:
        used_high -= 1
    if used_low < max(1, low - 1) or used_high < high - 1.5 * factor:
        raise ValueError(f"{low} LR voxels and {high} HR voxels do not cover the same field")
    return used_low, used_high


def cache_pairs(dataset: SliceDataset, folder: Path, *, progress: Progress | None = None) -> None:
    """Decode the pairs of one split into files that can be memory-mapped.

    Parameters
    ----------
    dataset : SliceDataset
        Table ``pairs`` of a split.
    folder : Path
        Where to; what is there already is kept.
    progress : callable, optional
        Called as ``progress("pairs", done, total)``.

    Raises
    ------
    FormatError
        If LR and HR of a pair do not cover the same field, or a volume shows nothing.
    """
    if (folder / "pairs.json").exists():
        return
    rows: list[dict[str, Any]] = []
    levels: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(open(stack.enter_context(atomic_path(folder / name)), "wb"))
            for name in ("low.f32", "high.f32", "inside.u8")
        ]
        for number in range(len(dataset)):
            item = cast(PairItem, dataset[number])
            low, high, measured, row = _fitted(item)
            inside = (high > 0) & measured
            for file, image in zip(files, (low, high, inside.astype(np.uint8)), strict=True):
                file.write(np.ascontiguousarray(image).data)
            rows.append(row)
            levels.setdefault(row["volume"], []).append(_seen(low, high, measured, row["factor"]))
            if progress is not None:
                progress("pairs", number + 1, len(dataset))
    subjects = {row["volume"]: row["subject"] for row in rows}
    volumes = {
        name: {"subject": subjects[name], **_levels(name, seen)} for name, seen in levels.items()
    }
    write_json(folder / "pairs.json", {"rows": rows, "volumes": volumes})


def _fitted(
    item: PairItem,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], dict[str, Any]]:
    """Cut a pair to sizes that fit, and say what is known of it."""
    ratio = np.array(item["low_res_spacing"]) / np.array(item["high_res_spacing"])
    factor = [float(Fraction(value).limit_denominator(1000)) for value in ratio]
    low, high, measured = item["low_res"], item["high_res"], item["mask"]
    try:
        (low_rows, rows), (low_cols, cols) = (
            fitting_sizes(low.shape[axis], high.shape[axis], factor[axis]) for axis in (0, 1)
        )
    except (ValueError, UsageError) as error:
        raise FormatError(
            f"pair {item['pair_id']}: {error}; LR is {low.shape} of {item['low_res_spacing']} mm, "
            f"HR {high.shape} of {item['high_res_spacing']} mm",
            hint="baselines train on pairs whose LR is the coarser one; see the run's plan",
        ) from error
    dark, bright = item["low_res_intensity"]
    row = {
        "subject": item["subject"],
        "volume": item["pair_id"].rpartition("_")[0],
        "plane": item["plane"],
        "slice_index": item["lr_slice"],
        "low_size": [low_rows, low_cols],
        "size": [rows, cols],
        "factor": factor,
        "no_signal": -dark / (bright - dark),
    }
    return low[:low_rows, :low_cols], high[:rows, :cols], measured[:rows, :cols], row


def _seen(
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    measured: NDArray[np.bool_],
    factor: Sequence[float],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """LR voxels that both scans have seen, and what HR gives for them."""
    shape = (high.shape[0], high.shape[1])
    operator = _operator("kspace", shape, (factor[0], factor[1]), "voxel-centre", None)
    box = _operator("box", shape, (factor[0], factor[1]), "voxel-centre", None)
    seen = box.forward(torch.from_numpy(measured.astype(np.float32))).numpy() > _MEASURED
    degraded = operator.forward(torch.from_numpy(np.ascontiguousarray(high))).numpy()
    return low[seen], degraded[seen]


def _levels(
    name: str, seen: Sequence[tuple[NDArray[Any], NDArray[Any]]]
) -> dict[str, dict[str, float]]:
    low, high = (np.concatenate(values) for values in zip(*seen, strict=True))
    if not low.size:
        raise FormatError(f"volume {name}: HR was not measured where LR was, in any of its pairs")
    return {
        "levels": asdict(foreground_levels(low)),
        "reference": asdict(foreground_levels(high)),
    }


@dataclass(frozen=True)
class PairData:
    """Pairs to train on, to choose by, and to test with.

    Parameters
    ----------
    train, validation, test : Pairs
        Pairs of different subjects; validation is what is trained on where there is one subject,
        and `test` may be empty.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie.
    fingerprint : str
        Hash of which pairs of which subjects, and of what made LR, to know the data again.
    notes : tuple of str
        What a careful user should know.
    factors : tuple of tuple of float
        Every factor that occurs, along rows' and columns' axis.
    """

    train: Pairs
    validation: Pairs
    test: Pairs
    grid: Grid
    fingerprint: str
    notes: tuple[str, ...]
    factors: tuple[Factors, ...]


def open_pairs(
    data: Sequence[str],
    cache: Path,
    *,
    plane: Plane = "coronal",
    split: Path | None = None,
    degradation: Degradation | None = None,
    progress: Progress | None = None,
) -> PairData:
    """Open pairs and hold subjects out.

    Parameters
    ----------
    data : sequence of str
        Volumes or folders of them, to be degraded; or one exported dataset's folder, or one Hub
        id, with ``@revision`` after it or without, whose pairs were acquired.
    cache : Path
        Folder for mapped and degraded volumes.
    plane : str
        Plane of the slices.
    split : Path, optional
        Which subjects train, see `srmri_model.training.slices.read_split`. By default a dataset's
        own splits, else every eighth subject is held out.
    degradation : Degradation, optional
        What makes LR of volumes; by default ``Degradation()``.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    PairData
        The pairs. LR of a dataset is brought to HR's scale by the 50 and 90 percentiles of its
        foreground, which HR's degraded training volumes have on that scale.

    Raises
    ------
    UsageError
        If nothing is left to train on, or a degradation is given with pairs that were acquired.
    SrmriError
        If the data can not be read.
    """
    if len(data) == 1 and is_dataset(data[0]):
        if degradation is not None:
            raise UsageError(
                f"{data[0]} holds pairs that were acquired; they are not degraded",
                hint="leave out what says how LR is made, or give HR volumes",
            )
        return _open_dataset(data[0], cache, plane=plane, split=split, progress=progress)
    made_by = degradation or Degradation()
    volumes = cache_volumes([Path(source) for source in data], cache, progress=progress)
    pairs = VolumePairs(volumes, plane, made_by, cache, progress=progress)
    parts = divide(pairs, roles_of(pairs.subjects, split))
    factors = ((made_by.factor, made_by.factor),)
    return _pair_data(parts, made_by.grid, made_by, parts.notes, factors)


def _open_dataset(
    source: str, cache: Path, *, plane: Plane, split: Path | None, progress: Progress | None
) -> PairData:
    where, pinned = locate(source)
    # An exported folder that is written anew has other checksums.
    sums = Path(where) / "checksums.sha256"
    content = hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else ""
    facts = (_CACHE_SCHEMA, where, pinned, plane, content)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    found: dict[Split, DatasetPairs] = {}
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for part in splits:
        folder = cache / f"pairs-{key}-{part}"
        try:
            dataset = SliceDataset.open(
                where, config="pairs", split=part, revision=pinned, plane=plane
            )
        except MissingInputError:
            if part == "train":
                raise
            continue
        folder.mkdir(parents=True, exist_ok=True)
        cache_pairs(dataset, folder, progress=progress)
        found[part] = DatasetPairs(folder)
    parts = _divided(found, split)
    trained = set(parts.train.subjects)
    reference = mean_levels(
        levels
        for pairs in found.values()
        for subject, levels in pairs.references
        if subject in trained
    )
    for pairs in found.values():
        pairs.bring_to(reference)
    note = (
        "LR and HR of the pairs are taken to share the edges of their fields of view; HR's first "
        "voxel may lie up to one HR voxel away from there"
    )
    factors = tuple(sorted({factor for pairs in found.values() for factor in pairs.factors}))
    return _pair_data(parts, "voxel-centre", None, (*parts.notes, note), factors)


def _divided(found: Mapping[Split, DatasetPairs], split: Path | None) -> Parts[SlicePair]:
    """Divide by the dataset's own splits, or by a file; hold out where it has no validation."""
    if split is not None:
        everything = Concatenation[SlicePair](*found.values())
        return divide(everything, roles_of(everything.subjects, split))
    left = found.get("test", Subset(found["train"], []))
    if "validation" in found:
        return Parts(found["train"], found["validation"], left, ())
    parts = divide(found["train"], roles_of(found["train"].subjects, None))
    return Parts(parts.train, parts.validation, left, parts.notes)


def _pair_data(
    parts: Parts[SlicePair],
    grid: Grid,
    degradation: Degradation | None,
    notes: tuple[str, ...],
    factors: tuple[Factors, ...],
) -> PairData:
    facts = [
        sorted(_facts(degradation)) if degradation is not None else None,
        *(list(zip(p.subjects, p.sizes, strict=True)) for p in (parts.train, parts.validation)),
    ]
    fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return PairData(parts.train, parts.validation, parts.test, grid, fingerprint, notes, factors)

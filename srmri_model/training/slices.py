"""Where training slices come from: volumes, an exported dataset, or the Hub.

Volumes are mapped to [0, 1] once, into one float32 file each, and slices of all
planes are views of these memory-mapped files: memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NotRequired, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from srmri_data import ingest
from srmri_data.choices import ANATOMICAL, Plane
from srmri_data.dataset import SliceDataset, SliceItem
from srmri_data.dataset_schema import COLUMNS, Split
from srmri_data.errors import FormatError, MissingInputError, UsageError
from srmri_data.safe_io import atomic_path, read_json, write_json
from srmri_data.slices import intensity_map, stack_frame
from srmri_model.types import Planes

FLIPPABLE: frozenset[Plane] = frozenset({"coronal", "axial"})
"""Planes whose columns run along left and right, which an animal has twice."""

_EMPTY_SHARE = 0.05
_CACHE_SCHEMA = 1

Progress = Callable[[str, int, int], None]


Item = TypeVar("Item")
_Item = TypeVar("_Item", covariant=True)


class StackSlice(SliceItem):
    """A slice of an HR scan to train on, perhaps with the slices around it."""

    neighbours: NotRequired[NDArray[np.float32]]
    """(2n, row, col): the n before and the n after it, where they were asked for and are there."""


class Items(Protocol[_Item]):
    """Slices or pairs by number, from volumes or a dataset, or a `Subset` of these."""

    @property
    def subjects(self) -> Sequence[str]:
        """Subject of every slice."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Rows and columns of every slice, in HR voxels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> _Item: ...


Slices: TypeAlias = Items[StackSlice]
"""Slices by number: `VolumeSlices`, `DatasetSlices`, or a `Subset` of these."""


@dataclass(frozen=True)
class CachedVolume:
    """One volume, mapped to [0, 1] and memory-mapped.

    Parameters
    ----------
    path : Path
        The .npy file of the mapped voxels, (i, j, k) float32.
    name, subject : str
        What it is called.
    affine : tuple of tuple of float
        Voxel to world RAS mm.
    shape : tuple of int
        Voxels along i, j, k.
    intensity : tuple of float
        Scanner units that became 0 and 1.
    kept : mapping of str to list of int
        Per plane, the slices that are not near-empty.
    """

    path: Path
    name: str
    subject: str
    affine: tuple[tuple[float, ...], ...]
    shape: tuple[int, int, int]
    intensity: tuple[float, float]
    kept: Mapping[str, list[int]]


class VolumeSlices:
    """Slices of cached volumes.

    Parameters
    ----------
    volumes : sequence of CachedVolume
        The volumes.
    planes : sequence of str
        Planes to slice them in.
    neighbours : int
        Slices on either side that come with every slice that has them.
    """

    def __init__(
        self, volumes: Sequence[CachedVolume], planes: Sequence[Plane], *, neighbours: int = 0
    ) -> None:
        self.volumes = tuple(volumes)
        self.planes = tuple(planes)
        self.neighbours = neighbours
        self._frames = {
            (n, plane): stack_frame(np.array(volume.affine), volume.shape, plane)
            for n, volume in enumerate(self.volumes)
            for plane in planes
        }
        self._places = [
            (n, plane, number)
            for n, volume in enumerate(self.volumes)
            for plane in planes
            for number in volume.kept[plane]
        ]
        self._maps: dict[int, NDArray[np.float32]] = {}

    @property
    def subjects(self) -> list[str]:
        """Subject of every slice."""
        return [self.volumes[n].subject for n, _, _ in self._places]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of every slice."""
        return [self._frames[n, plane].shape[1:] for n, plane, _ in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> StackSlice:
        n, plane, number = self._places[index]
        volume, frame = self.volumes[n], self._frames[n, plane]
        if n not in self._maps:
            self._maps[n] = np.load(volume.path, mmap_mode="r")
        stack = frame.view(self._maps[n])
        item = StackSlice(
            image=np.ascontiguousarray(stack[number]),
            subject=volume.subject,
            volume=volume.name,
            plane=plane,
            slice_index=number,
            intensity=volume.intensity,
            spacing=frame.spacing[1:],
        )
        around = neighbour_offsets(self.neighbours)
        if around and self.neighbours <= number < len(stack) - self.neighbours:
            item["neighbours"] = np.stack([stack[number + offset] for offset in around])
        return item


def neighbour_offsets(neighbours: int) -> list[int]:
    """Return where the neighbours of a slice lie, in the order a network is shown them.

    Parameters
    ----------
    neighbours : int
        How many on either side.

    Returns
    -------
    list of int
        Slice numbers relative to the slice.

    Examples
    --------
    >>> neighbour_offsets(2)
    [-2, -1, 1, 2]
    """
    return [offset for offset in range(-neighbours, neighbours + 1) if offset]


def with_neighbours(item: StackSlice, neighbours: int) -> NDArray[np.float32]:
    """Return a slice as a network that knows neighbours is shown it.

    Parameters
    ----------
    item : StackSlice
        The slice.
    neighbours : int
        How many on either side.

    Returns
    -------
    (1 + 2 neighbours, row, col) ndarray
        The slice, then its neighbours, or zeros where it lacks them. Without neighbours
        (row, col): the slice.
    """
    image = item["image"]
    if not neighbours:
        return image
    around = item.get("neighbours")
    if around is None:
        around = np.zeros((2 * neighbours, *image.shape), image.dtype)
    return np.concatenate([image[None], around])


def cache_volumes(
    sources: Sequence[Path], cache: Path, *, progress: Progress | None = None
) -> list[CachedVolume]:
    """Map volumes to [0, 1] into files that can be memory-mapped.

    Parameters
    ----------
    sources : sequence of Path
        Image files, ParaVision folders, or folders of these. Every scan in them is taken.
    cache : Path
        Folder for the files; what is there already and unchanged is used again.
    progress : callable, optional
        Called as ``progress("volumes", done, total)``.

    Returns
    -------
    list of CachedVolume
        In the order of the sources.

    Raises
    ------
    NoScanError
        If there is nothing to read.
    SrmriError
        If one of the scans can not be read: the reason.
    """
    records = [record for source in sources for record in ingest.discover(Path(source))]
    volumes = []
    for done, record in enumerate(records):
        if progress is not None:
            progress("volumes", done, len(records))
        volumes.append(_cache_volume(record, cache))
    if progress is not None:
        progress("volumes", len(records), len(records))
    return volumes


def _cache_volume(record: ingest.ScanRecord, cache: Path) -> CachedVolume:
    header = record.readable()
    files = [path for path in header.provenance.files if path.is_file()]
    facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    key = hashlib.sha256(repr((_CACHE_SCHEMA, facts, header.package)).encode()).hexdigest()[:24]
    voxels, sidecar = cache / f"{key}.npy", cache / f"{key}.json"
    if not (voxels.exists() and sidecar.exists()):
        _, frame = ingest.select([record], option="--data")
        volume = ingest.load(record, frame=frame)
        mapping = intensity_map(volume.data)
        data = np.ascontiguousarray(volume.data, dtype=np.float32)
        data = (data - np.float32(mapping.low)) / np.float32(mapping.high - mapping.low)
        with atomic_path(voxels) as temporary:
            np.save(temporary, data)
        planes: tuple[Plane, ...] = (*ANATOMICAL, "acquired")
        write_json(
            sidecar,
            {
                "name": record.path.name,
                "subject": record.subject_id or _stem(record.path),
                "affine": volume.affine.tolist(),
                "shape": list(data.shape),
                "intensity": [mapping.low, mapping.high],
                "kept": {
                    plane: _kept(stack_frame(volume.affine, volume.shape, plane).view(data))
                    for plane in planes
                },
            },
        )
    found = read_json(sidecar)
    i, j, k = found["shape"]
    low, high = found["intensity"]
    return CachedVolume(
        path=voxels,
        name=found["name"],
        subject=found["subject"],
        affine=tuple(map(tuple, found["affine"])),
        shape=(i, j, k),
        intensity=(low, high),
        kept=found["kept"],
    )


def _stem(path: Path) -> str:
    name = path.name
    if bids := re.match(r"sub-([0-9A-Za-z]+)", name):
        return bids[1]
    for ending in (".gz", ".nii", ".nrrd", ".mha", ".mhd"):
        name = name.removesuffix(ending)
    return name


def _kept(slices: NDArray[np.float32]) -> list[int]:
    """Return the slices with at least 5 % of the largest slice's foreground."""
    area = np.array([int((image > 0).sum()) for image in slices])
    return [int(n) for n in np.flatnonzero(area >= max(1.0, _EMPTY_SHARE * area.max()))]


class ImageFile:
    """Images of any sizes, one after another in one memory-mapped file.

    Parameters
    ----------
    path : Path
        The file.
    sizes : sequence of tuple of int
        Rows and columns of every image.
    dtype : dtype-like
        Of its pixels.
    """

    def __init__(
        self, path: Path, sizes: Sequence[tuple[int, int]], dtype: DTypeLike = np.float32
    ) -> None:
        self.sizes = [(int(rows), int(cols)) for rows, cols in sizes]
        self._pixels = np.memmap(path, dtype=dtype, mode="r")
        self._starts = np.cumsum([0, *(rows * cols for rows, cols in self.sizes)])

    def __getitem__(self, index: int) -> NDArray[Any]:
        pixels = self._pixels[self._starts[index] : self._starts[index + 1]]
        return np.array(pixels).reshape(self.sizes[index])


class DatasetSlices:
    """Slices of a published dataset, decoded once into one memory-mapped file.

    A shuffled order would decode a whole row group of the dataset for every slice.

    Parameters
    ----------
    pixels : Path
        File of all slices' pixels, one after another, float32.
    rows : sequence of mapping
        Per slice, what `srmri_data.dataset.SliceItem` holds but the image, and its ``size``.
    """

    def __init__(self, pixels: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._images = ImageFile(pixels, [row["size"] for row in rows])
        self._rows = rows
        self.subjects = [str(row["subject"]) for row in rows]
        self.planes = [str(row["plane"]) for row in rows]
        self.sizes = self._images.sizes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> StackSlice:
        row = self._rows[index]
        return StackSlice(
            image=self._images[index],
            subject=row["subject"],
            volume=row["volume"],
            plane=row["plane"],
            slice_index=row["slice_index"],
            intensity=(row["intensity"][0], row["intensity"][1]),
            spacing=(row["spacing"][0], row["spacing"][1]),
        )


def cache_dataset(
    dataset: SliceDataset, cache: Path, *, progress: Progress | None = None
) -> DatasetSlices:
    """Decode the slices of one split into a file that can be memory-mapped.

    Parameters
    ----------
    dataset : SliceDataset
        Table ``slices_hr`` of a split.
    cache : Path
        Folder for the files, one per split; what is there already is used again.
    progress : callable, optional
        Called as ``progress("slices", done, total)``.

    Returns
    -------
    DatasetSlices
        Its slices, in the dataset's order.
    """
    pixels, index = cache / "slices.f32", cache / "slices.json"
    if not (pixels.exists() and index.exists()):
        rows = []
        with atomic_path(pixels) as temporary, open(temporary, "wb") as file:
            for number in range(len(dataset)):
                item = cast(SliceItem, dataset[number])
                image = np.ascontiguousarray(item["image"], dtype=np.float32)
                file.write(image.data)
                facts = {name: value for name, value in item.items() if name != "image"}
                rows.append({**facts, "size": list(image.shape)})
                if progress is not None:
                    progress("slices", number + 1, len(dataset))
            file.flush()
        write_json(index, rows)
    return DatasetSlices(pixels, read_json(index, max_bytes=1 << 30))


class Subset(Generic[Item]):
    """Some of the slices or pairs.

    Parameters
    ----------
    slices : Items
        All of them.
    indices : sequence of int
        Which.
    """

    def __init__(self, slices: Items[Item], indices: Sequence[int]) -> None:
        self.slices = slices
        self.indices = [int(index) for index in indices]

    @property
    def subjects(self) -> list[str]:
        """Subject of every slice."""
        subjects = self.slices.subjects
        return [subjects[index] for index in self.indices]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of every slice."""
        sizes = self.slices.sizes
        return [sizes[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Item:
        return self.slices[self.indices[index]]


def showing(slices: Slices, neighbours: int) -> Slices:
    """Have every slice come with its neighbours.

    Parameters
    ----------
    slices : Slices
        Slices.
    neighbours : int
        How many on either side.

    Returns
    -------
    Slices
        The same slices, with `StackSlice.neighbours` where they have them.

    Raises
    ------
    UsageError
        If they are of a dataset, whose slices stand alone.
    """
    if isinstance(slices, Subset):
        return Subset(showing(slices.slices, neighbours), slices.indices)
    if isinstance(slices, VolumeSlices):
        return VolumeSlices(slices.volumes, slices.planes, neighbours=neighbours)
    raise UsageError(
        "the network looks at neighbouring slices, and a dataset has single ones",
        hint="train on the HR volumes, or with --neighbours 0",
    )


def volumes_of(slices: Slices) -> list[CachedVolume]:
    """Return the volumes that slices were cut from.

    Parameters
    ----------
    slices : Slices
        Slices of some subjects.

    Returns
    -------
    list of CachedVolume
        Those of these subjects; none of a dataset.
    """
    subjects = set(slices.subjects)
    while isinstance(slices, Subset):
        slices = slices.slices
    if not isinstance(slices, VolumeSlices):
        return []
    return [volume for volume in slices.volumes if volume.subject in subjects]


class Concatenation(Generic[Item]):
    """The slices or pairs of several sources, one after another.

    Parameters
    ----------
    *parts : Items
        The sources.
    """

    def __init__(self, *parts: Items[Item]) -> None:
        self._places = [(part, n) for part in parts for n in range(len(part))]
        self.subjects = [subject for part in parts for subject in part.subjects]
        self.sizes = [size for part in parts for size in part.sizes]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int, /) -> Item:
        part, number = self._places[index]
        return part[number]


def read_split(path: Path) -> dict[str, list[str]]:
    """Read which subjects train and which are held out.

    Parameters
    ----------
    path : Path
        JSON with lists of subjects: ``train``, and any of ``tune``, ``validation``, ``test``.

    Returns
    -------
    dict of str to list of str
        Subjects by split.

    Raises
    ------
    FormatError
        If it is not such a file, or a subject is in two splits.
    """
    document = read_json(path)
    names = ("train", "tune", "validation", "test")
    split = {
        name: [str(subject) for subject in document[name]]
        for name in names
        if isinstance(document, dict) and isinstance(document.get(name), list)
    }
    if not split.get("train"):
        raise FormatError(f"{path}: expected a JSON object with a list of subjects, 'train'")
    counts = Counter(subject for subjects in split.values() for subject in subjects)
    if twice := [subject for subject, count in counts.items() if count > 1]:
        raise FormatError(f"{path}: in more than one split: {', '.join(twice)}")
    return split


def assign(subjects: Sequence[str], split: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find the split of every subject.

    Parameters
    ----------
    subjects : sequence of str
        Subjects as the data name them.
    split : mapping of str to sequence of str
        Subjects by split. An entry also stands for a subject whose name holds it as a part
        between underscores or hyphens: ``"10"`` for ``tg4510_tp3_10_20130523_UT``.

    Returns
    -------
    dict of str to str
        Split by subject; subjects in no split are left out.

    Raises
    ------
    UsageError
        If a subject fits entries of two splits.

    Examples
    --------
    >>> assign(["a_tp3_10_UT", "a_tp3_1_UT"], {"train": ["1"], "tune": ["10"]})
    {'a_tp3_10_UT': 'tune', 'a_tp3_1_UT': 'train'}
    """
    found = {}
    for subject in dict.fromkeys(subjects):
        parts = {subject, *re.split(r"[_-]", subject)}
        fitting = {name for name, entries in split.items() if parts & set(entries)}
        if len(fitting) > 1:
            raise UsageError(
                f"subject {subject!r} fits {' and '.join(sorted(fitting))} of the split",
                hint="write subjects in full in the split file",
            )
        if fitting:
            found[subject] = fitting.pop()
    return found


def hold_out(subjects: Sequence[str]) -> dict[str, str]:
    """Choose subjects to validate on where nobody says: every eighth, at least one.

    Parameters
    ----------
    subjects : sequence of str
        Subjects.

    Returns
    -------
    dict of str to str
        ``train`` or ``validation`` by subject. A single subject is for training.
    """
    names = sorted(set(subjects))
    count = -(-len(names) // 8) if len(names) > 1 else 0
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return {name: "validation" if name in by_hash[:count] else "train" for name in names}


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and what it is judged by.

    Parameters
    ----------
    train, validation : Slices
        Slices of different subjects, or the same when there is one subject only.
    notes : tuple of str
        What a careful user should know.
    """

    train: Slices
    validation: Slices
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of which slices of which subjects, to know the data again."""
        facts = [list(zip(s.subjects, s.sizes, strict=True)) for s in (self.train, self.validation)]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def open_data(
    data: Sequence[str],
    planes: Sequence[Plane],
    cache: Path,
    *,
    split: Path | None = None,
    progress: Progress | None = None,
) -> TrainingData:
    """Open training data and hold subjects out.

    Parameters
    ----------
    data : sequence of str
        Volumes or folders of them; or one exported dataset's folder, or one Hub id, with
        ``@revision`` after it or without.
    planes : sequence of str
        Planes of the slices.
    cache : Path
        Folder for mapped volumes.
    split : Path, optional
        Which subjects train, see `read_split`; ``tune`` or ``validation`` is held out. By default
        every eighth subject is.
    progress : callable, optional
        Called as ``progress("volumes", done, total)``.

    Returns
    -------
    TrainingData
        The slices.

    Raises
    ------
    UsageError
        If nothing is left to train on.
    SrmriError
        If the data can not be read.
    """
    if len(data) == 1 and is_dataset(data[0]):
        return _open_dataset(data[0], planes, cache, split=split, progress=progress)
    volumes = cache_volumes([Path(source) for source in data], cache, progress=progress)
    slices = VolumeSlices(volumes, planes)
    return _training_data(divide(slices, roles_of(slices.subjects, split)))


def is_dataset(source: str) -> bool:
    """Tell a dataset, exported or on the Hub, from images.

    Parameters
    ----------
    source : str
        What was given as data.

    Returns
    -------
    bool
        Whether it is a folder with tables of slices or pairs, or no path but a Hub id.
    """
    path = Path(source)
    if path.exists():
        return any((path / "data" / config).is_dir() for config in COLUMNS)
    return re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", source) is not None


def locate(source: str) -> tuple[str, str | None]:
    """Part a dataset's place from its revision.

    Parameters
    ----------
    source : str
        Folder, or Hub id with ``@revision`` after it or without.

    Returns
    -------
    where : str
        Folder or Hub id.
    revision : str or None
        None for folders and where none is given.

    Examples
    --------
    >>> locate("owner/name@v1")
    ('owner/name', 'v1')
    """
    name, _, revision = source.partition("@")
    if not revision or Path(source).exists():
        return source, None
    return name, revision


def _open_dataset(
    source: str,
    planes: Sequence[Plane],
    cache: Path,
    *,
    split: Path | None,
    progress: Progress | None,
) -> TrainingData:
    """Open the training and validation splits of a dataset."""
    where, pinned = locate(source)
    plane = planes[0] if len(planes) == 1 else None
    key = hashlib.sha256(repr((where, pinned, plane)).encode()).hexdigest()[:16]

    def opened(part: Split) -> Slices:
        dataset = SliceDataset.open(where, split=part, revision=pinned, plane=plane)
        slices = cache_dataset(dataset, cache / f"{key}-{part}", progress=progress)
        wanted = [n for n, found in enumerate(slices.planes) if found in planes]
        return Subset(slices, wanted)

    train = opened("train")
    try:
        validation = opened("validation")
    except MissingInputError:
        return _training_data(divide(train, roles_of(train.subjects, split)))
    if split is None:
        return TrainingData(train, validation, ())
    both = Concatenation(train, validation)
    return _training_data(divide(both, roles_of(both.subjects, split)))


def roles_of(subjects: Sequence[str], split: Path | None) -> dict[str, str]:
    """Find the split of every subject, from a file or by holding some out.

    Parameters
    ----------
    subjects : sequence of str
        Subject of every slice.
    split : Path, optional
        See `read_split`.

    Returns
    -------
    dict of str to str
        From `assign`, or `hold_out` without a file.
    """
    names = list(dict.fromkeys(subjects))
    return hold_out(names) if split is None else assign(names, read_split(split))


@dataclass(frozen=True)
class Parts(Generic[Item]):
    """Slices or pairs, divided by subject.

    Parameters
    ----------
    train, validation, test : Items
        Those to train on, to choose by, and to leave alone until the end; the last may be empty.
    notes : tuple of str
        What a careful user should know.
    """

    train: Items[Item]
    validation: Items[Item]
    test: Items[Item]
    notes: tuple[str, ...]


def divide(slices: Items[Item], roles: Mapping[str, str]) -> Parts[Item]:
    """Divide slices or pairs by the roles of their subjects.

    Parameters
    ----------
    slices : Items
        All of them.
    roles : mapping of str to str
        Split by subject; subjects without one are left out.

    Returns
    -------
    Parts
        Validation is ``validation``, else ``tune``, else what is trained on.

    Raises
    ------
    UsageError
        If nothing is left to train on.
    """
    subjects = slices.subjects
    members: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        members.setdefault(roles.get(subject, "none"), []).append(index)
    notes = []
    if left_out := {s for s in subjects if s not in roles}:
        notes.append(f"{len(left_out)} subjects are in no split and were left out")
    if "train" not in members:
        raise UsageError(
            f"none of the {len(set(subjects))} subjects is for training",
            hint=f"the data name them {', '.join(sorted(set(subjects))[:3])}, …",
        )
    train = Subset(slices, members["train"])
    test = Subset(slices, members.get("test", []))
    held_out = members.get("validation") or members.get("tune")
    if held_out is None:
        notes.append("no subject is held out: validation is on subjects that were trained on")
        return Parts(train, train, test, tuple(notes))
    return Parts(train, Subset(slices, held_out), test, tuple(notes))


def _training_data(parts: Parts[StackSlice]) -> TrainingData:
    return TrainingData(parts.train, parts.validation, parts.notes)


def plane_index(
    planes: Sequence[str], n_planes: int, device: torch.device | None = None
) -> Planes | None:
    """Return the plane label a network takes.

    Parameters
    ----------
    planes : sequence of str
        Plane of every image.
    n_planes : int
        Planes the network tells apart; 0 for one without label.
    device : torch.device, optional
        Where to put it; the CPU by default.

    Returns
    -------
    (B,) Tensor or None
        Place of every plane in `srmri_data.choices.ANATOMICAL`, int64; None without label.
    """
    if n_planes == 0:
        return None
    names: list[str] = [*ANATOMICAL]
    return torch.tensor([names.index(plane) for plane in planes], device=device)

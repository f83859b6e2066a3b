"""Little data for a run that shows that everything works: crops of volumes, or the phantom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srmri_data import ingest
from srmri_data.choices import Plane
from srmri_data.errors import UsageError
from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.phantom import mouse_brain
from srmri_data.safe_io import write_json
from srmri_data.slices import stack_frame
from srmri_data.volumes import Volume
from srmri_model.training.slices import assign, hold_out, read_split
from srmri_model.upsampling.denoising import stack_axes

_TRAINED = 3
"""Animals to train on, at most; one more is tuned on and one tested."""
_SLICES, _EDGE = 12, 80
_PHANTOM_SHAPE, _PHANTOM_SPACING = (80, 100, 52), 0.15


def crops(data: Sequence[str], split: Path | None, out: Path, plane: Plane) -> Path:
    """Cut small volumes out of HR volumes, those for testing left alone.

    Parameters
    ----------
    data : sequence of str
        Volumes or folders of them.
    split : Path or None
        Who is for what. An animal that is held out for tuning is tested here: what a run that only
        shows that everything works finds must tell nothing of the animals of the real test.
    out : Path
        Folder to write into.
    plane : str
        Plane of the slices.

    Returns
    -------
    Path
        The split of the crops, in their folder.

    Raises
    ------
    UsageError
        If there are too few animals.
    """
    found = [record for source in data for record in ingest.discover(Path(source))]
    records = {_stem(record.path): record for record in found}
    roles = hold_out(list(records)) if split is None else assign(list(records), read_split(split))
    train = [name for name, role in roles.items() if role == "train"]
    held_out = [name for name, role in roles.items() if role in ("tune", "validation")]
    tested, tuned = held_out[:1], held_out[1:2]
    if not tuned:
        train, tuned = train[:-1], train[-1:]
    if not (train and tested):
        raise UsageError(
            "--smoke takes three animals that are not for testing, one of them held out; found "
            f"{len(held_out)} held out of {len(roles)}",
            hint="leave --data out to try everything on the phantom",
        )
    parts = {"train": train[:_TRAINED], "tune": tuned, "test": tested}
    for name in (name for names in parts.values() for name in names):
        _, frame = ingest.select([records[name]], option="--data")
        volume = ingest.load(records[name], frame=frame)
        _write(out / f"{name}.nii.gz", volume, plane)
    return _split(out, parts)


def phantoms(out: Path, plane: Plane) -> Path:
    """Scan a few animals of the phantom.

    Parameters
    ----------
    out : Path
        Folder to write into.
    plane : str
        Plane of the slices.

    Returns
    -------
    Path
        The split, in their folder.
    """
    names = [f"phantom{animal}" for animal in range(_TRAINED + 2)]
    for animal, name in enumerate(names):
        volume = mouse_brain(_PHANTOM_SHAPE, _PHANTOM_SPACING, animal=animal)
        _write(out / f"{name}.nii.gz", volume, plane)
    return _split(out, {"train": names[:_TRAINED], "tune": names[_TRAINED:-1], "test": names[-1:]})


def _split(out: Path, parts: Mapping[str, Sequence[str]]) -> Path:
    write_json(out / "split.json", parts)
    return out / "split.json"


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _write(path: Path, volume: Volume, plane: Plane) -> None:
    """Write the middle slices of a volume, each cut around its tissue."""
    data = np.asarray(volume.data, dtype=np.float32)
    axes = stack_axes(stack_frame(volume.affine, data.shape, plane))
    corner, parts = np.eye(4), [slice(None)] * 3
    for axis, size in zip(axes, (_SLICES, _EDGE, _EDGE), strict=True):
        start, stop = _window(data, axis, size)
        parts[axis], corner[axis, 3] = slice(start, stop), start
    write_nifti(path, np.ascontiguousarray(data[tuple(parts)]), volume.affine @ corner)


def _window(data: NDArray[np.float32], axis: int, size: int) -> tuple[int, int]:
    """Find an even number of voxels about the middle of the tissue."""
    others = tuple(other for other in range(3) if other != axis)
    places = np.flatnonzero((data > 0).any(axis=others))
    count = data.shape[axis]
    size = min(size, count) // 2 * 2
    middle = int(places.mean()) if places.size else count // 2
    start = min(max(0, middle - size // 2), count - size)
    return start, start + size

"""Read a published dataset, from its folder or from the Hub, as a map-style data set.

It needs no torch, survives pickling, and hands out arrays: a `torch.utils.data.DataLoader` takes
it as it is.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import Plane
from srmri_data.dataset_schema import COLUMNS, ConfigName, Split, image_columns
from srmri_data.errors import FormatError, MissingInputError, UsageError
from srmri_data.png import decode_grey

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KEPT_GROUPS = 4


class SliceItem(TypedDict):
    """A slice of an HR scan."""

    image: NDArray[np.float32]
    """(row, col), in the volume's [0, 1] intensity map, not clipped."""
    subject: str
    volume: str
    plane: Plane
    slice_index: int
    intensity: tuple[float, float]
    """Scanner units that are 0 and 1."""
    spacing: tuple[float, float]
    """Distance of rows and of columns, mm."""


class PairItem(TypedDict):
    """An LR slice with its partner at HR's in-plane resolution."""

    low_res: NDArray[np.float32]
    """(row, col) in LR's intensity map, not clipped."""
    high_res: NDArray[np.float32]
    """(row, col) on LR's plane, in HR's intensity map, not clipped: `hr_aligned`."""
    high_res_slice: NDArray[np.float32]
    """(row, col): the nearest slice of HR as it was scanned."""
    mask: NDArray[np.bool_]
    """(row, col): where `high_res` was measured."""
    pair_id: str
    subject: str
    plane: Plane
    lr_slice: int
    hr_position: float
    confidence: float
    low_res_intensity: tuple[float, float]
    high_res_intensity: tuple[float, float]
    low_res_spacing: tuple[float, float]
    high_res_spacing: tuple[float, float]


class _Rows(Protocol):
    """Where rows come from: PNG bytes in image columns, plain values elsewhere."""

    def column(self, name: str) -> list[Any]:
        """Return all values of a column without images."""
        ...

    def row(self, number: int) -> dict[str, Any]:
        """Return one row."""
        ...


class SliceDataset:
    """Slices or pairs of one split, in a fixed order.

    Parameters
    ----------
    rows : object
        Where they come from; use `open`.
    config : {"pairs", "slices_hr"}
        Which table.
    plane : Plane, optional
        Only slices of this plane.

    Raises
    ------
    UsageError
        If nothing of this plane is there.
    """

    def __init__(self, rows: _Rows, config: ConfigName, plane: Plane | None = None) -> None:
        self.config = config
        self._rows = rows
        planes = rows.column("plane")
        self._numbers = [n for n, found in enumerate(planes) if plane in (None, found)]
        if not self._numbers:
            raise UsageError(
                f"the dataset has no {plane or ''} slices in this split",
                hint=f"its planes are {', '.join(sorted(set(planes))) or 'none'}",
            )
        subjects = rows.column("subject")
        self.subjects: list[str] = [subjects[n] for n in self._numbers]

    @classmethod
    def open(
        cls,
        source: str | Path,
        *,
        config: ConfigName = "slices_hr",
        split: Split = "train",
        revision: str | None = None,
        plane: Plane | None = None,
    ) -> Self:
        """Open one split of a dataset.

        Parameters
        ----------
        source : str or Path
            Folder that `srmri export-hf` wrote, or ``user/name`` on the Hub.
        config : {"pairs", "slices_hr"}
            Pairs, or HR slices on their own.
        split : {"train", "validation", "test"}
            Which subjects.
        revision : str, optional
            Tag, branch or commit on the Hub; pin it for anything that is to be repeated.
        plane : Plane, optional
            Only slices of this plane.

        Returns
        -------
        SliceDataset
            Ready to be indexed.

        Raises
        ------
        MissingInputError
            If there is no such dataset or split.
        FormatError
            If a file is damaged or lacks a column.
        UsageError
            If a revision is given with a folder, or nothing of this plane is there.
        """
        if config not in COLUMNS:
            raise UsageError(f"config {config!r}: choose {' or '.join(COLUMNS)}")
        path = Path(source)
        if path.is_dir():
            if revision is not None:
                raise UsageError(f"{path} is a folder and has no revisions")
            return cls(_FolderRows(path, config, split), config, plane)
        if not _HUB_NAME.fullmatch(str(source)):
            raise MissingInputError(
                f"{source}: no such folder", hint="give a dataset folder, or user/name on the Hub"
            )
        return cls(_HubRows(str(source), config, split, revision), config, plane)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> SliceItem | PairItem:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} slices")
        row = self._rows.row(self._numbers[index])
        return _slice_item(row) if self.config == "slices_hr" else _pair_item(row)


def _slice_item(row: dict[str, Any]) -> SliceItem:
    intensity = row["intensity_low"], row["intensity_high"]
    return SliceItem(
        image=_mapped(row["image"], row["scale"], row["offset"], intensity),
        subject=row["subject"],
        volume=row["volume"],
        plane=row["plane"],
        slice_index=row["slice_index"],
        intensity=intensity,
        spacing=(row["row_mm"], row["col_mm"]),
    )


def _pair_item(row: dict[str, Any]) -> PairItem:
    low = row["lr_intensity_low"], row["lr_intensity_high"]
    high = row["hr_intensity_low"], row["hr_intensity_high"]
    return PairItem(
        low_res=_mapped(row["lr"], row["lr_scale"], row["lr_offset"], low),
        high_res=_mapped(
            row["hr_aligned"], row["hr_aligned_scale"], row["hr_aligned_offset"], high
        ),
        high_res_slice=_mapped(row["hr"], row["hr_scale"], row["hr_offset"], high),
        mask=decode_grey(row["mask"]) != 0,
        pair_id=row["pair_id"],
        subject=row["subject"],
        plane=row["plane"],
        lr_slice=row["lr_slice"],
        hr_position=row["hr_position"],
        confidence=row["confidence"],
        low_res_intensity=low,
        high_res_intensity=high,
        low_res_spacing=(row["lr_row_mm"], row["lr_col_mm"]),
        high_res_spacing=(row["hr_row_mm"], row["hr_col_mm"]),
    )


def _mapped(
    content: bytes, scale: float, offset: float, intensity: tuple[float, float]
) -> NDArray[np.float32]:
    """Pixels to scanner units to [0, 1], rounded once."""
    low, high = intensity
    pixels = decode_grey(content).astype(np.float64)
    pixels *= scale / (high - low)
    pixels += (offset - low) / (high - low)
    return pixels.astype(np.float32)


class _FolderRows:
    """Rows of the Parquet files of a folder; a row group is read when one of its rows is wanted."""

    def __init__(self, folder: Path, config: ConfigName, split: Split) -> None:
        import pyarrow.parquet as pq

        self._files = sorted((folder / "data" / config).glob(f"{split}-*.parquet"))
        if not self._files:
            found = sorted({p.name.split("-")[0] for p in (folder / "data" / config).glob("*-*")})
            raise MissingInputError(
                f"{folder}: no {config} of split {split!r}",
                hint=f"it has {', '.join(found)}" if found else f"it has no {config}",
            )
        columns = list(COLUMNS[config])
        images = set(image_columns(COLUMNS[config]))
        self._wanted = [name for name in columns if name != "preview"]
        self._groups: list[tuple[int, int]] = []
        counts = []
        small: dict[str, list[Any]] = {"plane": [], "subject": []}
        for number, path in enumerate(self._files):
            try:
                file = pq.ParquetFile(path)
                missing = set(self._wanted) - set(file.schema_arrow.names)
                if missing:
                    raise FormatError(f"{path}: column {sorted(missing)[0]!r} is missing")
                table = file.read(columns=list(small))
            except FormatError:
                raise
            except Exception as error:  # pyarrow raises a family of its own
                raise FormatError(f"{path}: damaged parquet file ({error})") from error
            for name, values in small.items():
                values += table[name].to_pylist()
            for group in range(file.num_row_groups):
                self._groups.append((number, group))
                counts.append(file.metadata.row_group(group).num_rows)
        self._starts = [0, *accumulate(counts)]
        self._small = small
        self._images = images
        self._forget()

    def _forget(self) -> None:
        self._open: dict[int, Any] = {}
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_open", "_kept", "_process")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def column(self, name: str) -> list[Any]:
        return self._small[name]

    def row(self, number: int) -> dict[str, Any]:
        group = bisect_right(self._starts, number) - 1
        table = self._group(group).slice(number - self._starts[group], 1)
        (row,) = table.to_pylist()
        return {k: v["bytes"] if k in self._images else v for k, v in row.items()}

    def _group(self, number: int) -> Any:
        import pyarrow.parquet as pq

        if self._process != os.getpid():
            # A forked worker must not share its parent's position in the file.
            self._forget()
        if number not in self._kept:
            file, group = self._groups[number]
            if file not in self._open:
                self._open[file] = pq.ParquetFile(self._files[file])
            self._kept[number] = self._open[file].read_row_group(
                group, columns=self._wanted, use_threads=False
            )
            while len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


class _HubRows:
    """Rows of a dataset on the Hub, kept on disk by `datasets`."""

    def __init__(self, name: str, config: ConfigName, split: Split, revision: str | None) -> None:
        import datasets

        try:
            table = datasets.load_dataset(name, config, split=split, revision=revision)
        except (FileNotFoundError, ConnectionError, ValueError) as error:
            raise MissingInputError(
                f"{name}: {error}", hint="check the name, the revision and that you are signed in"
            ) from error
        images = [name for name in image_columns(COLUMNS[config]) if name in table.column_names]
        for image in images:
            table = table.cast_column(image, datasets.Image(decode=False))
        self._images = set(images)
        self._table = table

    def column(self, name: str) -> list[Any]:
        return list(self._table[name])

    def row(self, number: int) -> dict[str, Any]:
        row = cast(dict[str, Any], self._table[number])
        return {k: v["bytes"] if k in self._images else v for k, v in row.items()}

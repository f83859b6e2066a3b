"""Rows of the tables, and their way into Parquet files of a planned size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.choices import Plane
from srmri_data.dataset_schema import arrow_schema, image_columns
from srmri_data.export.plan import ExportPlan, PlannedPairs, PlannedVolume, Shards
from srmri_data.pixels import SixteenBit
from srmri_data.png import encode_grey
from srmri_data.slices import IntensityMap

Row = Callable[[], dict[str, Any]]
"""Makes a row when it is called; images are encoded then."""


@dataclass(frozen=True, eq=False)
class Scanned:
    """A scan whose rows are being made.

    Parameters
    ----------
    pixels : SixteenBit
        Its voxels.
    intensity : IntensityMap
        Its map to [0, 1].
    """

    pixels: SixteenBit
    intensity: IntensityMap


class Table:
    """Rows of one table and split into its planned files, images encoded on all processors.

    Parameters
    ----------
    folder : Path
        Dataset folder.
    shards : Shards
        Files and their rows.
    columns : mapping
        From `columns_of`.
    """

    def __init__(self, folder: Path, shards: Shards, columns: Mapping[str, Any]) -> None:
        self._shards = shards
        self._paths = [folder / path for path in shards.paths]
        self._columns = columns
        self._schema = arrow_schema(columns)
        self._pending: list[Row] = []
        self._shard = 0
        self._written = 0
        self._writer: Any = None

    def add(self, row: Row, pool: ThreadPoolExecutor) -> None:
        """Take a row; write when a row group is complete.

        Parameters
        ----------
        row : callable
            Makes the row.
        pool : ThreadPoolExecutor
            Where rows are made.
        """
        self._pending.append(row)
        left = self._shards.rows[self._shard] - self._written
        if len(self._pending) == min(self._shards.group_rows, left):
            self._flush(pool)

    def finish(self, pool: ThreadPoolExecutor) -> None:
        """Make the rows that wait, for their scan is about to be forgotten.

        Parameters
        ----------
        pool : ThreadPoolExecutor
            Where rows are made.
        """
        # They are not written yet: a row group may hold slices of two scans.
        made = list(pool.map(lambda row: row(), self._pending))
        self._pending = [lambda row=row: row for row in made]  # type: ignore[misc]

    def _flush(self, pool: ThreadPoolExecutor) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = list(pool.map(lambda row: row(), self._pending))
        self._pending = []
        if self._writer is None:
            path = self._paths[self._shard]
            path.parent.mkdir(parents=True, exist_ok=True)
            images = image_columns(self._columns)
            self._writer = pq.ParquetWriter(
                path,
                self._schema,
                version="2.6",
                # PNG is compressed already; its bytes have neither repeats nor an order.
                compression=dict.fromkeys(images, "NONE")
                | {name: "ZSTD" for name in self._columns if name not in images},
                use_dictionary=[n for n, kind in self._columns.items() if kind == "string"],
                write_statistics=[n for n in self._columns if n not in images],
            )
        table = pa.Table.from_pylist(rows, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))
        self._written += len(rows)
        if self._written == self._shards.rows[self._shard]:
            self._writer.close()
            self._writer, self._written = None, 0
            self._shard += 1


def pixels_sha256(pixels: NDArray[np.uint16]) -> str:
    """Return the hash of an image that the tables list.

    Parameters
    ----------
    pixels : (row, col) ndarray of uint16
        The image.

    Returns
    -------
    str
        SHA-256 of its values, row by row, little-endian.
    """
    return hashlib.sha256(pixels.astype("<u2", copy=False).tobytes()).hexdigest()


def _image(pixels: NDArray[Any]) -> dict[str, Any]:
    return {"bytes": encode_grey(pixels), "path": None}


def _preview(pixels: NDArray[np.uint16], scale: float, offset: float, shown: IntensityMap) -> Any:
    grey = shown.apply(pixels * np.float32(scale) + np.float32(offset))
    return _image(np.rint(grey * 255).astype(np.uint8))


def pair_rows(
    run: PlannedPairs,
    plan: ExportPlan,
    *,
    low: Scanned,
    high: Scanned,
    aligned: SixteenBit,
    mask: NDArray[Any],
) -> Iterator[Row]:
    """Yield the pairs of a run.

    Parameters
    ----------
    run : PlannedPairs
        The run.
    plan : ExportPlan
        Of the dataset.
    low, high : Scanned
        Its scans.
    aligned : SixteenBit
        HR on LR's planes, axes (col, row, slice), one slice per row of ``run.pairs``.
    mask : (col, row, slice) ndarray
        0 where it is padding.

    Yields
    ------
    callable
        Makes a row of ``pairs``.
    """
    comparison = run.plan
    low_slices = comparison.low_frame.view(low.pixels.volume.data)
    high_slices = comparison.high_frame.view(high.pixels.volume.data)
    low_window, high_window = comparison.low_window, comparison.high_window
    steps = (*comparison.low_frame.spacing, *comparison.high_frame.spacing)
    sizes = ("lr_slice_mm", "lr_row_mm", "lr_col_mm", "hr_slice_mm", "hr_row_mm", "hr_col_mm")
    constant = {
        "subject": run.low.subject,
        "session": run.low.session,
        "split": plan.splits[run.low.subject],
        "plane": comparison.config.plane,
        "lr_scale": low.pixels.scale,
        "lr_offset": low.pixels.offset,
        "lr_lossless": low.pixels.lossless,
        "lr_intensity_low": low.intensity.low,
        "lr_intensity_high": low.intensity.high,
        "hr_scale": high.pixels.scale,
        "hr_offset": high.pixels.offset,
        "hr_lossless": high.pixels.lossless,
        "hr_aligned_scale": aligned.scale,
        "hr_aligned_offset": aligned.offset,
        "hr_intensity_low": high.intensity.low,
        "hr_intensity_high": high.intensity.high,
        **dict(zip(sizes, steps, strict=True)),
        "lr_volume": run.low.path,
        "hr_volume": run.high.path,
    }
    copied = (
        *("lr_slice", "hr_slice", "hr_position", "offset_um", "method", "status", "n_votes"),
        *("spread", "margin", "confidence", "geom_position", "position_error", "similarity"),
        *("truth_position", "reviewed_by_n", "review_confidence"),
    )

    def row(number: int) -> dict[str, Any]:
        pair = {k: _plain(v) for k, v in run.pairs.iloc[number].items()}
        low_image = low.pixels.pixels(low_slices[(pair["lr_slice"], *low_window.index[1:])])
        high_image = high.pixels.pixels(high_slices[(pair["hr_slice"], *high_window.index[1:])])
        partner = aligned.pixels(aligned.volume.data[:, :, number].T)
        valid = mask[:, :, number].T != 0
        made = {
            "pair_id": f"{run.id}_{pair['lr_slice']:04d}",
            **constant,
            **{name: pair[name] for name in copied},
            "votes": {name: pair[f"vote_{name}"] for name in ("pca", "lpips", "ssim")},
            "lr": _image(low_image),
            "hr": _image(high_image),
            "hr_aligned": _image(partner),
            "mask": _image(np.where(valid, np.uint8(255), np.uint8(0))),
            "lr_sha256": pixels_sha256(low_image),
            "hr_sha256": pixels_sha256(high_image),
            "hr_aligned_sha256": pixels_sha256(partner),
        }
        if plan.config.preview:
            made["preview"] = _preview(partner, aligned.scale, aligned.offset, high.intensity)
        return made

    for number in run.chosen:
        yield lambda number=number: row(number)  # type: ignore[misc]


def _plain(value: Any) -> Any:
    """Return a value of a pandas row as Python's own, what is missing as None."""
    import pandas as pd

    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def slice_rows(planned: PlannedVolume, plan: ExportPlan, scan: Scanned) -> Iterator[Row]:
    """Yield the slices of an HR scan.

    Parameters
    ----------
    planned : PlannedVolume
        The scan.
    plan : ExportPlan
        Of the dataset.
    scan : Scanned
        Its voxels.

    Yields
    ------
    callable
        Makes a row of ``slices_hr``.
    """
    found, shown = scan.pixels, scan.intensity
    threshold = (shown.foreground - found.offset) / found.scale
    for plane, (frame, window) in sorted(planned.stacks.items()):
        slices = frame.view(found.volume.data)
        slice_mm, row_mm, col_mm = frame.spacing
        constant = {
            "subject": planned.subject,
            "session": planned.session,
            "split": plan.splits[planned.subject],
            "plane": plane,
            "volume": planned.path,
            "scale": found.scale,
            "offset": found.offset,
            "lossless": found.lossless,
            "intensity_low": shown.low,
            "intensity_high": shown.high,
            "slice_mm": slice_mm,
            "row_mm": row_mm,
            "col_mm": col_mm,
        }

        def row(
            number: int,
            slices: NDArray[Any] = slices,
            constant: Mapping[str, Any] = constant,
            plane: Plane = plane,
        ) -> dict[str, Any]:
            image = found.pixels(slices[number])
            made = {
                "slice_id": f"{planned.id}_{plane}_{number:04d}",
                **constant,
                "slice_index": number,
                "image": _image(image),
                "foreground": float((image > threshold).mean()),
                "sha256": pixels_sha256(image),
            }
            if plan.config.preview:
                made["preview"] = _preview(image, found.scale, found.offset, shown)
            return made

        for number in window.slice_numbers.tolist():
            yield lambda number=number, row=row: row(number)  # type: ignore[misc]

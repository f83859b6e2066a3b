"""The columns of a published dataset, as Parquet and as the `datasets` library know them.

The contract is ``docs/publishing.md``; the export writes by this page and `SliceDataset` reads
by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

LAYOUT_VERSION = 1

ConfigName: TypeAlias = Literal["pairs", "slices_hr"]
"""`pairs` of LR and HR slices, or `slices_hr`, HR slices on their own for a score model."""

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# string, bool, int32, float64; "image" is a PNG file; a mapping is a struct.
_PLACE = {"subject": "string", "session": "string", "split": "string", "plane": "string"}
PAIRS_COLUMNS: dict[str, Any] = {
    "pair_id": "string",
    **_PLACE,
    "lr": "image",
    "hr_aligned": "image",
    "hr": "image",
    "mask": "image",
    "preview": "image",
    "lr_slice": "int32",
    "hr_slice": "int32",
    "hr_position": "float64",
    "offset_um": "float64",
    "method": "string",
    "status": "string",
    "votes": {"pca": "int32", "lpips": "int32", "ssim": "int32"},
    "n_votes": "int32",
    "spread": "int32",
    "margin": "float64",
    "confidence": "float64",
    "geom_position": "float64",
    "position_error": "float64",
    "similarity": "float64",
    "truth_position": "float64",
    "reviewed_by_n": "int32",
    "review_confidence": "int32",
    "lr_scale": "float64",
    "lr_offset": "float64",
    "lr_lossless": "bool",
    "lr_intensity_low": "float64",
    "lr_intensity_high": "float64",
    "hr_scale": "float64",
    "hr_offset": "float64",
    "hr_lossless": "bool",
    "hr_aligned_scale": "float64",
    "hr_aligned_offset": "float64",
    "hr_intensity_low": "float64",
    "hr_intensity_high": "float64",
    "lr_slice_mm": "float64",
    "lr_row_mm": "float64",
    "lr_col_mm": "float64",
    "hr_slice_mm": "float64",
    "hr_row_mm": "float64",
    "hr_col_mm": "float64",
    "lr_volume": "string",
    "hr_volume": "string",
    "lr_sha256": "string",
    "hr_sha256": "string",
    "hr_aligned_sha256": "string",
}
SLICES_COLUMNS: dict[str, Any] = {
    "slice_id": "string",
    **_PLACE,
    "image": "image",
    "preview": "image",
    "volume": "string",
    "slice_index": "int32",
    "foreground": "float64",
    "scale": "float64",
    "offset": "float64",
    "lossless": "bool",
    "intensity_low": "float64",
    "intensity_high": "float64",
    "slice_mm": "float64",
    "row_mm": "float64",
    "col_mm": "float64",
    "sha256": "string",
}
COLUMNS: dict[ConfigName, dict[str, Any]] = {"pairs": PAIRS_COLUMNS, "slices_hr": SLICES_COLUMNS}


def columns_of(config: ConfigName, *, preview: bool) -> dict[str, Any]:
    """Return the columns of a configuration.

    Parameters
    ----------
    config : {"pairs", "slices_hr"}
        Which table.
    preview : bool
        Whether it has 8-bit previews.

    Returns
    -------
    dict
        Column to type: a word, or a dict for a struct.
    """
    return {k: v for k, v in COLUMNS[config].items() if preview or k != "preview"}


def image_columns(columns: Mapping[str, Any]) -> list[str]:
    """Return the columns that hold images.

    Parameters
    ----------
    columns : mapping
        From `columns_of`.

    Returns
    -------
    list of str
        Their names.
    """
    return [name for name, kind in columns.items() if kind == "image"]


def arrow_schema(columns: Mapping[str, Any]) -> pa.Schema:
    """Return the Parquet schema, with the features `datasets` reads from its metadata.

    Parameters
    ----------
    columns : mapping
        From `columns_of`.

    Returns
    -------
    pyarrow.Schema
        Images are structs of ``bytes`` and ``path``, as `datasets.Image` stores them.
    """
    import pyarrow as pa

    words = {
        "string": pa.string(),
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "float64": pa.float64(),
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    }

    def arrow(kind: Any) -> Any:
        if isinstance(kind, Mapping):
            return pa.struct([(name, arrow(inner)) for name, inner in kind.items()])
        return words[kind]

    features = {"info": {"features": {name: feature(kind) for name, kind in columns.items()}}}
    return pa.schema(
        [(name, arrow(kind)) for name, kind in columns.items()],
        metadata={"huggingface": json.dumps(features)},
    )


def feature(kind: Any) -> dict[str, Any]:
    """Return a column's type as `datasets` writes it down.

    Parameters
    ----------
    kind : str or mapping
        A type of `COLUMNS`.

    Returns
    -------
    dict
        JSON-able. An image has no mode: with one, 16 bits would be clipped to 8.
    """
    if isinstance(kind, Mapping):
        return {name: feature(inner) for name, inner in kind.items()}
    if kind == "image":
        return {"_type": "Image"}
    return {"dtype": kind, "_type": "Value"}

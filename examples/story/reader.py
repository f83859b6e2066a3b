"""Read a dataset as training does: from a folder, or from a hub in a process of its own."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np

from srmri_data.dataset import SliceDataset
from srmri_data.dataset_schema import COLUMNS, SPLITS


def read_rows(source: str, revision: str | None = None) -> dict[str, dict[str, Any]]:
    """Read every slice of every table and split.

    Parameters
    ----------
    source : str
        Folder, or name on the hub.
    revision : str, optional
        Tag on the hub.

    Returns
    -------
    dict
        By table and split: ``rows``, ``subjects``, and a SHA-256 of all values in order.
    """
    return {
        config: {
            split: _digest(SliceDataset.open(source, config=config, split=split, revision=revision))
            for split in SPLITS
        }
        for config in COLUMNS
    }


def _digest(dataset: SliceDataset) -> dict[str, Any]:
    digest = hashlib.sha256()
    for number in range(len(dataset)):
        for name, value in dataset[number].items():
            content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return {
        "rows": len(dataset),
        "subjects": sorted(set(dataset.subjects)),
        "sha256": digest.hexdigest(),
    }


if __name__ == "__main__":
    json.dump(read_rows(*sys.argv[1:]), sys.stdout)

"""README.md of a dataset: what its readers and the Hub need to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srmri_data.dataset_schema import SPLITS
from srmri_data.safe_io import write_json, write_text


def write_card(
    folder: Path,
    described: Mapping[str, Any],
    certificates: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    """Write ``README.md`` and ``croissant.json`` of a dataset.

    Parameters
    ----------
    folder : Path
        Dataset folder.
    described : mapping
        `ExportPlan.describe`.
    certificates : sequence of mapping
        Accuracy certificates of its runs.
    settings : mapping
        `ExportConfig` as a dict.
    """
    write_text(folder / "README.md", f"{front_matter(described)}\n# {described['title']}\n")
    write_json(folder / "croissant.json", {})


def front_matter(described: Mapping[str, Any]) -> str:
    """Return the YAML block that the Hub reads.

    Parameters
    ----------
    described : mapping
        `ExportPlan.describe`.

    Returns
    -------
    str
        Between its two ``---`` lines.
    """
    rows = sum(sum(by_split.values()) for by_split in described["rows"].values())
    lines = ["---", f"pretty_name: {json.dumps(described['title'], ensure_ascii=False)}"]
    if described["license"]:
        lines.append(f"license: {described['license'].lower()}")
    lines += [
        "task_categories:",
        "- image-to-image",
        "size_categories:",
        f"- {_size_category(rows)}",
        "tags:",
        *(f"- {tag}" for tag in ("mri", "super-resolution", "medical", "bruker", "srmri")),
        "configs:",
    ]
    tables = [name for name in ("pairs", "slices_hr") if described["rows"][name]]
    for name in tables:
        lines += [f"- config_name: {name}"]
        lines += ["  default: true"] if name == tables[0] else []
        lines += ["  data_files:"]
        for split in SPLITS:
            if described["rows"][name].get(split):
                lines += [f"  - split: {split}", f"    path: data/{name}/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""])


def _size_category(rows: int) -> str:
    edges = (("n<1K", 1000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000))
    return next((name for name, most in edges if rows < most), "100K<n<1M")

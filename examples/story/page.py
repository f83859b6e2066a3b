"""The page of the story: every step, what was found, and links to what it made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.story.checks import load_scan, volumes_of
from examples.story.steps import Step
from srmri_data.reports.figures import PALETTE
from srmri_data.reports.html import render
from srmri_data.reports.pictures import data_uri, grey
from srmri_data.safe_io import write_text

_ZOOM = 4


def write_page(out: Path, told: Sequence[Step], records: Mapping[str, Mapping[str, Any]]) -> Path:
    """Draw the page.

    Parameters
    ----------
    out : Path
        Folder of the story.
    told : sequence of Step
        All steps.
    records : mapping of str to mapping
        Of each step: ``seconds``, ``commands`` and ``found``.

    Returns
    -------
    Path
        ``index.html``.
    """
    page = render(
        "story.html.j2",
        {
            "palette": PALETTE,
            "steps": [(step, records[step.name]) for step in told],
            "minutes": sum(record["seconds"] for record in records.values()) / 60,
            "pictures": _pictures(out),
        },
        package="examples.story",
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _pictures(out: Path) -> list[tuple[str, str]]:
    """Show the same coronal slice as it was scanned, as it was drawn, and as it is."""
    low = load_scan(out / "held-back" / "lr")
    drawn, truth = volumes_of(out)
    middle = truth.shape[1] // 2
    brightest = float(np.percentile(truth.data[:, middle], 99.5))
    volumes = (
        ("LR, as scanned", low, 2),
        ("drawn by the model", drawn, 1),
        ("the truth", truth, 1),
    )
    pictures = []
    for label, volume, factor in volumes:
        image = np.rot90(volume.data[:, middle]) / brightest
        enlarged = np.kron(grey(image), np.ones((factor * _ZOOM,) * 2, dtype=np.uint8))
        pictures.append((label, data_uri(enlarged)))
    return pictures

"""A run folder just large enough to be reviewed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from srmri_data.run_folder import PAIRS_DTYPES, SCHEMA_VERSION, with_review_columns, write_pairs

SPACING_UM = 50.0


def write_run(run: Path, *, items: int = 6, truth: bool = True) -> Path:
    """Write LR slices 10, 11, …; the first half is queued, the rest accepted at 2·LR + 0.25."""
    low = np.arange(10, 10 + items)
    queued = np.arange(items) < items // 2
    position = np.where(queued, 2.0 * low, 2 * low + 0.25)
    known = 2 * low + 0.5 if truth else pd.array([None] * items, dtype="Float64")
    table: dict[str, Any] = {
        "lr_slice": low,
        "hr_slice": 2 * low,
        "hr_position": position,
        "ref_row": 30.1,
        "ref_col": 40.2,
        "offset_um": (position - 2 * low + 0.3) * SPACING_UM,
        "vote_pca": 2 * low,
        "vote_lpips": pd.array([None] * items, dtype="Int32"),
        "vote_ssim": 2 * low + queued,
        "n_votes": 2 - queued,
        "spread": queued,
        "margin": 0.1,
        "confidence": 0.5,
        "method": "paper",
        "status": np.where(queued, "review", "auto"),
        "reason": np.where(queued, "all voters differ", "PCA and SSIM agree"),
        "empty": False,
        "truth_position": known,
        "error_slices": position - known,
    }
    run.mkdir(parents=True)
    write_pairs(run, with_review_columns(pd.DataFrame(table)).astype(PAIRS_DTYPES))
    summary = {
        "schema_version": SCHEMA_VERSION,
        "n_pairs": int((~queued).sum()),
        "queued": int(queued.sum()),
        "hr": {"slices_total": 60, "slice_spacing_um": SPACING_UM},
        "seconds": 1.5,
    }
    (run / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (run / "provenance.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
    return run

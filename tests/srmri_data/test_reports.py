"""The pairing report: what it says, what it never does, and how it looks with little data."""

from __future__ import annotations

import re
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srmri_data.reports import ReportInputs, write_report
from srmri_data.reports.figures import PALETTE, Colour, run_charts, svg
from srmri_data.reports.mosaic import png_images, tile_groups
from srmri_data.reports.series import (
    agreement,
    distance_maps,
    error_table,
    pair_series,
    pairwise_agreement,
)

ALL_VOTERS = ("pca", "lpips", "ssim")


def brain_slice(position: float, rows: int, cols: int) -> np.ndarray:
    """Draw a smooth brain-like slice; `position` runs from 0 to 1 along the brain."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    size = 0.35 + 0.55 * np.sin(np.pi * np.clip(position, 0.02, 0.98)) ** 0.7
    y, x = y / size * 0.9, x / size * 0.75
    radius = np.hypot(x, y * 1.25 + 0.1 * x**2)
    edge = 1 / (1 + np.exp((radius - 0.85) * 30))
    cortex = np.exp(-(((radius - 0.7) / 0.09) ** 2))
    angle = np.arctan2(y, x)
    folds = np.sin(7 * angle + 9 * position) * np.cos(11 * radius + 14 * position)
    texture = np.sin(26 * x + 40 * position) * np.sin(31 * y - 17 * position)
    ventricle = np.exp(-(((np.abs(x + 0.03) - 0.16 - 0.2 * position) / 0.06) ** 2) - (y / 0.22) ** 2)
    vessel = np.exp(-(((x - 0.4 + position / 2) ** 2 + (y + 0.2) ** 2) / 0.0012))
    image = 0.5 + 0.22 * cortex + 0.08 * folds + 0.05 * texture + 0.35 * ventricle - 0.4 * vessel
    return (image * edge).astype(np.float32)


def make_inputs(
    n: int = 24,
    *,
    trim: int = 2,
    shape: tuple[int, int] = (32, 45),
    voters: tuple[str, ...] = ALL_VOTERS,
    truth: bool = True,
    all_review: bool = False,
    offset: float = 1.2,
    n_empty: int = 0,
    seed: int = 3,
    **summary: Any,
) -> ReportInputs:
    """Make a plausible run: smooth motion, noisy votes, a few blunders and disagreements."""
    generator = np.random.default_rng(seed)
    low = np.arange(trim, trim + n)
    high = np.arange(trim, 2 * (n + 2 * trim) - trim)
    true = 2 * low + 0.5 + offset + 0.6 * np.sin(low / 17)
    tables, votes = [], {}
    for k, voter in enumerate(voters):
        width = (4.0, 6.0, 9.0)[k]
        wander = true + generator.normal(0, (0.35, 0.5, 0.8)[k], n)
        lost = generator.random(n) < (0.02, 0.03, 0.07)[k]
        wander[lost] += generator.normal(0, 25, int(lost.sum()))
        away = np.abs(high[None, :] - wander[:, None])
        distance = 1 - np.exp(-away / width) + 0.02 * generator.random((n, high.size))
        votes[voter] = high[np.argmin(distance, axis=1)]
        tables.append(
            pd.DataFrame(
                {
                    "lr_slice": np.repeat(low, high.size),
                    "hr_slice": np.tile(high, n),
                    "voter": voter,
                    "distance": distance.ravel().astype(np.float32),
                    "rank": np.argsort(np.argsort(distance, axis=1), axis=1).ravel(),
                }
            )
        )
    stack = np.stack(list(votes.values()))
    decided = np.median(stack, axis=0)
    n_votes = np.array([np.unique(column, return_counts=True)[1].max() for column in stack.T])
    spread = np.ptp(stack, axis=0)
    empty = np.arange(n) >= n - n_empty
    auto = (n_votes >= min(2, len(voters))) & (spread <= 4) & ~empty & (not all_review)
    margin = np.clip(generator.gamma(3, 0.05, n) / (1 + 0.3 * spread), 0, 1)
    hr_slice = pd.array(np.where(empty, 0, np.rint(decided)).astype(int), dtype="Int64")
    hr_slice[empty] = pd.NA
    pairs = pd.DataFrame(
        {
            "lr_slice": low,
            "hr_slice": hr_slice,
            "hr_position": np.where(empty, np.nan, decided),
            "ref_row": shape[0] / 2,
            "ref_col": shape[1] / 2,
            "offset_um": np.where(empty, np.nan, (decided - (2 * low + 0.5)) * 25.0),
            **{f"vote_{v}": pd.array(votes[v], dtype="Int64") for v in voters},
            "n_votes": n_votes,
            "spread": spread,
            "margin": margin,
            "confidence": np.clip(margin * 3, 0, 1),
            "method": "paper",
            "status": np.where(auto | empty, "auto", "review"),
            "reason": np.where(
                empty, "near-empty slice", np.where(auto, "", "the voters differ by more than 1")
            ),
            "empty": empty,
        }
    )
    for voter in set(ALL_VOTERS) - set(voters):
        pairs[f"vote_{voter}"] = pd.array([pd.NA] * n, dtype="Int64")
    document: dict[str, Any] = {
        "run": "m07_50um-25um",
        "method": "paper",
        "plane": "acquired",
        "trim": {"lr": trim, "hr": trim},
        "voters": list(voters),
        "n_lr": n,
        "n_hr": int(high.size),
        "n_pairs": int(auto.sum()),
        "unanimous": int((n_votes == len(voters)).sum()),
        "within_1": int((spread <= 1).sum()),
        "queued": int((~auto & ~empty).sum()),
        "seconds": 134.2,
        "voxel_ratio": [2.0, 2.0, 2.0],
        "geometry": {"slope": 2.0, "offset": 0.5, "estimated_offset": 0.5 + offset},
        "lr": {
            "path": "/scans/m07_20240611/12/pdata/1",
            "shape": [shape[1], shape[0], n + 2 * trim],
            "spacing": [0.05, 0.05, 0.05],
            "orientation": "RAS",
            "slices_total": n + 2 * trim,
        },
        "hr": {
            "path": "/scans/m07_20240611/9/pdata/1",
            "shape": [2 * shape[1], 2 * shape[0], 2 * (n + 2 * trim)],
            "spacing": [0.025, 0.025, 0.025],
            "orientation": "RAS",
            "slices_total": 2 * (n + 2 * trim),
        },
        "checks": [
            {"name": "Voxel ratio", "level": "ok", "text": "2 × 2 × 2, as expected of 50 µm and 25 µm."},
            {"name": "Orientation", "level": "ok", "text": "Both RAS; the planes are parallel to 0.00°."},
            {
                "name": "Offset",
                "level": "warning",
                "text": "The votes ask for 30 µm more than the headers say: the animal may have moved "
                "between the scans.",
            },
            {"name": "Contrast", "level": "ok", "text": "Correlation of the histograms 0.97."},
        ],
        "versions": {"srmri": "0.1.0", "numpy": "2.4.6", "torch": "2.9.0", "python": "3.11.2"},
        "command": "srmri pair --lr /scans/m07/12 --hr /scans/m07/9 --plane acquired --method paper",
    }
    if truth:
        error = np.where(empty, np.nan, decided - true)
        pairs["truth_position"], pairs["error_slices"] = true, error
        known = np.abs(error[~empty])
        document |= {
            "exact": float(np.mean(known <= 0.5)),
            "mae_slices": float(known.mean()),
            "mae_um": float(known.mean() * 25),
            "p95_slices": float(np.percentile(known, 95)),
            "blunders": int((known > 3).sum()),
            "wrongly_accepted": int((auto & (np.abs(error) > 1)).sum()),
        }
    total = 2 * (n + 2 * trim)
    noise = generator.normal(0, 0.03, (n, *shape)).astype(np.float32)
    low_res = np.stack([brain_slice(t / total, *shape) for t in true]) + noise

    def high_res_slice(number: int) -> np.ndarray:
        image = brain_slice(number / total, 2 * shape[0], 2 * shape[1])
        grain = np.random.default_rng(number).normal(0, 0.02, image.shape)
        return np.clip(image + grain, 0, 1).astype(np.float32)

    return ReportInputs(
        summary=document | summary,
        pairs=pairs,
        votes=pd.concat(tables, ignore_index=True),
        low_res=np.clip(low_res, 0, 1).astype(np.float32),
        high_res_slice=high_res_slice,
        slice_spacing_um=(50.0, 25.0),
        pixel_aspect=1.0,
    )

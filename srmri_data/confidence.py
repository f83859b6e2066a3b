"""Calibrated confidence: the chance that a pair is right within one HR slice.

A logistic regression on what speaks for and against a pair. Its weights were fitted by
``benchmarks/calibrate.py`` to simulated scans with known truth, easy, hard and false ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

FEATURES = ("agreeing", "off_path", "misfit", "orientation", "uncertain")
"""What `confidence_features` returns, in its order."""

INTERCEPT = -3.276
WEIGHTS = (3.095, -2.492, -3.502, 5.861, -0.870)

# Scores of two scans of one animal lie above this share of what noise allows.
_GOOD_QUALITY = 0.9
_CLEAR_MARGIN = 0.02


def confidence_features(
    *,
    agreeing: float,
    on_path: bool,
    quality: float,
    orientation_margin: float,
    position_error: float,
) -> Float64[np.ndarray, " feature"]:
    """Lay out what speaks for and against a pair.

    Parameters
    ----------
    agreeing : float
        Share of voters that agree with the registration, 0 … 1.
    on_path : bool
        Whether the path of all slices passes there.
    quality : float
        Of the registration, 0 … 1.
    orientation_margin : float
        How much better the headers' orientation fits than its best rival.
    position_error : float
        Standard error of the position, HR slices.

    Returns
    -------
    (5,) ndarray
        In the order of `FEATURES`, each of the size of one.
    """
    return np.array(
        [
            agreeing,
            float(not on_path),
            10.0 * max(0.0, _GOOD_QUALITY - quality),
            float(np.clip(orientation_margin / _CLEAR_MARGIN, -1, 1)),
            min(position_error, 2.0),
        ]
    )


def confidence(features: Float64[np.ndarray, "*batch feature"]) -> Float64[np.ndarray, "*batch"]:
    """Return the chance that pairs are right within one HR slice.

    Parameters
    ----------
    features : (..., 5) ndarray
        From `confidence_features`.

    Returns
    -------
    (...) ndarray
        0 … 1.
    """
    return np.asarray(1 / (1 + np.exp(-(INTERCEPT + features @ np.array(WEIGHTS)))))

"""Fit the confidence of `--method geometry`, and show how well it is calibrated.

    python -m benchmarks.calibrate accuracy.jsonl [--fit 1,3,10] [--test c57]

Takes the results of ``benchmarks.accuracy``: per slice what spoke for and against the pair, and
whether it was right within one HR slice; a pair of a decoy is wrong. Prints the weights for
`srmri_data.confidence`, and expected calibration error, reliability and AUROC (for errors above one
slice) of the weights that are in it and of the fitted ones, on volumes that were not fitted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import CASES
from srmri_data.confidence import FEATURES, INTERCEPT, WEIGHTS

Floats = NDArray[np.float64]
_BINS = 10
# What speaks for a pair; the other features speak against it.
FOR = ("agreeing", "orientation")


def slices_of(results: list[dict[str, Any]]) -> tuple[Floats, Floats]:
    """Features, and 1 where the pair is right, of all slices."""
    features, right = [], []
    for result in results:
        features += result["slices"]["features"]
        errors = result["slices"]["error"]
        decoy = CASES[result["case"]].decoy
        right += [0.0 if decoy else float(abs(error) <= 1) for error in errors]
    return np.array(features), np.array(right)


def probability(features: Floats, intercept: float, weights: Floats) -> Floats:
    """Evaluate the logistic model."""
    found: Floats = 1 / (1 + np.exp(-(intercept + features @ weights)))
    return found


def reliability(confidence: Floats, right: Floats) -> tuple[float, list[tuple[float, float, int]]]:
    """Return the expected calibration error and (confidence, share right, number) per bin."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    rows = [
        (
            float(confidence[bins == b].mean()),
            float(right[bins == b].mean()),
            int((bins == b).sum()),
        )
        for b in range(_BINS)
        if (bins == b).any()
    ]
    error = sum(abs(c - share) * n for c, share, n in rows) / len(right)
    return error, rows


def fit(features: Floats, right: Floats) -> tuple[float, Floats]:
    """Fit the model with every weight on the side it belongs to; a slight penalty keeps it finite.

    What speaks for a pair may not lower its confidence, whatever the sample says.
    """
    from scipy.optimize import minimize

    def loss(parameters: Floats) -> tuple[float, Floats]:
        score = parameters[0] + features @ parameters[1:]
        gradient = 1 / (1 + np.exp(-score)) - right
        value = np.logaddexp(0, score).sum() - right @ score + 0.5 * (parameters[1:] ** 2).sum()
        return value, np.r_[gradient.sum(), gradient @ features + parameters[1:]]

    bounds = [(None, None), *((0, None) if name in FOR else (None, 0) for name in FEATURES)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B")
    return float(found.x[0]), np.asarray(found.x[1:])


def show(name: str, features: Floats, right: Floats, intercept: float, weights: Floats) -> None:
    """Print how good a model is on some slices."""
    from sklearn.metrics import roc_auc_score

    confidence = probability(features, intercept, weights)
    error, rows = reliability(confidence, right)
    ranked = roc_auc_score(right, confidence) if 0 < right.mean() < 1 else float("nan")
    print(
        f"{name}: {len(right)} slices, ECE {error:.3f} (goal 0.05), AUROC {ranked:.3f} (goal 0.9)"
    )
    for mean, share, number in rows:
        print(f"    confidence {mean:.2f}  right {share:6.1%}  of {number}")


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("results", type=Path)
    parser.add_argument("--fit", default="1,3,10")
    parser.add_argument("--test", default="c57")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.results.read_text().splitlines()]
    results = [result for result in lines if result["method"] == "geometry"]
    parts = {
        name: slices_of([r for r in results if r["volume"] in volumes.split(",")])
        for name, volumes in (("fitted on", args.fit), ("not fitted on", args.test))
    }
    intercept, weights = fit(*parts["fitted on"])
    print(f"INTERCEPT = {intercept:.3f}")
    print(f"WEIGHTS = ({', '.join(f'{w:.3f}' for w in weights)})  # {', '.join(FEATURES)}")
    for name, (features, right) in parts.items():
        show(f"fitted weights, {name}", features, right, intercept, weights)
        show(f"weights in use, {name}", features, right, INTERCEPT, np.array(WEIGHTS))


if __name__ == "__main__":
    main()

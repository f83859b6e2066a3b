"""All draws of a volume as one result, and how it agrees with the measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.upsampling import trust
from srmri_model.upsampling.draw import Drawing, Progress, draw_volume
from srmri_model.upsampling.measure import Measured
from srmri_model.upsampling.parts import Parts
from srmri_model.upsampling.plan import nearest
from srmri_model.upsampling.trust import Voxels

_CHI2_EXPECTED = (0.5, 2.0)
_GAIN_TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class Result:
    """What was drawn, in [0, 1], and how it agrees with the measurement.

    Parameters
    ----------
    estimate : (i, j, k) ndarray
        The HR volume to write.
    std : (i, j, k) ndarray or None
        Standard deviation of the draws, scaled as the checkpoint says; from two draws on.
    residual : (i, j, k) ndarray
        H x − y of the first draw, LR.
    agreement : Agreement or None
        Means of regions.
    figures : dict
        For the sidecar.
    warnings : tuple of str
        What a careful user should know.
    """

    estimate: Voxels
    std: Voxels | None
    residual: Voxels
    agreement: trust.Agreement | None
    figures: dict[str, Any]
    warnings: tuple[str, ...]


def combine(drawing: Drawing, measured: Measured, parts: Parts, progress: Progress) -> Result:
    """Draw all samples, one in memory at a time, and judge them.

    Parameters
    ----------
    drawing : Drawing
        Model and settings.
    measured : Measured
        LR.
    parts : Parts
        Partial results.
    progress : callable
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    Result
        What is written.
    """
    config = drawing.plan.config
    degrade = drawing.operator().to(device="cpu")
    first = draw_volume(drawing, measured.volume, 0, parts, progress=progress)
    residual = measured.residual(_forward(degrade, first))
    chi2 = [_chi2(residual, measured)]
    mean, squares = first.copy() if config.samples > 1 else first, np.zeros_like(first)
    for number in range(1, config.samples):
        volume = draw_volume(drawing, measured.volume, number, parts, progress=progress)
        chi2.append(_chi2(measured.residual(_forward(degrade, volume)), measured))
        # Welford's update: the spread without holding all draws.
        step = volume - mean
        mean += step / (number + 1)
        squares += step * (volume - mean)
    scale = float(drawing.plan.metadata.get("std_scale") or 1.0)
    std = None
    if config.samples > 1:
        std = np.asarray(scale * np.sqrt(squares * trust.share_of_squares(config.samples)))
    estimate = mean if config.estimate == "mean" else first
    if config.estimate == "mean":
        residual = measured.residual(_forward(degrade, estimate))
    averaged = _forward(
        make_operator("box", drawing.plan.high_shape, drawing.plan.factors), estimate
    )
    agreement = trust.roi_agreement(measured.volume, averaged, measured.regions.foreground)
    figures: dict[str, Any] = {
        "chi2": _mean([row["foreground"] for row in chi2]),
        "chi2_regions": {name: _mean([row[name] for row in chi2]) for name in chi2[0]},
        "std_scale": scale if std is not None else None,
        "std_mean": None,
        "roi_agreement": None,
        "sharpness": _sharpness(drawing, measured, estimate),
    }
    if config.estimate == "mean":
        figures["chi2_of_mean"] = _chi2(residual, measured)["foreground"]
    if std is not None:
        inside = nearest(drawing.plan, measured.regions.foreground)
        figures["std_mean"] = float(std[inside].mean(dtype=np.float64)) if inside.any() else None
    if agreement is not None:
        figures["roi_agreement"] = {
            "regions": len(agreement.low_res),
            "gain": agreement.gain,
            "offset": agreement.offset,
            "worst": agreement.worst,
        }
    return Result(
        estimate, std, residual, agreement, figures, _result_warnings(figures, config.sampler)
    )


def _result_warnings(figures: Mapping[str, Any], sampler: str) -> tuple[str, ...]:
    found = []
    low, high = _CHI2_EXPECTED
    chi2 = figures["chi2"]
    if chi2 is None:
        found.append("LR holds no tissue thicker than two voxels, so χ² says nothing")
    elif not low <= chi2 <= high and sampler != "pc":
        found.append(
            f"χ²/m in the foreground is {chi2:.2f}, expected about 1: the noise, the operator, the "
            "grid or the sampler's settings do not fit this scan"
        )
    agreement = figures["roi_agreement"]
    if agreement is not None and abs(agreement["gain"] - 1) > _GAIN_TOLERANCE and sampler != "pc":
        found.append(
            f"means of regions follow LR with a gain of {agreement['gain']:.3f}, expected 1"
        )
    return tuple(found)


def _chi2(misfit: Voxels, measured: Measured) -> dict[str, float | None]:
    whole = np.ones(misfit.shape, dtype=bool)
    masks = {**measured.regions._asdict(), "all": whole}
    return {
        name: trust.chi2_per_voxel(misfit, measured.sigma_y, mask) for name, mask in masks.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _forward(operator: SeparableOperator, volume: Voxels) -> Voxels:
    low: Voxels = operator.forward(torch.from_numpy(np.ascontiguousarray(volume))).numpy()
    return low


def _sharpness(drawing: Drawing, measured: Measured, estimate: Voxels) -> dict[str, float | None]:
    """Differences of neighbours in the tissue, over those of interpolated LR."""
    plan = drawing.plan
    inside = nearest(plan, measured.regions.foreground)
    operator = drawing.operator().to(device="cpu")
    up = operator.up(torch.from_numpy(np.ascontiguousarray(measured.volume))).numpy()
    fine = tuple(axis for axis, factor in enumerate(plan.factors) if factor > 1)
    coarse = tuple(axis for axis in range(3) if axis not in fine)
    ratios: dict[str, float | None] = {}
    for name, axes in (("finer_axes", fine), ("across_slices", coarse)):
        before = trust.sharpness(up, inside, axes) if axes else 0.0
        ratios[name] = trust.sharpness(estimate, inside, axes) / before if before else None
    return ratios

"""What a model was trained on, kept with it, and whether a volume is of that kind."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srmri_data.dataset import SliceItem
from srmri_data.errors import ResolutionError
from srmri_data.slices import intensity_map
from srmri_model.estimate import estimate_noise
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.samplers import Denoises, ImageNoise
from srmri_model.training.slices import Slices, plane_index
from srmri_model.training.validation import spread

FACTORS = (1.5, 2.0, 3.0, 4.0)
"""Factors for which residuals of training slices are kept."""

SIGMA = 0.2
"""Noise level of the residual: high enough that the model has to know what it looks at."""

REFUSED = 1.3
"""A volume whose residual is this many times the training's largest is refused."""

_MIN_INSIDE = 50
_SAME_ZERO = 0.05


def describe_slices(slices: Slices, *, n_volumes: int = 12, per_volume: int = 24) -> dict[str, Any]:
    """Measure what training images look like, without a network.

    Parameters
    ----------
    slices : Slices
        Training slices.
    n_volumes, per_volume : int
        How many subjects and slices of each to look at, evenly spread.

    Returns
    -------
    dict
        ``spacing_mm``: finest and coarsest pixel edge. ``range``: for each of `FACTORS`, where the
        intensity map of degraded slices has its 0 and 1 on the scale of HR, on average.
        ``noise``: that of the air around the animals; None where there is no such air, as around
        stripped brains, whose background the model knows as 0. ``no_signal``: where the volumes'
        maps put 0 in scanner units, on average; None where they differ.
    """
    places: dict[str, list[int]] = {}
    for number, subject in enumerate(slices.subjects):
        places.setdefault(subject, []).append(number)
    spacings: list[float] = []
    ranges: dict[str, list[tuple[float, float]]] = {f"{factor:g}": [] for factor in FACTORS}
    noises, zeros = [], []
    for numbers in (list(places.values())[n] for n in spread(len(places), n_volumes)):
        items = [slices[numbers[n]] for n in spread(len(numbers), per_volume)]
        spacings += [mm for item in items for mm in item["spacing"]]
        low, high = items[0]["intensity"]
        zeros.append(-low / (high - low))
        try:
            for factor in FACTORS:
                values = np.concatenate([_degraded(item["image"], factor) for item in items])
                mapped = intensity_map(values.reshape(-1, 1, 1))
                ranges[f"{factor:g}"].append((mapped.low, mapped.high))
            noises += [sigma for item in items if (sigma := _noise_of_air(item)) is not None]
        except ResolutionError:
            # Too small to measure, or constant: the others tell.
            continue
    return {
        "spacing_mm": [min(spacings), max(spacings)],
        "range": {name: np.mean(found, axis=0).tolist() for name, found in ranges.items() if found},
        "noise": float(np.median(noises)) if noises else None,
        "no_signal": float(np.mean(zeros)) if np.std(zeros) < _SAME_ZERO else None,
    }


def expected_range(domain: Mapping[str, Any], factors: Iterable[float]) -> tuple[float, float]:
    """Return where the intensity map of an LR volume has its 0 and 1 on the scale of HR.

    LR is darker at its bright end, since fine bright structures are spread out. What counts is
    how many HR voxels go into one of LR's, not along which axes.

    Parameters
    ----------
    domain : mapping
        Of a checkpoint: ``range``.
    factors : iterable of float
        LR over HR voxel size along every axis.

    Returns
    -------
    zero, one : float
        Interpolated between the factors that were measured.

    Examples
    --------
    >>> expected_range({"range": {"2": [0.0, 0.9], "4": [0.0, 0.8]}}, (2.0, 2.0, 4.0))
    (0.0, 0.8)
    """
    measured = {1.0: (0.0, 1.0)}
    measured |= {float(name): (zero, one) for name, (zero, one) in domain["range"].items()}
    known = sorted(measured)
    # A factor in both axes of a slice takes its square of voxels.
    wanted = math.log(math.prod(factors)) / 2
    zero, one = (
        float(np.interp(wanted, np.log(known), [measured[f][end] for f in known])) for end in (0, 1)
    )
    return zero, one


def _noise_of_air(item: SliceItem) -> float | None:
    # Magnitudes of noise follow their law in scanner units, where no signal is 0.
    low, high = item["intensity"]
    found = estimate_noise(item["image"] * (high - low) + low)
    return found.sigma / (high - low) if found.source == "air" else None


def _degraded(image: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    low = _operator(image.shape, factor).forward(torch.from_numpy(np.asarray(image, np.float32)))
    return np.asarray(low.numpy().ravel())


@functools.lru_cache(maxsize=32)
def _operator(shape: tuple[int, ...], factor: float) -> SeparableOperator:
    return make_operator("kspace", shape, factor)


def training_residuals(
    denoiser: Denoises,
    slices: Slices,
    *,
    n_planes: int,
    sigma_max: float,
    device: torch.device,
    count: int = 16,
) -> dict[str, Any]:
    """Measure how well the model takes degraded training slices for images it knows.

    Parameters
    ----------
    denoiser : callable
        The model.
    slices : Slices
        Held-out slices.
    n_planes : int
        Plane labels of the network.
    sigma_max : float
        Its largest noise level.
    device : torch.device
        Where it computes.
    count : int
        Slices to take, evenly spread.

    Returns
    -------
    dict
        ``sigma``, and per factor of `FACTORS` the residuals, ascending.
    """
    sigma = min(SIGMA, sigma_max)
    found: dict[str, list[float]] = {f"{factor:g}": [] for factor in FACTORS}
    for place, index in enumerate(spread(len(slices), count)):
        item = slices[index]
        image = torch.from_numpy(np.asarray(item["image"], dtype=np.float32)).to(device)
        label = plane_index([item["plane"]], n_planes, device)
        for factor in FACTORS:
            operator = _operator(tuple(image.shape), factor).to(device=device)
            value = denoising_residual(
                denoiser, operator.forward(image), operator, sigma, key=place, label=label
            )
            if value is not None:
                found[f"{factor:g}"].append(value)
    return {"sigma": sigma, "factors": {name: sorted(values) for name, values in found.items()}}


@torch.no_grad()
def denoising_residual(
    denoiser: Denoises,
    low: Tensor,
    operator: SeparableOperator,
    sigma: float,
    *,
    key: int,
    label: Tensor | None = None,
) -> float | None:
    """Return what the model changes in an interpolated LR image with noise, over the noise.

    Parameters
    ----------
    denoiser : callable
        The model.
    low : (rows, cols) Tensor
        LR image in [0, 1].
    operator : SeparableOperator
        Interpolates it.
    sigma : float
        Noise level.
    key : int
        Which noise.
    label : (1,) Tensor, optional
        Plane label.

    Returns
    -------
    float or None
        Root mean square of D(Up(y) + σz) − Up(y) over σ where there is tissue; None for an image
        without.
    """
    up = operator.up(low)[None, None]
    inside = up > 0.1
    if int(inside.sum()) < _MIN_INSIDE:
        return None
    noise = ImageNoise(0, [(key,)], up.device)(tuple(up.shape[1:]))
    change = denoiser(up + sigma * noise, sigma, label) - up
    return float(change[inside].square().mean().sqrt()) / sigma


def judge_residuals(
    values: Sequence[float], domain: Mapping[str, Any], factors: Iterable[float]
) -> tuple[str, bool]:
    """Hold residuals of a volume against those of training.

    Parameters
    ----------
    values : sequence of float
        Of slices of the volume.
    domain : mapping
        Of a checkpoint: ``residual``.
    factors : iterable of float
        In-plane factors of the volume.

    Returns
    -------
    text : str
        What is wrong; empty if nothing is.
    refused : bool
        Whether it is too far off to go on without being told.
    """
    kept = domain["residual"]["factors"]
    wanted = max(factors)
    known = kept[min((name for name in kept), key=lambda name: abs(float(name) - wanted))]
    if not values or not known:
        return "", False
    middle, largest = float(np.median(values)), float(max(known))
    if middle <= largest:
        return "", False
    text = (
        f"the model changes slices of this volume by {middle:.2f} of the noise added to them, and "
        f"held-out slices of its training by {min(known):.2f} to {largest:.2f}: contrast, species "
        "or artefacts may be new to it"
    )
    return text, middle > REFUSED * largest

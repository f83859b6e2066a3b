"""An LR volume on the scale of the model, and its noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from srmri_data.errors import InputError, ResolutionError
from srmri_data.slices import IntensityMap, intensity_map
from srmri_model.estimate import (
    NoiseEstimate,
    effective_noise,
    estimate_noise,
    zero_filling,
)
from srmri_model.magnitudes import expected_channel
from srmri_model.operators import make_operator
from srmri_model.rician import rician_remap
from srmri_model.training.domain import expected_range
from srmri_model.upsampling.plan import UpsamplePlan
from srmri_model.upsampling.trust import Mask, Regions, Voxels, regions

_MIN_SIGMA_Y = 1e-3
_NOISE_TOLERANCE = 1.5


@dataclass(frozen=True, eq=False)
class Measured:
    """LR intensities as the model takes them, and what is known about them.

    Parameters
    ----------
    volume : (i, j, k) ndarray
        LR in [0, 1] by `intensity`, in stored order.
    intensity : IntensityMap
        Between scanner units and [0, 1].
    sigma_y : float
        Standard deviation of its noise.
    noise : NoiseEstimate or None
        What the data say, in scanner units.
    remapped : bool
        Whether the background was brought to that of HR images.
    no_signal : float or None
        Value of no signal where the sampler takes LR for magnitudes of a signal.
    regions : Regions
        Foreground, edge and background.
    warnings : tuple of str
        What a careful user should know.
    """

    volume: Voxels
    intensity: IntensityMap
    sigma_y: float
    noise: NoiseEstimate | None
    remapped: bool
    no_signal: float | None
    regions: Regions
    warnings: tuple[str, ...]

    @property
    def span(self) -> float:
        """Scanner units from 0 to 1."""
        return self.intensity.high - self.intensity.low

    def residual(self, seen: Voxels) -> Voxels:
        """Return what a result does not explain.

        Parameters
        ----------
        seen : (i, j, k) ndarray
            H x.

        Returns
        -------
        (i, j, k) ndarray
            H x − y; of magnitudes, of what they say about a signal near H x.
        """
        if self.no_signal is None:
            return np.asarray(seen - self.volume)
        low, near = (torch.from_numpy(np.ascontiguousarray(a)) for a in (self.volume, seen))
        said = expected_channel(low, near, self.sigma_y, self.no_signal)
        return np.asarray(seen - said.numpy())

    @property
    def around_tissue(self) -> Mask:
        """Voxels less than three from tissue: elsewhere there is surely none."""
        near = self.regions.foreground | self.regions.edge
        return np.asarray(ndimage.binary_dilation(near))


def measure(plan: UpsamplePlan, data: Voxels) -> Measured:
    """Bring an LR volume to the model's scale, and find its noise.

    Parameters
    ----------
    plan : UpsamplePlan
        With the checkpoint's knowledge of its training images.
    data : (i, j, k) ndarray
        Scanner units.

    Returns
    -------
    Measured
        What is sampled from.

    Raises
    ------
    InputError
        If the volume is not finite, constant, or its noise is neither given nor measurable.
    """
    path = plan.low[0].path
    if not np.isfinite(data).all():
        raise InputError(
            f"{path}: {int((~np.isfinite(data)).sum()):,} voxels are not finite numbers",
            hint="replace them, for instance by 0 outside of a mask",
        )
    domain = plan.metadata.get("domain") or {}
    warnings = []
    intensity = intensity_map(data)
    if domain.get("range"):
        zero, one = expected_range(domain, plan.factors)
        dark = intensity.low
        if domain.get("no_signal") is not None and data.min() >= 0:
            # In magnitudes no signal is 0, whatever noise does to the dark end of the tissue.
            zero, dark = domain["no_signal"], 0.0
        span = (intensity.high - dark) / (one - zero)
        low = dark - zero * span
        intensity = IntensityMap(low, low + span, intensity.foreground)
    else:
        warnings.append(
            "the checkpoint does not tell how bright LR images of its scale are, so LR's own "
            "range was taken for HR's: contrast may be up to a third too strong"
        )
    span = intensity.high - intensity.low
    given = plan.config.noise
    noise = _noise_of(data, needed=given is None)
    sigma = None if noise is None else noise.sigma / span
    high_noise, remapped, no_signal = domain.get("noise"), False, None
    if noise is not None and sigma is not None:
        warnings += [*_about_noise(noise, sigma, given), *_about_zero_filling(data)]
        # Where training has no noisy air there is none: brains that were cut out, on zeros.
        cut_out = high_noise is None
        if noise.source == "air" and cut_out and plan.config.sampler == "fast" and data.min() >= 0:
            no_signal = -intensity.low / span if domain else None
        elif noise.source == "air" and domain:
            remapped = True
            high_noise = high_noise or 0.0
            data = rician_remap(data, noise.sigma, high_noise * span)
            sigma = effective_noise(sigma, high_noise, _noise_gain(plan))
    mapped = ((data - np.float32(intensity.low)) / np.float32(span)).astype(np.float32)
    return Measured(
        volume=mapped,
        intensity=intensity,
        sigma_y=max(given or sigma or 0.0, _MIN_SIGMA_Y),
        noise=noise,
        remapped=remapped,
        no_signal=no_signal,
        regions=regions(np.asarray(mapped > (intensity.foreground - intensity.low) / span)),
        warnings=tuple(warnings),
    )


def _noise_of(data: Voxels, *, needed: bool) -> NoiseEstimate | None:
    try:
        return estimate_noise(data)
    except ResolutionError:
        if needed:
            raise
        return None


def _about_noise(noise: NoiseEstimate, sigma: float, given: float | None) -> list[str]:
    """Compare noise that was given with what the data show."""
    from_air = noise.source == "air"
    if given is None:
        if from_air:
            return []
        return [
            f"there is no air to measure noise in; σ_y = {sigma:.3g}, from the finest detail, is "
            "an upper limit: give --noise if you know better"
        ]
    # The finest detail holds anatomy too, so less noise than that is no contradiction.
    too_low = from_air and given * _NOISE_TOLERANCE < sigma
    if too_low or given > _NOISE_TOLERANCE * sigma:
        source = "air" if from_air else "the finest detail"
        return [f"--noise is {given:g}, and {source} shows {sigma:.3g}"]
    return []


def _about_zero_filling(data: Voxels) -> list[str]:
    """Tell of voxels that the scanner interpolated: they hold less than the factor assumes."""
    factors = zero_filling(data) or ()
    if max(factors, default=1.0) == 1:
        return []
    shown = " × ".join(f"{factor:.1f}" for factor in factors)
    return [
        f"the noise of neighbours is alike: the scanner seems to have interpolated this scan to "
        f"{shown} voxels per acquired one, so it holds less than its voxel size says"
    ]


def _noise_gain(plan: UpsamplePlan) -> float:
    config = plan.config
    return make_operator(
        config.operator, plan.high_shape, plan.factors, grid=config.grid, width=config.width
    ).noise_gain

"""Every figure of one image: masks, registration, intensities, agreement with the measurement."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from srmri_model.bench.alignment import Gain, Motion, moved
from srmri_model.metrics import lpips, psnr, ssim

Image = Float[np.ndarray, "row col"]
Mask = Bool[np.ndarray, "row col"]

MASKS = ("foreground", "frame")
REGISTERED = ("no", "yes", "no+gain", "yes+gain")
"""As a method gives it; moved by the slice's motion; and both after the volume's one gain."""

_LEAST_LPIPS = 32


class Score(NamedTuple):
    """How near an image is to the truth.

    Attributes
    ----------
    mask : {"foreground", "frame"}
        Pixels that count.
    registered : {"no", "yes", "no+gain", "yes+gain"}
        What was done to the image before.
    psnr, ssim, lpips : float
        See `srmri_model.metrics`; NaN where they can not be computed.
    """

    mask: str
    registered: str
    psnr: float
    ssim: float
    lpips: float


def scores(
    image: Image,
    truth: Image,
    inside: Mask,
    *,
    motion: Motion,
    gain: Gain,
    border: tuple[int, int],
) -> list[Score]:
    """Judge an image in all ways.

    Parameters
    ----------
    image, truth : (row, col) ndarray
        On HR's scale.
    inside : (row, col) ndarray of bool
        Foreground of HR.
    motion : Motion
        From LR to HR, of the slice.
    gain : Gain
        LR's intensities on HR's, of the volume.
    border : tuple of int
        Rows and columns that do not count at every edge.

    Returns
    -------
    list of Score
        One for every mask and every way.
    """
    kept = tuple(slice(edge, n - edge) for edge, n in zip(border, truth.shape, strict=True))
    truth, inside = truth[kept], inside[kept]
    found = []
    for registered in REGISTERED:
        seen = moved(image, motion) if registered.startswith("yes") else image
        seen = gain.applied(seen) if registered.endswith("gain") else seen
        seen = np.ascontiguousarray(seen[kept])
        for name in MASKS:
            mask = inside if name == "foreground" else None
            perceptual = math.nan
            if min(seen.shape) >= _LEAST_LPIPS:
                perceptual = lpips(seen, truth, mask)
            found.append(
                Score(
                    name, registered, psnr(seen, truth, mask), ssim(seen, truth, mask), perceptual
                )
            )
    return found

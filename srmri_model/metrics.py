"""How near an image is to the truth: PSNR, SSIM and LPIPS, of a frame or inside a mask.

Images are in [0, 1] by the map of their volume, so the range of PSNR and SSIM is 1.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from srmri_data.voters.lpips import lpips_model

Image = Float[np.ndarray, "row col"]
Mask = Bool[np.ndarray, "row col"]

_SSIM_WINDOW = 11
_LEAST_LPIPS = 32
"""Edge below which AlexNet's pooling runs out of pixels."""


def psnr(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Return the peak signal-to-noise ratio for a range of 1.

    Parameters
    ----------
    image, truth : (row, col) ndarray
        Images in [0, 1].
    mask : (row, col) ndarray of bool, optional
        Pixels that count.

    Returns
    -------
    float
        In dB; infinite for equal images, NaN for an empty mask.

    Examples
    --------
    >>> round(psnr(np.full((8, 8), 0.1, np.float32), np.zeros((8, 8), np.float32)), 3)
    20.0
    """
    error = (np.asarray(image, np.float64) - truth) ** 2
    inside = error if mask is None else error[mask]
    if not inside.size:
        return math.nan
    mean = float(inside.mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)


def ssim(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Return the structural similarity of Wang et al. for a range of 1.

    Parameters
    ----------
    image, truth : (row, col) ndarray
        Images in [0, 1], at least 11 pixels in both axes.
    mask : (row, col) ndarray of bool, optional
        Pixels that count; without it those whose window lies within the frame.

    Returns
    -------
    float
        1 for equal images; NaN for an empty mask.

    References
    ----------
    Z. Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE
    Transactions on Image Processing 13 (2004): a Gaussian window of 11 pixels, σ 1.5.

    Examples
    --------
    >>> ssim(np.eye(16, dtype=np.float32), np.eye(16, dtype=np.float32))
    1.0
    """
    from skimage.metrics import structural_similarity

    mean, values = structural_similarity(  # type: ignore[no-untyped-call]
        np.asarray(image, np.float64),
        np.asarray(truth, np.float64),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=_SSIM_WINDOW,
        full=True,
    )
    if mask is None:
        return float(mean)
    return float(values[mask].mean()) if mask.any() else math.nan


def lpips(image: Image, truth: Image, mask: Mask | None = None) -> float:
    """Return the perceptual distance LPIPS v0.1 with AlexNet.

    Parameters
    ----------
    image, truth : (row, col) ndarray
        Images in [0, 1], shown to the network as grey; at least 32 pixels in both axes.
    mask : (row, col) ndarray of bool, optional
        Pixels that count: distances of every layer are interpolated to the frame, as the package
        does for its maps, and averaged there.

    Returns
    -------
    float
        0 for equal images; NaN for an empty mask.

    Raises
    ------
    WeightsError
        If no trunk of AlexNet is found.
    ValueError
        If the images are too small.

    References
    ----------
    R. Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR
    2018.
    """
    if min(image.shape) < _LEAST_LPIPS:
        raise ValueError(f"LPIPS needs {_LEAST_LPIPS} pixels or more; found {image.shape}")
    pair = [
        torch.from_numpy(np.ascontiguousarray(i, dtype=np.float32)).expand(1, 3, -1, -1) * 2 - 1
        for i in (image, truth)
    ]
    model = _model()
    with torch.no_grad():
        if mask is None:
            model.spatial = False
            return float(model(*pair))
        if not mask.any():
            return math.nan
        model.spatial = True
        return float(model(*pair)[0, 0].numpy()[mask].mean())


@functools.cache
def _model() -> Any:
    return lpips_model()

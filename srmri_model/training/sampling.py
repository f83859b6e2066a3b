"""Pictures of what a denoiser knows: images from noise, and noisy images denoised."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from srmri_model.networks import Denoiser
from srmri_model.sde import karras_levels
from srmri_model.training.order import standard_normal
from srmri_model.training.slices import Slices, plane_index
from srmri_model.training.validation import spread

SHEET_STEPS = 24
"""Evaluations per image from noise."""

_GAP = 4


@torch.no_grad()
def from_noise(
    denoiser: Denoiser, count: int, size: tuple[int, int], *, plane: str, steps: int = SHEET_STEPS
) -> NDArray[np.float32]:
    """Draw images by following the probability flow from σ_max to 0 with Euler steps.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    count : int
        Images.
    size : (int, int)
        Rows and columns.
    plane : str
        Plane, for a network with label.
    steps : int
        Evaluations per image.

    Returns
    -------
    (count, rows, cols) ndarray
        float32; the same every time.

    References
    ----------
    Karras et al. 2022, algorithm 1 without the second-order correction.
    """
    config = denoiser.config
    device = next(denoiser.network.parameters()).device
    label = plane_index([plane] * count, config.n_planes, device)
    levels = karras_levels(config.sigma_min, config.sigma_max, steps)
    noise = np.stack([standard_normal(size, 1_000_000 + n) for n in range(count)])
    x = levels[0] * torch.from_numpy(noise)[:, None].to(device)
    for sigma, following in itertools.pairwise(levels):
        denoised = denoiser(x, torch.full((count,), sigma, device=device), label)
        x = denoised + following / sigma * (x - denoised)
    images: NDArray[np.float32] = x[:, 0].cpu().numpy()
    return images


@torch.no_grad()
def denoising_rows(
    denoiser: Denoiser, slices: Slices, sigmas: tuple[float, ...], *, count: int = 3
) -> list[list[NDArray[np.float32]]]:
    """Denoise held-out slices at several noise levels.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    slices : Slices
        Held-out slices.
    sigmas : tuple of float
        Noise levels.
    count : int
        Slices, evenly spread.

    Returns
    -------
    list of list of ndarray
        Per slice the clean image, then noisy and denoised at each level.
    """
    device = next(denoiser.network.parameters()).device
    rows = []
    for number, index in enumerate(spread(len(slices), count)):
        item = slices[index]
        label = plane_index([item["plane"]], denoiser.config.n_planes, device)
        clean = torch.from_numpy(item["image"]).to(device)
        noise = torch.from_numpy(standard_normal(item["image"].shape, number)).to(device)
        images = [clean]
        for sigma in sigmas:
            noisy = clean + sigma * noise
            level = torch.tensor([sigma], device=device)
            images += [noisy, denoiser(noisy[None, None], level, label)[0, 0]]
        rows.append([image.cpu().numpy() for image in images])
    return rows


def sheet(rows: list[list[NDArray[np.float32]]]) -> NDArray[np.uint8]:
    """Arrange images of any sizes in rows and columns.

    Parameters
    ----------
    rows : list of list of ndarray
        Images; 0 is black and 1 white.

    Returns
    -------
    (row, col) ndarray of uint8
        One picture.
    """
    images = [image for row in rows for image in row]
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    across = max(len(row) for row in rows)
    canvas = np.zeros(
        (len(rows) * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP), dtype=np.uint8
    )
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            top = r * (height + _GAP) + (height - image.shape[0]) // 2
            left = c * (width + _GAP) + (width - image.shape[1]) // 2
            grey = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = grey
    return canvas

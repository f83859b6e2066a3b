"""Metrics equal the packages that define them, and masks leave out what is outside."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srmri_model.metrics import lpips, psnr, ssim


@pytest.fixture(scope="module")
def pair():
    random = np.random.default_rng(0)
    truth = random.random((48, 64), dtype=np.float32)
    return truth + 0.1 * random.standard_normal((48, 64)).astype(np.float32), truth


def test_psnr_and_ssim_are_those_of_scikit_image(pair):
    image, truth = pair
    assert psnr(image, truth) == pytest.approx(
        peak_signal_noise_ratio(truth, image, data_range=1), abs=1e-6
    )
    expected = structural_similarity(
        truth.astype(float),
        image.astype(float),
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(image, truth) == pytest.approx(expected, abs=1e-6)


def test_psnr_and_ssim_are_those_of_torchmetrics(pair):
    import torch
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio as torch_psnr,
    )
    from torchmetrics.functional.image import (
        structural_similarity_index_measure as torch_ssim,
    )

    image, truth = (torch.from_numpy(i).double()[None, None] for i in pair)
    assert psnr(*pair) == pytest.approx(float(torch_psnr(image, truth, data_range=1.0)), abs=1e-6)
    _, values = torch_ssim(image, truth, data_range=1.0, sigma=1.5, return_full_image=True)
    # It also averages windows that reach over the edge, where it reflects the image.
    assert ssim(*pair) == pytest.approx(float(values[..., 5:-5, 5:-5].mean()), abs=1e-6)


def test_lpips_is_that_of_the_package(pair):
    import torch

    from srmri_data.voters.lpips import lpips_model

    image, truth = pair
    tensors = [torch.from_numpy(i)[None, None].expand(-1, 3, -1, -1) for i in pair]
    with torch.no_grad():
        expected = float(lpips_model()(*tensors, normalize=True))
    assert lpips(image, truth) == pytest.approx(expected, abs=1e-6)
    # Layers have edges of their own, so the mean over the frame is near that, not equal to it.
    everywhere = np.ones(truth.shape, dtype=bool)
    assert lpips(image, truth, everywhere) == pytest.approx(expected, rel=0.1)
    with pytest.raises(ValueError, match="32 pixels"):
        lpips(image[:20], truth[:20])


def test_only_the_mask_counts(pair):
    image, truth = (i.copy() for i in pair)
    mask = np.zeros(truth.shape, dtype=bool)
    mask[10:30, 10:30] = True
    assert psnr(image, truth, mask) == pytest.approx(
        peak_signal_noise_ratio(truth[mask], image[mask], data_range=1), abs=1e-6
    )
    image[:, 50:] += 5
    assert psnr(image, truth) < 0
    assert psnr(image, truth, mask) == psnr(*pair, mask)
    assert ssim(image, truth, mask) == ssim(*pair, mask)
    far = np.zeros(truth.shape, dtype=bool)
    assert all(math.isnan(measure(image, truth, far)) for measure in (psnr, ssim, lpips))


def test_equal_images_are_as_good_as_can_be(pair):
    _, truth = pair
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == pytest.approx(1)
    assert lpips(truth, truth) == pytest.approx(0, abs=1e-7)

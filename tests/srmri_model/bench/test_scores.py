"""Figures of an image are those of the packages that define them, with borders and masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srmri_data.voters.lpips import lpips_model
from srmri_model.bench.alignment import Gain, Motion, moved
from srmri_model.bench.scores import MASKS, REGISTERED, scores

BORDER = (2, 3)
KEPT = (slice(2, -2), slice(3, -3))


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(3)
    truth = ndimage.gaussian_filter(random.random((52, 60)), 1).astype(np.float32)
    inside = np.zeros(truth.shape, dtype=bool)
    inside[12:40, 10:50] = True
    noise = 0.03 * random.standard_normal(truth.shape)
    return (truth + noise).astype(np.float32), truth, inside


def judged(image, truth, inside, motion=Motion(), gain=Gain(), border=BORDER):  # noqa: B008
    found = scores(image, truth, inside, motion=motion, gain=gain, border=border)
    return {(score.mask, score.registered): score for score in found}


def test_the_frame_is_judged_as_scikit_image_and_lpips_do(images):
    image, truth, inside = images
    found = judged(image, truth, inside)[("frame", "no")]
    image, truth = (np.ascontiguousarray(i[KEPT]) for i in (image, truth))
    assert found.psnr == pytest.approx(
        peak_signal_noise_ratio(truth, image, data_range=1), abs=1e-6
    )
    assert found.ssim == pytest.approx(
        structural_similarity(
            truth.astype(float), image.astype(float), data_range=1, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False,
        ),
        abs=1e-6,
    )  # fmt: skip
    tensors = [torch.from_numpy(i)[None, None].expand(-1, 3, -1, -1) for i in (image, truth)]
    model = lpips_model()
    with torch.no_grad():
        assert found.lpips == pytest.approx(float(model(*tensors, normalize=True)), abs=1e-6)


def test_the_foreground_is_judged_by_its_pixels_alone(images):
    image, truth, inside = images
    found = judged(image, truth, inside)[("foreground", "no")]
    error = (image.astype(float) - truth)[inside]
    assert found.psnr == pytest.approx(-10 * math.log10(np.mean(error**2)), abs=1e-6)
    worse = image.copy()
    worse[:, :4] = 1
    assert judged(worse, truth, inside)[("foreground", "no")].psnr == found.psnr
    assert judged(worse, truth, inside)[("frame", "no")].psnr < 25


def test_borders_do_not_count(images):
    image, truth, inside = images
    worse = image.copy()
    worse[:2], worse[-2:], worse[:, :3], worse[:, -3:] = 5, 5, 5, 5
    assert judged(worse, truth, inside)[("frame", "no")] == judged(*images)[("frame", "no")]


def test_registration_and_gain_undo_what_is_wrong_with_an_image(images):
    _, truth, inside = images
    motion, gain = Motion(0.5, -0.5), Gain(1.2, 0.05)
    wrong = 1.2 * moved(truth, Motion(-0.5, 0.5)) + np.float32(0.05)
    found = judged(wrong, truth, inside, motion, gain, border=(4, 4))
    psnr = {way: found["foreground", way].psnr for way in REGISTERED}
    assert psnr["yes+gain"] > 38
    assert max(psnr["no"], psnr["yes"], psnr["no+gain"]) < 30
    assert set(found) == {(mask, way) for mask in MASKS for way in REGISTERED}


def test_images_too_small_for_lpips_have_no_lpips(images):
    image, truth, inside = (i[:30, :30] for i in images)
    found = judged(image, truth, inside)[("frame", "no")]
    assert math.isnan(found.lpips)
    assert found.psnr > 20

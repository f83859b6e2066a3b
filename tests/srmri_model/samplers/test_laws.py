"""What holds for every sampler: images apart from each other, seeds, counts, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from srmri_data.errors import SamplingError, UsageError
from srmri_model.networks import Denoiser, NetworkConfig, build_network
from srmri_model.operators import make_operator
from srmri_model.samplers import (
    SAMPLERS,
    DiffPIR,
    Fast,
    Guided,
    ImageNoise,
    Paper,
    PredictorCorrector,
    SamplingStopped,
    Variance,
    sample,
    within,
)
from srmri_model.testbed import GaussianPrior

SHAPE = (12, 16)
PRIOR = GaussianPrior.natural(SHAPE)
OPERATOR = make_operator("bicubic", SHAPE, 2)
KEYS = [(3, 0), (3, 1), (8, 0)]
VARIANCE = PRIOR.variance(OPERATOR)


def measurements(keys=KEYS, sigma_y=0.03):
    generator = ImageNoise(5, keys)
    truth = PRIOR.draw(generator)
    return OPERATOR.forward(truth) + sigma_y * generator((1, *OPERATOR.low_shape))


def draw(name, *, keys=KEYS, steps=8, seed=0, denoiser=PRIOR, sigma_y=0.03, y=None, **options):
    settings = options.pop("settings", None) or replace(SAMPLERS[name].settings, steps=steps)
    return sample(
        name, denoiser, measurements(keys) if y is None else y, OPERATOR,
        sigma_y=sigma_y, generator=ImageNoise(seed, keys), settings=settings,
        variance=VARIANCE, **options,
    )  # fmt: skip


def test_noise_of_an_image_is_the_same_to_the_bit_in_every_batch():
    together = ImageNoise(1, KEYS)
    backwards = ImageNoise(1, KEYS[::-1])
    alone = [ImageNoise(1, [key]) for key in KEYS]
    for shape in [(1, 5, 7), (1, 3, 3), (1, 5, 7)]:
        drawn = together(shape)
        assert torch.equal(drawn, backwards(shape).flip(0))
        assert torch.equal(drawn, torch.cat([generator(shape) for generator in alone]))


def test_noise_of_other_images_seeds_and_draws_is_other_noise():
    generator = ImageNoise(1, [(0,), (1,), (0, 1)])
    drawn = [*generator((64,)), *generator((64,)), ImageNoise(2, [(0,)])((64,))[0]]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(7)
    assert correlation.abs().max() < 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
    together, trace = draw(name)
    for n, key in enumerate(KEYS):
        alone, of_one = draw(name, keys=[key])
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            trace.residuals[:, n], of_one.residuals[:, 0], rtol=1e-3, atol=1e-4
        )
    backwards, _ = draw(name, keys=KEYS[::-1])
    torch.testing.assert_close(together, backwards.flip(0), rtol=1e-4, atol=1e-4)


def test_a_denoiser_that_mixes_its_batch_is_noticed():
    """Control: images of a batch could have something to do with each other."""

    def denoiser(x, sigma, plane=None):
        return PRIOR(0.9 * x + 0.1 * x.mean(dim=0, keepdim=True), sigma)

    together, alone = draw("fast", denoiser=denoiser)[0], draw("fast", keys=KEYS[:1])[0]
    assert (together[:1] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["paper", "dps"])
def test_an_image_does_not_depend_on_its_batch_with_a_network(name):
    config = NetworkConfig(nf=4, ch_mult=(1, 1), attention=(False, False), blocks=1, sigma_max=2.0)
    network = build_network(config, seed=0)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    denoiser = Denoiser(network, config)
    settings = within(replace(SAMPLERS[name].settings, steps=5, rho=0.1), config.sigma_max)
    together, trace = draw(name, denoiser=denoiser, settings=settings)
    alone, _ = draw(name, denoiser=denoiser, settings=settings, keys=KEYS[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-3)
    assert trace.nfe == 9
    assert trace.nbe == {"paper": 2, "dps": 5}[name]
    assert all(value.grad is None for value in network.parameters())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_image_and_another_seed_another(name):
    first, again, other = draw(name)[0], draw(name)[0], draw(name, seed=1)[0]
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["fast", "diffpir", "ddnm"])
def test_every_image_has_its_own_measurement_noise(name):
    y = measurements()
    sigma_y = torch.tensor([0.01, 0.1, 0.3])
    together, _ = draw(name, y=y, sigma_y=sigma_y)
    for n, key in enumerate(KEYS):
        alone, _ = draw(name, keys=[key], y=y[n : n + 1], sigma_y=float(sigma_y[n]))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-4, atol=1e-4)


N = 7


@pytest.mark.parametrize(
    ("name", "settings", "forward", "backward"),
    [
        ("fast", Fast(steps=N), N, 0),
        ("paper", Paper(steps=N), 2 * N - 1, 3),
        ("paper", Paper(steps=N, k=3), 2 * N - 1, 2),
        ("paper", Paper(steps=N, k=1), 2 * N - 1, N),
        ("paper", Paper(steps=N, k=0), 2 * N - 1, 0),
        ("paper", Paper(steps=N, corrections=2), 3 * N - 2, 3),
        ("dps", Guided(steps=N), 2 * N - 1, N),
        ("mcg", Guided(steps=N), 2 * N - 1, N),
        ("score-sde", PredictorCorrector(steps=N), 2 * N - 1, 0),
        ("pc", PredictorCorrector(steps=N, corrections=0), N, 0),
        ("ddnm", None, N, 0),
        ("diffpir", None, N, 0),
    ],
)
def test_evaluations_are_what_the_algorithms_cost(name, settings, forward, backward):
    calls = []

    def denoiser(x, sigma, plane=None):
        calls.append(float(sigma))
        return PRIOR(x, sigma)

    _, trace = draw(name, denoiser=denoiser, settings=settings, steps=N)
    assert (trace.nfe, trace.nbe) == (forward, backward)
    assert len(calls) == forward
    assert calls == sorted(calls, reverse=True)
    assert min(calls) == pytest.approx(0.01)
    assert len(trace.sigmas) == len(trace.residuals) == N
    assert trace.to_json()["settings"]["steps"] == N


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_residual_is_that_of_the_image(name):
    image, trace = draw(name)
    residual = OPERATOR.forward(image) - measurements()
    torch.testing.assert_close(
        trace.residuals[-1], residual.flatten(1).square().mean(dim=1).sqrt(), rtol=1e-4, atol=1e-6
    )


def test_progress_is_told_after_every_level_and_stop_is_asked_before():
    told = []
    with pytest.raises(SamplingStopped):
        draw("dps", progress=lambda *at: told.append(at), stop=lambda: len(told) == 3)
    assert told == [(1, 8), (2, 8), (3, 8)]


def test_the_plane_reaches_the_denoiser():
    seen = []

    def denoiser(x, sigma, plane=None):
        seen.append(plane)
        return PRIOR(x, sigma)

    plane = torch.tensor([0, 1, 2])
    draw("fast", denoiser=denoiser, plane=plane)
    assert all(found is plane for found in seen)


def test_volumes_are_sampled_with_an_operator_on_three_axes():
    operator = make_operator("box", (6, 8, 4), 2)

    def denoiser(x, sigma, plane=None):
        return x / (1 + sigma**2)

    image, _ = sample(
        "fast", denoiser, torch.ones(2, 1, 3, 4, 2), operator, sigma_y=1e-3,
        generator=ImageNoise(0, [(0,), (1,)]),
        variance=lambda sigma: Variance(sigma**2 / (1 + sigma**2)),
    )  # fmt: skip
    assert image.shape == (2, 1, 6, 8, 4)
    torch.testing.assert_close(
        operator.forward(image), torch.ones(2, 1, 3, 4, 2), atol=0.01, rtol=0
    )


def test_an_unknown_sampler_and_settings_of_another_are_refused():
    with pytest.raises(UsageError, match="unknown sampler 'slow'; expected one of fast, paper"):
        draw("slow", settings=Fast())
    with pytest.raises(UsageError, match="takes settings of type Fast; found Paper"):
        draw("fast", settings=Paper(steps=2))


def test_fast_without_a_variance_is_refused():
    with pytest.raises(UsageError, match="how well the network denoises"):
        sample("fast", PRIOR, measurements(), OPERATOR, sigma_y=0.1, generator=ImageNoise(0, KEYS))


def test_a_step_size_beyond_the_stable_one_is_told_not_returned():
    with pytest.raises(SamplingError, match=r"left the numbers at σ = .*, level"):
        draw("dps", settings=Guided(steps=400, rho=1e4))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Fast(steps=1),
        lambda: Fast(sigma_min=1.0, sigma_max=0.5),
        lambda: Paper(k=-1),
        lambda: DiffPIR(zeta=2.0),
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()

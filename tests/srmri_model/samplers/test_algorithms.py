"""Each algorithm against its formulas, written out another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from srmri_model.operators import make_operator
from srmri_model.samplers import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    ImageNoise,
    Paper,
    PredictorCorrector,
    Problem,
    Variance,
    VarianceTable,
    measure_variance,
    sample,
    two_valued,
)
from srmri_model.samplers.fast import data_step
from srmri_model.samplers.predictor_corrector import misfit_gradient
from srmri_model.testbed import GaussianPrior
from srmri_model.wavelets import WaveletFusion

SHAPE = (8, 8)
PRIOR = GaussianPrior.natural(SHAPE)
OPERATOR = make_operator("bicubic", SHAPE, 2)
Y = OPERATOR.forward(PRIOR.draw(ImageNoise(1, [(0,), (1,)])))


class Recorded:
    """A source of noise that keeps what it gave."""

    def __init__(self, generator):
        self.generator, self.drawn = generator, []

    def __call__(self, shape):
        self.drawn.append(self.generator(shape))
        return self.drawn[-1]


def score(x, sigma):
    return PRIOR.score(x, sigma)


def written_out(noise, *, steps, after_predictor, after_corrector=lambda x, below, noise: x):
    """Predictor and corrector as the papers print them, with the exact score."""
    noise = iter(noise)
    sigma = [0.0] + [0.01 * (378 / 0.01) ** (n / (steps - 1)) for n in range(steps)]
    x = sigma[-1] * next(noise)
    for i in range(steps, 0, -1):
        fall = sigma[i] ** 2 - sigma[i - 1] ** 2
        predicted = x + fall * score(x, sigma[i])
        if i > 1:
            predicted = predicted + math.sqrt(fall) * next(noise)
        x = after_predictor(i, x, predicted, sigma[i], sigma[i - 1], noise)
        if i > 1:
            s, z = score(x, sigma[i - 1]), next(noise)
            new = []
            for one, s_one, z_one in zip(x, s, z, strict=True):
                length = 2 * (0.16 * z_one.norm() / s_one.norm()) ** 2
                new.append(one + length * s_one + torch.sqrt(2 * length) * z_one)
            x = after_corrector(torch.stack(new), sigma[i - 1], noise)
    return x


def gradient(x, sigma, y, norm):
    """Of every image's own misfit, with a forward pass of its own."""
    found = []
    for one, y_one in zip(x, y, strict=True):
        leaf = one[None].clone().requires_grad_()
        misfit = (y_one - OPERATOR.forward(PRIOR(leaf, sigma))).norm()
        (misfit**2 if norm == "squared" else misfit).backward()
        found.append(leaf.grad)
    return torch.cat(found)


def drawn_and_noise(name, settings):
    generator = Recorded(ImageNoise(4, [(0,), (1,)]))
    image, _ = sample(
        name, PRIOR, Y, OPERATOR, sigma_y=0.05, generator=generator, settings=settings
    )
    return image, generator.drawn


@pytest.mark.parametrize("norm", ["squared", "l2"])
@pytest.mark.parametrize(
    ("k", "fusion", "match"), [(2, True, False), (3, True, True), (2, False, False)]
)
def test_paper_is_algorithm_1(k, fusion, match, norm):
    settings = Paper(steps=9, k=k, rho=0.7, norm=norm, fusion=fusion, match_noise=match)
    found, noise = drawn_and_noise("paper", settings)
    fuse = WaveletFusion(SHAPE)

    def after_predictor(i, x, predicted, sigma, below, noise):
        if i % k == 0:
            return predicted - 0.7 * gradient(x, sigma, Y, norm)
        if not fusion:
            return predicted
        return fuse(predicted, OPERATOR.up(Y) + (below * next(noise) if match else 0))

    expected = written_out(noise, steps=9, after_predictor=after_predictor)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_paper_with_k_of_1_is_dps():
    guided = drawn_and_noise("dps", Guided(steps=9, rho=0.3))[0]
    torch.testing.assert_close(drawn_and_noise("paper", Paper(steps=9, rho=0.3, k=1))[0], guided)


def projected(x, below, noise):
    noised = Y + below * OPERATOR.forward(next(noise)) if below else Y
    return x + OPERATOR.pseudo_inverse(noised - OPERATOR.forward(x))


def test_score_sde_replaces_what_is_seen_after_predictor_and_corrector():
    found, noise = drawn_and_noise("score-sde", PredictorCorrector(steps=9))
    expected = written_out(
        noise, steps=9, after_corrector=projected,
        after_predictor=lambda i, x, predicted, sigma, below, noise: projected(
            predicted, below, noise
        ),
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(OPERATOR.forward(found), Y, rtol=0, atol=1e-4)


def test_mcg_follows_the_gradient_and_replaces_what_is_seen():
    found, noise = drawn_and_noise("mcg", Guided(steps=9, rho=0.4))
    expected = written_out(
        noise, steps=9,
        after_predictor=lambda i, x, predicted, sigma, below, noise: projected(
            predicted - 0.4 * gradient(x, sigma, Y, "squared"), below, noise
        ),
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_diffpir_keeps_the_share_of_noise_its_zeta_leaves():
    settings = DiffPIR(steps=6, sigma_max=5.0, weight=4.0, zeta=0.25)
    found, noise = drawn_and_noise("diffpir", settings)
    noise = iter(noise)
    levels = [(5 ** (1 / 7) + n / 5 * (0.01 ** (1 / 7) - 5 ** (1 / 7))) ** 7 for n in range(6)] + [
        0
    ]
    x = 5.0 * next(noise)
    for sigma, below in itertools.pairwise(levels):
        clean = OPERATOR.prox(PRIOR(x, sigma), Y, 0.05, sigma / 2)
        epsilon = (x - clean) / sigma
        fresh = next(noise) if below else 0
        x = clean + below * (math.sqrt(0.75) * epsilon + 0.5 * fresh)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_ddnm_explains_a_measurement_without_noise_exactly():
    image, _ = sample(
        "ddnm", PRIOR, Y, OPERATOR, sigma_y=0.0, generator=ImageNoise(0, [(0,), (1,)]),
        settings=DDNM(steps=10),
    )  # fmt: skip
    torch.testing.assert_close(OPERATOR.forward(image), Y, rtol=0, atol=1e-5)


def test_the_gradient_through_a_linear_denoiser_has_its_closed_form():
    x = PRIOR.draw(ImageNoise(2, [(0,), (1,)])).requires_grad_()
    problem = Problem(PRIOR, Y, OPERATOR, 0.05, ImageNoise(0, [(0,), (1,)]))
    denoised = PRIOR(x, 0.3)
    found = misfit_gradient(problem, x, denoised, "squared")
    # D is symmetric: its Jacobian is D without the mean.
    back = OPERATOR.adjoint(Y - OPERATOR.forward(denoised.detach()))
    expected = -2 * (PRIOR(PRIOR.mean.float() + back, 0.3) - PRIOR.mean.float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class OneHot:
    """White noise replaced by unit vectors: image n has its n-th number 1, all others 0."""

    def __init__(self, total):
        self.total, self.given = total, 0

    def __call__(self, shape):
        size = math.prod(shape)
        noise = torch.zeros(self.total, size)
        noise[self.given : self.given + size] = torch.eye(size)
        self.given += size
        return noise.reshape(self.total, *shape)


def covariance_of_data_step(variance, sigma_y):
    """The step is affine in its noise; unit vectors give its matrix A, and A Aᵀ is exact."""
    n, m = math.prod(SHAPE), math.prod(OPERATOR.low_shape)
    problem = Problem(
        PRIOR, torch.zeros(n + m, 1, *OPERATOR.low_shape), OPERATOR, sigma_y, OneHot(n + m)
    )
    drawn = data_step(problem, torch.zeros(n + m, 1, *SHAPE), variance).flatten(1).double()
    return drawn.T @ drawn


@pytest.mark.parametrize("form", ["one number", "two numbers", "map"])
def test_the_data_step_draws_from_the_exact_posterior(form):
    n, sigma_y = math.prod(SHAPE), 0.2
    unit = torch.eye(n, dtype=torch.float64).reshape(n, 1, *SHAPE)
    exact = OPERATOR.to(dtype=torch.float64)
    h = exact.forward(unit).flatten(1).T
    seen = torch.linalg.pinv(h) @ h
    if form == "one number":
        variance, prior = Variance(0.09), 0.09 * torch.eye(n).double()
    elif form == "two numbers":
        variance = Variance(0.04, seen=0.25)
        prior = 0.25 * seen + 0.04 * (torch.eye(n).double() - seen)
    else:
        values = 0.01 + 0.2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
        variance = Variance(values.expand(n + len(h), 1, *SHAPE))
        prior = torch.diag(values.flatten().double())
    expected = torch.linalg.inv(torch.linalg.inv(prior) + h.T @ h / sigma_y**2)
    found = covariance_of_data_step(variance, sigma_y)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_variance_table_is_the_measured_variance_of_the_prior():
    exact = PRIOR.variance(OPERATOR)
    keys = [(n,) for n in range(300)]
    table = measure_variance(
        PRIOR, PRIOR.draw(ImageNoise(0, keys)), OPERATOR, (0.01, 0.1, 1.0),
        generator=ImageNoise(1, keys),
    )  # fmt: skip
    for n, sigma in enumerate(table.sigmas):
        assert table.pixel[n] == pytest.approx(exact(sigma).pixel, rel=0.05)
        assert table.seen[n] == pytest.approx(exact(sigma).seen, rel=0.05)
    assert table(0.1).seen > table(0.1).pixel


def test_an_empty_background_does_not_lower_the_variance_of_the_foreground():
    operator = make_operator("box", (16, 16), 2)
    mask = torch.zeros(200, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:12] = True
    keys = [(n,) for n in range(200)]
    truth = mask * ImageNoise(0, keys)((1, 16, 16))

    def denoiser(x, sigma, plane=None):
        return mask * x / (1 + sigma**2)

    options = {"generator": ImageNoise(1, keys)}
    inside = measure_variance(denoiser, truth, operator, (1.0,), mask=mask, **options)
    whole = measure_variance(denoiser, truth, operator, (1.0,), **options)
    assert inside.pixel[0] == pytest.approx(0.5, rel=0.03)
    # White errors are seen as white.
    assert inside.seen[0] == pytest.approx(0.5, rel=0.03)
    assert whole.pixel[0] == pytest.approx(0.25, rel=0.03)


def test_a_map_has_the_foregrounds_value_in_the_mask():
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[..., 0] = True
    inside, outside = (VarianceTable((0.1, 1.0), (v, v)) for v in (0.5, 0.25))
    expected = torch.tensor([[[[0.5, 0.25], [0.5, 0.25]]]])
    found = two_valued(inside, outside, mask)(0.3)
    assert torch.equal(found.pixel, expected)
    assert found.seen is None
    both = two_valued(VarianceTable((0.1, 1.0), (0.5, 0.5), (0.75, 0.75)), outside, mask)(0.3)
    assert torch.equal(both.pixel, expected)
    assert torch.equal(both.seen, torch.tensor([[[[0.75, 0.25], [0.75, 0.25]]]]))


def test_a_constant_map_draws_what_two_numbers_draw():
    operator = make_operator("bicubic", (16, 12), 2)
    keys = [(n,) for n in range(3)]
    measurement = ImageNoise(5, keys)((1, 8, 6))

    def drawn(variance):
        problem = Problem(
            denoiser=lambda x, sigma, plane=None: x,
            measurement=measurement,
            operator=operator,
            sigma_y=0.05,
            generator=ImageNoise(1, keys),
        )
        return data_step(problem, ImageNoise(2, keys)((1, 16, 12)), variance)

    flat = torch.ones(3, 1, 16, 12)
    np.testing.assert_allclose(
        drawn(Variance(0.02 * flat, 0.05 * flat)), drawn(Variance(0.02, 0.05)), atol=2e-4
    )
    assert not torch.allclose(drawn(Variance(0.02, 0.05)), drawn(Variance(0.02)), atol=1e-2)


def drawn_by_fast(denoiser, *, mirror=None, allowed=True):
    return sample(
        "fast", denoiser, Y, OPERATOR, sigma_y=0.05, generator=ImageNoise(0, [(0,), (1,)]),
        settings=Fast(steps=4, mirror=allowed), variance=PRIOR.variance(OPERATOR), mirror=mirror,
    )[0]  # fmt: skip


@pytest.mark.parametrize("mirror", [-1, -2])
def test_every_other_level_is_seen_in_the_mirror(mirror):
    ramp = torch.linspace(-0.1, 0.1, 8).reshape([8 if n == mirror else 1 for n in (-2, -1)])
    levels = []

    def lopsided(x, sigma, plane=None):
        return PRIOR(x, sigma) + ramp

    def turned(x, sigma, plane=None):
        levels.append(sigma)
        return PRIOR(x, sigma) + (-1) ** len(levels) * ramp

    mirrored, plain = drawn_by_fast(lopsided, mirror=mirror), drawn_by_fast(lopsided)
    torch.testing.assert_close(mirrored, drawn_by_fast(turned), atol=1e-5, rtol=0)
    assert not torch.allclose(mirrored, plain, atol=1e-2)
    assert torch.equal(drawn_by_fast(lopsided, mirror=mirror, allowed=False), plain)

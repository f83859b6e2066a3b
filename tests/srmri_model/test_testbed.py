"""The Gaussian test-bed: exact by itself, and what every sampler does on it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from cli import _print_testbed, app
from srmri_data.errors import UsageError
from srmri_model.operators import make_operator
from srmri_model.samplers import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    ImageNoise,
    Paper,
    PredictorCorrector,
    Trace,
    Variance,
)
from srmri_model.testbed import GaussianPrior, exact_posterior, judge, make_testbed, try_sampler
from srmri_model.testbed_bench import ENTRIES, TABLE, run_testbed

SIGMAS_Y = (0.01, 0.05)
PRIORS = {
    "default": GaussianPrior.natural(),
    "rough": GaussianPrior.natural(std=0.25, slope=2.0, corner=2.0),
    "smooth": GaussianPrior.natural(std=0.2, slope=3.0, corner=2.0),
}


@pytest.fixture(scope="module", params=SIGMAS_Y)
def bed(request):
    return make_testbed(request.param)


SMALL = GaussianPrior.natural((6, 10))


def test_the_denoiser_is_the_expectation_given_the_noisy_image():
    x = SMALL.draw(ImageNoise(0, [(0,), (1,)]))
    covariance, sigma = SMALL.covariance(), torch.tensor([0.1, 2.0])
    found = SMALL(x, sigma)
    for n in range(2):
        noisy = covariance + float(sigma[n]) ** 2 * torch.eye(60).double()
        off = (x[n].double() - SMALL.mean).flatten()
        expected = SMALL.mean.flatten() + covariance @ torch.linalg.solve(noisy, off)
        torch.testing.assert_close(found[n].flatten(), expected.float())
        score = -torch.linalg.solve(noisy, off).reshape(1, 1, 6, 10).float()
        torch.testing.assert_close(SMALL.score(x[n : n + 1], float(sigma[n])), score)


def test_the_posterior_is_that_of_the_information_form():
    operator = make_operator("lanczos2", (6, 10), (2, 1.5))
    y = torch.rand(3, 1, *operator.low_shape, generator=torch.Generator().manual_seed(0))
    found = exact_posterior(SMALL, operator, y, 0.2)
    unit = torch.eye(60, dtype=torch.float64).reshape(60, 1, 6, 10)
    h = operator.to(dtype=torch.float64).forward(unit).flatten(1).T
    inverse = torch.linalg.inv(SMALL.covariance())
    covariance = torch.linalg.inv(inverse + h.T @ h / 0.04)
    torch.testing.assert_close(found.covariance, covariance)
    right = inverse @ SMALL.mean.flatten() + y.double().flatten(1) @ h / 0.04
    torch.testing.assert_close(found.mean.flatten(1), right @ covariance)
    torch.testing.assert_close(found.std.flatten(), covariance.diagonal().sqrt())


def test_exact_draws_are_judged_exact_and_wrong_ones_wrong(bed):
    many = 32
    repeated = exact_posterior(
        bed.prior, bed.operator, bed.measurement.repeat_interleave(many, dim=0), bed.sigma_y
    )
    draws = repeated.draw(ImageNoise(3, [(n,) for n in range(4 * many)])).float()
    trace = Trace("fast", Fast(), (), torch.zeros(0, 4), 0, 0)
    exact = judge(bed, draws, trace)
    assert exact.psnr == pytest.approx(exact.psnr_exact, abs=0.1)
    assert exact.std_ratio == pytest.approx(1, abs=0.02)
    assert exact.residual == pytest.approx(1, abs=0.03)
    assert exact.bias < 0.1
    mean = repeated.mean.float()
    narrow = judge(bed, mean + 0.5 * (draws - mean), trace)
    assert narrow.std_ratio == pytest.approx(exact.std_ratio / 2, rel=1e-3)
    shifted = judge(bed, draws + 0.5 * repeated.std.float(), trace)
    assert shifted.bias == pytest.approx(0.5, abs=0.1)
    assert shifted.residual > 1.5 or bed.sigma_y == 0.05


@pytest.mark.parametrize("sigma_y", SIGMAS_Y)
@pytest.mark.parametrize("prior", PRIORS)
def test_fast_draws_from_the_posterior_in_20_evaluations(prior, sigma_y):
    found = try_sampler(make_testbed(sigma_y, prior=PRIORS[prior]), "fast")
    assert (found.nfe, found.nbe) == (20, 0)
    assert abs(found.psnr - found.psnr_exact) < 0.25
    assert 0.95 < found.std_ratio < 1.05
    assert 0.95 < found.residual < 1.05
    assert found.bias < 0.15


def test_fast_with_one_number_for_the_variance_stays_away_from_the_measurement():
    bed = make_testbed(0.05, prior=PRIORS["smooth"])
    exact = bed.prior.variance(bed.operator)
    found = try_sampler(bed, "fast", variance=lambda sigma: Variance(exact(sigma).pixel))
    assert found.residual > 1.1


def test_fusion_alone_leaves_what_it_does_not_see(bed):
    assert try_sampler(bed, "paper", Paper(steps=60, k=0), draws=4).residual > 3


def test_without_a_data_step_the_prior_is_drawn_from(bed):
    found = try_sampler(bed, "pc", PredictorCorrector(steps=150), draws=8)
    prior_std = float(bed.prior.power.mean().sqrt())
    posterior_std = float(bed.posterior.covariance.diagonal().mean().sqrt())
    assert found.std_ratio == pytest.approx(prior_std / posterior_std, rel=0.06)


@pytest.mark.parametrize(
    ("name", "settings", "psnr", "std_ratio", "residual"),
    [
        # Tuned to a residual of about σ_y, the paper's sampler is near the posterior at last.
        ("dps", {0.01: Guided(100, rho=1.0), 0.05: Guided(200, rho=0.12)}, 0.3, 0.08, (0.8, 1.3)),
        ("paper", {0.01: Paper(100, rho=3.0), 0.05: Paper(200, rho=0.2)}, 0.3, 0.08, (0.8, 2.0)),
        # These follow the measurement's noise, and are too sure where there is much of it.
        ("mcg", Guided(100, rho=0.1), 0.6, 0.2, (0.0, 0.02)),
        ("score-sde", PredictorCorrector(100), 0.6, 0.2, (0.0, 0.02)),
        ("ddnm", DDNM(), 1.6, 0.4, (0.0, 0.3)),
        # This one looks for the most likely image, with noise of the wrong covariance about it.
        ("diffpir", DiffPIR(), 1.2, 0.25, (1.7, 2.6)),
    ],
)
def test_the_others_are_where_the_docs_say(bed, name, settings, psnr, std_ratio, residual):
    chosen = settings[bed.sigma_y] if isinstance(settings, dict) else settings
    found = try_sampler(bed, name, chosen, draws=4)
    assert abs(found.psnr - found.psnr_exact) < psnr
    assert abs(found.std_ratio - 1) < std_ratio
    assert residual[0] <= found.residual < residual[1]


def shortened(entry, table, *more):
    settings = replace(entry.settings, steps=table)
    return replace(entry, settings=settings, curve=(table, *more))


def test_the_bench_has_a_table_a_picture_and_a_document(tmp_path):
    short = {name: shortened(entry, 3, 4) for name, entry in ENTRIES.items()}
    told = []
    document = run_testbed(short, out=tmp_path, draws=2, progress=lambda *at: told.append(at))
    assert list(document["samplers"]) == list(ENTRIES)
    assert all(tuple(row) == TABLE for row in document["samplers"].values())
    assert document["samplers"]["fast"]["nfe"] == 3
    assert [row["steps"] for row in document["curves"]["0.05"]["dps"]] == [3, 4]
    assert json.loads((tmp_path / "testbed.json").read_text(encoding="utf-8")) == document
    assert (tmp_path / "testbed.png").read_bytes()[:4] == b"\x89PNG"
    assert told[-1] == ("samplers", 40, 40)
    with pytest.raises(UsageError, match="holds results already"):
        run_testbed(short, out=tmp_path)


def test_srmri_bench_prints_a_row_for_every_sampler(capsys):
    document = run_testbed({name: shortened(ENTRIES[name], 2) for name in ("fast", "dps")})
    _print_testbed(document)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if len(row) == 8] == ["sampler", "exact", "fast", "dps"] * 2


@pytest.mark.slow
def test_srmri_bench_testbed_prints_one_document():
    result = CliRunner().invoke(app, ["bench", "testbed", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr
    samplers = json.loads(result.stdout)["samplers"]
    assert list(samplers) == list(ENTRIES)
    fast = samplers["fast"]
    assert tuple(fast) == TABLE
    assert (fast["nfe"], fast["nbe"]) == (20, 0)
    assert abs(fast["psnr"] - fast["psnr_exact"]) < 0.25

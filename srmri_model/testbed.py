"""Gaussian images, of which everything is known: the denoiser, and the posterior to be drawn from.

What a sampler gives is held against the exact posterior, without a network and its errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.fft import dct
from torch import Tensor

from srmri_data.choices import SamplerName
from srmri_model.axes import apply_per_axis
from srmri_model.operators import SeparableOperator, make_operator
from srmri_model.samplers import ImageNoise, Noise, Settings, Trace, Variance, sample
from srmri_model.types import Images, Measurements, Planes, Sigmas

ExactImage = Float64[Tensor, "row col"]
ExactImages = Float64[Tensor, "batch channel row col"]
Covariance = Float64[Tensor, "pixel pixel"]


class GaussianPrior:
    """Images with independent normal coefficients of the cosine transform; and their denoiser.

    Parameters
    ----------
    mean : (rows, cols) Tensor
        Mean image, float64.
    power : (rows, cols) Tensor
        Variance of each coefficient of the orthonormal cosine transform, float64, > 0.

    Examples
    --------
    >>> white = GaussianPrior(torch.zeros(4, 4).double(), torch.ones(4, 4).double())
    >>> float(white(torch.full((1, 1, 4, 4), 3.0), sigma=1.0).mean())
    1.5
    """

    def __init__(self, mean: ExactImage, power: ExactImage) -> None:
        self.mean = mean
        self.power = power
        self._analysis = [
            torch.from_numpy(dct(np.eye(n), axis=0, norm="ortho")) for n in mean.shape
        ]
        self._synthesis = [matrix.mT for matrix in self._analysis]

    @classmethod
    def natural(
        cls,
        shape: tuple[int, int] = (32, 32),
        *,
        std: float = 0.28,
        slope: float = 4.0,
        corner: float = 8.0,
    ) -> GaussianPrior:
        """Make images about 0.5 whose power falls with frequency.

        By default they have structures of some four pixels: a factor of 2 leaves most of them to
        be seen, wavelet fusion at level 2 does not.

        Parameters
        ----------
        shape : (int, int)
            Size of the images.
        std : float
            Root mean square, over pixels, of their standard deviation.
        slope : float
            Power falls as frequency to the minus `slope`. It depends on the length of the
            frequency, so that no operator on rows and columns has it for eigenvalues.
        corner : float
            Half periods per image, where it begins to fall.

        Returns
        -------
        GaussianPrior
            The prior.
        """
        rows, cols = (torch.arange(n, dtype=torch.float64) for n in shape)
        frequency = (rows[:, None] ** 2 + cols**2).sqrt()
        power = (1 + (frequency / corner) ** 2) ** (-slope / 2)
        return cls(torch.full(shape, 0.5).double(), power * std**2 / power.mean())

    def __call__(self, x: Images, sigma: Sigmas | float, plane: Planes | None = None) -> Images:
        """Return the expected truth, given it with noise.

        Parameters
        ----------
        x : (B, 1, rows, cols) Tensor
            Noisy images.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Not used.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            Denoised images.
        """
        sigma = torch.as_tensor(sigma).double().reshape(-1, 1, 1, 1)
        shrunk = self._scaled(x.double() - self.mean, self.power / (self.power + sigma**2))
        return (self.mean + shrunk).float()

    def score(self, x: Images, sigma: Sigmas | float) -> Images:
        """Gradient of the log density of noisy images.

        Parameters
        ----------
        x : (B, 1, rows, cols) Tensor
            Noisy images.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            The score.
        """
        sigma = torch.as_tensor(sigma).double().reshape(-1, 1, 1, 1)
        return self._scaled(self.mean - x.double(), 1 / (self.power + sigma**2)).float()

    def draw(self, generator: Noise) -> Images:
        """Draw images.

        Parameters
        ----------
        generator : callable
            Source of white noise.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            Images.
        """
        white = generator((1, *self.mean.shape)).double()
        return (self.mean + self._scaled(white, self.power.sqrt())).float()

    def covariance(self) -> Covariance:
        """Return the covariance of all pixels.

        Returns
        -------
        (n, n) Tensor
            For n = rows × cols.
        """
        return self._scaled(self._unit_images(), self.power).flatten(1)

    def variance(self, operator: SeparableOperator) -> Callable[[float], Variance]:
        """Return the exact variance of the truth about the denoised image, in two numbers.

        Parameters
        ----------
        operator : SeparableOperator
            H, which says what a measurement sees.

        Returns
        -------
        callable
            ``variance(sigma)`` as `fast` takes it: tr C / n per pixel and tr H C Hᵀ / tr H Hᵀ
            as seen, where C has the eigenvalues σ² p / (σ² + p).
        """
        images_of_modes = apply_per_axis(self._unit_images(), self._synthesis)
        energy = operator.to(dtype=torch.float64).forward(images_of_modes).square()
        seen = (energy.sum(dim=(-2, -1)) / energy.sum()).reshape(self.power.shape)

        def variance(sigma: float) -> Variance:
            left = sigma**2 * self.power / (sigma**2 + self.power)
            return Variance(float(left.mean()), float((seen * left).sum()))

        return variance

    def _scaled(self, images: Tensor, gain: Tensor) -> Tensor:
        coefficients = apply_per_axis(images, self._analysis)
        return apply_per_axis(gain * coefficients, self._synthesis)

    def _unit_images(self) -> ExactImages:
        n = self.mean.numel()
        return torch.eye(n, dtype=torch.float64).reshape(n, 1, *self.mean.shape)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Images given their measurements, exactly.

    Parameters
    ----------
    mean : (B, 1, rows, cols) Tensor
        Expected truth of each measurement.
    covariance : (n, n) Tensor
        Of all pixels; the same for every measurement.
    """

    mean: ExactImages
    covariance: Covariance

    @property
    def std(self) -> ExactImage:
        """Standard deviation of every pixel, (rows, cols)."""
        return self.covariance.diagonal().sqrt().reshape(self.mean.shape[-2:])

    def draw(self, generator: Noise) -> ExactImages:
        """Draw one image per measurement.

        Parameters
        ----------
        generator : callable
            Source of white noise.

        Returns
        -------
        (B, 1, rows, cols) Tensor
            Posterior samples.
        """
        root: Tensor = torch.linalg.cholesky(self.covariance)
        white = generator((1, *self.mean.shape[-2:])).double().flatten(1)
        return self.mean + (white @ root.mT).reshape(self.mean.shape)


def exact_posterior(
    prior: GaussianPrior, operator: SeparableOperator, measurement: Measurements, sigma_y: float
) -> Posterior:
    """Condition the prior on measurements, by dense linear algebra.

    Parameters
    ----------
    prior : GaussianPrior
        Of small images: matrices have as many rows as they have pixels.
    operator : SeparableOperator
        H.
    measurement : (B, 1, *low_size) Tensor
        Measurements.
    sigma_y : float
        Standard deviation of their noise.

    Returns
    -------
    Posterior
        Mean and covariance.
    """
    exact = operator.to(dtype=torch.float64)
    covariance = prior.covariance()
    # C is symmetric: H of its rows is (H C)ᵀ.
    cross = exact.forward(covariance.reshape(-1, 1, *prior.mean.shape)).flatten(1)
    of_measurement = exact.forward(cross.mT.reshape(-1, 1, *prior.mean.shape)).flatten(1)
    of_measurement += sigma_y**2 * torch.eye(len(of_measurement), dtype=torch.float64)
    gain = torch.linalg.solve(of_measurement, cross.mT).mT
    surprise = measurement.double() - exact.forward(prior.mean)
    mean = prior.mean + (surprise.flatten(1) @ gain.mT).reshape(-1, 1, *prior.mean.shape)
    left = covariance - gain @ cross.mT
    return Posterior(mean, (left + left.mT) / 2)


@dataclass(frozen=True, eq=False)
class TestBed:
    """Truths, their measurements, and what can be known from those.

    Parameters
    ----------
    prior : GaussianPrior
        What the truths were drawn from.
    operator : SeparableOperator
        H.
    sigma_y : float
        Standard deviation of the measurements' noise.
    truth : (B, 1, rows, cols) Tensor
        Truths.
    measurement : (B, 1, *low_size) Tensor
        H truth + noise.
    posterior : Posterior
        Exact.
    """

    __test__ = False  # pytest: not a class of tests

    prior: GaussianPrior
    operator: SeparableOperator
    sigma_y: float
    truth: Images
    measurement: Measurements
    posterior: Posterior


def make_testbed(
    sigma_y: float,
    *,
    prior: GaussianPrior | None = None,
    operator: SeparableOperator | None = None,
    truths: int = 4,
    seed: int = 0,
) -> TestBed:
    """Draw truths and measure them.

    Parameters
    ----------
    sigma_y : float
        Standard deviation of the measurements' noise.
    prior : GaussianPrior, optional
        By default `GaussianPrior.natural`.
    operator : SeparableOperator, optional
        By default bicubic by a factor of 2.
    truths : int
        How many.
    seed : int
        Of truths and noise.

    Returns
    -------
    TestBed
        With its exact posterior.
    """
    prior = prior or GaussianPrior.natural()
    rows, cols = prior.mean.shape
    operator = operator or make_operator("bicubic", (rows, cols), 2)
    generator = ImageNoise(seed, [(0, n) for n in range(truths)])
    truth = prior.draw(generator)
    measurement = operator.forward(truth)
    measurement = measurement + sigma_y * generator((1, *operator.low_shape))
    posterior = exact_posterior(prior, operator, measurement, sigma_y)
    return TestBed(prior, operator, sigma_y, truth, measurement, posterior)


@dataclass(frozen=True)
class Quality:
    """How draws compare with exact posterior samples.

    Parameters
    ----------
    nfe, nbe : int
        Evaluations of the denoiser per image, forward and backward.
    psnr : float
        Peak signal-to-noise ratio of single draws in dB, from the mean squared error over draws,
        for a range of 1.
    psnr_exact : float
        That of exact posterior samples.
    std_ratio : float
        Standard deviation of draws over the posterior's, root mean square over pixels. 1 is
        right; less is overconfident.
    residual : float
        Root mean square of H x − y over σ_y. Near 1 for exact samples; less follows the
        measurement's noise.
    bias : float
        Root mean square distance of the draws' mean from the posterior's, over the posterior's
        standard deviation, less what the number of draws explains.
    """

    nfe: int
    nbe: int
    psnr: float
    psnr_exact: float
    std_ratio: float
    residual: float
    bias: float


def judge(bed: TestBed, draws: Images, trace: Trace) -> Quality:
    """Compare draws with the exact posterior.

    Parameters
    ----------
    bed : TestBed
        Truths and posterior.
    draws : (truths × K, 1, rows, cols) Tensor
        K ≥ 2 draws of the first truth, then of the next.
    trace : Trace
        What the sampler did.

    Returns
    -------
    Quality
        The figures.
    """
    per_truth = draws.double().reshape(len(bed.truth), -1, *draws.shape[-2:])
    k = per_truth.shape[1]
    expected = float(bed.posterior.covariance.diagonal().mean())
    spread = float(per_truth.var(dim=1).mean())
    off = float((per_truth.mean(dim=1, keepdim=True) - bed.posterior.mean).square().mean())
    error = float((per_truth - bed.truth).square().mean())
    error_of_mean = float((bed.posterior.mean - bed.truth).square().mean())
    repeated = bed.measurement.repeat_interleave(k, dim=0)
    misfit = bed.operator.forward(draws) - repeated
    return Quality(
        nfe=trace.nfe,
        nbe=trace.nbe,
        psnr=-10 * math.log10(error),
        psnr_exact=-10 * math.log10(error_of_mean + expected),
        std_ratio=math.sqrt(spread / expected),
        residual=float(misfit.square().mean().sqrt()) / bed.sigma_y,
        bias=math.sqrt(max(off - spread / k, 0.0) / expected),
    )


def try_sampler(
    bed: TestBed,
    name: SamplerName,
    settings: Settings | None = None,
    *,
    draws: int = 16,
    seed: int = 0,
    variance: Callable[[float], Variance] | None = None,
) -> Quality:
    """Draw from the posterior of every truth with a sampler, and judge the draws.

    Parameters
    ----------
    bed : TestBed
        Truths and measurements.
    name : str
        A key of `srmri_model.samplers.SAMPLERS`.
    settings : Settings, optional
        By default the sampler's.
    draws : int
        Draws per truth, at least 2.
    seed : int
        Of the sampler's noise.
    variance : callable, optional
        By default the exact one in two numbers.

    Returns
    -------
    Quality
        The figures.
    """
    keys = [(1, truth, draw) for truth in range(len(bed.truth)) for draw in range(draws)]
    images, trace = sample(
        name,
        bed.prior,
        bed.measurement.repeat_interleave(draws, dim=0),
        bed.operator,
        sigma_y=bed.sigma_y,
        generator=ImageNoise(seed, keys),
        settings=settings,
        variance=variance or bed.prior.variance(bed.operator),
    )
    return judge(bed, images, trace)

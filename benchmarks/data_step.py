"""What `fast` takes for the variance of its data step, its levels, and what comes of it.

``python -m benchmarks.data_step`` draws from the test-bed with several choices, on priors from
rough to smooth, and prints how the draws compare with the exact posterior.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from srmri_model.operators import SeparableOperator
from srmri_model.samplers import Fast, Variance
from srmri_model.testbed import GaussianPrior, TestBed, make_testbed, try_sampler

PRIORS = {
    "default": GaussianPrior.natural(),
    "rough": GaussianPrior.natural(std=0.25, slope=2.0, corner=2.0),
    "smooth": GaussianPrior.natural(std=0.2, slope=3.0, corner=2.0),
    "very smooth": GaussianPrior.natural(std=0.1, slope=4.0, corner=2.0),
}
Choice = Callable[[float], Variance]


def choices(prior: GaussianPrior, operator: SeparableOperator) -> dict[str, Choice]:
    """Variances of the data step by name."""
    exact = prior.variance(operator)
    per_pixel = float(prior.power.mean())
    # H† H, for a separable H of full rank, has as many components as the measurement.
    seen_share = operator.low_shape[0] * operator.low_shape[1] / prior.mean.numel()
    unit = torch.eye(prior.mean.numel()).reshape(-1, 1, *prior.mean.shape)
    projected = operator.pseudo_inverse(operator.forward(unit)).flatten(1).double()

    def null_space(sigma: float) -> Variance:
        power = sigma**2 * prior.power / (sigma**2 + prior.power)
        left = GaussianPrior(prior.mean, power).covariance()
        inside = float((projected * left).sum())
        free = (float(left.trace()) - inside) / ((1 - seen_share) * len(left))
        return Variance(free, exact(sigma).seen)

    return {
        "two numbers": exact,
        "per pixel": lambda sigma: Variance(exact(sigma).pixel),
        "as seen": lambda sigma: Variance(exact(sigma).seen or 0.0),
        "null space's own": null_space,
        "s2 c/(s2 + c)": lambda s: Variance(s**2 * per_pixel / (s**2 + per_pixel)),
        "s2": lambda s: Variance(s**2),
    }


def show(label: str, bed: TestBed, settings: Fast, variance: Choice | None = None) -> None:
    """Print one line."""
    found = try_sampler(bed, "fast", settings, variance=variance)
    print(
        f"{bed.sigma_y:<5g} {label:<28} {found.psnr - found.psnr_exact:+6.2f} dB  "
        f"std {found.std_ratio:.3f}  residual {found.residual:.3f}  bias {found.bias:.2f}"
    )


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for name, prior in PRIORS.items():
        print(f"\nprior {name}: variance of the data step, 20 evaluations")
        for sigma_y in (0.01, 0.05):
            bed = make_testbed(sigma_y, prior=prior)
            for label, variance in choices(prior, bed.operator).items():
                show(label, bed, Fast(), variance)
    print("\ndefault prior: levels")
    for sigma_y in (0.01, 0.05):
        bed = make_testbed(sigma_y)
        for steps in (5, 10, 20, 50, 200):
            show(f"{steps} steps", bed, Fast(steps))
        for sigma_max in (0.25, 1.0, 4.0):
            show(f"sigma_max {sigma_max:g}", bed, Fast(sigma_max=sigma_max))
        for sigma_min in (0.002, 0.005, 0.02, 0.05):
            show(f"sigma_min {sigma_min:g}", bed, Fast(sigma_min=sigma_min))


if __name__ == "__main__":
    main()

"""Operators, data steps and fusion beside the obvious way to do the same.

    python -m benchmarks.operators [--threads 1] [--repeats 15] [--json]

Degrading is timed beside ``F.interpolate(antialias=True)``, its adjoint beside the gradient of
that, the closed-form data step beside fifty steps of conjugate gradients with the same operator,
fusion beside PyWavelets slice by slice. Both take turns; times are the best, ratios the median
over the turns (below 1: ours takes less). Differences are the largest one, inside for degrading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pywt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from srmri_model.operators import make_operator
from srmri_model.wavelets import WaveletFusion

NOISE, PRIOR, CG_STEPS = 0.01, 0.1, 50


class Contest(NamedTuple):
    """Two ways to the same image."""

    name: str
    ours: Callable[[], Tensor]
    rival: Callable[[], Tensor]
    margin: int = 0


def _conjugate_gradients(multiply: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    x = torch.zeros_like(right)
    residual = direction = right
    energy = residual.square().sum()
    for _ in range(CG_STEPS):
        product = multiply(direction)
        step = energy / (direction * product).sum()
        x = x + step * direction
        residual = residual - step * product
        before, energy = energy, residual.square().sum()
        direction = residual + energy / before * direction
    return x


def contests(shape: tuple[int, ...], batch: int) -> Iterator[Contest]:
    """Yield what is compared for images of a shape, degraded by two along each axis."""
    label = "×".join(map(str, (batch, *shape)))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 1, *shape, generator=generator)
    operator = make_operator("bicubic", shape, 2)
    y = operator.forward(x) + NOISE * torch.randn(
        batch, 1, *operator.low_shape, generator=generator
    )
    d = x + PRIOR * torch.randn(x.shape, generator=generator)

    def normal(z: Tensor) -> Tensor:
        return operator.adjoint(operator.forward(z)) / NOISE**2 + z / PRIOR**2

    yield Contest(
        f"prox {label}",
        lambda: operator.prox(d, y, NOISE, PRIOR),
        lambda: _conjugate_gradients(normal, operator.adjoint(y) / NOISE**2 + d / PRIOR**2),
    )
    if len(shape) != 2:
        return

    def interpolate(image: Tensor) -> Tensor:
        return F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)

    def gradient() -> Tensor:
        image = torch.zeros_like(x, requires_grad=True)
        return torch.autograd.grad(interpolate(image), image, y)[0]

    def by_pywavelets() -> Tensor:
        fused = []
        for image, target in zip(x[:, 0].numpy(), d[:, 0].numpy(), strict=True):
            details = pywt.wavedec2(image, "bior4.4", "symmetric", 2)[1:]
            coarse = pywt.wavedec2(target, "bior4.4", "symmetric", 2)[0]
            fused.append(pywt.waverec2([coarse, *details], "bior4.4", "symmetric"))
        return torch.from_numpy(np.stack(fused)[:, None, : shape[0], : shape[1]])

    fuse = WaveletFusion(shape)
    yield Contest(f"forward {label}", lambda: operator.forward(x), lambda: interpolate(x), 4)
    yield Contest(f"adjoint {label}", lambda: operator.adjoint(y), gradient, 8)
    yield Contest(f"fusion {label}", lambda: fuse(x, d), by_pywavelets)


def measure(contest: Contest, repeats: int) -> dict[str, float]:
    """Time both in turns and compare what they give."""
    ours, rival = contest.ours(), contest.rival()
    keep = [slice(contest.margin, n - contest.margin) for n in ours.shape[2:]]
    inside = (slice(None), slice(None), *keep)
    times: dict[str, list[float]] = {"ours": [], "rival": []}
    for _ in range(repeats):
        for name, call in (("ours", contest.ours), ("rival", contest.rival)):
            start = time.process_time()
            call()
            times[name].append((time.process_time() - start) / torch.get_num_threads())
    pairs = zip(times["ours"], times["rival"], strict=True)
    return {
        "ours_ms": 1e3 * min(times["ours"]),
        "rival_ms": 1e3 * min(times["rival"]),
        "ratio": statistics.median(one / other for one, other in pairs),
        "difference": float((ours - rival)[inside].abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {
        contest.name: measure(contest, options.repeats)
        for shape, batch in (((128, 80), 8), ((720, 512), 1), ((112, 128, 80), 1))
        for contest in contests(shape, batch)
    }
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'':24} {'ours':>9} {'rival':>9} {'ratio':>7}  difference")
    for name, row in results.items():
        print(
            f"{name:24} {row['ours_ms']:6.1f} ms {row['rival_ms']:6.1f} ms "
            f"{row['ratio']:7.3f}  {row['difference']:.1e}"
        )


if __name__ == "__main__":
    main()

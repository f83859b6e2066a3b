"""NCSN++ beside the public implementation: same weights, same numbers, less time.

    python -m benchmarks.network --reference PATH [--nf 32 128] [--threads 1] [--repeats 7] [--json]

PATH is a checkout of yang-song/score_sde_pytorch (Apache-2.0). It runs with its native resampling,
in place of the CUDA extension. Its configuration is score-MRI's, its weights are random and not
zero, denormals are flushed, and it hands over its weights as a public checkpoint. Both networks
take turns; the best and the median of the ratios of each turn are printed, with the share of the
matrix-product rate measured in the same run.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from srmri_model.networks import NCSNpp, build_network, forward_flops
from srmri_model.public_checkpoints import import_checkpoint

# The reference attends wherever a width is 16 at run time and has no weights for it: 64 crashes.
PARITY_SIZES = ((48, 56), (40, 72), (24, 40))
PARITY_SIGMAS = (0.01, 0.3, 5.0, 378.0)
GOALS = {"forward": 0.8, "forward+backward": 0.85}


class _Settings(dict[str, Any]):
    """A dict with attributes, which is all the reference asks of its configuration."""

    __getattr__ = dict.__getitem__


def reference_network(checkout: Path, nf: int) -> nn.Module:
    """Build the public network in score-MRI's configuration with random weights."""
    tree = ast.parse((checkout / "op" / "upfirdn2d.py").read_text(encoding="utf-8"))
    native: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "upfirdn2d_native"
    ]
    scope: dict[str, Any] = {"F": F, "torch": torch}
    # One function of a checkout the caller names: importing the module would build CUDA code.
    exec(compile(ast.Module(native, []), "upfirdn2d", "exec"), scope)

    def upfirdn2d(
        images: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)
    ) -> Any:
        return scope["upfirdn2d_native"](images, kernel, up, up, down, down, *pad, *pad)

    stand_ins = {"op": ModuleType("op"), "sde_lib": ModuleType("sde_lib")}
    stand_ins["op"].upfirdn2d = upfirdn2d  # type: ignore[attr-defined]
    package = ModuleType("models")
    package.__path__ = [str(checkout / "models")]
    sys.modules.update(stand_ins, models=package)
    from models import ncsnpp  # type: ignore[import-not-found]

    model = _Settings(
        nf=nf,
        ch_mult=(1, 2, 2, 2),
        num_res_blocks=4,
        attn_resolutions=(16,),
        dropout=0.0,
        resamp_with_conv=True,
        conditional=True,
        fir=True,
        fir_kernel=[1, 3, 3, 1],
        skip_rescale=True,
        resblock_type="biggan",
        progressive="none",
        progressive_input="residual",
        progressive_combine="sum",
        embedding_type="fourier",
        init_scale=0.0,
        fourier_scale=16,
        nonlinearity="swish",
        normalization="GroupNorm",
        sigma_max=378.0,
        sigma_min=0.01,
        num_scales=2000,
        scale_by_sigma=True,
    )
    data = _Settings(image_size=320, num_channels=1, centered=False)
    training = _Settings(continuous=True)
    torch.manual_seed(0)
    network: nn.Module = ncsnpp.NCSNpp(_Settings(model=model, data=data, training=training))
    with torch.no_grad():
        for value in network.parameters():
            if value.requires_grad:
                value.add_(0.03 * torch.randn_like(value))
    return network


def ours_with_weights_of(reference: nn.Module) -> NCSNpp:
    """Hand the weights over as a public checkpoint, through the importer."""
    state = {f"module.{name}": value for name, value in reference.state_dict().items()}
    shadow = [value.detach() for value in reference.parameters() if value.requires_grad]
    ema = {"decay": 0.999, "num_updates": 1, "shadow_params": shadow}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save({"optimizer": {}, "model": state, "ema": ema, "step": 1}, path)
        checkpoint, _ = import_checkpoint(path)
    network = build_network(checkpoint.network)
    network.load_state_dict(checkpoint.tensors)
    return network


def parity(reference: nn.Module, ours: nn.Module) -> dict[str, float]:
    """Largest difference over the largest value, per size and σ."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    with torch.no_grad():
        for rows, cols in PARITY_SIZES:
            for level in PARITY_SIGMAS:
                x = torch.rand(2, 1, rows, cols, generator=generator)
                x += level * torch.randn(x.shape, generator=generator)
                sigma = torch.full((2,), level)
                wanted, got = reference(x, sigma), ours(x, sigma)
                found[f"{rows}x{cols} σ {level}"] = float(
                    (got - wanted).abs().max() / wanted.abs().max()
                )
    return found


def peak_rate(repeats: int = 5, size: int = 1536) -> float:
    """Best rate of a square float32 matrix product, in FLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / min(_seconds(lambda: a @ b) for _ in range(repeats))


def _seconds(call: Callable[[], Any]) -> float:
    """Processor time per thread: what others do on the machine counts little."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / torch.get_num_threads()


def compare(
    reference: nn.Module, ours: nn.Module, x: Tensor, repeats: int
) -> dict[str, dict[str, float]]:
    """Time both networks in turns, forward alone and with the backward pass."""
    sigma = torch.full((len(x),), 0.3)

    def forward(network: nn.Module) -> None:
        with torch.no_grad():
            network(x, sigma)

    def both(network: nn.Module) -> None:
        network.zero_grad(set_to_none=True)
        network(x, sigma).square().mean().backward()

    found = {}
    for name, call in (("forward", forward), ("forward+backward", both)):
        times: dict[str, list[float]] = {"reference": [], "ours": []}
        for repeat in range(repeats + 1):
            for which, network in (("reference", reference), ("ours", ours)):
                seconds = _seconds(lambda n=network, c=call: c(n))  # type: ignore[misc]
                if repeat:  # the first turn warms up
                    times[which].append(seconds)
        pairs = zip(times["ours"], times["reference"], strict=True)
        found[name] = {
            "reference_s": min(times["reference"]),
            "ours_s": min(times["ours"]),
            "ratio_of_best": min(times["ours"]) / min(times["reference"]),
            "median_ratio": statistics.median(one / other for one, other in pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--nf", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 112))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    results = {}
    for nf in options.nf:
        reference = reference_network(options.reference, nf)
        ours = ours_with_weights_of(reference)
        x = torch.rand(options.batch, 1, *options.size)
        timing = compare(reference, ours, x, options.repeats)
        peak = peak_rate()
        flops = forward_flops(ours.config, *options.size) * options.batch
        rate = flops / timing["forward"]["ours_s"]
        results[nf] = {
            "parity": max(parity(reference, ours).values()),
            "timing": timing,
            "gflops": rate / 1e9,
            "peak_gflops": peak / 1e9,
            "share_of_peak": rate / peak,
        }
        if not options.json:
            print(
                f"nf {nf}, {options.batch}×1×{options.size[0]}×{options.size[1]}, threads "
                f"{options.threads}: largest relative difference {results[nf]['parity']:.1e}"
            )
            for name, figures in timing.items():
                verdict = "ok" if figures["median_ratio"] <= GOALS[name] else "missed"
                print(
                    f"  {name:<17} {figures['ours_s']:.3f} s beside {figures['reference_s']:.3f} s"
                    f", ratio {figures['ratio_of_best']:.2f} of the best, median "
                    f"{figures['median_ratio']:.2f} (goal {GOALS[name]}: {verdict})"
                )
            print(f"  {rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of peak")
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()

"""How much better the network denoises than non-local means and wavelets do.

``python -m benchmarks.denoising --model model.safetensors --data FOLDER --split splits.json``

All are judged on the same coronal slices of the ``tune`` animals with the same noise, by PSNR
inside the foreground, images in [0, 1]. Non-local means and wavelets are given the true σ and
are tuned at every σ on the very slices they are judged on, which favours them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGMAS = (0.05, 0.1, 0.25)
TARGETS = {0.05: 0.8, 0.1: 0.8, 0.25: 2.5}
"""Gain over non-local means that is wanted, dB."""

Image = NDArray[np.float32]
Denoise = Callable[[Image, float], Image]


def slices_of(data: Path, split: Path, cache: Path, count: int) -> list[Image]:
    """Evenly spread coronal slices of the tune animals, in [0, 1] by their volumes' maps."""
    from srmri_model.training.slices import (
        Subset,
        VolumeSlices,
        assign,
        cache_volumes,
        read_split,
    )
    from srmri_model.training.validation import spread

    slices = VolumeSlices(cache_volumes([data], cache), ["coronal"])
    roles = assign(slices.subjects, read_split(split))
    chosen = [n for n, subject in enumerate(slices.subjects) if roles.get(subject) == "tune"]
    tune = Subset(slices, chosen)
    return [tune[n]["image"] for n in spread(len(tune), count)]


def noisy(images: list[Image], sigma: float) -> list[Image]:
    """Images with fixed noise."""
    random = np.random.default_rng(20260)
    return [
        (image + sigma * random.standard_normal(image.shape)).astype(np.float32) for image in images
    ]


def psnr(images: list[Image], denoised: list[Image]) -> float:
    """Foreground PSNR, dB, over all slices together."""
    error = np.concatenate([(d - i)[i > 0] for i, d in zip(images, denoised, strict=True)])
    return float(-10 * np.log10(np.mean(error.astype(np.float64) ** 2)))


def non_local_means() -> Iterator[tuple[dict[str, Any], Denoise]]:
    """Every setting of scikit-image's non-local means that is tried."""
    from skimage.restoration import denoise_nl_means

    strengths = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
    grid = itertools.product((3, 5, 7), (3, 5, 9), strengths, (True, False))
    for patch_size, patch_distance, h, knows_sigma in grid:
        settings = {"patch_size": patch_size, "patch_distance": patch_distance}

        def denoise(
            image: Image,
            sigma: float,
            settings: dict[str, int] = settings,
            h: float = h,
            knows_sigma: bool = knows_sigma,
        ) -> Image:
            known = sigma if knows_sigma else 0.0
            return np.asarray(denoise_nl_means(image, h=h * sigma, sigma=known, **settings))

        yield {**settings, "h": h, "sigma_known": knows_sigma}, denoise


def wavelets() -> Iterator[tuple[dict[str, Any], Denoise]]:
    """Every setting of scikit-image's wavelet denoising that is tried."""
    from skimage.restoration import denoise_wavelet

    grid = itertools.product(
        ("db2", "sym4", "coif2"), ("BayesShrink", "VisuShrink"), (0.3, 0.5, 0.7, 1.0)
    )
    for wavelet, method, factor in grid:

        def denoise(
            image: Image,
            sigma: float,
            wavelet: str = wavelet,
            method: str = method,
            factor: float = factor,
        ) -> Image:
            found = denoise_wavelet(image, sigma=factor * sigma, wavelet=wavelet, method=method)
            return np.asarray(found, dtype=np.float32)

        yield {"wavelet": wavelet, "method": method, "factor": factor}, denoise


def best_of(
    settings: Iterator[tuple[dict[str, Any], Denoise]], images: list[Image], sigma: float
) -> tuple[float, dict[str, Any]]:
    """PSNR and setting of the best, searched on every fourth slice and measured on all."""
    inputs = noisy(images, sigma)
    few = slice(None, None, 4)
    tried = [
        (psnr(images[few], [denoise(x, sigma) for x in inputs[few]]), n, setting, denoise)
        for n, (setting, denoise) in enumerate(settings)
    ]
    ranked = sorted(tried, key=lambda entry: -entry[0])[:4]
    finals = [(psnr(images, [d(x, sigma) for x in inputs]), n, s) for _, n, s, d in ranked]
    score, _, setting = max(finals, key=lambda entry: entry[0])
    return score, setting


def network(model: Path) -> Denoise:
    """Read a network as a function of one image."""
    import torch

    from srmri_model.checkpoints import load_denoiser
    from srmri_model.training.slices import plane_index

    torch.set_flush_denormal(True)
    denoiser = load_denoiser(model)
    plane = plane_index(["coronal"], denoiser.config.n_planes)

    def denoise(image: Image, sigma: float) -> Image:
        with torch.no_grad():
            x = torch.from_numpy(image)[None, None]
            found: Image = denoiser(x, torch.tensor([sigma]), plane)[0, 0].numpy()
        return found

    return denoise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder for mapped volumes")
    parser.add_argument("--baselines", type=Path, help="JSON to keep the tuned baselines in")
    parser.add_argument("--slices", type=int, default=48)
    arguments = parser.parse_args()
    images = slices_of(arguments.data, arguments.split, arguments.cache, arguments.slices)
    baselines: dict[str, Any] = {}
    if arguments.baselines and arguments.baselines.exists():
        baselines = json.loads(arguments.baselines.read_text())
    for sigma in SIGMAS:
        if str(sigma) not in baselines:
            began = time.perf_counter()
            means, by_means = best_of(non_local_means(), images, sigma)
            waves, by_waves = best_of(wavelets(), images, sigma)
            baselines[str(sigma)] = {
                "nlm": means,
                "wavelet": waves,
                "noisy": psnr(images, noisy(images, sigma)),
                "settings": [by_means, by_waves],
            }
            print(
                f"tuned at σ = {sigma} in {time.perf_counter() - began:.0f} s: "
                f"{by_means}, {by_waves}"
            )
            if arguments.baselines:
                arguments.baselines.write_text(json.dumps(baselines, indent=1))
    for model in arguments.model:
        denoise = network(model)
        print(f"\n{model}, {len(images)} slices, foreground PSNR in dB")
        names = ("noisy", "wavelet", "NLM", "network", "gain", "wanted")
        print(f"{'σ':>6} " + " ".join(f"{name:>8}" for name in names))
        for sigma in SIGMAS:
            row = baselines[str(sigma)]
            ours = psnr(images, [denoise(x, sigma) for x in noisy(images, sigma)])
            gain, wanted = ours - row["nlm"], TARGETS[sigma]
            verdict = "met" if gain >= wanted else "MISSED"
            print(
                f"{sigma:6.2f} {row['noisy']:8.2f} {row['wavelet']:8.2f} {row['nlm']:8.2f} "
                f"{ours:8.2f} {gain:+8.2f} {wanted:+8.2f} {verdict}"
            )


if __name__ == "__main__":
    main()

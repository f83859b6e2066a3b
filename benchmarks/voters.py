"""Time and memory of the voters beside the obvious loop, on the same slices.

    python -m benchmarks.voters [--lr 122 --hr 274 --rows 256 --cols 360 --sample 40] [--json]

Ours is timed on the whole matrix. The loops over pairs (the lpips package, scikit-image) are timed
on a sample of pairs; the PCA loop, one scikit-learn fit with its defaults and a norm per pair, on
all of them. Every row is a fresh process: its peak memory is the kernel's figure for that process,
above what it held when the slices were made and the libraries imported. The first call, which
compiles or reads weights, is made on two small slices and not timed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from benchmarks.memory import peak_mb
from srmri_data.voters import VOTERS

Stack: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
Pairs: TypeAlias = list[tuple[int, int]]


@dataclass(frozen=True)
class Size:
    """How many slices of which size."""

    lr: int
    hr: int
    rows: int
    cols: int
    sample: int


@dataclass(frozen=True)
class Row:
    """One measurement."""

    ms_per_pair: float
    seconds: float
    pairs: int
    peak_mb: float
    extra_mb: float
    distances: list[float]


def slices(size: Size) -> tuple[Stack, Stack]:
    """Make two stacks of smooth anatomy with fine texture, in [0, 1]."""
    from scipy.ndimage import gaussian_filter, zoom

    generator = np.random.default_rng(0)
    blobs = gaussian_filter(generator.random((size.hr // 4 + 2, size.rows // 4, size.cols // 4)), 2)
    texture = gaussian_filter(generator.standard_normal((size.rows, size.cols)), 1)
    mask = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, n) for n in (size.rows, size.cols)),
                                 indexing="ij")) < 0.9  # fmt: skip

    def at(position: float) -> Stack:
        low = int(position)
        weight = position - low
        blob = (1 - weight) * blobs[low] + weight * blobs[low + 1]
        fine = zoom(blob, (size.rows / blob.shape[0], size.cols / blob.shape[1]), order=1)
        fine = (fine - blobs.min()) / np.ptp(blobs) + 0.05 * texture
        noisy = mask * fine + 0.01 * generator.standard_normal(fine.shape)
        return np.asarray(np.clip(noisy, 0, 1), dtype=np.float32)

    def stack(n: int) -> Stack:
        # Filled in place: a transient copy would hide what the voters take.
        filled = np.empty((n, size.rows, size.cols), np.float32)
        for k, position in enumerate(np.linspace(0, len(blobs) - 1.001, n)):
            filled[k] = at(position)
        return filled

    return stack(size.lr), stack(size.hr)


def sampled_pairs(size: Size) -> Pairs:
    """Choose the pairs the loops are timed and compared on."""
    generator = np.random.default_rng(1)
    return [
        (int(i), int(j))
        for i, j in zip(
            generator.integers(0, size.lr, size.sample),
            generator.integers(0, size.hr, size.sample),
            strict=True,
        )
    ]


def loop_lpips(low_res: Stack, high_res: Stack, pairs: Pairs) -> Iterator[float]:
    """Yield the distance of the lpips package, one pair at a time."""
    import torch

    model = _reference_model()

    def colour(image: Stack) -> torch.Tensor:
        return torch.from_numpy(image)[None, None].repeat(1, 3, 1, 1)

    with torch.no_grad():
        for i, j in pairs:
            yield model(colour(low_res[i]), colour(high_res[j]), normalize=True).item()


def loop_ssim(low_res: Stack, high_res: Stack, pairs: Pairs) -> Iterator[float]:
    """Yield 1 − SSIM of scikit-image, one pair at a time."""
    from skimage.metrics import structural_similarity

    for i, j in pairs:
        similarity = structural_similarity(  # type: ignore[no-untyped-call]
            low_res[i],
            high_res[j],
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        yield 1 - float(similarity)


def loop_pca(low_res: Stack, high_res: Stack, pairs: Pairs) -> Iterator[float]:
    """Yield the distance between projections of scikit-learn, with its default solver."""
    from sklearn.decomposition import PCA

    n_images = len(low_res) + len(high_res)
    images = np.concatenate([low_res, high_res]).reshape(n_images, -1)
    scores = PCA(n_components=min(50, n_images - 1), random_state=0).fit_transform(images)
    for i, j in pairs:
        yield float(np.linalg.norm(scores[i] - scores[len(low_res) + j]))


LOOPS: dict[str, Callable[[Stack, Stack, Pairs], Iterator[float]]] = {
    "pca": loop_pca,
    "lpips": loop_lpips,
    "ssim": loop_ssim,
}

_MODEL: list[Any] = []


def _reference_model() -> Any:
    from srmri_data.voters.lpips import lpips_model

    if not _MODEL:
        _MODEL.append(lpips_model())
    return _MODEL[0]


def measure(name: str, ours: bool, size: Size) -> Row:
    """Measure one voter or one loop; runs in a process of its own."""
    low_res, high_res = slices(size)
    chosen = sampled_pairs(size)
    every_pair = [(i, j) for i in range(size.lr) for j in range(size.hr)]
    pairs = every_pair if ours or name == "pca" else chosen
    small = np.random.default_rng(2).random((2, 64, 64), dtype=np.float32)
    if ours:
        VOTERS[name](small, small)
    else:
        list(LOOPS[name](small, small, [(0, 1)]))
    before = peak_mb()
    start = time.perf_counter()
    if ours:
        matrix = VOTERS[name](low_res, high_res)
        seconds = time.perf_counter() - start
    else:
        found = dict(zip(pairs, LOOPS[name](low_res, high_res, pairs), strict=True))
        seconds = time.perf_counter() - start
    return Row(
        ms_per_pair=1e3 * seconds / len(pairs),
        seconds=seconds,
        pairs=len(pairs),
        peak_mb=peak_mb(),
        extra_mb=peak_mb() - before,
        distances=[float(matrix[pair]) if ours else found[pair] for pair in chosen],
    )


def alone(name: str, ours: bool, size: Size) -> Row:
    """Run `measure` in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, ours, size).result()


def growth(size: Size, names: list[str]) -> dict[str, list[float]]:
    """Seconds of our voters for a quarter, half and all of the slices: 1×, 2×, 4×."""
    return {
        name: [
            alone(name, True, replace(size, lr=size.lr // part, hr=size.hr // part)).seconds
            for part in (4, 2, 1)
        ]
        for name in names
    }


def compare(size: Size, names: list[str]) -> dict[str, Any]:
    """Measure the voters and their loops."""
    voters: dict[str, Any] = {}
    for name in names:
        ours, loop = alone(name, True, size), alone(name, False, size)
        difference = np.abs(np.subtract(ours.distances, loop.distances))
        voters[name] = {
            "ours": {k: v for k, v in asdict(ours).items() if k != "distances"},
            "loop": {k: v for k, v in asdict(loop).items() if k != "distances"},
            "loop_whole_seconds": loop.ms_per_pair * size.lr * size.hr / 1e3,
            "ratio": loop.ms_per_pair / ours.ms_per_pair,
            "largest_difference": float(difference.max()),
        }
    ours_all = sum(row["ours"]["seconds"] for row in voters.values())
    loop_all = sum(row["loop_whole_seconds"] for row in voters.values())
    together = {"ours": ours_all, "loop": loop_all, "ratio": loop_all / ours_all}
    return {
        "size": asdict(size),
        "voters": voters,
        "together": together,
        "growth": growth(size, names),
    }


def table(result: dict[str, Any]) -> str:
    """Lay out the result for reading."""
    size = result["size"]
    lines = [
        f"{size['lr']} LR x {size['hr']} HR slices of {size['rows']} x {size['cols']}, "
        f"loops on {size['sample']} pairs (PCA: all)",
        f"{'':6} {'ms per pair':>20} {'whole matrix, s':>22} {'ratio':>7} "
        f"{'peak above start, MB':>22} {'largest':>11}",
        f"{'voter':6} {'ours':>9} {'loop':>10} {'ours':>10} {'loop':>11} {'':7} "
        f"{'ours':>11} {'loop':>10} {'difference':>11}",
    ]
    for name, row in result["voters"].items():
        ours, loop = row["ours"], row["loop"]
        lines.append(
            f"{name:6} {ours['ms_per_pair']:9.3f} {loop['ms_per_pair']:10.3f} "
            f"{ours['seconds']:10.1f} {row['loop_whole_seconds']:11.1f} {row['ratio']:6.1f}x "
            f"{ours['extra_mb']:11.0f} {loop['extra_mb']:10.0f} {row['largest_difference']:11.1e}"
        )
    together = result["together"]
    lines.append(
        f"{'all':6} {'':20} {together['ours']:10.1f} {together['loop']:11.1f} "
        f"{together['ratio']:6.1f}x (goal: 100x)"
    )
    lines += ["", "ours, s, for 1x, 2x and 4x the slices (4x: as above); pairs grow 16-fold"]
    for name, seconds in result["growth"].items():
        lines.append(f"{name:6} " + " ".join(f"{s:9.2f}" for s in seconds))
    return "\n".join(lines)


def main() -> None:
    """Read the options and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lr", type=int, default=122, help="LR slices")
    parser.add_argument("--hr", type=int, default=274, help="HR slices")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--cols", type=int, default=360)
    parser.add_argument("--sample", type=int, default=40, help="pairs the loops are timed on")
    parser.add_argument("--voters", default=",".join(VOTERS), help="some of pca,lpips,ssim")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    size = Size(options.lr, options.hr, options.rows, options.cols, options.sample)
    result = compare(size, options.voters.split(","))
    sys.stdout.write((json.dumps(result, indent=2) if options.json else table(result)) + "\n")


if __name__ == "__main__":
    main()

"""ZSSR: a small network trained on one LR image, to undo what makes it smaller still."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srmri_data.errors import UsageError
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.kernels import Kernel, Progress, Stop, downscale
from srmri_model.operators.matrices import Grid, degradation_matrix, low_size
from srmri_model.operators.separable import factor_per_axis

Image = NDArray[np.float32]
Shape = tuple[int, int]

_LEAST_SIDE = 8
"""LR pixels below which there is nothing to learn from."""


@dataclass(frozen=True)
class ZSSRSettings:
    """How ZSSR is trained and applied; defaults as published.

    Parameters
    ----------
    steps : int
        Most steps, each on one crop; training ends before them with the last of `drops`.
    width : int
        Channels.
    depth : int
        Hidden layers.
    crop : int
        Edge of the crops, in pixels of the HR father; a smaller image limits it.
    learning_rate : float
        Of Adam, at first.
    drops : int
        Falls of the rate to a tenth; with the last one, at 1e-6, training ends.
    check_every : int
        Steps between measurements of the error with which the image itself is reconstructed.
    checks : int
        Measurements that a line is fitted through. When they scatter by more than the line
        falls between two of them, the rate is divided by 10.
    scales : tuple of float
        Sizes of the HR fathers relative to the image; the larger, the more often drawn.
    noise : float
        Standard deviation of noise added to LR sons and not to fathers, on the image's scale.
    ensemble : bool
        Whether the image is shown in all eight orientations, and the median taken.
    back_projections : int
        Times that what is missing in LR is added, to each orientation's result and to the median.

    References
    ----------
    A. Shocher, N. Cohen, M. Irani, "Zero-shot" super-resolution using deep internal learning,
    CVPR 2018, sections 3 and 4.
    """

    steps: int = 3000
    width: int = 64
    depth: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    drops: int = 3
    check_every: int = 50
    checks: int = 6
    scales: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    noise: float = 0.0
    ensemble: bool = True
    back_projections: int = 8


PUBLISHED = ZSSRSettings()
"""As published; what the paper does not say is in `zssr`."""

SCALED = ZSSRSettings(steps=500, width=32, depth=6, crop=48, check_every=25, back_projections=0)
"""For one processor core and seconds an image; and for LR with noise, which back-projection would
put into the result (docs/baselines.md)."""


def zssr(
    low_res: Image,
    *,
    factor: float | tuple[float, float] = 2.0,
    kernel: Kernel | None = None,
    grid: Grid = "voxel-centre",
    high_shape: Shape | None = None,
    settings: ZSSRSettings = PUBLISHED,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Image:
    """Super-resolve an LR image by what it says about itself.

    Parameters
    ----------
    low_res : (row, col) ndarray of float32
        LR image in [0, 1], not clipped.
    factor : float or tuple of float
        LR over HR voxel size, for both axes or each.
    kernel : (m, n) ndarray, optional
        What made LR, as `srmri_model.baselines.kernelgan.estimate_kernel` finds it; see
        `downscale`. By default the cubic kernel.
    grid : {"fourier", "voxel-centre"}
        Where LR voxels lie on the HR grid.
    high_shape : tuple of int, optional
        Size of HR; by default that of LR times the factor, rounded.
    settings : ZSSRSettings
        How to train.
    steps : int, optional
        Most steps, instead of those of `settings`.
    seed : int
        Of first weights and of crops.
    progress : callable, optional
        Called as ``progress("zssr", done, total)``.
    stop : callable, optional
        Asked before every step; when it says True, what has been learnt by then is used.

    Returns
    -------
    (row, col) ndarray of float32
        HR image, not clipped. Before the first step the network changes nothing, and the image is
        its cubic interpolation, back-projected.

    Raises
    ------
    UsageError
        If the image is too small, or its size does not fit that of HR.

    Notes
    -----
    All images are put on their HR grid before they are turned or mirrored: a mirrored LR image on
    the grid "fourier" would lie beside it. Fathers are turned before their sons are made, so
    that the kernel is always the one given.

    The paper leaves open, and here it is: fathers of six sizes made with the cubic kernel, drawn in
    proportion to their areas; the error that the learning rate follows is that of the whole image
    rebuilt from its son; whatever it says, the rate is at a tenth or less after 60 % of the steps,
    and at a hundredth or less after 85 %. Factors are reached in one stage.

    References
    ----------
    A. Shocher, N. Cohen, M. Irani, "Zero-shot" super-resolution using deep internal learning,
    CVPR 2018.
    """
    factors = factor_per_axis(2, factor)
    shape = high_shape or tuple(round(n * f) for n, f in zip(low_res.shape, factors, strict=True))
    expected = tuple(low_size(n, f) for n, f in zip(shape, factors, strict=True))
    if low_res.shape != expected:
        raise UsageError(
            f"LR of HR {tuple(shape)} at a factor of {factor} is {expected} large; "
            f"found {low_res.shape}"
        )
    if min(low_res.shape) < _LEAST_SIDE:
        raise UsageError(f"ZSSR needs {_LEAST_SIDE} pixels or more; found {low_res.shape}")
    if steps is not None:
        settings = replace(settings, steps=steps)
    degradation = _Degradation(factors, kernel, grid)
    network = _trained(low_res, degradation, settings, seed, progress, stop)
    return _enlarged(low_res, (shape[0], shape[1]), network, degradation, settings)


@dataclass(frozen=True, eq=False)
class _Degradation:
    """What makes sons of fathers, and puts sons on their fathers' grid."""

    factors: tuple[float, ...]
    kernel: Kernel | None
    grid: Grid

    def down(self, image: Image) -> Image:
        return downscale(image, self.kernel, self.factors, grid=self.grid)

    def up(self, image: Image, shape: tuple[int, ...]) -> Image:
        return interpolate(image, shape, self.factors, "bicubic", grid=self.grid)

    def back_projected(self, high: Image, low: Image, times: int) -> Image:
        for _ in range(times):
            high = high + self.up(low - self.down(high), high.shape)
        return high

    def orientations(self) -> list[int]:
        """Orientations that keep every axis' factor: all eight, or the four that swap no axes."""
        return [*range(8 if self.factors[0] == self.factors[1] else 4)]


class ResidualNetwork(nn.Module):
    """Convolutions of 3 pixels with ReLU between them; their result is added to the image.

    The last layer begins at zero: a network that has learnt nothing changes nothing.

    Parameters
    ----------
    width : int
        Channels.
    depth : int
        Hidden layers.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((1, *[width] * depth)):
            layers += [_convolution(a, b), nn.ReLU()]
        last = _convolution(width, 1)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Sharpen images.

        Parameters
        ----------
        x : (B, 1, row, col) Tensor
            Interpolated images.

        Returns
        -------
        (B, 1, row, col) Tensor
            HR images.
        """
        sharpened: Tensor = x + self.layers(x)
        return sharpened

    def sharpened(self, image: Image) -> Image:
        """Sharpen one image.

        Parameters
        ----------
        image : (row, col) ndarray of float32
            Interpolated image.

        Returns
        -------
        (row, col) ndarray of float32
            HR image.
        """
        with torch.no_grad():
            return np.asarray(self(_tensor(image))[0, 0].numpy())


def _convolution(channels: int, out: int) -> nn.Conv2d:
    made = nn.Conv2d(channels, out, 3, padding=1, padding_mode="reflect")
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.get_parameter("bias"))
    return made


def _tensor(image: Image) -> Tensor:
    # Channels last: convolutions of few channels are fastest so.
    found = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    return found.to(memory_format=torch.channels_last)


def _turned(image: Image, orientation: int) -> Image:
    """Mirror rows, mirror columns, swap axes, as the bits of a number from 0 to 7 say."""
    image = image[::-1] if orientation & 1 else image
    image = image[:, ::-1] if orientation & 2 else image
    return image.T if orientation & 4 else image


def _turned_back(image: Image, orientation: int) -> Image:
    image = image.T if orientation & 4 else image
    image = image[::-1] if orientation & 1 else image
    return image[:, ::-1] if orientation & 2 else image


class _Examples:
    """Fathers and sons of an image, drawn as crops."""

    def __init__(
        self,
        image: Image,
        degradation: _Degradation,
        settings: ZSSRSettings,
        rng: np.random.Generator,
    ) -> None:
        self._rng, self._crop, self._noise = rng, settings.crop, settings.noise
        self._degradation = degradation
        self._pairs: list[tuple[Image, Image]] = []
        for father in _fathers(image, settings.scales):
            for orientation in range(8):
                turned = np.ascontiguousarray(_turned(father, orientation))
                if min(degradation.down(turned).shape) >= _LEAST_SIDE // 2:
                    self._pairs.append((self.son_of(turned), turned))
        areas = np.array([father.size for _, father in self._pairs], dtype=np.float64)
        self._cumulative = np.cumsum(areas / areas.sum())

    def son_of(self, father: Image) -> Image:
        """Make a father's son and put it on the father's grid."""
        return self._degradation.up(self._degradation.down(father), father.shape)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return a crop of a son, and of its father."""
        number = int(np.searchsorted(self._cumulative, self._rng.random()))
        son, father = self._pairs[min(number, len(self._pairs) - 1)]
        if self._noise:
            low = self._degradation.down(father)
            noise = self._rng.standard_normal(low.shape, dtype=np.float32) * self._noise
            son = son + self._degradation.up(noise.astype(np.float32), father.shape)
        starts = [int(self._rng.integers(max(0, n - self._crop) + 1)) for n in father.shape]
        cut = tuple(slice(start, start + self._crop) for start in starts)
        return _tensor(son[cut]), _tensor(father[cut])


def _fathers(image: Image, scales: Sequence[float]) -> list[Image]:
    """Return the image at several sizes."""
    found = []
    for scale in scales:
        rows, cols = (
            degradation_matrix("bicubic", n, 1 / scale) if scale != 1 else np.eye(n)
            for n in image.shape
        )
        found.append(np.asarray(rows @ image @ cols.T, dtype=np.float32))
    return found


def _trained(
    image: Image,
    degradation: _Degradation,
    settings: ZSSRSettings,
    seed: int,
    progress: Progress | None,
    stop: Stop | None,
) -> ResidualNetwork:
    """Train a network on an image."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = ResidualNetwork(settings.width, settings.depth)
    network.to(memory_format=torch.channels_last)
    examples = _Examples(image, degradation, settings, np.random.default_rng(seed))
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    rate = _Rate(settings)
    whole = examples.son_of(image)
    for step in range(settings.steps):
        if stop is not None and stop():
            break
        if step % settings.check_every == 0:
            rate.check(float(np.abs(network.sharpened(whole) - image).mean()))
        if rate.drops >= settings.drops:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate.at(step)
        son, father = examples.draw()
        optimiser.zero_grad()
        (network(son) - father).abs().mean().backward()
        optimiser.step()
        if progress is not None:
            progress("zssr", step + 1, settings.steps)
    return network


class _Rate:
    """The learning rate: a tenth whenever the error no longer falls clearly."""

    def __init__(self, settings: ZSSRSettings) -> None:
        self._settings = settings
        self._errors: list[float] = []
        self.drops = 0

    def check(self, error: float) -> None:
        """Take notice of an error."""
        self._errors.append(error)
        if len(self._errors) < self._settings.checks:
            return
        latest = np.array(self._errors[-self._settings.checks :])
        places = np.arange(latest.size)
        slope, start = np.polyfit(places, latest, 1)
        scatter = float(np.std(latest - (start + slope * places)))
        if scatter > -slope:
            self.drops += 1
            self._errors.clear()

    def at(self, step: int) -> float:
        """Return the rate of a step."""
        share = step / self._settings.steps
        due = sum(share >= bound for bound in (0.6, 0.85))
        drops = max(self.drops, due)
        return float(self._settings.learning_rate * 0.1**drops)


def _enlarged(
    low: Image,
    shape: Shape,
    network: ResidualNetwork,
    degradation: _Degradation,
    settings: ZSSRSettings,
) -> Image:
    """Apply a network to the image it was trained on."""
    interpolated = degradation.up(low, shape)
    found = []
    for orientation in degradation.orientations() if settings.ensemble else [0]:
        drawn = _turned_back(network.sharpened(_turned(interpolated, orientation)), orientation)
        found.append(degradation.back_projected(drawn, low, settings.back_projections))
    median = np.median(found, axis=0).astype(np.float32)
    return degradation.back_projected(median, low, settings.back_projections)

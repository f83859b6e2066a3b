"""KernelGAN: the blur kernel of an LR image, from that image alone.

A linear generator makes the image smaller such that a discriminator of small patches can not tell
the result from the image itself: patches of anatomy recur at several sizes, and the kernel that
makes them look alike is the one the scanner's own resolution stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal
from torch import Tensor, nn
from torch.nn import functional

from srmri_data.errors import UsageError
from srmri_model.baselines.kernels import (
    Kernel,
    Progress,
    Stop,
    centre_of_mass,
    operator_kernel,
)

Shape = tuple[int, int]

FACTORS = (2, 4)
"""Factors that a kernel can be estimated for."""

_EDGES = (7, 5, 3, 1, 1, 1)
_SIZE = sum(_EDGES) - len(_EDGES) + 1
_STRIDE = 2
_PATCH = 7
_HIDDEN = 5
_FIT_STEPS, _FIT_RATE = 200, 2e-3
_TINY = 1e-10
_LEAST_SIDE = _SIZE + _STRIDE * (_PATCH - 1)


@dataclass(frozen=True)
class KernelGANSettings:
    """How KernelGAN is trained; defaults as published.

    Parameters
    ----------
    steps : int
        Steps of generator and discriminator, each on one crop.
    crop : int
        Edge of the generator's crops in LR pixels; an image that is smaller limits it.
    width : int
        Channels of both networks.
    learning_rate : float
        Of Adam (β 0.5, 0.999), for both.
    drop_every : int
        Steps after which the learning rate falls to a tenth.
    sum_weight, boundary_weight, sparse_weight, centre_weight : float
        Weights of the regularisers: that the kernel sums to 1, is 0 towards its boundary, is
        sparse, has its mass in the middle.

    References
    ----------
    S. Bell-Kligler, A. Shocher, M. Irani, Blind super-resolution kernel estimation using an
    internal-GAN, NeurIPS 2019, sections 4 and 5.
    """

    steps: int = 3000
    crop: int = 64
    width: int = 64
    learning_rate: float = 2e-4
    drop_every: int = 750
    sum_weight: float = 0.5
    boundary_weight: float = 0.5
    sparse_weight: float = 5.0
    centre_weight: float = 1.0


PUBLISHED = KernelGANSettings()
"""As published; what the paper does not say is in `estimate_kernel`."""

SCALED = KernelGANSettings(steps=1200, learning_rate=3e-4, drop_every=1000)
"""For one processor core and seconds an image."""


class LinearGenerator(nn.Module):
    """Six convolutions of 7, 5, 3, 1, 1 and 1 pixels without bias or activation.

    Being linear they are one kernel of 13 pixels, which is computed from the weights and applied
    as one convolution: the same images and gradients at a fraction of the work.

    Parameters
    ----------
    width : int
        Channels between the convolutions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (1, *[width] * (len(_EDGES) - 1), 1)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(b, a, edge, edge))
            for a, b, edge in zip(channels, channels[1:], _EDGES, strict=False)
        )
        for weight in self.weights:
            nn.init.xavier_normal_(weight, gain=1.0)

    def kernel(self) -> Tensor:
        """Return the kernel, (13, 13): weights of pixels about a sample."""
        found = torch.ones(1, 1, 1, 1)
        for weight in reversed(self.weights):
            found = functional.conv_transpose2d(found, weight)
        return found[0, 0]


class PatchDiscriminator(nn.Module):
    """Tells for every patch of 7 pixels how much it looks as if cut from the image.

    A convolution of 7 pixels and six of 1, with spectral normalisation throughout and batch
    normalisation between. Batches are single crops, as published, so every image is normalised by
    itself, and real and fake crops can be judged at once.

    Parameters
    ----------
    width : int
        Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(1, width, _PATCH**2))
        self.hidden = nn.Parameter(torch.empty(_HIDDEN, width, width))
        self.last = nn.Parameter(torch.empty(1, 1, width))
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.last_bias = nn.Parameter(torch.zeros(1))
        self.scale = nn.Parameter(torch.ones(_HIDDEN, width))
        self.shift = nn.Parameter(torch.zeros(_HIDDEN, width))
        matrices = (self.first, self.hidden, self.last)
        for matrix in matrices:
            for one in matrix:
                nn.init.xavier_normal_(one)
        self._directions = [torch.randn(m.shape[0], m.shape[1], 1) for m in matrices]

    def forward(self, images: Tensor) -> Tensor:
        """Judge images.

        Parameters
        ----------
        images : (B, 1, h, w) Tensor
            Crops.

        Returns
        -------
        (B, (h - 6) * (w - 6)) Tensor
            Per patch, between 0 (made) and 1 (cut from the image).
        """
        first, hidden, last = (
            self._normalised(n, matrix)
            for n, matrix in enumerate((self.first, self.hidden, self.last))
        )
        first = first.reshape(-1, 1, _PATCH, _PATCH)
        x = functional.conv2d(images, first, self.first_bias).flatten(2)
        for matrix, scale, shift in zip(hidden, self.scale, self.shift, strict=True):
            x = functional.instance_norm(matrix @ x, weight=scale, bias=shift).relu()
        return torch.sigmoid(last[0] @ x + self.last_bias)[:, 0]

    def _normalised(self, n: int, matrices: Tensor) -> Tensor:
        """Divide matrices by their largest singular values, after one power iteration more."""
        with torch.no_grad():
            right = functional.normalize(matrices.mT @ self._directions[n], dim=1)
            left = functional.normalize(matrices @ right, dim=1)
            self._directions[n] = left
        return matrices / (left.mT @ matrices @ right)


def estimate_kernel(
    low_res: NDArray[np.float32],
    *,
    factor: int = 2,
    settings: KernelGANSettings = PUBLISHED,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Kernel:
    """Estimate the kernel that made an LR image.

    Parameters
    ----------
    low_res : (row, col) ndarray of float32
        LR image in [0, 1], not clipped; at least 25 pixels in both axes.
    factor : {2, 4}
        HR pixels per LR pixel.
    settings : KernelGANSettings
        How to train.
    steps : int, optional
        Steps instead of those of `settings`.
    seed : int
        Of first weights and of crops.
    progress : callable, optional
        Called as ``progress("kernel", done, total)``.
    stop : callable, optional
        Asked before every step; when it says True, what has been learnt by then is returned.

    Returns
    -------
    (k, k) ndarray
        Weights of HR pixels about an LR sample, 13 pixels wide for a factor of 2 and 37 for 4;
        their sum is 1 and their mass lies in the middle. LR images do not tell where samples lie
        on the HR grid, so this takes no side; see `downscale`.

    Raises
    ------
    UsageError
        If the factor is another, or the image is too small.

    Notes
    -----
    The paper leaves open, and here it is: the mask of the boundary, exp(d − 6) at d pixels from the
    middle; regularisers are means over the kernel, not sums. The kernel of a factor of 4 is that of
    2 applied twice, as published.

    References
    ----------
    S. Bell-Kligler, A. Shocher, M. Irani, Blind super-resolution kernel estimation using an
    internal-GAN, NeurIPS 2019.
    """
    if factor not in FACTORS:
        raise UsageError(
            f"KernelGAN estimates kernels for factors of 2 and 4; found {factor}",
            hint="give ZSSR a kernel, or none, for other factors",
        )
    if min(low_res.shape) < _LEAST_SIDE:
        raise UsageError(
            f"KernelGAN needs LR images of {_LEAST_SIDE} pixels or more; found {low_res.shape}"
        )
    if steps is not None:
        settings = replace(settings, steps=steps)
    kernel = _trained(low_res, settings, seed, progress, stop)
    kernel = _centred(kernel / kernel.sum())
    return kernel if factor == 2 else _centred(_twice(kernel))


def _trained(
    low_res: NDArray[np.float32],
    settings: KernelGANSettings,
    seed: int,
    progress: Progress | None,
    stop: Stop | None,
) -> Kernel:
    """Train both networks; return the generator's kernel."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        generator = LinearGenerator(settings.width)
        discriminator = PatchDiscriminator(settings.width)
    _start_from(generator, operator_kernel("bicubic", float(_STRIDE), _SIZE))
    crops = _Crops(low_res, settings.crop, rng)
    sides = [
        (list(network.parameters()), _adam(network, settings.learning_rate))
        for network in (generator, discriminator)
    ]
    for step in range(settings.steps):
        if stop is not None and stop():
            break
        kernel = generator.kernel()
        fake = functional.conv2d(crops.draw(crops.edges), kernel[None, None], stride=_STRIDE)
        real = crops.draw((fake.shape[-2], fake.shape[-1]))
        of_fake, of_real = discriminator(torch.cat((fake, real)))
        losses = (
            (1 - of_fake).abs().mean() + penalty(kernel, settings),
            (of_fake.abs().mean() + (1 - of_real).abs().mean()) / 2,
        )
        # Each network's gradient of its own loss alone; both from one look at the crops.
        gradients = [
            torch.autograd.grad(loss, parameters, retain_graph=True)
            for loss, (parameters, _) in zip(losses, sides, strict=True)
        ]
        for (parameters, optimiser), found in zip(sides, gradients, strict=True):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.1 ** (step // settings.drop_every)
            optimiser.step()
        if progress is not None:
            progress("kernel", step + 1, settings.steps)
    return generator.kernel().detach().numpy().astype(np.float64)


def _adam(network: nn.Module, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999), fused=True)


def _start_from(generator: LinearGenerator, kernel: Kernel) -> None:
    """Fit the generator's weights to a kernel."""
    target = torch.from_numpy(kernel.astype(np.float32))
    optimiser = _adam(generator, _FIT_RATE)
    for step in range(_FIT_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _FIT_RATE * (1 - step / _FIT_STEPS)
        optimiser.zero_grad()
        misfit = (generator.kernel() - target).square().sum()
        misfit.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def penalty(kernel: Tensor, settings: KernelGANSettings) -> Tensor:
    """Return the weighted sum of the regularisers.

    Parameters
    ----------
    kernel : (n, n) Tensor
        Weights.
    settings : KernelGANSettings
        Weights of the regularisers.

    Returns
    -------
    () Tensor
        0 for the kernel that has all its mass in the middle, but for the sparsity's 1 / n².
    """
    places = torch.arange(kernel.shape[0]) - (kernel.shape[0] - 1) / 2
    distance = (places[:, None] ** 2 + places**2).sqrt()
    total = kernel.sum()
    centre = torch.stack((kernel.sum(dim=1) @ places, kernel.sum(dim=0) @ places)) / total
    # The root has no slope at 0.
    return (
        settings.sum_weight * (1 - total).abs()
        + settings.boundary_weight * (kernel * torch.exp(distance - places[-1])).abs().sum()
        + settings.sparse_weight * (kernel.abs() + _TINY).sqrt().mean()
        + settings.centre_weight * (centre.square().sum() + _TINY).sqrt()
    )


class _Crops:
    """Crops of an image, drawn in proportion to the gradients in them."""

    def __init__(self, image: NDArray[np.float32], edge: int, rng: np.random.Generator) -> None:
        self._image = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
        self._rng = rng
        rows, cols = np.gradient(image.astype(np.float64))
        self._sums = np.pad(np.hypot(rows, cols).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        self._cumulative: dict[Shape, NDArray[np.float64]] = {}
        self.edges: Shape = (min(edge, image.shape[0]), min(edge, image.shape[1]))

    def draw(self, shape: Shape) -> Tensor:
        """Draw a crop of a shape, as a batch of one."""
        n_rows, n_cols = shape
        if shape not in self._cumulative:
            sums = self._sums
            within = (
                sums[n_rows:, n_cols:] - sums[:-n_rows, n_cols:]
                - sums[n_rows:, :-n_cols] + sums[:-n_rows, :-n_cols]
            )  # fmt: skip
            # A constant image has no gradients: then all crops are alike.
            within = within + max(float(within.max()) * 1e-9, 1e-12)
            self._cumulative[shape] = np.cumsum(within / within.sum())
        table = self._cumulative[shape]
        number = min(int(np.searchsorted(table, self._rng.random())), table.size - 1)
        row, col = divmod(number, self._image.shape[-1] - n_cols + 1)
        return self._image[..., row : row + n_rows, col : col + n_cols]


def _centred(kernel: Kernel) -> Kernel:
    """Move a kernel's mass to its middle; what leaves the array is lost."""
    moved = ndimage.shift(kernel, -centre_of_mass(kernel), order=3, mode="constant")
    return np.asarray(moved / moved.sum())


def _twice(kernel: Kernel) -> Kernel:
    """Return the kernel that acts as one of a factor of 2 does when applied two times."""
    spread = np.zeros([_STRIDE * n - 1 for n in kernel.shape])
    spread[::_STRIDE, ::_STRIDE] = kernel
    return np.asarray(signal.convolve2d(spread, kernel))

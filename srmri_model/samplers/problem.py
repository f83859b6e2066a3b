"""What a sampler is given: a denoiser, a measurement, and where the noise comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from srmri_model.magnitudes import expected_channel
from srmri_model.operators import SeparableOperator
from srmri_model.samplers.variance import Variance
from srmri_model.types import (
    ImagesOrVolumes,
    Measurements,
    PerImage,
    Planes,
    Sigmas,
    WhiteNoise,
)


@runtime_checkable
class Denoises(Protocol):
    """E[clean | noisy], differentiable in the image; see `srmri_model.networks.Denoiser`."""

    def __call__(
        self, x: ImagesOrVolumes, sigma: Sigmas | float, plane: Planes | None = None
    ) -> ImagesOrVolumes:
        """Denoise images, each with noise of its sigma."""


@runtime_checkable
class Noise(Protocol):
    """A source of white noise for every image of a batch."""

    def __call__(self, shape: tuple[int, ...]) -> WhiteNoise:
        """Draw noise of a shape for every image."""


class ImageNoise:
    """White noise from a stream of its own for every image, the same on every device.

    What an image gets depends on the seed, its key and how often it was asked before: not on
    the other images, their number or their order.

    Parameters
    ----------
    seed : int
        Seed of the run, at least 0.
    keys : sequence of tuple of int
        Name of each image, such as its slice and which sample of it this is.
    device : torch.device or str
        Where the noise is wanted.

    Examples
    --------
    >>> both = ImageNoise(0, [(7,), (8,)])((2, 3))
    >>> torch.equal(both[1:], ImageNoise(0, [(8,)])((2, 3)))
    True
    """

    def __init__(
        self, seed: int, keys: Sequence[tuple[int, ...]], device: torch.device | str = "cpu"
    ) -> None:
        self._streams = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))
            for key in keys
        ]
        self._device = device

    def __call__(self, shape: tuple[int, ...]) -> WhiteNoise:
        """Draw the next noise of every image.

        Parameters
        ----------
        shape : tuple of int
            Shape of one image.

        Returns
        -------
        (B, *shape) Tensor
            Standard normal.
        """
        drawn = [stream.standard_normal(shape, dtype=np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(drawn)).to(self._device)


class Counted:
    """A denoiser that counts how often it is evaluated, forward and backward.

    A call evaluates every image of its batch once, so the counts are per image.

    Parameters
    ----------
    denoiser : callable
        What to count.
    """

    def __init__(self, denoiser: Denoises) -> None:
        self.forward = 0
        self.backward = 0
        self._denoiser = denoiser

    def __call__(
        self, x: ImagesOrVolumes, sigma: Sigmas | float, plane: Planes | None = None
    ) -> ImagesOrVolumes:
        """Denoise and count.

        Parameters
        ----------
        x : (B, 1, *size) Tensor
            Noisy images.
        sigma : (B,) Tensor or float
            Standard deviation of their noise.
        plane : (B,) Tensor, optional
            Plane of each image.

        Returns
        -------
        (B, 1, *size) Tensor
            Denoised images.
        """
        self.forward += 1
        denoised = self._denoiser(x, sigma, plane)
        if denoised.requires_grad:
            denoised.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return denoised

    def _count_backward(self, _gradient: Tensor) -> None:
        self.backward += 1


@dataclass(frozen=True)
class Problem:
    """What to sample: images that a denoiser finds likely and that explain a measurement.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, sigma, plane)``.
    measurement : (B, 1, *low_size) Tensor
        LR images, in the units of the denoiser.
    operator : SeparableOperator
        H.
    sigma_y : float or (B,) Tensor
        Standard deviation of the measurement's noise.
    generator : callable
        ``generator(shape)`` gives white noise, (B, *shape).
    plane : (B,) Tensor, optional
        Plane of each image, for a network with plane label.
    variance : callable, optional
        ``variance(sigma)``: how far the denoised image is from the truth; needed by `fast`.
    no_signal : float, optional
        For measurements that are magnitudes of a signal with complex noise, which `fast` takes
        for what they are: the value of no signal.
    mirror : int, optional
        Dimension along which left and right lie, counted from the last (−1), where images and
        their mirror images are as likely.
    """

    denoiser: Denoises
    measurement: Measurements
    operator: SeparableOperator
    sigma_y: Sigmas | float
    generator: Noise
    plane: Planes | None = None
    variance: Callable[[float], Variance] | None = None
    no_signal: float | None = None
    mirror: int | None = None

    def denoise(
        self, x: ImagesOrVolumes, sigma: float, *, mirrored: bool = False
    ) -> ImagesOrVolumes:
        """Denoise at one level.

        Parameters
        ----------
        x : (B, 1, *size) Tensor
            Noisy images.
        sigma : float
            Noise level of all of them.
        mirrored : bool
            Show the network the mirror images, if they are as likely.

        Returns
        -------
        (B, 1, *size) Tensor
            Denoised images.
        """
        if not mirrored or self.mirror is None:
            return self.denoiser(x, sigma, self.plane)
        return self.denoiser(x.flip(self.mirror), sigma, self.plane).flip(self.mirror)

    def white(self) -> ImagesOrVolumes:
        """Draw white noise the size of the images.

        Returns
        -------
        (B, 1, *size) Tensor
            Standard normal.
        """
        return self.generator((1, *self.operator.high_shape))

    def white_low(self) -> Measurements:
        """Draw white noise the size of the measurement.

        Returns
        -------
        (B, 1, *low_size) Tensor
            Standard normal.
        """
        return self.generator((1, *self.operator.low_shape))

    def measured(self, x: ImagesOrVolumes) -> Measurements:
        """Return the measurement, or what its magnitudes say if the truth is about x.

        Parameters
        ----------
        x : (B, 1, *size) Tensor
            Clean images.

        Returns
        -------
        (B, 1, *low_size) Tensor
            See `srmri_model.magnitudes.expected_channel`.
        """
        if self.no_signal is None:
            return self.measurement
        noise = per_image(self.sigma_y, x)
        return expected_channel(self.measurement, self.operator.forward(x), noise, self.no_signal)

    def noised_measurement(self, sigma: float) -> Measurements:
        """Draw what H would make of the truth with noise: y + σ H z.

        Parameters
        ----------
        sigma : float
            Noise level.

        Returns
        -------
        (B, 1, *low_size) Tensor
            The measurement itself when sigma is 0.
        """
        if sigma == 0:
            return self.measurement
        return self.measurement + sigma * self.operator.forward(self.white())

    def misfit(self, x: ImagesOrVolumes) -> PerImage:
        """Root mean square of H x − y.

        Parameters
        ----------
        x : (B, 1, *size) Tensor
            Clean images.

        Returns
        -------
        (B,) Tensor
            Per image.
        """
        residual = self.operator.forward(x) - self.measured(x)
        return residual.flatten(1).square().mean(dim=1).sqrt()


class Level(NamedTuple):
    """Where a sampler is after one noise level.

    Attributes
    ----------
    sigma : float
        Level that was left.
    x : (B, 1, *size) Tensor
        Images at the next level; the result after the last.
    estimate : (B, 1, *size) Tensor
        What the clean images are thought to be.
    """

    sigma: float
    x: ImagesOrVolumes
    estimate: ImagesOrVolumes


def per_image(value: Sigmas | float, like: Tensor) -> Tensor | float:
    """Shape a value per image so that it multiplies images.

    Parameters
    ----------
    value : (B,) Tensor or float
        One for each image, or for all.
    like : (B, ...) Tensor
        The images.

    Returns
    -------
    (B, 1, ...) Tensor or float
        The same values.
    """
    if isinstance(value, Tensor) and value.ndim:
        return value.reshape(-1, *[1] * (like.ndim - 1))
    return value


def norms(images: Tensor) -> Tensor:
    """Euclidean norm of each image.

    Parameters
    ----------
    images : (B, ...) Tensor
        Images.

    Returns
    -------
    (B, 1, ...) Tensor
        Shaped so that it multiplies images.
    """
    axes = tuple(range(1, images.ndim))
    found: Tensor = torch.linalg.vector_norm(images, dim=axes, keepdim=True)
    return found

"""Noise of draws in opposite pairs, and of slices, alike among neighbours if wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from srmri_model.samplers import ImageNoise
from srmri_model.samplers.problem import Noise


class SliceNoise:
    """White noise for slices of a volume, the same whichever slices are drawn together.

    Neighbours are made alike by a Gaussian average over the streams of the slices around: the
    noise of every slice stays white, and that of slices n apart has a correlation of about r^(n²).

    Parameters
    ----------
    seed : int
        Seed of the run.
    sample : int
        Which draw of the volume.
    slices : sequence of int
        Numbers of the slices, from 0.
    correlation : float
        r of neighbouring slices, 0 to below 1.
    device : torch.device or str
        Where the noise is wanted.

    Examples
    --------
    >>> pair = SliceNoise(0, 0, [4, 5], correlation=0.6)((1, 200, 200)).flatten(1)
    >>> round(float((pair[0] * pair[1]).mean()), 1), round(float(pair.std()), 1)
    (0.6, 1.0)
    """

    def __init__(
        self,
        seed: int,
        sample: int,
        slices: Sequence[int],
        *,
        correlation: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._weights = neighbour_weights(correlation)
        reach = len(self._weights) // 2
        # Slices count from `reach`, so that those before the first have numbers too.
        around = sorted({n + step for n in slices for step in range(2 * reach + 1)})
        self._places = [around.index(n) for n in slices]
        self._streams = ImageNoise(seed, [(sample, n) for n in around])
        self._device = device

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Draw the next noise of every slice.

        Parameters
        ----------
        shape : tuple of int
            Shape of one image.

        Returns
        -------
        (B, *shape) Tensor
            Standard normal.
        """
        white = self._streams(shape)
        # One after another: the sum of a slice must not depend on how many there are.
        images = [
            sum(weight * white[place + n] for n, weight in enumerate(self._weights))
            for place in self._places
        ]
        return torch.stack([torch.as_tensor(image) for image in images]).to(self._device)


def antithetic(number: int, noise_of: Callable[[int], Noise]) -> Noise:
    """Return the noise of a draw: every second draw has the opposite of the one before.

    Each is a draw like any other, but two opposite ones err to opposite sides where the sampler is
    close to linear, so that their mean is nearer to the posterior's than that of two independent
    draws. Antithetic variates: Hammersley and Morton 1956.

    Parameters
    ----------
    number : int
        Which draw, from 0.
    noise_of : callable
        Makes the noise of the draw with an even number.

    Returns
    -------
    callable
        ``shape → (B, *shape)``, standard normal.

    Examples
    --------
    >>> def noise_of(number):
    ...     return ImageNoise(0, [(number,)])
    >>> first, second, third = (antithetic(n, noise_of)((2,)) for n in range(3))
    >>> torch.equal(second, -first), torch.equal(third, first)
    (True, False)
    """
    noise = noise_of(number - number % 2)
    return (lambda shape: -noise(shape)) if number % 2 else noise


def neighbour_weights(correlation: float) -> list[float]:
    """Return the weights of the average that gives neighbours a correlation.

    Parameters
    ----------
    correlation : float
        Of neighbours, 0 to below 1.

    Returns
    -------
    list of float
        An odd number, symmetric; squares sum to 1.

    Examples
    --------
    >>> neighbour_weights(0.0)
    [1.0]
    """
    if correlation == 0:
        return [1.0]
    # On a line the autocorrelation of a Gaussian of width w is exp(-n² / 4w²); of weights on
    # integers it is a little less, so w is found by halving.
    low, high = 0.1, 2 * math.sqrt(-1 / (4 * math.log(correlation))) + 1
    while high - low > 1e-9:
        middle = (low + high) / 2
        weights = _gaussian(middle)
        found = sum(a * b for a, b in itertools.pairwise(weights))
        low, high = (middle, high) if found < correlation else (low, middle)
    return _gaussian(high)


def _gaussian(width: float) -> list[float]:
    reach = max(1, math.ceil(4 * width))
    weights = [math.exp(-(n**2) / (2 * width**2)) for n in range(-reach, reach + 1)]
    length = math.sqrt(sum(weight**2 for weight in weights))
    return [weight / length for weight in weights]

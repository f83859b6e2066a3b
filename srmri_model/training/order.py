"""Which slices, crops, flips and noise a step sees: functions of the step's number alone.

Nothing here remembers anything, so a run can go on anywhere, and the samples of
a step are the same however many processes share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int]

_GOLDEN = 0.6180339887498949

GAINS = (0.85, 1.15)
"""Factors on the signal that augmentation draws from, uniformly."""

NOISES = (0.005, 0.06)
"""Standard deviations of complex noise that augmentation draws from, on a logarithmic scale."""


ALONE = 0.2
"""Share of slices that a network with neighbours is shown without them."""


def generator(seed: int, *counter: int) -> np.random.Generator:
    """Return a generator that depends on its arguments only.

    Parameters
    ----------
    seed : int
        Seed of the run.
    *counter : int
        What it is for, and its number.

    Returns
    -------
    Generator
        A new one.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *counter))))


@dataclass(frozen=True)
class BatchOrder:
    """The order of slices, in batches of one image size.

    An epoch shuffles the slices of each size, cuts them into batches (the last
    is filled up from the front) and shuffles the batches.

    Parameters
    ----------
    shapes : tuple of (int, int)
        Size of the image every slice gives.
    batch : int
        Slices per step, over all processes.
    seed : int
        Seed of the run.
    """

    shapes: tuple[Shape, ...]
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every slice is seen."""
        return sum(-(-self.shapes.count(shape) // self.batch) for shape in set(self.shapes))

    def slices(self, step: int) -> NDArray[np.int64]:
        """Return the slices of a step.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        (batch,) ndarray of int
            Indices of slices, all of one image size.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        return np.array(_epoch(self, epoch)[place])


@lru_cache(maxsize=4)
def _epoch(order: BatchOrder, epoch: int) -> NDArray[np.int64]:
    """Return the batches of an epoch, (steps, batch)."""
    random = generator(order.seed, 0, epoch)
    groups: dict[Shape, list[int]] = {}
    for index, shape in enumerate(order.shapes):
        groups.setdefault(shape, []).append(index)
    batches = []
    for shape in sorted(groups):
        members = random.permutation(groups[shape])
        count = -(-len(members) // order.batch)
        batches.append(np.resize(members, (count, order.batch)))
    return random.permutation(np.concatenate(batches))


@dataclass(frozen=True)
class Draw:
    """What is random about one training image.

    Parameters
    ----------
    image : (row, col) or (1 + n, row, col) ndarray
        The clean image, and its neighbours if there are any, float32.
    noise : ndarray
        Standard normal, float32, of that shape.
    level : float
        In [0, 1); the noise level's place in its distribution.
    """

    image: NDArray[np.float32]
    noise: NDArray[np.float32]
    level: float


def draw(
    image: NDArray[np.float32],
    number: int,
    *,
    seed: int,
    patch: int,
    may_flip: bool,
    may_swap: bool = False,
    augment: float = 0.0,
    zero: float = 0.0,
) -> Draw:
    """Crop and flip a slice, and draw its noise.

    Parameters
    ----------
    image : (row, col) or (1 + n, row, col) ndarray
        The slice, or the slice and its neighbours: those before, then those after.
    number : int
        How many images came before in the run, over all processes.
    seed : int
        Seed of the run.
    patch : int
        Edge of the crop, which has some foreground near its middle; 0 for whole slices.
    may_flip : bool
        Whether left and right may be swapped: columns run along R/L.
    may_swap : bool
        Whether slices may be taken in the other order: they follow one another along R/L.
    augment : float
        How often, 0 to 1, the slice is given another gain and becomes the magnitude of itself
        and complex noise (`GAINS`, `NOISES`), so that the model meets air and noise where the
        training animals have zeros.
    zero : float
        Value of no signal.

    Returns
    -------
    Draw
        The image and its noise. Levels of successive numbers are spread evenly
        (a golden-ratio sequence), which quietens the gradient without a bias.
    """
    random = generator(seed, 1, number)
    flip, where = random.random(2)
    if patch:
        image = _crop(image, patch, where, random)
    if may_flip and flip < 0.5:
        image = image[..., ::-1]
    if may_swap and image.ndim == 3 and flip < 0.5:
        image = np.concatenate([image[:1], image[:0:-1]])
    if augment:
        image = _augmented(image, augment, zero, generator(seed, 4, number))
    noise = random.standard_normal(image.shape, dtype=np.float32)
    if image.ndim == 3 and generator(seed, 5, number).random() < ALONE:
        # Zeros without noise are what stands for neighbours that are not there.
        image, noise = image.copy(), noise.copy()
        image[1:] = noise[1:] = 0
    start = float(generator(seed, 2).random())
    return Draw(np.ascontiguousarray(image), noise, (start + number * _GOLDEN) % 1.0)


def _crop(
    image: NDArray[np.float32], patch: int, where: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """Cut a patch that is centred, up to a quarter of its edge, on a pixel of the foreground."""
    middle_slice = image if image.ndim == 2 else image[0]
    inside = np.flatnonzero(middle_slice > 0)
    centre = inside[int(where * inside.size)] if inside.size else int(where * middle_slice.size)
    shape = middle_slice.shape
    index = []
    for size, middle in zip(shape, divmod(int(centre), shape[1]), strict=True):
        edge = min(patch, size)
        shift = round((random.random() - 0.5) * edge / 2)
        start = min(max(middle - edge // 2 + shift, 0), size - edge)
        index.append(slice(start, start + edge))
    rows, cols = index
    return image[..., rows, cols]


def _augmented(
    image: NDArray[np.float32], share: float, zero: float, random: np.random.Generator
) -> NDArray[np.float32]:
    if random.random() >= share:
        return image
    gain, level = random.uniform(*GAINS), np.exp(random.uniform(*np.log(NOISES)))
    real, imaginary = level * random.standard_normal((2, *image.shape), dtype=np.float32)
    magnitude = np.hypot(gain * (image - zero) + real, imaginary) + zero
    return np.asarray(magnitude, dtype=np.float32)


def share(total: int, *, rank: int, world: int, accumulate: int) -> list[NDArray[np.int64]]:
    """Divide a step's places among processes and accumulated parts.

    Parameters
    ----------
    total : int
        Images in the step, a multiple of ``world * accumulate``.
    rank, world : int
        Which process, of how many.
    accumulate : int
        Parts that each process works through one after another.

    Returns
    -------
    list of ndarray of int
        Places 0…total-1 of each part.

    Examples
    --------
    >>> [part.tolist() for part in share(8, rank=1, world=2, accumulate=2)]
    [[1, 3], [5, 7]]
    """
    return np.split(np.arange(rank, total, world), accumulate)


def shapes_of(sizes: Sequence[Shape], patch: int) -> tuple[Shape, ...]:
    """Return the size of the image that each slice gives.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Sizes of the slices.
    patch : int
        Edge of the crops; 0 for whole slices.

    Returns
    -------
    tuple of (int, int)
        Sizes after cropping.
    """
    if not patch:
        return tuple(sizes)
    return tuple((min(rows, patch), min(cols, patch)) for rows, cols in sizes)


def standard_normal(shape: tuple[int, ...], number: int) -> NDArray[np.float32]:
    """Return noise that is the same whenever it is asked for.

    Parameters
    ----------
    shape : tuple of int
        Shape of the noise.
    number : int
        Which noise.

    Returns
    -------
    ndarray
        float32, standard normal.
    """
    return generator(0, 3, number).standard_normal(shape, dtype=np.float32)

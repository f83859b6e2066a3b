"""Baselines that learn from pairs, as the run trains them: crops, losses, judgement, critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import l1_loss, softplus
from torch.nn.parallel import DistributedDataParallel

from srmri_data.choices import PixelLoss
from srmri_data.errors import CheckpointError, UsageError
from srmri_data.voters.lpips import lpips_model
from srmri_model.baselines.config import UpscalerConfig
from srmri_model.baselines.discriminator import LEAST_EDGE, Discriminator, at_least
from srmri_model.baselines.interpolation import interpolate
from srmri_model.baselines.upscaler import UPSCALER, Upscaler, build_upscaler
from srmri_model.checkpoints import Checkpoint
from srmri_model.metrics import psnr
from srmri_model.operators import low_size
from srmri_model.training.optimise import Optimiser
from srmri_model.training.order import generator
from srmri_model.training.pairs import PairData, Pairs, SlicePair, open_pairs
from srmri_model.training.ranks import Ranks
from srmri_model.training.slices import Progress
from srmri_model.training.supervised_config import SupervisedConfig
from srmri_model.training.trainer import Batches, Trainer
from srmri_model.training.validation import spread
from srmri_model.types import Images

Factors = tuple[float, float]


def high_size(low: int, factor: float) -> int:
    """Return the HR voxels of a crop of so many LR voxels.

    Parameters
    ----------
    low : int
        LR voxels.
    factor : float
        LR over HR voxel size.

    Returns
    -------
    int
        About ``low * factor``, such that `srmri_model.operators.low_size` of it is `low`.

    Examples
    --------
    >>> high_size(16, 2.0), high_size(17, 1.5)
    (32, 25)
    """
    below = math.floor(low * Fraction(factor).limit_denominator(1000))
    return below if low_size(below, factor) == low else below + 1


def crop_size(high: int, patch: int, factor: float) -> int:
    """Return the HR voxels of a crop along an axis.

    Parameters
    ----------
    high : int
        HR voxels there are.
    patch : int
        Edge of the crops in LR voxels; 0 for all.
    factor : float
        LR over HR voxel size.

    Returns
    -------
    int
        All of them where there are not more than in a crop.
    """
    low = low_size(high, factor)
    return min(high, high_size(patch, factor)) if 0 < patch < low else high


def crop_pair(
    pair: SlicePair, number: int, *, seed: int, patch: int, may_turn: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut corresponding crops, with some foreground near the middle, and turn them.

    Parameters
    ----------
    pair : SlicePair
        LR and HR.
    number : int
        How many images came before in the run, over all processes.
    seed : int
        Seed of the run.
    patch : int
        Edge of the crops in LR voxels; 0 for whole slices.
    may_turn : bool
        Whether crops may be flipped along both axes, and transposed where they are square.

    Returns
    -------
    low_res, high_res : (row, col) ndarray
        Crops that begin where an LR voxel and an HR voxel lie to each other as at the slice's
        first; contiguous, float32.
    """
    random = generator(seed, 1, number)
    low, high = pair["low_res"], pair["high_res"]
    inside = np.flatnonzero(pair["foreground"])
    centre = inside[int(random.random() * inside.size)] if inside.size else high.size // 2
    lows, highs = [], []
    for axis, middle in enumerate(divmod(int(centre), high.shape[1])):
        factor = Fraction(pair["factor"][axis]).limit_denominator(1000)
        rows = crop_size(high.shape[axis], patch, float(factor))
        low_rows = low_size(rows, float(factor))
        # Grids meet again after as many LR voxels as the factor's denominator.
        last = min(low.shape[axis] - low_rows, math.floor((high.shape[axis] - rows) / factor))
        shift = (random.random() - 0.5) * low_rows / 2
        start = round(float(middle / factor) - low_rows / 2 + shift)
        start = min(max(start, 0), last) // factor.denominator * factor.denominator
        first = int(start * factor)
        lows.append(slice(start, start + low_rows))
        highs.append(slice(first, first + rows))
    low, high = low[tuple(lows)], high[tuple(highs)]
    if may_turn:
        flips = random.random(3) < 0.5
        for axis in (0, 1):
            if flips[axis] and low.shape[axis] * pair["factor"][axis] == high.shape[axis]:
                low, high = np.flip(low, axis), np.flip(high, axis)
        if flips[2] and low.shape[0] == low.shape[1] and high.shape[0] == high.shape[1]:
            low, high = low.T, high.T
    return np.ascontiguousarray(low), np.ascontiguousarray(high)


class PairBatch(NamedTuple):
    """Crops of pairs, all of one size.

    Attributes
    ----------
    low_res : (B, 1, h, w) Tensor
        float32.
    high_res : (B, 1, H, W) Tensor
        float32.
    seed : int
        Of what is random about the network itself.
    """

    low_res: Images
    high_res: Images
    seed: int


class PairBatches(Batches[PairBatch]):
    """Batches of crops of pairs.

    Parameters
    ----------
    pairs : Pairs
        Training pairs.
    factor : tuple of float
        HR over LR voxels.
    config : SupervisedConfig
        Batch size, patch, seed.
    ranks : Ranks
        Processes among which each step's images are divided.
    may_turn : bool
        Whether grids of LR and HR look the same from all sides.
    """

    def __init__(
        self,
        pairs: Pairs,
        factor: Factors,
        config: SupervisedConfig,
        ranks: Ranks,
        *,
        may_turn: bool,
    ) -> None:
        shapes = tuple(
            (crop_size(rows, config.patch, factor[0]), crop_size(cols, config.patch, factor[1]))
            for rows, cols in pairs.sizes
        )
        super().__init__(shapes, config, ranks)
        self.pairs = pairs
        self.patch, self.seed = config.patch, config.seed
        self.may_turn = may_turn

    def part(self, numbers: Sequence[int], indices: Sequence[int]) -> PairBatch:
        """Load a batch.

        Parameters
        ----------
        numbers : sequence of int
            How many images came before each in the run, over all processes.
        indices : sequence of int
            Which pairs.

        Returns
        -------
        PairBatch
            Their crops.
        """
        crops = [
            crop_pair(
                self.pairs[index],
                number,
                seed=self.seed,
                patch=self.patch,
                may_turn=self.may_turn,
            )
            for index, number in zip(indices, numbers, strict=True)
        ]
        low, high = (
            torch.from_numpy(np.stack(images))[:, None] for images in zip(*crops, strict=True)
        )
        seed = int(generator(self.seed, 5, numbers[0]).integers(2**62))
        return PairBatch(low, high, seed)


def pixel_loss(made: Images, high_res: Images, name: PixelLoss) -> Tensor:
    """Return the distance of images from the truth.

    Parameters
    ----------
    made, high_res : (B, C, H, W) Tensor
        Images.
    name : {"l1", "l2", "sum-of-squares"}
        Mean absolute or squared error, or half the sum of squares of an image.

    Returns
    -------
    Tensor
        Mean over images.

    Examples
    --------
    >>> one = torch.ones(2, 1, 2, 2)
    >>> [float(pixel_loss(one, 3 * one, n)) for n in ("l1", "l2", "sum-of-squares")]
    [2.0, 4.0, 8.0]
    """
    if name == "l1":
        return l1_loss(made, high_res)
    squares = (made - high_res).square()
    return squares.mean() if name == "l2" else squares.sum(dim=(1, 2, 3)).mean() / 2


def relativistic_loss(first: Tensor, second: Tensor) -> Tensor:
    """Ask that the first look more real than the second do on average, and the other way round.

    Parameters
    ----------
    first, second : (B, 1) Tensor
        A critic's judgements: of real and made images for the critic's own loss, of made and
        real ones for the generator's.

    Returns
    -------
    Tensor
        Mean of both halves; log 2 where nothing is told apart.

    References
    ----------
    A. Jolicoeur-Martineau, The relativistic discriminator: a key element missing from standard
    GAN, ICLR 2019; X. Wang et al., ESRGAN, ECCV workshops 2018, equations 1 and 2.
    """
    more = softplus(-(first - second.mean())).mean()
    less = softplus(second - first.mean()).mean()
    return (more + less) / 2


class Features(nn.Module):
    """What the trunk of LPIPS sees in an image, before its last rectification.

    AlexNet's fifth convolution stands for the last one of VGG19, which ESRGAN compares: its
    weights are here already, and a thirtieth of the size.
    """

    def __init__(self) -> None:
        super().__init__()
        model = lpips_model()
        self.scale = model.scaling_layer
        layers = [layer for slice_ in model.net.children() for layer in slice_.children()]
        self.layers = nn.Sequential(*layers[:-1]).requires_grad_(False)
        # What the package rectifies in place the loss still needs.
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False

    def forward(self, images: Images) -> Tensor:
        """Look at images.

        Parameters
        ----------
        images : (B, 1, H, W) Tensor
            In [0, 1], shown as grey.

        Returns
        -------
        (B, 256, h, w) Tensor
            Activations.
        """
        images = at_least(images, LEAST_EDGE)
        seen: Tensor = self.layers(self.scale(images.expand(-1, 3, -1, -1) * 2 - 1))
        return seen


class _Both(nn.Module):
    """A critic asked about two batches: wrapped networks are asked once before their gradients."""

    def __init__(self, critic: Discriminator) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, first: Images, second: Images) -> tuple[Tensor, Tensor]:
        return self.critic(first), self.critic(second)


class AdversarialTrainer(Trainer[PairBatch]):
    """ESRGAN: first the pixels, then a critic and features take over.

    Parameters
    ----------
    network : Upscaler
        The generator, on its device.
    loss : callable
        As for `Trainer`.
    optimiser : Optimiser
        Of the generator.
    ranks : Ranks
        Processes that train together.
    ema_decay, clip : float
        As for `Trainer`.
    config : SupervisedConfig
        When the critic begins, and weights.
    critic : Discriminator
        On the same device.

    References
    ----------
    X. Wang et al., ESRGAN: enhanced super-resolution generative adversarial networks, ECCV
    workshops 2018, section 3.
    """

    def __init__(
        self,
        network: Upscaler,
        loss: Callable[[nn.Module], Callable[[PairBatch], Tensor]],
        optimiser: Optimiser,
        ranks: Ranks,
        *,
        ema_decay: float,
        clip: float,
        config: SupervisedConfig,
        critic: Discriminator,
    ) -> None:
        super().__init__(network, loss, optimiser, ranks, ema_decay=ema_decay, clip=clip)
        assert config.adversarial is not None  # noqa: S101
        self.settings, self.weights, self.loss = config, config.adversarial, config.loss
        self.critic, self.critic_steps = critic, 0
        self.critic_optimiser = Optimiser(critic, "adam")
        both = _Both(critic)
        self._both: nn.Module = DistributedDataParallel(both) if ranks.world > 1 else both
        self.features = Features().to(self.device)

    def advance(
        self, parts: Sequence[PairBatch], rate: float, fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Make one step of the generator, and one of the critic when its time has come.

        Parameters
        ----------
        parts : sequence of PairBatch
            Batches whose gradients are accumulated.
        rate : float
            Learning rate.
        fraction : float
            Part of the run that is done.

        Returns
        -------
        loss, gradient_norm : Tensor
            The generator's.
        """
        if not self.settings.is_adversarial(fraction):
            return super().advance(parts, rate, fraction)
        self.network.train()
        self.critic.requires_grad_(False)
        total = torch.zeros((), device=self.device)
        both = []
        for number, part in enumerate(parts):
            with self._communicating(last=number == len(parts) - 1):
                low, real = part.low_res.to(self.device), part.high_res.to(self.device)
                made = self._wrapped(low, (real.shape[-2], real.shape[-1]))
                loss = self._generator_loss(made, real) / len(parts)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            both.append((made.detach(), real))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.critic.requires_grad_(True)
        for made, real in both:
            loss = relativistic_loss(*self._both(real, made)) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
        with self.changing:
            self.optimiser.step(rate)
            self.critic_optimiser.step(rate)
            self.average.update(self.network, self.step + 1)
            self.critic_steps += 1
            self.step += 1
        return total, norm

    def _generator_loss(self, made: Images, real: Images) -> Tensor:
        with torch.no_grad():
            seen, judged = self.features(real), self.critic(real)
        return (
            self.weights.pixel * pixel_loss(made, real, self.loss)
            + self.weights.perceptual * l1_loss(self.features(made), seen)
            + self.weights.critic * 2 * relativistic_loss(self.critic(made), judged)
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return everything a step changes.

        Returns
        -------
        weights, extra : dict of str to Tensor
            As for `Trainer`, with the critic, its moments and steps.
        """
        weights, extra = super().state()
        extra |= {f"critic.{name}": value for name, value in self.critic.state_dict().items()}
        moments = self.critic_optimiser.moments()
        extra |= {f"critic-moments.{name}": value for name, value in moments.items()}
        extra["critic-steps"] = torch.tensor(self.critic_steps)
        return weights, extra

    @torch.no_grad()
    def restore(self, state: Checkpoint[Any], step: int) -> None:
        """Go back to a saved state.

        Parameters
        ----------
        state : Checkpoint
            What `state` gave.
        step : int
            Optimiser steps it is after.

        Raises
        ------
        CheckpointError
            If it lacks something.
        """
        super().restore(state, step)
        try:
            steps = int(state.extra["critic-steps"])
            self.critic.load_state_dict(_below("critic.", state.extra))
            if steps:
                self.critic_optimiser.restore(_below("critic-moments.", state.extra), steps)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"the training state does not fit the critic: {error}") from error
        self.critic_steps = steps

    def is_finite(self) -> bool:
        """Tell whether the weights are numbers.

        Returns
        -------
        bool
            False after an overflow, in either network.
        """
        critic = all(bool(torch.isfinite(p).all()) for p in self.critic.parameters())
        return critic and super().is_finite()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}


@dataclass(frozen=True)
class Quality:
    """How near an upscaler comes to the truth on slices held out, beside cubic interpolation.

    Parameters
    ----------
    psnr, psnr_bicubic : float
        Mean over slices, inside the foreground, dB for a range of 1.
    psnr_frame, psnr_bicubic_frame : float
        Of the whole frame.
    n_slices : int
        How many.
    """

    psnr: float
    psnr_bicubic: float
    psnr_frame: float
    psnr_bicubic_frame: float
    n_slices: int

    columns = ("step", "psnr", "psnr_bicubic", "psnr_frame", "psnr_bicubic_frame")
    """Names of the values of `rows`."""

    @property
    def score(self) -> float:
        """What is to become small."""
        return -self.psnr

    def rows(self, step: int) -> list[list[float]]:
        """Return it for ``validation.csv``.

        Parameters
        ----------
        step : int
            Optimiser steps done.

        Returns
        -------
        list of list of float
            One row.
        """
        return [[step, *(getattr(self, name) for name in self.columns[1:])]]

    def scalars(self) -> dict[str, float]:
        """Return what TensorBoard shows.

        Returns
        -------
        dict of str to float
            By name.
        """
        return {f"validation/{name}": getattr(self, name) for name in self.columns[1:]}

    def to_json(self) -> dict[str, Any]:
        """Return the fields.

        Returns
        -------
        dict
            Plain JSON types.
        """
        return asdict(self)


class SupervisedTask:
    """A baseline to be trained on pairs.

    Parameters
    ----------
    config : SupervisedConfig
        How to train.
    """

    kind = UPSCALER
    columns = Quality.columns

    def __init__(self, config: SupervisedConfig) -> None:
        self.config = config

    def open(
        self, data: Sequence[str], cache: Path, *, split: Path | None, progress: Progress
    ) -> None:
        """Open the data.

        Parameters
        ----------
        data : sequence of str
            See `srmri_model.training.pairs.open_pairs`.
        cache : Path
            Folder for mapped and degraded volumes.
        split : Path or None
            Which subjects train.
        progress : callable
            Called as ``progress(stage, done, total)``.

        Raises
        ------
        UsageError
            If the pairs have several factors.
        """
        plane = self.config.plane
        assert plane != "all"  # noqa: S101
        self.data: PairData = open_pairs(
            data,
            cache,
            plane=plane,
            split=split,
            degradation=self.config.degradation,
            progress=progress,
        )
        if len(self.data.factors) > 1:
            listed = ", ".join(f"{rows:g}×{cols:g}" for rows, cols in self.data.factors)
            raise UsageError(
                f"the pairs have several factors: {listed}",
                hint="a network is made for one; export scans of one pair of resolutions",
            )

    @property
    def fingerprint(self) -> str:
        """Hash to know the data again."""
        return self.data.fingerprint

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know of the data."""
        return self.data.notes

    @property
    def sizes(self) -> tuple[int, int]:
        """Pairs to train on, and pairs held out."""
        return len(self.data.train), len(self.data.validation)

    def shape(self, start: UpscalerConfig | None) -> UpscalerConfig:
        """Return the network to train.

        Parameters
        ----------
        start : UpscalerConfig or None
            Of the checkpoint to begin with.

        Returns
        -------
        UpscalerConfig
            See `SupervisedConfig.upscaler`.
        """
        return self.config.upscaler(self.data.factors[0], self.data.grid, start)

    def prepare(
        self,
        shape: UpscalerConfig,
        start: Checkpoint[UpscalerConfig] | None,
        device: torch.device,
        ranks: Ranks,
    ) -> tuple[Trainer[PairBatch], PairBatches]:
        """Build the network and what trains it.

        Parameters
        ----------
        shape : UpscalerConfig
            The network.
        start : Checkpoint or None
            Weights to begin with.
        device : torch.device
            Where to train.
        ranks : Ranks
            Processes that train together.

        Returns
        -------
        trainer : Trainer
            Ready for the first step.
        batches : PairBatches
            What it takes.
        """
        config = self.config
        network = build_upscaler(shape, seed=config.seed)
        if start is not None:
            network.load_state_dict(start.tensors)
        network.to(device)

        def loss(wrapped: nn.Module) -> Callable[[PairBatch], Tensor]:
            def of(part: PairBatch) -> Tensor:
                low, high = part.low_res.to(device), part.high_res.to(device)
                # Layers that are left out by chance are those of this step, whatever came before.
                with torch.random.fork_rng([device] if device.type == "cuda" else []):
                    torch.manual_seed(part.seed)
                    made = wrapped(low, (high.shape[-2], high.shape[-1]))
                return pixel_loss(made, high, config.loss)

            return of

        # The paper gives SRCNN's last layer a tenth of the rate.
        slow = ("network.reconstruct",) if config.optimiser == "sgd" else ()
        optimiser = Optimiser(
            network, config.optimiser, weight_decay=config.weight_decay, slow=slow
        )
        clip = math.inf if config.clip is None else config.clip
        batches = PairBatches(
            self.data.train,
            shape.factor,
            config,
            ranks,
            may_turn=shape.grid == "voxel-centre" and shape.factor[0] == shape.factor[1],
        )
        if config.adversarial is None:
            common = {"ema_decay": config.ema_decay, "clip": clip}
            return Trainer(network, loss, optimiser, ranks, **common), batches
        with torch.random.fork_rng([]):
            torch.manual_seed(config.seed + 1)
            critic = Discriminator(shape.shape.discriminator)  # type: ignore[union-attr]
        trainer = AdversarialTrainer(
            network,
            loss,
            optimiser,
            ranks,
            ema_decay=config.ema_decay,
            clip=clip,
            config=config,
            critic=critic.to(device),
        )
        return trainer, batches

    @cached_property
    def _held_out(self) -> list[tuple[SlicePair, float, float]]:
        """Pairs to validate on, with the PSNR of their cubic interpolation."""
        pairs = self.data.validation
        found = []
        for index in spread(len(pairs), self.config.validation_slices):
            pair = pairs[index]
            if pair["foreground"].any():
                cubic = interpolate(
                    pair["low_res"],
                    pair["high_res"].shape,
                    pair["factor"],
                    "bicubic",
                    grid=self.data.grid,
                )
                found.append((pair, *_judged(cubic, pair)))
        if not found:
            raise UsageError("no slice to validate on shows tissue")
        return found

    @torch.no_grad()
    def validate(self, network: nn.Module, ranks: Ranks) -> Quality:
        """Judge averaged weights on slices held out.

        Parameters
        ----------
        network : Module
            With averaged weights.
        ranks : Ranks
            Processes that share the work.

        Returns
        -------
        Quality
            The same on every process.
        """
        device = next(network.parameters()).device
        network.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        for pair, cubic, cubic_frame in self._held_out[ranks.rank :: ranks.world]:
            low = torch.from_numpy(pair["low_res"]).to(device)[None, None]
            made = network(low, pair["high_res"].shape)[0, 0].cpu().numpy()
            inside, frame = _judged(made, pair)
            sums += torch.tensor([inside, cubic, frame, cubic_frame], dtype=torch.float64)
        ranks.sum_(sums)
        count = len(self._held_out)
        inside, cubic, frame, cubic_frame = (sums / count).cpu().tolist()
        return Quality(inside, cubic, frame, cubic_frame, count)

    def is_better(self, found: Quality, best: Mapping[str, Any] | None, fraction: float) -> bool:
        """Tell whether weights take the place of the best so far.

        Parameters
        ----------
        found : Quality
            Of these weights.
        best : mapping or None
            Facts about the best.
        fraction : float
            Part of the run that is done.

        Returns
        -------
        bool
            Whether their PSNR is higher. Once the critic takes part it is always so: PSNR is
            what it gives up for the look.
        """
        if best is None or self.config.is_adversarial(fraction):
            return True
        return found.score < float(best["score_db"])

    def facts(self, found: Quality) -> dict[str, Any]:
        """Return what is remembered of the best weights.

        Parameters
        ----------
        found : Quality
            How good they are.

        Returns
        -------
        dict
            The score.
        """
        return {"score_db": found.score}

    def metadata(self, found: Quality, network: nn.Module) -> dict[str, Any]:
        """Return what the product says of itself.

        Parameters
        ----------
        found : Quality
            How good it is.
        network : Module
            With its weights; they say nothing more.

        Returns
        -------
        dict
            Its quality, and what it was trained on.
        """
        return {
            "kind": self.config.name,
            "validation": found.to_json(),
            "planes": [self.config.plane],
            "intensity": "0.1 to 99.9 percentile of each HR volume's foreground is 0 to 1",
            "training": {
                "n_slices": len(self.data.train),
                "n_subjects": len(set(self.data.train.subjects)),
            },
        }

    def complete(self, model: Path, progress: Progress) -> None:
        """Add nothing: everything was measured by the validation.

        Parameters
        ----------
        model : Path
            The product.
        progress : callable
            Not called.
        """

    def restored(self, document: dict[str, Any]) -> Quality:
        """Read what a state has kept.

        Parameters
        ----------
        document : dict
            From `Quality.to_json`.

        Returns
        -------
        Quality
            The same.
        """
        return Quality(**document)

    def summary(self, found: Quality) -> dict[str, Any]:
        """Return what is special about a baseline's figures.

        Parameters
        ----------
        found : Quality
            Of the best weights.

        Returns
        -------
        dict
            Which baseline, by which recipe, and its PSNR beside cubic interpolation.
        """
        described = self.config.to_json()
        return {
            "model_name": self.config.name,
            "preset": self.config.preset,
            "shape": described["shape"],
            "not_as_published": described["not_as_published"],
            "n_validation": found.n_slices,
            **{name: getattr(found, name) for name in self.columns[1:]},
        }

    def write_page(self, out: Path, summary: Mapping[str, Any], device: str) -> None:
        """Draw the run.

        Parameters
        ----------
        out : Path
            Folder of the run.
        summary : mapping
            What `srmri_model.train.run_training` returns.
        device : str
            Where to draw images.
        """
        from srmri_model.training.page import write_upscaling_page

        write_upscaling_page(out, summary, [pair for pair, *_ in self._held_out], device=device)


def _judged(image: NDArray[np.float32], pair: SlicePair) -> tuple[float, float]:
    """PSNR in the foreground and of the frame; an image without any error has 100 dB."""
    inside = psnr(image, pair["high_res"], pair["foreground"])
    return min(inside, 100.0), min(psnr(image, pair["high_res"]), 100.0)

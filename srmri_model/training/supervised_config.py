"""How to train a supervised baseline: as published, or scaled to a small machine's minutes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

from srmri_data.choices import Decay, OptimiserName, PixelLoss, SupervisedName, SupervisedPreset
from srmri_data.errors import UsageError
from srmri_model.baselines.config import (
    SHAPES,
    SUPERVISED,
    CARNShape,
    DDBPNShape,
    RCANShape,
    RRDBShape,
    Shape,
    SRCNNShape,
    SwinIRShape,
    UpscalerConfig,
)
from srmri_model.operators.matrices import Grid
from srmri_model.training.config import RunConfig
from srmri_model.training.pairs import Degradation


@dataclass(frozen=True)
class Adversarial:
    """The second part of ESRGAN's training.

    Parameters
    ----------
    begins : float
        Share of the run that is trained by the pixels' loss alone.
    learning_rate : float
        Of both networks from there on.
    milestones : tuple of float
        Shares of this part after which the rate is halved.
    pixel, perceptual, critic : float
        Weights of the pixels' loss, of the distance of features, and of the relativistic loss.
    """

    begins: float
    learning_rate: float = 1e-4
    milestones: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)
    pixel: float = 1e-2
    perceptual: float = 1.0
    critic: float = 5e-3


@dataclass(frozen=True)
class Recipe:
    """What a baseline is and what it is trained with, unless told otherwise.

    Parameters
    ----------
    shape : object
        Of the network.
    batch : int
        Images per process.
    patch : int
        Edge of the crops, LR voxels.
    high_patch : bool
        Whether `patch` is in HR voxels.
    learning_rate : float
        At the beginning.
    steps : int or None
        Length of the run where nobody gives one.
    loss : str
        What is minimised.
    optimiser, decay, ema_decay, warmup_steps : str, str, float, int
        As in `RunConfig`.
    milestones : tuple of float
        Shares of the run after which the rate is multiplied by `milestone_gain`.
    milestone_gain : float
        See there.
    weight_decay : float
        Share of the weights that Adam adds to their gradients.
    clip : float or None
        Largest norm of the gradient; None for any.
    residual : bool
        Whether the network learns what to add to the interpolation.
    adversarial : Adversarial or None
        The second part of the run.
    validate_every : int
        Steps between validations.
    """

    shape: Shape
    batch: int
    patch: int
    learning_rate: float
    high_patch: bool = False
    steps: int | None = None
    loss: PixelLoss = "l1"
    optimiser: OptimiserName = "adam"
    decay: Decay = "none"
    ema_decay: float = 0.0
    warmup_steps: int = 0
    milestones: tuple[float, ...] = ()
    milestone_gain: float = 0.5
    weight_decay: float = 0.0
    clip: float | None = None
    residual: bool = False
    adversarial: Adversarial | None = None
    validate_every: int = 5000


# 8e8 back-propagations of single sub-images; plain SGD, the last layer at a tenth of the rate.
_SRCNN = Recipe(
    SRCNNShape(), 128, 33, 1e-4, high_patch=True, steps=6_250_000, loss="sum-of-squares",
    optimiser="sgd",
)  # fmt: skip
# Weight decay as in the paper; the released code has none. L1 as there.
_DDBPN = Recipe(
    DDBPNShape(), 16, 32, 1e-4, steps=1_000_000, milestones=(0.5,), milestone_gain=0.1,
    weight_decay=1e-4,
)  # fmt: skip
_CARN = Recipe(CARNShape(), 64, 64, 1e-4, steps=600_000, milestones=(2 / 3,), clip=10.0)
_SWINIR = Recipe(
    SwinIRShape(), 32, 48, 2e-4, steps=500_000, milestones=(0.5, 0.8, 0.9, 0.95), ema_decay=0.999
)
_RCAN = Recipe(RCANShape(), 16, 48, 1e-4, steps=1_000_000, milestones=(0.2, 0.4, 0.6, 0.8))
# A million steps by the pixels, then 400,000 against the critic.
_ESRGAN = Recipe(
    RRDBShape(), 16, 128, 2e-4, high_patch=True, steps=1_400_000, ema_decay=0.999,
    milestones=(0.2, 0.4, 0.6, 0.8), adversarial=Adversarial(begins=5 / 7),
)  # fmt: skip

_CPU: dict[str, Any] = {
    "optimiser": "muon", "decay": "cosine", "ema_decay": 0.995, "warmup_steps": 20, "clip": 1.0,
    "residual": True, "validate_every": 250,
}  # fmt: skip

RECIPES: Mapping[tuple[SupervisedName, SupervisedPreset], Recipe] = MappingProxyType(
    {
        ("srcnn", "published"): _SRCNN,
        ("ddbpn", "published"): _DDBPN,
        ("carn", "published"): _CARN,
        ("swinir", "published"): _SWINIR,
        ("rcan", "published"): _RCAN,
        ("esrgan", "published"): _ESRGAN,
        ("srcnn", "scaled"): Recipe(SRCNNShape((32, 16), (9, 5, 5)), 8, 24, 4e-3, **_CPU),
        ("ddbpn", "scaled"): Recipe(DDBPNShape(32, 16, 3), 8, 24, 4e-3, **_CPU),
        ("carn", "scaled"): Recipe(CARNShape(32, 3, 2), 8, 24, 4e-3, **_CPU),
        ("swinir", "scaled"): Recipe(
            SwinIRShape(32, (2, 2), (4, 4), drop_path=0.0), 4, 24, 4e-3, **_CPU
        ),
        ("rcan", "scaled"): Recipe(RCANShape(32, 2, 4, 8), 8, 24, 4e-3, **_CPU),
        # AlexNet's features pull 240 times as hard as the pixels do: these weights even them out,
        # for an image that is still nearer to the truth than the interpolation.
        ("esrgan", "scaled"): Recipe(
            RRDBShape(16, 1, 8), 8, 24, 4e-3, **_CPU,
            adversarial=Adversarial(
                begins=0.6, learning_rate=1e-3, milestones=(), pixel=1.0, perceptual=4e-3,
                critic=1e-3,
            ),
        ),
    }
)  # fmt: skip
"""Every baseline as its paper has it, and in a size that learns within minutes on a processor."""

CHANGED = (
    "a narrower and shallower network, smaller batches and crops, Muon with Adam in place of the "
    "published optimiser, a cosine decay over the run and averaged weights; it learns what to add "
    "to the cubic interpolation"
)
"""What is not as published in the scaled presets."""


@dataclass(frozen=True)
class SupervisedConfig(RunConfig):
    """How to train a supervised baseline.

    Parameters
    ----------
    name : str
        The baseline.
    preset : {"published", "scaled"}
        Where the other values come from.
    shape : object, optional
        Of the network; by default the preset's.
    degradation : Degradation, optional
        What makes LR where the data are volumes.
    loss : {"l1", "l2", "sum-of-squares"}
        What is minimised.
    clip : float, optional
        Largest norm of the gradient.
    milestones : tuple of float
        Shares of the run after which the rate is multiplied by `milestone_gain`.
    milestone_gain : float
        See there.
    weight_decay : float
        Share of the weights that Adam adds to their gradients.
    residual : bool
        Whether the network learns what to add to the interpolation.
    adversarial : Adversarial, optional
        The second part of ESRGAN's run.
    plane, steps, minutes, epochs, batch, accumulate, patch : see `RunConfig`
        As for every run; one plane, and crops in LR voxels.
    learning_rate, warmup_steps, ema_decay, decay, optimiser, seed : see `RunConfig`
        As for every run.
    device, checkpoint_minutes, keep, validate_every, validation_slices : see `RunConfig`
        As for every run.

    Raises
    ------
    UsageError
        If the values do not fit together.
    """

    name: SupervisedName = "srcnn"
    preset: SupervisedPreset = "published"
    shape: Shape | None = None
    degradation: Degradation | None = None
    loss: PixelLoss = "l1"
    clip: float | None = None
    milestones: tuple[float, ...] = ()
    milestone_gain: float = 0.5
    weight_decay: float = 0.0
    residual: bool = False
    adversarial: Adversarial | None = None

    def __post_init__(self) -> None:
        if self.name not in SUPERVISED:
            raise UsageError(f"no baseline {self.name!r}; there are {', '.join(SUPERVISED)}")
        super().__post_init__()
        self.require_positive("clip")
        if self.plane == "all":
            raise UsageError(
                f"{self.name} is trained on one plane, --plane all is for score models",
                hint="give one plane; train a model for each that you need",
            )
        if self.shape is not None and type(self.shape) is not SHAPES[self.name]:
            raise UsageError(f"{self.name} has no shape {type(self.shape).__name__}")

    @classmethod
    def for_preset(
        cls,
        name: SupervisedName,
        preset: SupervisedPreset = "published",
        *,
        budget: float | None = None,
        **settings: Any,
    ) -> SupervisedConfig:
        """Fill in a preset's recipe where a setting is None or missing.

        Parameters
        ----------
        name : str
            The baseline.
        preset : {"published", "scaled"}
            Which recipe.
        budget : float, optional
            Minutes to train the scaled preset for; takes the place of `preset`.
        **settings
            Fields of this class.

        Returns
        -------
        SupervisedConfig
            The configuration. Without any length it is the paper's.

        Raises
        ------
        UsageError
            If the values do not fit together.

        Examples
        --------
        >>> SupervisedConfig.for_preset("rcan", budget=3).minutes
        3
        >>> SupervisedConfig.for_preset("rcan").steps
        1000000
        """
        given = {name: value for name, value in settings.items() if value is not None}
        if budget is not None:
            if {"steps", "minutes", "epochs"} & given.keys():
                raise UsageError(
                    "--budget is the time to train; leave out --steps, --minutes, --epochs"
                )
            preset, given["minutes"] = "scaled", budget
        if (name, preset) not in RECIPES:
            raise UsageError(
                f"no preset {preset!r} of {name!r}; there are "
                f"{', '.join(get_args(SupervisedPreset))} of {', '.join(SUPERVISED)}"
            )
        recipe = RECIPES[name, preset]
        values = {field: getattr(recipe, field) for field in recipe.__dataclass_fields__}
        length = values.pop("steps")
        if not {"steps", "minutes", "epochs"} & given.keys():
            values["steps"] = length
        if values.pop("high_patch"):
            degradation = given.get("degradation")
            factor = degradation.factor if degradation is not None else 2.0
            values["patch"] = round(values["patch"] / factor)
        return cls(name=name, preset=preset, **{**values, **given})

    def upscaler(
        self, factor: tuple[float, float], grid: Grid, start: UpscalerConfig | None
    ) -> UpscalerConfig:
        """Return the network to train.

        Parameters
        ----------
        factor : tuple of float
            HR over LR voxels of the pairs.
        grid : {"fourier", "voxel-centre"}
            Where LR voxels lie.
        start : UpscalerConfig or None
            Of the checkpoint whose weights to begin with; takes the preset's place.

        Returns
        -------
        UpscalerConfig
            For these pairs.

        Raises
        ------
        UsageError
            If the checkpoint is of another baseline or factor.
        """
        shape = self.shape or RECIPES[self.name, self.preset].shape
        try:
            wanted = UpscalerConfig(self.name, shape, factor, grid, self.residual)
        except ValueError as error:
            raise UsageError(f"{self.name} can not be built: {error}") from error
        if start is None:
            return wanted
        found = replace(start, factor=factor, grid=grid)
        if start.name != self.name or found.integer_factor != start.integer_factor:
            raise UsageError(
                f"the network to begin with is {start.name} for factor {start.integer_factor}, "
                f"expected {self.name} for factor {wanted.integer_factor}",
                hint="give another --init, or begin without",
            )
        return found

    def is_adversarial(self, fraction: float) -> bool:
        """Tell whether the critic takes part.

        Parameters
        ----------
        fraction : float
            Part of the run that is done, 0 to 1.

        Returns
        -------
        bool
            Whether the second part of ESRGAN's run has begun.
        """
        return self.adversarial is not None and fraction >= self.adversarial.begins

    def learning_rate_at(self, step: int, fraction: float) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step : int
            Optimiser steps done before it.
        fraction : float
            Part of the run that is done, 0 to 1.

        Returns
        -------
        float
            Rising linearly, then falling at milestones or as a cosine; each part of ESRGAN's run
            begins anew.
        """
        parts = self.adversarial
        if parts is None:
            rate, gain, milestones = self.learning_rate, self.milestone_gain, self.milestones
        elif fraction < parts.begins:
            fraction /= parts.begins
            rate, gain, milestones = self.learning_rate, self.milestone_gain, self.milestones
        else:
            fraction = (fraction - parts.begins) / max(1e-9, 1 - parts.begins)
            rate, gain, milestones = parts.learning_rate, 0.5, parts.milestones
        rate *= min(1.0, (step + 1) / max(1, self.warmup_steps))
        rate *= gain ** sum(fraction >= milestone for milestone in milestones)
        if self.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        return rate

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and what is not as published.

        Returns
        -------
        dict
            Plain JSON types.
        """
        shape = self.shape or RECIPES[self.name, self.preset].shape
        changed = CHANGED if self.preset == "scaled" else ""
        document = {**asdict(self), "shape": asdict(shape), "not_as_published": changed}
        # Tuples become lists, as they are in what a state has kept.
        plain: dict[str, Any] = json.loads(json.dumps(document))
        return plain

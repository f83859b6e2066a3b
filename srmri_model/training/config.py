"""How to train: one frozen record, with a recipe for every preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from srmri_data.choices import (
    ANATOMICAL,
    Decay,
    OptimiserName,
    Plane,
    Precision,
    TrainingPlane,
)
from srmri_data.errors import UsageError
from srmri_model.networks import PRESETS, NetworkConfig
from srmri_model.sde import LogNormal


@dataclass(frozen=True)
class Recipe:
    """What a preset is trained with unless told otherwise.

    Parameters
    ----------
    batch : int
        Images per process and part.
    learning_rate : float
        After the warm-up.
    warmup_steps : int
        Steps over which the rate rises linearly.
    ema_decay : float
        Largest decay of the averaged weights.
    patch : int
        Edge of the crops; 0 for whole slices.
    noise : LogNormal or None
        Distribution of σ; None for the paper's.
    decay : {"none", "cosine"}
        Whether the rate falls to zero over the run.
    optimiser : {"adam", "muon", "sgd"}
        What changes the weights; see `srmri_model.training.optimise.Optimiser`.
    """

    batch: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    patch: int
    noise: LogNormal | None
    decay: Decay
    optimiser: OptimiserName


PAPER = Recipe(4, 2e-4, 5000, 0.999, 0, None, "none", "adam")
RECIPES: Mapping[str, Recipe] = {
    "paper": PAPER,
    "base": PAPER,
    "small": PAPER,
    "tiny": Recipe(8, 4e-3, 100, 0.9999, 64, LogNormal(-2.0, 1.2), "cosine", "muon"),
}


@dataclass(frozen=True)
class RunConfig:
    """What every training run has to be told.

    Parameters
    ----------
    plane : str
        Plane of the slices; ``all`` for the three anatomical ones with a plane label.
    steps : int, optional
        Optimiser steps in all. Give one of `steps`, `minutes` and `epochs`.
    minutes : float, optional
        Time in all, over all resumed parts.
    epochs : float, optional
        How often to see every slice.
    batch, accumulate : int
        Images per process and part; parts whose gradients are added up for one step.
    patch : int
        Edge of the crops; 0 for whole slices.
    learning_rate, warmup_steps : float, int
        The optimiser's rate, and the steps over which it rises linearly.
    ema_decay : float
        Largest decay of the averaged weights.
    decay : {"none", "cosine"}
        Whether the rate falls to zero over the run: over its steps, or its minutes.
    optimiser : {"adam", "muon", "sgd"}
        What changes the weights; see `srmri_model.training.optimise.Optimiser`.
    seed : int
        Of everything that is random.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    checkpoint_minutes : float
        Time between saved states.
    keep : int
        How many states to keep.
    validate_every : int
        Steps between validations.
    validation_slices : int
        Most slices to validate on.

    Raises
    ------
    UsageError
        If the values do not fit together.
    """

    plane: TrainingPlane = "coronal"
    steps: int | None = None
    minutes: float | None = None
    epochs: float | None = None
    batch: int = 4
    accumulate: int = 1
    patch: int = 0
    learning_rate: float = 2e-4
    warmup_steps: int = 5000
    ema_decay: float = 0.999
    decay: Decay = "none"
    optimiser: OptimiserName = "adam"
    seed: int = 0
    device: str = "auto"
    checkpoint_minutes: float = 5.0
    keep: int = 3
    validate_every: int = 500
    validation_slices: int = 24

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.steps, self.minutes, self.epochs)) != 1:
            raise UsageError("give one of --steps, --minutes and --epochs")
        at_least = {
            "steps": 1, "batch": 1, "accumulate": 1, "keep": 1, "validate_every": 1,
            "validation_slices": 1, "warmup_steps": 0, "patch": 0, "checkpoint_minutes": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {value}, expected at least {least}")
        self.require_positive("learning_rate", "minutes", "epochs")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"--ema-decay is {self.ema_decay}, expected 0 to below 1")

    def require_positive(self, *names: str) -> None:
        """Refuse settings that are given and not above 0.

        Parameters
        ----------
        *names : str
            Fields.

        Raises
        ------
        UsageError
            Which one.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} is {value}, expected more than 0")

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
            Rising linearly, then constant or falling as a cosine.
        """
        rate = self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.decay == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        return rate

    def settings(self) -> dict[str, Any]:
        """Return what has to stay the same in a resumed run.

        Returns
        -------
        dict
            Plain JSON types.
        """
        free = {
            "steps", "minutes", "epochs", "batch", "accumulate", "device", "compiled", "recompute",
            "checkpoint_minutes", "keep",
        }  # fmt: skip
        return {name: value for name, value in self.to_json().items() if name not in free}

    def to_json(self) -> dict[str, Any]:
        """Return all fields.

        Returns
        -------
        dict
            Plain JSON types.
        """
        return asdict(self)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """How to train a score model.

    Parameters
    ----------
    plane : str
        Plane of the slices; ``all`` for the three anatomical ones with a plane label.
    steps : int, optional
        Optimiser steps in all. Give one of `steps`, `minutes` and `epochs`.
    minutes : float, optional
        Time in all, over all resumed parts.
    epochs : float, optional
        How often to see every slice.
    batch, accumulate : int
        Images per process and part; parts whose gradients are added up for one step.
    patch : int
        Edge of the crops; 0 for whole slices.
    learning_rate, warmup_steps : float, int
        The optimiser's rate, and the steps over which it rises linearly.
    ema_decay : float
        Largest decay of the averaged weights.
    decay : {"none", "cosine"}
        Whether the rate falls to zero over the run: over its steps, or its minutes.
    optimiser : {"adam", "muon", "sgd"}
        What changes the weights; see `srmri_model.training.optimise.Optimiser`.
    seed : int
        Of everything that is random.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    checkpoint_minutes : float
        Time between saved states.
    keep : int
        How many states to keep.
    validate_every : int
        Steps between validations.
    validation_slices : int
        Most slices to validate on.
    preset : str
        Name of the network in `srmri_model.networks.PRESETS`.
    neighbours : int, optional
        Slices on either side that the network learns to look at beside the one it denoises; by
        default none, or those of the network to begin with.
    augment : float
        Share of images with another gain and a noise floor, see `srmri_model.training.order.draw`.
    noise : LogNormal, optional
        Distribution of σ; None for the paper's.
    clip : float
        Largest norm of the gradient.
    sigma_max : float, optional
        Largest σ; by default the preset's.
    precision : {"float32", "bf16"}
        Of the network's convolutions and products.
    compiled : bool
        Run the network through torch.compile.
    recompute : bool
        Compute activations again in the backward pass instead of keeping them.

    Raises
    ------
    UsageError
        If the values do not fit together.
    """

    preset: str = "tiny"
    neighbours: int | None = None
    augment: float = 0.0
    noise: LogNormal | None = None
    clip: float = 1.0
    sigma_max: float | None = None
    precision: Precision = "float32"
    compiled: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"no preset {self.preset!r}; there are {', '.join(PRESETS)}")
        super().__post_init__()
        self.require_positive("clip", "sigma_max")
        if not 0 <= self.augment <= 1:
            raise UsageError(f"--augment is {self.augment}, expected 0 to 1")

    @classmethod
    def for_preset(cls, preset: str, **settings: Any) -> TrainConfig:
        """Fill in a preset's recipe where a setting is None or missing.

        Parameters
        ----------
        preset : str
            Name of the preset.
        **settings
            Fields of this class.

        Returns
        -------
        TrainConfig
            The configuration.

        Raises
        ------
        UsageError
            If the values do not fit together.
        """
        if preset not in RECIPES:
            raise UsageError(f"no preset {preset!r}; there are {', '.join(RECIPES)}")
        recipe = {
            name: getattr(RECIPES[preset], name) for name in RECIPES[preset].__dataclass_fields__
        }
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(preset=preset, **{**recipe, **given})

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Planes the slices are cut in."""
        return ANATOMICAL if self.plane == "all" else (self.plane,)

    def network_shape(self, start: NetworkConfig | None) -> NetworkConfig:
        """Return the network to train.

        Parameters
        ----------
        start : NetworkConfig, optional
            Of the checkpoint whose weights to begin with; takes the preset's place.

        Returns
        -------
        NetworkConfig
            With the range of σ and the plane label asked for.

        Raises
        ------
        UsageError
            If that checkpoint's network has no plane label and needs one, or has one and the
            plane is none of its.
        """
        shape = start or PRESETS[self.preset]
        n_planes = len(ANATOMICAL) if self.plane == "all" else 0
        if start is not None:
            if start.n_planes < n_planes:
                raise UsageError(
                    "the network to begin with does not tell planes apart, --plane all needs that",
                    hint="give the one plane it was trained on, or begin without --init",
                )
            if start.n_planes and self.plane == "acquired":
                raise UsageError(
                    f"the network to begin with knows {', '.join(ANATOMICAL)} slices, and "
                    "--plane acquired is none of these",
                    hint="give the anatomical plane the slices are nearest to",
                )
            n_planes = start.n_planes
        sigma_max = shape.sigma_max if self.sigma_max is None else self.sigma_max
        neighbours = shape.neighbours if self.neighbours is None else self.neighbours
        try:
            return replace(shape, n_planes=n_planes, sigma_max=sigma_max, neighbours=neighbours)
        except ValueError as error:
            raise UsageError(f"--neighbours {neighbours}: {error}") from error

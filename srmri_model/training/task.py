"""What is trained, as the run sees it: data, network, judgement, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from srmri_model.checkpoints import Checkpoint, Kind
from srmri_model.training.logs import Validation
from srmri_model.training.ranks import Ranks
from srmri_model.training.slices import Progress
from srmri_model.training.trainer import Batches, Trainer

Config = TypeVar("Config")
Found = TypeVar("Found", bound="Judgement")
Part = TypeVar("Part")


class Judgement(Validation, Protocol):
    """What a validation found, as states keep it."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON types."""


class Task(Protocol[Config, Found, Part]):
    """A score model or a baseline to be trained; `open` comes first, then `prepare`."""

    @property
    def kind(self) -> Kind[Config]:
        """How checkpoints hold it."""

    @property
    def columns(self) -> Sequence[str]:
        """What a row of ``validation.csv`` holds."""

    def open(
        self, data: Sequence[str], cache: Path, *, split: Path | None, progress: Progress
    ) -> None:
        """Open the data."""

    @property
    def fingerprint(self) -> str:
        """Hash to know the data again."""

    @property
    def notes(self) -> Sequence[str]:
        """What a careful user should know of the data."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Slices to train on, and slices held out."""

    def shape(self, start: Config | None) -> Config:
        """Return the network to train, given that of a checkpoint to begin with."""

    def prepare(
        self, shape: Config, start: Checkpoint[Config] | None, device: torch.device, ranks: Ranks
    ) -> tuple[Trainer[Part], Batches[Part]]:
        """Build the network and what trains it."""

    def validate(self, network: nn.Module, ranks: Ranks) -> Found:
        """Judge averaged weights on slices held out."""

    def is_better(self, found: Found, best: Mapping[str, Any] | None, fraction: float, /) -> bool:
        """Tell whether weights take the place of the best so far."""

    def facts(self, found: Found) -> dict[str, Any]:
        """Return what is remembered of the best weights."""

    def metadata(self, found: Found, network: nn.Module, /) -> dict[str, Any]:
        """Return what the product says of itself."""

    def complete(self, model: Path, progress: Progress, /) -> None:
        """Add to the product what is measured once, at the end."""

    def restored(self, document: dict[str, Any]) -> Found:
        """Read what `Judgement.to_json` gave."""

    def summary(self, found: Found) -> dict[str, Any]:
        """Return what is special about this task's figures."""

    def write_page(self, out: Path, summary: Mapping[str, Any], device: str, /) -> None:
        """Draw the run."""

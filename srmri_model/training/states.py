"""The last states of a run on disk, each whole or absent, and going back past damaged ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic

from srmri_data.errors import CheckpointError
from srmri_model.checkpoints import (
    SCORE,
    Checkpoint,
    Config,
    Kind,
    load_checkpoint,
    save_checkpoint,
)

_NAME = re.compile(r"step-(\d{9})\.safetensors")


class StateFolder(Generic[Config]):
    """The training states of a run.

    Parameters
    ----------
    folder : Path
        Where they are: ``step-000001200.safetensors`` is the state after 1200 steps.
    keep : int
        How many of the last to keep, at least 1.
    kind : Kind
        What is trained; by default a score model.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind[Config] = SCORE,  # type: ignore[assignment]
        *,
        keep: int,
    ) -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.keep = keep

    def paths(self) -> list[Path]:
        """Return the states, newest first.

        Returns
        -------
        list of Path
            Empty when there is none.
        """
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, reverse=True)

    def save(self, state: Checkpoint[Config], step: int) -> Path:
        """Save a state, then delete the oldest ones.

        Parameters
        ----------
        state : Checkpoint
            The state.
        step : int
            Optimiser steps done.

        Returns
        -------
        Path
            Its file, complete and on disk.
        """
        path = self.folder / f"step-{step:09d}.safetensors"
        save_checkpoint(path, state, self.kind)
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def newest(self, warn: Callable[[str], None]) -> Checkpoint[Config] | None:
        """Read the newest state that is whole.

        Parameters
        ----------
        warn : callable
            Told about every damaged state that is passed over. The file is kept, with
            ``.damaged`` added to its name, once a whole one is found.

        Returns
        -------
        Checkpoint or None
            None when there is no state at all.

        Raises
        ------
        CheckpointError
            If there are states and none is whole.
        """
        paths = self.paths()
        damaged: list[Path] = []
        for path in paths:
            try:
                state = load_checkpoint(path, self.kind)
            except CheckpointError as error:
                warn(f"{error.message}; going back to the state before it")
                damaged.append(path)
                continue
            for bad in damaged:
                bad.rename(bad.with_name(bad.name + ".damaged"))
            return state
        if paths:
            raise CheckpointError(
                f"{self.folder}: all {len(paths)} training states are damaged",
                hint="start again in another folder, from the best weights with --init",
            )
        return None

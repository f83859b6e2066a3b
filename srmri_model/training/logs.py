"""What a run writes down as it goes: CSV always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from srmri_data.safe_io import write_text
from srmri_model.training.validation import NoiseTable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEP_COLUMNS = (
    "step", "images", "seconds", "loss", "gradient_norm", "learning_rate", "images_s",
)  # fmt: skip


class Validation(Protocol):
    """What a validation found: a `NoiseTable`, or how good an upscaler is."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the values of `rows`, the step first."""

    @property
    def score(self) -> float:
        """What is to become small."""

    def rows(self, step: int) -> Sequence[Sequence[float]]:
        """Return it for ``validation.csv``."""

    def scalars(self) -> Mapping[str, float]:
        """Return what TensorBoard shows, by name."""


class TrainingLog:
    """``log.csv``, ``validation.csv`` and TensorBoard events of a run.

    Parameters
    ----------
    out : Path
        Folder of the run.
    step : int
        Optimiser steps done; later rows, of a run that was killed, are dropped.
    columns : sequence of str
        What a row of ``validation.csv`` holds, the step first.
    """

    def __init__(
        self, out: Path, *, step: int, columns: Sequence[str] = NoiseTable.columns
    ) -> None:
        self.out = Path(out)
        for name, written in (("log.csv", STEP_COLUMNS), ("validation.csv", columns)):
            kept = [row for row in read_log(self.out / name) if row["step"] <= step]
            _write(self.out / name, written, kept)
        self._events = _summary_writer(self.out / "tensorboard", step)

    def training(self, row: Mapping[str, float]) -> None:
        """Write down how training goes.

        Parameters
        ----------
        row : mapping of str to float
            A value for each of `STEP_COLUMNS`.
        """
        self._append("log.csv", [[row[name] for name in STEP_COLUMNS]])
        if self._events is not None:
            for name in STEP_COLUMNS[3:]:
                self._events.add_scalar(f"train/{name}", row[name], int(row["step"]))

    def validation(self, step: int, found: Validation) -> None:
        """Write down what a validation found.

        Parameters
        ----------
        step : int
            Optimiser steps done.
        found : Validation
            The errors.
        """
        self._append("validation.csv", found.rows(step))
        if self._events is not None:
            for name, value in found.scalars().items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()

    def _append(self, name: str, rows: Sequence[Sequence[float]]) -> None:
        with open(self.out / name, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def read_log(path: Path) -> list[dict[str, float]]:
    """Read ``log.csv`` or ``validation.csv``.

    Parameters
    ----------
    path : Path
        The file; it may be missing, and its last line cut off by a kill.

    Returns
    -------
    list of dict
        Its rows.
    """
    if not path.is_file():
        return []
    rows = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                rows.append({name: float(value) for name, value in row.items()})
            except (TypeError, ValueError):
                break
    return rows


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        step = int(row["step"])
        writer.writerow([step, *(row[name] for name in columns[1:])])
    write_text(path, buffer.getvalue())


def _summary_writer(folder: Path, step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)

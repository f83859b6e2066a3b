"""Cells: what one method made of one slice, computed once and kept."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.safe_io import atomic_write
from srmri_model.bench.memory import peak_of
from srmri_model.bench.methods import Drawn, Method, Models, Progress
from srmri_model.bench.scores import Score, scores
from srmri_model.bench.tasks import Task
from srmri_model.upsampling.trust import coverage

_SCHEMA = 1
_SPREAD_BINS = 12


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one slice.

    Parameters
    ----------
    method, subject : str
        Names.
    slice_index, seed : int
        Numbers.
    image : (row, col) ndarray of float16
        What it made, on HR's scale, to be looked at.
    scores : tuple of Score
        Against the truth.
    chi2 : float
        χ²/m against LR.
    nfe, nbe : int
        Evaluations of the score model, forward and backward.
    seconds : float
        Time it took.
    peak_mb : float or None
        Most memory the process held meanwhile, in MB; None where the system does not tell.
    spread : dict
        Of several draws: ``coverage`` of the 90 % interval, raw and after the checkpoint's scale
        (``scaled``), and per bin of equally many pixels the root mean squares of the draws'
        standard deviation (``std``) and of the mean's error (``error``). Else empty.
    """

    method: str
    subject: str
    slice_index: int
    seed: int
    image: NDArray[np.float16]
    scores: tuple[Score, ...]
    chi2: float
    nfe: int
    nbe: int
    seconds: float
    peak_mb: float | None
    spread: dict[str, Any]


class CellStore:
    """Cells on disk, one file each.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, method: str, task: Task, seed: int) -> Path:
        """Return where a cell is kept.

        Parameters
        ----------
        method : str
            Its name.
        task : Task
            Its slice.
        seed : int
            Its seed.

        Returns
        -------
        Path
            Safe in any file system.
        """
        subject, number = task.pair["subject"], task.pair["slice_index"]
        volume = hashlib.sha256(task.pair["volume"].encode()).hexdigest()[:6]
        folder = self.folder / _plain(method) / _plain(subject)
        return folder / f"{number}-{volume}-{seed}.npz"

    def read(self, path: Path, fingerprint: str) -> Cell | None:
        """Read a cell if it is there, whole, and of the same inputs.

        Parameters
        ----------
        path : Path
            Where it is.
        fingerprint : str
            Hash of its inputs.

        Returns
        -------
        Cell or None
            None if it has to be computed.
        """
        try:
            # From memory: of a file that is cut off numpy would leave the handle open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                facts, image = json.loads(str(file["facts"])), file["image"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        if facts.pop("fingerprint", None) != fingerprint:
            return None
        facts["scores"] = tuple(Score(*row) for row in facts["scores"])
        return Cell(image=image, **facts)

    def write(self, path: Path, fingerprint: str, cell: Cell) -> None:
        """Keep a cell: all of it, or nothing.

        Parameters
        ----------
        path : Path
            Where to.
        fingerprint : str
            Hash of its inputs.
        cell : Cell
            What to keep.
        """
        facts = {name: value for name, value in asdict(cell).items() if name != "image"}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, image=cell.image, facts=json.dumps({**facts, "fingerprint": fingerprint})
        )
        with atomic_write(path) as file:
            file.write(buffer.getvalue())


def _plain(name: str) -> str:
    """Return a file name; two names that differ stay different."""
    safe = re.sub(r"[^A-Za-z0-9.+@-]", "_", name)
    if safe == name:
        return name
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def fingerprint(method: Method, task: Task, models: Models, seed: int) -> str:
    """Hash everything a cell depends on.

    Parameters
    ----------
    method : Method
        With its settings.
    task : Task
        Data of the slice, and how it was measured.
    models : Models
        Trained networks.
    seed : int
        Seed.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    facts = (_SCHEMA, repr(method), models.sha256(method.needs), task.fingerprint, seed)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def compute(
    name: str,
    method: Method,
    task: Task,
    models: Models,
    seed: int,
    *,
    progress: Progress = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Cell:
    """Run a method on a slice and judge what it made.

    Parameters
    ----------
    name : str
        Name of the method.
    method : Method
        What to run.
    task : Task
        The slice.
    models : Models
        Trained networks.
    seed : int
        Of the noise.
    progress : callable
        Called as ``progress(done, total)``.
    clock : callable
        Seconds.

    Returns
    -------
    Cell
        Loading and training of networks are not part of its time.
    """
    if method.needs:
        models.load(method.needs)

    def timed() -> tuple[Drawn, float]:
        began = clock()
        return method(task, models, seed, progress), clock() - began

    (drawn, seconds), peak = peak_of(timed)
    pair = task.pair
    kind = getattr(method, "operator", None)
    return Cell(
        method=name,
        subject=pair["subject"],
        slice_index=pair["slice_index"],
        seed=seed,
        image=drawn.image.clip(-4, 4).astype(np.float16),
        scores=tuple(
            scores(
                drawn.image,
                pair["high_res"],
                pair["foreground"],
                motion=task.motion,
                gain=task.gain,
                border=task.border,
            )
        ),
        chi2=task.chi2(drawn.image, kind),
        nfe=drawn.nfe,
        nbe=drawn.nbe,
        seconds=seconds,
        peak_mb=peak,
        spread={} if drawn.draws is None else _spread(drawn.draws, task, models),
    )


def _spread(draws: NDArray[np.float32], task: Task, models: Models) -> dict[str, Any]:
    """Hold the spread of draws against the error of their mean, in the foreground."""
    truth, inside = task.pair["high_res"], task.pair["foreground"]
    samples, scale = draws[:, None], models.score().std_scale
    k = len(samples)
    std = draws.std(axis=0, ddof=1)[inside].astype(np.float64) * np.sqrt(1 + 1 / k)
    error = (draws.mean(axis=0) - truth)[inside].astype(np.float64)
    order = np.argsort(std, kind="stable")
    bins = [part for part in np.array_split(order, _SPREAD_BINS) if part.size]
    return {
        "draws": k,
        "scale": scale,
        "coverage": coverage(samples, truth[None], inside[None]),
        "scaled": coverage(samples, truth[None], inside[None], scale=scale),
        "std": [float(np.sqrt(np.mean(std[part] ** 2))) for part in bins],
        "error": [float(np.sqrt(np.mean(error[part] ** 2))) for part in bins],
    }

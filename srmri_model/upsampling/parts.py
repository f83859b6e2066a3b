"""Partial results on disk, so that an interrupted run goes on where it was."""

from __future__ import annotations

import fcntl
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_data.errors import UsageError
from srmri_data.safe_io import atomic_write, read_json, sweep_temporaries, write_json

_JOB = "job.json"
_TRACE = "trace.json"


class Parts:
    """Arrays by name in a folder, each whole or not there.

    Parameters
    ----------
    folder : Path
        Where they are; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, name: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return an array, from disk if it is there.

        Parameters
        ----------
        name : str
            Its name.
        compute : callable
            Makes it; the result is kept.

        Returns
        -------
        ndarray
            float32.
        """
        found = self.read(name)
        if found is None:
            found = compute()
            self.write(name, found)
        return found

    def read(self, name: str) -> NDArray[np.float32] | None:
        """Return an array that is there.

        Parameters
        ----------
        name : str
            Its name.

        Returns
        -------
        ndarray or None
            None if it is not there, or damaged.
        """
        path = self.folder / f"{name}.npz"
        try:
            # The archive's checksum is verified while it is read.
            with open(path, "rb") as file, np.load(file) as archive:
                array: NDArray[np.float32] = archive["array"]
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return array

    def write(self, name: str, array: NDArray[np.float32]) -> None:
        """Keep an array.

        Parameters
        ----------
        name : str
            Its name.
        array : ndarray
            float32.
        """
        with atomic_write(self.folder / f"{name}.npz") as file:
            np.savez(file, array=array)

    def forget(self, prefix: str) -> None:
        """Remove arrays that are no longer needed.

        Parameters
        ----------
        prefix : str
            What their names begin with.
        """
        for path in self.folder.glob(f"{prefix}*.npz"):
            path.unlink()

    @property
    def trace(self) -> dict[str, Any]:
        """What is kept beside the arrays: counts and seconds."""
        path = self.folder / _TRACE
        return dict(read_json(path)) if path.exists() else {}

    def note(self, **facts: Any) -> None:
        """Keep facts beside the arrays.

        Parameters
        ----------
        **facts : object
            Plain JSON types.
        """
        write_json(self.folder / _TRACE, {**self.trace, **facts})


def known_job(folder: Path) -> dict[str, Any]:
    """Return the job whose partial results are in a folder.

    Parameters
    ----------
    folder : Path
        Where they would be.

    Returns
    -------
    dict
        Empty if there is none.
    """
    path = folder / _JOB
    return dict(read_json(path)) if path.exists() else {}


@contextmanager
def kept_parts(folder: Path, job: Mapping[str, Any], *, anew: bool = False) -> Iterator[Parts]:
    """Open the partial results of a job, and remove them when it is complete.

    Parameters
    ----------
    folder : Path
        Where they are kept.
    job : mapping
        Everything that decides their bits, as plain JSON types.
    anew : bool
        Partial results of another job are removed rather than refused.

    Yields
    ------
    Parts
        Of this job alone. They stay when the block raises.

    Raises
    ------
    UsageError
        If another process works there, or what is there belongs to another job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"{folder}: another process works on this output",
                hint="wait for it, or choose another name",
            ) from error
        sweep_temporaries(folder)
        wanted, found = json.loads(json.dumps(job)), known_job(folder)
        if found and found != wanted and not anew:
            changed = sorted(n for n in {**found, **wanted} if found.get(n) != wanted.get(n))
            raise UsageError(
                f"{folder} holds partial results with other {', '.join(changed)}",
                hint="go on with the same options, or begin anew with --force",
            )
        if found != wanted:
            # Also where a kill has left arrays without the job they belong to.
            Parts(folder).forget("")
            (folder / _TRACE).unlink(missing_ok=True)
        write_json(folder / _JOB, wanted)
        yield Parts(folder)
        shutil.rmtree(folder)

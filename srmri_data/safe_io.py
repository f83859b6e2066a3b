"""Files written whole or not at all, reads with a bound, paths kept inside a root."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from srmri_data.errors import FormatError, MissingInputError

_TEMP_MARK = ".srmri-tmp-"
_BUILDING = ".building-"
_CHUNK = 1 << 20


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path, mode: str = "wb", **open_kwargs: Any) -> Iterator[IO[Any]]:
    """Open a file that appears under its name only when complete.

    The content goes to a temporary file in the same directory, is flushed to
    disk and renamed. After an exception or a kill the old file, or its
    absence, is what remains.

    Parameters
    ----------
    path : Path
        Destination. Its directory is created when missing.
    mode : {"wb", "w"}
        Binary or text.
    **open_kwargs
        Passed to `open`, for instance ``encoding`` or ``newline``.

    Yields
    ------
    file object
        Open for writing.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(target, "w", encoding="utf-8") as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    with atomic_path(path) as temporary, open(temporary, mode, **open_kwargs) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Like `atomic_write` for libraries that want a file name, not a file.

    Parameters
    ----------
    path : Path
        Destination. Its directory is created when missing.

    Yields
    ------
    Path
        Temporary name beside `path`, with the same suffixes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name.split('.', 1)[0]}{_TEMP_MARK}",
        suffix="".join(path.suffixes),
        dir=path.parent,
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; outputs follow the user's umask as usual.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
        _fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path, check: Callable[[], None]) -> Iterator[Path]:
    """Build a folder aside and move it into place when it is complete.

    Parameters
    ----------
    out : Path
        Where the folder shall be. What stands there is replaced, if `check` lets it.
    check : callable
        Raises when `out` must not be replaced; asked before and after the work.

    Yields
    ------
    Path
        Folder of the same name to write into. It vanishes when the block raises.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep_abandoned(out)
    check()
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}{_BUILDING}", dir=out.parent))
    with open(building / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            folder = building / out.name
            folder.mkdir()
            yield folder
            # Again: the work takes minutes, in which somebody may have put something there.
            check()
            if out.exists():
                # A kill between the two renames leaves the old folder aside; the next sweep
                # brings it back.
                out.rename(building / "replaced")
            folder.rename(out)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _sweep_abandoned(out: Path) -> None:
    """Remove what killed processes were building; one that is alive holds its lock."""
    for building in out.parent.glob(f".{glob.escape(out.name)}{_BUILDING}*"):
        try:
            with open(building / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (building / "replaced").is_dir() and not out.exists():
                    (building / "replaced").rename(out)
                shutil.rmtree(building, ignore_errors=True)
        except OSError:
            continue


def sweep_temporaries(directory: Path) -> list[Path]:
    """Remove what an earlier killed run left half written.

    Parameters
    ----------
    directory : Path
        Folder to sweep, with all its subfolders.

    Returns
    -------
    list of Path
        The files that were removed.
    """
    stale = [p for p in Path(directory).rglob(f".*{_TEMP_MARK}*") if p.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Parameters
    ----------
    path : Path
        Destination.
    text : str
        Content.
    """
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document atomically, with sorted layout left as given.

    Parameters
    ----------
    path : Path
        Destination.
    document : object
        Anything `json` can write. NaN and infinity are refused: they are not JSON.
    """
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, max_bytes: int = 64 << 20) -> Any:
    """Read a JSON document of bounded size.

    Parameters
    ----------
    path : Path
        File to read.
    max_bytes : int
        Largest size accepted.

    Returns
    -------
    object
        The document.

    Raises
    ------
    MissingInputError
        If there is no such file.
    FormatError
        If the file is too large or not JSON.
    """
    try:
        return json.loads(read_bounded(path, max_bytes))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: not a JSON document ({error})") from error


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file that must not be larger than a bound.

    Parameters
    ----------
    path : Path
        File to read.
    max_bytes : int
        Largest size accepted.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    MissingInputError
        If there is no such file.
    FormatError
        If the file is larger than `max_bytes`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise FormatError(f"{path}: a folder stands where a file is expected") from error
    if len(content) > max_bytes:
        raise FormatError(f"{path}: larger than the {max_bytes} bytes accepted for such a file")
    return content


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hexadecimal.

    Parameters
    ----------
    path : Path
        File to read.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def contained(root: Path, name: str) -> Path:
    """Join a name from untrusted input to a root it must not leave.

    Parameters
    ----------
    root : Path
        Folder that must contain the result.
    name : str
        Relative name, for instance a member of a zip archive.

    Returns
    -------
    Path
        Absolute path inside `root`.

    Raises
    ------
    FormatError
        If the name is absolute or climbs out of `root`, also by a link.
    """
    base = Path(root).resolve()
    # A NUL ends the name for the system, so it can not be resolved at all.
    if "\x00" not in name:
        target = (base / name).resolve()
        if target.is_relative_to(base):
            return target
    raise FormatError(f"{name!r} leads out of {base}")

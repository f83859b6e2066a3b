"""Images inside zip archives: bounded, contained, gone when done.

An archive comes from anywhere. Only the members an image needs are extracted,
to a private temporary folder, after their names and sizes have been checked.
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from srmri_data.errors import (
    ChecksumError,
    FormatError,
    MissingInputError,
    SizeLawError,
    TruncatedError,
)
from srmri_data.safe_io import contained

DEFLATE_RATIO = 1032
"""The most bytes one compressed byte of a deflate stream can stand for."""

_ARCHIVE_SUFFIXES = (".zip", ".pvdatasets")
_DICOM_SUFFIXES = (".dcm", ".ima")
_MAX_EXTRACTED = 16 << 30
_CHUNK = 1 << 20


def split_archive(path: Path) -> tuple[Path, PurePosixPath] | None:
    """Split ``study.zip/5/pdata/1`` into the archive and the place inside it.

    Parameters
    ----------
    path : Path
        Any path.

    Returns
    -------
    tuple of Path and PurePosixPath, or None
        None when no part of `path` is a zip archive.
    """
    for candidate in (path, *path.parents):
        if candidate.suffix.lower() in _ARCHIVE_SUFFIXES and candidate.is_file():
            return candidate, PurePosixPath(path.relative_to(candidate).as_posix())
    return None


def member_names(archive: Path, inner: PurePosixPath) -> list[PurePosixPath]:
    """List the files of an archive at or below a place inside it.

    Parameters
    ----------
    archive : Path
        Zip archive.
    inner : PurePosixPath
        File or folder in it; ``.`` is the whole archive.

    Returns
    -------
    list of PurePosixPath
        Names relative to the archive's root, without folders and hidden files.

    Raises
    ------
    FormatError
        If this is not a zip archive.
    MissingInputError
        If nothing is there.
    """
    with _opened(archive) as file:
        names = [PurePosixPath(i.filename) for i in file.infolist() if not i.is_dir()]
    below = [
        name
        for name in names
        if (name == inner or inner in name.parents)
        and not any(part.startswith((".", "__MACOSX")) for part in name.parts)
    ]
    if not below and inner != PurePosixPath("."):
        raise MissingInputError(f"{archive / inner}: not in the archive")
    return below


@contextmanager
def materialise(path: Path, *, voxels: bool) -> Iterator[tuple[Path, Mapping[str, int]]]:
    """Give an image a place on disk for as long as it is being read.

    Parameters
    ----------
    path : Path
        An image; outside archives it is used where it is.
    voxels : bool
        False when the header is all that is wanted: a ParaVision 2dseq then
        stays in the archive and only its size is told.

    Yields
    ------
    place : Path
        Folder or file to read.
    sizes : mapping of str to int
        Bytes of the files that were left in the archive, by name.

    Raises
    ------
    FormatError
        If a needed member is a link, is encrypted, or its name leads out.
    SizeLawError
        If the archive claims to hold more than it can.
    ChecksumError
        If a member is damaged.
    """
    inside = split_archive(path)
    if inside is None:
        yield path, {}
        return
    archive, inner = inside
    with _opened(archive) as file, tempfile.TemporaryDirectory(prefix="srmri-") as temporary:
        root = Path(temporary)
        wanted = [i for i in file.infolist() if not i.is_dir() and _belongs(i.filename, inner)]
        left = [i for i in wanted if not voxels and PurePosixPath(i.filename).name == "2dseq"]
        taken = [i for i in wanted if i not in left]
        if not wanted:
            raise MissingInputError(f"{path}: not in the archive")
        _check_members(archive, wanted)
        for member in taken:
            _extract(file, member, contained(root, member.filename), archive=archive)
        place = contained(root, str(inner))
        if left:
            place.mkdir(parents=True, exist_ok=True)
        yield place, {PurePosixPath(i.filename).name: i.file_size for i in left}


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        file = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError) as error:
        raise FormatError(f"{archive}: not a readable zip archive ({error})") from error
    with file:
        yield file


def _belongs(filename: str, inner: PurePosixPath) -> bool:
    """Tell whether a member is a file of the image named `inner`."""
    name = PurePosixPath(filename)
    is_dicom = name.suffix.lower() in _DICOM_SUFFIXES
    if name.parent == inner:
        return is_dicom or name.name in ("2dseq", "visu_pars")
    if inner.suffix.lower() in _DICOM_SUFFIXES:
        return is_dicom and name.parent == inner.parent
    # A detached header is read together with the files of the same stem beside it.
    return name.parent == inner.parent and name.name.split(".")[0] == inner.name.split(".")[0]


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    if len({member.filename for member in members}) < len(members):
        raise FormatError(f"{archive}: the same name occurs twice in the archive")
    for member in members:
        where = f"{archive}: member {member.filename!r}"
        if stat.S_ISLNK(member.external_attr >> 16):
            raise FormatError(f"{where} is a link", hint="pack the files themselves")
        if member.flag_bits & 0x1:
            raise FormatError(f"{where} is encrypted", hint="unpack it first")
        if member.file_size > DEFLATE_RATIO * member.compress_size + _CHUNK:
            raise SizeLawError(
                f"{where} claims {member.file_size} bytes from {member.compress_size}"
            )
    packed = sum(member.compress_size for member in members)
    if packed > archive.stat().st_size:
        raise SizeLawError(f"{archive}: members overlap ({packed} bytes in a smaller file)")
    unpacked = sum(member.file_size for member in members)
    if unpacked > _MAX_EXTRACTED:
        raise SizeLawError(
            f"{archive}: {unpacked} bytes to unpack, at most {_MAX_EXTRACTED} are accepted",
            hint="unpack the archive and name the folder",
        )


def _extract(
    file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, *, archive: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    try:
        with file.open(member) as source, open(target, "xb") as copy:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                copy.write(chunk)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ChecksumError(
            f"{archive}: member {member.filename!r} is damaged ({error})"
        ) from error
    except (EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise FormatError(f"{archive}: member {member.filename!r}: {error}") from error
    if left:
        raise TruncatedError(f"{archive}: member {member.filename!r} lacks {left} bytes")

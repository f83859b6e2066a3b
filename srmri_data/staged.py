"""A staged dataset: the folder as it lies on disk, and its rows as `datasets` loads them."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srmri_data.errors import ChecksumError, FormatError, MissingInputError
from srmri_data.push_plan import CARD, CHECKSUMS, StagedFile
from srmri_data.safe_io import read_bounded, read_json

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``."""

Digests = dict[str, dict[str, tuple[int, str]]]
"""By configuration and split: number of rows, and SHA-256 of all their values."""

_CHUNK = 1 << 20


def no_progress(stage: str, done: int, total: int) -> None:
    """Say nothing.

    Parameters
    ----------
    stage : str
        Not used.
    done, total : int
        Not used.
    """


@dataclass(frozen=True)
class Staged:
    """A folder that is ready to be published.

    Parameters
    ----------
    folder : Path
        Where it is.
    files : tuple of StagedFile
        Everything in it.
    metadata : dict
        Fields of its card.
    version : str or None
        What it calls itself, ``X.Y.Z``, in its Croissant description.
    """

    folder: Path
    files: tuple[StagedFile, ...]
    metadata: dict[str, Any]
    version: str | None

    def read(self, file: StagedFile) -> bytes:
        """Return the bytes of a small file as they were staged.

        Parameters
        ----------
        file : StagedFile
            One of `files`.

        Returns
        -------
        bytes
            Its content.

        Raises
        ------
        ChecksumError
            If it has changed since.
        """
        content = read_bounded(self.folder / file.path, max(file.size, 64 << 20))
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise ChecksumError(
                f"{self.folder / file.path} was changed while it was published",
                "Stage the dataset again.",
            )
        return content


def read_staged(folder: Path, *, progress: Progress = no_progress) -> Staged:
    """Read a staged folder and check it against its own checksums.

    Parameters
    ----------
    folder : Path
        Folder with a card and a `checksums.sha256`.
    progress : callable
        Called with stage, files done and files in all.

    Returns
    -------
    Staged
        The files with their digests, and the card's fields.

    Raises
    ------
    MissingInputError
        If there is no such folder, or it has no card or no checksums.
    ChecksumError
        If a file is missing, different, or not listed.
    FormatError
        If the checksums or the card's fields can not be read.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder")
    for name in (CARD, CHECKSUMS):
        if not (folder / name).is_file():
            raise MissingInputError(
                f"{folder / name}: no such file", "Stage the dataset with `srmri export-hf`."
            )
    listed = parse_checksums(read_bounded(folder / CHECKSUMS, 64 << 20).decode("utf-8", "replace"))
    found = sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    links = [p for p in found if p.is_symlink() or not p.is_file()]
    if links:
        raise FormatError(f"{links[0]}: a staged folder holds files only")
    files = []
    for done, path in enumerate(found):
        progress("checksums", done, len(found))
        files.append(_digested(path, path.relative_to(folder).as_posix()))
    progress("checksums", len(found), len(found))
    actual = {f.path: f.sha256 for f in files if f.path != CHECKSUMS}
    wrong = sorted(p for p in listed.keys() | actual.keys() if listed.get(p) != actual.get(p))
    if wrong:
        name = wrong[0]
        state = (
            "is listed but missing"
            if name not in actual
            else "is not listed"
            if name not in listed
            else f"should have SHA-256 {listed[name]}, has {actual[name]}"
        )
        raise ChecksumError(
            f"{folder}: {name} {state}" + (f"; {len(wrong) - 1} more" if wrong[1:] else ""),
            "The folder was changed since it was staged. Stage it again.",
        )
    return Staged(folder, tuple(files), _card_fields(folder / CARD), staged_version(folder))


def parse_checksums(text: str) -> dict[str, str]:
    """Read the lines of a `checksums.sha256`.

    Parameters
    ----------
    text : str
        Lines of a digest, two spaces and a path, as `sha256sum` writes them.

    Returns
    -------
    dict of str to str
        Digest of every path.

    Raises
    ------
    FormatError
        If a line is something else.

    Examples
    --------
    >>> parse_checksums("0" * 64 + "  data/a.parquet")["data/a.parquet"][:4]
    '0000'
    """
    listed = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None:
            raise FormatError(f"{CHECKSUMS}, line {number}: not a digest and a path")
        listed[match[2]] = match[1]
    return listed


def staged_version(folder: Path) -> str | None:
    """Return what a staged dataset calls its version.

    Parameters
    ----------
    folder : Path
        Where it is.

    Returns
    -------
    str or None
        ``X.Y.Z``, or None if it says nothing.

    Raises
    ------
    FormatError
        If its Croissant description is damaged.
    """
    described = folder / "croissant.json"
    if not described.is_file():
        return None
    document = read_json(described)
    version = document.get("version") if isinstance(document, dict) else None
    return version if isinstance(version, str) else None


def _digested(path: Path, name: str) -> StagedFile:
    size = path.stat().st_size
    digest = hashlib.sha256()
    # Git names a blob by the SHA-1 of its length and its bytes; nothing rests on it alone.
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            blob.update(chunk)
    return StagedFile(name, size, digest.hexdigest(), blob.hexdigest())


def _card_fields(card: Path) -> dict[str, Any]:
    import yaml
    from huggingface_hub import metadata_load

    try:
        fields = metadata_load(card)
    except (yaml.YAMLError, ValueError) as error:
        raise FormatError(f"{card}: its metadata can not be read ({error})") from error
    if not isinstance(fields, dict):
        raise FormatError(f"{card}: no metadata between two lines of ---")
    return fields


def load_digests(
    source: str | Path,
    metadata: Mapping[str, Any],
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Digests:
    """Load every configuration of a dataset with `datasets` and digest its rows.

    Parameters
    ----------
    source : str or Path
        Staged folder, or name on the hub.
    metadata : mapping
        Fields of the card, which name the configurations.
    revision : str, optional
        Commit, on the hub.
    token : str, optional
        Who asks, on the hub.

    Returns
    -------
    dict
        By configuration and split: the number of rows, and a SHA-256 of all their values in
        order, whatever the batches they come in. The default configuration is loaded without
        its name, as most readers do.
    """
    import datasets

    # Where the hub can not be reached `datasets` takes what it finds in its cache, whatever the
    # revision; in a new one it finds nothing.
    cache = tempfile.TemporaryDirectory(prefix="srmri-")
    configs = metadata.get("configs") or []
    named = {c["config_name"]: c["config_name"] for c in configs if not c.get("default")}
    default = next((c["config_name"] for c in configs if c.get("default")), "default")
    digests: Digests = {}
    with cache:
        for config, name in ({default: None} | named).items():
            loaded = datasets.load_dataset(
                str(source),
                name,
                revision=revision,
                token=token,
                streaming=True,
                cache_dir=cache.name,
            )
            digests[config] = {split: _rows_digest(rows) for split, rows in loaded.items()}
    return digests


def _rows_digest(rows: Any) -> tuple[int, str]:
    digest = hashlib.sha256()
    count = 0
    for table in rows.with_format("arrow").iter(batch_size=64):
        for row in table.to_pylist():
            count += 1
            for name in sorted(row):
                _feed(digest, name)
                _feed(digest, row[name])
    return count, digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Digest a value with its type and length, so that different rows never feed the same."""
    if isinstance(value, dict):
        value = [part for key in sorted(value) for part in (key, value[key])]
    if isinstance(value, list):
        digest.update(b"list %d " % len(value))
        for part in value:
            _feed(digest, part)
        return
    content = value if isinstance(value, bytes) else repr(value).encode()
    digest.update(f"{type(value).__name__} {len(content)} ".encode())
    digest.update(content)


def rows_in_words(digests: Digests) -> str:
    """Say how many rows there are.

    Parameters
    ----------
    digests : dict
        What `load_digests` returned.

    Returns
    -------
    str
        Rows by configuration and split.

    Examples
    --------
    >>> rows_in_words({"pairs": {"train": (5, "…")}})
    'pairs/train: 5 rows'
    """
    return ", ".join(
        f"{config}/{split}: {rows} rows"
        for config, splits in digests.items()
        for split, (rows, _) in splits.items()
    )

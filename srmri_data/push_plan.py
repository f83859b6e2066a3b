"""What a push to a hub will do, decided before anything is sent.

Pure: the staged files and what the hub has already come in, a `PushPlan` or an error goes out.
`srmri_data.hub` looks, asks for a plan and carries it out.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from srmri_data.choices import Gated
from srmri_data.errors import FormatError, HubError, UsageError

CARD = "README.md"
CHECKSUMS = "checksums.sha256"
# The hub makes this file itself: which files it keeps in large file storage.
HUB_FILES = frozenset({".gitattributes"})

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
# What the hub takes: a file over plain HTTP, and entries of one folder.
_LARGEST_FILE = 50_000_000_000
_FULLEST_FOLDER = 10_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TAG = re.compile(r"v\d+\.\d+\.\d+")


@dataclass(frozen=True)
class StagedFile:
    """A file of the staged folder.

    Parameters
    ----------
    path : str
        Name in the repository, with forward slashes.
    size : int
        Bytes.
    sha256 : str
        Digest of its bytes, which is its name in large file storage.
    blob : str
        Git's name of it, by which a hub lists small files.
    """

    path: str
    size: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class RemoteFile:
    """A file as a hub lists it.

    Parameters
    ----------
    size : int
        Bytes.
    sha256 : str or None
        Digest, of a file in large file storage.
    blob : str
        Git's name of the file, or of the pointer that stands for it.
    """

    size: int
    sha256: str | None
    blob: str

    def is_same(self, staged: StagedFile) -> bool:
        """Say whether this is the staged file, as far as a listing tells.

        Parameters
        ----------
        staged : StagedFile
            What it is compared with.

        Returns
        -------
        bool
            True if size and content's hash agree.
        """
        name = (staged.sha256, self.sha256) if self.sha256 else (staged.blob, self.blob)
        return self.size == staged.size and name[0] == name[1]


Tree = Mapping[str, RemoteFile]


@dataclass(frozen=True)
class Remote:
    """What a hub has of a repository.

    Parameters
    ----------
    private : bool
        Whether only its owner can read it.
    main : str
        Commit `main` stands at.
    main_tree : mapping of str to RemoteFile
        Files of that commit.
    branch_tree : mapping of str to RemoteFile or None
        Files on this push's branch; None if there is none yet.
    tagged : mapping of str to RemoteFile or None
        Files of the commit with the tag that is asked for; None if the tag is free.
    known : frozenset of str
        Files an earlier version says are its own, in its `checksums.sha256`.
    """

    private: bool
    main: str
    main_tree: Tree
    branch_tree: Tree | None = None
    tagged: Tree | None = None
    known: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PushConfig:
    """Everything a push can be told.

    Parameters
    ----------
    repo : str
        ``USER/NAME``.
    license : str
        SPDX name of the licence, the same as in the card.
    public : bool
        Make the repository public at the end.
    confirmed : str
        The name of the repository, typed again by whoever makes it public.
    gated : {"auto", "manual"}, optional
        Readers have to ask for access.
    tag : str
        Version, ``vX.Y.Z``.
    endpoint : str
        Address of the hub.
    batch_files, batch_bytes : int
        A commit on the way has at most so many files, and about so many bytes.
    attempts : int
        How often a request is made before giving up.
    timeout : float
        Seconds without a byte after which a request counts as failed.
    """

    repo: str
    license: str
    public: bool = False
    confirmed: str = ""
    gated: Gated | None = None
    tag: str = "v1.0.0"
    endpoint: str = "https://huggingface.co"
    batch_files: int = 100
    batch_bytes: int = 4 << 30
    attempts: int = 6
    timeout: float = 300.0


@dataclass(frozen=True)
class PushPlan:
    """What will be sent, and in which order.

    Parameters
    ----------
    config : PushConfig
        What was asked for.
    branch : str
        Branch the files are uploaded to; its name follows from the content.
    files : tuple of StagedFile
        Everything that is published, the card first.
    metadata : dict
        The card's fields.
    batches : tuple of tuple of StagedFile
        Files to upload, a commit each.
    stale_on_branch, stale_on_main : tuple of str
        Files of an earlier version that this one does not have.
    merge : tuple of StagedFile
        Files `main` takes over from the branch; empty if it has them all.
    """

    config: PushConfig
    branch: str
    files: tuple[StagedFile, ...]
    metadata: dict[str, Any] = field(repr=False)
    batches: tuple[tuple[StagedFile, ...], ...]
    stale_on_branch: tuple[str, ...] = ()
    stale_on_main: tuple[str, ...] = ()
    merge: tuple[StagedFile, ...] = ()

    @property
    def is_on_main(self) -> bool:
        """Whether `main` is this dataset already."""
        return not self.merge and not self.stale_on_main

    def document(self) -> dict[str, Any]:
        """Return the plan for people and programs: every file and every field.

        Returns
        -------
        dict
            JSON-able values.
        """
        config = self.config
        return {
            "repo": config.repo,
            "endpoint": config.endpoint,
            "visibility": "public" if config.public else "private",
            "gated": config.gated,
            "license": config.license,
            "tag": config.tag,
            "branch": self.branch,
            "n_files": len(self.files),
            "bytes": sum(f.size for f in self.files),
            "metadata": self.metadata,
            "files": [{"path": f.path, "bytes": f.size, "sha256": f.sha256} for f in self.files],
        }


def plan_push(
    files: Sequence[StagedFile],
    metadata: Mapping[str, Any],
    config: PushConfig,
    remote: Remote | None = None,
    *,
    version: str | None = None,
) -> PushPlan:
    """Decide what a push does.

    Parameters
    ----------
    files : sequence of StagedFile
        The staged folder, `checksums.sha256` included.
    metadata : mapping
        Fields of its card.
    config : PushConfig
        What is asked for.
    remote : Remote, optional
        What the hub has; without it everything has to be sent.
    version : str, optional
        What the dataset calls itself, ``X.Y.Z``.

    Returns
    -------
    PushPlan
        Nothing in it depends on the order of `files`.

    Raises
    ------
    UsageError
        If the request is not complete, or does not fit the card.
    HubError
        If the repository holds something this push must not touch.
    """
    check_request(config)
    _check_staged(files, metadata, config, version)
    ordered = sorted(files, key=lambda f: (f.path != CARD, f.path))
    seal = "".join(f"{f.sha256}  {f.path}\n" for f in ordered)
    branch = f"srmri-{hashlib.sha256(seal.encode()).hexdigest()[:12]}"
    if remote is None:
        batches = tuple(_batches(ordered, config))
        return PushPlan(
            config, branch, tuple(ordered), dict(metadata), batches, merge=tuple(ordered)
        )
    _check_remote(ordered, config, remote)
    on_branch = remote.main_tree if remote.branch_tree is None else remote.branch_tree
    return PushPlan(
        config,
        branch,
        tuple(ordered),
        dict(metadata),
        batches=tuple(_batches(_missing(ordered, on_branch), config)),
        stale_on_branch=_stale(ordered, on_branch),
        stale_on_main=_stale(ordered, remote.main_tree),
        merge=tuple(_missing(ordered, remote.main_tree)),
    )


def _missing(files: Sequence[StagedFile], tree: Tree) -> list[StagedFile]:
    return [f for f in files if f.path not in tree or not tree[f.path].is_same(f)]


def _stale(files: Sequence[StagedFile], tree: Tree) -> tuple[str, ...]:
    return tuple(sorted(tree.keys() - {f.path for f in files} - HUB_FILES))


def differences(files: Sequence[StagedFile], tree: Tree) -> list[str]:
    """Say how a listing differs from the staged files.

    Parameters
    ----------
    files : sequence of StagedFile
        What should be there.
    tree : mapping of str to RemoteFile
        What is.

    Returns
    -------
    list of str
        One line a file; empty if nothing is missing, different or too much.
    """
    wrong = [
        f"{f.path} is different" if f.path in tree else f"{f.path} is missing"
        for f in _missing(files, tree)
    ]
    return wrong + [f"{path} is not part of the dataset" for path in _stale(files, tree)]


def _batches(files: Sequence[StagedFile], config: PushConfig) -> Iterator[tuple[StagedFile, ...]]:
    """Cut the files into commits; the card has the first one to itself."""
    batch: list[StagedFile] = []
    for file in files:
        full = len(batch) >= config.batch_files
        heavy = sum(f.size for f in batch) + file.size > config.batch_bytes
        if batch and (full or heavy or batch[0].path == CARD):
            yield tuple(batch)
            batch = []
        batch.append(file)
    if batch:
        yield tuple(batch)


def check_request(config: PushConfig) -> None:
    """Refuse what can be refused before there is a dataset.

    Parameters
    ----------
    config : PushConfig
        What is asked for.

    Raises
    ------
    UsageError
        If a name is none, the hub is reached in the clear, the licence is missing, or nobody
        confirmed that it becomes public.
    """
    if not _REPO.fullmatch(config.repo) or "--" in config.repo or ".." in config.repo:
        raise UsageError(
            f"{config.repo!r} is not the name of a repository",
            "Name it USER/NAME: letters, digits, '-', '_' and '.'.",
        )
    hub = urlsplit(config.endpoint)
    if hub.scheme != "https" and hub.hostname not in _LOOPBACK:
        raise UsageError(
            f"{config.endpoint} is not an https address: the token would travel in the clear",
            "Use the hub's https address, or a tunnel to localhost.",
        )
    if not _TAG.fullmatch(config.tag):
        raise UsageError(
            f"{config.tag!r} is not a version", "Versions are vX.Y.Z, for instance --tag v1.0.0."
        )
    if not config.license:
        raise UsageError(
            "the dataset has no licence, so nobody could use it",
            "Name one with --license, for instance --license CC-BY-4.0.",
        )
    if config.public and config.confirmed != config.repo:
        raise UsageError(
            f"{config.repo} would become public, and that was not confirmed",
            f"Type the name when asked, or pass --yes {config.repo}.",
        )


def _check_staged(
    files: Sequence[StagedFile],
    metadata: Mapping[str, Any],
    config: PushConfig,
    version: str | None,
) -> None:
    if CARD not in {f.path for f in files}:
        raise FormatError(f"{CARD} is missing: a dataset is not published without its card")
    for file in files:
        if file.size > _LARGEST_FILE:
            raise UsageError(
                f"{file.path} has {file.size / 1e9:.0f} GB, the hub takes files up to 50 GB",
                "Stage it in smaller pieces.",
            )
    folders = Counter(file.path.rpartition("/")[0] for file in files)
    folder, entries = folders.most_common(1)[0]
    if entries > _FULLEST_FOLDER:
        raise UsageError(
            f"{folder or 'the dataset'} has {entries} files, the hub takes 10,000 in a folder",
            "Stage it in several folders.",
        )
    in_card = str(metadata.get("license") or "")
    if in_card.lower() != config.license.lower():
        raise UsageError(
            f"the card says {in_card or 'no licence'}, --license says {config.license}",
            "Stage the dataset again with the licence you mean.",
        )
    if version is not None and config.tag != f"v{version}":
        raise UsageError(
            f"the staged dataset calls itself version {version}, --tag says {config.tag}",
            f"Pass --tag v{version}, or stage it again under the other version.",
        )


def _check_remote(files: Sequence[StagedFile], config: PushConfig, remote: Remote) -> None:
    if not remote.private and not config.public:
        raise UsageError(
            f"{config.repo} is public: whatever is pushed there can be read by everybody",
            "Pass --public if that is what you want, or choose another name.",
        )
    if remote.tagged is not None and differences(files, remote.tagged):
        raise HubError(
            f"{config.repo} has a {config.tag} already, and it is another dataset",
            "Versions never change. Choose a higher one with --tag.",
        )
    foreign = [p for p in _stale(files, remote.main_tree) if p not in remote.known]
    if foreign:
        raise HubError(
            f"{config.repo} holds files that are not of this dataset: {', '.join(foreign[:5])}"
            + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""),
            "Nothing was changed. Choose another name, or remove them there first.",
        )

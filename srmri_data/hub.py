"""Publish a staged dataset: what the hub serves in the end is what was staged, or nothing is.

A push uploads to a branch of a private repository, reads every byte back, loads the dataset from
there, and only then lets `main` take the files over, in one commit that is refused if `main` has
moved. Then come the tag and, if asked for, the gate and the public. Every step looks before it
acts, so a push that was interrupted is finished by calling it again, and sends what is missing.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from srmri_data.deid.scan import ScanReport, scan_phi
from srmri_data.errors import (
    FormatError,
    HubAuthError,
    HubError,
    HubMovedError,
    InputError,
    PrivacyError,
    SrmriError,
)
from srmri_data.push_plan import (
    CHECKSUMS,
    PushConfig,
    PushPlan,
    Remote,
    RemoteFile,
    StagedFile,
    differences,
    plan_push,
)
from srmri_data.staged import (
    Digests,
    Progress,
    Staged,
    load_digests,
    no_progress,
    parse_checksums,
    read_staged,
    rows_in_words,
)

T = TypeVar("T")
Scan = Callable[[Path], ScanReport]
Sleep = Callable[[float], None]

_CHUNK = 1 << 20
_LONGEST_WAIT = 3600.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524})


@contextmanager
def _clients(config: PushConfig) -> Iterator[None]:
    """Set the Hub's clients up for a push: this endpoint, no bars, no retries of their own."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    files = "/{repo_id}/resolve/{revision}/{filename}"
    ours: list[tuple[Any, str, Any]] = [
        (constants, "ENDPOINT", config.endpoint),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", config.endpoint + files),
        (datasets.config, "HF_ENDPOINT", config.endpoint),
        (datasets.config, "TORCH_AVAILABLE", False),  # it would be loaded, and is not needed
        (datasets.config, "STREAMING_READ_MAX_RETRIES", 1),
        (datasets.config, "STREAMING_OPEN_MAX_RETRIES", 1),
        (datasets.config, "STREAMING_OPEN_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL", 0),
        (datasets.config, "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL", 0),
    ]
    # Older versions of `datasets` do not have all of them.
    ours = [(module, name, value) for module, name, value in ours if hasattr(module, name)]
    theirs = [(module, name, getattr(module, name)) for module, name, _ in ours]
    bars, level = not are_progress_bars_disabled(), logging.get_verbosity()
    for module, name, value in ours:
        setattr(module, name, value)
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        for module, name, value in theirs:
            setattr(module, name, value)
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


@dataclass
class _Hub:
    """One repository on a hub, with retries; every method may be called again."""

    config: PushConfig
    token: str = field(repr=False)
    sleep: Sleep
    nonce: str
    progress: Progress
    commits: int = 0
    # Commits a branch has left behind: a hub that names one of them is not up to date.
    past: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        from huggingface_hub import HfApi

        self.api = HfApi(endpoint=self.config.endpoint, token=self.token, library_name="srmri")
        self.where: dict[str, Any] = {"repo_id": self.config.repo, "repo_type": "dataset"}

    def persist(self, what: str, attempt: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or has failed too often."""
        from huggingface_hub.utils import get_session

        for number in range(1, self.config.attempts + 1):
            try:
                get_session().timeout = self.config.timeout
                return attempt()
            except SrmriError:
                raise
            except Exception as error:
                failure = _explain(error, what, self.config)
                # What the other side says may hold what it was sent.
                told = any(self.token in str(e) for e in _causes(error))
                if failure is None and not told:
                    raise
                failure = failure or _Failure(HubError, f"{what} failed: {error}", "Report this.")
                failure.message = failure.message.replace(self.token, "[token]")
                if not failure.retry or number == self.config.attempts:
                    raise failure.as_error() from (None if told else error)
                wait = failure.wait or 2.0 ** (number - 1)
            self.progress(f"waiting {wait:.0f} s", 0, 1)
            self.sleep(min(wait, _LONGEST_WAIT))
            self.progress(f"waiting {wait:.0f} s", 1, 1)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def sign_in(self) -> None:
        """Find out whether the token is known, before anything else is asked."""
        account = self.persist("signing in", self.api.whoami)
        role = account.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise HubAuthError(
                f"the token of {account.get('name')} may only read",
                f"Make one that may write at {self.config.endpoint}/settings/tokens.",
            )

    def ensure_repo(self) -> None:
        """Make the repository, private, if it is not there; leave it as it is if it is."""

        def attempt() -> None:
            if not self.api.repo_exists(**self.where):
                self.api.create_repo(**self.where, private=True, exist_ok=True)

        self.persist("making the repository", attempt)

    def info(self) -> Any:
        """Return what the hub says about the repository."""
        return self.persist(
            "reading the repository", lambda: self.api.dataset_info(self.config.repo)
        )

    def refs(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the commits of all branches and tags."""

        def attempt() -> tuple[dict[str, str], dict[str, str]]:
            found = self.api.list_repo_refs(**self.where)
            branches = {ref.name: ref.target_commit for ref in found.branches}
            stale = [name for name, commit in branches.items() if commit in self.past[name]]
            if stale or "main" not in branches:
                raise _StaleAnswerError(f"it does not know yet where {(*stale, 'main')[0]} is")
            return branches, {ref.name: ref.target_commit for ref in found.tags}

        return self.persist("reading branches", attempt)

    def tree(self, commit: str) -> dict[str, RemoteFile]:
        """List the files of a commit."""
        from huggingface_hub.hf_api import RepoFile

        def attempt() -> dict[str, RemoteFile]:
            listed = self.api.list_repo_tree(**self.where, revision=commit, recursive=True)
            return {
                entry.path: RemoteFile(
                    entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id
                )
                for entry in listed
                if isinstance(entry, RepoFile)
            }

        return self.persist("listing files", attempt)

    def look(self, branch: str) -> Remote:
        """Say what the hub has."""
        info = self.persist(
            "reading the repository", lambda: self.api.dataset_info(self.config.repo)
        )
        branches, tags = self.refs()
        main = branches["main"]
        main_tree = self.tree(main)
        known: frozenset[str] = frozenset()
        if CHECKSUMS in main_tree:
            text = self.read(CHECKSUMS, main).decode("utf-8", "replace")
            try:
                known = frozenset(parse_checksums(text)) | {CHECKSUMS}
            except FormatError:
                known = frozenset()
        return Remote(
            private=bool(info.private),
            main=main,
            main_tree=main_tree,
            branch_tree=self.tree(branches[branch]) if branch in branches else None,
            tagged=self.tree(tags[self.config.tag]) if self.config.tag in tags else None,
            known=known,
        )

    def ensure(self, what: str, look: Callable[[], str | None], act: Callable[[], Any]) -> str:
        """Look for a commit and act if there is none; return what is there then."""

        def attempt() -> str:
            found = look()
            if found is None:
                act()
                found = look()
            if found is None:
                raise _StaleAnswerError("the hub does not show it yet")
            return found

        return self.persist(what, attempt)

    def ensure_branch(self, branch: str, start: str) -> str:
        """Make the branch if it is not there; return the commit it stands at."""
        return self.ensure(
            "making a branch",
            lambda: self.refs()[0].get(branch),
            lambda: self.api.create_branch(
                **self.where, branch=branch, revision=start, exist_ok=True
            ),
        )

    def last_message(self, commit: str) -> str:
        """Return the second part of a commit's message."""
        return str(self.api.list_repo_commits(**self.where, revision=commit)[0].message)

    def commit(
        self, branch: str, parent: str, title: str, operations: Callable[[], list[Any]]
    ) -> str:
        """Commit on top of `parent` or not at all; return the new commit.

        An answer that was lost is told from somebody else's commit by a mark in the message.
        """
        self.commits += 1
        mark = f"srmri push {self.nonce}.{self.commits}"

        def attempt() -> str:
            head = self.refs()[0].get(branch)
            if head is None:
                raise _StaleAnswerError(f"somebody else removed {branch}, or it is not shown yet")
            if head != parent:
                if mark in self.last_message(head).splitlines():
                    return head
                raise HubMovedError(
                    f"somebody else changed {branch} of {self.config.repo} meanwhile",
                    "Nothing of theirs was touched and nothing was published. Find out who; "
                    "then `srmri push` of the same folder goes on.",
                )
            done = self.api.create_commit(
                **self.where,
                operations=operations(),
                revision=branch,
                parent_commit=parent,
                commit_message=title,
                commit_description=mark,
            )
            return str(done.oid)

        head = self.persist(f"committing to {branch}", attempt)
        if head != parent:
            self.past[branch].add(parent)
        return head

    def _stream(self, path: str, commit: str) -> Iterator[bytes]:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(
            self.config.repo,
            path,
            repo_type="dataset",
            revision=commit,
            endpoint=self.config.endpoint,
        )
        headers = build_hf_headers(token=self.token) | {"Accept-Encoding": "identity"}
        with http_stream_backoff("GET", url, headers=headers, max_retries=0) as response:
            hf_raise_for_status(response)
            yield from response.iter_bytes(_CHUNK)

    def read(self, path: str, commit: str) -> bytes:
        """Read a small file as a reader would get it."""
        return self.persist(f"reading {path}", lambda: b"".join(self._stream(path, commit)))

    def verify(self, files: Sequence[StagedFile], commit: str) -> None:
        """Read every file back and compare it with what was staged."""
        wrong = differences(files, self.tree(commit))
        if wrong:
            raise HubMovedError(
                f"{self.config.repo} at {commit[:10]} is not what was sent: {'; '.join(wrong[:3])}",
                "Nothing was published. Push the same folder again.",
            )
        for done, file in enumerate(files):
            self.progress("reading back", done, len(files))

            def attempt(file: StagedFile = file) -> None:
                digest = hashlib.sha256()
                for chunk in self._stream(file.path, commit):
                    digest.update(chunk)
                if digest.hexdigest() != file.sha256:
                    raise _ServedDifferentlyError(file.path)

            self.persist(f"reading {file.path} back", attempt)
        self.progress("reading back", len(files), len(files))

    def compare_loaded(self, staged: Staged, expected: Digests, commit: str) -> None:
        """Load the dataset from the hub and compare all rows with the staged ones."""
        from huggingface_hub import HfFileSystem

        def attempt() -> Digests:
            # The file system remembers what it did not find.
            HfFileSystem.clear_instance_cache()
            return load_digests(
                self.config.repo, staged.metadata, revision=commit, token=self.token
            )

        self.progress("loading", 0, 1)
        loaded = self.persist("loading the dataset", attempt)
        if loaded != expected:
            raise HubError(
                f"{self.config.repo} loads as another dataset: {rows_in_words(loaded)}, "
                f"staged {rows_in_words(expected)}",
                "Nothing was published. Please report this.",
            )
        self.progress("loading", 1, 1)

    def merge(self, staged: Staged, plan: PushPlan, remote: Remote, source: str) -> str:
        """Let `main` take the verified files over, in one commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

        verified = self.tree(source)

        def taken_over(file: StagedFile) -> Any:
            if verified[file.path].sha256 is not None:
                return CommitOperationCopy(file.path, file.path, src_revision=source)
            # A small file would be copied by way of this machine, with nobody looking at it.
            return CommitOperationAdd(file.path, staged.read(file))

        def operations() -> list[Any]:
            return [taken_over(file) for file in plan.merge] + [
                CommitOperationDelete(path, is_folder=False) for path in plan.stale_on_main
            ]

        merged = self.commit("main", remote.main, f"Publish {self.config.tag}", operations)
        wrong = differences(plan.files, self.tree(merged))
        if wrong:
            raise HubMovedError(
                f"main of {self.config.repo} is not what was sent: {'; '.join(wrong[:3])}",
                "It was neither tagged nor made public.",
            )
        return merged

    def ensure_tag(self, plan: PushPlan, commit: str) -> None:
        """Tag the commit; a tag that stands elsewhere is left alone and reported."""
        tag = self.config.tag
        found = self.ensure(
            "tagging",
            lambda: self.refs()[1].get(tag),
            lambda: self.api.create_tag(**self.where, tag=tag, revision=commit, exist_ok=True),
        )
        if found != commit and differences(plan.files, self.tree(found)):
            raise HubMovedError(
                f"somebody else made {tag} of {self.config.repo} meanwhile, of other files",
                "It was not made public. Stage yours again under a higher version.",
            )

    def ensure_settings(self, commit: str) -> None:
        """Set the gate, then the visibility, if the repository still is what was verified."""
        branches, _ = self.refs()
        if branches["main"] != commit:
            raise HubMovedError(
                f"somebody else changed main of {self.config.repo} meanwhile",
                "It was not made public. Look at their change first.",
            )
        if self.config.gated:
            self.persist(
                "setting the gate",
                lambda: self.api.update_repo_settings(**self.where, gated=self.config.gated),
            )
        if self.config.public:

            def attempt() -> None:
                if self.api.dataset_info(self.config.repo).private:
                    self.api.update_repo_settings(**self.where, private=False)

            self.persist("making it public", attempt)

    def drop_branch(self, branch: str) -> None:
        """Remove the branch the files came by."""

        def attempt() -> None:
            if branch in self.refs()[0]:
                self.api.delete_branch(**self.where, branch=branch)

        self.persist("removing the branch", attempt)


class _ServedDifferentlyError(Exception):
    """The hub served other bytes than were staged."""


class _StaleAnswerError(Exception):
    """The hub does not show yet what it was told."""


@dataclass
class _Failure:
    """A failed request: what to say, and whether trying again may help."""

    kind: type[HubError]
    message: str
    hint: str
    retry: bool = False
    wait: float = 0.0

    def as_error(self) -> HubError:
        return self.kind(self.message, self.hint)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain(error: Exception, what: str, config: PushConfig) -> _Failure | None:
    """Say what a client's exception means for a push; None if it is nobody's but ours."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = config.endpoint
    chain = list(_causes(error))
    response = next((e.response for e in chain if isinstance(e, HfHubHTTPError)), None)
    status = 0 if response is None else response.status_code
    said = " ".join(str(error).split()) or type(error).__name__
    message = f"{what} failed: {said}"
    again = "Nothing was lost: `srmri push` of the same folder sends what is missing."
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return _Failure(HubError, f"{what} failed: HF_HUB_OFFLINE is set", "Unset it to publish.")
    if "xet" in said:
        return _Failure(
            HubError,
            message,
            f"{hub} may have no Xet storage: set HF_HUB_DISABLE_XET=1 and push again.",
            retry=True,
        )
    if status == 401:
        return _Failure(
            HubAuthError,
            f"{hub} does not accept the token",
            f"Make a new one that may write at {hub}/settings/tokens, then `hf auth login` or "
            "set HF_TOKEN. HF_TOKEN comes before what `hf auth login` stored.",
        )
    if status == 403:
        return _Failure(
            HubAuthError,
            f"the token may not do this: {message}",
            f"It has to write to {config.repo.partition('/')[0]}: see {hub}/settings/tokens.",
        )
    # Asked again, a commit finds out who was faster.
    if status == 412 or any(isinstance(e, RevisionNotFoundError) for e in chain):
        refused = "If nobody else is at it, the token may only open pull requests: it has to write."
        return _Failure(HubMovedError, message, refused, retry=True)
    if any(isinstance(e, _StaleAnswerError) for e in chain):
        return _Failure(HubMovedError, message, again, retry=True)
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return _Failure(HubError, message, again, retry=True)
    uploading = any("Error while uploading" in str(e) for e in chain)
    # Storage answers 400 to bytes that were damaged or too slow on the way.
    if status in _RETRIED or (uploading and status in (0, 400)):
        wait = _retry_after(response)
        return _Failure(HubError, message, again, retry=True, wait=wait)
    if status:
        return _Failure(HubError, message, f"The hub at {hub} refused it.")
    if any(isinstance(e, _ServedDifferentlyError) for e in chain):
        return _Failure(
            HubError,
            f"{hub} serves other bytes for {said} than were staged",
            f"Nothing was published. Delete {config.repo} there and push again.",
            retry=True,
        )
    transient = any(isinstance(e, (OSError, json.JSONDecodeError)) or _is_http(e) for e in chain)
    if transient:
        return _Failure(HubError, message, again, retry=True)
    if what.startswith("loading"):
        return _Failure(HubError, message, "Nothing was published.", retry=True)
    return None


def _is_http(error: BaseException) -> bool:
    """Say whether an exception is of one of the HTTP libraries the clients use."""
    return type(error).__module__.partition(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}


def _retry_after(response: Any) -> float:
    from huggingface_hub.utils import parse_ratelimit_headers

    if response is None:
        return 0.0
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)
    asked = response.headers.get("retry-after", "")
    return float(asked) + 1 if asked.isdigit() else 0.0


@dataclass(frozen=True)
class PushReport:
    """What a push came to.

    Parameters
    ----------
    repo, url, tag, commit : str
        What to load: ``load_dataset(repo, revision=tag)``.
    private : bool
        Whether only its owner can read it.
    sent, kept : int
        Files that were sent, and that the hub had already.
    rows : dict of str to dict of str to int
        Rows by configuration and split, as loaded from the hub.
    """

    repo: str
    url: str
    tag: str
    commit: str
    private: bool
    sent: int
    kept: int
    rows: dict[str, dict[str, int]]

    def document(self) -> dict[str, Any]:
        """Return the report for programs.

        Returns
        -------
        dict
            JSON-able values.
        """
        return asdict(self)


def find_token() -> str:
    """Return the token of this machine: `HF_TOKEN`, or what `hf auth login` stored.

    Returns
    -------
    str
        The token; never to be printed.

    Raises
    ------
    HubAuthError
        If there is none, or it can not be one.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise HubAuthError("no token was found", "Run `hf auth login`, or set HF_TOKEN.")
    return _checked_token(token)


def _checked_token(token: str) -> str:
    # A header with anything else in it would be refused with an error that quotes it.
    if not re.fullmatch(r"[!-~]+", token):
        raise HubAuthError(
            "the token holds characters no token has",
            "Copy it again, without spaces or line breaks.",
        )
    return token


def push(
    folder: Path,
    config: PushConfig,
    *,
    scan: Scan = scan_phi,
    token: str | None = None,
    progress: Progress = no_progress,
    sleep: Sleep = time.sleep,
    nonce: str | None = None,
) -> PushReport:
    """Publish a staged folder.

    Parameters
    ----------
    folder : Path
        Staged dataset: card, data, `checksums.sha256`.
    config : PushConfig
        Where to, and how.
    scan : callable
        Looks into the very bytes for what identifies somebody.
    token : str, optional
        Who publishes; this machine's token if absent.
    progress : callable
        Called with stage, done and total.
    sleep : callable
        Waits between attempts.
    nonce : str, optional
        Marks this push's commits; random if absent.

    Returns
    -------
    PushReport
        What is there now.

    Raises
    ------
    UsageError
        If the request is not complete.
    InputError
        If the folder is not what was staged, can not be loaded, or does not pass the scan.
    HubAuthError
        If the hub does not know the token, or the token may not write.
    HubMovedError
        If somebody else changed the repository meanwhile.
    HubError
        If the hub fails for longer than the retries last.
    """
    staged = read_staged(folder, progress=progress)
    plan = plan_push(staged.files, staged.metadata, config, version=staged.version)
    refuse_findings(folder, scan(folder), public=config.public)
    token = find_token() if token is None else _checked_token(token)
    with _clients(config):
        expected = _load_staged(staged)
        hub = _Hub(config, token, sleep, nonce or secrets.token_hex(6), progress)
        hub.sign_in()
        hub.ensure_repo()
        remote = hub.look(plan.branch)
        plan = plan_push(staged.files, staged.metadata, config, remote, version=staged.version)
        source = remote.main if plan.is_on_main else _upload(hub, staged, plan, remote)
        hub.verify(plan.files, source)
        hub.compare_loaded(staged, expected, source)
        commit = source if plan.is_on_main else hub.merge(staged, plan, remote, source)
        hub.ensure_tag(plan, commit)
        hub.ensure_settings(commit)
        hub.drop_branch(plan.branch)
        private = bool(hub.info().private)
    sent = 0 if plan.is_on_main else sum(map(len, plan.batches))
    return PushReport(
        repo=config.repo,
        url=f"{config.endpoint}/datasets/{config.repo}",
        tag=config.tag,
        commit=commit,
        private=private,
        sent=sent,
        kept=len(plan.files) - sent,
        rows={c: {s: rows for s, (rows, _) in d.items()} for c, d in expected.items()},
    )


def refuse_findings(folder: Path, report: ScanReport, *, public: bool) -> None:
    """Stop if a scan found something that must not leave.

    Parameters
    ----------
    folder : Path
        What was scanned.
    report : ScanReport
        What was found.
    public : bool
        Refuse what nobody vouches for, too, not only what identifies.

    Raises
    ------
    PrivacyError
        If there is any.
    """
    found = [f for f in report.findings if public or f.level == "identifies"]
    if found:
        first = found[0]
        raise PrivacyError(
            f"{folder} does not pass the scan: {first.text!r} ({first.kind}) in {first.file}, "
            f"{first.place}" + (f"; {len(found) - 1} more" if found[1:] else ""),
            f"Nothing was sent. `srmri scan-phi {folder}` lists everything.",
        )


def _load_staged(staged: Staged) -> Digests:
    try:
        return load_digests(staged.folder, staged.metadata)
    except Exception as error:
        raise InputError(
            f"{staged.folder}: `datasets` can not load it ({error})",
            "Nothing was sent. Stage the dataset again.",
        ) from error


def _upload(hub: _Hub, staged: Staged, plan: PushPlan, remote: Remote) -> str:
    """Bring the branch to the staged files; return its last commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    head = hub.ensure_branch(plan.branch, remote.main)
    total = sum(map(len, plan.batches))
    done = 0
    stale = plan.stale_on_branch
    for number, batch in enumerate(plan.batches, 1):
        hub.progress("uploading", done, total)

        def operations(
            batch: tuple[StagedFile, ...] = batch, stale: tuple[str, ...] = stale
        ) -> list[Any]:
            return [CommitOperationAdd(f.path, staged.folder / f.path) for f in batch] + [
                CommitOperationDelete(path, is_folder=False) for path in stale
            ]

        title = f"Upload {len(batch)} files ({number} of {len(plan.batches)})"
        head = hub.commit(plan.branch, head, title, operations)
        stale = ()
        done += len(batch)
    if stale:
        head = hub.commit(
            plan.branch,
            head,
            f"Remove {len(stale)} files",
            lambda: [CommitOperationDelete(path, is_folder=False) for path in stale],
        )
    hub.progress("uploading", total, total)
    return head

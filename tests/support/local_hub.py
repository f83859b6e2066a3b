"""A dataset hub on the loopback device, for tests of what is published.

It keeps repositories in memory and speaks the part of the Hugging Face Hub's protocol that the
installed `huggingface_hub` and `datasets` clients use: users, repositories with visibility and
gating, preupload, LFS batches with single and multipart PUTs, commits, branches, tags, pull
requests, trees and downloads with redirects and ranges. It is driven through those clients only.

Three things make it a test instrument rather than a server: every request is in `log`, a `Fault`
breaks a chosen request in a chosen way and counts that it did, and `exposures` holds what the
world could read at every instant it could read anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".parquet", ".gz", ".nii", ".png", ".arrow", ".zip")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ATTRIBUTES = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES).encode()


@dataclass(frozen=True)
class User:
    """An account, and what its token may do."""

    name: str
    role: str = "write"


@dataclass(frozen=True)
class Blob:
    """One file of a commit: its bytes, or a pointer to an LFS object."""

    content: bytes
    lfs: tuple[str, int] | None = None  # SHA-256, size

    @property
    def oid(self) -> str:
        """Git's name of the blob; of the pointer if the file is in LFS."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def size(self) -> int:
        """Bytes a reader gets."""
        return self.lfs[1] if self.lfs else len(self.content)


def pointer(sha256: str, size: int) -> Blob:
    """Return the blob git holds for a file in LFS."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Blob(text.encode(), (sha256, size))


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    tree: dict[str, Blob]


@dataclass
class PullRequest:
    """A pull request; its commits are on `refs/pr/<num>`."""

    num: int
    title: str
    description: str
    author: str
    base: str
    status: str = "draft"
    merge_commit: str | None = None


@dataclass
class Repo:
    """One dataset repository."""

    name: str
    private: bool
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # full name, e.g. refs/heads/main
    before: dict[str, str] = field(default_factory=dict)  # refs before their last change
    objects: dict[str, bytes] = field(default_factory=dict)  # LFS, by SHA-256
    pulls: dict[int, PullRequest] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit | None:
        """Return the commit a branch, tag, pull request or commit name stands for."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        found = [c for oid, c in self.commits.items() if oid.startswith(revision)]
        return found[0] if len(found) == 1 and len(revision) >= 5 else None

    def ref_of(self, revision: str) -> str | None:
        """Return the full name of a ref that can be committed to."""
        return next((r for r in (revision, f"refs/heads/{revision}") if r in self.refs), None)

    def read(self, revision: str, path: str) -> bytes:
        """Return a file's bytes as a reader would get them."""
        commit = self.resolve(revision)
        assert commit is not None, f"no revision {revision}"
        return self.content(commit.tree[path])

    def content(self, blob: Blob) -> bytes:
        """Return the bytes behind a blob."""
        return self.objects[blob.lfs[0]] if blob.lfs else blob.content

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return every file of a revision but the hub's own `.gitattributes`."""
        commit = self.resolve(revision)
        assert commit is not None, f"no revision {revision}"
        return {p: self.content(b) for p, b in commit.tree.items() if p != ".gitattributes"}


@dataclass
class Fault:
    """Break the `nth` request on a route, and the next `times - 1`, and count each time.

    A number as `kind` is a status that is answered instead of doing anything. The others:

    ``drop``      the connection is reset before anything is done
    ``abort``     it is reset in the middle of the request's body
    ``lost``      everything is done, and it is reset before the answer
    ``cut``       everything is done, and half of the answer is sent
    ``garbage``   the answer is a web page
    ``corrupt``   one bit flips on the way: storage refuses it (PUT), or it is served (GET)
    ``rot``       one bit flips in storage, and nobody notices
    ``stale``     the answer is that of before the last change (refs)
    ``stall``     everything is done, and no answer is sent until the client hangs up
    ``echo``      status 400 with the request's Authorization header in the message
    ``call``      `action` is called, and the request goes on; with `after`, once all is done

    With ``abort`` the action is called in the middle of the body.
    """

    route: str
    kind: str
    nth: int = 1
    times: int = 1
    action: Callable[[], None] | None = None
    after: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    hits: int = 0

    def strikes(self, route: str) -> bool:
        """Say whether this request is one to break, and count it."""
        if self.route not in (route, "*"):
            return False
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return False
        self.hits += 1
        return True


@dataclass
class Entry:
    """One request, as the log keeps it."""

    route: str
    method: str
    path: str
    user: str | None
    received: int
    status: int = 0  # 0: the connection was reset before an answer
    fault: str = ""
    contents: tuple[str, ...] = ()  # of a commit: files whose bytes were in it


class RefusalError(Exception):
    """An error the hub answers with."""

    def __init__(self, status: int, message: str, code: str = "", **extra: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra


class ResetError(Exception):
    """The connection is to be reset."""


@dataclass
class Answer:
    """What a route returns."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def as_json(document: Any, status: int = 200) -> Answer:
    """Return an answer with a JSON document."""
    return Answer(json.dumps(document).encode(), status, {"Content-Type": "application/json"})


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, str], ...] = (
    ("whoami", "GET", r"/api/whoami-v2"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("create", "POST", r"/api/repos/create"),
    ("delete", "DELETE", r"/api/repos/delete"),
    ("settings", "PUT", rf"/api/datasets/{REPO}/settings"),
    ("preupload", "POST", rf"/api/datasets/{REPO}/preupload/(?P<rev>[^/]+)"),
    ("commit", "POST", rf"/api/datasets/{REPO}/commit/(?P<rev>[^/]+)"),
    ("branch", "POST", rf"/api/datasets/{REPO}/branch/(?P<rev>[^/]+)"),
    ("unbranch", "DELETE", rf"/api/datasets/{REPO}/branch/(?P<rev>[^/]+)"),
    ("tag", "POST", rf"/api/datasets/{REPO}/tag/(?P<rev>[^/]+)"),
    ("untag", "DELETE", rf"/api/datasets/{REPO}/tag/(?P<rev>[^/]+)"),
    ("refs", "GET", rf"/api/datasets/{REPO}/refs"),
    ("commits", "GET", rf"/api/datasets/{REPO}/commits/(?P<rev>[^/]+)"),
    ("tree", "GET", rf"/api/datasets/{REPO}/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?"),
    ("paths", "POST", rf"/api/datasets/{REPO}/paths-info/(?P<rev>[^/]+)"),
    ("info", "GET", rf"/api/datasets/{REPO}(?:/revision/(?P<rev>[^/]+))?"),
    ("discuss", "POST", rf"/api/datasets/{REPO}/discussions"),
    ("discussions", "GET", rf"/api/datasets/{REPO}/discussions"),
    ("discussion", "GET", rf"/api/datasets/{REPO}/discussions/(?P<num>\d+)"),
    ("status", "POST", rf"/api/datasets/{REPO}/discussions/(?P<num>\d+)/status"),
    ("merge", "POST", rf"/api/datasets/{REPO}/discussions/(?P<num>\d+)/merge"),
    ("head", "HEAD", rf"/datasets/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
    ("resolve", "GET", rf"/datasets/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
    ("batch", "POST", rf"/datasets/{REPO}\.git/info/lfs/objects/batch"),
    ("put", "PUT", rf"/storage/{REPO}/(?P<oid>[0-9a-f]{{64}})"),
    ("part", "PUT", rf"/storage/{REPO}/(?P<oid>[0-9a-f]{{64}})/part/(?P<num>\d+)"),
    ("complete", "POST", rf"/storage/{REPO}/(?P<oid>[0-9a-f]{{64}})/complete"),
    ("verify", "POST", rf"/api/datasets/{REPO}/lfs-verify"),
    ("object", "GET", rf"/storage/{REPO}/(?P<oid>[0-9a-f]{{64}})"),
    ("object-head", "HEAD", rf"/storage/{REPO}/(?P<oid>[0-9a-f]{{64}})"),
)
_COMPILED = [(name, method, re.compile(pattern)) for name, method, pattern in ROUTES]
# Two hubs never name a commit alike, or one's files would be found in the cache of the other's.
_SALTS = count()
READS = {"refs", "commits", "tree", "paths", "info", "head", "resolve", "discussions", "discussion"}


@dataclass
class Call:
    """One request with everything a route needs."""

    route: str
    args: dict[str, str]
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    user: User | None
    fault: str = ""
    contents: tuple[str, ...] = ()

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


class LocalHub:
    """The hub; a context manager that serves on a free port of 127.0.0.1.

    Parameters
    ----------
    users : mapping of token to User
        Accounts. A token that is not among them is refused.
    chunk_size : int, optional
        LFS objects larger than this are asked for in parts of this size.
    page_size : int
        Entries per page of a tree.
    """

    def __init__(
        self,
        users: dict[str, User],
        *,
        chunk_size: int | None = None,
        page_size: int = 1000,
        lfs_above: int = 1 << 20,
    ) -> None:
        self.users = users
        self.chunk_size = chunk_size
        self.page_size = page_size
        self.lfs_above = lfs_above
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[Entry] = []
        self.exposures: list[tuple[str, dict[str, dict[str, str]]]] = []
        self.misdirected: list[str] = []
        self._parts: dict[tuple[str, str], dict[int, bytes]] = {}
        self._lock = threading.RLock()
        self._salt = next(_SALTS)
        self._server = _Server(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        """Address to set as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage(self) -> str:
        """Address of the object storage: another origin, as on the real hub."""
        return f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What tests ask and arrange

    @contextmanager
    def broken(self, *faults: Fault) -> Iterator[Sequence[Fault]]:
        """Arm faults for the time of a block."""
        with self._lock:
            self.faults.extend(faults)
        try:
            yield faults
        finally:
            with self._lock:
                self.faults = [f for f in self.faults if f not in faults]

    def requests(self, *routes: str) -> list[Entry]:
        """Return the log, of some routes only if named."""
        with self._lock:
            return [e for e in self.log if not routes or e.route in routes]

    def sent(self) -> dict[str, int]:
        """Return the bytes of file content received, by route."""
        totals: dict[str, int] = {}
        for entry in self.requests("put", "part", "commit"):
            totals[entry.route] = totals.get(entry.route, 0) + entry.received
        return totals

    def push_commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit as somebody else would, past the protocol; creates the repository."""
        with self._lock:
            found = self.repos.get(repo) or self._new_repo(repo, private=True)
            ref = f"refs/heads/{branch}"
            parent = found.commits[found.refs.setdefault(ref, found.refs["refs/heads/main"])]
            tree = parent.tree | {path: Blob(data) for path, data in files.items()}
            return self._commit(found, ref, tree, "Somebody else's change", "", "somebody").oid

    # State

    def _new_repo(self, name: str, *, private: bool) -> Repo:
        repo = self.repos[name] = Repo(name, private)
        first = Commit(
            hashlib.sha1(f"{self._salt} {name} {len(self.log)}".encode()).hexdigest(),
            None,
            "initial commit",
            "",
            "hub",
            {".gitattributes": Blob(ATTRIBUTES)},
        )
        repo.commits[first.oid] = first
        repo.refs["refs/heads/main"] = first.oid
        self._expose(repo)
        return repo

    def _commit(
        self, repo: Repo, ref: str, tree: dict[str, Blob], title: str, message: str, author: str
    ) -> Commit:
        parent = repo.refs[ref]
        seal = json.dumps([self._salt, parent, title, message, len(repo.commits), sorted(tree)])
        commit = Commit(
            hashlib.sha1(seal.encode()).hexdigest(), parent, title, message, author, tree
        )
        repo.commits[commit.oid] = commit
        repo.before = dict(repo.refs)
        repo.refs[ref] = commit.oid
        self._expose(repo)
        return commit

    def _expose(self, repo: Repo) -> None:
        """Note what anybody can read now: SHA-256 of every file, by ref."""
        if repo.private:
            return
        seen = {
            ref: {
                path: hashlib.sha256(repo.content(blob)).hexdigest()
                for path, blob in repo.commits[oid].tree.items()
            }
            for ref, oid in repo.refs.items()
        }
        self.exposures.append((repo.name, seen))

    def _repo(self, call: Call) -> Repo:
        """Return the repository of a call if its user may know of it."""
        name = call.args["repo"]
        repo = self.repos.get(name)
        member = call.user is not None and call.user.name == name.split("/")[0]
        if repo is None or (repo.private and not member):
            if call.user is None:
                raise RefusalError(401, "Invalid username or password.", "RepoNotFound")
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        if call.route not in READS and not (member and call.user and call.user.role == "write"):
            raise RefusalError(403, "You don't have the required permissions to write here")
        if call.route in ("resolve", "head") and repo.gated and not member:
            raise RefusalError(
                403 if call.user else 401, "Access to this dataset is restricted.", "GatedRepo"
            )
        return repo

    def _revision(self, repo: Repo, call: Call) -> Commit:
        commit = repo.resolve(unquote(call.args.get("rev") or "main"))
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {call.args['rev']}", "RevisionNotFound")
        return commit

    # Routes: one method each, named after the route

    def do_whoami(self, call: Call) -> Answer:
        if call.user is None:
            raise RefusalError(401, "Invalid username or password.")
        token = {"displayName": "test", "role": call.user.role}
        return as_json(
            {
                "type": "user",
                "name": call.user.name,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    def do_validate(self, call: Call) -> Answer:
        text = call.json()["content"]
        if not text.startswith("---\n"):
            return as_json({"errors": [{"message": "no metadata block"}], "warnings": []}, 400)
        return as_json({"errors": [], "warnings": []})

    def do_create(self, call: Call) -> Answer:
        asked = call.json()
        if call.user is None:
            raise RefusalError(401, "Invalid username or password.")
        owner = asked.get("organization") or call.user.name
        if owner != call.user.name or call.user.role != "write":
            raise RefusalError(
                403, f'You don\'t have the rights to create a dataset under "{owner}"'
            )
        name = f"{owner}/{asked['name']}"
        url = f"{self.endpoint}/datasets/{name}"
        if name in self.repos:
            return as_json({"error": "You already created this dataset repo", "url": url}, 409)
        self._new_repo(name, private=asked.get("visibility", "public") == "private")
        return as_json({"url": url, "name": name})

    def do_delete(self, call: Call) -> Answer:
        asked = call.json()
        call.args["repo"] = f"{asked['organization']}/{asked['name']}"
        del self.repos[self._repo(call).name]
        return as_json({})

    def do_settings(self, call: Call) -> Answer:
        repo, asked = self._repo(call), call.json()
        if "gated" in asked:
            repo.gated = asked["gated"]
        if "visibility" in asked:
            repo.private = asked["visibility"] == "private"
            self._expose(repo)
        return as_json({})

    def do_info(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        return as_json(
            {
                "id": repo.name,
                "author": repo.name.split("/")[0],
                "sha": commit.oid,
                "private": repo.private,
                "gated": repo.gated,
                "lastModified": self._date(repo, commit),
                "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def do_preupload(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        files = []
        for asked in call.json()["files"]:
            path, size = asked["path"], asked["size"]
            sample = base64.b64decode(asked["sample"])
            lfs = path.endswith(LFS_SUFFIXES) or size > self.lfs_above or b"\0" in sample
            present = commit.tree.get(path)
            oid = None if present is None else present.lfs[0] if present.lfs else present.oid
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return as_json({"files": files})

    def do_batch(self, call: Call) -> Answer:
        repo = self._repo(call)
        objects = []
        for asked in call.json()["objects"]:
            oid, size = asked["oid"], asked["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in repo.objects:
                base = f"{self.storage}/storage/{repo.name}/{oid}"
                check = {"href": f"{self.endpoint}/api/datasets/{repo.name}/lfs-verify"}
                upload: dict[str, Any] = {"href": base}
                if self.chunk_size is not None and size > self.chunk_size:
                    parts = -(-size // self.chunk_size)
                    urls = {f"{n:05d}": f"{base}/part/{n}" for n in range(1, parts + 1)}
                    upload = {
                        "href": f"{base}/complete",
                        "header": {"chunk_size": str(self.chunk_size)} | urls,
                    }
                entry["actions"] = {"upload": upload, "verify": check}
            objects.append(entry)
        return as_json({"transfer": "basic", "objects": objects})

    def do_put(self, call: Call) -> Answer:
        repo = self.repos[call.args["repo"]]
        body = self._store(repo, call.args["oid"], call.body, call.fault)
        return Answer(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _store(self, repo: Repo, oid: str, content: bytes, fault: str) -> bytes:
        """Keep an object under its digest, which storage checks."""
        if fault == "corrupt":
            content = flipped(content)
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusalError(400, "BadDigest: the SHA-256 is another one")
        repo.objects[oid] = flipped(content) if fault == "rot" else content
        return content

    def do_part(self, call: Call) -> Answer:
        parts = self._parts.setdefault((call.args["repo"], call.args["oid"]), {})
        body = flipped(call.body) if call.fault == "corrupt" else call.body
        parts[int(call.args["num"])] = body
        return Answer(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def do_complete(self, call: Call) -> Answer:
        oid, name = call.args["oid"], call.args["repo"]
        parts = self._parts.get((name, oid), {})
        named = [int(p["partNumber"]) for p in call.json()["parts"]]
        if sorted(parts) != named:
            raise RefusalError(400, f"parts {named} were named, {sorted(parts)} were sent")
        content = b"".join(parts[n] for n in named)
        self._store(self.repos[name], oid, content, call.fault)
        return as_json({})

    def do_verify(self, call: Call) -> Answer:
        repo, asked = self._repo(call), call.json()
        stored = repo.objects.get(asked["oid"])
        if stored is None or len(stored) != asked["size"]:
            raise RefusalError(404, "The object is not there")
        return as_json({})

    def do_commit(self, call: Call) -> Answer:
        repo = self._repo(call)
        assert call.user is not None
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        header = lines[0]["value"]
        base = self._revision(repo, call)
        ref = repo.ref_of(unquote(call.args["rev"]))
        pull = None
        if call.query.get("create_pr"):
            pull = self._open_pull(
                repo, header["summary"], header.get("description", ""), call.user
            )
            ref = f"refs/pr/{pull.num}"
        if ref is None:
            raise RefusalError(404, "Not a branch", "RevisionNotFound")
        expected = header.get("parentCommit")
        if expected is not None and not base.oid.startswith(expected):
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(base.tree)
        call.contents = tuple(n["value"]["path"] for n in lines[1:] if n["key"] == "file")
        for line in lines[1:]:
            self._apply(repo, tree, line["key"], line["value"])
        commit = self._commit(
            repo, ref, tree, header["summary"], header.get("description", ""), call.user.name
        )
        link = f"{self.endpoint}/datasets/{repo.name}"
        return as_json(
            {
                "success": True,
                "commitOid": commit.oid,
                "commitUrl": f"{link}/commit/{commit.oid}",
                "pullRequestUrl": f"{link}/discussions/{pull.num}" if pull else None,
            }
        )

    def _apply(self, repo: Repo, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in repo.objects:
                raise RefusalError(400, f"LFS object {value['oid']} was not uploaded")
            tree[path] = pointer(value["oid"], len(repo.objects[value["oid"]]))
        elif key == "deletedFile":
            if path not in tree:
                raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
            del tree[path]
        elif key == "deletedFolder":
            for name in [n for n in tree if n.startswith(path.rstrip("/") + "/")]:
                del tree[name]
        else:
            raise RefusalError(400, f"unknown operation {key}")

    def do_branch(self, call: Call) -> Answer:
        repo = self._repo(call)
        name = unquote(call.args["rev"])
        if name.startswith("refs/"):
            raise RefusalError(400, "Invalid reference for a branch")
        if f"refs/heads/{name}" in repo.refs:
            raise RefusalError(409, "Reference already exists")
        start = repo.resolve(call.json().get("startingPoint", "main"))
        if start is None:
            raise RefusalError(404, "Invalid starting point", "RevisionNotFound")
        repo.before = dict(repo.refs)
        repo.refs[f"refs/heads/{name}"] = start.oid
        self._expose(repo)
        return as_json({})

    def do_unbranch(self, call: Call) -> Answer:
        repo = self._repo(call)
        name = f"refs/heads/{unquote(call.args['rev'])}"
        if name == "refs/heads/main":
            raise RefusalError(403, "main can not be deleted")
        if repo.refs.pop(name, None) is None:
            raise RefusalError(404, "Reference does not exist", "RevisionNotFound")
        return as_json({})

    def do_tag(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        name = f"refs/tags/{call.json()['tag']}"
        if name in repo.refs:
            raise RefusalError(409, "Tag reference exists already")
        repo.before = dict(repo.refs)
        repo.refs[name] = commit.oid
        self._expose(repo)
        return as_json({})

    def do_untag(self, call: Call) -> Answer:
        repo = self._repo(call)
        if repo.refs.pop(f"refs/tags/{unquote(call.args['rev'])}", None) is None:
            raise RefusalError(404, "Tag does not exist", "RevisionNotFound")
        return as_json({})

    def do_refs(self, call: Call) -> Answer:
        repo = self._repo(call)
        known = repo.before if call.fault == "stale" else repo.refs

        def listed(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
                for ref, oid in known.items()
                if ref.startswith(prefix)
            ]

        found = {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": []}
        if call.query.get("include_prs"):
            found["pullRequests"] = listed("refs/pr/")
        return as_json(found)

    def do_commits(self, call: Call) -> Answer:
        repo = self._repo(call)
        at: str | None = self._revision(repo, call).oid
        found = []
        while at is not None:
            commit = repo.commits[at]
            found.append(
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "date": self._date(repo, commit),
                    "authors": [{"user": commit.author}],
                }
            )
            at = commit.parent
        return as_json(found)

    def _date(self, repo: Repo, commit: Commit) -> str:
        when = EPOCH + timedelta(seconds=list(repo.commits).index(commit.oid))
        return when.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def _entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": blob.size}
        if blob.lfs:
            sha256, size = blob.lfs
            entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": len(blob.content)}
        return entry

    def _folder(self, path: str) -> dict[str, Any]:
        name = hashlib.sha1(path.encode()).hexdigest()
        return {"type": "directory", "path": path, "oid": name, "size": 0}

    def do_tree(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        root = unquote(call.args.get("path") or "").strip("/")
        prefix = f"{root}/" if root else ""
        recursive = call.query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in commit.tree.items():
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)) if recursive else [1] if len(parts) > 1 else []:
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = self._folder(folder)
            if recursive or len(parts) == 1:
                entries[path] = self._entry(path, blob)
        if root and not entries:
            raise RefusalError(404, f"{root} does not exist", "EntryNotFound")
        start = int(call.query.get("cursor", ["0"])[0])
        page = [entries[p] for p in sorted(entries)][start : start + self.page_size]
        answer = as_json(page)
        if start + self.page_size < len(entries):
            rest = {"recursive": str(recursive).lower(), "cursor": str(start + self.page_size)}
            link = "&".join(f"{k}={v}" for k, v in rest.items())
            where = f"{self.endpoint}/api/datasets/{repo.name}/tree/{commit.oid}"
            where += f"/{quote(root, safe='')}" if root else ""
            answer.headers["Link"] = f'<{where}?{link}>; rel="next"'
        return answer

    def do_paths(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        found = []
        for path in parse_qs(call.body.decode()).get("paths", []):
            if path in commit.tree:
                found.append(self._entry(path, commit.tree[path]))
            elif any(name.startswith(path.rstrip("/") + "/") for name in commit.tree):
                found.append(self._folder(path))
        return as_json(found)

    def do_head(self, call: Call) -> Answer:
        return self._serve(call)

    def do_resolve(self, call: Call) -> Answer:
        return self._serve(call)

    def _serve(self, call: Call) -> Answer:
        repo = self._repo(call)
        commit = self._revision(repo, call)
        blob = commit.tree.get(unquote(call.args["path"]))
        if blob is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
        headers = {"X-Repo-Commit": commit.oid}
        if blob.lfs:
            sha256, size = blob.lfs
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
            headers["Location"] = f"{self.storage}/storage/{repo.name}/{sha256}"
            return Answer(status=302, headers=headers)
        return ranged(call, blob.content, headers | {"ETag": f'"{blob.oid}"'})

    def do_object(self, call: Call) -> Answer:
        oid = call.args["oid"]
        return ranged(call, self.repos[call.args["repo"]].objects[oid], {"ETag": f'"{oid}"'})

    do_object_head = do_object

    # Pull requests

    def _open_pull(self, repo: Repo, title: str, description: str, user: User) -> PullRequest:
        base = repo.refs["refs/heads/main"]
        pull = PullRequest(len(repo.pulls) + 1, title, description, user.name, base)
        repo.pulls[pull.num] = pull
        repo.refs[f"refs/pr/{pull.num}"] = base
        return pull

    def _pull(self, repo: Repo, call: Call) -> PullRequest:
        pull = repo.pulls.get(int(call.args["num"]))
        if pull is None:
            raise RefusalError(404, "No such discussion")
        return pull

    def _pull_json(self, repo: Repo, pull: PullRequest) -> dict[str, Any]:
        return {
            "num": pull.num,
            "title": pull.title,
            "author": {"name": pull.author},
            "createdAt": EPOCH.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "status": pull.status,
            "repo": {"name": repo.name, "type": "dataset"},
            "isPullRequest": True,
        }

    def do_discuss(self, call: Call) -> Answer:
        repo, asked = self._repo(call), call.json()
        assert call.user is not None
        pull = self._open_pull(repo, asked["title"], asked["description"], call.user)
        return as_json({"num": pull.num, "pullRequest": True})

    def do_discussions(self, call: Call) -> Answer:
        repo = self._repo(call)
        found = [self._pull_json(repo, pull) for pull in repo.pulls.values()]
        return as_json({"discussions": found, "count": len(found), "start": 0})

    def do_discussion(self, call: Call) -> Answer:
        repo = self._repo(call)
        pull = self._pull(repo, call)
        changes = {"base": "refs/heads/main", "mergeCommitId": pull.merge_commit}
        rest = {"events": [], "filesWithConflicts": [], "changes": changes}
        return as_json(self._pull_json(repo, pull) | rest)

    def do_status(self, call: Call) -> Answer:
        repo = self._repo(call)
        pull = self._pull(repo, call)
        pull.status = call.json()["status"]
        event = {
            "id": "0" * 24,
            "type": "status-change",
            "createdAt": EPOCH.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "author": {"name": pull.author},
            "data": {"status": pull.status},
        }
        return as_json({"newStatus": event})

    def do_merge(self, call: Call) -> Answer:
        repo = self._repo(call)
        pull = self._pull(repo, call)
        assert call.user is not None
        if pull.status != "open":
            raise RefusalError(409, f"The pull request is {pull.status}")
        base = repo.commits[pull.base].tree
        theirs = repo.commits[repo.refs[f"refs/pr/{pull.num}"]].tree
        ours = dict(repo.commits[repo.refs["refs/heads/main"]].tree)
        for path in base.keys() | theirs.keys():
            if base.get(path) == theirs.get(path):
                continue
            if ours.get(path) != base.get(path):
                raise RefusalError(409, f"Conflict in {path}")
            if path in theirs:
                ours[path] = theirs[path]
            else:
                del ours[path]
        title = f"Merge #{pull.num}"
        commit = self._commit(repo, "refs/heads/main", ours, title, "", call.user.name)
        pull.status, pull.merge_commit = "merged", commit.oid
        return as_json({})


def flipped(content: bytes) -> bytes:
    """Return the content with one bit in its middle flipped."""
    if not content:
        return content
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def ranged(call: Call, content: bytes, headers: dict[str, str]) -> Answer:
    """Return the content, or the part of it that was asked for."""
    if call.fault == "corrupt":
        content = flipped(content)
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
    if not asked:
        return Answer(content, 200, headers)
    first, last = asked.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    if start >= len(content):
        return Answer(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
    return Answer(content[start:stop], 206, headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: LocalHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about; anything else is a defect."""
        import sys

        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # Headers and body leave in one packet: no waiting for the client's delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _reset(self) -> None:
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self, entry: Entry, *, half: bool) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
                if half:
                    break
            if not half:
                self.rfile.readline()
        else:
            size = int(self.headers.get("Content-Length") or 0)
            body = bytearray(self.rfile.read(size // 2 if half else size))
            if len(body) < size and not half:
                raise ResetError
        entry.received = len(body)
        return bytes(body)

    def _answer(self, entry: Entry, answer: Answer, *, cut: bool = False) -> None:
        entry.status = answer.status
        if cut and (self.command == "HEAD" or len(answer.body) < 2):
            raise ResetError
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if cut:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.wfile.flush()
            self._reset()
        elif self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def _handle(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        matches = ((r, p.fullmatch(url.path)) for r, m, p in _COMPILED if m == self.command)
        route, found = next(((r, f) for r, f in matches if f), ("unknown", None))
        authorization = self.headers.get("Authorization", "")
        user = hub.users.get(authorization.removeprefix("Bearer "))
        entry = Entry(route, self.command, self.path, user.name if user else None, 0)
        with hub._lock:
            hub.log.append(entry)
            fault = next((f for f in hub.faults if f.strikes(route)), None)
        kind = fault.kind if fault else ""
        entry.fault = kind
        try:
            if kind == "drop":
                raise ResetError
            body = self._read_body(entry, half=kind == "abort")
            if fault and fault.action and not fault.after:
                fault.action()
            if kind == "abort":
                raise ResetError
            if fault and (kind.isdigit() or kind == "echo"):
                said = f"refused {authorization}" if kind == "echo" else f"injected {kind}"
                raise RefusalError(400 if kind == "echo" else int(kind), said, **fault.headers)
            if found is None:
                raise RefusalError(404, "Sorry, we can't find the page you are looking for.")
            if authorization and user is None and not url.path.startswith("/storage/"):
                raise RefusalError(401, "Invalid credentials in Authorization header")
            if authorization and url.path.startswith("/storage/"):
                hub.misdirected.append(self.path)
            args = {k: v for k, v in found.groupdict().items() if v is not None}
            lower = {k.lower(): v for k, v in self.headers.items()}
            query = parse_qs(url.query)
            call = Call(route, args, query, lower, body, user, kind)
            try:
                with hub._lock:
                    answer = getattr(hub, f"do_{route.replace('-', '_')}")(call)
            finally:
                if fault and fault.action and fault.after:
                    fault.action()
            entry.contents = call.contents
            if kind == "stall":
                self.connection.recv(1)
            if kind in ("lost", "stall"):
                raise ResetError
            if kind == "garbage":
                answer = Answer(b"<html>Bad gateway</html>", 200, {"Content-Type": "text/html"})
            self._answer(entry, answer, cut=kind == "cut")
        except ResetError:
            self._reset()
        except RefusalError as refusal:
            extra = {k.replace("_", "-"): v for k, v in refusal.extra.items()}
            answer = as_json({"error": refusal.message}, refusal.status)
            answer.headers |= extra | {"X-Error-Message": refusal.message}
            if refusal.code:
                answer.headers["X-Error-Code"] = refusal.code
            self._answer(entry, answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

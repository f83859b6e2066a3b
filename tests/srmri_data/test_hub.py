"""Publishing, against a hub of our own that is driven by the real clients."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_faults
import pytest
from hub_faults import Case
from local_hub import Fault, LocalHub, User
from staged_dataset import contents, seal, write_staged

from srmri_data.deid.scan import Finding, ScanReport
from srmri_data.errors import (
    ChecksumError,
    FormatError,
    HubAuthError,
    HubError,
    HubMovedError,
    InputError,
    MissingInputError,
    PrivacyError,
    UsageError,
)
from srmri_data.hub import find_token, push
from srmri_data.push_plan import PushConfig, StagedFile, plan_push
from srmri_data.staged import parse_checksums, read_staged

# The client's own way to send a file is deprecated by the HTTP library it uses.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_CanaryOfTheTestsDoNotPrintMe"
REPO = "ana/mouse-brains"
SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_staged(tmp_path_factory.mktemp("staged") / "dataset")


@pytest.fixture(autouse=True, scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The clients without this machine's token and cache, and without waits of their own."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    home = tmp_path_factory.mktemp("client")
    still = SimpleNamespace(sleep=lambda seconds: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_http, "time", still)
        patch.setattr(file_download, "time", still)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    users = {TOKEN: User("ana"), "hf_bob": User("bob"), "hf_reader": User("ana", role="read")}
    with LocalHub(users, chunk_size=3000, page_size=7) as served:
        yield served


def config_for(hub: LocalHub, **changes: Any) -> PushConfig:
    base = PushConfig(REPO, "cc-by-4.0", endpoint=hub.endpoint, batch_files=4)
    return replace(base, **changes)


def do_push(folder: Path, config: PushConfig, **options: Any) -> Any:
    slept: list[float] = []
    settings: dict[str, Any] = {
        "scan": lambda folder: ScanReport(0, 0, ()),
        "token": TOKEN,
        "sleep": slept.append,
        "nonce": "test",
    }
    return push(folder, config, **(settings | options))


def public(hub: LocalHub, **changes: Any) -> PushConfig:
    return config_for(hub, public=True, confirmed=REPO, **changes)


def only_whole_was_public(hub: LocalHub, folder: Path) -> None:
    """At every instant anybody could read anything, main was the dataset, whole."""
    digests = {p: hashlib.sha256(c).hexdigest() for p, c in contents(folder).items()}
    for name, refs in hub.exposures:
        main = {p: d for p, d in refs["refs/heads/main"].items() if p != ".gitattributes"}
        assert (name, main) == (REPO, digests)


# What goes well


def test_a_push_ends_with_the_staged_bytes_private_and_tagged(hub: LocalHub, staged: Path) -> None:
    report = do_push(staged, config_for(hub))

    repo = hub.repos[REPO]
    assert repo.files() == repo.files("v1.0.0") == contents(staged)
    assert repo.private
    assert hub.exposures == []
    assert set(repo.refs) == {"refs/heads/main", "refs/tags/v1.0.0"}
    assert report.rows == {"pairs": {"train": 5, "test": 2}, "slices_hr": {"train": 4}}
    assert (report.sent, report.kept, report.private) == (10, 0, True)
    assert hub.misdirected == []


def test_the_card_is_sent_first_and_large_files_in_parts(hub: LocalHub, staged: Path) -> None:
    do_push(staged, config_for(hub))

    commits = [e.contents for e in hub.requests("commit")]
    assert commits[0] == ("README.md",)
    assert len(hub.requests("part")) >= 2
    assert len(hub.requests("complete")) >= 1


def test_every_byte_is_read_back_before_main_has_it(hub: LocalHub, staged: Path) -> None:
    do_push(staged, public(hub, gated="manual"))

    log = hub.requests()
    onto_main = next(i for i, e in enumerate(log) if e.path.endswith("/commit/main"))
    flip = next(i for i, e in enumerate(log) if e.route == "settings")
    read = {e.path for e in log[:onto_main] if e.route == "resolve"}
    names = {path.rsplit("/", 1)[1] for path in read}
    assert len(names) == len(contents(staged))
    assert flip > onto_main
    assert hub.repos[REPO].gated == "manual"
    assert not hub.repos[REPO].private
    assert hub.exposures
    only_whole_was_public(hub, staged)


def test_pushing_again_sends_nothing(hub: LocalHub, staged: Path) -> None:
    do_push(staged, config_for(hub))
    hub.log.clear()

    report = do_push(staged, config_for(hub))

    assert hub.requests("put", "part", "commit", "preupload", "tag", "create") == []
    assert (report.sent, report.kept) == (0, 10)


def test_a_private_dataset_is_made_public_later_without_sending_anything(
    hub: LocalHub, staged: Path
) -> None:
    do_push(staged, config_for(hub))
    hub.log.clear()

    report = do_push(staged, public(hub))

    assert hub.sent() == {}
    assert not report.private
    only_whole_was_public(hub, staged)


def test_a_new_version_sends_what_changed_and_drops_what_went(
    hub: LocalHub, staged: Path, tmp_path: Path
) -> None:
    do_push(staged, config_for(hub))
    newer = write_staged(tmp_path / "newer", version="2")
    (newer / "volumes/sub-s1_T2starw.nii.gz").unlink()
    seal(newer)
    hub.log.clear()

    do_push(newer, config_for(hub, tag="v1.1.0"))

    repo = hub.repos[REPO]
    assert repo.files() == contents(newer)
    assert repo.files("v1.0.0") == contents(staged)
    assert hub.requests("put", "part") == []
    sent = {path for e in hub.requests("commit") for path in e.contents}
    assert sent == {"README.md", "checksums.sha256"}


def test_load_dataset_gets_the_same_rows_from_the_hub_and_from_disk(
    hub: LocalHub, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import constants

    do_push(staged, config_for(hub))
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "fresh"))
    cache = str(tmp_path / "rows")

    local = datasets.load_dataset(str(staged), split="train", cache_dir=cache)
    for streaming in (False, True):
        served = datasets.load_dataset(
            REPO,
            split="train",
            revision="v1.0.0",
            token=TOKEN,
            cache_dir=cache,
            streaming=streaming,
        )
        rows = list(served)
        assert len(rows) == len(local) == 5
        for ours, theirs in zip(local, rows, strict=True):
            assert (ours["pair_id"], ours["confidence"]) == (
                theirs["pair_id"],
                theirs["confidence"],
            )
            assert ours["lr"].mode == theirs["lr"].mode == "I;16"
            assert ours["lr"].tobytes() == theirs["lr"].tobytes()
            assert ours["hr"].tobytes() == theirs["hr"].tobytes()


# What is refused, and before what


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"license": ""}, "no licence"),
        ({"license": "mit"}, "the card says"),
        ({"public": True}, "not confirmed"),
        ({"public": True, "confirmed": "ana/mouse-brain"}, "not confirmed"),
        ({"tag": "1.0"}, "not a version"),
        ({"endpoint": "http://hub.example.org"}, "in the clear"),
        ({"repo": "mouse-brains"}, "not the name"),
        ({"repo": "ana/mouse/brains"}, "not the name"),
        ({"repo": "ana/../brains"}, "not the name"),
    ],
)
def test_an_incomplete_request_reaches_no_hub(
    hub: LocalHub, staged: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        do_push(staged, config_for(hub, **changes))
    assert hub.log == []


@pytest.mark.parametrize("kind", ["date", "unknown"])
def test_what_does_not_pass_the_scan_does_not_leave(hub: LocalHub, staged: Path, kind: str) -> None:
    found = (Finding("reviews.jsonl", "line 1", kind, "something"),)

    def scan(folder: Path) -> ScanReport:
        assert folder == staged
        return ScanReport(1, 1, found)

    with pytest.raises(PrivacyError, match=r"does not pass the scan: 'something'"):
        do_push(staged, public(hub), scan=scan)
    assert hub.log == []
    if kind == "unknown":
        do_push(staged, config_for(hub), scan=scan)
        assert hub.repos[REPO].private
    else:
        with pytest.raises(PrivacyError):
            do_push(staged, config_for(hub), scan=scan)
        assert hub.log == []


def test_the_scan_is_of_the_very_folder(hub: LocalHub, tmp_path: Path) -> None:
    folder = write_staged(tmp_path / "d")
    with open(folder / "reviews.jsonl", "a") as file:
        file.write('{"at": "2024-03-01T10:11:12", "by": "jane.doe@example.org"}\n')
    seal(folder)
    with pytest.raises(PrivacyError, match=r"reviews.jsonl"):
        push(folder, config_for(hub), token=TOKEN)
    assert hub.log == []


def test_the_tag_is_the_version_the_dataset_calls_itself(hub: LocalHub, tmp_path: Path) -> None:
    folder = write_staged(tmp_path / "d")
    (folder / "croissant.json").write_text('{"version": "1.2.0"}')
    seal(folder)
    with pytest.raises(UsageError, match=r"calls itself version 1.2.0"):
        do_push(folder, config_for(hub))
    assert hub.log == []
    do_push(folder, config_for(hub, tag="v1.2.0"))
    assert "refs/tags/v1.2.0" in hub.repos[REPO].refs


def test_a_folder_that_was_changed_is_refused(hub: LocalHub, tmp_path: Path) -> None:
    folder = write_staged(tmp_path / "d")
    (folder / "reviews.jsonl").write_text("changed")
    with pytest.raises(ChecksumError, match=r"reviews.jsonl should have"):
        do_push(folder, config_for(hub))
    (folder / "reviews.jsonl").unlink()
    with pytest.raises(ChecksumError, match="listed but missing"):
        do_push(folder, config_for(hub))
    seal(folder)
    (folder / "extra.txt").write_text("more")
    with pytest.raises(ChecksumError, match=r"extra.txt is not listed"):
        do_push(folder, config_for(hub))
    (folder / "extra.txt").unlink()
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(FormatError, match="files only"):
        do_push(folder, config_for(hub))
    assert hub.log == []


def test_a_folder_without_a_card_or_that_can_not_be_loaded_is_refused(
    hub: LocalHub, tmp_path: Path
) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        do_push(tmp_path / "nowhere", config_for(hub))
    folder = write_staged(tmp_path / "d")
    (folder / "data/pairs/test-00000-of-00001.parquet").write_bytes(b"not parquet")
    seal(folder)
    with pytest.raises(InputError, match="can not load it"):
        do_push(folder, config_for(hub))
    (folder / "README.md").unlink()
    with pytest.raises(MissingInputError, match=r"README.md: no such file"):
        do_push(folder, config_for(hub))
    assert hub.log == []


def test_configurations_without_a_default_are_refused(hub: LocalHub, tmp_path: Path) -> None:
    """`load_dataset(NAME)` would fail for every reader."""
    folder = write_staged(tmp_path / "d")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("  default: true\n", ""))
    seal(folder)
    with pytest.raises(InputError, match="can not load it"):
        do_push(folder, config_for(hub))
    assert hub.log == []


def test_checksums_and_card_are_read_strictly(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="line 2"):
        parse_checksums("0" * 64 + "  a\nnonsense\n")
    folder = write_staged(tmp_path / "d")
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    seal(folder)
    with pytest.raises(FormatError, match=r"README.md: its metadata"):
        read_staged(folder)


def test_a_repository_with_other_files_is_left_alone(hub: LocalHub, staged: Path) -> None:
    hub.push_commit(REPO, {"thesis.tex": b"mine"})
    before = dict(hub.repos[REPO].refs)
    with pytest.raises(HubError, match=r"not of this dataset: thesis.tex"):
        do_push(staged, config_for(hub))
    assert hub.repos[REPO].refs == before


def test_a_version_never_changes(hub: LocalHub, staged: Path, tmp_path: Path) -> None:
    do_push(staged, config_for(hub))
    before = dict(hub.repos[REPO].refs)
    other = write_staged(tmp_path / "other", seed=1)
    with pytest.raises(HubError, match=r"has a v1.0.0 already"):
        do_push(other, config_for(hub))
    assert hub.repos[REPO].refs == before


def test_what_is_public_already_is_not_added_to_unasked(
    hub: LocalHub, staged: Path, tmp_path: Path
) -> None:
    do_push(staged, public(hub))
    newer = write_staged(tmp_path / "newer", version="2")
    with pytest.raises(UsageError, match="is public"):
        do_push(newer, config_for(hub, tag="v1.1.0"))
    only_whole_was_public(hub, staged)


def test_other_bytes_in_storage_are_found_and_nothing_is_published(
    hub: LocalHub, staged: Path
) -> None:
    with hub.broken(Fault("put", "rot")) as (rot,), pytest.raises(HubError, match="other bytes"):
        do_push(staged, public(hub))
    assert rot.hits == 1
    repo = hub.repos[REPO]
    assert repo.private
    assert list(repo.files()) == []
    assert not [ref for ref in repo.refs if "tags" in ref]


def test_a_hub_without_xet_says_which_setting_helps(
    hub: LocalHub, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(HubError) as caught:
        do_push(staged, config_for(hub))
    assert "HF_HUB_DISABLE_XET=1" in caught.value.hint


@pytest.mark.parametrize("name", ["reviews.jsonl", "volumes/sub-s1_T2starw.nii.gz"])
@pytest.mark.parametrize("route", ["create", "validate", "tree", "paths"])
def test_a_file_that_changes_meanwhile_is_published_as_staged_or_not_at_all(
    hub: LocalHub, tmp_path: Path, name: str, route: str
) -> None:
    folder = write_staged(tmp_path / "d")
    before = contents(folder)

    def change() -> None:
        (folder / name).write_bytes(before[name] + b" ")

    changed = Fault(route, "call", action=change)
    with hub.broken(changed), suppress(ChecksumError, HubError):
        do_push(folder, public(hub))
    assert changed.hits == 1
    assert hub.repos[REPO].files() in ({}, before)
    write_staged(tmp_path / "whole")
    only_whole_was_public(hub, tmp_path / "whole")


# Tokens


def test_a_token_the_hub_does_not_know_ends_with_what_to_do(hub: LocalHub, staged: Path) -> None:
    with pytest.raises(HubAuthError, match="does not accept the token") as caught:
        do_push(staged, config_for(hub), token="hf_wrong")
    assert caught.value.exit_code == 6
    assert "hf auth login" in caught.value.hint
    assert hub.repos == {}


def test_a_token_that_may_only_read_is_refused_before_anything_is_sent(
    hub: LocalHub, staged: Path
) -> None:
    with pytest.raises(HubAuthError, match="may only read"):
        do_push(staged, config_for(hub), token="hf_reader")
    assert [e.route for e in hub.log] == ["whoami"]


def test_a_token_of_somebody_else_is_refused(hub: LocalHub, staged: Path) -> None:
    with pytest.raises(HubAuthError, match="may not do this"):
        do_push(staged, config_for(hub), token="hf_bob")
    assert hub.repos == {}


def test_the_usual_places_are_searched_for_a_token(
    hub: LocalHub, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubAuthError, match="no token") as caught:
        do_push(staged, config_for(hub), token=None)
    assert "HF_TOKEN" in caught.value.hint
    (tmp_path / "token").write_text("hf_from_file\n")
    assert find_token() == "hf_from_file"
    monkeypatch.setenv("HF_TOKEN", "hf_from_environment")
    assert find_token() == "hf_from_environment"


@pytest.mark.parametrize("bad", ["hf_ä" + TOKEN, TOKEN + "\x07", "hf_ " + TOKEN])
def test_a_token_no_header_could_hold_is_not_quoted(hub: LocalHub, staged: Path, bad: str) -> None:
    with pytest.raises(HubAuthError, match="characters") as caught:
        do_push(staged, config_for(hub), token=bad)
    assert TOKEN not in caught.value.message + caught.value.hint
    assert hub.log == []


def test_a_hub_that_repeats_the_token_is_not_repeated(hub: LocalHub, staged: Path) -> None:
    import traceback

    echo = Fault("create", "echo")
    with hub.broken(echo), pytest.raises(HubError, match=r"refused Bearer \[token\]") as caught:
        do_push(staged, config_for(hub))
    assert echo.hits == 1
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    assert TOKEN not in repr(caught.value)


# Faults


@pytest.fixture(scope="module")
def well(staged: Path) -> Sequence[Any]:
    """The log of a push that went well, to know what there is to break.

    The clients read a file now and then in one request less, so it is the shortest of a few.
    """
    logs = []
    for _ in range(4):
        with LocalHub({TOKEN: User("ana")}, chunk_size=3000, page_size=7) as clean:
            do_push(staged, public(clean, gated="manual"))
            logs.append(clean.requests())
    return min(logs, key=len)


N_FAULTS, N_KILLS = 140, 60


def test_waits_as_long_as_the_hub_asks(hub: LocalHub, staged: Path) -> None:
    waits: list[float] = []
    policy = {"ratelimit": '"api";r=0;t=42'}
    faults = (
        Fault("create", "429", headers={"Retry-After": "7"}),
        Fault("refs", "429", headers=policy),
        Fault("info", "503", nth=2, times=2),
    )
    with hub.broken(*faults):
        do_push(staged, config_for(hub), sleep=waits.append)
    assert [f.hits for f in faults] == [1, 1, 2]
    assert waits[:4] == [8.0, 2.0, 4.0, 43.0]


def test_a_hub_that_hangs_is_given_up_on(hub: LocalHub, staged: Path) -> None:
    stall = Fault("commit", "stall")
    with hub.broken(stall):
        do_push(staged, config_for(hub, timeout=0.5))
    assert stall.hits == 1
    assert hub.repos[REPO].files() == contents(staged)


def test_a_long_outage_ends_with_what_to_do(hub: LocalHub, staged: Path) -> None:
    outage = Fault("commit", "503", nth=2, times=10_000)
    with hub.broken(outage), pytest.raises(HubError) as caught:
        do_push(staged, config_for(hub))
    assert outage.hits == 6
    assert "`srmri push` of the same folder" in caught.value.hint
    resumed(hub, staged, config_for(hub))


def resumed(hub: LocalHub, folder: Path, config: PushConfig) -> None:
    """Run again after a failure: it ends well, and sends what is missing and nothing else."""
    repo = hub.repos.get(REPO)
    stored = set(repo.objects) if repo else set()
    there: dict[str, bytes] = {}
    for ref in repo.refs if repo else ():
        if ref.startswith("refs/heads/srmri-"):
            there = hub.repos[REPO].files(ref)
    hub.log.clear()

    do_push(folder, config, nonce="again")

    repo = hub.repos[REPO]
    assert repo.files() == repo.files(config.tag) == contents(folder)
    uploads = [e.path.split("/")[4] for e in hub.requests("put", "part")]
    assert not set(uploads) & stored
    for entry in hub.requests("commit"):
        if not entry.path.endswith("/commit/main"):
            again = [p for p in entry.contents if there.get(p) == contents(folder)[p]]
            assert again == []
    assert not [ref for ref in repo.refs if ref.startswith("refs/heads/srmri-")]
    assert repo.private is not config.public


def fails(trial: Any, cases: Sequence[Case], *rest: Any) -> str:
    """Go through all cases; return those that failed, with what was wrong."""
    failed = []
    for case in cases:
        try:
            trial(case, *rest)
        except Exception as error:
            failed.append(f"{case}: {type(error).__name__}: {error}")
    return "\n".join(failed)


def survives(case: Case, folder: Path) -> None:
    """Break one request of a push, and finish it."""
    with LocalHub({TOKEN: User("ana")}, chunk_size=3000, page_size=7) as hub:
        config = public(hub, gated="manual")
        fault = case.fault()
        error = None
        with hub.broken(fault):
            try:
                do_push(folder, config)
            except HubError as caught:
                error = caught
        assert fault.hits == 1, "the fault was not hit"
        assert error is None or (error.exit_code == 6 and error.hint)
        if error is not None and REPO in hub.repos and hub.repos[REPO].private:
            assert hub.exposures == []
        assert type(error).__name__ in expected_end(case)
        resumed(hub, folder, config)
        only_whole_was_public(hub, folder)
        assert hub.misdirected == []


def expected_end(case: Case) -> set[str]:
    """Say how a push may end: transient faults are overcome, final ones are reported."""
    if case.kind == "401":
        return {"HubAuthError"}
    return (
        {"NoneType", "HubError", "HubAuthError"} if case.kind in hub_faults.FINAL else {"NoneType"}
    )


def test_a_few_faults(well: Sequence[Any], staged: Path) -> None:
    cases = hub_faults.sample(hub_faults.possible(well, kills=False), 20, seed=1)
    assert fails(survives, cases, staged) == ""


@pytest.mark.slow
def test_many_faults(well: Sequence[Any], staged: Path) -> None:
    cases = hub_faults.sample(hub_faults.possible(well, kills=False), N_FAULTS, seed=2)
    assert len(cases) == N_FAULTS
    assert fails(survives, cases, staged) == ""


# Kills


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": f"{SUPPORT.parents[1]}:{SUPPORT}",
    }
    with (
        open(home / "stderr", "w") as errors,
        subprocess.Popen(
            [sys.executable, SUPPORT / "push_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        yield process
        assert process.stdin is not None
        process.stdin.close()
    assert TOKEN not in (home / "stderr").read_text()


def killed(case: Case, folder: Path, worker: subprocess.Popen[str]) -> None:
    """Kill a push at one of its requests, and finish it."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    with LocalHub({TOKEN: User("ana")}, chunk_size=3000, page_size=7) as hub:
        config = public(hub, gated="manual")
        fault = case.fault()
        known = threading.Event()
        pid = 0

        def kill() -> None:
            assert known.wait(10)
            os.kill(pid, signal.SIGKILL)

        fault.action = kill
        settings = {
            "repo": config.repo,
            "license": config.license,
            "public": True,
            "confirmed": REPO,
            "gated": "manual",
            "endpoint": hub.endpoint,
            "batch_files": config.batch_files,
        }
        with hub.broken(fault):
            job = {"folder": str(folder), "config": settings, "nonce": "killed"}
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            pid = int(worker.stdout.readline())
            known.set()
            status = int(worker.stdout.readline())
        assert fault.hits == 1, "the kill was not reached"
        assert status == -signal.SIGKILL
        if hub.repos.get(REPO) and hub.repos[REPO].private:
            assert hub.exposures == []
        resumed(hub, folder, config)
        only_whole_was_public(hub, folder)


def test_a_few_kills(well: Sequence[Any], staged: Path, worker: subprocess.Popen[str]) -> None:
    cases = hub_faults.sample(hub_faults.possible(well, kills=True), 5, seed=3)
    assert fails(killed, cases, staged, worker) == ""


@pytest.mark.slow
def test_many_kills(well: Sequence[Any], staged: Path, worker: subprocess.Popen[str]) -> None:
    cases = hub_faults.sample(hub_faults.possible(well, kills=True), N_KILLS, seed=4)
    assert len(cases) == N_KILLS
    assert fails(killed, cases, staged, worker) == ""


# Others


def test_an_old_answer_is_not_taken_for_somebody_elses_change(hub: LocalHub, staged: Path) -> None:
    """A hub of several machines may answer from one that has not heard of the last commit."""
    waits: list[float] = []
    stale = Fault("refs", "stale", nth=3, times=8)
    with hub.broken(stale):
        do_push(staged, public(hub), sleep=waits.append)
    assert stale.hits == 8
    assert waits
    assert hub.repos[REPO].files("v1.0.0") == contents(staged)
    only_whole_was_public(hub, staged)


def test_a_tag_made_meanwhile_is_not_taken_for_ones_own(hub: LocalHub, staged: Path) -> None:
    def theirs() -> None:
        repo = hub.repos[REPO]
        hub.push_commit(REPO, {"README.md": b"theirs"}, branch="other")
        repo.refs["refs/tags/v1.0.0"] = repo.refs.pop("refs/heads/other")

    tagged = Fault("tag", "call", action=theirs)
    with hub.broken(tagged), pytest.raises(HubMovedError, match=r"somebody else made v1.0.0"):
        do_push(staged, public(hub))
    assert tagged.hits == 1
    assert hub.repos[REPO].private


def test_what_is_in_this_machines_cache_is_not_taken_for_the_hubs(
    hub: LocalHub, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    cache = tmp_path / "cache"
    (cache / "ana___mouse-brains" / "pairs" / "0.0.0" / "abc").mkdir(parents=True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    down = Fault("head", "503", times=10_000)
    with hub.broken(down), pytest.raises(HubError, match="loading the dataset failed") as caught:
        do_push(staged, public(hub))
    assert down.hits > 6
    assert "locate the file on the Hub" in caught.value.message
    assert hub.repos[REPO].private


@pytest.mark.parametrize(
    ("size", "count", "says"), [(60 << 30, 1, "up to 50 GB"), (1, 10_001, "10,000 in a folder")]
)
def test_what_the_hub_can_not_take_is_refused(size: int, count: int, says: str) -> None:
    files = [StagedFile(f"volumes/{n}.nii.gz", size, "0" * 64, "0" * 40) for n in range(count)]
    card = StagedFile("README.md", 1, "1" * 64, "1" * 40)
    with pytest.raises(UsageError, match=says):
        plan_push([card, *files], {"license": "mit"}, PushConfig(REPO, "mit"))


def test_somebody_elses_change_stops_a_push(hub: LocalHub, staged: Path) -> None:
    """Main moves just before the push would commit to it, or after, before it is public."""
    for nth, route in ((1, "paths"), (1, "tag")):
        hub.repos.clear()

        def theirs() -> None:
            hub.push_commit(REPO, {"README.md": b"---\nlicense: mit\n---\ntheirs"})

        moved = Fault(route, "call", nth, action=theirs)
        with hub.broken(moved), pytest.raises(HubMovedError) as caught:
            do_push(staged, public(hub))
        assert moved.hits == 1
        assert caught.value.exit_code == 6
        repo = hub.repos[REPO]
        assert repo.read("main", "README.md").endswith(b"theirs")
        assert repo.private
        assert hub.exposures == []


def test_of_two_at_once_one_stops_and_the_other_ends_well(
    hub: LocalHub, staged: Path, tmp_path: Path
) -> None:
    """The second push runs whole while the first is between two commits."""
    second: list[Any] = []

    def other() -> None:
        thread = threading.Thread(target=run_other)
        thread.start()
        thread.join(60)

    def run_other() -> None:
        second.append(do_push(staged, config_for(hub), nonce="second"))

    pause = Fault("commit", "call", nth=2, action=other)
    with hub.broken(pause), pytest.raises(HubMovedError, match="somebody else"):
        do_push(staged, config_for(hub), nonce="first")
    assert pause.hits == 1
    assert len(second) == 1
    assert hub.repos[REPO].files() == hub.repos[REPO].files("v1.0.0") == contents(staged)
    do_push(staged, config_for(hub))
    assert hub.repos[REPO].files() == contents(staged)


def test_of_two_datasets_at_once_one_stops(hub: LocalHub, staged: Path, tmp_path: Path) -> None:
    rival = write_staged(tmp_path / "rival", seed=5)

    def other() -> None:
        thread = threading.Thread(
            target=do_push, args=(rival, config_for(hub, tag="v2.0.0")), kwargs={"nonce": "second"}
        )
        thread.start()
        thread.join(60)

    pause = Fault("paths", "call", nth=1, action=other)
    with hub.broken(pause), pytest.raises(HubMovedError):
        do_push(staged, config_for(hub), nonce="first")
    assert pause.hits == 1
    repo = hub.repos[REPO]
    assert repo.files() == repo.files("v2.0.0") == contents(rival)
    assert "refs/tags/v1.0.0" not in repo.refs

"""The tests' own hub answers the real clients as the real one does, errors included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from local_hub import LocalHub, User

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WHERE: dict[str, Any] = {"repo_id": "ana/things", "repo_type": "dataset"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LocalHub({"hf_ana": User("ana"), "hf_bob": User("bob")}, page_size=3) as served:
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


@pytest.fixture
def ana(hub: LocalHub) -> HfApi:
    api = HfApi(endpoint=hub.endpoint, token="hf_ana")
    api.create_repo(**WHERE, private=True)
    return api


def add(api: HfApi, path: str, content: bytes, **options: Any) -> Any:
    operation = CommitOperationAdd(path, content)
    return api.create_commit(**WHERE, operations=[operation], commit_message="add", **options)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_a_pull_request_is_merged_unless_it_conflicts(hub: LocalHub, ana: HfApi) -> None:
    one = add(ana, "a.txt", b"one", create_pr=True)
    two = add(ana, "a.txt", b"two", create_pr=True)
    assert (one.pr_num, two.pr_revision) == (1, "refs/pr/2")
    with pytest.raises(HfHubHTTPError) as draft:
        ana.merge_pull_request("ana/things", 1, repo_type="dataset")
    assert status_of(draft) == 409
    for number in (1, 2):
        ana.change_discussion_status("ana/things", number, "open", repo_type="dataset")
    ana.merge_pull_request("ana/things", 1, repo_type="dataset")
    assert hub.repos["ana/things"].files() == {"a.txt": b"one"}
    assert ana.get_discussion_details("ana/things", 1, repo_type="dataset").status == "merged"
    with pytest.raises(HfHubHTTPError, match="Conflict"):
        ana.merge_pull_request("ana/things", 2, repo_type="dataset")
    assert hub.repos["ana/things"].files("refs/pr/2") == {"a.txt": b"two"}


def test_a_commit_on_a_parent_that_is_left_behind_is_refused(hub: LocalHub, ana: HfApi) -> None:
    first = ana.dataset_info("ana/things").sha
    add(ana, "a.txt", b"one", parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as moved:
        add(ana, "b.txt", b"two", parent_commit=first)
    assert status_of(moved) == 412


def test_what_is_private_does_not_exist_for_others(hub: LocalHub, ana: HfApi) -> None:
    add(ana, "a.txt", b"one")
    bob = HfApi(endpoint=hub.endpoint, token="hf_bob")
    for api in (bob, HfApi(endpoint=hub.endpoint, token=False)):
        assert not api.repo_exists(**WHERE)
        with pytest.raises(RepositoryNotFoundError):
            api.list_repo_refs(**WHERE)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as unknown:
        HfApi(endpoint=hub.endpoint, token="hf_nobody").dataset_info("ana/things")
    assert status_of(unknown) == 401

    ana.update_repo_settings(**WHERE, private=False)
    assert bob.list_repo_files(**WHERE) == [".gitattributes", "a.txt"]
    with pytest.raises(HfHubHTTPError) as forbidden:
        add(bob, "b.txt", b"two")
    assert status_of(forbidden) == 403
    assert [refs["refs/heads/main"].keys() for _, refs in hub.exposures][-1] >= {"a.txt"}

    ana.update_repo_settings(**WHERE, gated="manual")
    with pytest.raises(GatedRepoError):
        HfFileSystem(endpoint=hub.endpoint, token="hf_bob", skip_instance_cache=True).cat_file(
            "datasets/ana/things/a.txt"
        )


def test_what_is_not_there_is_told_apart(ana: HfApi, tmp_path: Path) -> None:
    with pytest.raises(RevisionNotFoundError):
        ana.dataset_info("ana/things", revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        ana.hf_hub_download(**WHERE, filename="nothing", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        ana.delete_tag(**WHERE, tag="v1.0.0")


def test_branches_and_tags_are_made_once(hub: LocalHub, ana: HfApi) -> None:
    ana.create_branch(**WHERE, branch="side")
    ana.create_tag(**WHERE, tag="v1.0.0")
    for again in (
        lambda: ana.create_branch(**WHERE, branch="side"),
        lambda: ana.create_tag(**WHERE, tag="v1.0.0"),
        lambda: ana.create_repo(**WHERE),
    ):
        with pytest.raises(HfHubHTTPError) as twice:
            again()
        assert status_of(twice) == 409
    ana.delete_branch(**WHERE, branch="side")
    ana.delete_tag(**WHERE, tag="v1.0.0")
    assert set(hub.repos["ana/things"].refs) == {"refs/heads/main"}
    ana.delete_repo(**WHERE)
    assert hub.repos == {}


def test_trees_come_in_pages_and_files_in_ranges(hub: LocalHub, ana: HfApi) -> None:
    content = bytes(range(256)) * 20
    operations = [CommitOperationAdd(f"d/e/{n}.bin", content + bytes([n])) for n in range(8)]
    ana.create_commit(**WHERE, operations=operations, commit_message="add")
    hub.log.clear()
    listed = list(ana.list_repo_tree(**WHERE, recursive=True))
    assert len(listed) == 8 + 2 + 1
    assert len(hub.requests("tree")) == 4
    files = HfFileSystem(endpoint=hub.endpoint, token="hf_ana", skip_instance_cache=True)
    with files.open("datasets/ana/things/d/e/3.bin", "rb", block_size=100) as file:
        file.seek(300)
        assert file.read(10) == content[300:310]
    assert any(entry.status == 206 for entry in hub.requests("object"))
    assert hub.misdirected == []

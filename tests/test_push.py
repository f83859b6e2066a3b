"""`srmri push` as a user runs it: what it prints, how it ends, and that a token shows nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_hub import Fault, LocalHub, User
from staged_dataset import contents, write_staged

PROJECT = Path(__file__).resolve().parents[1]
CANARY = "hf_CanaryThatMustShowNowhere7Q"
REPO = "ana/mouse-brains"


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub({CANARY: User("ana")}) as served:
        yield served


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_staged(tmp_path_factory.mktemp("staged") / "dataset")


def srmri(
    hub: LocalHub, home: Path, *arguments: object, code: int, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line with nothing of this machine's hub settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    result = subprocess.run(
        [sys.executable, "-c", "from cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=home,
        timeout=300,
        env=inherited
        | {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(PROJECT),
            "PYTHONWARNINGS": "default",
        }
        | environment,
    )
    assert result.returncode == code, result.stderr
    return result


def sign_in(home: Path, token: str) -> None:
    (home / "hf").mkdir(exist_ok=True)
    (home / "hf" / "token").write_text(token)


def hits(folder: Path, token: str) -> list[str]:
    """Files below a folder that hold the token, but for the one it was stored in."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and path != folder / "hf" / "token"
        if token.encode() in path.read_bytes()
    ]


def processes_with(token: str, seen: list[str]) -> None:
    """Note every process of this machine that shows the token, as `ps e` would."""
    for process in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                content = (process / part).read_bytes()
            except OSError:
                continue
            if token.encode() in content:
                seen.append(f"{process.name} {part}")


def test_a_token_shows_nowhere(hub: LocalHub, staged: Path, tmp_path: Path) -> None:
    sign_in(tmp_path, CANARY)
    seen: list[str] = []
    watched = [
        Fault(route, "call", action=lambda: processes_with(CANARY, seen))
        for route in ("whoami", "commit", "resolve", "tag")
    ]
    arguments = ["push", staged, REPO, "--license", "CC-BY-4.0"]
    with hub.broken(*watched, Fault("info", "500", nth=1)):
        said = srmri(hub, tmp_path, *arguments, code=0, HF_DEBUG="1", HF_HUB_VERBOSITY="debug")
    with hub.broken(Fault("whoami", "echo")):
        refused = srmri(hub, tmp_path, *arguments, code=6)

    assert all(f.hits == 1 for f in watched)
    assert seen == []
    assert hub.repos[REPO].files() == contents(staged)
    for result in (said, refused):
        assert CANARY not in result.stdout + result.stderr
    assert hits(tmp_path, CANARY) == []
    assert not any(CANARY.encode() in data for data in hub.repos[REPO].files().values())
    assert not any(CANARY in entry.path for entry in hub.log)
    # The instruments can find it: in this process, once it is there, and in a file.
    (tmp_path / "note").write_text(f"token {CANARY}")
    assert hits(tmp_path, CANARY) == [str(tmp_path / "note")]
    # It runs when it has said a line, and waits for one: before, there may be no environment.
    shown, pipe = ["sh", "-c", "echo; read line"], subprocess.PIPE
    with subprocess.Popen(shown, env={"X": CANARY}, stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        processes_with(CANARY, seen)
        other.kill()
    assert f"{other.pid} environ" in seen


def test_a_bad_token_ends_with_6_and_what_to_do(
    hub: LocalHub, staged: Path, tmp_path: Path
) -> None:
    bad = "hf_ThisOneExpiredYesterday"
    arguments = ["push", staged, REPO, "--license", "CC-BY-4.0", "-q"]
    none = srmri(hub, tmp_path, *arguments, code=6)
    assert "no token was found" in none.stderr
    assert "hf auth login" in none.stderr
    expired = srmri(hub, tmp_path, *arguments, code=6, HF_TOKEN=bad)
    assert "does not accept the token" in expired.stderr
    assert f"{hub.endpoint}/settings/tokens" in expired.stderr
    assert bad not in expired.stdout + expired.stderr
    assert "Traceback" not in expired.stderr
    assert hub.repos == {}


def test_dry_run_shows_every_file_and_field_and_asks_no_hub(
    hub: LocalHub, staged: Path, tmp_path: Path
) -> None:
    arguments = ["push", staged, REPO, "--license", "CC-BY-4.0", "--dry-run", "-q"]
    text = srmri(hub, tmp_path, *arguments, code=0).stdout
    document = json.loads(srmri(hub, tmp_path, *arguments, "--json", code=0).stdout)

    assert {f["path"] for f in document["files"]} == set(contents(staged))
    assert document["visibility"] == "private"
    assert document["metadata"]["configs"][0]["default"] is True
    for path in contents(staged):
        assert path in text
    for field in document["metadata"]:
        assert f"card        {field}: " in text
    assert hub.log == []


def test_public_has_to_be_confirmed(hub: LocalHub, staged: Path, tmp_path: Path) -> None:
    sign_in(tmp_path, CANARY)
    arguments: list[Any] = ["push", staged, REPO, "--license", "CC-BY-4.0", "--public", "-q"]
    refused = srmri(hub, tmp_path, *arguments, code=2)
    assert f"--yes {REPO}" in refused.stderr
    assert hub.log == []
    report = srmri(hub, tmp_path, *arguments, "--yes", REPO, "--json", code=0)
    assert json.loads(report.stdout)["private"] is False
    assert not hub.repos[REPO].private

"""From runs to the hub and back: every pixel, table value and affine that readers get."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from export_runs import KEY, make_run
from local_hub import LocalHub, User
from staged_dataset import contents

PROJECT = Path(__file__).resolve().parents[1]
TOKEN = "hf_ReaderOfTheRoundTrip"
REPO = "ana/mouse-brains"

# Run in a process of its own: a fresh cache, and the endpoint set before anything is imported.
READER = """
import hashlib, json, sys
import numpy as np
from datasets import Image, load_dataset
from huggingface_hub import HfApi
from srmri_data.dataset import SliceDataset
import nibabel as nib

source, revision = sys.argv[1:]
options = {"revision": revision} if revision else {}

def digest(value):
    if isinstance(value, dict) and "bytes" in value:
        value = hashlib.sha256(value["bytes"]).hexdigest()
    return repr(value)

def rows(table):
    for name, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(name, Image(decode=False))
    return [{name: digest(value) for name, value in row.items()} for row in table]

def shown(table):
    images = [n for n, f in table.features.items() if isinstance(f, Image)]
    return [
        [row[n].mode, hashlib.sha256(np.asarray(row[n]).tobytes()).hexdigest()]
        for row in table for n in images
    ]

found = {}
for config in ("pairs", "slices_hr"):
    for streaming in (False, True):
        loaded = load_dataset(source, config, streaming=streaming, **options)
        for split, table in loaded.items():
            found[f"{config} {split} {streaming}"] = [rows(table), shown(table)]
default = load_dataset(source, split="train", **options)
found["default"] = rows(default)
arrays = {}
for config in ("pairs", "slices_hr"):
    dataset = SliceDataset.open(source, config=config, **options)
    arrays[config] = [
        {k: hashlib.sha256(v.tobytes()).hexdigest() if isinstance(v, np.ndarray) else v
         for k, v in item.items()}
        for item in (dataset[i] for i in range(len(dataset)))
    ]
found["arrays"] = arrays
if revision:
    api = HfApi()
    found["affines"] = {}
    for path in api.list_repo_files(source, repo_type="dataset", revision=revision):
        if path.endswith(".nii.gz"):
            image = nib.load(api.hf_hub_download(source, path, repo_type="dataset", **options))
            found["affines"][path] = [image.affine.tolist(), image.dataobj.slope,
                hashlib.sha256(np.asarray(image.dataobj).tobytes()).hexdigest()]
print(json.dumps(found))
"""


def environment(hub: LocalHub, home: Path) -> dict[str, str]:
    """Nothing of this machine's hub settings, and a cache that is not there yet."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return inherited | {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "USE_TORCH": "0",
        "PYTHONPATH": str(PROJECT),
    }


def python(*arguments: object, env: dict[str, str], cwd: Path) -> Any:
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@dataclass(frozen=True)
class Published:
    """A dataset on a hub, the folder it came from, and what the command said."""

    hub: LocalHub
    folder: Path
    said: dict[str, Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("publish")
    runs = [make_run(root, name, seed) for seed, name in enumerate(("ada", "bea", "cleo"))]
    (root / "key").write_text(KEY.hex())
    (root / "key").chmod(0o600)
    with LocalHub({TOKEN: User("ana")}, chunk_size=40_000) as hub:
        command = ["export-hf", *runs, "--out", root / "out", "--license", "CC-BY-4.0", "--json"]
        command += ["--key", root / "key", "--push", REPO, "--tag", "v1.2.3", "-q"]
        said = python(
            "-c",
            "from cli import main; main()",
            *command,
            env=environment(hub, root),
            cwd=root,
        )
        yield Published(hub, root / "out", said)


def test_the_hub_has_the_staged_bytes(published: Published) -> None:
    repo = published.hub.repos[REPO]
    assert repo.files("v1.2.3") == repo.files() == contents(published.folder)
    assert repo.private
    report = published.said["published"]
    assert (report["repo"], report["tag"], report["private"]) == (REPO, "v1.2.3", True)
    assert f'load_dataset("{REPO}", revision="v1.2.3")' in repo.files()["README.md"].decode()


def test_readers_get_what_was_staged(published: Published, tmp_path: Path) -> None:
    env = environment(published.hub, tmp_path)
    served = python("-c", READER, REPO, "v1.2.3", env=env, cwd=tmp_path)
    (tmp_path / "local").mkdir()
    local = python(
        "-c",
        READER,
        published.folder,
        "",
        env=environment(published.hub, tmp_path / "local"),
        cwd=tmp_path,
    )

    affines = served.pop("affines")
    assert served == local
    assert served["default"] == served["pairs train False"][0]
    tables = [key.rsplit(" ", 1)[0] for key in served if key.endswith("False")]
    assert len(tables) >= 4
    for table in tables:
        assert served[f"{table} False"] == served[f"{table} True"]
        config, split = table.split()
        assert served[f"{table} False"][0] == written(published.folder, config, split)
        modes = {mode for mode, _ in served[f"{table} False"][1]}
        assert "I;16" in modes

    volumes = sorted(published.folder.rglob("*.nii.gz"))
    assert len(affines) == len(volumes) > 0
    for path in volumes:
        image = nib.load(path)
        affine, slope, voxels = affines[path.relative_to(published.folder).as_posix()]
        assert np.array_equal(image.affine, affine)
        assert image.dataobj.slope == slope
        assert hashlib.sha256(np.asarray(image.dataobj).tobytes()).hexdigest() == voxels


def written(folder: Path, config: str, split: str) -> list[dict[str, str]]:
    """The rows of the staged Parquet files, read without `datasets`; images as their SHA-256."""
    files = sorted((folder / "data" / config).glob(f"{split}-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [{name: digest(value) for name, value in row.items()} for row in rows]


def digest(value: Any) -> str:
    """A value as the reader shows it: images by their bytes, the rest as Python writes it."""
    if isinstance(value, dict) and "bytes" in value:
        value = hashlib.sha256(value["bytes"]).hexdigest()
    return repr(value)


def test_pushing_the_folder_again_sends_nothing(published: Published, tmp_path: Path) -> None:
    published.hub.log.clear()
    command = ["push", published.folder, REPO, "--license", "CC-BY-4.0", "--json", "-q"]
    report = python(
        "-c",
        "from cli import main; main()",
        *command,
        env=environment(published.hub, tmp_path),
        cwd=tmp_path,
    )
    assert report["sent"] == 0
    assert report["tag"] == "v1.2.3"
    assert published.hub.sent() == {}

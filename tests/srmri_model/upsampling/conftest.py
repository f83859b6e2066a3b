"""One thread, and a tiny checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import upsample_runs


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Other numbers of threads give other last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tells nothing of its training but v(σ)."""
    return upsample_runs.write_checkpoint(tmp_path_factory.mktemp("model") / "m.safetensors")

"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans beside the checkout; the test is skipped where they are absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not (folder / "bruker").is_dir():
        pytest.skip(f"real scans are not available ({folder} is absent)")
    return folder

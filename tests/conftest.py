"""Fixtures every test may use."""

from __future__ import annotations

import locale
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


# What a library may change for the whole process, and the tests after it would have to live with.
CHARACTERS = locale.setlocale(locale.LC_CTYPE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give every test the locale and the arithmetic that the process began with."""
    locale.setlocale(locale.LC_CTYPE, CHARACTERS)
    if "torch" in sys.modules:
        # Training flushes denormals; nothing else may.
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real scans beside the checkout; the test is skipped where they are absent."""
    folder = PROJECT.parent / "shared" / "data"
    if not (folder / "bruker").is_dir():
        pytest.skip(f"real scans are not available ({folder} is absent)")
    return folder


@dataclass(frozen=True)
class TinyPair:
    """Two ParaVision studies of the phantom, LR moved and noisy, with its truth."""

    low: Path
    high: Path
    truth: Path


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    """A pair of small studies; session-wide, so tests must not change it."""
    from srmri_data import ingest
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain
    from srmri_data.simulate import SimulationConfig, run_simulate

    root = tmp_path_factory.mktemp("tiny")
    brain = mouse_brain((80, 120, 50), 0.15, noise=0.04)
    high = write_paravision_study(brain, root / "hr_study", subject_id="tiny-mouse")
    (record,) = ingest.discover(high)
    config = SimulationConfig(
        factor=(2.0, 2.0, 2.0), shift_um=(40.0, 200.0, -60.0), tilt_deg=(0.5, 0.0, -0.5),
        snr=25, seed=2,
    )  # fmt: skip
    made = run_simulate(ingest.load(record), config, root / "lr_study", format="paravision")
    return TinyPair(Path(made["low_res"]), high, Path(made["truth"]))

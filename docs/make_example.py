"""Redraw the example run in ``pairing_reports/example`` and the pictures of the README.

Run from the project's root: ``make docs``. The pictures need Chromium; without it only the run
is redrawn. The studies are simulated in a temporary folder: they can be made again at any time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from srmri_data import ingest
from srmri_data.formats.paravision_writer import write_paravision_study
from srmri_data.pairing import run_pairing
from srmri_data.phantom import mouse_brain
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.simulate import SimulationConfig, read_truth, run_simulate
from srmri_data.slices import Trim

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "pairing_reports" / "example"
MOTION = SimulationConfig(
    factor=(2.0, 2.0, 2.0),
    shift_um=(120.0, 170.0, -80.0),
    tilt_deg=(0.8, -0.5, 0.6),
    snr=20.0,
    bias=0.05,
    seed=1,
)


def draw_example() -> None:
    """Pair a small phantom; a relative path keeps the machine's name out of the files."""
    brain = mouse_brain((128, 180, 76), 0.1, noise=0.04)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        high = write_paravision_study(brain, Path("hr_study"), subject_id="example-mouse")
        (record,) = ingest.discover(high)
        made = run_simulate(ingest.load(record), MOTION, Path("lr_study"), format="paravision")
        plan = plan_pairing(
            *find_scans(ScanRequest(Path("lr_study")), ScanRequest(Path("hr_study"))),
            PairingConfig(trim=Trim(0, "slices")),
        )
        command = "srmri pair --lr lr_study --hr hr_study --trim 0 --truth lr_study/truth.json"
        run_pairing(
            plan,
            Path("example"),
            truth=read_truth(Path(made["truth"])),
            command=[*command.split(), "--out", "example"],
        )
        shutil.rmtree(EXAMPLE, ignore_errors=True)
        shutil.copytree("example", EXAMPLE)
        os.chdir(ROOT)


def take_pictures() -> None:
    """Photograph the report's first screen, light and dark."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium here: the pictures were left as they are")
        return
    for scheme, number in (("light", 1), ("dark", 0)):
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update",
                    "--disable-sync", f"--user-data-dir={profile}", "--hide-scrollbars",
                    "--window-size=1240,1500", f"--blink-settings=preferredColorScheme={number}",
                    f"--screenshot={ROOT / 'docs' / 'images' / f'report-{scheme}.png'}",
                    (EXAMPLE / "index.html").as_uri(),
                ],
                check=True,
                capture_output=True,
            )  # fmt: skip


if __name__ == "__main__":
    draw_example()
    take_pictures()

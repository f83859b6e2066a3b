"""`srmri demo`: the whole way on the built-in mouse brain, as a new user would go it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srmri_data import ingest
from srmri_data.errors import UsageError
from srmri_data.pairing import run_pairing
from srmri_data.planning import PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.simulate import SimulationConfig, read_truth, run_simulate

# The paper's field of view at half its resolution: HR 50 µm, LR 100 µm.
_SHAPE = (256, 360, 152)
_SPACING = 0.05
# Noise of the HR study, relative to the mean tissue: SNR 25.
_NOISE = 0.04
_SUBJECT = "demo-mouse"
_MOTION = SimulationConfig(
    factor=(2.0, 2.0, 2.0),
    shift_um=(60.0, 85.0, -40.0),
    tilt_deg=(0.8, -0.5, 0.6),
    snr=20.0,
    bias=0.05,
    seed=1,
)


def run_demo(
    out: Path, *, force: bool = False, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Simulate two ParaVision studies of one animal, inspect them, pair them, report.

    Parameters
    ----------
    out : Path
        Folder to create: ``hr_study``, ``lr_study`` and the run folder ``pairs``.
    force : bool
        Replace an earlier demo.
    progress : callable
        Called as ``progress(stage, done, total)``.

    Returns
    -------
    dict
        ``run``, ``inspected`` (scans found in both studies) and ``summary``.

    Raises
    ------
    UsageError
        If `out` exists and is not an earlier demo, or `force` is not given.
    """
    from srmri_data.formats.paravision_writer import write_paravision_study
    from srmri_data.phantom import mouse_brain

    if out.exists() and any(out.iterdir()):
        if not (force and (out / "hr_study" / "subject").is_file()):
            raise UsageError(f"{out} exists already", hint="choose another --out, or add --force")
        shutil.rmtree(out)
    progress("drawing the brain", 0, 1)
    brain = mouse_brain(_SHAPE, _SPACING, noise=_NOISE)
    progress("drawing the brain", 1, 1)
    progress("writing studies", 0, 2)
    high_study = write_paravision_study(brain, out / "hr_study", subject_id=_SUBJECT)
    progress("writing studies", 1, 2)
    (high_record,) = ingest.discover(high_study)
    simulated = run_simulate(
        ingest.load(high_record), _MOTION, out / "lr_study", format="paravision"
    )
    progress("writing studies", 2, 2)
    low_study = Path(simulated["low_res"])
    inspected = [
        record.to_json() for study in (low_study, high_study) for record in ingest.discover(study)
    ]
    plan = plan_pairing(
        *find_scans(ScanRequest(low_study), ScanRequest(high_study)), PairingConfig()
    )
    run = out / "pairs"
    summary = run_pairing(
        plan,
        run,
        truth=read_truth(Path(simulated["truth"])),
        command=["srmri", "demo"],
        progress=progress,
    )
    return {"run": str(run), "inspected": inspected, "summary": summary}

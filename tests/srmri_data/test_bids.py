"""A BIDS export is valid by BIDS's own validator, in its units, and holds the scans' voxels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from export_runs import KEY, make_run, study

from srmri_data import ingest
from srmri_data.bids import bids_names, write_bids
from srmri_data.deid import Pseudonyms
from srmri_data.errors import UsageError
from srmri_data.export import ExportConfig, plan_export
from srmri_data.safe_io import read_json
from srmri_data.slices import Trim

NAMES = Pseudonyms(KEY)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, name, seed) for seed, name in enumerate(("ada", "bea"))]


def plan(runs, **settings):
    settings = {"species": "Mus musculus", "license": "CC-BY-4.0", **settings}
    return plan_export(runs, config=ExportConfig(**settings), pseudonyms=NAMES)


def validate(folder: Path) -> list[dict]:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    found = validator if validator.exists() else shutil.which("bids-validator-deno")
    if found is None:
        pytest.skip("bids-validator-deno is not installed")
    issues = []
    # One after the other: with --recursive the validator does not see a nested .bidsignore.
    for dataset in (folder, folder / "derivatives" / "srmri"):
        done = subprocess.run(
            [found, dataset, "--format", "json"], capture_output=True, check=False
        )
        issues += json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


@pytest.mark.parametrize("dates", ["drop", "shift"])
def test_the_validator_finds_no_error(runs, tmp_path, dates):
    extra = study(tmp_path / "cleo", "cleo", 7) / "1"
    write_bids(plan(runs, hr_only=(extra,), dates=dates), tmp_path / "bids")
    assert validate(tmp_path / "bids") == []
    times = sorted(p.name for p in (tmp_path / "bids").glob("sub-*/ses-*/*_scans.tsv"))
    assert len(times) == (3 if dates == "shift" else 0)


def test_the_validator_would_find_one(runs, tmp_path):
    """Control: a sidecar in milliseconds and a misplaced file are errors, in both datasets."""
    write_bids(plan(runs), tmp_path / "bids")
    (sidecar, *_) = (tmp_path / "bids").glob("sub-*/ses-*/anat/*.json")
    sidecar.write_text(json.dumps({"EchoTime": "5 ms"}))
    (tmp_path / "bids" / "derivatives" / "srmri" / "stray.nii.gz").write_bytes(b"x")
    found = validate(tmp_path / "bids")
    assert any(sidecar.name.split(".")[0] in issue["location"] for issue in found)
    assert any("stray" in issue["location"] for issue in found)


def test_scans_and_units(runs, tmp_path):
    result = write_bids(plan(runs), tmp_path / "bids")
    assert (result["subjects"], result["scans"]) == (2, 4)
    subject = NAMES.subject("ada")
    stem = f"sub-{subject}/ses-01/anat/sub-{subject}_ses-01_acq"
    for micron, number, columns in (("100", "1", 28), ("200", "2", 14)):
        scan = ingest.load(ingest.discover(runs[0].parent / "ada" / number)[0])
        image = nib.load(tmp_path / "bids" / f"{stem}-{micron}um_T2starw.nii.gz")
        np.testing.assert_allclose(image.get_fdata(), scan.data, rtol=1e-6, atol=1e-3)
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-6)
        assert read_json(tmp_path / "bids" / f"{stem}-{micron}um_T2starw.json") == {
            "RepetitionTimeExcitation": 0.1,
            "EchoTime": 0.005,
            "FlipAngle": 45.0,
            "MagneticFieldStrength": 9.4,
            "PixelBandwidth": 125000 / columns,
            "PulseSequenceType": "FLASH",
            "MRAcquisitionType": "3D",
            "Manufacturer": "Bruker",
        }
    table = pd.read_csv(tmp_path / "bids" / "participants.tsv", sep="\t")
    assert table["species"].tolist() == ["Mus musculus"] * 2
    derived = tmp_path / "bids" / "derivatives" / "srmri" / f"{stem}-200um"
    pairs = pd.read_csv(f"{derived}_desc-coronal_pairs.tsv", sep="\t")
    assert len(pairs) == len(plan(runs[:1]).runs[0].chosen)
    aligned = nib.load(f"{derived}_space-lowrescoronal_desc-aligned_T2starw.nii.gz")
    original = nib.load(runs[0] / "hr_aligned.nii.gz")
    np.testing.assert_array_equal(aligned.get_fdata(), original.get_fdata())


def test_an_unknown_contrast_is_asked_for(tmp_path):
    place = study(tmp_path / "ada", "ada", 0)
    for visu in place.rglob("visu_pars"):
        visu.write_text(visu.read_text().replace("Bruker:FLASH", "Bruker:annSpecial"))
    planned = plan([], hr_only=(place / "1",), trim=Trim(2, "slices"))
    with pytest.raises(UsageError, match="contrast"):
        bids_names(planned)
    (name,) = bids_names(planned, suffix="T1w").values()
    assert name.endswith("_acq-100um_T1w")

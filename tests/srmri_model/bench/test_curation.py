"""The study of pairing trains on the pairs it says, and starts nothing twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli import app
from srmri_data.errors import UsageError, WeightsError
from srmri_data.formats.nifti_writer import write_nifti
from srmri_data.phantom import mouse_brain
from srmri_data.voters import trunk_source
from srmri_model.bench.curation import as_csv, as_markdown, run_curation
from srmri_model.bench.curation_pairs import (
    SOURCES,
    CurationConfig,
    Gathered,
    PairedSlices,
    Scanned,
)
from srmri_model.operators import make_operator
from srmri_model.training.slices import cache_volumes

CONFIG = CurationConfig(
    steps=3, animals=1, test_animals=1, test_slices=2, n_starts=1, voters=("pca", "ssim"),
    snr=60.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brains")
    for animal in range(2):
        brain = mouse_brain((72, 96, 44), 0.17, animal=animal)
        write_nifti(folder / f"brain{animal}.nii.gz", np.asarray(brain.data), brain.affine)
    return folder


@pytest.fixture(scope="module")
def scanned(brains, tmp_path_factory):
    volume = cache_volumes([brains / "brain0.nii.gz"], tmp_path_factory.mktemp("cache"))[0]
    return Scanned(volume, CONFIG, 0, moves=True)


def misfit(pairs: PairedSlices) -> float:
    """How far LR is from HR at LR's resolution, in the plane; small where they belong together."""
    operator = make_operator("kspace", pairs.high_res.shape[1:], 2)
    seen = operator.forward(torch.from_numpy(pairs.high_res)).numpy()
    inside = operator.forward(torch.from_numpy(pairs.foreground.astype(np.float32))).numpy() > 0.9
    return float(np.sqrt(np.mean((seen - pairs.low_res)[inside] ** 2)))


def test_pairs_by_geometry_are_those_of_the_truth_and_better_than_the_papers(scanned):
    truth, geometry, paper = (scanned.examples(name) for name in ("truth", "geometry", "paper"))
    for pairs in (truth, geometry, paper):
        assert pairs.high_res.shape[1:] == tuple(2 * n for n in pairs.low_res.shape[1:])
        assert len(pairs.low_res) == len(pairs.high_res) == len(pairs.slices) > 0
    assert truth.exact == 1
    assert geometry.exact > 0.9
    assert geometry.misplaced < 0.3
    assert misfit(geometry) < 1.2 * misfit(truth)
    # The animal has moved within the plane, and the paper's slices stay where they were.
    assert paper.misplaced > 0.5
    assert misfit(paper) > 1.5 * misfit(truth)


def test_the_papers_pairs_are_whole_hr_slices(scanned):
    pairs = scanned.examples("paper")
    stack = np.asarray(scanned.high.data).sum()
    assert stack > 0
    units = pairs.high_res - np.float32(pairs.no_signal)
    # Coronal images show i along columns and k, downwards, along rows.
    slices = np.asarray(scanned.high.data).transpose(1, 2, 0)[:, ::-1]
    for image in units[:3]:
        assert np.abs(slices - image).max(axis=(1, 2)).min() < 1e-4


def test_simulated_pairs_need_no_scan(scanned):
    pairs = scanned.examples("bicubic")
    operator = make_operator("bicubic", pairs.high_res.shape[1:], 2)
    expected = operator.forward(torch.from_numpy(pairs.high_res)).numpy()
    np.testing.assert_allclose(pairs.low_res, expected, atol=1e-5)


def test_pairs_come_back_from_disk_and_are_handed_out(scanned, tmp_path):
    pairs = scanned.examples("truth")
    pairs.save(tmp_path / "pairs.npz")
    found = PairedSlices.load(tmp_path / "pairs.npz")
    assert found.no_signal == pairs.no_signal
    gathered = Gathered({"a": found, "b": found}, "coronal")
    assert len(gathered) == 2 * len(pairs.slices)
    assert gathered.subjects[0] == "a"
    assert gathered.subjects[-1] == "b"
    last = gathered[len(gathered) - 1]
    np.testing.assert_array_equal(last["low_res"], pairs.low_res[-1])
    assert last["slice_index"] == pairs.slices[-1]


def test_an_animal_that_stays_is_where_its_affine_says(brains, tmp_path):
    volume = cache_volumes([brains / "brain0.nii.gz"], tmp_path)[0]
    still = Scanned(volume, CONFIG, 0, moves=False).truth
    assert np.allclose(still.low_to_high[:3, :3], 2 * np.eye(3))
    assert np.allclose(still.low_to_high[:3, 3], 0.5)


@pytest.fixture(scope="module")
def studied(brains, tmp_path_factory):
    try:
        trunk_source(None)
    except WeightsError as error:
        pytest.skip(f"LPIPS has no trunk here: {error}")
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_curation([str(brains)], out, CONFIG)


def test_every_row_is_there_with_its_figures(studied):
    _, document = studied
    assert [row["name"] for row in document["rows"]] == ["interpolation", *SOURCES]
    for row in document["rows"]:
        assert row["psnr"] > 10
        assert 0 < row["ssim"] <= 1
        assert row["lpips"] > 0
    assert not set(document["animals"]) & set(document["judged"])
    json.dumps(document, allow_nan=False)
    table = as_markdown(document)
    assert table.count("\n| ") == 1 + len(document["rows"])
    assert as_csv(document).count("\n") == 1 + len(document["rows"])


def test_what_is_done_is_not_done_again(studied, brains):
    out, document = studied
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*") if path.suffix != ".npy"}
    lost = out / "scores" / next(iter(p.name for p in (out / "scores").glob("*-paper.json")))
    lost.unlink()
    assert run_curation([str(brains)], out, CONFIG) == document
    for path, modified in kept.items():
        assert path.exists()
        assert (path.stat().st_mtime_ns == modified) == (path != lost)


def test_another_study_is_not_mixed_with_it(studied, brains):
    out, _ = studied
    with pytest.raises(UsageError, match="other settings or data"):
        run_curation([str(brains)], out, replace(CONFIG, seed=1))


def test_settings_that_can_not_be_are_refused():
    with pytest.raises(UsageError, match="choose one or more of paper, geometry"):
        CurationConfig(sources=("magic",))
    with pytest.raises(UsageError, match="steps is at least 1"):
        CurationConfig(steps=0)


def test_one_animal_is_not_enough(brains, tmp_path):
    with pytest.raises(UsageError, match="0 to judge on"):
        run_curation([str(brains / "brain0.nii.gz")], tmp_path, CONFIG)


def test_the_command_refuses_what_the_study_would(studied, brains):
    out, document = studied
    arguments = [
        "bench", "curation", "--data", str(brains), "--out", str(out), "--json", "-q",
    ]  # fmt: skip
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UsageError | SystemExit)
    assert "other settings or data" in (str(refused.exception) + refused.stderr)
    unknown = CliRunner().invoke(app, [*arguments, "--sources", "magic"])
    assert "choose one or more" in (str(unknown.exception) + unknown.stderr)
    assert (out / "curation.md").read_text(encoding="utf-8") == as_markdown(document)

"""The certificate: what is estimated, what is simulated from it, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from typer.testing import CliRunner

from cli import _print_certificate, app
from srmri_data.certify import (
    CASES,
    Estimate,
    Noise,
    _Simulator,
    certify,
    certify_pair,
    certify_run,
    estimate_noise,
    reliability,
    simple_factor,
)
from srmri_data.errors import InputError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.pairing import plan_of_run, run_pairing
from srmri_data.planning import Comparison, PairingConfig, ScanRequest, find_scans, plan_pairing
from srmri_data.rigid import Registration
from srmri_data.run_folder import open_run
from srmri_data.simulate import rigid_motion
from srmri_data.slices import Trim
from srmri_data.volumes import Provenance, Volume

CONFIG = PairingConfig(
    method="paper", voters=("pca", "ssim"), trim=Trim(0, "slices"), n_starts=1, tolerance=1.5
)


def ball(shape, level=100.0):
    """A smooth animal in the middle of air."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return (level * np.clip(4 * (0.7 - radius), 0, 1)).astype(np.float32)


def scanned(image, sigma, seed=0):
    noise = sigma * np.random.default_rng(seed).standard_normal((2, *image.shape))
    return np.hypot(image + noise[0], noise[1]).astype(np.float32)


@pytest.mark.parametrize("sigma", [2.0, 5.0, 15.0])
def test_noise_is_found(sigma):
    found = estimate_noise(scanned(ball((40, 50, 30)), sigma))
    assert found.sigma == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_noise_is_found_where_the_air_was_masked(sigma):
    image = ball((40, 50, 30))
    found = estimate_noise(np.where(image > 20, scanned(image, sigma), 0))
    assert found.source == "detail"
    assert found.sigma == pytest.approx(sigma, rel=0.15)
    assert found.snr == pytest.approx(image[image > 20].mean() / sigma, rel=0.2)


def test_ghosts_in_the_air_and_anatomy_do_not_pass_for_noise():
    image = ball((40, 50, 30))
    ghosts = estimate_noise(scanned(np.maximum(image, 6), 4.0))
    assert ghosts.source == "detail"
    assert ghosts.sigma == pytest.approx(4, rel=0.15)
    fine = 20 * np.random.default_rng(1).standard_normal(image.shape) * (image > 20)
    anatomy = estimate_noise(scanned(image + fine, 4.0))
    assert anatomy.source == "air"
    assert anatomy.sigma == pytest.approx(4, rel=0.15)


def test_noise_has_a_floor_and_needs_an_animal():
    assert estimate_noise(ball((40, 50, 30))).snr == pytest.approx(200)
    with pytest.raises(InputError, match="no animal"):
        estimate_noise(np.ones((5, 5, 5), dtype=np.float32))


def test_factors_are_simple_fractions_that_fit():
    assert simple_factor(2.0007, 64) == 2
    assert simple_factor(1.5, 64) == 1.5
    assert simple_factor(0.7, 64) == 1
    assert simple_factor(1.52, 200) == pytest.approx(1.52, rel=0.005)
    # No more HR voxels than there are.
    assert simple_factor(1.52, 3) == 1.5
    assert simple_factor(9.0, 4) == 4


def test_reliability_follows_its_definition():
    bins, ece = reliability(
        np.array([0.05, 0.72, 0.78, 1.0, 1.0]), np.array([False, True, False, True, True])
    )
    assert [b["n"] for b in bins] == [1, 2, 2]
    assert [b["share_right"] for b in bins] == [0, 0.5, 1]
    assert [b["confidence"] for b in bins] == pytest.approx([0.05, 0.75, 1])
    assert ece == pytest.approx((0.05 + 2 * 0.25) / 5)


def simulator(*, order=(0, 1, 2), length=1.0, shift_um=(0.0, 0.0, 0.0), factor=2):
    """A simulator for an LR scan stored in another order that shows a part of HR."""
    shape = (48, 64, 40)
    random = np.random.default_rng(3)
    anatomy = ndimage.gaussian_filter(random.standard_normal(shape), 2.5) * 400
    data = (ball(shape) * (1 + anatomy / anatomy.std() / 6)).astype(np.float32)
    high = Volume(
        np.asfortranarray(data), np.diag([0.1, 0.1, 0.1, 1.0]), Provenance(Path("hr"), "memory")
    )
    sizes = np.array(shape) // factor
    sizes[1] = round(sizes[1] * length)
    axes = np.diag([0.1 * factor] * 3 + [1.0])[:, [*order, 3]]
    # The headers are apart by the shift; the anatomy in view is HR's all the same.
    axes[:3, 3] -= np.array(shift_um) / 1000
    low = Volume(
        np.ones(tuple(sizes[list(order)]), dtype=np.float32), axes, Provenance(Path("lr"), "memory")
    )
    registration = Registration.of_headers(np.zeros(3))
    motion = rigid_motion(shift_um, (0.0, 0.0, 0.0), np.zeros(3))
    registration = replace(registration, matrix=motion, rigid=motion)
    plan = Comparison.of(low, high, replace(CONFIG, plane="acquired"))
    found = Estimate(registration, Noise(1.0, 100.0, "air"), ())
    return _Simulator(plan, found, high), high


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": (2, 0, 1)},
        {"length": 0.4},
        {"order": (1, 2, 0), "length": 0.4, "shift_um": (100.0, 150.0, -80.0)},
        # Too far for the animal to stay in a field of view that does not follow it.
        {"shift_um": (4000.0, 0.0, 0.0)},
    ],
)
def test_the_truth_is_true_of_the_simulated_scan(settings):
    maker, high = simulator(**settings)
    low, truth = maker.scan(CASES[0], seed=1, run=0)
    order = settings.get("order", (0, 1, 2))
    expected = np.array([24, 32, 20])[list(order)]
    if "length" in settings:
        expected[list(order).index(1)] = 0.4 * 32
    assert low.shape == pytest.approx(tuple(expected), abs=2)
    blurred = ndimage.gaussian_filter(high.data, 0.8)
    places = apply_affine(truth.low_to_high, np.argwhere(np.ones(low.shape)))
    there = ndimage.map_coordinates(blurred, places.T, order=1).reshape(low.shape)
    assert np.corrcoef(there.ravel(), low.data.ravel())[0, 1] > 0.985
    # Control: one LR voxel further it does not fit.
    aside = ndimage.map_coordinates(blurred, places.T + 2, order=1).reshape(low.shape)
    assert np.corrcoef(aside.ravel(), low.data.ravel())[0, 1] < 0.985


def test_cases_differ_by_size_alone_and_repeat():
    maker, _ = simulator(shift_um=(60.0, 0.0, 80.0))
    (low, once), (again, _), (_, twice), (_, other) = (
        maker.scan(case, 1, run) for case, run in zip(
            (CASES[0], CASES[0], CASES[1], CASES[0]), (0, 0, 0, 1), strict=True
        )
    )  # fmt: skip
    np.testing.assert_array_equal(low.data, again.data)
    assert np.linalg.norm(once.config.shift_um) == pytest.approx(100)
    np.testing.assert_allclose(twice.config.shift_um, 2 * np.array(once.config.shift_um))
    assert other.config.shift_um != once.config.shift_um
    noisy = maker.scan(CASES[2], 1, 0)[1]
    assert noisy.noise_sigma == pytest.approx(2 * once.noise_sigma)


@pytest.fixture(scope="module")
def certified(tiny_pair, tmp_path_factory):
    """A run by the paper's vote, certified with one scan of one case."""
    out = tmp_path_factory.mktemp("certify") / "run"
    plan = plan_pairing(
        *find_scans(ScanRequest(tiny_pair.low), ScanRequest(tiny_pair.high)), CONFIG
    )
    run_pairing(plan, out)
    (out / "index.html").write_text("old", encoding="utf-8")
    return out, certify_run(out, n_runs=1, seed=4, cases=CASES[:1])


def test_certificate_goes_into_the_run_folder_and_its_report(certified):
    out, certificate = certified
    assert json.loads((out / "certificate.json").read_text(encoding="utf-8")) == certificate
    assert len((out / "index.html").read_text(encoding="utf-8")) > 1000
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    recorded = open_run(out).provenance["sources"]["hr"]["files"]
    assert certificate["simulated_from"]["files"] == recorded
    assert not Path(certificate["simulated_from"]["path"]).is_absolute()


def test_certificate_knows_the_pair_it_was_made_for(certified):
    _, certificate = certified
    # What `tiny_pair` was made with.
    motion = certificate["motion"]
    assert np.linalg.norm(motion["shift_um"]) == pytest.approx(
        np.linalg.norm([40, 200, 60]), abs=30
    )
    assert np.linalg.norm(motion["tilt_deg"]) == pytest.approx(np.sqrt(0.5), abs=0.2)
    # HR's own noise is in LR, its air is not empty: more noise than the 25 that was asked for.
    assert 17 < certificate["snr"] < 25
    assert certificate["factor"] == [2, 2, 2]
    assert certificate["tolerance"] == 1.5


def test_certificate_counts_what_was_paired(certified):
    geometry, paper = certified[1]["cases"]
    assert (geometry["method"], paper["method"]) == ("geometry", "paper")
    assert geometry["name"] == "as-yours"
    assert geometry["exact"] > 0.95 > paper["exact"]
    assert geometry["wrongly_accepted"] == geometry["blunders"] == 0
    for row in (geometry, paper):
        assert row["n_slices"] == sum(b["n"] for b in certified[1]["reliability"])
        assert 0 <= row["accepted"] <= 1
        assert row["mae_um"] == pytest.approx(150 * row["mae_slices"])
        assert row["p95_um"] == pytest.approx(150 * row["p95_slices"])


def test_a_run_brings_all_of_its_settings(certified):
    assert plan_of_run(open_run(certified[0])).config == CONFIG


def refused(*arguments):
    result = CliRunner().invoke(app, ["certify", *(str(argument) for argument in arguments)])
    assert result.exit_code == 2
    return result.stderr


def test_what_does_not_fit_together_is_refused_at_once(certified, tiny_pair, tmp_path):
    run, _ = certified
    before = (run / "certificate.json").read_bytes()
    pair = ["--lr", tiny_pair.low, "--hr", tiny_pair.high, "--trim", "0", "--voters", "pca"]
    assert "leave out --plane" in refused(run, "--plane", "axial")
    assert "leave out --lr" in refused(run, "--lr", tiny_pair.low)
    assert "--sources" in refused(*pair, "--sources", tmp_path)
    assert "both --lr and --hr" in refused("--lr", tiny_pair.low)
    assert "is a run folder" in refused(*pair, "--out", run, "--force")
    (tmp_path / "certificate.json").write_text("{}", encoding="utf-8")
    assert "exists already" in refused(*pair, "--out", tmp_path)
    plan = plan_of_run(open_run(run))
    with pytest.raises(UsageError, match="at least one run"):
        certify(plan, tmp_path, n_runs=0)
    with pytest.raises(UsageError, match="a file"):
        certify_pair(plan, tmp_path / "certificate.json")
    assert (run / "certificate.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.json"]


def test_a_stopped_certificate_leaves_nothing(certified, tmp_path):
    def stop(stage, done, total):
        if stage == "registering":
            raise KeyboardInterrupt

    out = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt):
        certify_pair(plan_of_run(open_run(certified[0])), out, progress=stop)
    assert not out.exists()


def test_the_terminal_shows_a_table(certified, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    _print_certificate(certified[1], Path("certificate.json"))
    shown = capsys.readouterr().out
    assert "as yours" in shown
    assert "paper's vote" in shown
    assert "µm)" in shown
    assert "…" not in shown
    assert "expected calibration error" in shown

"""The command as a user runs it: what it writes, refuses and warns of."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner
from upsample_runs import SIGMAS, ball, plan, scan, write_checkpoint

from cli import app
from srmri_data.errors import InputError
from srmri_model.training.domain import judge_residuals
from srmri_model.upsample import DISCLAIMER, run_upsample
from srmri_model.upsampling.measure import measure

KEYS = {
    "sampler", "steps", "nfe", "nbe", "seconds", "seed", "sigma_y", "grid", "chi2",
    "weights_sha256", "warnings", "operator", "factors", "samples", "estimate", "versions",
}  # fmt: skip
FAST = ["--steps", "2", "--noise", "0.05", "--device", "cpu", "-q"]
PROJECT = Path(__file__).resolve().parents[3]


def srmri(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    return scan(tmp_path_factory.mktemp("lr") / "lr.nii.gz", ball((12, 6, 10)))


@pytest.fixture(scope="module")
def written(low, weights, tmp_path_factory):
    """One run with everything it can write; and what it printed."""
    out = tmp_path_factory.mktemp("out")
    arguments = ["upsample", low, out / "sr.nii.gz", "--weights", weights, "--samples", 4]
    return out, srmri(*arguments, "--json", *FAST)


def test_a_run_writes_volume_spread_residual_sidecar_and_page(written, low):
    out, result = written
    assert {path.name for path in out.iterdir()} == {
        "sr.nii.gz", "sr_std.nii.gz", "sr_residual.nii.gz", "sr.json", "sr.html",
    }  # fmt: skip
    sidecar = json.loads((out / "sr.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == sidecar
    assert sidecar.keys() >= KEYS
    assert (sidecar["sampler"], sidecar["steps"], sidecar["nfe"], sidecar["nbe"]) == (
        "fast", 2, 2, 0,
    )  # fmt: skip
    assert sidecar["sigma_y"] == 0.05
    assert re.fullmatch("[0-9a-f]{64}", sidecar["weights_sha256"])
    low_image, high = nib.load(low), nib.load(out / "sr.nii.gz")
    assert high.shape == (24, 6, 20)
    for name in ("sr.nii.gz", "sr_std.nii.gz"):
        np.testing.assert_allclose(nib.load(out / name).affine, high.affine)
    np.testing.assert_allclose(nib.load(out / "sr_residual.nii.gz").affine, low_image.affine)
    centres = [
        image.affine @ [*(n / 2 - 0.5 for n in image.shape), 1] for image in (high, low_image)
    ]
    np.testing.assert_allclose(*centres, atol=1e-5)
    assert float(nib.load(out / "sr_std.nii.gz").get_fdata().min()) >= 0


def test_every_volume_says_what_it_may_be_used_for(written):
    out, result = written
    for path in out.glob("*.nii.gz"):
        assert bytes(nib.load(path).header["descrip"]).rstrip(b"\0").decode() == DISCLAIMER
    assert "research use only" in DISCLAIMER
    assert json.loads(result.stdout)["use"] == "research use only"
    assert (out / "sr.html").read_text(encoding="utf-8").lower().count("research use only") >= 2


def test_the_page_is_whole_and_loads_nothing(written):
    out, result = written
    page = (out / "sr.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "<script" not in page
    for text in ("Coronal", "Axial", "Sagittal", "Residual", "Std", "Sharpness", "χ²/m"):
        assert text in page
    for warning in json.loads(result.stdout)["warnings"]:
        assert warning.replace("'", "&#39;") in page


def test_a_checkpoint_that_tells_nothing_is_warned_of(written):
    _, result = written
    text = " ".join(result.stderr.split())
    assert "whether it fits this volume could not be checked" in text
    assert "LR's own range was taken for HR's" in text


def test_the_same_command_in_words(low, weights, tmp_path):
    result = srmri("upsample", low, tmp_path / "sr", "--weights", weights, *FAST)
    assert "24 × 6 × 20 voxels" in result.stdout
    assert "research use only" in result.stdout


def test_a_dry_run_estimates_and_writes_nothing(low, weights, tmp_path):
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, "--dry-run", *FAST]
    found = json.loads(srmri(*arguments, "--json").stdout)
    assert found["evaluations"] == 6 * 2
    assert found["high_shape"] == [24, 6, 20]
    assert found["seconds"] > 0
    assert 0 < found["memory_bytes"] < 2e9
    assert "evaluations" in srmri(*arguments).stdout
    volume = json.loads(srmri(*arguments, "--planes", "3", "--json").stdout)
    # Two evaluations: coronal, of 12 slices, and axial, of 20.
    assert volume["evaluations"] == 12 + 20
    assert list(tmp_path.iterdir()) == []


def test_a_slice_too_large_for_memory_is_seen_in_tiles(low, weights, tmp_path, monkeypatch):
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, "--dry-run", "--json"]
    factor = ["--factor", "12", *FAST]
    assert json.loads(srmri(*arguments, *factor).stdout)["tile"] == 0
    # Of a machine with little memory: enough for the volume, not for the network.
    monkeypatch.setattr("srmri_model.upsampling.draw.free_bytes", lambda _device: 5_000_000)
    found = json.loads(srmri(*arguments, *factor).stdout)
    assert 96 <= found["tile"] < 120


REFUSED = {
    "no such scan": (["missing.nii.gz", "sr"], 3, "no such file"),
    "no such weights": (["LOW", "sr", "--weights", "missing.safetensors"], 3, "no such file"),
    "voxels the bundled model does not know": (["LOW", "sr"], 3, "was trained on 150 µm"),
    "weights that are none": (["LOW", "sr", "--weights", "LOW"], 3, "not a safetensors file"),
    "a factor below one": (["LOW", "sr", "--factor", "0.5"], 2, "at least 1"),
    "a factor of one": (["LOW", "sr", "--factor", "1"], 2, "one of them above"),
    "a factor that is none": (["LOW", "sr", "--factor", "nan"], 2, "at least 1"),
    "finer slices": (["LOW", "sr", "--factor", "2,2,2"], 2, "makes no slices"),
    "another ending": (["LOW", "sr.nii"], 2, "written as .nii.gz"),
    "a folder": (["LOW", "."], 2, "is a folder"),
    "its own input": (["LOW", "LOW", "--force"], 2, "is an input"),
    "gradients of volumes": (
        ["LOW", "sr", "--planes", "3", "--sampler", "dps"], 2, "keeps no gradients",
    ),
    "correlated slices of volumes": (
        ["LOW", "sr", "--planes", "3", "--z-correlation", "0.5"], 2, "--z-correlation is about",
    ),
    "too much correlation": (["LOW", "sr", "--z-correlation", "1"], 2, "0 to 0.95"),
    "noise in other units": (["LOW", "sr", "--noise", "120"], 2, "for intensities in [0, 1]"),
    "the mean of one": (["LOW", "sr", "--estimate", "mean"], 2, "--samples 2 or more"),
    "a width of truncation": (["LOW", "sr", "--width", "2"], 2, "--width belongs to"),
    "a wrong frame": (["LOW", "sr", "--lr-frame", "echo=2"], 2, "no frame group"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused_with_its_reason(name, low, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, code, reason = REFUSED[name]
    arguments = [str(low) if argument == "LOW" else argument for argument in arguments]
    if "--weights" not in arguments and "bundled" not in name:
        arguments += ["--weights", str(weights)]
    result = srmri("upsample", *arguments, code=code)
    assert reason in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no such scan", "weights that are none", "a factor of one"])
def test_bad_input_is_refused_before_torch_is_loaded(name, low, weights, tmp_path):
    (source, _, *options), code, _ = REFUSED[name]
    command = ["srmri", "upsample", str(low) if source == "LOW" else source, str(tmp_path / "sr")]
    command += [str(low) if option == "LOW" else option for option in options]
    if "--weights" not in options:
        command += ["--weights", str(weights)]
    call = (
        "import sys, atexit, cli\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.argv = {command!r}\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.strip() == "False"


def test_nothing_is_replaced_without_being_told(low, weights, tmp_path):
    (tmp_path / "sr.json").write_text("mine", encoding="utf-8")
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, *FAST]
    assert "sr.json exists" in srmri(*arguments, code=2).stderr
    assert (tmp_path / "sr.json").read_text(encoding="utf-8") == "mine"
    srmri(*arguments, "--force")
    assert json.loads((tmp_path / "sr.json").read_text(encoding="utf-8"))["steps"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: np.full_like(data, 7), "one single intensity"),
        (lambda data: np.where(data > 0.6, np.nan, data), "not finite numbers"),
    ],
)
def test_volumes_without_an_image_are_refused(change, reason, weights, tmp_path):
    path = scan(tmp_path / "lr.nii.gz", change(ball((10, 6, 8))))
    with pytest.raises(InputError, match=reason):
        run_upsample(plan(path, tmp_path / "sr", weights))
    assert {path.name for path in tmp_path.iterdir()} == {"lr.nii.gz"}


def test_settings_of_a_sampler_are_given_by_name(low, weights, tmp_path):
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, "--sampler", "paper"]
    done = srmri(*arguments, "--set", "k=3", "--set", "fusion=false", "--json", *FAST)
    sidecar = json.loads(done.stdout)
    assert sidecar["sampler_settings"]["k"] == 3
    assert sidecar["sampler_settings"]["fusion"] is False
    assert (sidecar["nfe"], sidecar["nbe"]) == (3, 0)
    for text, reason in (("speed=3", "has sigma_min"), ("k=two", "expected a value like 2")):
        failed = srmri(*arguments, "--set", text, "--force", *FAST, code=2)
        assert reason in " ".join(failed.stderr.split())


DOMAIN = {
    "spacing_mm": [0.05, 0.075],
    "range": {"2": [0.0, 0.9], "4": [0.0, 0.8]},
    "noise": 0.02,
    "residual": {"sigma": 0.2, "factors": {"1.5": [0.3], "2": [0.1, 0.2, 5.0]}},
}


def test_voxels_the_model_does_not_know_need_force(low, tmp_path):
    domain = {**DOMAIN, "spacing_mm": [0.02, 0.025]}
    weights = write_checkpoint(tmp_path / "m.safetensors", domain=domain)
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, *FAST]
    refused = " ".join(srmri(*arguments, code=3).stderr.split())
    assert "50 to 75 µm wide; the model was trained on 20 to 25 µm" in refused
    assert "--force goes on" in refused
    sidecar = json.loads(srmri(*arguments, "--force", "--json").stdout)
    assert any("trained on 20 to 25 µm" in text for text in sidecar["warnings"])


def test_an_image_the_model_does_not_know_needs_force(low, tmp_path):
    strange = {"sigma": 0.2, "factors": {"2": [0.001, 0.002]}}
    weights = write_checkpoint(tmp_path / "m.safetensors", domain={**DOMAIN, "residual": strange})
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, *FAST]
    assert "may be new to it" in " ".join(srmri(*arguments, code=3).stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    sidecar = json.loads(srmri(*arguments, "--force", "--json").stdout)
    assert any("may be new to it" in text for text in sidecar["warnings"])


def test_a_model_that_knows_such_images_says_nothing(low, tmp_path):
    weights = write_checkpoint(tmp_path / "m.safetensors", domain=DOMAIN)
    done = srmri("upsample", low, tmp_path / "sr", "--weights", weights, *FAST, "--json")
    sidecar = json.loads(done.stdout)
    assert not any("new to it" in text or "trained on" in text for text in sidecar["warnings"])
    assert sidecar["rician_remap"] == (sidecar["noise"]["source"] == "air")


@pytest.mark.parametrize(
    ("values", "warned", "refused"),
    [([0.2, 0.3], False, False), ([1.2], True, False), ([1.6, 1.7, 0.1], True, True), ([], 0, 0)],
)
def test_residuals_are_held_against_those_of_training(values, warned, refused):
    domain = {"residual": {"factors": {"2": [0.5, 1.0], "4": [5.0]}}}
    text, stop = judge_residuals(values, domain, [1.0, 2.0])
    assert (bool(text), stop) == (bool(warned), bool(refused))
    # At another factor LR looks otherwise.
    assert judge_residuals(values, domain, [3.9]) == ("", False)


def test_noise_that_contradicts_the_scan_is_warned_of(weights, tmp_path):
    data = ball((40, 24, 40), noise=0.03)
    path = scan(tmp_path / "lr.nii.gz", data)
    told = {}
    for name, noise in (("low", 0.004), ("right", 0.05), ("high", 0.4)):
        found = measure(plan(path, tmp_path / "sr", weights, noise=noise), data)
        told[name] = [text for text in found.warnings if "--noise" in text]
        assert found.sigma_y == noise
    assert len(told["low"]) == len(told["high"]) == 1
    assert told["right"] == []
    found = measure(plan(path, tmp_path / "sr", weights, noise=None), data)
    assert found.noise.source == "air"
    assert found.sigma_y == pytest.approx(0.03 / found.span, rel=0.1)
    # Without air the finest detail is all there is, and the user is told.
    found = measure(plan(path, tmp_path / "sr", weights, noise=None), np.where(data < 0.3, 0, data))
    assert found.noise.source == "detail"
    assert any("upper limit" in text for text in found.warnings)


def test_a_model_without_its_errors_is_used_with_another_sampler(low, tmp_path):
    table = {"sigmas": list(SIGMAS), "foreground": [None] * len(SIGMAS)}
    weights = write_checkpoint(tmp_path / "m.safetensors", noise_table=table)
    arguments = ["upsample", low, tmp_path / "sr", "--weights", weights, *FAST]
    assert "--sampler diffpir does without" in " ".join(srmri(*arguments, code=2).stderr.split())
    srmri(*arguments, "--sampler", "diffpir")


def test_paravision_goes_in(tiny_pair, weights, tmp_path):
    arguments = ["upsample", tiny_pair.low, tmp_path / "sr", "--weights", weights, "--dry-run"]
    found = json.loads(srmri(*arguments, "--planes", "3", "--json", *FAST).stdout)
    assert found["low_spacing"] == pytest.approx([0.3] * 3, abs=1e-6)
    assert found["high_spacing"] == pytest.approx([0.15] * 3, abs=1e-6)

"""Batches, interruptions and tiles change nothing; draws are draws from the posterior."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.fft import idctn
from upsample_runs import (
    ball,
    gaussian_scan,
    plan,
    prior_table,
    scan,
    stored,
    with_denoiser,
    write_checkpoint,
)

from srmri_data.errors import UsageError
from srmri_model.operators import make_operator
from srmri_model.samplers import ImageNoise
from srmri_model.testbed import GaussianPrior, exact_posterior
from srmri_model.upsample import as_stored, run_upsample
from srmri_model.upsampling import trust
from srmri_model.upsampling.denoising import Tiled, tile_starts
from srmri_model.upsampling.draw import Drawing, draw_volume, prepare
from srmri_model.upsampling.measure import measure
from srmri_model.upsampling.noise import SliceNoise, neighbour_weights
from srmri_model.upsampling.parts import Parts, kept_parts

WRITTEN = ("sr.nii.gz", "sr_std.nii.gz", "sr_residual.nii.gz")


@pytest.fixture(autouse=True)
def without_page(monkeypatch):
    """Drawing takes longer than all these volumes; test_command.py looks at the page."""
    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)


@pytest.fixture
def low(tmp_path):
    return scan(tmp_path / "lr.nii.gz", ball((8, 5, 7)))


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def test_noise_of_a_slice_does_not_depend_on_its_batch():
    together = SliceNoise(5, 1, [3, 4, 9], correlation=0.7)
    alone = SliceNoise(5, 1, [4], correlation=0.7)
    for shape in ((1, 4, 6), (1, 2, 3)):
        assert torch.equal(together(shape)[1:2], alone(shape))
    assert not torch.equal(alone((1, 4, 6)), SliceNoise(5, 2, [4], correlation=0.7)((1, 4, 6)))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_neighbours_have_the_correlation_that_was_asked_for(correlation):
    weights = np.array(neighbour_weights(correlation))
    assert weights @ weights == pytest.approx(1)
    assert weights[1:] @ weights[:-1] == pytest.approx(correlation, abs=1e-6)
    noise = SliceNoise(0, 0, [0, 1, 2], correlation=correlation)((1, 150, 150)).flatten(1)
    measured = torch.corrcoef(noise)
    assert float(measured[0, 1]) == pytest.approx(correlation, abs=0.03)
    assert float(measured[0, 2]) == pytest.approx(correlation**4, abs=0.06)
    assert noise.std(dim=1).numpy() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("planes", ["single", "3"])
def test_the_size_of_a_batch_changes_no_bit(planes, low, weights, tmp_path):
    for batch in (1, 3):
        made = plan(low, tmp_path / str(batch) / "sr", weights, planes=planes, batch=batch)
        run_upsample(made)
    one, three = (tmp_path / name / "sr.nii.gz" for name in "13")
    assert one.read_bytes() == three.read_bytes()


@pytest.mark.parametrize("planes", ["single", "3"])
def test_an_interrupted_run_goes_on_to_the_same_bits(planes, low, weights, tmp_path):
    settings = {"planes": planes, "samples": 4, "estimate": "mean"}
    whole = run_upsample(plan(low, tmp_path / "whole" / "sr", weights, **settings))
    calls, made = 0, plan(low, tmp_path / "stopped" / "sr", weights, **settings)

    def interrupt(stage, done, total):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_upsample(made, progress=interrupt)
    assert not made.paths["volume"].exists()
    assert list(made.work.glob("*.npz"))
    sidecar = run_upsample(plan(low, tmp_path / "stopped" / "sr", weights, **settings))
    assert outputs(tmp_path / "whole") == outputs(tmp_path / "stopped")
    assert not made.work.exists()
    differing = {name for name in whole if whole[name] != sidecar[name]}
    assert differing <= {"seconds"}


def test_tiles_are_kept_to_when_memory_has_changed(weights, tmp_path, monkeypatch):
    low = scan(tmp_path / "lr.nii.gz", ball((50, 2, 40)))
    made = plan(low, tmp_path / "sr", weights)
    monkeypatch.setattr("srmri_model.upsampling.draw.free_bytes", lambda _device: 2_000_000)

    def interrupt(stage, done, total):
        if made.work.is_dir() and list(made.work.glob("*.npz")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_upsample(made, progress=interrupt)
    monkeypatch.undo()
    monkeypatch.setattr("srmri_model.upsample.write_page", lambda *_arguments: None)
    assert 0 < run_upsample(plan(low, tmp_path / "sr", weights))["tile"] < 100
    assert run_upsample(plan(low, tmp_path / "sr", weights, force=True))["tile"] == 0


def test_finished_parts_are_taken_as_they_are(low, weights, tmp_path):
    made = plan(low, tmp_path / "sr", weights)
    drawing, _, _ = prepare(made, sigma_y=0.03)
    measured = np.full(made.low_shape, 0.5, dtype=np.float32)
    parts = Parts(tmp_path)
    parts.write("s0-2", np.full((14, 16), 7, dtype=np.float32))
    # Written by hand, so its counts are too.
    drawn = draw_volume(drawing, measured, 0, parts)
    assert (drawn[:, 2] == 7).all()
    assert (drawn[:, 3] != 7).all()
    assert np.array_equal(draw_volume(drawing, measured, 0, parts), drawn)


def test_a_damaged_part_is_made_again(tmp_path):
    parts = Parts(tmp_path)
    wanted = np.arange(6, dtype=np.float32)
    parts.write("a", wanted)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    assert np.array_equal(parts.read("a"), wanted)
    for damaged in (content[:-30], b"", bytes(len(content)), flipped(content)):
        (tmp_path / "a.npz").write_bytes(bytes(damaged))
        assert parts.read("a") is None


def flipped(content):
    changed = bytearray(content)
    changed[content.index(np.float32(4).tobytes())] ^= 1
    return changed


def test_parts_of_other_settings_are_not_mixed_in(tmp_path):
    folder = tmp_path / "sr.partial"

    def interrupted():
        with kept_parts(folder, {"seed": 1}) as parts:
            parts.write("a", np.zeros(3, dtype=np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(UsageError, match="other seed"), kept_parts(folder, {"seed": 2}):
        pass
    with kept_parts(folder, {"seed": 2}, anew=True) as parts:
        assert parts.read("a") is None
        with pytest.raises(UsageError, match="another process"), kept_parts(folder, {"seed": 2}):
            pass
    assert not folder.exists()


def test_arrays_that_belong_to_no_job_are_not_used(tmp_path):
    folder = tmp_path / "sr.partial"
    folder.mkdir()
    Parts(folder).write("a", np.zeros(3, dtype=np.float32))
    with kept_parts(folder, {"seed": 1}) as parts:
        assert parts.read("a") is None


class Together(Drawing):
    """As on a GPU: several slices at once."""

    at_once = 3


def test_slices_drawn_together_are_those_drawn_alone(low, weights, tmp_path):
    made = plan(low, tmp_path / "sr", weights, z_correlation=0.5)
    drawing, _, _ = prepare(made, sigma_y=0.03)
    measured = np.full(made.low_shape, 0.5, dtype=np.float32)
    folders = tmp_path / "alone", tmp_path / "together"
    alone = draw_volume(drawing, measured, 0, Parts(folders[0]))
    together = Together(**{f.name: getattr(drawing, f.name) for f in fields(drawing)})
    drawn = draw_volume(together, measured, 0, Parts(folders[1]))
    assert len(list(folders[1].glob("*.npz"))) == 5
    np.testing.assert_allclose(drawn, alone, atol=2e-6)


def test_seeds_differ_and_repeat(low, weights, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_upsample(plan(low, tmp_path / name / "sr", weights, seed=seed))
    a, b, c = ((tmp_path / name / "sr.nii.gz").read_bytes() for name in "abc")
    assert a == b != c


def blurred(x, sigma, plane=None):
    kernel = torch.ones(1, 1, 5, 5) / 25
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel)


def test_tiles_of_a_local_denoiser_are_the_whole():
    grid = torch.linspace(0, 6, 90)
    image = (grid.sin() * grid[:, None].cos())[None, None, :, :70]
    image = image + 0.05 * ImageNoise(0, [(0,)])((1, 90, 70))
    whole, tiled = blurred(image, 0.1), Tiled(blurred, 32)(image, 0.1)
    # Only at seams does a tile see its own edge, where it weighs least.
    assert float((tiled - whole).square().mean().sqrt()) < 0.002
    assert float((tiled - whole).abs().max()) < 0.02
    unblended = Tiled(blurred, 32, overlap=0)(image, 0.1)
    assert float((unblended - whole).abs().max()) > 0.02


def test_a_constant_stays_constant_in_tiles_and_all_tiles_have_one_size():
    seen = []

    def denoiser(x, sigma, plane=None):
        seen.append(tuple(x.shape))
        return x

    image = torch.full((2, 1, 75, 41), 3.0)
    torch.testing.assert_close(Tiled(denoiser, 24, 6)(image, 0.1), image)
    assert set(seen) == {(2, 1, 24, 24)}
    for size in range(20, 200, 7):
        starts = tile_starts(size, 24, 6)
        assert all(b - a <= 18 for a, b in itertools.pairwise(starts))
        assert starts[-1] + 24 >= size


def test_tiles_are_differentiable():
    image = torch.rand(1, 1, 40, 30, requires_grad=True)
    (gradient,) = torch.autograd.grad(Tiled(blurred, 16)(image, 0.1).sum(), image)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().min()) > 0


def test_tiling_changes_the_result_by_less_than_half_of_the_noise(weights, tmp_path):
    found = {}
    for tile in (0, 64):
        wide = scan(tmp_path / "wide.nii.gz", ball((44, 3, 40)))
        made = plan(wide, tmp_path / f"{tile}" / "sr", weights, tile=tile)
        sidecar = run_upsample(made)
        assert sidecar["tile"] == tile
        assert any("tiles" in text for text in sidecar["warnings"]) == (tile > 0)
        found[tile] = nib.load(made.paths["volume"]).get_fdata()
    span = sidecar["intensity"]["one"] - sidecar["intensity"]["zero"]
    difference = np.sqrt(np.mean((found[64] - found[0]) ** 2)) / span
    assert 0 < difference < 0.5 * sidecar["sigma_y"]


def as_prior(tmp_path, prior, n_slices, **settings):
    """Plan and drawing of LR from a prior, whose denoiser is exact; and the truth."""
    weights = write_checkpoint(tmp_path / "m.safetensors")
    sigma_y = settings.pop("sigma_y")
    scanned = {k: settings[k] for k in ("grid", "factor") if k in settings}
    low, truth, affine = gaussian_scan(tmp_path, prior, n_slices, sigma_y=sigma_y, **scanned)
    settings["factor"] = (scanned.get("factor", 2.0),)
    made = plan(low, tmp_path / "sr", weights, **{"steps": 20, **settings})
    made = with_denoiser(made, prior_table(prior))
    np.testing.assert_allclose(made.high_affine, affine, atol=1e-6)
    drawing, _, _ = prepare(made, sigma_y=sigma_y, denoiser=prior)
    return made, drawing, np.float32(nib.load(low).get_fdata()), truth


@pytest.mark.parametrize(("grid", "factor"), [("voxel-centre", 2.0), ("fourier", 1.5)])
def test_slices_of_a_gaussian_are_drawn_from_their_posterior(grid, factor, tmp_path):
    prior, sigma_y, k = GaussianPrior.natural((24, 24)), 0.03, 8
    made, drawing, low, truth = as_prior(
        tmp_path, prior, 6, sigma_y=sigma_y, grid=grid, factor=factor
    )
    samples = np.stack([draw_volume(drawing, low, n, Parts(tmp_path)) for n in range(k)])
    operator = make_operator("kspace", made.high_shape, made.factors, grid=grid)
    everywhere = np.ones(low.shape, dtype=bool)
    residual = operator.forward(torch.from_numpy(samples[0].copy())).numpy() - low
    assert trust.chi2_per_voxel(residual, sigma_y, everywhere) == pytest.approx(1, abs=0.12)
    posterior = exact_posterior(
        prior,
        make_operator("kspace", (24, 24), factor, grid=grid),
        torch.from_numpy(np.ascontiguousarray(low.transpose(1, 2, 0)))[:, None],
        sigma_y,
    )
    mean = stored(posterior.mean[:, 0].numpy())
    spread = float(posterior.covariance.diagonal().mean()) ** 0.5
    assert samples.std(axis=0, ddof=1).mean() == pytest.approx(spread, rel=0.1)
    # Everything is linear here, so what opposite draws err by cancels.
    pairs = samples.reshape(-1, 2, *samples.shape[1:]).mean(axis=1)
    assert pairs == pytest.approx(np.broadcast_to(pairs[0], pairs.shape), abs=1e-4)
    off = np.sqrt(np.mean((pairs[0] - mean) ** 2))
    assert off < 0.2 * spread
    inside = np.ones(truth.shape, dtype=bool)
    assert trust.coverage(samples, truth, inside, opposite=True) == pytest.approx(0.9, abs=0.03)
    assert trust.fit_std_scale(samples, truth, inside, opposite=True) == pytest.approx(1, abs=0.08)


def test_three_planes_agree_with_the_measurement_along_all_axes(tmp_path, weights):
    prior, truth = cube_of_slices(20)
    sigma_y, operator = 0.03, make_operator("kspace", (20, 20, 20), 2)
    low = operator.forward(truth)
    low = low + sigma_y * ImageNoise(5, [(0,)])(tuple(low.shape))[0]
    path = scan(tmp_path / "lr.nii.gz", low.numpy(), np.diag([0.2, 0.2, 0.2, 1.0]))
    made = plan(path, tmp_path / "sr", weights, planes="3", steps=21)
    made = with_denoiser(made, prior_table(prior))
    drawing, _, _ = prepare(made, sigma_y=sigma_y, denoiser=prior)
    drawn = draw_volume(drawing, low.numpy(), 0, Parts(tmp_path))
    residual = (operator.forward(torch.from_numpy(drawn)) - low).numpy()
    everywhere = np.ones(residual.shape, dtype=bool)
    assert trust.chi2_per_voxel(residual, sigma_y, everywhere) == pytest.approx(1, abs=0.15)
    # No axis is rougher or smoother than the truth is: interpolation has half of its steps.
    for axis in range(3):
        ratio = rms_step(drawn, axis) / rms_step(truth.numpy(), axis)
        assert ratio == pytest.approx(1, abs=0.1)
        assert rms_step(operator.up(low).numpy(), axis) < 0.9 * rms_step(truth.numpy(), axis)


def rms_step(volume, axis):
    return float(np.sqrt(np.square(np.diff(volume, axis=axis)).mean()))


def cube_of_slices(n):
    """A Gaussian volume, isotropic, and the exact prior of its slices."""
    k = np.arange(n)
    frequency = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    power = (1 + (frequency / 3) ** 2) ** -2.0
    power *= 0.2**2 * n**3 / power.sum()
    white = np.random.default_rng(0).standard_normal(power.shape)
    volume = 0.5 + idctn(np.sqrt(power) * white, norm="ortho")
    mean = torch.full((n, n), 0.5, dtype=torch.float64)
    # Every slice holds all frequencies along its normal, each with the n-th part of its power.
    prior = GaussianPrior(mean, torch.from_numpy(power.mean(axis=0)))
    return prior, torch.from_numpy(volume.astype(np.float32))


def test_noise_does_not_move_the_scale(weights, tmp_path):
    clean = 100 * ball((24, 24, 24), noise=0.0)
    domain = {"range": {"2": [0.0, 0.9]}, "spacing_mm": [0.01, 9.0], "noise": None}
    random, found = np.random.default_rng(2), {}
    for no_signal in (None, -0.1):
        for noise in (0.0, 5.0):
            real, imaginary = noise * random.standard_normal((2, *clean.shape))
            data = np.hypot(clean + real, imaginary).astype(np.float32)
            low = scan(tmp_path / f"{no_signal}-{noise}.nii.gz", data)
            made = plan(low, tmp_path / f"sr{no_signal}-{noise}", weights, noise=None)
            made = replace(made, metadata={"domain": {**domain, "no_signal": no_signal}})
            found[no_signal, noise] = measure(made, data)
    for measured in (found[-0.1, 0.0], found[-0.1, 5.0]):
        # No signal stays where the model has it.
        assert -measured.intensity.low / measured.span == pytest.approx(-0.1)
    assert found[-0.1, 5.0].span == pytest.approx(found[-0.1, 0.0].span, rel=0.15)
    off = abs(found[None, 5.0].intensity.low / found[None, 5.0].span)
    assert off > 0.1  # What the dark end of the tissue alone would say.
    # Magnitudes are taken for what they are, so air without signal is explained in full.
    noisy = found[-0.1, 5.0]
    assert noisy.no_signal == pytest.approx(-0.1)
    assert not noisy.remapped
    air = ~noisy.around_tissue
    assert noisy.volume[air].mean() > -0.09
    nothing = np.full(clean.shape, -0.1, dtype=np.float32)
    np.testing.assert_allclose(noisy.residual(nothing)[air], 0, atol=1e-6)
    # A sampler that knows of no magnitudes is given the mean of no signal.
    other = measure(replace(made, config=replace(made.config, sampler="diffpir")), data)
    assert other.remapped
    assert other.no_signal is None
    assert other.volume[air].mean() == pytest.approx(-0.1, abs=0.02)


def test_units_of_the_scan_change_nothing_but_units(weights, tmp_path):
    data = ball((12, 5, 10), noise=0.0) + np.float32(0.01)
    found = []
    for name, gain in (("a", 1.0), ("b", 4096.0)):
        low = scan(tmp_path / name / "lr.nii.gz", data * np.float32(gain))
        sidecar = run_upsample(plan(low, tmp_path / name / "sr", weights))
        volumes = [
            nib.load(tmp_path / name / end).get_fdata() / gain
            for end in ("sr.nii.gz", "sr_residual.nii.gz")
        ]
        found.append((sidecar["chi2"], *volumes))
    (chi2, *first), (again, *second) = found
    assert again == pytest.approx(chi2, rel=1e-3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_integers_come_back_to_half_a_step(dtype, low, weights, tmp_path):
    run_upsample(plan(low, tmp_path / "a" / "sr", weights))
    run_upsample(plan(low, tmp_path / "b" / "sr", weights, dtype=dtype))
    exact, image = nib.load(tmp_path / "a" / "sr.nii.gz"), nib.load(tmp_path / "b" / "sr.nii.gz")
    assert image.get_data_dtype() == np.dtype(dtype)
    assert exact.get_data_dtype() == np.float32
    step = np.ptp(exact.get_fdata()) / 65535
    assert np.abs(image.get_fdata() - exact.get_fdata()).max() < 0.51 * step
    assert np.ptp(as_stored(np.ones((2, 2, 2), dtype=np.float32), dtype)[0]) == 0


def test_mean_and_std_are_those_of_the_draws(low, weights, tmp_path):
    made = plan(low, tmp_path / "sr", weights, samples=4, estimate="mean")
    made = replace(made, metadata={**made.metadata, "std_scale": 1.5})
    sidecar = run_upsample(made)
    zero, one = (sidecar["intensity"][name] for name in ("zero", "one"))
    measured = measure(made, nib.load(low).get_fdata(dtype=np.float32))
    drawing, _, _ = prepare(made, sigma_y=measured.sigma_y, tissue=measured.around_tissue)
    draws = np.stack([draw_volume(drawing, measured.volume, n, Parts(tmp_path)) for n in range(4)])
    mean = draws.mean(axis=0) * (one - zero) + zero
    # Of opposite pairs: their mean is known better than that of independent draws.
    std = 1.5 * draws.std(axis=0) * (one - zero)
    np.testing.assert_allclose(nib.load(made.paths["volume"]).get_fdata(), mean, atol=2e-4)
    np.testing.assert_allclose(nib.load(made.paths["std"]).get_fdata(), std, atol=2e-4)
    assert sidecar["std_scale"] == 1.5
    assert sidecar["chi2_of_mean"] < sidecar["chi2"]
    # With fewer draws there is no such volume, also not of the run before.
    again = plan(low, tmp_path / "sr", weights, force=True)
    run_upsample(again)
    assert not made.paths["std"].exists()
    assert json.loads(again.paths["sidecar"].read_text(encoding="utf-8"))["std_scale"] is None

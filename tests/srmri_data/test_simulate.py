"""Simulated LR scans: each step against what can be computed by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brukerapi.dataset import Dataset

from srmri_data.errors import FormatError, MissingInputError, UsageError
from srmri_data.geometry import apply_affine
from srmri_data.phantom import mouse_brain
from srmri_data.simulate import (
    SimulationConfig,
    read_truth,
    rigid_motion,
    run_simulate,
    simulate_low_res,
    truncate_kspace,
    voxels_sha256,
)
from srmri_data.volumes import Provenance, Volume

OBLIQUE = np.array([[-0.1, 0.01, 0, 3], [0.01, 0.1, 0.02, -2], [0, -0.02, 0.15, 1], [0, 0, 0, 1.0]])


def volume(data, affine=OBLIQUE):
    return Volume(np.asarray(data, np.float32), affine, Provenance(Path("test"), "memory"))


def waves(shape, positions, highest=3):
    """Evaluate a band-limited, positive, periodic object anywhere."""
    rng = np.random.default_rng(7)
    value = np.full(positions[0].shape, 40.0)
    for _ in range(12):
        cycles = rng.integers(-highest, highest + 1, 3)
        angle = 2 * np.pi * sum(c * p / n for c, p, n in zip(cycles, positions, shape, strict=True))
        value = value + rng.uniform(0.5, 3) * np.cos(angle + rng.uniform(0, 6))
    return value


def blob(shape, centre, width):
    """A Gaussian of standard deviation `width` (voxels per axis)."""
    distance = sum(
        ((x - c) / w) ** 2
        for x, c, w in zip(np.ogrid[tuple(map(slice, shape))], centre, width, strict=True)
    )
    return 1000 * np.exp(-distance / 2)


def centroid(data):
    """Centre of mass, and nothing else bends it than the mass."""
    total = data.sum(dtype=np.float64)
    return np.array(
        [(data * x).sum(dtype=np.float64) / total for x in np.ogrid[tuple(map(slice, data.shape))]]
    )


FACTORS = [
    ((1, 1, 1), (24, 30, 20)),
    ((2, 2, 2), (24, 30, 20)),
    ((1.5, 1.5, 1.5), (24, 30, 21)),
    ((2, 2, 4), (24, 26, 28)),
    ((1, 2.5, 2), (21, 25, 18)),
]


@pytest.mark.parametrize("grid", ["fourier", "voxel-centre"])
@pytest.mark.parametrize(("factor", "shape"), FACTORS)
def test_band_limited_object_is_sampled_exactly(factor, shape, grid):
    high = volume(waves(shape, np.indices(shape, dtype=float)))
    made = simulate_low_res(high, SimulationConfig(factor=factor, grid=grid))
    index = np.indices(made.low_res.shape, dtype=float)
    step = np.array(factor)
    start = (step - 1) / 2 if grid == "voxel-centre" else 0 * step
    positions = index * step.reshape(3, 1, 1, 1) + start.reshape(3, 1, 1, 1)
    np.testing.assert_allclose(made.low_res.data, waves(shape, positions), rtol=2e-6)
    assert made.low_res.shape == tuple(
        round(n / f) for n, f in zip(made.high_res.shape, factor, strict=True)
    )


@pytest.mark.parametrize("grid", ["fourier", "voxel-centre"])
@pytest.mark.parametrize(("factor", "shape"), FACTORS)
def test_truth_and_affines_agree_without_motion(factor, shape, grid):
    made = simulate_low_res(volume(np.ones(shape)), SimulationConfig(factor=factor, grid=grid))
    expected = np.diag([*factor, 1.0])
    if grid == "voxel-centre":
        expected[:3, 3] = (np.array(factor) - 1) / 2
    np.testing.assert_allclose(made.low_to_high, expected, atol=1e-12)
    np.testing.assert_allclose(OBLIQUE @ expected, made.low_res.affine, atol=1e-12)


def test_voxel_centre_grid_covers_the_same_field_of_view():
    made = simulate_low_res(volume(np.ones((24, 30, 20))), SimulationConfig())
    corners = np.array([[-0.5] * 3, np.array(made.low_res.shape) - 0.5])
    outer = np.array([[-0.5] * 3, [23.5, 29.5, 19.5]])
    np.testing.assert_allclose(
        apply_affine(made.low_res.affine, corners), apply_affine(OBLIQUE, outer)
    )


@pytest.mark.parametrize(("shape", "kept"), [((25, 31, 22), (24, 30, 21)), ((24, 30, 21),) * 2])
def test_crop_is_recorded_and_keeps_the_first_voxel(shape, kept):
    high = volume(np.random.default_rng(0).random(shape))
    made = simulate_low_res(high, SimulationConfig(factor=(1.5, 1.5, 1.5)))
    assert made.crop == made.high_res.shape == kept
    np.testing.assert_array_equal(made.high_res.affine, high.affine)
    np.testing.assert_array_equal(made.high_res.data, high.data[: kept[0], : kept[1], : kept[2]])


@pytest.mark.parametrize(("old", "new"), [(24, 12), (24, 16), (21, 14), (20, 5), (24, 24), (9, 3)])
def test_truncation_keeps_the_mean(old, new):
    data = np.random.default_rng(1).random((5, old, 3), dtype=np.float32)
    short = truncate_kspace(data, 1, new, shift=(old / new - 1) / 2)
    np.testing.assert_allclose(short.mean(1), data.mean(1), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_truncation_equals_the_textbook_sum(shift):
    """Even length: both halves of the highest frequency are averaged."""
    data = np.random.default_rng(2).random((16, 2, 2), dtype=np.float32)
    spectrum = np.fft.fft(data, axis=0)
    expected = np.zeros((8, 2, 2), dtype=complex)
    for k, weight in [*((k, 1.0) for k in range(-3, 4)), (-4, 0.5), (4, 0.5)]:
        wave = np.exp(2j * np.pi * k * (2 * np.arange(8) + shift) / 16).reshape(8, 1, 1)
        expected += weight * wave * spectrum[k] / 16
    assert np.abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(truncate_kspace(data, 0, 8, shift=shift), expected.real, atol=1e-6)


def test_box_is_the_block_mean():
    data = np.random.default_rng(3).random((12, 9, 8))
    made = simulate_low_res(volume(data), SimulationConfig(factor=(2, 3, 1), acquire="box"))
    expected = data.reshape(6, 2, 3, 3, 8).mean((1, 3))
    np.testing.assert_allclose(made.low_res.data, expected, rtol=1e-6)
    np.testing.assert_allclose(made.low_to_high[:3, 3], [0.5, 1, 0], atol=1e-12)


@pytest.mark.parametrize("acquire", ["kspace", "box"])
@pytest.mark.parametrize(
    ("shift", "tilt"),
    [((230, -170, 95), (0, 0, 0)), ((0, 0, 0), (4, -6, 8)), ((-150, 120, 210), (-5, 3, 7))],
)
@pytest.mark.parametrize("affine", [OBLIQUE, np.diag([0.1, 0.1, 0.1, 1.0])], ids=["oblique", "RAS"])
def test_object_is_found_where_the_truth_says(affine, shift, tilt, acquire):
    shape, at = (56, 60, 40), np.array([33.0, 24.0, 17.0])
    high = volume(blob(shape, at, (3.0, 3.5, 2.5)), affine)
    config = SimulationConfig(shift_um=shift, tilt_deg=tilt, acquire=acquire)
    made = simulate_low_res(high, config)
    found = apply_affine(made.low_to_high, centroid(made.low_res.data))
    assert np.linalg.norm(found - at) < 0.05
    # The animal went where the config says, seen from the scanner.
    moved = apply_affine(made.low_res.affine, centroid(made.low_res.data))
    motion = rigid_motion(shift, tilt, apply_affine(affine, (np.array(shape) - 1) / 2))
    expected = apply_affine(motion, apply_affine(affine, at))
    assert np.linalg.norm(moved - expected) < 0.005
    # Positive control: without the motion the truth would be off by far more.
    still = np.linalg.inv(affine) @ made.low_res.affine
    assert np.linalg.norm(apply_affine(still, centroid(made.low_res.data)) - at) > 0.4


def test_rotation_order_is_x_then_y_then_z():
    motion = rigid_motion((0, 0, 0), (90, 0, 90), np.zeros(3))
    # About x: y to z. About z: z stays.
    np.testing.assert_allclose(motion[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    # About x: x stays. About z: x to y.
    np.testing.assert_allclose(motion[:3, :3] @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    centre = np.array([3.0, -2, 5])
    turned = rigid_motion((0, 0, 0), (10, 20, 30), centre)
    np.testing.assert_allclose(apply_affine(turned, centre), centre, atol=1e-12)


def test_noise_is_rician():
    shape = (60, 60, 60)
    data = np.zeros(shape)
    data[12:48, 12:48, 12:48] = 1000
    made = simulate_low_res(volume(data), SimulationConfig(snr=20, acquire="box", seed=5))
    low = made.low_res.data
    assert made.noise_sigma == pytest.approx(1000 / 20, rel=1e-6)
    air, tissue = low[:5], low[8:22, 8:22, 8:22]
    assert air.mean() == pytest.approx(made.noise_sigma * np.sqrt(np.pi / 2), rel=0.02)
    assert (air**2).mean() == pytest.approx(2 * made.noise_sigma**2, rel=0.03)
    assert tissue.std() == pytest.approx(made.noise_sigma, rel=0.05)


def test_snr_holds_for_the_phantom():
    made = simulate_low_res(mouse_brain(), SimulationConfig(snr=25))
    clean = simulate_low_res(mouse_brain(), SimulationConfig())
    inside = clean.low_res.data > 2000
    assert clean.low_res.data[inside].mean() / made.noise_sigma == pytest.approx(25, rel=0.05)


def test_same_seed_same_bits_and_streams_are_apart():
    high = mouse_brain(None, 0.2)
    config = SimulationConfig(snr=20, bias=0.2, seed=9, shift_um=(50, 20, 10), tilt_deg=(1, 2, 3))
    first, second = (simulate_low_res(high, config).low_res.data for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = SimulationConfig(**{**vars(config), "seed": 10})
    assert not np.array_equal(first, simulate_low_res(high, other).low_res.data)
    # The gain field is the same with and without noise.
    fields = [
        simulate_low_res(high, SimulationConfig(bias=0.2, seed=9, snr=snr)).low_res.data
        for snr in (None, 1e6)
    ]
    np.testing.assert_allclose(*fields, atol=0.5)


def test_bias_is_smooth_and_of_the_asked_strength():
    high = mouse_brain(None, 0.2)
    plain = simulate_low_res(high, SimulationConfig()).low_res.data
    biased = simulate_low_res(high, SimulationConfig(bias=0.15)).low_res.data
    inside = plain > 0.15 * np.median(plain[plain > 1000])
    gain = np.log(biased[inside] / plain[inside])
    assert gain.std() == pytest.approx(0.15, rel=0.05)
    assert gain.mean() == pytest.approx(0, abs=0.01)
    field = np.full(plain.shape, np.nan)
    field[inside] = gain
    assert np.nanmax(np.abs(np.diff(field, axis=0))) < 0.15


def test_contrast_changes_the_order_of_differences_not_of_values():
    high = mouse_brain(None, 0.2)
    plain, changed = (
        simulate_low_res(high, SimulationConfig(factor=(1, 1, 1), contrast=c)).low_res.data
        for c in (1.0, 0.5)
    )
    order = np.argsort(plain, axis=None)
    assert (np.diff(changed.ravel()[order]) >= -0.02).all()
    ratio = changed[plain > 1000] / plain[plain > 1000]
    assert ratio.max() > 1.5 * ratio.min()


def test_the_source_is_not_changed():
    high = mouse_brain(None, 0.2)
    before = high.data.copy()
    simulate_low_res(high, SimulationConfig(factor=(1, 1, 1), snr=20, bias=0.1, contrast=0.8))
    np.testing.assert_array_equal(high.data, before)


def test_integer_voxels_with_slopes_are_scaled_first():
    words = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    scaled = Volume(words, np.eye(4), Provenance(Path("x"), "memory"), slope=np.arange(1.0, 5.0))
    low = simulate_low_res(scaled, SimulationConfig(factor=(1, 1, 1))).low_res
    np.testing.assert_allclose(low.data, words * np.arange(1.0, 5.0))


@pytest.mark.parametrize(
    "bad",
    [
        {"factor": (0.5, 1, 1)},
        {"factor": (2, 2)},
        {"factor": (2, 2, np.nan)},
        {"snr": 0},
        {"bias": -1},
        {"contrast": 0},
        {"seed": -1},
        {"acquire": "radial"},
        {"grid": "other"},
        {"acquire": "box", "factor": (1.5, 2, 2)},
        {"acquire": "box", "grid": "fourier"},
        {"shift_um": (0, 0, np.inf)},
    ],
)
def test_options_that_do_not_fit_are_refused(bad):
    with pytest.raises(UsageError):
        SimulationConfig(**bad)


@pytest.mark.parametrize("factor", [(5, 2, 2), (2, 2, np.pi)])
def test_matrix_that_does_not_fit_the_factor_is_refused(factor):
    with pytest.raises(UsageError, match="multiple of the factor"):
        simulate_low_res(volume(np.ones((4, 40, 40))), SimulationConfig(factor=factor))


def test_no_foreground_is_refused_when_noise_needs_it():
    empty = volume(np.zeros((8, 8, 8)))
    assert not simulate_low_res(empty, SimulationConfig()).low_res.data.any()
    with pytest.raises(UsageError, match="no foreground"):
        simulate_low_res(empty, SimulationConfig(snr=10))


# --- written simulations -----------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return mouse_brain((61, 90, 39), 0.2)


MOVED = SimulationConfig(shift_um=(120, -80, 60), tilt_deg=(1, -2, 1.5), snr=25, bias=0.1, seed=2)


def test_nifti_is_one_file_and_the_truth(small, tmp_path):
    made = run_simulate(small, MOVED, tmp_path / "out", format="nifti")
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert names == ["low_res.nii.gz", "truth.json"]
    image = nib.load(made["low_res"])
    expected = simulate_low_res(small, MOVED)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected.low_res.data)
    np.testing.assert_allclose(image.affine, expected.low_res.affine, atol=1e-5)


def test_same_simulation_same_files(small, tmp_path):
    for fmt in ("nifti", "paravision"):
        digests = []
        for run in ("a", "b"):
            out = tmp_path / f"{fmt}-{run}"
            run_simulate(small, MOVED, out, format=fmt)
            digests.append(
                {
                    p.relative_to(out): hashlib.sha256(p.read_bytes()).hexdigest()
                    for p in out.rglob("*")
                    if p.is_file()
                }
            )
        assert digests[0] == digests[1]


def test_paravision_study_holds_the_scan(small, tmp_path):
    made = run_simulate(small, MOVED, tmp_path / "study")
    assert (Path(made["low_res"]) / "subject").is_file()
    dataset = Dataset(str(tmp_path / "study" / "1" / "pdata" / "1" / "2dseq"))
    expected = simulate_low_res(small, MOVED).low_res
    assert dataset.data.shape[:3] == expected.shape
    step = expected.data.max() / 32766
    assert np.abs(dataset.data[..., 0] - expected.data).max() <= 0.51 * step
    assert dataset["VisuSubjectId"].value == "phantom0"
    # Nothing of the HR scan unless asked for.
    assert sorted(p.name for p in (tmp_path / "study").iterdir()) == ["1", "subject", "truth.json"]


@pytest.mark.parametrize("fmt", ["nifti", "paravision"])
def test_high_res_is_written_on_request(small, tmp_path, fmt):
    made = run_simulate(small, MOVED, tmp_path / "o", format=fmt, include_high_res=True)
    if fmt == "nifti":
        shape = nib.load(made["high_res"]).shape
    else:
        shape = Dataset(str(Path(made["high_res"]) / "pdata" / "1" / "2dseq")).data.shape[:3]
    assert shape == small.shape


def test_truth_round_trip(small, tmp_path):
    made = run_simulate(small, MOVED, tmp_path / "out", format="nifti")
    truth = read_truth(Path(made["truth"]))
    expected = simulate_low_res(small, MOVED)
    np.testing.assert_allclose(truth.low_to_high, expected.low_to_high, atol=1e-12)
    assert truth.low_res_shape == expected.low_res.shape == (30, 45, 19)
    assert truth.high_res_shape == small.shape
    np.testing.assert_array_equal(truth.high_res_affine, small.affine)
    assert truth.config == MOVED
    assert truth.noise_sigma == expected.noise_sigma
    document = json.loads(Path(made["truth"]).read_text(encoding="utf-8"))
    assert document["schema_version"] == 1
    assert document["high_res"]["crop"] == [[0, 60], [0, 90], [0, 38]]
    assert document["high_res"]["voxels_sha256"] == voxels_sha256(small.data)
    assert document["low_res"]["voxels_sha256"] == voxels_sha256(expected.low_res.data)
    (entry,) = document["low_res"]["files"]
    content = (tmp_path / "out" / entry["path"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema_version": 2}, "version 2"),
        ({"schema_version": True}, "version True"),
        ({"kind": "other"}, "not a truth file"),
        ({"low_to_high": [[0] * 4] * 4}, "affine"),
        ({"low_to_high": None}, "affine"),
        ({"config": {"unknown": 1}}, "damaged"),
        ({"low_res": {}}, "damaged"),
        ({"noise_sigma": None}, "damaged"),
    ],
)
def test_damaged_truth_is_refused(small, tmp_path, change, match):
    made = run_simulate(small, SimulationConfig(), tmp_path / "out", format="nifti")
    path = Path(made["truth"])
    document = json.loads(path.read_text(encoding="utf-8"))
    read_truth(path)
    path.write_text(json.dumps({**document, **change}))
    with pytest.raises(ValueError, match=match):
        read_truth(path)


def test_missing_and_broken_truth(tmp_path):
    with pytest.raises(MissingInputError):
        read_truth(tmp_path / "truth.json")
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(FormatError):
        read_truth(tmp_path / "truth.json")


def test_other_files_are_never_mixed_in_or_removed(small, tmp_path):
    out = tmp_path / "out"
    run_simulate(small, SimulationConfig(), out, format="nifti")
    with pytest.raises(UsageError, match="not empty"):
        run_simulate(small, MOVED, out)
    run_simulate(small, MOVED, out, force=True)
    assert not (out / "low_res.nii.gz").exists()
    assert read_truth(out / "truth.json").config == MOVED

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty"):
        run_simulate(small, MOVED, foreign, force=True)
    assert (foreign / "thesis.txt").read_text(encoding="utf-8") == "keep"


def test_real_template_resembles_its_block_mean(shared_data):
    path = shared_data / "nifti" / "mouse_C57BL6_50um_dMRI_template_NOLICENCE"
    image = nib.load(path / "C57BL6_mouse.ISO.nii.gz")
    data = np.asarray(image.dataobj, dtype=np.float32)
    made = simulate_low_res(volume(data, image.affine), SimulationConfig())
    i, j, k = made.crop
    mean = data[:i, :j, :k].reshape(i // 2, 2, j // 2, 2, k // 2, 2).mean((1, 3, 5))
    assert np.corrcoef(made.low_res.data.ravel(), mean.ravel())[0, 1] > 0.99
    assert made.low_res.data.mean() == pytest.approx(data[:i, :j, :k].mean(), rel=0.01)

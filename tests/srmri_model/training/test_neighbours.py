"""Networks that look at the slices beside the one they denoise, and volumes they are judged on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import train_runs
from torch import nn

from srmri_data.choices import ANATOMICAL
from srmri_data.errors import UsageError
from srmri_data.slices import stack_frame
from srmri_model.checkpoints import load_checkpoint, load_denoiser
from srmri_model.networks import PRESETS, Denoiser, NetworkConfig, build_network, shown_more
from srmri_model.operators import make_operator
from srmri_model.training.order import ALONE, draw
from srmri_model.training.slices import (
    VolumeSlices,
    cache_volumes,
    open_data,
    showing,
    volumes_of,
    with_neighbours,
)
from srmri_model.training.validation import measure, measure_volumes
from srmri_model.upsampling.denoising import OnSlices

SMALL = NetworkConfig(
    nf=4, ch_mult=(1, 2), blocks=1, attention=(False, False), middle_attention=False,
    scale_by_sigma=False, preconditioning="edm",
)  # fmt: skip


def random_network(config: NetworkConfig) -> nn.Module:
    """A network in which every weight does something."""
    network = build_network(config, seed=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for weight in network.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return network


def test_weights_that_never_saw_neighbours_compute_the_same_beside_them():
    alone, three = SMALL, replace(SMALL, neighbours=1)
    network = random_network(alone)
    wider = build_network(three)
    wider.load_state_dict(shown_more(network.state_dict(), three))
    x = torch.randn(2, 3, 10, 12)
    expected = Denoiser(network, alone)(x[:, :1], 0.3)
    shown = Denoiser(wider, three)(x, 0.3)
    assert shown.shape == (2, 1, 10, 12)
    torch.testing.assert_close(shown, expected)
    torch.testing.assert_close(Denoiser(wider, three)(x[:, :1], 0.3), expected)
    back = shown_more(wider.state_dict(), alone)
    assert all(torch.equal(back[name], value) for name, value in network.state_dict().items())


def test_neighbours_that_lack_are_zeros_and_others_matter():
    config = replace(SMALL, neighbours=1)
    denoiser = Denoiser(random_network(config), config)
    x = torch.randn(1, 3, 10, 12)
    alone = denoiser(x[:, :1], 0.3)
    lacking = torch.cat([x[:, :1], torch.zeros(1, 2, 10, 12)], dim=1)
    torch.testing.assert_close(denoiser(lacking, 0.3), alone)
    assert (denoiser(x, 0.3) - alone).abs().max() > 1e-3
    score = denoiser.score(x, 0.3)
    torch.testing.assert_close(score, (denoiser(x, 0.3) - x[:, :1]) / 0.09)


def test_only_a_preconditioned_network_knows_neighbours():
    with pytest.raises(ValueError, match="neighbours belong"):
        replace(PRESETS["paper"], neighbours=1)
    with pytest.raises(ValueError, match="neighbours is"):
        replace(PRESETS["tiny"], neighbours=9)


def test_slices_come_with_those_before_and_after(phantoms, tmp_path):
    (volume, *_) = cache_volumes([phantoms], tmp_path)
    slices = VolumeSlices([volume], ANATOMICAL, neighbours=6)
    voxels = np.load(volume.path)
    lacking = 0
    for item in (slices[n] for n in range(len(slices))):
        stack = stack_frame(np.array(volume.affine), volume.shape, item["plane"]).view(voxels)
        number = item["slice_index"]
        if 6 <= number < len(stack) - 6:
            expected = stack[[*range(number - 6, number), *range(number + 1, number + 7)]]
            assert np.array_equal(item["neighbours"], expected)
        else:
            lacking += 1
            assert "neighbours" not in item
            assert not with_neighbours(item, 6)[1:].any()
    assert 0 < lacking < len(slices)


def test_single_slices_of_a_dataset_have_no_neighbours(dataset, tmp_path):
    data = open_data([str(dataset)], ["coronal"], tmp_path)
    with pytest.raises(UsageError, match="has single ones"):
        showing(data.train, 1)
    assert volumes_of(data.validation) == []


def test_a_slice_is_cropped_and_flipped_with_its_neighbours():
    stack = np.random.default_rng(0).normal(size=(3, 20, 30)).astype(np.float32)
    stack[1:] += stack[0] * 100
    alone = 0
    for number in range(200):
        settings = {"seed": 1, "patch": 8, "may_flip": True}
        one, all_three = (draw(image, number, **settings) for image in (stack[0], stack))
        assert np.array_equal(one.image, all_three.image[0])
        assert np.array_equal(one.noise, all_three.noise[0])
        assert one.level == all_three.level
        if all_three.noise[1:].any():
            beside = all_three.image[1:] - 100 * all_three.image[0]
            assert abs(beside).max() < 6, "cropped elsewhere"
        else:
            alone += 1
            assert not all_three.image[1:].any()
    assert alone == pytest.approx(200 * ALONE, abs=20)


def test_the_order_is_reversed_half_of_the_time_where_slices_follow_left_and_right():
    stack = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)

    def orders(**settings):
        drawn = (draw(stack, n, seed=0, patch=0, may_flip=False, **settings) for n in range(200))
        return [d.image[:, 0, 0].tolist() for d in drawn if d.image[1:].any()]

    found = orders(may_swap=True)
    reverse = [0, 4, 3, 2, 1]
    assert 0.35 < sum(order == reverse for order in found) / len(found) < 0.65
    assert all(order in ([0, 1, 2, 3, 4], reverse) for order in found)
    assert all(order == [0, 1, 2, 3, 4] for order in orders())


@pytest.mark.parametrize("plane", ANATOMICAL)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_stored_slices_are_shown_their_neighbours_in_the_order_of_training(plane, signs):
    """Along right, anterior and superior, however the volume is stored."""
    affine = np.diag([*signs, 1.0])
    place = np.stack(np.meshgrid(*(np.arange(7.0),) * 3, indexing="ij"), axis=-1) * signs
    along = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    volume = torch.from_numpy(place[..., along]).float()
    frame = stack_frame(affine, (7, 7, 7), plane)

    def denoiser(x, sigma, plane=None):
        if x[:, 1:].any():
            assert (x[:, 1] == x[:, 0] - 1).all()
            assert (x[:, 2] == x[:, 0] + 1).all()
            return x[:, :1] + 100
        return x[:, :1]

    on_slices = OnSlices(denoiser, frame, neighbours=1)
    stack = volume.permute(on_slices.axes)[:, None]
    change = on_slices(stack, 0.1) - stack
    assert change[:, 0, 0, 0].tolist() == [0, *[100] * 5, 0]


class Wrong:
    """A denoiser whose error is known."""

    def __init__(self, error):
        self.network = nn.Linear(1, 1)
        self.config = PRESETS["tiny"]
        self.error = error

    def __call__(self, x, sigma, plane=None):
        return self.error(x[:, :1], sigma)


@pytest.fixture
def filled(tmp_path):
    """A volume without air."""
    from srmri_data.formats.nifti_writer import write_nifti

    data = np.random.default_rng(0).uniform(1, 2, size=(12, 16, 20)).astype(np.float32)
    write_nifti(tmp_path / "sub-a.nii.gz", data, np.eye(4))
    (volume,) = cache_volumes([tmp_path / "sub-a.nii.gz"], tmp_path / "cache")
    voxels = np.load(volume.path)
    np.save(volume.path, np.abs(voxels) + 0.01)
    return volume


def test_white_errors_are_seen_as_large_as_they_are(filled):
    """Who returns the noise is wrong by σ, in every voxel and at every resolution."""
    table = measure_volumes(Wrong(lambda x, _: x), [filled], ANATOMICAL, [0.1, 1.0])
    assert table.foreground == pytest.approx((0.01, 1.0), rel=0.05)
    assert table.seen == pytest.approx((0.01, 1.0), rel=0.15)
    assert table.n_slices == 12 + 16 + 20


def test_errors_that_slices_share_are_seen_larger(filled):
    """An error that is the same everywhere is as large at low resolution, where noise averages."""
    gain = make_operator("kspace", filled.shape, 2.0).noise_gain
    assert gain**2 == pytest.approx(1 / 8, rel=0.25)
    voxels = torch.from_numpy(np.load(filled.path))
    frame = stack_frame(np.array(filled.affine), filled.shape, "axial")
    truth = iter(torch.from_numpy(np.ascontiguousarray(frame.view(voxels.numpy()))))
    shifted = Wrong(lambda _x, _sigma: next(truth)[None, None] + 0.1)
    table = measure_volumes(shifted, [filled], ["axial"], [0.5])
    assert table.foreground == pytest.approx((0.01,), rel=1e-3)
    assert table.seen == pytest.approx((0.01 / gain**2,), rel=1e-3)


@pytest.mark.usefixtures("small_network")
def test_a_run_with_neighbours_is_resumed_and_knows_its_volumes(phantoms, tmp_path):
    settings = {"plane": "all", "neighbours": 1, "decay": "none", "validate_every": 4}
    train_runs.train(phantoms, tmp_path / "a", steps=2, **settings)
    train_runs.train(phantoms, tmp_path / "a", steps=4, resume=True, **settings)
    train_runs.train(phantoms, tmp_path / "b", steps=4, **settings)
    one, other = (load_checkpoint(tmp_path / n / "states/step-000000004.safetensors") for n in "ab")
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in other.tensors)
    model = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert model.network.neighbours == 1
    assert len(model.metadata["volume_table"]["sigmas"]) == 2
    assert model.metadata["volume_table"] != model.metadata["noise_table"]

    data = open_data([str(phantoms)], ANATOMICAL, tmp_path / "cache")
    shown, denoiser = showing(data.validation, 1), load_denoiser(tmp_path / "b/model.safetensors")
    beside, alone = (
        measure(denoiser, shown, model.metadata["noise_table"]["sigmas"], count=2, neighbours=n)
        for n in (1, 0)
    )
    assert list(alone.foreground) == pytest.approx(model.metadata["noise_table"]["foreground"])
    assert beside.foreground != alone.foreground


@pytest.mark.usefixtures("small_network")
def test_single_slices_go_on_without_neighbours_unless_these_are_asked_for(
    phantoms, dataset, tmp_path
):
    train_runs.train(phantoms, tmp_path / "a", steps=2, neighbours=1)
    start = tmp_path / "a" / "model.safetensors"
    train_runs.train(dataset, tmp_path / "b", steps=2, init=start)
    assert load_checkpoint(tmp_path / "b" / "model.safetensors").network.neighbours == 0
    with pytest.raises(UsageError, match="single ones"):
        train_runs.train(dataset, tmp_path / "c", steps=2, init=start, neighbours=1)


@pytest.mark.usefixtures("small_network")
def test_neighbours_can_be_learnt_later(phantoms, tmp_path):
    train_runs.train(phantoms, tmp_path / "a", steps=3)
    start = tmp_path / "a" / "model.safetensors"
    train_runs.train(phantoms, tmp_path / "b", steps=3, init=start, neighbours=1)
    model = load_checkpoint(tmp_path / "b" / "model.safetensors")
    assert model.tensors["conv_in.weight"].shape[1] == 3
    assert model.tensors["conv_in.weight"][:, 1:].any()
    assert "volume_table" not in model.metadata, "one plane is not enough for a volume"

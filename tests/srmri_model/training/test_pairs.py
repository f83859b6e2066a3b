"""Pairs of LR and HR slices: made of volumes as an operator says, or read from a dataset."""

from __future__ import annotations

import json

import numpy as np
import pytest

from srmri_data.errors import UsageError
from srmri_model.operators import low_size, make_operator
from srmri_model.training.pairs import Degradation, fitting_sizes, open_pairs


def split_file(path):
    path.write_text(json.dumps({"train": ["p0"], "tune": ["p1"], "test": ["p2"]}))
    return path


@pytest.mark.parametrize("degradation", [
    Degradation(sigma_y=0.0, magnitude=False),
    Degradation("gaussian", width=1.4, factor=1.5, sigma_y=0.0, magnitude=False, grid="fourier"),
    Degradation("bicubic", factor=3, sigma_y=0.0, magnitude=False),
])  # fmt: skip
def test_low_res_is_what_the_operator_makes_of_high_res(degradation, phantoms, tmp_path):
    import torch

    data = open_pairs(
        [str(phantoms)], tmp_path, split=split_file(tmp_path / "s.json"), degradation=degradation
    )
    assert data.grid == degradation.grid
    for pairs, subject in ((data.train, "p0"), (data.validation, "p1"), (data.test, "p2")):
        assert set(pairs.subjects) == {subject}
        pair = pairs[len(pairs) // 2]
        assert pairs.sizes[len(pairs) // 2] == pair["high_res"].shape == (24, 32)
        operator = make_operator(
            degradation.operator, (24, 32), degradation.factor,
            grid=degradation.grid, width=degradation.width,
        )  # fmt: skip
        expected = operator.forward(torch.from_numpy(pair["high_res"]))
        np.testing.assert_allclose(pair["low_res"], expected, atol=1e-6)
        assert pair["factor"] == (degradation.factor,) * 2
        np.testing.assert_array_equal(pair["foreground"], pair["high_res"] > 0)


def test_noise_is_that_of_a_magnitude_and_the_same_for_everyone(phantoms, tmp_path):
    clean, noisy, again, other = (
        open_pairs([str(phantoms)], tmp_path / str(number), degradation=degradation)
        for number, degradation in enumerate((
            Degradation(sigma_y=0.0), Degradation(sigma_y=0.05), Degradation(sigma_y=0.05),
            Degradation(sigma_y=0.05, seed=1),
        ))
    )  # fmt: skip
    difference = []
    for number in range(len(clean.train)):
        pair, truth = noisy.train[number], clean.train[number]
        assert pair["low_res"].min() >= pair["no_signal"]
        np.testing.assert_array_equal(pair["low_res"], again.train[number]["low_res"])
        assert (pair["low_res"] != other.train[number]["low_res"]).all()
        bright = truth["low_res"] > 0.3
        difference.append((pair["low_res"] - truth["low_res"])[bright])
    values = np.concatenate(difference)
    assert values.std() == pytest.approx(0.05, rel=0.05)
    assert abs(values.mean()) < 0.005
    assert len({d.fingerprint for d in (clean, noisy, again, other)}) == 3


def test_low_res_is_computed_once_and_anew_when_something_changes(phantoms, tmp_path):
    def made(**settings):
        open_pairs([str(phantoms)], tmp_path / "cache", **settings)
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")}

    first = made()
    assert made() == first
    assert len(made(degradation=Degradation(seed=1))) == len(first) + 3
    assert len(made(plane="axial")) == len(first) + 6


def test_exported_pairs_are_on_the_scale_of_high_res(dataset, tmp_path):
    from srmri_data.dataset import SliceDataset

    data = open_pairs([str(dataset)], tmp_path)
    source = SliceDataset.open(dataset, config="pairs", split="train", plane="coronal")
    assert len(data.train) == len(source) > 0
    pair, expected = data.train[3], source[3]
    assert pair["factor"] == (2.0, 2.0)
    assert (pair["subject"], pair["slice_index"]) == (expected["subject"], expected["lr_slice"])
    rows, cols = pair["high_res"].shape
    np.testing.assert_array_equal(pair["high_res"], expected["high_res"][:rows, :cols])
    assert pair["low_res"].shape == (low_size(rows, 2), low_size(cols, 2))
    # These LR scans are block means of HR: brought to HR's scale they are that again.
    for pairs in (data.train, data.validation):
        found = [pairs[n] for n in range(len(pairs))]
        low = np.concatenate([p["low_res"].ravel() for p in found])
        box = np.concatenate([
            p["high_res"].reshape(p["low_res"].shape[0], 2, -1, 2).mean(axis=(1, 3)).ravel()
            for p in found
        ])  # fmt: skip
        slope, offset = np.polyfit(box, low, 1)
        assert slope == pytest.approx(1, abs=0.08)
        assert abs(offset) < 0.04


def test_an_exported_dataset_is_decoded_once_and_may_be_divided_anew(dataset, tmp_path):
    data = open_pairs([str(dataset)], tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.f32")}
    held_out = data.train.subjects[0]
    others = {*data.train.subjects, *data.validation.subjects, *data.test.subjects} - {held_out}
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": sorted(others), "test": [held_out]}))
    again = open_pairs([str(dataset)], tmp_path, split=split)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.f32")} == times
    assert set(again.test.subjects) == {held_out}
    assert set(again.train.subjects) == others


def test_acquired_pairs_are_not_degraded_and_nonsense_is_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match="pairs that were acquired"):
        open_pairs([str(dataset)], tmp_path, degradation=Degradation())
    with pytest.raises(UsageError, match="--sigma-y"):
        Degradation(sigma_y=-0.1)
    with pytest.raises(UsageError, match="factor"):
        Degradation(factor=0.5)
    with pytest.raises(UsageError):
        Degradation("bicubic", width=2.0)


@pytest.mark.parametrize(("low", "high", "factor"), [
    (50, 100, 2.0), (50, 101, 2.0), (50, 102, 2.0), (50, 99, 2.0), (51, 100, 2.0), (67, 99, 1.5),
    (7, 22, 3.0), (1, 2, 2.0),
])  # fmt: skip
def test_fitting_sizes_fit_and_leave_little_out(low, high, factor):
    used_low, used_high = fitting_sizes(low, high, factor)
    assert used_low == low_size(used_high, factor)
    assert 0 <= low - used_low <= 1
    assert 0 <= high - used_high <= 1.5 * factor


@pytest.mark.parametrize(("low", "high"), [(50, 60), (50, 110), (10, 100)])
def test_sizes_of_different_fields_are_refused(low, high):
    with pytest.raises(ValueError, match="do not cover the same field"):
        fitting_sizes(low, high, 2.0)

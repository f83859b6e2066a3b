"""Training slices: mapped once, memory-mapped, divided by subject."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from srmri_data.errors import FormatError, MissingInputError, NoScanError, UsageError
from srmri_model.training.slices import (
    VolumeSlices,
    assign,
    cache_volumes,
    hold_out,
    open_data,
    read_split,
)


def test_slices_are_the_volumes_in_their_map(phantoms, tmp_path):
    (volume, *_) = cache_volumes([phantoms], tmp_path)
    slices = VolumeSlices([volume], ["coronal"])
    item = slices[len(slices) // 2]
    image = nib.load(phantoms / "sub-p0_T2starw.nii.gz")
    voxels = np.asarray(image.dataobj)
    low, high = item["intensity"]
    # The phantom is RAS: rows run along S, columns along R, downwards from superior.
    expected = (voxels[:, item["slice_index"], :] - low) / (high - low)
    assert item["image"].dtype == np.float32
    assert item["image"].shape == (24, 32)
    found = sorted(item["image"].ravel())
    np.testing.assert_allclose(found, sorted(expected.ravel()), atol=1e-5)
    assert item["image"].min() < 0, "values below the map's 0 are kept"
    assert (item["subject"], item["plane"]) == ("p0", "coronal")
    assert item["spacing"] == pytest.approx((0.4, 0.4))


def test_near_empty_slices_are_left_out_and_planes_are_views(phantoms, tmp_path):
    volumes = cache_volumes([phantoms], tmp_path)
    slices = VolumeSlices(volumes, ["coronal", "axial", "sagittal"])
    assert set(slices.sizes) == {(24, 32), (45, 32), (24, 45)}
    assert len(slices) < 3 * (45 + 24 + 32)
    areas = [(slices[n]["image"] > 0).mean() for n in range(len(slices))]
    assert min(areas) > 0.005
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_the_cache_is_used_again_until_the_file_changes(phantoms, tmp_path):
    source = tmp_path / "one.nii.gz"
    source.write_bytes((phantoms / "sub-p0_T2starw.nii.gz").read_bytes())
    (first,) = cache_volumes([source], tmp_path / "cache")
    made = first.path.stat().st_mtime_ns
    (again,) = cache_volumes([source], tmp_path / "cache")
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, made)
    source.write_bytes((phantoms / "sub-p1_T2starw.nii.gz").read_bytes())
    (other,) = cache_volumes([source], tmp_path / "cache")
    assert other.path != first.path


def test_a_damaged_volume_is_refused(tmp_path):
    (tmp_path / "bad.nii").write_bytes(b"\0" * 400)
    with pytest.raises(FormatError):
        cache_volumes([tmp_path / "bad.nii"], tmp_path / "cache")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NoScanError):
        cache_volumes([tmp_path / "nothing"], tmp_path / "cache")


def write_split(path, **lists):
    path.write_text(json.dumps(lists))
    return path


def test_subjects_follow_the_split(phantoms, tmp_path):
    split = write_split(tmp_path / "split.json", train=["p0"], tune=["p2"], folder="ignored")
    data = open_data([str(phantoms)], ["coronal"], tmp_path / "cache", split=split)
    assert set(data.train.subjects) == {"p0"}
    assert set(data.validation.subjects) == {"p2"}
    assert any("1 subjects are in no split" in note for note in data.notes)


def test_without_a_split_somebody_is_held_out(phantoms, tmp_path):
    data = open_data([str(phantoms)], ["coronal"], tmp_path / "cache")
    assert len(set(data.validation.subjects)) == 1
    assert not set(data.train.subjects) & set(data.validation.subjects)
    one = open_data([str(phantoms / "sub-p0_T2starw.nii.gz")], ["coronal"], tmp_path / "cache")
    assert any("trained on" in note for note in one.notes)


def test_splits_that_can_not_be_right_are_refused(phantoms, tmp_path):
    with pytest.raises(FormatError, match="more than one split: p1"):
        read_split(write_split(tmp_path / "a.json", train=["p0", "p1"], tune=["p1"]))
    with pytest.raises(FormatError, match="list of subjects"):
        read_split(write_split(tmp_path / "b.json", tune=["p1"]))
    with pytest.raises(UsageError, match="fits train and tune"):
        assign(["x_1_2"], {"train": ["1"], "tune": ["2"]})
    split = write_split(tmp_path / "c.json", train=["nobody"])
    with pytest.raises(UsageError, match="none of the 3 subjects"):
        open_data([str(phantoms)], ["coronal"], tmp_path / "cache", split=split)
    with pytest.raises(MissingInputError):
        open_data([str(tmp_path / "none")], ["coronal"], tmp_path / "cache")


def test_holding_out_is_by_name_and_stable():
    names = [f"m{n}" for n in range(20)]
    roles = hold_out(names)
    assert sum(role == "validation" for role in roles.values()) == 3
    assert hold_out(reversed(names)) == roles


def test_an_exported_dataset_keeps_its_split(dataset, tmp_path):
    from srmri_data.dataset import SliceDataset

    data = open_data([str(dataset)], ["coronal"], tmp_path / "cache")
    source = SliceDataset.open(dataset, split="train", plane="coronal")
    assert len(data.train) == len(source)
    for number in (0, len(source) - 1):
        item, expected = data.train[number], source[number]
        np.testing.assert_array_equal(item.pop("image"), expected.pop("image"))
        assert item == expected
    assert not set(data.train.subjects) & set(data.validation.subjects)


@pytest.mark.parametrize(
    ("source", "revision"),
    [("user/name", None), ("user/name@v1", "v1"), ("u/n@refs/pr/1", "refs/pr/1")],
)
def test_a_hub_id_is_read_with_its_revision(source, revision, dataset, tmp_path, monkeypatch):
    from srmri_data.dataset import SliceDataset

    asked = []
    original = SliceDataset.open

    def from_hub(name, **settings):
        asked.append((name, settings.pop("revision")))
        return original(dataset, **settings)

    monkeypatch.setattr(SliceDataset, "open", from_hub)
    data = open_data([source], ["coronal"], tmp_path / "cache")
    assert len(data.train) > 0
    assert asked == [(source.partition("@")[0], revision)] * 2

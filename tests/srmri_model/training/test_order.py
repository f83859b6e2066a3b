"""The data order is a function of the step, and the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from srmri_model.training.order import BatchOrder, draw, shapes_of, share

SHAPES = tuple([(8, 12)] * 10 + [(8, 10)] * 7)


def test_an_epoch_shows_every_slice_in_batches_of_one_size():
    order = BatchOrder(SHAPES, batch=4, seed=3)
    assert order.steps_per_epoch == 3 + 2
    batches = [order.slices(step) for step in range(5)]
    assert set(np.concatenate(batches)) == set(range(17))
    assert all(len({SHAPES[i] for i in batch}) == 1 for batch in batches)


def test_epochs_and_seeds_differ_and_repeat():
    order = BatchOrder(SHAPES, batch=4, seed=3)

    def epoch(order, number):
        return np.stack([order.slices(5 * number + step) for step in range(5)]).tolist()

    assert epoch(order, 0) != epoch(order, 1)
    assert epoch(order, 0) != epoch(BatchOrder(SHAPES, batch=4, seed=4), 0)
    assert epoch(order, 7) == epoch(BatchOrder(SHAPES, batch=4, seed=3), 7)


def test_a_batch_larger_than_the_data_repeats_slices():
    assert sorted(set(BatchOrder(((4, 4),) * 3, batch=8, seed=0).slices(0))) == [0, 1, 2]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_and_parts_share_a_step_without_rest(world, accumulate):
    parts = [
        part.tolist()
        for rank in range(world)
        for part in share(8, rank=rank, world=world, accumulate=accumulate)
    ]
    assert sorted(place for part in parts for place in part) == list(range(8))
    assert len({len(part) for part in parts}) == 1


def test_a_draw_depends_on_its_number_only():
    image = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)

    def one(number, seed=1, **settings):
        return draw(image, number, seed=seed, **{"patch": 8, "may_flip": True, **settings})

    first, again = one(5), one(5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.noise, again.noise)
    assert first.level == again.level
    assert not np.array_equal(first.noise, one(6).noise)
    assert not np.array_equal(first.noise, one(5, seed=2).noise)


def test_left_and_right_are_swapped_half_of_the_time_where_they_may_be():
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    kinds = [draw(image, n, seed=0, patch=0, may_flip=True).image.tolist() for n in range(200)]
    flipped = sum(kind == image[:, ::-1].tolist() for kind in kinds)
    assert 70 < flipped < 130
    assert flipped + sum(kind == image.tolist() for kind in kinds) == 200
    unflipped = [draw(image, n, seed=0, patch=0, may_flip=False).image for n in range(50)]
    assert all(np.array_equal(found, image) for found in unflipped)


def test_patches_hold_foreground():
    image = np.full((64, 64), -1, dtype=np.float32)
    image[40:50, 5:15] = 1
    for number in range(50):
        patch = draw(image, number, seed=0, patch=16, may_flip=False).image
        assert patch.shape == (16, 16)
        assert (patch > 0).any()
    assert shapes_of([(64, 10)], 16) == ((16, 10),)


def test_noise_levels_are_uniform():
    image = np.ones((2, 2), dtype=np.float32)
    levels = [draw(image, n, seed=9, patch=0, may_flip=False).level for n in range(1000)]
    counts, _ = np.histogram(levels, bins=10, range=(0, 1))
    assert counts.min() >= 95
    assert counts.max() <= 105


def test_augmented_images_are_magnitudes_with_another_gain_and_a_noise_floor():
    image = np.zeros((40, 40), dtype=np.float32)
    image[:, 20:] = 0.9

    def one(number, **settings):
        return draw(image, number, seed=0, patch=0, may_flip=False, **settings).image

    plain = [one(n) for n in range(200)]
    found = [one(n, augment=0.5) for n in range(200)]
    changed = [n for n in range(200) if not np.array_equal(found[n], plain[n])]
    assert 70 < len(changed) < 130
    for n in changed:
        noise = found[n][:, 20:].std()
        assert 0.004 < noise < 0.07
        # Rayleigh's mean over the standard deviation of what is added to the real part.
        assert found[n][:, :20].mean() == pytest.approx(noise * np.sqrt(np.pi / 2), rel=0.2)
        assert 0.83 < found[n][:, 20:].mean() / 0.9 < 1.17
    shifted = one(changed[0], augment=0.5, zero=-0.1)
    assert shifted.min() >= -0.1
    assert shifted[:, :20].mean() < found[changed[0]][:, :20].mean() + 0.1
    assert not np.array_equal(one(changed[0], augment=0.5), one(changed[1], augment=0.5))

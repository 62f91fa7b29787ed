import time

import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import UNLABELLED, class_counts
from bdgf_jax.scenes.splits import Blocks, block_index, split_blocks, split_masks, split_per_class, within_reach
from bdgf_jax.scenes.synthetic import synthetic_scene


@pytest.fixture(scope="module")
def labels():
    labels = synthetic_scene(height=128, width=120, bands=2, classes=5, seed=3).labels.copy()
    labels[:20, :30] = UNLABELLED
    return labels


def chebyshev_to(mask, pixels):
    """Distance of pixels to the nearest pixel of a mask, by trying all of them."""
    return np.abs(pixels[:, None, :] - np.argwhere(mask)[None, :, :]).max(axis=-1).min(axis=1)


@pytest.mark.parametrize("guard", [0, 5, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_blocks_keep_every_test_pixel_beyond_the_guard(labels, guard, seed):
    split = split_blocks(labels, Blocks(guard=guard, seed=seed, validation_share=0.3))
    for name in ("test", "validation"):
        distance = chebyshev_to(split.masks["train"], np.argwhere(split.masks[name]))
        assert distance.min() == guard + 1


def test_blocks_train_from_their_share_of_blocks_and_from_no_block_that_tests(labels):
    split = split_blocks(labels, Blocks(seed=4, validation_share=0.25, per_class=1000))
    blocks = block_index(labels.shape, 16)
    of = {name: set(np.unique(blocks[mask])) for name, mask in split.masks.items()}
    assert not of["train"] & of["test"]
    assert not of["train"] & of["validation"]
    assert not of["validation"] & of["test"]
    candidates = len(np.unique(blocks[labels != UNLABELLED]))
    drawn = round(0.35 * candidates)
    assert len(of["train"]) == drawn - round(0.25 * drawn)


def test_blocks_give_every_class_its_pixels_at_most(labels):
    split = split_blocks(labels, Blocks(per_class=17, seed=1))
    counts = class_counts(labels, split.masks["train"], 5)
    assert (counts == 17).all()
    assert not split.masks["validation"].any()
    for mask in split.masks.values():
        assert not (mask & (labels == UNLABELLED)).any()


def test_the_blocks_are_the_same_whether_some_are_set_aside_or_not(labels):
    without = split_blocks(labels, Blocks(seed=2, per_class=10_000))
    with_validation = split_blocks(labels, Blocks(seed=2, per_class=10_000, validation_share=0.3))
    inside = without.masks["train"]
    assert (with_validation.masks["train"] <= inside).all()
    assert (with_validation.masks["validation"] <= inside).all()
    assert (with_validation.masks["test"] >= without.masks["test"]).all()


def test_splits_are_a_function_of_the_seed(labels):
    first, again, other = (split_blocks(labels, Blocks(seed=seed)) for seed in (7, 7, 8))
    for name in first.masks:
        np.testing.assert_array_equal(first.masks[name], again.masks[name])
    assert (first.masks["train"] != other.masks["train"]).any()


def test_a_class_in_few_blocks_is_drawn_until_it_trains(labels):
    rare = labels.copy()
    rare[100:108, 100:110] = 5
    for seed in range(8):
        split = split_blocks(rare, Blocks(seed=seed))
        assert (rare[split.masks["train"]] == 5).any()


def test_classes_with_too_few_test_pixels_are_left_out_of_every_mask(labels):
    rare = labels.copy()
    rare[100:108, 100:110] = 5
    split = split_blocks(rare, Blocks(minimum_test_pixels=100))
    assert split.dropped == (5,)
    for mask in split.masks.values():
        assert not (rare[mask] == 5).any()
    kept = class_counts(rare, split.masks["test"], 6)[:5]
    assert (kept >= 100).all()


def test_a_class_in_one_block_cannot_be_validated_away(labels):
    rare = labels.copy()
    rare[97:107, 97:107] = 5
    split = split_blocks(rare, Blocks(seed=0, validation_share=0.4))
    assert (rare[split.masks["train"]] == 5).any()


def test_blocks_too_few_for_the_classes_are_refused(labels):
    with pytest.raises(InputError, match="no test pixel is left"):
        split_blocks(labels, Blocks(side=64, guard=130))
    with pytest.raises(InputError, match="no draw of 1 of 4 blocks"):
        split_blocks(np.kron(np.array([[0, 1], [2, 3]], np.int32), np.ones((16, 16), np.int32)), Blocks())


@pytest.mark.parametrize("fields", [{"side": 0}, {"train_share": 1.0}, {"validation_share": 1.0}, {"guard": -1}])
def test_impossible_numbers_are_refused(fields):
    with pytest.raises(InputError, match=r"scene.split"):
        Blocks(**fields)


def test_a_large_scene_is_split_in_a_moment():
    labels = synthetic_scene(height=660, width=494, bands=2, classes=6).labels
    start = time.perf_counter()
    split_blocks(labels, Blocks(side=48, validation_share=0.2))
    assert time.perf_counter() - start < 2.0


def test_per_class_takes_the_rest_for_the_test_and_says_that_it_leaks(labels):
    split = split_per_class(labels, per_class=30, validation_share=0.2, seed=0)
    assert (class_counts(labels, split.masks["train"], 5) == 24).all()
    assert (class_counts(labels, split.masks["validation"], 5) == 6).all()
    everything = split.masks["train"] ^ split.masks["validation"] ^ split.masks["test"]
    np.testing.assert_array_equal(everything, labels != UNLABELLED)
    assert "scores are too high" in split.description


def test_per_class_leaves_small_classes_half_of_their_pixels(labels):
    rare = np.where(labels == 4, UNLABELLED, labels)
    rare[60, 60:70] = 4
    split = split_per_class(rare, per_class=30, validation_share=0.0, seed=0)
    assert class_counts(rare, split.masks["train"], 5)[4] == 5


def test_given_masks_lose_their_unlabelled_pixels_only(labels):
    train, test = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    train[:, :50], test[:, 60:] = True, True
    split = split_masks(labels, train, test, Blocks(validation_share=0.2))
    np.testing.assert_array_equal(split.masks["train"] | split.masks["validation"], train & (labels != UNLABELLED))
    np.testing.assert_array_equal(split.masks["test"], test & (labels != UNLABELLED))
    assert split.masks["validation"].any()
    assert not (split.masks["train"] & split.masks["validation"]).any()
    assert (class_counts(labels, split.masks["train"], 5) > 0).all()


def test_overlapping_masks_are_refused_with_the_place(labels):
    train = np.zeros(labels.shape, bool)
    train[30:40, 7:9] = True
    with pytest.raises(InputError, match="share 20 pixels, the first at row 30, column 7"):
        split_masks(labels, train, train, Blocks())


def test_a_class_that_is_tested_and_never_trained_is_refused(labels):
    train = np.isin(labels, [0, 1, 2])
    with pytest.raises(InputError, match=r"classes \[3, 4\]"):
        split_masks(labels, train, ~train, Blocks())


def test_reach_is_a_chebyshev_distance():
    mask = np.zeros((9, 9), bool)
    mask[4, 1] = True
    expected = np.zeros((9, 9), bool)
    expected[2:7, 0:4] = True
    np.testing.assert_array_equal(within_reach(mask, 2), expected)

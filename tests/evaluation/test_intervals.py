import numpy as np
import pytest

from bdgf_jax.evaluation.intervals import FEWEST_BLOCKS, block_bootstrap_interval


def clustered(random, blocks, side, accuracy, alike):
    """Right or wrong of pixels in blocks; a share `alike` of the blocks is right or wrong as a whole."""
    alone = random.random((blocks, side)) < accuracy
    together = np.repeat(random.random((blocks, 1)) < accuracy, side, axis=1)
    return np.where(random.random((blocks, 1)) < alike, together, alone).ravel(), np.repeat(np.arange(blocks), side)


def test_independent_pixels_have_the_interval_of_the_textbook():
    right, block_of = clustered(np.random.default_rng(0), 400, 25, 0.8, alike=0.0)
    low, high = block_bootstrap_interval(right, block_of)
    error = np.sqrt(right.mean() * (1 - right.mean()) / right.size)
    np.testing.assert_allclose([low, high], right.mean() + np.array([-1.96, 1.96]) * error, atol=0.2 * error)


def test_pixels_that_err_together_have_an_interval_as_wide_as_their_blocks_are_few():
    right, block_of = clustered(np.random.default_rng(1), 400, 25, 0.8, alike=1.0)
    low, high = block_bootstrap_interval(right, block_of)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.16 / 400), rel=0.15)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    random = np.random.default_rng(2)
    held = []
    for _ in range(300):
        low, high = block_bootstrap_interval(*clustered(random, 60, 20, 0.75, alike=0.5))
        held.append(low <= 0.75 <= high)
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_faultless_map_has_no_width_and_a_handful_of_blocks_no_interval():
    assert block_bootstrap_interval(np.ones(200, bool), np.arange(200) // 10) == (1.0, 1.0)
    assert block_bootstrap_interval(np.ones(200, bool), np.arange(200) % (FEWEST_BLOCKS - 1)) is None


def test_blocks_of_any_number_and_size_weigh_by_their_pixels():
    """Twelve blocks, of which the largest holds nearly everything: its accuracy is what most draws come near."""
    block_of = np.concatenate([np.full(10_000, 7), np.arange(11) + 100])
    right = np.concatenate([np.ones(10_000, bool), np.zeros(11, bool)])
    low, high = block_bootstrap_interval(right, block_of)
    assert low == 0.0  # the draws without the large block, (11/12)^12 = 35 % of them
    assert high > 0.99

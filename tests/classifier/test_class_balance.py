import numpy as np

from bdgf_jax.classifier.class_balance import balanced_candidates, class_weights

LABELS = np.full((6, 6), -1, np.int32)
LABELS[0, :5] = 0
LABELS[1, :2] = 1
LABELS[2, :1] = 3
CANDIDATES = np.argwhere(LABELS >= 0).astype(np.int32)


def test_every_class_comes_as_often_as_the_largest():
    drawn = balanced_candidates(CANDIDATES, LABELS)
    np.testing.assert_array_equal(np.bincount(LABELS[drawn[:, 0], drawn[:, 1]]), [5, 5, 0, 5])


def test_pixels_of_a_class_come_equally_often_give_or_take_one():
    drawn = balanced_candidates(CANDIDATES, LABELS)
    _, repeats = np.unique(drawn[LABELS[drawn[:, 0], drawn[:, 1]] == 1], axis=0, return_counts=True)
    assert sorted(repeats) == [2, 3]


def test_a_seed_draws_the_same_list_again():
    first, again = (balanced_candidates(CANDIDATES, LABELS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_class_weights_give_every_class_the_same_say():
    weights = class_weights(LABELS, 4)
    np.testing.assert_allclose(weights[[0, 1, 3]] * [5, 2, 1], 8 / 3, rtol=1e-6)
    assert weights[2] == 0.0

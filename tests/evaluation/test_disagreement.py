import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from bdgf_jax.evaluation.disagreement import jensen_shannon_divergence


def draws(seed, members, shape, classes):
    return list(np.random.default_rng(seed).dirichlet(np.ones(classes), (members, *shape)).astype(np.float32))


def test_two_members_agree_with_scipy():
    first, second = draws(0, 2, (6, 7), 5)
    expected = jensenshannon(first.astype(np.float64), second.astype(np.float64), axis=-1, base=2) ** 2
    np.testing.assert_allclose(jensen_shannon_divergence([first, second]), expected, atol=1e-6)


def test_members_that_say_the_same_do_not_disagree_however_unsure_they_are():
    flat = np.full((4, 3), 1 / 3, np.float32)
    np.testing.assert_allclose(jensen_shannon_divergence([flat] * 3), 0.0, atol=1e-7)
    sure = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(jensen_shannon_divergence([sure] * 3), 0.0)


@pytest.mark.parametrize(("members", "classes"), [(3, 3), (3, 7), (4, 2), (2, 2)])
def test_members_that_are_each_sure_of_another_class_disagree_fully(members, classes):
    sure = [np.eye(classes, dtype=np.float32)[[b % classes]] for b in range(members)]
    np.testing.assert_allclose(jensen_shannon_divergence(sure), 1.0, rtol=1e-6)


def test_the_order_of_members_and_classes_does_not_matter_and_it_stays_within_0_and_1():
    members = draws(1, 3, (50,), 6)
    expected = jensen_shannon_divergence(members)
    assert expected.min() >= 0.0
    assert expected.max() <= 1.0
    np.testing.assert_allclose(jensen_shannon_divergence(members[::-1]), expected, atol=1e-6)
    np.testing.assert_allclose(jensen_shannon_divergence([member[:, ::-1] for member in members]), expected, atol=1e-6)

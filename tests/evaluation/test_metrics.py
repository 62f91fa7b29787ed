import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import confusion_matrix, scores, users_accuracy

LABELS = st.integers(1, 200).flatmap(lambda n: st.tuples(*[hnp.arrays(np.int32, n, elements=st.integers(0, 5))] * 2))


@given(LABELS)
def test_confusion_and_accuracies_agree_with_scikit_learn(labels):
    reference, prediction = labels
    confusion = confusion_matrix(reference, prediction, 6)
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(reference, prediction, labels=range(6)))
    result = scores(confusion)
    present = np.unique(reference)
    recall = sklearn.metrics.recall_score(reference, prediction, labels=range(6), average=None, zero_division=np.nan)
    precision = sklearn.metrics.precision_score(
        reference, prediction, labels=range(6), average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(result["oa"], sklearn.metrics.accuracy_score(reference, prediction), rtol=1e-14)
    np.testing.assert_allclose(result["aa"], recall[present].mean(), rtol=1e-14)
    np.testing.assert_allclose(np.array(result["per_class"])[present], recall[present], rtol=1e-14)
    np.testing.assert_allclose(users_accuracy(confusion), precision, rtol=1e-14)
    if len(np.union1d(reference, prediction)) > 1:
        kappa = sklearn.metrics.cohen_kappa_score(reference, prediction)
        np.testing.assert_allclose(result["kappa"], kappa, rtol=1e-12, atol=1e-14)


@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 10**9)).filter(np.any), st.permutations(range(4)))
def test_the_order_of_the_classes_does_not_matter(confusion, order):
    ours, permuted = scores(confusion), scores(confusion[np.ix_(order, order)])
    np.testing.assert_allclose([ours[name] for name in ("oa", "aa")], [permuted[name] for name in ("oa", "aa")])
    np.testing.assert_array_equal(np.array(ours["per_class"])[list(order)], permuted["per_class"])


def test_published_example_of_cohen():
    """J. Cohen, Educational and Psychological Measurement 20 (1960): proportions of table 1, κ = 0.492."""
    confusion = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    assert scores(confusion)["oa"] == pytest.approx(0.70)
    assert scores(confusion)["kappa"] == pytest.approx(0.492, abs=5e-4)


def test_counts_beyond_32_bits_do_not_overflow():
    confusion = np.array([[2**40, 2**40], [0, 2**41]])
    assert scores(confusion)["kappa"] == pytest.approx(0.5)


def test_a_class_without_reference_pixels_is_left_out_of_the_average():
    result = scores(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]]))
    assert result["aa"] == pytest.approx((0.75 + 1.0) / 2)
    assert np.isnan(result["per_class"][1])


def test_kappa_is_undefined_where_there_is_one_class_only():
    result = scores(confusion_matrix(np.zeros(5, int), np.zeros(5, int), 3))
    assert result["oa"] == result["aa"] == 1.0
    assert np.isnan(result["kappa"])


def test_no_test_pixels_is_the_users_to_mend():
    with pytest.raises(InputError, match="no test pixels"):
        confusion_matrix(np.zeros(0, int), np.zeros(0, int), 3)
    with pytest.raises(InputError, match="no test pixels"):
        scores(np.zeros((3, 3), int))


@pytest.mark.parametrize(("reference", "prediction", "name"), [(-1, 0, "reference"), (0, 3, "map")])
def test_labels_outside_the_class_table_are_refused(reference, prediction, name):
    with pytest.raises(InputError, match=f"{name} has labels from .* expected 0 to 2"):
        confusion_matrix(np.array([reference]), np.array([prediction]), 3)

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

from bdgf_jax.evaluation.calibration import BINS, error_detection, expected_calibration_error, reliability


@pytest.fixture
def claims():
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 2, 5000).astype(np.float32)
    return confidence, rng.random(5000) < confidence**2


def test_bins_agree_with_scikit_learn(claims):
    confidence, right = claims
    bins = reliability(confidence, right)
    assert [one["pixels"] for one in bins] == np.histogram(confidence, BINS, (0, 1))[0].tolist()
    accuracy, claimed = sklearn.calibration.calibration_curve(right, confidence, n_bins=BINS)
    filled = [one for one in bins if one["pixels"]]
    np.testing.assert_allclose([one["accuracy"] for one in filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose([one["confidence"] for one in filled], claimed, rtol=1e-6)


def test_a_hand_made_case():
    """Two pixels claim 0.9 and one is right, two claim 0.6 and both are: 0.5 · 0.4 + 0.5 · 0.4."""
    bins = reliability(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True]))
    assert expected_calibration_error(bins) == pytest.approx(0.4)
    assert sum(one["accuracy"] is None for one in bins) == BINS - 2


def test_honest_confidence_is_nearly_calibrated_and_an_overconfident_map_is_off_by_its_excess():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.4, 0.9, 200_000)
    honest = expected_calibration_error(reliability(confidence, rng.random(200_000) < confidence))
    boastful = expected_calibration_error(reliability(confidence + 0.1, rng.random(200_000) < confidence))
    assert honest < 0.01
    assert boastful == pytest.approx(0.1, abs=0.01)


def test_full_and_no_confidence_lie_in_the_outer_bins():
    bins = reliability(np.array([0.0, 1.0]), np.array([False, True]))
    assert (bins[0]["pixels"], bins[-1]["pixels"]) == (1, 1)
    assert expected_calibration_error(bins) == 0.0


def test_the_detection_of_errors_agrees_with_scikit_learn_ties_included(claims):
    confidence, right = claims
    doubt = np.round(1 - confidence, 1)
    assert error_detection(doubt, right) == pytest.approx(sklearn.metrics.roc_auc_score(~right, doubt), rel=1e-12)
    assert error_detection(np.zeros(4), np.array([True, True, False, True])) == 0.5
    assert error_detection(doubt, np.ones_like(right)) is None

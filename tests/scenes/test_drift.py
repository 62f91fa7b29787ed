import numpy as np
import pytest

from bdgf_jax.scenes.drift import Drift, describe_drift, measure_drift
from bdgf_jax.scenes.scene import Modality
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform


def modality(scale=1.0, offset=0.0):
    random = np.random.default_rng(0)
    image = (random.normal(size=(40, 50, 2)) @ random.normal(size=(2, 4))).astype(np.float32)
    image += 0.3 * random.normal(size=image.shape).astype(np.float32)
    valid = random.random((40, 50)) > 0.2
    return Modality(scale * image + np.float32(offset), valid, tuple("abcd"), "optical")


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_the_scene_that_a_transform_was_fitted_on_has_not_drifted(mode):
    transform = fit_band_transform(modality(), mode=mode)
    drift = measure_drift(apply_band_transform(transform, modality()), modality().valid, transform.explained)
    np.testing.assert_allclose(drift, (0.0, 1.0), atol=1e-3)
    assert describe_drift("optical", drift) is None


def test_other_units_show_in_the_spread():
    transform = fit_band_transform(modality())
    seen = apply_band_transform(transform, modality(scale=3.0))
    drift = measure_drift(seen, modality().valid, transform.explained)
    np.testing.assert_allclose(drift.spread, 3.0, rtol=1e-3)


def test_shift_and_spread_follow_the_closed_form():
    image = np.stack([np.array([[1.0, 3.0]]), np.array([[0.0, 0.0]])], -1).astype(np.float32)
    drift = measure_drift(image, np.ones((1, 2), bool), np.array([0.6, 0.2]))
    np.testing.assert_allclose(drift, (np.sqrt(0.75) * 2.0, np.sqrt(0.75)))


def test_what_lies_far_off_is_a_warning_with_both_figures():
    finding = describe_drift("optical", Drift(3.21, 0.4))
    assert (finding.severity, finding.subject) == ("warning", "optical")
    assert "3.2 deviations away, its spread 0.4 times" in finding.message
    assert describe_drift("optical", Drift(0.0, 2.5)) is not None
    assert describe_drift("optical", Drift(0.9, 1.9)) is None

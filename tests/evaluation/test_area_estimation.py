import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.area_estimation import NORMAL, estimate_areas

# Olofsson et al. 2014, section 5: deforestation, forest gain, stable forest, stable non-forest. Map in rows, as there.
SAMPLED = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09  # a Landsat pixel


def test_the_published_example_comes_out_as_published():
    found = estimate_areas(SAMPLED.T, MAPPED)
    hectares = found.areas * MAPPED.sum() * HECTARES
    np.testing.assert_allclose(hectares, [21_158, 11_686, 285_770, 581_386], atol=0.5)
    margins = found.areas_margin * MAPPED.sum() * HECTARES
    np.testing.assert_allclose(margins, [6_158, 3_756, 15_510, 16_282], atol=0.5)
    assert found.oa == pytest.approx(0.95, abs=5e-3)
    assert found.oa_margin == pytest.approx(0.02, abs=5e-3)
    np.testing.assert_allclose(found.users, [0.88, 0.73, 0.93, 0.96], atol=5e-3)
    np.testing.assert_allclose(found.users_margin, [0.07, 0.10, 0.04, 0.02], atol=5e-3)
    np.testing.assert_allclose(found.producers, [0.75, 0.85, 0.93, 0.96], atol=5e-3)


def test_margins_are_what_sampling_again_and_again_gives():
    random = np.random.default_rng(0)
    sampled = 20 * SAMPLED  # so that estimates are nearly normal
    rates = sampled / sampled.sum(axis=1, keepdims=True)
    again = np.stack([random.multinomial(n.sum(), p, size=2000) for n, p in zip(sampled, rates)], axis=1)
    drawn = [estimate_areas(counts.T, MAPPED) for counts in again]
    found = estimate_areas(sampled.T, MAPPED)
    for name in ("oa", "users", "producers", "areas"):
        spread = np.std([getattr(one, name) for one in drawn], axis=0)
        np.testing.assert_allclose(getattr(found, f"{name}_margin"), NORMAL * spread, rtol=0.1)


def test_a_map_without_errors_covers_what_it_shows_for_certain():
    found = estimate_areas(np.diag([10, 20, 30]), np.array([500, 300, 200]))
    np.testing.assert_allclose(found.areas, [0.5, 0.3, 0.2])
    assert found.oa == 1.0
    for margin in (found.oa_margin, found.users_margin, found.producers_margin, found.areas_margin):
        np.testing.assert_array_equal(margin, 0.0)


def test_classes_that_the_map_or_the_sample_lacks_have_no_accuracy_of_that_kind():
    reference_by_map = np.array([[8, 0, 0], [2, 0, 0], [0, 0, 0]])
    found = estimate_areas(reference_by_map, np.array([100, 0, 0]))
    np.testing.assert_allclose(found.areas, [0.8, 0.2, 0.0])
    np.testing.assert_array_equal(np.isnan(found.users), [False, True, True])
    np.testing.assert_array_equal(np.isnan(found.producers), [False, False, True])


def test_a_mapped_class_that_was_hardly_sampled_is_named():
    with pytest.raises(InputError, match=r"of the classes \[1\] .* fewer than 2 test pixels were sampled"):
        estimate_areas(np.array([[8, 1], [0, 0]]), np.array([100, 50]))

import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.literature_protocol import selected_on_test


def test_the_step_is_the_one_with_the_best_overall_accuracy_and_its_other_figures_come_along():
    log = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "test/oa": 0.7, "test/aa": 0.9, "test/kappa": 0.8, "validation/oa": 0.1},
        {"step": 40, "test/oa": 0.8, "test/aa": 0.6, "test/kappa": None, "validation/oa": 0.2},
        {"step": 60, "test/oa": 0.6, "test/aa": 0.7, "test/kappa": 0.5, "validation/oa": 0.9},
    ]
    assert selected_on_test(log) == {"step": 40, "oa": 0.8, "aa": 0.6, "kappa": None}


def test_a_training_that_did_not_watch_the_test_pixels_cannot_be_asked():
    with pytest.raises(InputError, match=r"did not: set train\.evaluate_every above 0 and train again"):
        selected_on_test([{"step": 20, "loss": 1.0, "validation/oa": 0.9}])

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdgf_jax.diffusion.masking import RULES, TIME_BINS, draw_masks, masking_rule, update_skills
from bdgf_jax.errors import InputError

BATCH = 256


def ratios(masking, rule, skills, steps=1):
    masking = masking.copy_and_resolve_references()
    masking.rule = rule
    made = masking_rule(masking, len(skills), BATCH)
    state = made.state
    for step in range(steps):
        answer, state = made.apply(state, jnp.asarray(skills), jax.random.key(step))
    return np.asarray(answer)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_answers_probabilities_for_each_sample_and_modality(masking, rule):
    answer = ratios(masking, rule, [0.9, 0.3, 0.1], steps=5)
    assert answer.shape == (BATCH, 3)
    assert (answer >= 0.0).all()
    assert (answer <= 1.0).all()


@pytest.mark.parametrize("rule", ["adaptive", "loss_ratio", "miam", "alone"])
def test_an_adaptive_rule_hides_the_modality_that_is_ahead_more_often(masking, rule):
    mean = ratios(masking, rule, [0.8, 0.2], steps=20).mean(0)
    assert mean[0] > mean[1] + 0.05


@pytest.mark.parametrize("rule", ["adaptive", "loss_ratio", "miam", "alone"])
def test_an_adaptive_rule_treats_equals_alike(masking, rule):
    mean = ratios(masking, rule, [0.5, 0.5], steps=20).mean(0)
    assert abs(mean[0] - mean[1]) < 0.1


def test_the_adaptive_rule_is_its_formula(masking):
    rho = (0.8 + 1e-3) / (0.2 + 1e-3)
    expected = [min(1.0, 0.4 * (1.0 + 0.5 * np.tanh(rho - 1.0))), 0.05]
    np.testing.assert_allclose(ratios(masking, "adaptive", [0.8, 0.2])[0], expected, rtol=1e-6)


def test_random_ratios_have_the_fixed_mean(masking):
    assert abs(ratios(masking, "random", [0.5, 0.5]).mean() - 0.4) < 0.03
    assert (ratios(masking, "fixed", [0.5, 0.5]) == np.float32(0.4)).all()
    assert (ratios(masking, "none", [0.5, 0.5]) == 0.0).all()


def test_alone_shows_one_modality_and_hides_as_much_as_fixed(masking):
    answer = ratios(masking, "alone", [0.5, 0.5, 0.5])
    assert set(np.unique(answer)) == {0.0, 1.0}
    assert set(answer.sum(1)) == {0.0, 2.0}
    assert abs(answer.mean() - 0.4) < 0.05


def test_alone_draws_the_modality_that_it_shows_by_its_skill(masking):
    answer = np.concatenate([ratios(masking, "alone", [0.6, 0.4, 0.4], steps=steps) for steps in range(1, 21)])
    shown = (answer == 0.0)[answer.sum(1) > 0.0].mean(0)
    weights = np.exp(-np.array([0.6, 0.4, 0.4]) / masking.temperature)
    np.testing.assert_allclose(shown, weights / weights.sum(), atol=0.03)


def test_an_unknown_rule_is_refused_by_name(masking):
    with pytest.raises(InputError, match=r"masking.rule must be one of none, fixed"):
        ratios(masking, "clever", [0.5, 0.5])


@pytest.mark.parametrize("ramp", [(0.2, 0.4, 0.6), (0.8, 0.4)])
def test_a_ramp_that_is_no_stretch_is_refused(masking, ramp):
    wrong = masking.copy_and_resolve_references()
    wrong.ramp = ramp
    with pytest.raises(InputError, match=r"masking.ramp is \(.*; expected two shares of the training"):
        masking_rule(wrong, 2, BATCH)


@settings(max_examples=20, deadline=None)
@given(ratio=st.floats(0.0, 1.0), whole=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_nothing_is_hidden_in_all_modalities_at_once(ratio, whole, seed):
    masks = draw_masks(jnp.full((8, 3), ratio), 10, cell=4, whole=whole, key=jax.random.key(seed))
    assert masks.shape == (3, 8, 10, 10)
    assert not masks.all(0).any()


def test_cells_are_hidden_as_often_as_asked():
    masks = draw_masks(jnp.tile(jnp.array([[0.5, 0.1]]), (512, 1)), 16, cell=4, whole=0.0, key=jax.random.key(0))
    shares = masks.mean((1, 2, 3))
    # A cell hidden in both, 5 % of them, is shown again in one of the two.
    np.testing.assert_allclose(shares, [0.475, 0.075], atol=0.01)


def test_a_cell_is_hidden_as_one():
    masks = np.asarray(draw_masks(jnp.full((16, 2), 0.5), 16, cell=4, whole=0.0, key=jax.random.key(0)))
    blocks = masks.reshape(2, 16, 4, 4, 4, 4)
    assert (blocks.max((3, 5)) == blocks.min((3, 5))).all()


def test_a_modality_is_hidden_whole_where_asked():
    masks = np.asarray(draw_masks(jnp.full((64, 2), 0.5), 16, cell=4, whole=1.0, key=jax.random.key(0)))
    shares = masks.mean((2, 3))
    assert set(np.unique(shares)) == {0.0, 1.0}


def test_skills_follow_their_definition_and_keep_where_nothing_is_seen():
    before = jnp.full((2, TIME_BINS), 0.5)
    errors = jnp.array([[1.0, 4.0], [0.0, 0.0]])
    variances = jnp.array([[4.0, 4.0], [0.0, 0.0]])
    after = np.asarray(update_skills(before, errors, variances, jnp.array([0, 99]), 100, decay=0.9))
    np.testing.assert_allclose(after[0], [0.9 * 0.5 + 0.1 * 0.75, 0.5, 0.5, 0.45], rtol=1e-6)
    np.testing.assert_array_equal(after[1], 0.5)

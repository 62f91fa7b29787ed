import jax
import jax.numpy as jnp
import numpy as np

from bdgf_jax.training.state import TrainState, initial_state


def test_the_first_state_shares_no_memory_with_what_it_is_made_of():
    parameters, carry = {"kernel": jnp.ones((2, 3))}, {"rule": jnp.arange(2)}
    state = initial_state(parameters, carry, jax.tree.map(jnp.zeros_like, parameters))
    jax.tree.map(lambda leaf: leaf.delete(), state)
    np.testing.assert_array_equal(parameters["kernel"], 1.0)
    np.testing.assert_array_equal(carry["rule"], [0, 1])


def test_a_state_is_one_tree_of_named_parts():
    state = initial_state(jnp.ones(2), (), ())
    assert isinstance(jax.tree.map(jnp.zeros_like, state), TrainState)
    paths = [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree.leaves_with_path(state)]
    assert paths == ["step", "parameters", "ema", "skipped", "skipped_in_a_row"]
    np.testing.assert_array_equal(state.ema, state.parameters)
    assert {leaf.dtype.name for leaf in (state.step, state.skipped)} == {"int32"}

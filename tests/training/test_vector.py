import jax
import jax.numpy as jnp
import numpy as np

from bdgf_jax.training.vector import from_vector, to_vector


def test_leaves_follow_one_another_row_by_row():
    tree = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array(5.0), "c": jnp.array([6.0], jnp.bfloat16)}
    vector = to_vector(tree)
    assert vector.dtype == jnp.float32
    np.testing.assert_array_equal(vector, [1, 2, 3, 4, 5, 6])


def test_there_and_back_nothing_changes():
    tree = {"kernel": jnp.arange(6.0).reshape(2, 3) / 7, "norm": (jnp.array(0.3, jnp.bfloat16), jnp.ones(1))}
    back = from_vector(to_vector(tree), tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == jax.tree.map(lambda leaf: leaf.dtype, tree)

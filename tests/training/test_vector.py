import jax
import jax.numpy as jnp
import numpy as np

from bdgf_jax.training.vector import Layout

TREE = {"kernel": jnp.arange(6.0).reshape(2, 3) / 7, "norm": (jnp.array(0.3, jnp.bfloat16), jnp.ones(1))}


def test_leaves_follow_one_another_row_by_row_and_zeros_fill_up():
    tree = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array(5.0), "c": jnp.array([6.0], jnp.bfloat16)}
    layout = Layout(tree, multiple=4)
    vector = layout.to_vector(tree)
    assert vector.dtype == jnp.float32
    np.testing.assert_array_equal(vector, [1, 2, 3, 4, 5, 6, 0, 0])
    np.testing.assert_array_equal(layout.matrices, [True] * 4 + [False] * 4)


def test_a_place_of_the_vector_is_named_by_its_leaf():
    assert [Layout(TREE).name_at(place) for place in (0, 5, 6, 7)] == ["kernel", "kernel", "norm/0", "norm/1"]


def test_there_and_back_nothing_changes():
    layout = Layout(TREE, multiple=5)
    back = layout.to_tree(layout.to_vector(TREE))
    jax.tree.map(np.testing.assert_array_equal, back, TREE)
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == jax.tree.map(lambda leaf: leaf.dtype, TREE)


def test_a_number_is_rounded_to_what_its_leaf_can_hold():
    layout = Layout(TREE)
    rounded = layout.rounded(layout.to_vector(TREE) + 1e-6)
    np.testing.assert_array_equal(rounded[:6], TREE["kernel"].ravel() + 1e-6)
    assert rounded[6] == jnp.bfloat16(0.3).astype(jnp.float32)
    alike = Layout(TREE["kernel"])
    assert alike.rounded(vector := alike.to_vector(TREE["kernel"])) is vector

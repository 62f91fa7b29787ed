"""All arrays of a pytree as one vector, so that one operation updates them all."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


def to_vector(tree: PyTree) -> Float[Array, " n"]:
    """The leaves one after the other, each in row-major order, in float32 whatever theirs is."""
    return jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(tree)])


def from_vector(vector: Float[Array, " n"], like: PyTree) -> PyTree:
    """The inverse of `to_vector`: a tree of the structure, shapes and dtypes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = jnp.split(vector, ends[:-1])
    return structure.unflatten(
        part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)
    )

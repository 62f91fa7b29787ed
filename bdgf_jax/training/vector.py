"""All arrays of a pytree as one vector, so that one operation updates them all, and devices share it out evenly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree


class Layout:
    """Where each leaf of a tree lies in the vector: one after the other, in row-major order, and zeros at the end.

    Args:
      like: arrays or `jax.ShapeDtypeStruct`s of the structure, shapes and dtypes that `to_tree` gives.
      multiple: of which the vector's length is one, such as the number of devices that share it.
    """

    def __init__(self, like: PyTree, *, multiple: int = 1):
        leaves, self._structure = jax.tree.flatten(like)
        self._paths = [path for path, _ in jax.tree.leaves_with_path(like)]
        self._leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        self._ends = np.cumsum([leaf.size for leaf in self._leaves])
        self.size = int(self._ends[-1])
        self.length = math.ceil(self.size / multiple) * multiple

    def to_vector(self, tree: PyTree) -> Float[Array, " n"]:
        """The leaves of a tree of this structure, in float32 whatever theirs is."""
        flat = jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in jax.tree.leaves(tree)])
        return self.pad(flat)

    def to_tree(self, vector: Float[Array, " n"]) -> PyTree:
        """The inverse of `to_vector`."""
        parts = jnp.split(self.cut(vector), self._ends[:-1])
        return self._structure.unflatten(
            part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, self._leaves, strict=True)
        )

    def pad(self, vector: Float[Array, " n"]) -> Float[Array, " padded"]:
        """With the zeros at the end."""
        return jnp.pad(vector, (0, self.length - self.size))

    def cut(self, vector: Float[Array, " padded"]) -> Float[Array, " n"]:
        """Without the zeros at the end."""
        return vector[: self.size]

    def rounded(self, vector: Float[Array, " n"]) -> Float[Array, " n"]:
        """With each number as exact as the dtype of its leaf can hold it."""
        if all(leaf.dtype == jnp.float32 for leaf in self._leaves):
            return vector
        return self.to_vector(self.to_tree(vector))

    def name_at(self, position: int) -> str:
        """The path in the tree of the leaf that this place of the vector belongs to, with slashes between its parts."""
        path = self._paths[np.searchsorted(self._ends, position, side="right")]
        return jax.tree_util.keystr(path, simple=True, separator="/")

    @property
    def matrices(self) -> Bool[np.ndarray, " n"]:
        """True where the number is of a leaf with two axes or more."""
        here = np.concatenate([np.full(leaf.size, leaf.ndim >= 2) for leaf in self._leaves])
        return np.pad(here, (0, self.length - self.size))

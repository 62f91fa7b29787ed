"""Flips and quarter turns of patches: the eight symmetries of the square."""

from itertools import product
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

Patches = TypeVar("Patches")


def random_symmetries(key: PRNGKeyArray, count: int) -> Int[Array, " count"]:
    """One of the square's eight symmetries for each patch, uniformly."""
    return jax.random.randint(key, (count,), 0, 8)


def transform(patches: Patches, symmetries: Int[Array, " b"]) -> Patches:
    """Turns each patch of every array in the tree (b p p …) by its symmetry, the same for all arrays.

    The pixels are gathered by a table of the eight orders that they can come in: one copy, where choosing between
    flipped and transposed patches would make six.
    """
    return jax.tree.map(lambda array: _transform(array, symmetries), patches)


def _transform(array: Array, symmetries: Int[Array, " b"]) -> Array:
    pixels = array.reshape(array.shape[0], -1, *array.shape[3:])
    order = jnp.asarray(pixel_orders(array.shape[1]))[symmetries]
    return jax.vmap(lambda patch, order: patch[order])(pixels, order).reshape(array.shape)


def pixel_orders(side: int) -> Int[np.ndarray, "8 l"]:
    """For each symmetry, the pixel that comes to stand at each place of a patch, both counted row by row."""
    pixels = np.arange(side * side, dtype=np.int32).reshape(side, side)
    orders = []
    for transposed, upturned, mirrored in product((False, True), repeat=3):
        turned = pixels.T if transposed else pixels
        turned = turned[::-1] if upturned else turned
        orders.append((turned[:, ::-1] if mirrored else turned).ravel())
    return np.stack(orders)

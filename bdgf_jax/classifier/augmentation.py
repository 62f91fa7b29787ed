"""What training does to patches so that they are not learnt by heart: symmetries of the square, and offsets."""

import math
from itertools import product
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

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


def jitter(patches: Patches, key: PRNGKeyArray, deviation: float) -> Patches:
    """Adds one random offset to every channel of every patch, normally distributed with this standard deviation.

    Absolute levels, such as an elevation, betray the few places that training pixels come from; differences inside a
    patch stay as they are [ours].

    Args:
      patches: arrays (b p p …) whose channels have unit variance over the scene.
      key: of the offsets, which are drawn for all arrays at once: a draw for each takes longer to compile.
      deviation: of the offsets; 0 leaves the patches alone.
    """
    if deviation == 0.0:
        return patches
    arrays, structure = jax.tree.flatten(patches)
    sizes = [math.prod(array.shape[3:]) for array in arrays]
    drawn = deviation * jax.random.normal(key, (arrays[0].shape[0], sum(sizes)))
    offsets = jnp.split(drawn, np.cumsum(sizes)[:-1], axis=1)
    return structure.unflatten(_moved(array, offset) for array, offset in zip(arrays, offsets))


def _moved(array: Float[Array, "b p p *c"], offset: Float[Array, "b _"]) -> Float[Array, "b p p *c"]:
    return array + offset.astype(array.dtype).reshape(array.shape[0], 1, 1, *array.shape[3:])


def pixel_orders(side: int) -> Int[np.ndarray, "8 l"]:
    """For each symmetry, the pixel that comes to stand at each place of a patch, both counted row by row."""
    pixels = np.arange(side * side, dtype=np.int32).reshape(side, side)
    orders = []
    for transposed, upturned, mirrored in product((False, True), repeat=3):
        turned = pixels.T if transposed else pixels
        turned = turned[::-1] if upturned else turned
        orders.append((turned[:, ::-1] if mirrored else turned).ravel())
    return np.stack(orders)

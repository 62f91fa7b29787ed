"""Dropout without state: the key is handed down with the call."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def drop_channels(grid: Float[Array, "b p p d"], rate: float, rngs: nnx.Rngs | None) -> Float[Array, "b p p d"]:
    """Zeroes whole channels of a patch with probability `rate` and scales the others by 1 / (1 - rate).

    Neighbouring tokens are so alike that dropping single ones would drop nothing; arXiv 1411.4280. Without `rngs` the
    grid is returned as it is. A key is drawn from the stream `dropout`.
    """
    if rngs is None or rate == 0.0:
        return grid
    keep = jax.random.bernoulli(rngs.dropout(), 1.0 - rate, (grid.shape[0], 1, 1, grid.shape[-1]))
    return jnp.where(keep, grid / (1.0 - rate), 0.0)

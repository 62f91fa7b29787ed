"""Dropout without state: the key is handed down with the call."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def channel_scales(
    stages: int, batch: int, features: int, *, rate: float, rngs: nnx.Rngs | None
) -> Float[Array, "stages b 1 1 d"] | None:
    """Each stage's factors of its channels: 0 with probability `rate`, else 1 / (1 - rate); None without `rngs`.

    Whole channels of a patch: neighbouring tokens are so alike that dropping single ones would drop nothing; arXiv
    1411.4280. One draw, from the stream `dropout`, serves all stages, since a draw for each takes longer to compile.
    """
    if rngs is None or rate == 0.0:
        return None
    keep = jax.random.bernoulli(rngs.dropout(), 1.0 - rate, (stages, batch, 1, 1, features))
    return jnp.where(keep, 1.0 / (1.0 - rate), 0.0)

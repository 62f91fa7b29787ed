"""Feature fusion: how diffusion features guide the CNN branch."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class FeatureFusion(nnx.Module):
    """Adds to each token what it and the diffusion features at its place say together, as far as both open the gate.

        F <- F + sigmoid(W_g [F, G]) * W_f [F, G],

    token by token (a 1×1 convolution). [paper] names the mechanism, arXiv 2509.23310; the gate is [ours].

    Args:
      features: width d of the branch.
      dtype: of the matrix products.
    """

    def __init__(self, features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.gate = nnx.Linear(2 * features, features, dtype=dtype, rngs=rngs)
        self.fuse = nnx.Linear(2 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b l d"]) -> Float[Array, "*b l d"]:
        """The guided tokens."""
        both = jnp.concatenate([tokens, guidance], axis=-1)
        return tokens + nnx.sigmoid(self.gate(both)) * self.fuse(both)

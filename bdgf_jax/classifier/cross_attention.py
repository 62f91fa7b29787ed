"""Cross-attention: how diffusion features guide the transformer branch."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.attention import MultiHeadAttention


class CrossAttention(nnx.Module):
    """Lets every token look for what it needs anywhere in the diffusion features of the patch.

    With F the branch's tokens and G the diffusion features of the same patch,

        F <- F + W_o softmax(Q(LN F) K(G)^T / sqrt(d / heads)) V(G).

    [paper] names the mechanism, arXiv 2509.23310; residual and normalisation are the transformer's own [kin].

    Args:
      features: width d of the branch, a multiple of `heads`.
      heads: number of heads.
      dtype: of the matrix products.
    """

    def __init__(self, features: int, *, heads: int, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.attention = MultiHeadAttention(features, heads=heads, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b m d"]) -> Float[Array, "*b l d"]:
        """The guided tokens."""
        return tokens + self.attention(self.norm(tokens), guidance)

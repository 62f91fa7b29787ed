"""The stages of the transformer branch: self-attention, guidance, MLP."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.attention import MultiHeadAttention
from bdgf_jax.classifier.branch import Stage


class TransformerStage(Stage):
    """F <- F + SA(LN F), then guidance, then F <- F + MLP(LN F) [kin: the decoder block of arXiv 1706.03762, pre-norm].

    Args:
      features: width d of the branch, a multiple of `heads`.
      heads: number of heads.
      dtype: of the matrix products.
    """

    def __init__(self, features: int, *, heads: int, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.norm_attention = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.attention = MultiHeadAttention(features, heads=heads, dtype=dtype, rngs=rngs)
        self.norm_mlp = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.expand = nnx.Linear(features, 2 * features, dtype=dtype, rngs=rngs)
        self.contract = nnx.Linear(2 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, grid: Float[Array, "b p p d"], guide: Callable[[Array], Array]) -> Float[Array, "b p p d"]:
        """The grid after attention, guidance and MLP."""
        tokens = self.norm_attention(grid).reshape(grid.shape[0], -1, grid.shape[-1])
        grid = guide(grid + self.attention(tokens, tokens).reshape(grid.shape))
        return grid + self.contract(nnx.gelu(self.expand(self.norm_mlp(grid))))

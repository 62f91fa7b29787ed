"""The guidance mechanisms by name: any of them can serve any branch, so that an ablation is a line of config."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.cross_attention import CrossAttention
from bdgf_jax.classifier.feature_fusion import FeatureFusion
from bdgf_jax.classifier.group_channel_attention import ChannelCrossAttention, GroupChannelAttention
from bdgf_jax.errors import InputError

MECHANISMS = ("fusion", "group_channel_attention", "channel_cross_attention", "cross_attention", "concatenation")


class Concatenation(nnx.Module):
    """The plainest guidance, F <- W [F, G]: what every mechanism must beat to be worth its name [ours].

    Args:
      features: width d of the branch.
      dtype: of the matrix product.
    """

    def __init__(self, features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.project = nnx.Linear(2 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b l d"]) -> Float[Array, "*b l d"]:
        """The guided tokens."""
        return self.project(jnp.concatenate([tokens, guidance], axis=-1))


Mechanism = Callable[[Array, Array], Array]
"""(tokens, guidance), both (b l d) -> guided tokens: one of `MECHANISMS`, or any module that is called so."""


class Guide(nnx.Module):
    """One stage's guidance: the level's diffusion features, projected to the branch's width, through a mechanism.

    Args:
      features: width d of the branch.
      level: which level of the diffusion features guides this stage.
      channels: channels of that level, timesteps merged.
      mechanism: takes tokens and guidance, both of width d, and returns the guided tokens.
      dtype: of the projection.
    """

    def __init__(
        self,
        features: int,
        *,
        level: int,
        channels: int,
        mechanism: Mechanism,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.level = level
        self.project = nnx.Linear(channels, features, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.mechanism = mechanism

    def __call__(self, grid: Float[Array, "b p p d"], levels: Sequence[Array]) -> Float[Array, "b p p d"]:
        """The guided grid, given patches (b p p c) of every level."""
        tokens = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        guidance = self.norm(self.project(levels[self.level])).astype(grid.dtype).reshape(tokens.shape)
        return self.mechanism(tokens, guidance).reshape(grid.shape)


def make_mechanism(
    name: str, features: int, *, groups: int, reduction: int, heads: int, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
) -> Mechanism:
    """The mechanism of that name.

    Args:
      name: one of `MECHANISMS`.
      features: width d of the branch.
      groups: of both forms of group channel attention.
      reduction: of the gate of group channel attention.
      heads: of cross-attention.
      dtype: of the matrix products.

    Raises:
      InputError: if no mechanism has that name.
    """
    match name:
        case "fusion":
            return FeatureFusion(features, dtype=dtype, rngs=rngs)
        case "group_channel_attention":
            return GroupChannelAttention(features, groups=groups, reduction=reduction, dtype=dtype, rngs=rngs)
        case "channel_cross_attention":
            return ChannelCrossAttention(features, groups=groups, dtype=dtype, rngs=rngs)
        case "cross_attention":
            return CrossAttention(features, heads=heads, dtype=dtype, rngs=rngs)
        case "concatenation":
            return Concatenation(features, dtype=dtype, rngs=rngs)
    raise InputError(
        f"classifier.guidance names the mechanism '{name}'; expected one of {', '.join(MECHANISMS)} or none."
    )

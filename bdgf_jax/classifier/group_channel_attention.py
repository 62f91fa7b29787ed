"""Group channel attention: how diffusion features guide the Mamba branch, in two forms."""

import einops
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.errors import InputError


class GroupChannelAttention(nnx.Module):
    """Reweights the channels of a branch, group by group, by what the diffusion features say of them.

    In each of the g groups, with F the branch's tokens and G the diffusion features at the same place,

        w = sigmoid(W2 relu(W1 [mean_l F, mean_l G])),    F <- w * F + W3 G.

    [paper] names the mechanism, arXiv 2509.23310; the gate is squeeze-and-excitation's, arXiv 1709.01507 [kin].

    Args:
      features: width d of the branch, a multiple of `groups`.
      groups: number g of groups, each with its own view of its d/g channels; the weights are shared.
      reduction: the gate's bottleneck is 2 d / (g * reduction) wide, at least 4.
      dtype: of the matrix products.

    Raises:
      InputError: if the groups do not divide the width.
    """

    def __init__(
        self,
        features: int,
        *,
        groups: int = 4,
        reduction: int = 16,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        width = group_width(features, groups)
        bottleneck = max(4, 2 * width // reduction)
        self.groups = groups
        # A narrow bottleneck of rectified units starts open: with a bias of zero a group could have all four shut.
        self.squeeze = nnx.Linear(
            2 * width, bottleneck, bias_init=nnx.initializers.constant(0.1), dtype=dtype, rngs=rngs
        )
        self.excite = nnx.Linear(bottleneck, width, dtype=dtype, rngs=rngs)
        self.guide = nnx.Linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b l d"]) -> Float[Array, "*b l d"]:
        """The guided tokens."""
        return self.channel_weights(tokens, guidance) * tokens + self.guide(guidance)

    def channel_weights(
        self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b l d"]
    ) -> Float[Array, "*b 1 d"]:
        """The weights w in (0, 1), one a channel and patch."""
        split = lambda x: einops.rearrange(x.mean(-2), "... (g w) -> ... g w", g=self.groups)
        summary = jnp.concatenate([split(tokens), split(guidance)], axis=-1)
        weights = nnx.sigmoid(self.excite(nnx.relu(self.squeeze(summary))))
        return einops.rearrange(weights, "... g w -> ... 1 (g w)")


class ChannelCrossAttention(nnx.Module):
    """The other reading of group channel attention: channels of a branch attend to channels of the diffusion features.

    In each group, with channels as the tokens of the attention and L places as their features,

        F <- F + W_o (softmax(Q^T K / sqrt(L)) V^T)^T,    Q from F; K, V from G.

    [kin] the transposed attention of XCiT, arXiv 2106.09681, here across two sources.

    Args:
      features: width d of the branch, a multiple of `groups`.
      groups: number of groups; a channel attends inside its own.
      dtype: of the matrix products; the softmax is float32.

    Raises:
      InputError: if the groups do not divide the width.
    """

    def __init__(self, features: int, *, groups: int = 4, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        group_width(features, groups)
        self.groups = groups
        self.query = nnx.Linear(features, features, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(features, features, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(features, features, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "*b l d"], guidance: Float[Array, "*b l d"]) -> Float[Array, "*b l d"]:
        """The guided tokens."""
        split = lambda x: einops.rearrange(x, "... l (g w) -> ... g w l", g=self.groups)
        scores = split(self.query(tokens)) @ jnp.swapaxes(split(self.key(guidance)), -1, -2)
        weights = nnx.softmax(scores.astype(jnp.float32) * tokens.shape[-2] ** -0.5, axis=-1)
        mixed = weights.astype(scores.dtype) @ split(self.value(guidance))
        return tokens + self.output(einops.rearrange(mixed, "... g w l -> ... l (g w)"))


def group_width(features: int, groups: int) -> int:
    """Channels of one group, or an InputError where groups do not divide the width."""
    if features % groups:
        raise InputError(
            f"classifier.width must be a multiple of classifier.groups, got {features} and {groups};"
            f" the nearest width is {max(1, round(features / groups)) * groups}."
        )
    return features // groups

"""Merging of diffusion features over the timesteps at which they were taken."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.errors import InputError

KINDS = ("softmax", "mean", "concat")


class TimestepMerging(nnx.Module):
    """Makes one feature map of those taken at several noise levels.

    `softmax`: for each channel a learned weighted mean over t, starting at the plain mean [kin: the selective timesteps
    of MTMSD]; `mean`; `concat`: all of them side by side, which leaves the choice to the projection that follows.

    Args:
      channels: channels of the level.
      timesteps: number of timesteps.
      kind: how they are merged.
      dtype: of the merged features; weights and means are computed in float32.

    Attributes:
      channels: channels after merging.

    Raises:
      InputError: if `kind` is unknown.
    """

    def __init__(self, channels: int, *, timesteps: int, kind: str, dtype: DTypeLike = jnp.float32):
        if kind not in KINDS:
            raise InputError(f"classifier.merge_timesteps is '{kind}'; expected one of {', '.join(KINDS)}.")
        self.kind = kind
        self.dtype = dtype
        self.channels = channels * timesteps if kind == "concat" else channels
        # The softmax of a single number has no gradient: such a parameter would be dead.
        self.weights = nnx.Param(jnp.zeros((timesteps, channels))) if kind == "softmax" and timesteps > 1 else None

    def __call__(self, features: Float[Array, "*b t c"]) -> Float[Array, "*b merged"]:
        """The merged features, whatever type they are stored in."""
        if self.kind == "concat":
            return features.astype(self.dtype).reshape(*features.shape[:-2], -1)
        features = features.astype(jnp.float32)
        if self.weights is None:
            return features.mean(-2).astype(self.dtype)
        weights = jnp.broadcast_to(nnx.softmax(self.weights[...], axis=0), features.shape)
        weighted = features * weights
        # On a CPU adding slices is one pass over memory; a contraction over so short an axis takes many times longer.
        merged = sum((weighted[..., t, :] for t in range(1, len(self.weights))), weighted[..., 0, :])
        return merged.astype(self.dtype)

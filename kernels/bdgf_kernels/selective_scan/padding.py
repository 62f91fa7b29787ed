"""Axes in whole registers or blocks. Each group of B and C is widened by itself: no block of channels meets two."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


def pad_channels(x: Shaped[Array, "..."], axis: int, groups: int, multiple: int) -> Shaped[Array, "..."]:
    """Pads the channels of each group, along `axis`, with zeros to a multiple."""
    more = -(x.shape[axis] // groups) % multiple
    if not more:
        return x
    x = x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
    x = jnp.pad(x, [(0, more if i == axis + 1 else 0) for i in range(x.ndim)])
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def drop_channels(x: Shaped[Array, "..."], axis: int, groups: int, channels: int) -> Shaped[Array, "..."]:
    """Leaves `channels` of those along `axis`, in each group the first ones: the inverse of `pad_channels`."""
    if x.shape[axis] == channels:
        return x
    x = x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])
    x = jax.lax.slice_in_dim(x, 0, channels // groups, axis=axis + 1)
    return x.reshape(*x.shape[:axis], channels, *x.shape[axis + 2 :])


def pad_last(x: Shaped[Array, "..."], amount: int) -> Shaped[Array, "..."]:
    """Adds zeros at the end of the last axis."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, amount)]) if amount else x

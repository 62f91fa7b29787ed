"""From a grid of tokens to logits of the pixels in the middle of the patch."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from bdgf_jax.errors import InputError

KINDS = ("mean", "mean_and_token")


class DenseHead(nnx.Module):
    """Logits of the centre s×s pixels, each from the mean of the tokens in the window around it [ours].

    The window's side is p - s + 1, so that those of the outermost of the s×s pixels just reach the patch's border, and
    s = 1 is patch classification as published: the mean over the whole patch. `mean_and_token` puts the pixel's own
    token beside the mean, which keeps small objects apart from their surroundings.

    Args:
      features: width of the tokens.
      classes: number k of classes.
      centre: side s of the predicted block; odd.
      kind: `mean` or `mean_and_token`.

    Raises:
      InputError: if `kind` is unknown.
    """

    def __init__(self, features: int, classes: int, *, centre: int, kind: str, rngs: nnx.Rngs):
        if kind not in KINDS:
            raise InputError(f"classifier.head is '{kind}'; expected one of {', '.join(KINDS)}.")
        self.centre = centre
        self.kind = kind
        self.project = nnx.Linear(features * (2 if kind == "mean_and_token" else 1), classes, rngs=rngs)

    def __call__(self, grid: Float[Array, "b p p d"]) -> Float[Array, "b s s k"]:
        """Logits of each pixel of the centre."""
        windows = window_means(grid, self.centre)
        if self.kind == "mean_and_token":
            windows = jnp.concatenate([windows, centre_of(grid, self.centre)], axis=-1)
        return self.project(windows)


def centre_of(grid: Float[Array, "b p p *d"], centre: int) -> Float[Array, "b s s *d"]:
    """The tokens in the middle of the patch."""
    margin = (grid.shape[1] - centre) // 2
    return grid[:, margin : margin + centre, margin : margin + centre]


def window_means(grid: Float[Array, "b p p d"], centre: int) -> Float[Array, "b s s d"]:
    """Mean over the (p-s+1)×(p-s+1) window around each of the centre s×s pixels."""
    if centre == 1:
        return grid.mean((1, 2), keepdims=True)
    side = grid.shape[1]
    window = side - centre + 1
    first = np.arange(centre)[:, None]
    inside = (np.arange(side) >= first) & (np.arange(side) < first + window)
    average = jnp.asarray(inside / window, grid.dtype)
    return jnp.einsum("ip,jq,bpqd->bijd", average, average, grid)

"""Crops cut at random from tiles that lie on the device, as the model sees them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from bdgf_jax.scenes.statistics import BandTransform


def random_crops(
    tiles: PyTree[Shaped[Array, "b p p ..."]], side: int, key: PRNGKeyArray
) -> PyTree[Shaped[Array, "b q q ..."]]:
    """A square out of each tile, uniformly, the same one out of every array of the tree.

    On the device, in the step: where a crop is cut follows from the step's key alone, so that a resumed run cuts the
    same, and the host has nothing to do with a tile but to read it.

    Args:
      tiles: one or many arrays of tiles.
      side: of the crops, at most that of the tiles; static under jit.
      key: of the places.
    """
    count, length = jax.tree.leaves(tiles)[0].shape[:2]
    corners = jax.random.randint(key, (count, 2), 0, length - side + 1)

    def cut(tile: Array, corner: Array) -> Array:
        start = (corner[0], corner[1], *([jnp.zeros((), corner.dtype)] * (tile.ndim - 2)))
        return jax.lax.dynamic_slice(tile, start, (side, side, *tile.shape[2:]))

    return jax.tree.map(lambda array: jax.vmap(cut)(array, corners), tiles)


def transform_crops(
    transform: BandTransform, images: Float[Array, "b p p c"], valid: Bool[Array, "b p p"]
) -> Float[Array, "b p p k"]:
    """What `apply_band_transform` makes of an image, on the device in float32; exactly 0 where it is not valid.

    Args:
      transform: one that does not clip.
      images: in the sensor's units.
      valid: pixels that hold a measurement.
    """
    centred = images - jnp.asarray(transform.mean, jnp.float32)[None, None, None]
    # Not in TF32 or bfloat16, the accelerators' default: components of little variance are small differences.
    transformed = jnp.matmul(
        centred, jnp.asarray(transform.projection, jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.where(valid[..., None], transformed, 0.0)

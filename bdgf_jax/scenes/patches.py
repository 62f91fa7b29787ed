"""Patches gathered from a scene that lies on the device: no patch set is ever materialised on the host."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree, Shaped


def gather(
    arrays: PyTree[Shaped[Array, "h w ..."]], centres: Int[Array, "b 2"], side: int
) -> PyTree[Shaped[Array, "b p p ..."]]:
    """Cuts square patches out of every array of a tree, reflected at the scene's border.

    The border pixel itself is not repeated (as `numpy.pad(mode="reflect")`), and the reflection goes on where a patch
    is larger than the scene. A patch of odd side is centred on its pixel; one of even side starts side // 2 before it.

    Args:
      arrays: one or many arrays on the scene's grid, with any trailing axes.
      centres: rows and columns of the pixels.
      side: the patch's side in pixels, static under jit.
    """
    offsets = jnp.arange(side, dtype=centres.dtype) - side // 2

    def cut(array):
        height, width = array.shape[:2]
        rows = reflect(centres[:, :1] + offsets[None, :], height)
        columns = reflect(centres[:, 1:] + offsets[None, :], width)
        pixels = rows[:, :, None] * width + columns[:, None, :]
        return array.reshape(height * width, *array.shape[2:]).at[pixels].get(mode="promise_in_bounds")

    return jax.tree.map(cut, arrays)


def reflect(index: Int[Array, "*b"], length: int) -> Int[Array, "*b"]:
    """Folds any integer into 0 … length - 1 by reflection at both ends: the triangle wave of period 2 (length - 1)."""
    if length == 1:
        return jnp.zeros_like(index)
    period = 2 * (length - 1)
    return (length - 1) - jnp.abs(index % period - (length - 1))

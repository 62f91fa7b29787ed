from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.scenes.patches import gather, reflect


def by_padding(image, centres, side):
    """The plain truth: the whole scene padded by reflection, then cut."""
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(image, ((before, after), (before, after), (0, 0)), mode="reflect")
    return np.stack([padded[row : row + side, column : column + side] for row, column in centres])


@pytest.mark.parametrize("side", [1, 4, 5, 11])
@pytest.mark.parametrize("shape", [(20, 13, 3), (4, 3, 2), (2, 7, 1), (1, 5, 2)])
def test_patches_are_those_of_a_scene_padded_by_reflection(shape, side):
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    centres = np.argwhere(np.ones(shape[:2], bool)).astype(np.int32)
    patches = jax.jit(partial(gather, side=side))(jnp.asarray(image), jnp.asarray(centres))
    np.testing.assert_array_equal(patches, by_padding(image, centres, side))


def test_every_array_of_a_tree_is_cut_at_the_same_place_whatever_its_trailing_axes():
    rows, columns = jnp.meshgrid(jnp.arange(9), jnp.arange(8), indexing="ij")
    tree = {"rows": rows, "pair": [jnp.stack([rows, columns], -1)[:, :, None, :]], "mask": rows > 3}
    patches = gather(tree, jnp.array([[0, 0], [4, 5]], jnp.int32), 3)
    assert patches["pair"][0].shape == (2, 3, 3, 1, 2)
    np.testing.assert_array_equal(patches["pair"][0][..., 0, 0], patches["rows"])
    np.testing.assert_array_equal(patches["rows"][0, :, 0], [1, 0, 1])
    np.testing.assert_array_equal(patches["mask"], patches["rows"] > 3)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_reflection_repeats_however_far_outside_a_pixel_lies(length):
    expected = np.pad(np.arange(length), 60, mode="reflect")
    np.testing.assert_array_equal(reflect(jnp.arange(-60, length + 60), length), expected)

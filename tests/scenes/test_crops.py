import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.scenes.crops import random_crops, transform_crops
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform


def test_crops_lie_anywhere_inside_the_tile_and_at_the_same_place_in_all_arrays():
    rows, columns = jnp.meshgrid(jnp.arange(6), jnp.arange(6), indexing="ij")
    tiles = {"row": jnp.tile(rows, (400, 1, 1)), "both": jnp.tile(jnp.stack([rows, columns], -1), (400, 1, 1, 1))}
    crops = jax.jit(random_crops, static_argnums=1)(tiles, 4, jax.random.key(0))
    np.testing.assert_array_equal(crops["row"], crops["both"][..., 0])
    corners = np.asarray(crops["both"][:, 0, 0])
    assert {tuple(corner) for corner in corners.tolist()} == {(row, column) for row in range(3) for column in range(3)}
    inside = np.asarray(crops["both"]) - corners[:, None, None]
    expected = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1)
    np.testing.assert_array_equal(inside, np.broadcast_to(expected, inside.shape))


def test_a_crop_as_large_as_the_tile_is_the_tile():
    tiles = jax.random.normal(jax.random.key(1), (3, 5, 5, 2))
    np.testing.assert_array_equal(random_crops(tiles, 5, jax.random.key(0)), tiles)


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_crops_are_seen_on_the_device_as_scenes_are_on_the_host(modality, mode):
    random = np.random.default_rng(0)
    # Two bands that are almost one, under an offset of a hundred deviations: where float32 has least to spare.
    shared = random.normal(size=(12, 12, 1))
    image = 6000 + 60 * (shared @ np.ones((1, 3)) + 0.02 * random.normal(size=(12, 12, 3)))
    valid = random.random((12, 12)) > 0.2
    scene = modality(np.where(valid[..., None], image, 0), valid)
    transform = fit_band_transform(scene, mode=mode)
    seen = transform_crops(transform, jnp.asarray(scene.image)[None], jnp.asarray(valid)[None])[0]
    np.testing.assert_allclose(seen, apply_band_transform(transform, scene), atol=1e-3)
    assert not np.asarray(seen)[~valid].any()

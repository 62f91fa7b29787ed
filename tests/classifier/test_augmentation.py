import jax
import jax.numpy as jnp
import numpy as np

from bdgf_jax.classifier.augmentation import jitter, pixel_orders, random_symmetries, transform


def test_the_symmetries_are_the_eight_of_the_square():
    square = np.arange(9).reshape(3, 3)
    turned = [np.rot90(image, k) for image in (square, square.T) for k in range(4)]
    assert {tuple(order) for order in pixel_orders(3)} == {tuple(image.ravel()) for image in turned}


def test_every_array_of_a_patch_is_turned_alike():
    rows, columns = np.mgrid[:5, :5]
    batch = lambda image: jnp.asarray(np.broadcast_to(image, (8, 5, 5)))
    symmetries = jnp.arange(8)
    labels, image = transform((batch(10 * rows + columns), batch(10 * rows + columns)[..., None, None]), symmetries)
    np.testing.assert_array_equal(labels, image[..., 0, 0])
    assert len({tuple(np.asarray(label).ravel()) for label in labels}) == 8


def test_the_centre_of_a_patch_turns_with_the_patch():
    grid = jax.random.normal(jax.random.key(0), (8, 7, 7, 2))
    symmetries = jnp.arange(8)
    whole, centre = transform((grid, grid[:, 2:5, 2:5]), symmetries)
    np.testing.assert_array_equal(whole[:, 2:5, 2:5], centre)


def test_symmetries_are_drawn_evenly():
    counts = np.bincount(random_symmetries(jax.random.key(0), 8000), minlength=8)
    assert counts.min() > 850


def test_jitter_moves_a_channel_of_a_patch_as_a_whole():
    patches = {"image": jnp.zeros((500, 3, 3, 4)), "level": jnp.zeros((500, 3, 3, 2, 4), jnp.bfloat16)}
    moved = jitter(patches, jax.random.key(0), 0.5)
    for name, array in moved.items():
        assert array.dtype == patches[name].dtype
        array = np.asarray(array.astype(jnp.float32))
        np.testing.assert_array_equal(array, np.broadcast_to(array[:, :1, :1], array.shape))
        assert abs(array.std() - 0.5) < 0.03
        assert abs(array.mean()) < 0.03
    assert abs(np.corrcoef(moved["image"][:, 0, 0, 0], moved["image"][:, 0, 0, 1])[0, 1]) < 0.2


def test_no_jitter_leaves_patches_alone():
    patch = jnp.ones((2, 3, 3, 1))
    assert jitter(patch, jax.random.key(0), 0.0) is patch

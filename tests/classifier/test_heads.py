import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier.heads import DenseHead, window_means
from bdgf_jax.errors import InputError

GRID = jax.random.normal(jax.random.key(0), (2, 7, 7, 6))


def test_the_only_window_of_a_patch_is_the_patch():
    np.testing.assert_allclose(window_means(GRID, 1)[:, 0, 0], GRID.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("centre", [3, 5, 7])
def test_every_window_is_centred_on_its_pixel_and_just_reaches_the_border(centre):
    means = window_means(GRID, centre)
    reach, margin = (7 - centre) // 2, (7 - centre) // 2
    for i in range(centre):
        for j in range(centre):
            row, column = margin + i, margin + j
            window = GRID[:, row - reach : row + reach + 1, column - reach : column + reach + 1]
            np.testing.assert_allclose(means[:, i, j], window.mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize("centre", [1, 3])
def test_a_token_beside_the_mean_tells_pixels_of_the_same_window_apart(centre):
    rngs = nnx.Rngs(0)
    mean = DenseHead(6, 3, centre=centre, kind="mean", rngs=rngs)
    both = DenseHead(6, 3, centre=centre, kind="mean_and_token", rngs=rngs)
    swapped = GRID.at[:, 3, 3].set(GRID[:, 3, 2]).at[:, 3, 2].set(GRID[:, 3, 3])
    middle = centre // 2
    assert jnp.abs(mean(swapped) - mean(GRID))[:, middle, middle].max() < 1e-5
    assert jnp.abs(both(swapped) - both(GRID))[:, middle, middle].max() > 1e-2


def test_an_unknown_head_is_refused():
    with pytest.raises(InputError, match="'max'; expected one of mean, mean_and_token"):
        DenseHead(6, 3, centre=1, kind="max", rngs=nnx.Rngs(0))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.diffusion.sampling import sample
from bdgf_jax.diffusion.schedule import noise_schedule

SCHEDULE = noise_schedule("cosine", 100)
MEAN, DEVIATION = 1.5, 0.5


def best_denoiser(images, t, hidden):
    """The exact noise of images whose pixels are N(MEAN, DEVIATION²) each."""
    signal, sigma = (part(t)[:, None, None, None] for part in (SCHEDULE.signal, SCHEDULE.noise))
    clean = lambda x: MEAN + DEVIATION**2 * signal / (DEVIATION**2 * signal**2 + sigma**2) * (x - signal * MEAN)
    return {name: ((x - signal * clean(x)) / sigma, clean(x)) for name, x in images.items()}, ()


def draw(**options):
    options = {"steps": 100, "eta": 0.0, "key": jax.random.key(0)} | options
    return sample(best_denoiser, SCHEDULE, target="noise", shape=(8, 32, 32), channels={"hsi": 2, "sar": 1}, **options)


@pytest.mark.parametrize(("steps", "eta"), [(100, 1.0), (100, 0.0), (25, 0.0)])
def test_samples_have_the_distribution_of_the_images(steps, eta):
    images = draw(steps=steps, eta=eta)
    for image in images.values():
        np.testing.assert_allclose(image.mean(), MEAN, atol=0.03)
        np.testing.assert_allclose(image.std(), DEVIATION, atol=0.06)


def test_ddim_depends_on_nothing_but_its_key():
    np.testing.assert_array_equal(draw()["hsi"], draw()["hsi"])
    assert jnp.abs(draw()["hsi"] - draw(key=jax.random.key(1))["hsi"]).max() > 0.1


def test_a_given_modality_comes_back_untouched():
    known = jnp.ones((8, 32, 32, 1))
    images = draw(given={"sar": known})
    np.testing.assert_array_equal(images["sar"], known)
    np.testing.assert_allclose(images["hsi"].mean(), MEAN, atol=0.03)

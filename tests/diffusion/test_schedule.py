import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.diffusion.schedule import SCHEDULES, add_noise, noise_schedule
from bdgf_jax.errors import InputError


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_signal_fades_from_nearly_all_to_nearly_nothing(kind):
    alpha_bar = np.asarray(noise_schedule(kind, 1000).alpha_bar)
    assert (np.diff(alpha_bar) < 0).all()
    assert alpha_bar[0] > 0.999
    assert alpha_bar[-1] < 1e-4


def test_the_linear_schedule_is_the_published_product_of_betas():
    expected = np.cumprod(1.0 - np.linspace(1e-4, 2e-2, 1000))
    np.testing.assert_allclose(noise_schedule("linear", 1000).alpha_bar, expected, rtol=1e-3)


def test_the_cosine_schedule_is_its_closed_form_until_betas_are_clipped():
    time = np.arange(1001) / 1000
    signal = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(
        noise_schedule("cosine", 1000).alpha_bar[:900], (signal[1:] / signal[0])[:900], rtol=2e-3
    )


def test_fewer_timesteps_end_as_noisy():
    assert noise_schedule("linear", 100).alpha_bar[-1] < 1e-3


def test_whitened_images_keep_unit_variance_at_every_timestep():
    schedule = noise_schedule("cosine", 1000)
    key, other = jax.random.split(jax.random.key(0))
    image, noise = jax.random.normal(key, (4, 64, 64, 3)), jax.random.normal(other, (4, 64, 64, 3))
    noisy = add_noise(schedule, {"hsi": image}, {"hsi": noise}, jnp.array([0, 100, 500, 999]))
    np.testing.assert_allclose(noisy["hsi"].var((1, 2, 3)), 1.0, atol=0.05)


def test_an_unknown_schedule_is_refused_by_name():
    with pytest.raises(InputError, match=r"diffusion.schedule must be one of cosine, linear, got 'square'"):
        noise_schedule("square", 10)

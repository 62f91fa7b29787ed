"""Noise schedules: how much of an image is left at timestep t."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from bdgf_jax.errors import InputError

SCHEDULES = ("cosine", "linear")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoiseSchedule:
    """The forward process q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), t = 0 … T - 1."""

    alpha_bar: Float[Array, " t"]

    def signal(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """The share sqrt(alpha_bar_t) of the image in x_t."""
        return jnp.sqrt(self.alpha_bar[t])

    def noise(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """The share sqrt(1 - alpha_bar_t) of the noise in x_t."""
        return jnp.sqrt(1.0 - self.alpha_bar[t])


def noise_schedule(kind: str, timesteps: int) -> NoiseSchedule:
    """The cosine schedule of arXiv 2102.09672 (s = 0.008, beta below 0.999) or the linear one of arXiv 2006.11239.

    The linear one's betas, 1e-4 … 2e-2 at 1000 timesteps, are scaled so that x_T is as noisy at any number of them.

    Raises:
      InputError: the kind is none of `SCHEDULES`.
    """
    if kind == "cosine":
        time = jnp.arange(timesteps + 1) / timesteps
        signal = jnp.cos((time + 0.008) / 1.008 * jnp.pi / 2) ** 2
        beta = jnp.clip(1.0 - signal[1:] / signal[:-1], 0.0, 0.999)
    elif kind == "linear":
        beta = jnp.clip(jnp.linspace(1e-4, 2e-2, timesteps) * (1000.0 / timesteps), 0.0, 0.999)
    else:
        raise InputError(f"diffusion.schedule must be one of {', '.join(SCHEDULES)}, got {kind!r}.")
    return NoiseSchedule(jnp.cumprod(1.0 - beta))


def add_noise(
    schedule: NoiseSchedule,
    images: PyTree[Float[Array, "b h w _"]],
    noise: PyTree[Float[Array, "b h w _"]],
    t: Int[Array, " b"],
) -> PyTree[Float[Array, "b h w _"]]:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, with one t for all modalities of a sample."""
    signal, sigma = schedule.signal(t)[:, None, None, None], schedule.noise(t)[:, None, None, None]
    return jax.tree.map(lambda image, n: signal * image + sigma * n, images, noise)

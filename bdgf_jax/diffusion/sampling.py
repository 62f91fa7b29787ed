"""Drawing images from the DDPM, of all modalities at once or of some given the others."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bdgf_jax.diffusion.objective import clean_estimate
from bdgf_jax.diffusion.schedule import NoiseSchedule, add_noise


def sample(
    denoise: Callable,
    schedule: NoiseSchedule,
    *,
    target: str,
    shape: tuple[int, int, int],
    channels: Mapping[str, int],
    key: Key[Array, ""],
    steps: int,
    eta: float = 0.0,
    given: Mapping[str, Float[Array, "b h w _"]] | None = None,
    limit: float = 4.0,
) -> dict[str, Float[Array, "b h w _"]]:
    """Images drawn from noise by the generalised reverse process of arXiv 2010.02502.

    Args:
      denoise: (images, t, hidden) -> predictions, activations: a denoiser, usually with averaged parameters.
      schedule: the forward process that it was trained with.
      target: what it predicts, `diffusion.target`.
      shape: number of images, height, width.
      channels: of each modality.
      key: randomness of the draw.
      steps: number of reverse steps, at most T, evenly spaced.
      eta: 0 is DDIM, deterministic given the first noise; 1 with all T steps is ancestral sampling (DDPM).
      given: modalities that are known; they are noised to each timestep, never drawn, and returned as they came.
      limit: x̂_0 is kept within ± this many standard deviations, as whitened images are.
    """
    given = dict(given or {})
    names = tuple(channels)
    times = np.unique(np.linspace(0, schedule.alpha_bar.shape[0] - 1, steps).round().astype(np.int32))[::-1]
    before = np.append(times[1:], -1)
    nothing_hidden = {name: jnp.zeros(shape, bool) for name in names}
    draw = lambda key: {
        n: jax.random.normal(jax.random.fold_in(key, i), (*shape, channels[n])) for i, n in enumerate(names)
    }

    def reverse_step(noisy, inputs):
        time, previous, key = inputs
        t = jnp.full(shape[:1], time)
        fresh = draw(key)
        noisy |= add_noise(schedule, given, {name: fresh[name] for name in given}, t)
        predictions, _ = denoise(noisy, t, nothing_hidden)
        alpha = schedule.alpha_bar[time]
        alpha_before = jnp.where(previous >= 0, schedule.alpha_bar[jnp.maximum(previous, 0)], 1.0)
        sigma = eta * jnp.sqrt((1 - alpha_before) / (1 - alpha) * (1 - alpha / alpha_before))
        step = {}
        for name in names:
            clean = clean_estimate(target, predictions[name][0], noisy[name], jnp.sqrt(alpha), jnp.sqrt(1 - alpha))
            clean = jnp.clip(clean, -limit, limit)
            noise = (noisy[name] - jnp.sqrt(alpha) * clean) / jnp.sqrt(1 - alpha)
            direction = jnp.sqrt(jnp.maximum(1 - alpha_before - sigma**2, 0.0)) * noise
            step[name] = jnp.sqrt(alpha_before) * clean + direction + sigma * fresh[name]
        return step, None

    first, rest = jax.random.split(key)
    keys = jax.random.split(rest, len(times))
    images, _ = jax.lax.scan(reverse_step, draw(first), (jnp.asarray(times), jnp.asarray(before), keys))
    return images | given

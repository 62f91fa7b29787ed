"""The pre-training objective: denoise what is visible, reconstruct what is hidden."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bdgf_jax.diffusion.masking import TIME_BINS, MaskingRule, draw_masks, update_skills
from bdgf_jax.diffusion.schedule import NoiseSchedule, add_noise
from bdgf_jax.errors import InputError

TARGETS = ("noise", "clean", "velocity")


def visible_target(target: str, clean, noise, signal, sigma):
    """What the network predicts at visible pixels: the noise, the clean image, or v of arXiv 2202.00512."""
    return {"noise": noise, "clean": clean, "velocity": signal * noise - sigma * clean}[target]


def clean_estimate(target: str, prediction, noisy, signal, sigma):
    """x̂_0 from the network's prediction of the target and the noisy image x_t."""
    return {
        "noise": (noisy - sigma * prediction) / signal,
        "clean": prediction,
        "velocity": signal * noisy - sigma * prediction,
    }[target]


def masked_mean(values: Float[Array, "b h w c"], weight: Float[Array, "b h w"]) -> Float[Array, ""]:
    """Mean over the pixels of weight 1; 0, not 0/0, where there is none."""
    return (values.mean(-1) * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def initial_carry(rule: MaskingRule, modalities: int) -> dict:
    """What the objective remembers from step to step: skills by bin of t, and the rule's own state."""
    return {"skills": jnp.zeros((modalities, TIME_BINS)), "rule": rule.state}


def pretraining_objective(
    graph: nnx.GraphDef,
    schedule: NoiseSchedule,
    rule: MaskingRule,
    config,
    masking,
    *,
    modalities: Sequence[str],
    crop: int,
    steps: int,
    gather: Callable,
) -> Callable:
    """L = mean over modalities of MSE(target | visible) + hidden_weight MSE(x_0 | hidden), over pixels with data.

    Args:
      graph: of the denoiser; its parameters come with each call.
      schedule: the forward process.
      rule: how much to hide, see `masking`.
      config: the `diffusion` section: target, hidden_weight.
      masking: the `masking` section: cell, whole, decay, and ramp, the shares of the training between which masking
        grows from nothing to the full ratio.
      modalities: their names, in the order of the scene and of the rule's ratios.
      crop: side of the crops.
      steps: of the whole training, for the ramp.
      gather: (data, batch, side) -> crops, a mapping of `images` and `valid`.

    Raises:
      InputError: `diffusion.target` is none of `TARGETS`.
    """
    if config.target not in TARGETS:
        raise InputError(f"diffusion.target must be one of {', '.join(TARGETS)}, got {config.target!r}.")
    timesteps = schedule.alpha_bar.shape[0]
    start, end = masking.ramp
    names = tuple(modalities)

    def objective(parameters, carry, data, batch, key, step):
        crops = gather(data, batch, crop)
        images, valid = crops["images"], crops["valid"]
        for_time, for_noise, for_ratio, for_masks = jax.random.split(key, 4)
        t = jax.random.randint(for_time, images[names[0]].shape[:1], 0, timesteps)
        noise = {
            name: jax.random.normal(jax.random.fold_in(for_noise, i), images[name].shape)
            for i, name in enumerate(names)
        }

        ratios, rule_state = rule.apply(carry["rule"], carry["skills"].mean(-1), for_ratio)
        ramp = jnp.clip((step / steps - start) / max(end - start, 1e-6), 0.0, 1.0)
        masks = draw_masks(ratios * ramp, crop, cell=masking.cell, whole=masking.whole, key=for_masks)
        masks = dict(zip(names, masks))
        noisy = add_noise(schedule, images, noise, t)
        unseen = {name: masks[name] | ~valid[name] for name in names}
        outputs, _ = nnx.merge(graph, parameters)(noisy, t, unseen)

        signal, sigma = schedule.signal(t)[:, None, None, None], schedule.noise(t)[:, None, None, None]
        terms, errors, variances = {}, [], []
        for name in names:
            at_visible, at_hidden = outputs[name]
            visible = (valid[name] & ~masks[name]).astype(jnp.float32)
            hidden = (valid[name] & masks[name]).astype(jnp.float32)
            target = visible_target(config.target, images[name], noise[name], signal, sigma)
            loss = masked_mean((at_visible - target) ** 2, visible)
            loss += config.hidden_weight * masked_mean((at_hidden - images[name]) ** 2, hidden)
            terms[f"loss/{name}"] = loss
            terms[f"masking/{name}"] = hidden.sum() / jnp.maximum(hidden.sum() + visible.sum(), 1.0)
            estimate = clean_estimate(config.target, at_visible, noisy[name], signal, sigma)
            errors.append((((estimate - images[name]) ** 2).mean(-1) * visible).sum((1, 2)))
            variances.append(((images[name] ** 2).mean(-1) * visible).sum((1, 2)))
        loss = sum(terms[f"loss/{name}"] for name in names) / len(names)

        skills = jax.lax.stop_gradient(
            update_skills(carry["skills"], jnp.stack(errors), jnp.stack(variances), t, timesteps, masking.decay)
        )
        terms |= {f"skill/{name}": skill for name, skill in zip(names, skills.mean(-1))}
        return loss, (terms, {"skills": skills, "rule": rule_state})

    return objective

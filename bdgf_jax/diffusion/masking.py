"""Adaptive modality masking: which pixels of which modality the DDPM has to do without, so that no sensor dominates.

A *rule* says how much of each modality to hide: `rule(state, skills, key) -> ratios, state`, a pure function. `ratios`
(batch, modalities) are probabilities; `draw_masks` turns them into hidden pixels at two grains, whole modalities and
cells. The rule's state is a pytree that is part of the train state.

The skill of a modality is s_m = 1 - MSE(x̂_0) / Var(x_0), averaged over fixed bins of t. A ratio of losses would be
bent by each sensor's own noise floor; the skill is not.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from bdgf_jax.errors import InputError

TIME_BINS = 4
EPSILON = 1e-3

RuleState = Any
Ratios = Float[Array, "b m"]
Rule = Callable[[RuleState, Float[Array, " m"], Key[Array, ""]], tuple[Ratios, RuleState]]


@dataclasses.dataclass(frozen=True)
class MaskingRule:
    """A rule and the state that it starts from."""

    state: RuleState
    apply: Rule


def none(config, modalities: int, batch: int) -> MaskingRule:
    """Nothing is ever hidden."""
    return MaskingRule((), lambda state, skills, key: (jnp.zeros((batch, modalities)), state))


def fixed(config, modalities: int, batch: int) -> MaskingRule:
    """Every modality is hidden with the same constant probability `ratio`."""
    return MaskingRule((), lambda state, skills, key: (jnp.full((batch, modalities), config.ratio), state))


def random(config, modalities: int, batch: int) -> MaskingRule:
    """A uniform ratio for each sample and modality, `ratio` in the mean."""

    def rule(state, skills, key):
        return jnp.clip(2.0 * config.ratio * jax.random.uniform(key, (batch, modalities)), 0.0, 1.0), state

    return MaskingRule((), rule)


def adaptive(config, modalities: int, batch: int) -> MaskingRule:
    """Hides the modality that is ahead: q_m = q (1 + alpha tanh(relu(rho_m - 1))) where rho_m > 1, else `floor`.

    rho_m is the modality's skill over the mean skill of the others. After the on-the-fly prediction modulation of
    BalanceBenchmark [kin].
    """

    def rule(state, skills, key):
        others = (skills.sum() - skills) / (modalities - 1)
        rho = (skills + EPSILON) / (others + EPSILON)
        ahead = config.ratio * (1.0 + config.alpha * jnp.tanh(jax.nn.relu(rho - 1.0)))
        return jnp.tile(jnp.clip(jnp.where(rho > 1.0, ahead, config.floor), 0.0, 1.0), (batch, 1)), state

    return MaskingRule((), rule)


def loss_ratio(config, modalities: int, batch: int) -> MaskingRule:
    """Hides by dominance: r = ratio clip(tanh(alpha (d_m - 1)), 0, 1) + floor, d_m = M softmax(s)_m.

    After the gradient modulation OGM-GE, arXiv 2203.15332 [kin].
    """

    def rule(state, skills, key):
        dominance = modalities * jax.nn.softmax(skills / config.temperature)
        ratio = config.ratio * jnp.clip(jnp.tanh(config.alpha * (dominance - 1.0)), 0.0, 1.0) + config.floor
        return jnp.tile(jnp.clip(ratio, 0.0, 1.0), (batch, 1)), state

    return MaskingRule((), rule)


def miam(config, modalities: int, batch: int) -> MaskingRule:
    """Hides what is both skilled and no longer learning: w_m = ((s_m / geo s) / (d_m / geo d)) ** exponent.

    d_m = |ds_m / dt|, an average over steps, clamped from below. The modalities to hide are drawn (never all), then
    ratio ~ Beta(concentration w_m, 1) where hidden and Beta(1, concentration w_m) elsewhere. After MIAM [kin].
    """
    relative = lambda values: values / jnp.exp(jnp.log(values).mean())

    def rule(state, skills, key):
        previous, speed = state
        speed = 0.99 * speed + 0.01 * jnp.abs(skills - previous)
        weight = (relative(skills + EPSILON) / relative(jnp.maximum(speed, 1e-5))) ** config.exponent
        weight = jnp.clip(weight, 0.1, 10.0)
        choice, ahead, behind = jax.random.split(key, 3)
        chance = jnp.clip(config.ratio * modalities * weight / weight.sum(), 0.0, 1.0)
        chosen = jax.random.uniform(choice, (batch, modalities)) < chance[None, :]
        chosen &= ~chosen.all(axis=1, keepdims=True)
        strength = jnp.tile(config.concentration * weight, (batch, 1))
        ratios = jnp.where(
            chosen,
            jax.random.beta(ahead, strength, jnp.ones_like(strength)),
            jax.random.beta(behind, jnp.ones_like(strength), strength),
        )
        return ratios, (skills, speed)

    return MaskingRule((jnp.zeros(modalities), jnp.full(modalities, EPSILON)), rule)


def alone(config, modalities: int, batch: int) -> MaskingRule:
    """Shows one modality alone on a share of the samples, the one that is behind more often; all of them on the others.

    The share is ratio M / (M - 1), so that as much is hidden as by `fixed`; the modality is drawn by softmax(-s).
    """

    def rule(state, skills, key):
        for_share, for_choice = jax.random.split(key)
        share = jnp.clip(config.ratio * modalities / (modalities - 1), 0.0, 1.0)
        alone = jax.random.uniform(for_share, (batch, 1)) < share
        shown = jax.random.categorical(for_choice, -skills / config.temperature, shape=(batch,))
        return jnp.where(alone & ~jax.nn.one_hot(shown, modalities, dtype=bool), 1.0, 0.0), state

    return MaskingRule((), rule)


RULES: Mapping[str, Callable[[Any, int, int], MaskingRule]] = {
    "none": none,
    "fixed": fixed,
    "random": random,
    "adaptive": adaptive,
    "loss_ratio": loss_ratio,
    "miam": miam,
    "alone": alone,
}


def masking_rule(config, modalities: int, batch: int) -> MaskingRule:
    """The rule that `masking.rule` names.

    Raises:
      InputError: no rule has this name, or the ramp is no stretch.
    """
    if config.rule not in RULES:
        raise InputError(f"masking.rule must be one of {', '.join(RULES)}, got {config.rule!r}.")
    if len(config.ramp) != 2 or config.ramp[0] > config.ramp[1]:
        raise InputError(f"masking.ramp is {tuple(config.ramp)}; expected two shares of the training, ascending.")
    return RULES[config.rule](config, modalities, batch)


def draw_masks(
    ratios: Float[Array, "b m"], side: int, *, cell: int, whole: float, key: Key[Array, ""]
) -> Bool[Array, "m b h w"]:
    """Hidden pixels of each modality.

    Args:
      ratios: probability that a sample's modality is hidden: as a whole, or cell by cell.
      side: side of the crops, pixels.
      cell: side of a cell, pixels. Smaller holes would be filled in from the same modality.
      whole: share of the samples whose modalities are hidden as a whole; the others lose cells.
      key: randomness of the draw.

    No cell is hidden in all modalities at once: one of them, drawn uniformly, is shown again.
    """
    batch, modalities = ratios.shape
    cells = -(-side // cell)
    grain, cellwise, samplewise, spare = jax.random.split(key, 4)
    as_a_whole = jax.random.uniform(grain, (batch,)) < whole
    draws = jnp.where(
        as_a_whole[None, :, None, None],
        jax.random.uniform(samplewise, (modalities, batch, 1, 1)),
        jax.random.uniform(cellwise, (modalities, batch, cells, cells)),
    )
    hidden = draws < ratios.T[:, :, None, None]
    spared = jax.random.randint(spare, (batch,), 0, modalities)
    spared = jnp.arange(modalities)[:, None, None, None] == spared[None, :, None, None]
    hidden &= ~(hidden.all(axis=0, keepdims=True) & spared)
    return einops.repeat(hidden, "m b i j -> m b (i u) (j v)", u=cell, v=cell)[:, :, :side, :side]


def update_skills(
    skills: Float[Array, "m bins"],
    errors: Float[Array, "m b"],
    variances: Float[Array, "m b"],
    t: Int[Array, " b"],
    timesteps: int,
    decay: float,
) -> Float[Array, "m bins"]:
    """An exponential average, for each modality and bin of t, of 1 - sum of squared errors / sum of squares, in [0, 1].

    Args:
      skills: the averages so far.
      errors: sum of squared errors of x̂_0 over the visible pixels of each sample.
      variances: sum of squares of x_0 over the same pixels; 0 where a sample has none.
      t: timestep of each sample.
      timesteps: T.
      decay: of the average. A bin without a pixel in this batch keeps its value.
    """
    member = jax.nn.one_hot(t * TIME_BINS // timesteps, TIME_BINS)
    error, variance = errors @ member, variances @ member
    skill = jnp.clip(1.0 - error / jnp.maximum(variance, 1e-6), 0.0, 1.0)
    return jnp.where(variance > 0.0, decay * skills + (1.0 - decay) * skill, skills)

"""Steps of training as a pure function, compiled once: a single one, or several that the devices take by themselves."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from bdgf_jax.training.members import Members
from bdgf_jax.training.optimiser import learning_rate_schedule
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.state import TrainState

# After so many steps in a row whose loss or gradients are not finite, nothing changes any more.
SKIPPED_IN_A_ROW = 10

OPTIMISATION = "xla_backend_optimization_level"


def make_step(
    objective: Callable, optimiser: optax.GradientTransformation, placement: Placement | Members, config
) -> Callable:
    """(state, data, batch, key) -> (state, metrics), compiled, see `step_function`; the given state's memory becomes
    the new state's.
    """
    return jax.jit(step_function(objective, optimiser, placement, config), donate_argnums=0)


def make_steps(
    objective: Callable, optimiser: optax.GradientTransformation, placement: Placement | Members, config
) -> Callable:
    """(state, data, batches, key) -> (state, metrics), compiled: a step for each of the batches along the leading axis,
    without a word to the host in between. Each metric has that leading axis too; all else as of `make_step`.

    One step by itself is no loop, since XLA computes gradients of convolutions many times slower inside one on CPUs.
    There, it optimises at level 2 of 3, unless XLA_FLAGS chooses another: the steps are as fast, and compiled in 7/8 of
    the time.
    """
    step = step_function(objective, optimiser, placement, config)

    def steps(state: TrainState, data: PyTree, batches: PyTree, key: Array) -> tuple[TrainState, dict]:
        if len(jax.tree.leaves(batches)[0]) == 1:
            state, metrics = step(state, data, jax.tree.map(lambda batch: batch[0], batches), key)
            return state, jax.tree.map(lambda metric: metric[None], metrics)
        return jax.lax.scan(lambda state, batch: step(state, data, batch, key), state, batches)

    chosen = OPTIMISATION in os.environ.get("XLA_FLAGS", "")
    options = None if chosen or jax.default_backend() != "cpu" else {OPTIMISATION: 2}
    return jax.jit(steps, donate_argnums=0, compiler_options=options)


def step_function(
    objective: Callable, optimiser: optax.GradientTransformation, placement: Placement | Members, config
) -> Callable:
    """(state, data, batch, key) -> (state, metrics).

    With g the gradient at the step's key fold_in(key, step), and u the optimiser's update,

        parameters <- parameters + u(g),    average <- m average + (1 - m) parameters,

    where m = min(ema, (1 + step) / (10 + step)), so that the average is not held back by the first parameters. Where
    the loss or any gradient is not finite, all of this and the objective's carry stay as they were, and the step is
    counted as skipped.

    The update works on all parameters as one vector, in float32: leaf by leaf, that of a model of many small arrays
    takes a CPU over a minute to compile. The key, made of the run's seed, is an argument and not a constant, so that
    one compiled step serves every seed.

    Metrics: `loss`, `terms`, `learning_rate`, `skipped`, `skipped_in_a_row`, and `not_finite_at`, the first place of
    the gradient's vector with a value that is not finite, and its length where all are; each with a leading axis where
    the placement is of several members, whose batches and keys have one too.

    Args:
      objective: (parameters, carry, data, batch, key, step) -> (loss, (terms, carry)), pure.
      optimiser: of the parameters as one vector; its state is part of the train state.
      placement: which has packed the state.
      config: `ema`, and what the learning rate follows from.
    """
    schedule = learning_rate_schedule(config)

    def step(state: TrainState, data: PyTree, batch: PyTree, key: Array) -> tuple[TrainState, dict]:
        before, average = state.parameters, state.ema
        with placement.known():
            (loss, (terms, carry)), gradients = jax.value_and_grad(objective, has_aux=True)(
                placement.gather(before), state.carry, data, batch, jax.random.fold_in(key, state.step), state.step
            )
        gradient = placement.share(gradients)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes step counts with floats
            update, moments = optimiser.update(gradient, state.optimiser, before)
            learning_rate = schedule(state.step)
        after = before + update
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1.0 + done) / (10.0 + done))

        not_finite_at = jnp.where(jnp.isfinite(gradient), gradient.size, jnp.arange(gradient.size)).min()
        taken = jnp.isfinite(loss) & (not_finite_at == gradient.size) & (state.skipped_in_a_row < SKIPPED_IN_A_ROW)
        count = jnp.where(taken, 0, 1)
        kept = lambda new, old: placement.spread(placement.layout.rounded(jnp.where(taken, new, old)))
        new = TrainState(
            step=state.step + 1,
            parameters=kept(after, before),
            ema=kept(average + (1.0 - decay) * (after - average), average),
            optimiser=_where(taken, moments, state.optimiser),
            carry=_where(taken, carry, state.carry),
            skipped=state.skipped + count,
            skipped_in_a_row=jnp.where(taken, 0, state.skipped_in_a_row + 1),
        )
        metrics = {
            "loss": loss,
            "terms": terms,
            "learning_rate": learning_rate,
            "skipped": new.skipped,
            "skipped_in_a_row": new.skipped_in_a_row,
            "not_finite_at": not_finite_at,
        }
        return new, metrics

    return placement.stepping(step)


def _where(taken: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, old)

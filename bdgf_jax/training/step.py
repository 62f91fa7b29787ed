"""One step of training as a pure function, compiled once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from bdgf_jax.training.optimiser import learning_rate_schedule
from bdgf_jax.training.state import TrainState

# After so many steps in a row whose loss or gradients are not finite, nothing changes any more.
SKIPPED_IN_A_ROW = 10


def make_step(objective: Callable, optimiser: optax.GradientTransformation, config) -> Callable:
    """(state, data, centres) -> (state, metrics), compiled; the given state's memory becomes the new state's.

    With g the gradient at the step's key fold_in(key(seed), step), and u the optimiser's update,

        parameters <- parameters + u(g),    average <- m average + (1 - m) parameters,

    where m = min(ema, (1 + step) / (10 + step)), so that the average is not held back by the first parameters. Where
    the loss or any gradient is not finite, all of this and the objective's carry stay as they were, and the step is
    counted as skipped.

    Metrics: `loss`, `terms`, `learning_rate`, `skipped`, `skipped_in_a_row`, and `finite_gradients` by parameter.

    Args:
      objective: (parameters, carry, data, centres, key, step) -> (loss, (terms, carry)), pure.
      optimiser: whose state is part of the train state.
      config: `seed`, `ema`, and what the learning rate follows from.
    """
    schedule = learning_rate_schedule(config)

    def step(state: TrainState, data: PyTree, centres: Array) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        (loss, (terms, carry)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.parameters, state.carry, data, centres, key, state.step
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes step counts with floats
            updates, moments = optimiser.update(gradients, state.optimiser, state.parameters)
            learning_rate = schedule(state.step)
        parameters = optax.apply_updates(state.parameters, updates)
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1.0 + done) / (10.0 + done))
        ema = jax.tree.map(
            lambda mean, new: mean + ((1.0 - decay) * (new - mean)).astype(mean.dtype), state.ema, parameters
        )

        finite_gradients = jax.tree.map(lambda gradient: jnp.isfinite(gradient).all(), gradients)
        taken = jnp.isfinite(loss) & jnp.stack(jax.tree.leaves(finite_gradients)).all()
        taken &= state.skipped_in_a_row < SKIPPED_IN_A_ROW
        count = jnp.where(taken, 0, 1)
        new = TrainState(
            step=state.step + 1,
            parameters=_where(taken, parameters, state.parameters),
            ema=_where(taken, ema, state.ema),
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
            "finite_gradients": finite_gradients,
        }
        return new, metrics

    return jax.jit(step, donate_argnums=0)


def _where(taken: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, old)

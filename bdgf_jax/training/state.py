"""All that a training run is at one moment."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """One pytree that a checkpoint holds and a step replaces.

    Attributes:
      step: steps done, those that were skipped included.
      parameters: what is trained.
      ema: their exponential moving average, which evaluation and later stages use.
      optimiser: the optimiser's moments and counts.
      carry: what the objective remembers from step to step, such as the state of a masking rule.
      skipped: steps whose loss or gradients were not finite, and which changed nothing but the counts.
      skipped_in_a_row: how many of them are the latest steps.
    """

    # JAX builds it of shapes, shardings and tracers too, so these are not declared as arrays.
    step: PyTree
    parameters: PyTree
    ema: PyTree
    optimiser: PyTree
    carry: PyTree
    skipped: PyTree
    skipped_in_a_row: PyTree


def initial_state(parameters: PyTree, carry: PyTree, optimiser: PyTree) -> TrainState:
    """The state before the first step. Everything is copied, since steps give its memory to the next state."""
    zero = lambda: jnp.zeros((), jnp.int32)
    copy = lambda tree: jax.tree.map(jnp.array, tree)
    return TrainState(
        zero(),
        copy(parameters),
        copy(parameters),
        copy(optimiser),
        copy(carry),
        skipped=zero(),
        skipped_in_a_row=zero(),
    )

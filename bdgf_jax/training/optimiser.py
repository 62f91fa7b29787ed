"""AdamW behind gradient clipping, on a rate that warms up and dies away along a cosine."""

import optax

from bdgf_jax.training.vector import Layout


def learning_rate_schedule(config) -> optax.Schedule:
    """Rises linearly to `learning_rate` in `warmup` steps, then falls along a cosine to 0 at `steps`.

    The cosine is that of arXiv 1608.03983. The first step's rate is learning_rate / warmup, not 0. A warm-up of more
    than half of the steps is cut to that.
    """
    warmup = min(config.warmup, config.steps // 2)
    rise = optax.linear_schedule(config.learning_rate / max(warmup, 1), config.learning_rate, max(warmup - 1, 1))
    fall = optax.cosine_decay_schedule(config.learning_rate, max(config.steps - warmup, 1))
    return optax.join_schedules([rise, fall], [warmup])


def make_optimiser(config, layout: Layout) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) on gradients whose global norm is clipped, of all parameters as one vector.

    Weight decay pulls at matrices and kernels only: biases and the scales of norms have fewer than two axes.

    Args:
      config: `learning_rate`, `warmup` and `steps`, see `learning_rate_schedule`; `weight_decay`; `clip`, the largest
        global norm.
      layout: of the vector that the optimiser works on.
    """
    decays = layout.matrices
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(),
        optax.stateless(lambda updates, vector: updates + config.weight_decay * (decays * vector)),
        optax.scale_by_learning_rate(learning_rate_schedule(config)),
    )

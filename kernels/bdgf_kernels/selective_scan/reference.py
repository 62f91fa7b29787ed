"""The plain equations, a step at a time: the implementation that the others are read against."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, sizes


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; the plain equations serve every call."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Runs `jax.lax.scan` over the steps; reverse mode keeps every state, b k d n floats a step."""
    u, delta, A, B, C, _, _, delta_bias, initial_state, reset = operands
    b, length, d, k, _, n = sizes(operands)
    rows = np.stack([order.row(np.arange(length), length) for order in options.orders], axis=-1)
    back = np.stack([order.step(np.arange(length), length) for order in options.orders], axis=-1)

    delta = step_size(delta, delta_bias, softplus=options.delta_softplus)
    delta = jnp.broadcast_to(delta, (b, length, k, d))
    every_scan = np.arange(k)[None]
    u_rows = u.astype(jnp.float32)[:, rows]
    delta_rows = delta[:, rows, every_scan]
    B_rows, C_rows = (by_channel(x, d)[:, rows, every_scan] for x in (B, C))
    keep = None if reset is None else (~reset).astype(jnp.float32)[:, rows]

    def advance(state, step):
        u, delta, B, C, keep = step
        if keep is not None:
            state = state * keep[..., None, None]
        state = jnp.exp(delta[..., None] * A[None]) * state + (delta * u)[..., None] * B
        return state, jnp.sum(C * state, axis=-1)

    state = jnp.zeros((b, k, d, n), jnp.float32) if initial_state is None else initial_state
    by_step = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (u_rows, delta_rows, B_rows, C_rows, keep))
    state, y = jax.lax.scan(advance, state, by_step)
    y = jnp.moveaxis(y, 0, 1)[:, back, every_scan].sum(axis=2)
    y = finish(y, operands)
    return y, state if options.final_state else None


def step_size(
    delta: Float[Array, "b l kd d"], delta_bias: Float[Array, "k d"] | None, *, softplus: bool
) -> Float[Array, "b l _ d"]:
    """Returns the step size in float32: delta + delta_bias, through a softplus where asked."""
    delta = delta.astype(jnp.float32)
    if delta_bias is not None:
        delta = delta + delta_bias[None, None]
    return jax.nn.softplus(delta) if softplus else delta


def by_channel(x: Float[Array, "b l k g n"], d: int) -> Float[Array, "b l k d n"]:
    """Spreads the groups of B or C over the channels that belong to them, in float32."""
    x = x.astype(jnp.float32)
    return jnp.repeat(x, d // x.shape[3], axis=3)


def finish(y: Float[Array, "b l d"], operands: Operands) -> Float[Array, "b l d"]:
    """Adds the skip D u (of all scans together), gates by silu(z) and rounds to the type of u."""
    if operands.D is not None:
        y = y + operands.D.sum(axis=0)[None, None] * operands.u.astype(jnp.float32)
    if operands.z is not None:
        y = y * jax.nn.silu(operands.z.astype(jnp.float32))
    return y.astype(operands.u.dtype)

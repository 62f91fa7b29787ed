"""The plain equations, a step at a time: the implementation that the others are read against."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bdgf_kernels.compatibility import vary_alike
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, by_row, by_scan, by_step, own_channels, sizes


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; the plain equations serve every call."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Runs `jax.lax.scan` over the steps; reverse mode keeps every state, k b d n floats a step."""
    A = operands.A[:, None]
    B, C = (x.astype(jnp.float32) for x in (operands.B, operands.C))
    delta = step_size(operands, options)

    def advance(state, step):
        u, delta, B, C, keep = step
        B, C = by_channel(B, operands), by_channel(C, operands)
        if keep is not None:
            state = state * keep[..., None, None]
        state = jnp.exp(delta[..., None] * A) * state + (delta * u)[..., None] * B
        return state, jnp.sum(C * state, axis=-1)

    inputs = (by_scan(operands), delta, B, C, kept(operands))
    inputs = jax.tree.map(lambda x: by_step(x, options), inputs)
    state, y = jax.lax.scan(advance, first_state(operands), inputs)
    return finish(by_row(y, operands, options), operands), jnp.moveaxis(state, 0, 1) if options.final_state else None


def step_size(
    operands: Operands, options: Options, softplus: Callable[[Array], Array] = jax.nn.softplus
) -> Float[Array, "b l _ d"]:
    """Returns the step size in float32: delta + delta_bias, through a softplus, this one, where asked."""
    delta = operands.delta.astype(jnp.float32)
    if operands.delta_bias is not None:
        delta = delta + operands.delta_bias[None, None]
    return softplus(delta) if options.delta_softplus else delta


def by_channel(x: Float[Array, "*b g n"], operands: Operands) -> Float[Array, "*b d n"]:
    """Spreads the groups of B or C over the channels that belong to them."""
    _, _, d, _, g, _ = sizes(operands)
    return jnp.repeat(x, d // g, axis=-2)


def kept(operands: Operands) -> Float[Array, "b l 1"] | None:
    """Returns 0 where the carried state is dropped before a step and 1 elsewhere."""
    return None if operands.reset is None else (~operands.reset).astype(jnp.float32)[:, :, None]


def first_state(operands: Operands) -> Float[Array, "k b d n"]:
    """Returns the state before the first step, zero where none is given."""
    b, _, d, k, _, n = sizes(operands)
    if operands.initial_state is None:
        state, _ = vary_alike((jnp.zeros((k, b, d, n), jnp.float32), operands.u))
        return state
    return jnp.moveaxis(operands.initial_state, 1, 0)


def finish(y: Float[Array, "b l c"], operands: Operands) -> Float[Array, "b l c"]:
    """Adds the skip D u (of all scans together), gates by silu(z) and rounds to the type of u."""
    if operands.D is not None:
        skip = operands.D.reshape(-1) if own_channels(operands) else operands.D.sum(axis=0)
        y = y + skip[None, None] * operands.u.astype(jnp.float32)
    if operands.z is not None:
        y = y * jax.nn.silu(operands.z.astype(jnp.float32))
    return y.astype(operands.u.dtype)

"""The scan as a prefix product of affine maps, log2(L) passes over memory: for short L where parallelism is scarce."""

import jax
import jax.numpy as jnp
import numpy as np

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, sizes
from bdgf_kernels.selective_scan.reference import by_channel, finish, step_size


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; this one serves every call, at b l k d n floats of memory."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Composes the maps h -> a h + x of all steps; (a2, x2) after (a1, x1) is (a2 a1, a2 x1 + x2)."""
    u, delta, A, B, C, _, _, delta_bias, initial_state, reset = operands
    b, length, d, k, _, _ = sizes(operands)
    rows = np.stack([order.row(np.arange(length), length) for order in options.orders], axis=-1)
    back = np.stack([order.step(np.arange(length), length) for order in options.orders], axis=-1)
    every_scan = np.arange(k)[None]

    delta = step_size(delta, delta_bias, softplus=options.delta_softplus)
    delta = jnp.broadcast_to(delta, (b, length, k, d))[:, rows, every_scan]
    u_rows = u.astype(jnp.float32)[:, rows]
    B_rows, C_rows = (by_channel(x, d)[:, rows, every_scan] for x in (B, C))

    decay = jnp.exp(delta[..., None] * A[None, None])
    added = (delta * u_rows)[..., None] * B_rows
    if reset is not None:
        decay = decay * (~reset).astype(jnp.float32)[:, rows][..., None, None]
    if initial_state is not None:
        added = added.at[:, 0].add(decay[:, 0] * initial_state)

    def compose(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    _, states = jax.lax.associative_scan(compose, (decay, added), axis=1)
    y = jnp.sum(C_rows * states, axis=-1)[:, back, every_scan].sum(axis=2)
    return finish(y, operands), states[:, -1] if options.final_state else None

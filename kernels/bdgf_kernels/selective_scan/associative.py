"""The scan as a prefix product of affine maps, log2(L) passes over memory: for many steps of few channels."""

import jax
import jax.numpy as jnp

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, by_row, by_scan, by_step
from bdgf_kernels.selective_scan.reference import by_channel, finish, first_state, kept, step_size


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; this one serves every call, at b l k d n floats of memory."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Composes the maps h -> a h + x of all steps; (a2, x2) after (a1, x1) is (a2 a1, a2 x1 + x2)."""
    delta = step_size(operands, options)
    inputs = (by_scan(operands), delta, operands.B, operands.C, kept(operands))
    u, delta, B, C, keep = jax.tree.map(lambda x: by_step(x, options), inputs)
    B, C = (by_channel(x.astype(jnp.float32), operands) for x in (B, C))

    decay = jnp.exp(delta[..., None] * operands.A[None, :, None])
    added = (delta * u)[..., None] * B
    if keep is not None:
        decay = decay * keep[..., None, None]
    added = added.at[0].add(decay[0] * first_state(operands))

    def compose(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    _, states = jax.lax.associative_scan(compose, (decay, added))
    y = by_row(jnp.sum(C * states, axis=-1), operands, options)
    return finish(y, operands), jnp.moveaxis(states[-1], 0, 1) if options.final_state else None

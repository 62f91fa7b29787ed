"""The scan for processors with caches: channels last, gradients by hand from states kept at the chunks' boundaries.

Measured on two x86 cores, a plain `jax.lax.scan` is bound by its layout, not by its exponentials: with the n states
last, vectors are short and every y needs a horizontal sum. Here a state is (n, d), so all work runs along channels, and
the contraction with C is a small matrix product a sequence. Its gradient by autodiff is bound by memory, since it keeps
every state; here the forward pass keeps one state a chunk and the backward pass recomputes a chunk at a time.
"""

import functools
import math

import jax
import jax.numpy as jnp

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, by_row, by_step, sizes
from bdgf_kernels.selective_scan.reference import finish, first_state, kept, step_size

exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; this one serves every call."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Runs the steps in chunks of about sqrt(L), which keeps 2 sqrt(L) states instead of L for the backward pass."""
    b, length, d, k, g, n = sizes(operands)
    e = d // g
    delta = step_size(operands, softplus=options.delta_softplus)
    added = delta * operands.u[:, :, None].astype(jnp.float32)
    B, C = (x.astype(jnp.float32) for x in (operands.B, operands.C))
    chunk = max(1, round(math.sqrt(length)))
    chunks = -(-length // chunk)

    def cut(x):
        """Steps first, in whole chunks: padded steps have a step size of 0 and keep the state."""
        x = by_step(x, options)
        x = jnp.pad(x, ((0, chunks * chunk - length), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(chunks, chunk, *x.shape[1:])

    delta, added, B, C, keep = jax.tree.map(cut, (delta, added, B, C, kept(operands)))
    delta, added = (x.reshape(*x.shape[:-1], g, e) for x in (delta, added))
    if keep is not None and chunks * chunk > length:
        keep = keep.at[-1, length - chunks * chunk :].set(1.0)
    A = operands.A.reshape(k, g, e, n).swapaxes(-1, -2)
    state = first_state(operands).reshape(k, b, g, e, n).swapaxes(-1, -2)
    y, state = run_chunks(state, A, (delta, added, B, C, keep))
    y = by_row(y.reshape(chunks * chunk, k, b, d)[:length], options)
    state = jnp.moveaxis(state.swapaxes(-1, -2).reshape(k, b, d, n), 0, 1)
    return finish(y, operands), state if options.final_state else None


@jax.custom_vjp
def run_chunks(state, A, steps):
    """Returns y of all steps and the last state, from the step size, its product with u, B, C and `keep`."""
    (y, state), _ = run_chunks_forward(state, A, steps)
    return y, state


def decay_of(A, delta, keep):
    """exp(Δ A), and 0 where the carried state is dropped."""
    decay = jnp.exp(delta[:, :, :, None] * A[:, None])
    return decay if keep is None else decay * keep[:, :, None, None, None]


def advance(A, state, step):
    """Computes the state after a step."""
    delta, added, B, _, keep = step
    return decay_of(A, delta, keep) * state + added[:, :, :, None] * B[..., None]


def run_chunks_forward(state, A, steps):
    """The forward pass; keeps the state before every chunk."""

    def step_forward(state, step):
        state = advance(A, state, step)
        return state, exact("kbgn,kbgne->kbge", step[3], state)

    def chunk_forward(state, chunk):
        after, y = jax.lax.scan(step_forward, state, chunk)
        return after, (y, state)

    state, (y, boundaries) = jax.lax.scan(chunk_forward, state, steps)
    return (y, state), (boundaries, A, steps)


def run_chunks_backward(kept, cotangents):
    """The backward pass: chunk by chunk from the last, states recomputed from the boundary, then walked back.

    With g[l] the cotangent of the state h[l] and a[l] its decay, g[l] = C[l] dy[l] + a[l+1] g[l+1]; the carry is a g.
    """
    boundaries, A, steps = kept
    dy, dstate = cotangents

    def step_again(state, step):
        return advance(A, state, step), state

    def step_backward(carry, step):
        carried, dA, after = carry
        before, dy, (delta, added, B, C, keep) = step
        dstate = carried + dy[:, :, :, None] * C[..., None]
        carried = dstate * decay_of(A, delta, keep)
        through_decay = carried * before
        gradients = (
            jnp.sum(through_decay * A[:, None], axis=3),
            exact("kbgn,kbgne->kbge", B, dstate),
            exact("kbge,kbgne->kbgn", added, dstate),
            exact("kbge,kbgne->kbgn", dy, after),
        )
        return (carried, dA + through_decay * delta[:, :, :, None], before), gradients

    def chunk_backward(carry, chunk):
        boundary, dy, steps = chunk
        last, states = jax.lax.scan(step_again, boundary, steps)
        (*carry, _), gradients = jax.lax.scan(step_backward, (*carry, last), (states, dy, steps), reverse=True)
        return tuple(carry), gradients

    (dstate, dA), gradients = jax.lax.scan(
        chunk_backward, (dstate, jnp.zeros_like(dstate)), (boundaries, dy, steps), reverse=True
    )
    keep = steps[-1]
    return dstate, dA.sum(axis=1), (*gradients, None if keep is None else jnp.zeros_like(keep))


run_chunks.defvjp(run_chunks_forward, run_chunks_backward)

"""The scan for processors with caches: channels last, gradients by hand from states kept at the chunks' boundaries.

Measured on two x86 cores, a plain `jax.lax.scan` is bound by its layout, not by its exponentials: with the n states
last, vectors are short and every y needs a horizontal sum. Here a state is (n, d), so all work runs along channels, and
the contraction with C is a small matrix product a sequence. Then exponentials were half of a forward pass, and are
powers of 2 by a polynomial now. Its gradient by autodiff is bound by memory, since it keeps every state; here the
forward pass keeps one state a chunk and the backward pass recomputes a chunk at a time.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, by_row, by_scan, by_step, sizes
from bdgf_kernels.selective_scan.exponentials import LOG2E, power_of_2, softplus
from bdgf_kernels.selective_scan.reference import finish, first_state, step_size

Keep = Float[Array, "c s b"] | None


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; this one serves every call."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Runs the steps in chunks of about sqrt(L), which keeps 2 sqrt(L) states instead of L for the backward pass.

    All scans and groups walk in one loop: a loop of its own for each takes longer to compile and runs no faster.
    """
    b, length, d, k, g, n = sizes(operands)
    chunk = max(1, round(math.sqrt(length)))
    chunks = -(-length // chunk)

    def cut(x):
        """Steps first, in whole chunks: a padded step has a step size of 0 and keeps the state."""
        x = by_step(x, options)
        x = jnp.pad(x, ((0, chunks * chunk - length), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(chunks, chunk, *x.shape[1:])

    delta = step_size(operands, options, softplus)
    delta, u = (cut(x).reshape(chunks, chunk, k, b, g, d // g) for x in (delta, by_scan(operands)))
    B, C = (cut(x.astype(jnp.float32)) for x in (operands.B, operands.C))
    dropped = None if operands.reset is None else cut(operands.reset[:, :, None].astype(jnp.float32))
    A = operands.A.reshape(k, g, d // g, n).swapaxes(-1, -2)
    state = first_state(operands).reshape(k, b, g, d // g, n).swapaxes(-1, -2)

    # An axis of length one would cost XLA its vectorised inner loops.
    several = (k * g,) if k * g > 1 else ()
    merged = lambda x: jnp.moveaxis(x, 4, 3).reshape(*x.shape[:2], *several, b, x.shape[-1])
    keep = None if dropped is None else jnp.repeat(1.0 - dropped, g, axis=2).reshape(*dropped.shape[:2], *several, b)
    state = state.swapaxes(1, 2).reshape(*several, b, n, d // g)
    run = jax.vmap(run_chunks, in_axes=(0, 0, 2)) if several else run_chunks
    steps = *map(merged, (delta, u, B, C)), keep
    y, state = run(state, A.reshape(*several, n, d // g), steps)
    y = y if several else y[None]
    state = state.reshape(k, g, b, n, d // g)
    y = jnp.moveaxis(y.reshape(k, g, chunks * chunk, b, d // g)[:, :, :length], (1, 2), (3, 0))
    state = jnp.moveaxis(state, (0, 1, 2, 3, 4), (1, 2, 0, 4, 3))
    y = finish(by_row(y.reshape(length, k, b, d), operands, options), operands)
    return y, state.reshape(b, k, d, n) if options.final_state else None


Chunks = tuple[Float[Array, "c s b e"], Float[Array, "c s b e"], Float[Array, "c s b n"], Float[Array, "c s b n"], Keep]


@jax.custom_vjp
def run_chunks(
    state: Float[Array, "b n e"], A: Float[Array, "n e"], steps: Chunks
) -> tuple[Float[Array, "c*s*b e"], Float[Array, "b n e"]]:
    """Returns y of all steps and the last state, from the step size, u, B, C and what is kept.

    Where no gradient is wanted, one loop over all steps does.
    """
    each = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)
    state, y = walk(A, state, each)
    return in_rows(y), state


def in_rows(y):
    """Steps and sequences on one axis: so `vmap` puts its own first, in both functions whose output this is.

    It takes for granted that they agree, and goes wrong where one has the axis elsewhere.
    """
    return y.reshape(-1, y.shape[-1])


def decay_of(A, delta, keep):
    """exp(Δ A), and 0 where the carried state is dropped."""
    decay = power_of_2(delta[:, None] * (LOG2E * A)[None])
    return decay if keep is None else decay * keep[:, None, None]


def advance(A, state, step):
    """Computes the state after a step."""
    delta, u, B, _, keep = step
    return decay_of(A, delta, keep) * state + (delta * u)[:, None] * B[..., None]


def contract(equation, x, state):
    """A small matrix product for every sequence, in full float32 on every platform."""
    return jnp.einsum(equation, x, state, precision=jax.lax.Precision.HIGHEST)


def walk(A, state, steps):
    """The state after these steps, and their y."""

    def step_forward(state, step):
        state = advance(A, state, step)
        return state, contract("bn,bne->be", step[3], state)

    return jax.lax.scan(step_forward, state, steps)


def run_chunks_forward(state, A, steps):
    """The forward pass; keeps the state before every chunk."""

    def chunk_forward(state, chunk):
        after, y = walk(A, state, chunk)
        return after, (y, state)

    state, (y, boundaries) = jax.lax.scan(chunk_forward, state, steps)
    return (in_rows(y), state), (boundaries, A, steps)


def run_chunks_backward(kept, cotangents):
    """The backward pass: chunk by chunk from the last, states recomputed from the boundary, then walked back.

    With g[l] the cotangent of the state h[l] and a[l] its decay, g[l] = C[l] dy[l] + a[l+1] g[l+1]. The carry is the
    last term: sums of g over states or channels are sums of the carry, which is in memory anyway, and of C dy, which
    come from all steps at once.
    """
    boundaries, A, steps = kept
    dy, dstate = cotangents
    delta, u, B, C, keep = steps
    dy = dy.reshape(u.shape)

    def step_again(state, step):
        dy, step = step
        after = advance(A, state, step)
        return after, (state, contract("be,bne->bn", dy, after))

    def step_backward(carry, step):
        carried, dA = carry
        before, dy, (delta, u, B, C, keep) = step
        through_input = contract("bn,bne->be", B, carried), contract("be,bne->bn", delta * u, carried)
        carried = (carried + dy[:, None] * C[..., None]) * decay_of(A, delta, keep)
        # XLA:CPU vectorises this sum along channels only where it is written out.
        through_decay = sum(carried[:, i] * before[:, i] * A[i][None] for i in range(A.shape[0]))
        return (carried, dA + carried * before * delta[:, None]), (through_decay, *through_input)

    def chunk_backward(carry, chunk):
        boundary, dy, steps = chunk
        _, (states, dC) = jax.lax.scan(step_again, boundary, (dy, steps))
        carry, gradients = jax.lax.scan(step_backward, carry, (states, dy, steps), reverse=True)
        return carry, (*gradients, dC)

    carry = dstate, jnp.zeros_like(dstate)
    (dstate, dA), gradients = jax.lax.scan(chunk_backward, carry, (boundaries, dy, steps), reverse=True)
    ddelta, dadded, dB, dC = gradients
    dadded = dadded + dy * jnp.sum(B * C, axis=-1, keepdims=True)
    dB = dB + C * jnp.sum(delta * u * dy, axis=-1, keepdims=True)
    dsteps = ddelta + dadded * u, dadded * delta, dB, dC, jax.tree.map(jnp.zeros_like, keep)
    return dstate, dA.sum(axis=0), dsteps


run_chunks.defvjp(run_chunks_forward, run_chunks_backward)

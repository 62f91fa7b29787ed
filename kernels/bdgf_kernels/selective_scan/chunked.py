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

from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, by_row, by_scan, in_orders, sizes
from bdgf_kernels.selective_scan.exponentials import LOG2E, power_of_2, softplus
from bdgf_kernels.selective_scan.reference import finish, first_state, step_size

Dropped = Float[Array, "b l"] | None
Rows = tuple[Float[Array, "b l e"], Float[Array, "b l e"], Float[Array, "b l n"], Float[Array, "b l n"], Dropped]
"""The step size, u, B, C, and 1 where the carried state is dropped before the step, 0 elsewhere."""


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served; this one serves every call."""
    del operands, options
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Runs the steps, each scan's in its own order.

    All scans and groups walk in one loop: a loop of its own for each takes longer to compile and runs no faster.
    """
    b, length, d, k, g, n = sizes(operands)
    # An axis of length one would cost XLA its vectorised inner loops.
    several = (k * g,) if k * g > 1 else ()

    def rows_of(x, groups):
        """Rows b l k' (g ·) in each scan's order, (k g) b l ·. No axis moves where there is one scan of one group."""
        scans = in_orders(x, options)
        if not several:
            return scans[0].reshape(b, length, -1)
        together = jnp.stack(scans).reshape(k, b, length, groups, -1)
        together = jnp.broadcast_to(together, (k, b, length, g, together.shape[-1]))
        return together.transpose(0, 3, 1, 2, 4).reshape(k * g, b, length, -1)

    delta = step_size(operands, options, softplus)
    B, C = (x.astype(jnp.float32) for x in (operands.B, operands.C))
    rows = tuple(rows_of(x, g) for x in (delta, by_scan(operands), B, C))
    reset = operands.reset
    dropped = None if reset is None else rows_of(reset[:, :, None].astype(jnp.float32), 1)[..., 0]
    A = operands.A.reshape(*several, d // g, n).swapaxes(-1, -2)
    state = first_state(operands).reshape(k, b, g, d // g, n).transpose(0, 2, 1, 4, 3)
    run = jax.vmap(run_rows) if several else run_rows
    y, state = run(state.reshape(*several, b, n, d // g), A, (*rows, dropped))
    y = y.reshape(k, g, b, length, d // g).transpose(3, 0, 2, 1, 4).reshape(length, k, b, d)
    state = state.reshape(k, g, b, n, d // g).transpose(2, 0, 1, 4, 3)
    y = finish(by_row(y, operands, options), operands)
    return y, state.reshape(b, k, d, n) if options.final_state else None


@jax.custom_vjp
def run_rows(
    state: Float[Array, "b n e"], A: Float[Array, "n e"], rows: Rows
) -> tuple[Float[Array, "b*l e"], Float[Array, "b n e"]]:
    """Returns y of all steps and the last state.

    Where no gradient is wanted, one loop reads and writes rows where they lie.
    """
    delta = rows[0]

    def step_in_place(t, carry):
        state, y = carry
        row = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, axis=1, keepdims=False), rows)
        state = advance(A, state, row)
        # XLA:CPU vectorises this sum along channels only where it is written out.
        read = sum(row[3][:, i, None] * state[:, i] for i in range(A.shape[0]))
        return state, jax.lax.dynamic_update_index_in_dim(y, read, t, axis=1)

    state, y = jax.lax.fori_loop(0, delta.shape[1], step_in_place, (state, jnp.zeros_like(delta)))
    return in_rows(y), state


def in_rows(y):
    """Sequences and steps on one axis: so `vmap` puts its own first, in both functions whose output this is.

    It takes for granted that they agree, and goes wrong where one has the axis elsewhere.
    """
    return y.reshape(-1, y.shape[-1])


def cut(x, length):
    """Steps first, in whole chunks of about sqrt(L), so that 2 sqrt(L) states are kept instead of L.

    A padded step has a step size of 0 and keeps the state.
    """
    chunk = max(1, round(math.sqrt(length)))
    x = x.swapaxes(0, 1)
    x = jnp.pad(x, ((0, -length % chunk), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(-1, chunk, *x.shape[1:])


def joined(x, length):
    """Sequences first again, without the padded steps: the inverse of `cut`."""
    return x.reshape(-1, *x.shape[2:])[:length].swapaxes(0, 1)


def decay_of(A, delta, dropped):
    """exp(Δ A), and 0 where the carried state is dropped."""
    decay = power_of_2(delta[:, None] * (LOG2E * A)[None])
    return decay if dropped is None else decay * (1.0 - dropped)[:, None, None]


def advance(A, state, step):
    """Computes the state after a step."""
    delta, u, B, _, dropped = step
    return decay_of(A, delta, dropped) * state + (delta * u)[:, None] * B[..., None]


def contract(equation, x, state):
    """A small matrix product for every sequence, in full float32 on every platform."""
    return jnp.einsum(equation, x, state, precision=jax.lax.Precision.HIGHEST)


def walk(A, state, steps):
    """The state after these steps, and their y."""

    def step_forward(state, step):
        state = advance(A, state, step)
        return state, contract("bn,bne->be", step[3], state)

    return jax.lax.scan(step_forward, state, steps)


def run_chunks(state, A, rows):
    """The forward pass; keeps the state before every chunk."""
    length = rows[0].shape[1]
    steps = jax.tree.map(lambda x: cut(x, length), rows)

    def chunk_forward(state, chunk):
        after, y = walk(A, state, chunk)
        return after, (y, state)

    state, (y, boundaries) = jax.lax.scan(chunk_forward, state, steps)
    return (in_rows(joined(y, length)), state), (boundaries, A, steps)


def run_chunks_back(kept, cotangents):
    """The backward pass: chunk by chunk from the last, states recomputed from the boundary, then walked back.

    With g[l] the cotangent of the state h[l] and a[l] its decay, g[l] = C[l] dy[l] + a[l+1] g[l+1]. The carry is the
    last term: sums of g over states or channels are sums of the carry, which is in memory anyway, and of C dy, which
    come from all steps at once.
    """
    boundaries, A, steps = kept
    dy, dstate = cotangents
    delta, u, B, C, dropped = steps
    length = dy.shape[0] // delta.shape[2]
    dy = cut(dy.reshape(-1, length, dy.shape[-1]), length)

    def step_again(state, step):
        dy, step = step
        after = advance(A, state, step)
        return after, (state, contract("be,bne->bn", dy, after))

    def step_backward(carry, step):
        carried, dA = carry
        before, dy, (delta, u, B, C, dropped) = step
        through_input = contract("bn,bne->be", B, carried), contract("be,bne->bn", delta * u, carried)
        carried = (carried + dy[:, None] * C[..., None]) * decay_of(A, delta, dropped)
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
    dsteps = ddelta + dadded * u, dadded * delta, dB, dC, jax.tree.map(jnp.zeros_like, dropped)
    return dstate, dA.sum(axis=0), jax.tree.map(lambda x: joined(x, length), dsteps)


run_rows.defvjp(run_chunks, run_chunks_back)

"""The forward kernel: a thread owns a channel, walks the steps in order, keeps the states in registers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from bdgf_kernels.selective_scan.mosaic_gpu_plan import (
    CHUNK,
    LANES,
    launch,
    load,
    parameter,
    repeat,
    row_type,
    step_size,
    store,
    zero,
)

COPIED = 256
"""The most steps that one asynchronous copy takes."""


@dataclasses.dataclass
class Refs:
    """The kernel's arguments in global memory; None where a call has no such argument or result."""

    u: Any
    delta: Any
    A: Any
    B: Any
    C: Any
    D: Any
    bias: Any
    first: Any
    y: Any
    boundaries: Any
    last: Any


def forward(plan, operands, *, keep_boundaries, final_state):
    """Launches the forward kernel; returns y, the states at the chunks' boundaries, the last states.

    y is (b k l d), or (b 1 l k*d) where channels are each direction's own. B and C are (b k g l n), in visiting order
    and padded to whole segments; B comes times ln 2, the bias over it.
    """
    u, delta, A, B, C, D, bias, first = operands
    given = [x for x in (D, bias, first) if x is not None]
    batch, directions, _ = plan.grid
    state = (batch, directions, plan.states, plan.channels)
    own = plan.own_channels
    outputs = [jax.ShapeDtypeStruct(plan.by_row(own=own), row_type(plan, u.dtype, own=own))]
    if keep_boundaries:
        shape = (batch, directions, plan.chunks, plan.states, plan.channels)
        outputs.append(jax.ShapeDtypeStruct(shape, jnp.float32))
    if final_state:
        outputs.append(jax.ShapeDtypeStruct(state, jnp.float32))

    def kernel(u, delta, A, B_all, C_all, *refs, **scratch):
        refs = list(refs)
        D_, bias_, first_ = (refs.pop(0) if x is not None else None for x in (D, bias, first))
        y = refs.pop(0)
        boundaries = refs.pop(0) if keep_boundaries else None
        last = refs.pop(0) if final_state else None
        walk(plan, Refs(u, delta, A, B_all, C_all, D_, bias_, first_, y, boundaries, last), **scratch)

    results = list(launch(plan, kernel, outputs, shared(plan))(u, delta, A, B, C, *given))
    y = results.pop(0)
    boundaries = results.pop(0) if keep_boundaries else None
    return y, boundaries, results.pop(0) if final_state else None


def shared(plan):
    """Shared memory for a segment of B and C, and the barrier that their copies arrive at."""
    steps = plan.staged * CHUNK
    segment = plgpu.SMEM((steps, plan.states), jnp.float32)
    return {"B": segment, "C": segment, "arrived": plgpu.Barrier(num_arrivals=2 * -(-steps // COPIED))}


def walk(plan, refs, *, B, C, arrived):
    """What a block does: a segment of B and C after the other is staged, and its steps are walked."""
    sequence, direction, block = plan.place()
    channels = pl.ds(block * LANES, LANES)
    entries = plan.columns(direction, block)
    columns, own = (entries if own else channels for own in (plan.own_channels, plan.own_delta))
    plane = 0 if plan.own_channels else direction

    def stage(segment):
        """Copies a segment of B and C to shared memory: 128 threads read every number of it.

        The barrier keeps the copies from overtaking threads that still read the segment before.
        """
        plgpu.commit_smem()
        for every, some in ((refs.B, B), (refs.C, C)):
            for first in range(0, some.shape[0], COPIED):
                count = min(COPIED, some.shape[0] - first)
                steps = pl.ds(segment * some.shape[0] + first, count)
                window = every.at[sequence, direction, plan.group(block), steps]
                plgpu.copy_gmem_to_smem(window, some.at[pl.ds(first, count)], arrived)
        plgpu.barrier_wait(arrived)

    rates = [load(refs.A.at[direction, i, channels]) for i in range(plan.states)]
    skip, shift = parameter(refs.D, direction, channels), parameter(refs.bias, direction, channels)
    if refs.first is None:
        states = tuple(zero() for _ in range(plan.states))
    else:
        states = tuple(load(refs.first.at[sequence, direction, i, channels]) for i in range(plan.states))

    def read(first, count):
        """Loads u and delta of a few steps."""
        rows = [plan.row(direction, first + j) for j in range(count)]
        inputs = tuple(load(refs.u.at[sequence, row, columns]) for row in rows)
        return inputs, tuple(load(refs.delta.at[sequence, row, own]) for row in rows)

    def several(first, place, states, loaded):
        """A few steps, the first of which has its B and C at `place`; decays are worked out a step ahead."""
        inputs, raws = loaded
        sizes = [step_size(plan, raw, shift) for raw in raws]
        decays = [[jnp.exp2(sizes[0] * rate) for rate in rates]]
        for j, x in enumerate(inputs):
            decays += [[jnp.exp2(size * rate) for rate in rates] for size in sizes[j + 1 : j + 2]]
            added, out, after = sizes[j] * x, skip * x, []
            for i, (decay, state) in enumerate(zip(decays[j], states)):
                state = decay * state + added * B[place + j, i]
                out = out + state * C[place + j, i]
                after.append(state)
            states = tuple(after)
            store(refs.y.at[sequence, plane, plan.row(direction, first + j), columns], out)
        return states

    def group(first, place, carry, following, count=plan.unroll):
        """Walks the steps that have been loaded while those that follow are."""
        states, loaded = carry
        later = read(following, count)
        return several(first, place, states, loaded), later

    def steps(first, place, states, count):
        """Some steps in groups. The last group stands apart, so that no load has to ask whether its step is there."""
        whole, rest = divmod(count, plan.unroll)
        if not whole:
            return several(first, place, states, read(first, rest))
        here = lambda q: (first + q * plan.unroll, place + q * plan.unroll)
        turn = lambda q, carry: group(*here(q), carry, first + (q + 1) * plan.unroll)
        carry = repeat(whole - 1, turn, (states, read(first, plan.unroll)))
        states, later = group(*here(whole - 1), carry, first + whole * plan.unroll, rest)
        return several(*here(whole), states, later) if rest else states

    def chunks(first, place, states, count):
        """Some steps in chunks, the state before each of which may be kept. A load past the end is of no use."""

        def keep(done, states):
            if refs.boundaries is None:
                return
            for i, state in enumerate(states):
                store(refs.boundaries.at[sequence, direction, (first + done) // CHUNK, i, channels], state)

        def chunk(q, carry):
            keep(q * CHUNK, carry[0])

            def turn(k, carry):
                done = q * CHUNK + k * plan.unroll
                following = jnp.minimum(first + done + plan.unroll, plan.length - plan.unroll)
                return group(first + done, place + done, carry, following)

            return repeat(CHUNK // plan.unroll, turn, carry)

        whole, rest = divmod(count, CHUNK)
        if whole:
            states, _ = repeat(whole, chunk, (states, read(first, plan.unroll)))
        if rest:
            keep(whole * CHUNK, states)
            states = steps(first + whole * CHUNK, place + whole * CHUNK, states, rest)
        return states

    def segment(index, states, count=plan.staged * CHUNK):
        stage(index)
        walk_on = chunks if plan.by_chunk(refs.boundaries is not None) else steps
        return walk_on(index * plan.staged * CHUNK, 0, states, count)

    final = plan.segments - 1
    states = repeat(final, segment, states)
    states = segment(final, states, plan.length - final * plan.staged * CHUNK)
    if refs.last is not None:
        for i, state in enumerate(states):
            store(refs.last.at[sequence, direction, i, channels], state)

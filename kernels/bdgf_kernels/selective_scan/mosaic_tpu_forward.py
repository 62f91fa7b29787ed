"""The forward TPU kernel: batch on lanes, channels on sublanes, steps in order, states in VMEM."""

import functools

import jax.numpy as jnp
from jax.experimental import pallas as pl

from bdgf_kernels.selective_scan.mosaic_tpu_plan import (
    LANES,
    SUBLANES,
    blocks,
    both_passes,
    decay_of,
    each_chunk,
    each_segment,
    launch,
    load,
    register,
    repeat,
    step_size,
    visit,
)


def forward(plan, operands, first, *, keep_boundaries, final_state):
    """Launches the forward kernel; returns y, the directions added up, the states at the boundaries, the last states.

    u, y: (l d b); delta: (k' l d b); A: (k n d); B, C: (k g l n b); D, bias: (k d); first and last states: (k n d b);
    keep: (l 1 b), 0 where the carried state is dropped. y has the type of u if there is one direction, else float32.
    """
    at = blocks(plan, backwards=False)
    k, n, d, b = plan.directions, plan.states, plan.channels, plan.batch
    state = (k, n, d, b)
    y_type = jnp.float32 if plan.added_up else operands[0].dtype
    inputs = both_passes(plan, operands, at) | {"first": None if first is None else (first, at.state)}
    outputs = {
        "y": (operands[0].shape, y_type, at.row),
        "boundaries": ((k, plan.chunks, n, d, b), jnp.float32, at.boundary) if keep_boundaries else None,
        "last": (state, jnp.float32, at.state) if final_state else None,
    }
    chunk_steps, together = plan.tiling.chunk, plan.tiling.forward_steps
    ahead = (2 * together, SUBLANES, LANES)
    scratch = {"state": (n, plan.tile, LANES), "steps": ahead, "added": ahead, "skipped": ahead}

    def kernel(refs):
        direction, visited = pl.program_id(2), pl.program_id(3)
        descending = plan.descending(direction)

        @pl.when(visited == 0)
        def _():
            refs.state[...] = jnp.zeros_like(refs.state) if first is None else refs.first[...]

        def walk(channels, start, count):
            """Walks `count` places for one register of channels: all that follows is in VMEM."""
            skip, shift = load(refs.D, channels), load(refs.bias, channels)

            def row_at(step):
                return plan.row(direction, start + visit(descending, count, step))

            def prepare(first, slot, j):
                """Step size and input of a step to come: they fill slots that the recurrence leaves empty."""
                row = row_at(first + j)
                x = load(refs.u, row, channels)
                step = step_size(plan, load(refs.delta, row, channels), shift)
                refs.steps[slot + j], refs.added[slot + j] = step, step * x
                refs.skipped[slot + j] = jnp.zeros_like(x) if skip is None else skip * x

            def several(first, slot, count, prepare_one=None):
                """Walks a few steps for one state after the other, and prepares as many to come in between."""
                rows = [row_at(first + j) for j in range(count)]
                slots = [slot + j for j in range(count)]
                steps, added, out = ([x[slot] for slot in slots] for x in (refs.steps, refs.added, refs.skipped))
                kept = [load(refs.keep, row) for row in rows]
                if plan.added_up:
                    before = [jnp.where(direction > 0, refs.y[row, channels], 0.0) for row in rows]
                    out = [x + y for x, y in zip(out, before)]
                coming = [] if prepare_one is None else [functools.partial(prepare_one, j) for j in range(count)]
                for i in range(plan.states):
                    rate, state = refs.A[i, channels], refs.state[i, channels]
                    for j, row in enumerate(rows):
                        state = decay_of(steps[j], rate, kept[j]) * state + added[j] * refs.B[row, i : i + 1]
                        out[j] = out[j] + state * refs.C[row, i : i + 1]
                    refs.state[i, channels] = state
                    if coming:
                        coming.pop(0)()
                for prepare_one in coming:
                    prepare_one()
                for row, y in zip(rows, out):
                    refs.y[row, channels] = y.astype(y_type)

            pairs, rest = divmod(count, 2 * together)
            ready = min(count, together)

            def pair(q, _):
                """Two groups of steps, each preparing the one after it: the first the second, that the next pair's."""
                first = 2 * q * together
                second, third = first + together, first + 2 * together
                if rest < together:
                    third = min(third, count - ready) if isinstance(q, int) else jnp.minimum(third, count - ready)
                several(first, 0, together, functools.partial(prepare, second, together))
                several(second, together, together, functools.partial(prepare, third, 0))
                return ()

            for j in range(ready):
                prepare(0, 0, j)
            if pairs:
                repeat(pairs, pair)
            left = count - rest
            if rest > together:
                for j in range(rest - together):
                    prepare(left + together, together, j)
                several(left, 0, together)
                several(left + together, together, rest - together)
            elif rest:
                # Ready are the last steps of all, of which only the last few are left.
                several(left, ready - rest, rest)

        def segment(rows):
            def block(i, _):
                channels = register(i)

                def chunk(c, count):
                    for j in range(n):
                        refs.boundaries[c, j, channels] = refs.state[j, channels]
                    walk(channels, c * chunk_steps, count)

                if keep_boundaries:
                    each_chunk(chunk_steps, rows, descending, chunk)
                else:
                    walk(channels, 0, rows)
                return ()

            repeat(plan.tile // SUBLANES, block)

        each_segment(plan, at.segment(visited), segment)
        if final_state:

            @pl.when(visited == plan.segments - 1)
            def _():
                refs.last[...] = refs.state[...]

    return launch(plan, "selective_scan_forward", kernel, inputs, outputs, scratch)

"""The backward TPU kernel: chunks of 32 steps from the last one on, whose states are recomputed in VMEM."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from bdgf_kernels.selective_scan.exponentials import LN2, LOG2E
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


def backward(plan, operands, boundaries, dy, dlast):
    """Launches the backward kernel.

    Returns du (l d b) and ddelta (k' l d b), the directions added up where they share a delta; what each tile of
    channels gives to dB and dC (tiles k l n b); dA, d(first state) (k n d b), dD and dbias (k d b), with sums over
    sequences left to XLA.
    """
    at = blocks(plan, backwards=True)
    k, n, d, b, length = plan.directions, plan.states, plan.channels, plan.batch, plan.length
    wide = jnp.float32
    deltas = operands[1].shape[0]
    alone = k == 1
    inputs = both_passes(plan, operands, at) | {
        "dy": (dy, at.row),
        "boundaries": (boundaries, at.boundary),
        "dlast": None if dlast is None else (dlast, at.state),
    }
    outputs = {
        "du": (operands[0].shape, wide if plan.added_up else operands[0].dtype, at.row),
        "ddelta": ((deltas, length, d, b), operands[1].dtype if alone or plan.own_delta else wide, at.delta),
        "dB": ((plan.tiles, k, length, n, b), wide, at.partial),
        "dC": ((plan.tiles, k, length, n, b), wide, at.partial),
        "dA": ((k, n, d, b), wide, at.state),
        "dfirst": ((k, n, d, b), wide, at.state),
        "dD": ((k, d, b), wide, at.channel_sum),
        "dbias": ((k, d, b), wide, at.channel_sum),
    }
    chunk_steps, together = plan.tiling.chunk, plan.tiling.backward_steps
    a_chunk, sums = (chunk_steps, SUBLANES, LANES), (chunk_steps, n, SUBLANES, LANES)
    scratch = {"steps": a_chunk, "added": a_chunk, "douts": a_chunk, "dB_terms": sums, "dC_terms": sums} | {
        "states": (chunk_steps + 1, n, SUBLANES, LANES)
    }
    at_once = max(i for i in range(1, plan.tiling.states_at_once + 1) if n % i == 0)

    def kernel(refs):
        direction, visited = pl.program_id(2), pl.program_id(3)
        descending = plan.descending(direction)

        @pl.when(visited == 0)
        def _():
            refs.dfirst[...] = jnp.zeros_like(refs.dfirst) if dlast is None else refs.dlast[...]
            for ref in (refs.dA, refs.dD, refs.dbias, refs.dB_terms, refs.dC_terms):
                ref[...] = jnp.zeros_like(ref)

        def more(ref, value, *index):
            """Adds what a direction gives to what the ones before gave, which lies in VMEM still."""
            shared = plan.added_up if ref is refs.du else k > 1 and not plan.own_delta
            before = jnp.where(direction > 0, ref[index], 0.0) if shared else 0.0
            ref[index] = (before + value).astype(ref.dtype)

        def chunk(c, count):
            """Walks a chunk back, for one register of channels after the other, then adds their dB and dC up."""
            rows = [plan.row(direction, c * chunk_steps + visit(descending, count, j)) for j in range(count)]
            whole, rest = divmod(count, together)

            def block(r, _):
                channels = register(r)
                skip, shift = load(refs.D, channels), load(refs.bias, channels)
                for j, row in enumerate(rows):
                    refs.steps[j] = step_size(plan, load(refs.delta, row, channels), shift)
                    refs.added[j] = refs.steps[j] * load(refs.u, row, channels)
                    refs.douts[j] = load(refs.dy, row, channels)
                kept = [load(refs.keep, row) for row in rows]
                for i in range(n):
                    refs.states[0, i] = refs.boundaries[c, i, channels]
                for first in range(0, count, together):
                    for i in range(n):
                        rate, state = refs.A[i, channels], refs.states[first, i]
                        for j in range(first, min(first + together, count)):
                            decay = decay_of(refs.steps[j], rate, kept[j])
                            state = decay * state + refs.added[j] * refs.B[rows[j], i : i + 1]
                            refs.states[j + 1, i] = state
                if rest:
                    several(channels, skip, c, count, whole, rest)

                def full(q, _):
                    several(channels, skip, c, count, whole - 1 - q, together)
                    return ()

                if whole:
                    repeat(whole, full)
                return ()

            repeat(plan.tile // SUBLANES, block)

            def add_up(j, _):
                row = plan.row(direction, c * chunk_steps + visit(descending, count, j))
                for total, terms in ((refs.dB, refs.dB_terms), (refs.dC, refs.dC_terms)):
                    total[row] = jnp.sum(terms[j], axis=1)
                    terms[j] = jnp.zeros(sums[1:], wide)
                return ()

            jax.lax.fori_loop(0, count, add_up, ())

        def several(channels, skip, c, total, q, count):
            """Walks a few steps back, one state after the other."""
            places = [q * together + j for j in range(count)]
            rows = [plan.row(direction, c * chunk_steps + visit(descending, total, place)) for place in places]
            kept = [load(refs.keep, row) for row in rows]

            def a_state(i, through_input, through_decay):
                """Through the input, Σ_n g B, and through the decay, Σ_n (g a h) A / ln 2, for one state more."""
                rate, carry, dA = refs.A[i, channels], refs.dfirst[i, channels], refs.dA[i, channels]
                for j, place in reversed(list(enumerate(places))):
                    refs.dC_terms[place, i] += refs.douts[place] * refs.states[place + 1, i]
                    gradient = carry + refs.douts[place] * refs.C[rows[j], pl.ds(i, 1)]
                    refs.dB_terms[place, i] += gradient * refs.added[place]
                    through_input[j] = through_input[j] + gradient * refs.B[rows[j], pl.ds(i, 1)]
                    carry = gradient * decay_of(refs.steps[place], rate, kept[j])
                    decayed = carry * refs.states[place, i]
                    through_decay[j] = through_decay[j] + decayed * rate
                    dA = dA + decayed * refs.steps[place]
                refs.dfirst[i, channels], refs.dA[i, channels] = carry, dA

            def states(m, through):
                through_input, through_decay = list(through[0]), list(through[1])
                for i in range(at_once):
                    a_state(m * at_once + i, through_input, through_decay)
                return tuple(through_input), tuple(through_decay)

            nothing = tuple(jnp.zeros((SUBLANES, LANES), wide) for _ in range(count))
            through_input, through_decay = repeat(n // at_once, states, (nothing, nothing))
            dD, dbias = refs.dD[channels], refs.dbias[channels]
            for j, (place, row) in enumerate(zip(places, rows)):
                x, step, dout = load(refs.u, row, channels), refs.steps[place], refs.douts[place]
                skipped = 0.0 if skip is None else skip * dout
                more(refs.du, step * through_input[j] + skipped, row, channels)
                dstep = x * through_input[j] + LN2 * through_decay[j]
                if plan.softplus:
                    dstep = dstep * (1.0 - jnp.exp2(-LOG2E * step))
                more(refs.ddelta, dstep, row, channels)
                dD, dbias = dD + dout * x, dbias + dstep
            refs.dD[channels], refs.dbias[channels] = dD, dbias

        def segment(rows):
            against = not descending if isinstance(descending, bool) else jnp.logical_not(descending)
            each_chunk(chunk_steps, rows, against, chunk)

        each_segment(plan, at.segment(visited), segment)

    return launch(plan, "selective_scan_backward", kernel, inputs, outputs, scratch)

"""The backward kernel: chunks of 16 steps from the last one on, whose states are recomputed from the one before."""

# The type checker reads the oldest jax that is supported, which lacks some of `plgpu`.
# pyright: reportAttributeAccessIssue=false

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from bdgf_kernels.selective_scan import channel_sums
from bdgf_kernels.selective_scan.mosaic_gpu_plan import (
    CHUNK,
    LANES,
    LOG2E,
    launch,
    load,
    parameter,
    repeat,
    step_size,
    store,
    y_type,
    zero,
)


def shared(plan):
    """Shared memory of a block, for each part its own; and the barriers of copies and of parts."""
    parts, states = plan.parts, plan.states // plan.parts
    # Of what changes with the chunk there are two: one is read while the other arrives.
    a_number_a_state = plgpu.SMEM((parts, states, LANES), jnp.float32)
    scratch = {
        "B": plgpu.SMEM((parts, 2, states, CHUNK), jnp.float32),
        "C": plgpu.SMEM((parts, 2, states, CHUNK), jnp.float32),
        "before": plgpu.SMEM((parts, 2, states, LANES), jnp.float32),
        "arrived": plgpu.Barrier(num_arrivals=3, num_barriers=2 * parts),
        "rates": a_number_a_state,
        "carried": a_number_a_state,
        "dA_so_far": a_number_a_state,
        "totals": plgpu.SMEM((2, LANES), jnp.float32),
        "terms": channel_sums.scratch(parts),
    }
    if parts > 1:
        scratch["held"] = plgpu.SMEM((parts, CHUNK, LANES), jnp.float32)
        scratch["others"] = plgpu.SMEM((2, parts - 1, 2 * CHUNK, LANES), jnp.float32)
        scratch["met"] = plgpu.Barrier(num_arrivals=parts)
    return scratch


def backward(plan, operands, boundaries, dy, dlast):
    """Launches the backward kernel.

    B and C are (b k g chunks n 16), in visiting order; B comes times ln 2, the bias over it.
    Returns du, ddelta (b k l d), dA over ln 2 (b k n d), dD and dbias (b k d) and d(first state) (b k n d), with sums
    over sequences left to XLA, and what warps give to dB over ln 2 and dC, four states at a time, as (b k blocks chunks
    n/4 512): by warp, state, dB or dC, and step of the chunk; steps past the last are undefined.
    """
    u, delta, A, B, C, D, bias, _ = operands
    given = [x for x in (D, bias, dlast) if x is not None]
    batch, directions, blocks = plan.grid
    parts, states = plan.parts, plan.states // plan.parts
    a_state = jax.ShapeDtypeStruct((batch, directions, plan.states, plan.channels), jnp.float32)
    a_channel = jax.ShapeDtypeStruct((batch, directions, plan.channels), jnp.float32)
    a_row = (batch, directions, plan.length, plan.channels)
    sums = (batch, directions, blocks, plan.chunks, plan.states // channel_sums.STATES, channel_sums.SUMS)
    outputs = [
        jax.ShapeDtypeStruct(a_row, y_type(plan, u.dtype)),
        jax.ShapeDtypeStruct(a_row, y_type(plan, delta.dtype) if plan.own_delta else jnp.float32),
        *(a_state, a_channel, a_channel, a_state),
        jax.ShapeDtypeStruct(sums, jnp.float32),
    ]

    def kernel(u, delta, A, B_all, C_all, dy, boundaries, *refs, held=None, others=None, met=None, **scratch):
        B, C, before, arrived, rates, carried, dA_so_far, totals, terms = (
            scratch[name]
            for name in ("B", "C", "before", "arrived", "rates", "carried", "dA_so_far", "totals", "terms")
        )
        refs = list(refs)
        D_, bias_, dlast_ = (refs.pop(0) if x is not None else None for x in (D, bias, dlast))
        du, ddelta, dA, dD, dbias, dfirst, dBC = refs
        sequence, direction, block = plan.place()
        part = jax.lax.axis_index("part") if parts > 1 else 0
        channels = pl.ds(block * LANES, LANES)
        own = pl.ds((direction if plan.own_delta else 0) * plan.channels + block * LANES, LANES)
        skip, shift = parameter(D_, direction, channels), parameter(bias_, direction, channels)
        for i in range(states):
            state = part * states + i
            store(rates.at[part, i], load(A.at[direction, state, channels]))
            store(dA_so_far.at[part, i], zero())
            last = zero() if dlast_ is None else load(dlast_.at[sequence, direction, state, channels])
            store(carried.at[part, i], last)

        def on_the_first_part(do):
            pl.when(part == 0)(do) if parts > 1 else do()

        @on_the_first_part
        def _():
            store(totals.at[0], zero())
            store(totals.at[1], zero())

        def fetch(c, slot):
            """Copies what the part needs of a chunk. All threads have to be done with what lay there before."""
            mine, there = pl.ds(part * states, states), arrived.at[part * 2 + slot]
            plgpu.commit_smem()
            for every, some in ((B_all, B), (C_all, C)):
                window = every.at[sequence, direction, plan.group(block), c, mine]
                plgpu.copy_gmem_to_smem(window, some.at[part, slot], there)
            window = boundaries.at[sequence, direction, c, mine, channels]
            plgpu.copy_gmem_to_smem(window, before.at[part, slot], there)

        def read(c, count=CHUNK):
            """Loads delta, u and dy of a chunk."""
            rows = [plan.row(direction, c * CHUNK + j) for j in range(count)]
            raws = tuple(load(delta.at[sequence, row, own]) for row in rows)
            inputs = tuple(load(u.at[sequence, row, channels]) for row in rows)
            return raws, inputs, tuple(load(dy.at[sequence, row, channels]) for row in rows)

        def chunk(c, loaded, count=CHUNK):
            raws, inputs, douts = read(c, count) if loaded is None else loaded
            slot = c % 2
            # The first chunk, which comes last, fetches itself once more: cheaper than to ask whether there is another.
            following = jnp.maximum(c - 1, 0)
            fetch(following, 1 - slot)
            rows = [plan.row(direction, c * CHUNK + j) for j in range(count)]
            steps = [step_size(plan, raw, shift) for raw in raws]
            if held is not None:
                for j, x in enumerate(inputs):
                    store(held.at[part, j], x)
            added = [step * x for step, x in zip(steps, inputs)]
            plgpu.barrier_wait(arrived.at[part * 2 + slot])

            def a_state(i, column, through):
                """Through the input, Σ_n g B, and through the decay, Σ_n (g a h) A, of all steps for one state more."""
                through_input, through_decay = list(through[0]), list(through[1])
                rate, state = load(rates.at[part, i]), load(before.at[part, slot, i])
                befores, decays, dC_terms, dB_terms = [], [], [], [None] * count
                for j in range(count):
                    befores.append(state)
                    decays.append(jnp.exp2(steps[j] * rate))
                    state = decays[j] * state + added[j] * B[part, slot, i, j]
                    dC_terms.append(douts[j] * state)
                channel_sums.write(dC_terms, column + CHUNK, terms.at[part], plan.interpret)
                carry, dA_sum = load(carried.at[part, i]), load(dA_so_far.at[part, i])
                for j in reversed(range(count)):
                    gradient = carry + douts[j] * C[part, slot, i, j]
                    dB_terms[j] = gradient * added[j]
                    through_input[j] = through_input[j] + gradient * B[part, slot, i, j]
                    carry = gradient * decays[j]
                    decayed = carry * befores[j]
                    through_decay[j] = through_decay[j] + decayed * rate
                    dA_sum = dA_sum + decayed * steps[j]
                channel_sums.write(dB_terms, column, terms.at[part], plan.interpret)
                store(carried.at[part, i], carry)
                store(dA_so_far.at[part, i], dA_sum)
                return tuple(through_input), tuple(through_decay)

            def four_states(q, through):
                for i in range(channel_sums.STATES):
                    through = a_state(q * channel_sums.STATES + i, i * channel_sums.TERMS, through)
                fours = states // channel_sums.STATES
                dBC[sequence, direction, block, c, part * fours + q] = channel_sums.add_up(
                    terms.at[part], plan.interpret
                )
                return through

            nothing = tuple(zero() for _ in range(count))
            through = repeat(states // channel_sums.STATES, four_states, (nothing, nothing))

            # Not before: while the states are walked there are no registers for it. Nor are there where the block does
            # not share its states; other blocks fill in while it waits.
            later = read(following) if parts > 1 else None

            def finish(through_input, through_decay):
                dD_sum, dbias_sum = load(totals.at[0]), load(totals.at[1])
                # Registers are scarce while the states are walked: u is read once more, from where it is nearest.
                again = [u.at[sequence, row, channels] if held is None else held.at[0, j] for j, row in enumerate(rows)]
                inputs = [load(x) for x in again]
                for j, (row, x) in enumerate(zip(rows, inputs)):
                    store(du.at[sequence, direction, row, channels], steps[j] * through_input[j] + skip * douts[j])
                    dstep = LOG2E * x * through_input[j] + through_decay[j]
                    if plan.softplus:
                        dstep = dstep * (1.0 - jnp.exp2(-steps[j]))
                    store(ddelta.at[sequence, direction, row, channels], dstep)
                    dD_sum = dD_sum + douts[j] * x
                    dbias_sum = dbias_sum + dstep
                store(totals.at[0], dD_sum)
                store(totals.at[1], dbias_sum)

            if others is None or met is None:
                finish(*through)
                return later

            # Parts leave their sums to the first; no part can be two chunks ahead of another and write here again.
            @pl.when(part > 0)
            def _(others=others):
                for j in range(count):
                    store(others.at[slot, part - 1, j], through[0][j])
                    store(others.at[slot, part - 1, CHUNK + j], through[1][j])

            plgpu.barrier_arrive_and_wait(met)

            @pl.when(part == 0)
            def _(others=others):
                theirs = [range(first, first + count) for first in (0, CHUNK)]
                sums = [[load(others.at[slot, p, j]) for j in some] for p in range(parts - 1) for some in theirs]
                inputs_sum, decays_sum = (
                    [sum(x, own_sum) for own_sum, *x in zip(mine, *sums[kind::2])] for kind, mine in enumerate(through)
                )
                finish(inputs_sum, decays_sum)

            return later

        final = plan.chunks - 1
        fetch(final, final % 2)
        whole, rest = divmod(plan.length, CHUNK)
        loaded = chunk(final, None, rest) if rest else read(final) if parts > 1 else None
        jax.lax.fori_loop(0, whole, lambda q, loaded: chunk(whole - 1 - q, loaded), loaded)
        plgpu.barrier_wait(arrived.at[part * 2 + 1])
        for i in range(states):
            store(dA.at[sequence, direction, part * states + i, channels], load(dA_so_far.at[part, i]))
            store(dfirst.at[sequence, direction, part * states + i, channels], load(carried.at[part, i]))

        @on_the_first_part
        def _():
            store(dD.at[sequence, direction, channels], load(totals.at[0]))
            store(dbias.at[sequence, direction, channels], load(totals.at[1]))

    return launch(plan, kernel, outputs, shared(plan), parts)(u, delta, A, B, C, dy, boundaries, *given)

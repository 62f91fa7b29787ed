"""The backward kernel: chunks of 16 steps from the last one on, whose states are recomputed from the one before."""

# The type checker reads the oldest jax that is supported, which lacks some of `plgpu`.
# pyright: reportAttributeAccessIssue=false

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from bdgf_kernels.selective_scan import channel_sums
from bdgf_kernels.selective_scan.exponentials import LOG2E
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
        "totals": plgpu.SMEM((parts, 2, LANES), jnp.float32),
        "terms": channel_sums.scratch(parts),
    }
    if parts > 1:
        scratch["rows"] = plgpu.SMEM((3, CHUNK, LANES), jnp.float32)
        scratch["exchanged"] = plgpu.SMEM((parts, 2, CHUNK // parts, LANES), jnp.float32)
        scratch["sequence"] = plgpu.SMEM((parts,), jnp.int32)
        scratch["met"] = plgpu.Barrier(num_arrivals=parts)
    return scratch


def split(through, part, share):
    """Parts the sums of a chunk's steps, by kind, into one half's and the other's; zero past the last step."""
    own, theirs = [], []
    for values in through:
        first, second = values[:share], [*values[share:], *[zero()] * (2 * share - max(len(values), share))]
        first = [*first, *[zero()] * (share - len(first))]
        own.append([jnp.where(part == 0, x, y) for x, y in zip(first, second)])
        theirs.append([jnp.where(part == 0, y, x) for x, y in zip(first, second)])
    return own, theirs


def backward(plan, operands, boundaries, dy, dlast):
    """Launches the backward kernel.

    B and C are (b k g chunks n 16), in visiting order; B comes times ln 2, the bias over it.
    Returns du, ddelta (b k l d, or b 1 l k*d where they are each direction's own), dA over ln 2 (b k n d), dD and dbias
    (b k d) and d(first state) (b k n d), with sums over sequences left to XLA, and what half warps give to dB over ln 2
    and dC, two states at a time, as (b k blocks parts chunks*n/(2 parts) 512): by half warp, state, dB or dC, and step
    of the chunk; steps past the last are undefined.
    """
    u, delta, A, B, C, D, bias, _ = operands
    given = [x for x in (D, bias, dlast) if x is not None]
    batch, directions, blocks = plan.grid
    parts, states = plan.parts, plan.states // plan.parts
    a_state = jax.ShapeDtypeStruct((batch, directions, plan.states, plan.channels), jnp.float32)
    a_channel = jax.ShapeDtypeStruct((batch, directions, plan.channels), jnp.float32)
    sums = (batch, directions, blocks, parts, plan.chunks * states // channel_sums.STATES, channel_sums.SUMS)
    outputs = [
        jax.ShapeDtypeStruct(plan.by_row(own=plan.own_channels), row_type(plan, u.dtype, own=plan.own_channels)),
        jax.ShapeDtypeStruct(plan.by_row(own=plan.own_delta), delta.dtype if plan.own_delta else jnp.float32),
        *(a_state, a_channel, a_channel, a_state),
        jax.ShapeDtypeStruct(sums, jnp.float32),
    ]

    def kernel(u, delta, A, B_all, C_all, dy, boundaries, *refs, rows=None, exchanged=None, met=None, **scratch):
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
        columns, entries = (own if is_own else channels for is_own in (plan.own_channels, plan.own_delta))
        skip, shift = parameter(D_, direction, channels), parameter(bias_, direction, channels)
        for i in range(states):
            state = part * states + i
            store(rates.at[part, i], load(A.at[direction, state, channels]))
            store(dA_so_far.at[part, i], zero())
            last = zero() if dlast_ is None else load(dlast_.at[sequence, direction, state, channels])
            store(carried.at[part, i], last)

        store(totals.at[part, 0], zero())
        store(totals.at[part, 1], zero())
        share = CHUNK // parts
        if met is not None:
            scratch["sequence"][part] = sequence
            plgpu.barrier_arrive_and_wait(met)

        def sequence_again():
            """The sequence once more; the compiler does not know that it is the same one for all chunks.

            Else it would work addresses out before their loop and keep them, for which parts have no registers left.
            """
            return sequence if parts == 1 else scratch["sequence"][part]

        def fetch(c, slot):
            """Copies what the part needs of a chunk. All threads have to be done with what lay there before."""
            mine, there = pl.ds(part * states, states), arrived.at[part * 2 + slot]
            plgpu.commit_smem()
            for every, some in ((B_all, B), (C_all, C)):
                window = every.at[sequence, direction, plan.group(block), c, mine]
                plgpu.copy_gmem_to_smem(window, some.at[part, slot], there)
            window = boundaries.at[sequence, direction, c, mine, channels]
            plgpu.copy_gmem_to_smem(window, before.at[part, slot], there)

        pairs = states // channel_sums.STATES

        def add_up(pair, turn, *, wait=False):
            """Adds up what a turn has written for dB and dC; pairs of states count through all chunks."""
            sums = channel_sums.add_up(turn, terms.at[part], plan.interpret, chains=2 if parts == 1 else 1, wait=wait)
            dBC[sequence, direction, block, part, pair] = sums

        def visited(c, count):
            """The rows that a part reads and writes of a chunk, and which of them are there: None for all."""
            if parts == 1:
                return [plan.row(direction, c * CHUNK + j) for j in range(count)], None
            steps = [c * CHUNK + part * share + j for j in range(share)]
            if count == CHUNK:
                return [plan.row(direction, step) for step in steps], None
            there = [step < plan.length for step in steps]
            return [plan.row(direction, jnp.minimum(step, plan.length - 1)) for step in steps], there

        def read(c, count=CHUNK):
            """Loads delta, u and dy of the part's share of a chunk."""
            (some, _), at = visited(c, count), sequence_again()
            raws = tuple(load(delta.at[sequence, row, own]) for row in some)
            inputs = tuple(load(u.at[sequence, row, columns]) for row in some)
            return raws, inputs, tuple(load(dy.at[at, row, columns]) for row in some)

        def chunk(c, loaded, count=CHUNK):
            raws, inputs, douts = read(c, count) if loaded is None else loaded
            slot = c % 2
            # The first chunk, which comes last, fetches itself once more: cheaper than to ask whether there is another.
            following = jnp.maximum(c - 1, 0)
            fetch(following, 1 - slot)
            steps = [step_size(plan, raw, shift) for raw in raws]
            if rows is not None and met is not None:
                # Nobody still reads the chunk before: all have met since, when they exchanged what they summed up.
                for kind, values in enumerate((steps, inputs, douts)):
                    for j, value in enumerate(values):
                        store(rows.at[kind, part * share + j], value)
                plgpu.barrier_arrive_and_wait(met)
                steps, inputs, douts = ([load(rows.at[kind, j]) for j in range(count)] for kind in range(3))
            # Held in registers while the states are walked, which leaves none for this where a block has one part;
            # there other blocks fill in while it waits.
            later = read(following) if parts > 1 else None
            added = [step * x for step, x in zip(steps, inputs)]
            plgpu.barrier_wait(arrived.at[part * 2 + slot])

            def a_state(i, turn, column, through):
                """Through the input, Σ_n g B, and through the decay, Σ_n (g a h) A, of all steps for one state more."""
                through_input, through_decay = list(through[0]), list(through[1])
                rate, state = load(rates.at[part, i]), load(before.at[part, slot, i])
                befores, decays, dC_terms, dB_terms = [], [], [], [None] * count
                for j in range(count):
                    befores.append(state)
                    decays.append(jnp.exp2(steps[j] * rate))
                    state = decays[j] * state + added[j] * B[part, slot, i, j]
                    dC_terms.append(douts[j] * state)
                channel_sums.write(dC_terms, turn, column + CHUNK, terms.at[part], plan.interpret)
                carry, dA_sum = load(carried.at[part, i]), load(dA_so_far.at[part, i])
                for j in reversed(range(count)):
                    gradient = carry + douts[j] * C[part, slot, i, j]
                    dB_terms[j] = gradient * added[j]
                    through_input[j] = through_input[j] + gradient * B[part, slot, i, j]
                    carry = gradient * decays[j]
                    decayed = carry * befores[j]
                    through_decay[j] = through_decay[j] + decayed * rate
                    dA_sum = dA_sum + decayed * steps[j]
                channel_sums.write(dB_terms, turn, column, terms.at[part], plan.interpret)
                store(carried.at[part, i], carry)
                store(dA_so_far.at[part, i], dA_sum)
                return tuple(through_input), tuple(through_decay)

            def two_pairs(q, through):
                """Four states, from the last one on. A part adds a pair up while it walks the next.

                What it finds there the first time is nothing, and written over later. A block that does not share its
                states has no registers for that, but others beside it.
                """
                first = pairs - 1 - channel_sums.TURNS * q
                for turn in range(channel_sums.TURNS):
                    pair = first - turn
                    if parts > 1:
                        before = jnp.minimum(c * pairs + pair + 1, plan.chunks * pairs - 1)
                        add_up(before, 1 - turn)
                    for i in range(channel_sums.STATES):
                        through = a_state(pair * channel_sums.STATES + i, turn, i * channel_sums.TERMS, through)
                if parts == 1:
                    for turn in range(channel_sums.TURNS):
                        add_up(c * pairs + first - turn, turn, wait=turn == channel_sums.TURNS - 1)
                return through

            nothing = tuple(zero() for _ in range(count))
            through = repeat(pairs // channel_sums.TURNS, two_pairs, (nothing, nothing))

            some, there = visited(c, count)
            if rows is None or exchanged is None:
                # Registers are scarce while the states are walked: u is read once more.
                inputs = [load(u.at[sequence, row, columns]) for row in some]
            else:
                # Each part finishes its share of the steps, and leaves what it has of the others' to them.
                (through, theirs), first = split(through, part, share), part * share
                for kind, values in enumerate(theirs):
                    for j, value in enumerate(values):
                        store(exchanged.at[part, kind, j], value)
                plgpu.barrier_arrive_and_wait(met)
                through = [
                    [value + load(exchanged.at[1 - part, kind, j]) for j, value in enumerate(values)]
                    for kind, values in enumerate(through)
                ]
                steps, inputs, douts = ([load(rows.at[kind, first + j]) for j in range(share)] for kind in range(3))
            at, dD_sum, dbias_sum = sequence_again(), load(totals.at[part, 0]), load(totals.at[part, 1])
            for j, (row, x, through_input, through_decay) in enumerate(zip(some, inputs, *through)):
                dx = steps[j] * through_input + skip * douts[j]
                dstep = LOG2E * x * through_input + through_decay
                if plan.softplus:
                    dstep = dstep * (1.0 - jnp.exp2(-steps[j]))

                def write(row=row, dx=dx, dstep=dstep):
                    store(du.at[at, 0 if plan.own_channels else direction, row, columns], dx)
                    store(ddelta.at[at, 0 if plan.own_delta else direction, row, entries], dstep)

                dD_term = douts[j] * x
                if there is None:
                    write()
                else:
                    pl.when(there[j])(write)
                    dD_term, dstep = (jnp.where(there[j], term, 0.0) for term in (dD_term, dstep))
                dD_sum, dbias_sum = dD_sum + dD_term, dbias_sum + dstep
            store(totals.at[part, 0], dD_sum)
            store(totals.at[part, 1], dbias_sum)
            return later

        final = plan.chunks - 1
        fetch(final, final % 2)
        whole, rest = divmod(plan.length, CHUNK)
        loaded = chunk(final, None, rest) if rest else read(final) if parts > 1 else None
        jax.lax.fori_loop(0, whole, lambda q, loaded: chunk(whole - 1 - q, loaded), loaded)
        plgpu.barrier_wait(arrived.at[part * 2 + 1])
        if parts > 1:
            add_up(0, channel_sums.TURNS - 1)
        for i in range(states):
            store(dA.at[sequence, direction, part * states + i, channels], load(dA_so_far.at[part, i]))
            store(dfirst.at[sequence, direction, part * states + i, channels], load(carried.at[part, i]))

        if met is not None:
            plgpu.barrier_arrive_and_wait(met)

        def write_totals():
            for i, result in enumerate((dD, dbias)):
                sums = [load(totals.at[p, i]) for p in range(parts)]
                store(result.at[sequence, direction, channels], sum(sums[1:], sums[0]))

        if parts > 1:
            pl.when(part == 0)(write_totals)
        else:
            write_totals()

    return launch(plan, kernel, outputs, shared(plan), parts)(u, delta, A, B, C, dy, boundaries, *given)

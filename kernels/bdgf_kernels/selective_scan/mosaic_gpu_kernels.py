"""The two Mosaic GPU kernels of the scan: a thread owns a channel, walks the steps, keeps the n states in registers."""

# The type checker reads the oldest jax that is supported, whose `plgpu.load` was another function.
# pyright: reportCallIssue=false

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from bdgf_kernels.selective_scan import channel_sums
from bdgf_kernels.selective_scan.call import Order

LANES = 128
CHUNK = 16
UNROLL = 4
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
LOG2_OF_ONE_PLUS = 1.44269323, -0.721159458, 0.477668375, -0.339089036, 0.215284541, -0.0957975462, 0.0204011854
"""log2(1 + e) / e by powers of e, for e from 0 to 1: Remez's best in relative error, 1.3e-6 of the value."""
ONE_A_THREAD = plgpu.Layout.WG_STRIDED((LANES,), vec_size=1)
# Without these the compiler emits slow, exact exponentials and two block barriers round every store. Every address
# that is written here is read back by the thread that wrote it, or after a barrier that stands in the kernel.
PARAMETERS = plgpu.CompilerParams(
    approx_math=True, unsafe_no_auto_barriers=True, lowering_semantics=plgpu.LoweringSemantics.Lane
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels know while they are traced: axes' lengths, directions and which optional parts there are.

    Args:
      staged: chunks of B and C that lie in shared memory at a time.
      parts: warpgroups that share a channel's states, each of which keeps n / parts of them.
      interpret: parameters of the interpreter, or None to compile.
    """

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    staged: int
    parts: int
    orders: tuple[Order, ...]
    own_delta: bool
    softplus: bool
    interpret: object = None

    @property
    def chunks(self) -> int:
        """Chunks of 16 steps, the last one perhaps shorter."""
        return -(-self.length // CHUNK)

    @property
    def segments(self) -> int:
        """How many times B and C are staged."""
        return -(-self.chunks // self.staged)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks: sequences, directions, and 128 channels each."""
        return self.batch, len(self.orders), self.channels // LANES

    def row(self, direction, step):
        """The row that a direction visits at a step."""
        rows = [order.row(step, self.length) for order in self.orders]
        row = rows[0]
        for i, other in enumerate(rows[1:], start=1):
            row = jnp.where(direction == i, other, row)
        return row

    def group(self, block):
        """The group of B and C that a block of channels belongs to."""
        return block // (self.channels // self.groups // LANES)


def load(ref):
    """Reads one number a thread, as float32."""
    return plgpu.load(ref, layout=ONE_A_THREAD, optimized=False).astype(jnp.float32)


def store(ref, value):
    """Writes one number a thread."""
    ref[...] = value.astype(ref.dtype)


def zero():
    """One zero a thread, in the layout that loops carry."""
    return plgpu.layout_cast(jnp.zeros((LANES,), jnp.float32), ONE_A_THREAD)


def step_size(plan, raw, shift):
    """The step size over ln 2, so that 2^(step A) is the decay, from delta and the bias over ln 2.

    softplus(x) / ln 2 = max(t, 0) + log2(1 + e) with t = x / ln 2 and e = 2^-|t|. A polynomial serves for the logarithm:
    the exponential unit, which would also have to take it, is what bounds the forward pass, and log2(1 + e) itself
    rounds a small e away.
    """
    t = raw * LOG2E + shift
    if not plan.softplus:
        return t
    above = jnp.maximum(t, 0.0)
    e = jnp.exp2(t - 2.0 * above)
    series = functools.reduce(lambda sum_, coefficient: sum_ * e + coefficient, reversed(LOG2_OF_ONE_PLUS))
    return above + e * series


def stage(plan, place, segment, refs, copies, arrived):
    """Copies a segment of B and C, in visiting order, to shared memory: 128 threads read every number of it.

    The barrier keeps the copies from overtaking threads that still read the segment before.
    """
    sequence, direction, block = place
    plgpu.commit_smem()
    for ref, copy in zip(refs, copies):
        count = copy.shape[0]
        window = ref.at[sequence, direction, plan.group(block), pl.ds(segment * count, count)]
        plgpu.copy_gmem_to_smem(window, copy, arrived)
    plgpu.barrier_wait(arrived)


def staging(shape):
    """Shared memory for a segment of B and C, and the barrier that both copies arrive at."""
    segment = plgpu.SMEM(shape, jnp.float32)
    return {"B": segment, "C": segment, "arrived": plgpu.Barrier(num_arrivals=2)}


def repeat(count, body, carry):
    """A loop, if it is one: the compiler does not dissolve those of a single turn."""
    if count > 1:
        return jax.lax.fori_loop(0, count, body, carry)
    return body(0, carry) if count else carry


def parameter(ref, direction, channels):
    """Reads a channel's own number, zero where there is no such argument."""
    return zero() if ref is None else load(ref.at[direction, channels])


def forward(plan, operands, *, keep_boundaries, final_state):
    """Launches the forward kernel; returns y a direction, the states at the chunks' boundaries, the last states.

    B and C are (b k g l n), in visiting order and padded to whole segments; B comes times ln 2, the bias over it.
    """
    u, delta, A, B, C, D, bias, first = operands
    given = [x for x in (D, bias, first) if x is not None]
    batch, directions, _ = plan.grid
    state = (batch, directions, plan.states, plan.channels)
    outputs = [jax.ShapeDtypeStruct((batch, directions, plan.length, plan.channels), y_type(plan, u.dtype))]
    if keep_boundaries:
        shape = (batch, directions, plan.chunks, plan.states, plan.channels)
        outputs.append(jax.ShapeDtypeStruct(shape, jnp.float32))
    if final_state:
        outputs.append(jax.ShapeDtypeStruct(state, jnp.float32))

    def kernel(u, delta, A, B_all, C_all, *refs, B, C, arrived):
        refs = list(refs)
        D_, bias_, first_ = (refs.pop(0) if x is not None else None for x in (D, bias, first))
        y = refs.pop(0)
        boundaries = refs.pop(0) if keep_boundaries else None
        last = refs.pop(0) if final_state else None
        place = sequence, direction, block = tuple(jax.lax.axis_index(x) for x in ("sequence", "direction", "block"))
        channels = pl.ds(block * LANES, LANES)
        own = pl.ds((direction if plan.own_delta else 0) * plan.channels + block * LANES, LANES)
        staged = lambda segment: stage(plan, place, segment, (B_all, C_all), (B, C), arrived)

        rates = [load(A.at[direction, i, channels]) for i in range(plan.states)]
        skip, shift = parameter(D_, direction, channels), parameter(bias_, direction, channels)
        if first_ is None:
            states = tuple(zero() for _ in range(plan.states))
        else:
            states = tuple(load(first_.at[sequence, direction, i, channels]) for i in range(plan.states))

        def several(first, place, states, count):
            """A few steps, the first of which has its B and C at `place`; loads come first, so that latencies overlap."""
            rows = [plan.row(direction, first + j) for j in range(count)]
            inputs = [load(u.at[sequence, row, channels]) for row in rows]
            raws = [load(delta.at[sequence, row, own]) for row in rows]
            for j, (row, x, raw) in enumerate(zip(rows, inputs, raws)):
                step = step_size(plan, raw, shift)
                added, out, after = step * x, skip * x, []
                for i, (rate, state) in enumerate(zip(rates, states)):
                    state = jnp.exp2(step * rate) * state + added * B[place + j, i]
                    out = out + state * C[place + j, i]
                    after.append(state)
                states = tuple(after)
                store(y.at[sequence, direction, row, channels], out)
            return states

        def steps(first, place, states, count):
            whole = count // UNROLL
            group = lambda q, states: several(first + q * UNROLL, place + q * UNROLL, states, UNROLL)
            states = repeat(whole, group, states)
            done = whole * UNROLL
            return several(first + done, place + done, states, count - done) if count > done else states

        def chunk(first, place, states, count):
            for i, state in enumerate(states):
                store(boundaries.at[sequence, direction, first // CHUNK, i, channels], state)
            return steps(first, place, states, count)

        def segment(index, states, count=plan.staged * CHUNK):
            staged(index)
            first = index * plan.staged * CHUNK
            if boundaries is None:
                return steps(first, 0, states, count)
            whole = count // CHUNK
            next_chunk = lambda q, states: chunk(first + q * CHUNK, q * CHUNK, states, CHUNK)
            states = repeat(whole, next_chunk, states)
            done = whole * CHUNK
            return chunk(first + done, done, states, count - done) if count > done else states

        final = plan.segments - 1
        states = repeat(final, segment, states)
        states = segment(final, states, plan.length - final * plan.staged * CHUNK)
        if last is not None:
            for i, state in enumerate(states):
                store(last.at[sequence, direction, i, channels], state)

    results = list(launch(plan, kernel, outputs, staging((plan.staged * CHUNK, plan.states)))(u, delta, A, B, C, *given))
    y = results.pop(0)
    boundaries = results.pop(0) if keep_boundaries else None
    return y, boundaries, results.pop(0) if final_state else None


def y_type(plan, dtype):
    """Directions are added up in float32 before they are rounded; a single one is rounded by the kernel."""
    return dtype if len(plan.orders) == 1 else jnp.float32


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
        scratch["others"] = plgpu.SMEM((2, parts - 1, 2 * CHUNK, LANES), jnp.float32)
        scratch["met"] = plgpu.Barrier(num_arrivals=parts)

    def kernel(u, delta, A, B_all, C_all, dy, boundaries, *refs, others=None, met=None, **scratch):
        B, C, before, arrived, rates, carried, dA_so_far, totals, terms = (
            scratch[name] for name in ("B", "C", "before", "arrived", "rates", "carried", "dA_so_far", "totals", "terms")
        )
        refs = list(refs)
        D_, bias_, dlast_ = (refs.pop(0) if x is not None else None for x in (D, bias, dlast))
        du, ddelta, dA, dD, dbias, dfirst, dBC = refs
        sequence, direction, block = (jax.lax.axis_index(x) for x in ("sequence", "direction", "block"))
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

        def chunk(c, count):
            slot = c % 2
            # The first chunk, which comes last, fetches itself once more: cheaper than to ask whether there is another.
            fetch(jnp.maximum(c - 1, 0), 1 - slot)
            rows = [plan.row(direction, c * CHUNK + j) for j in range(count)]
            steps = [step_size(plan, load(delta.at[sequence, row, own]), shift) for row in rows]
            added = [step * load(u.at[sequence, row, channels]) for step, row in zip(steps, rows)]
            douts = [load(dy.at[sequence, row, channels]) for row in rows]
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
                dBC[sequence, direction, block, c, part * fours + q] = channel_sums.add_up(terms.at[part], plan.interpret)
                return through

            nothing = tuple(zero() for _ in range(count))
            through = repeat(states // channel_sums.STATES, four_states, (nothing, nothing))

            def finish(through_input, through_decay):
                dD_sum, dbias_sum = load(totals.at[0]), load(totals.at[1])
                # Read once more: registers are scarce while the states are walked.
                inputs = [load(u.at[sequence, row, channels]) for row in rows]
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

            if parts == 1:
                return finish(*through)

            # Parts leave their sums to the first; no part can be two chunks ahead of another and write here again.
            @pl.when(part > 0)
            def _():
                for j in range(count):
                    store(others.at[slot, part - 1, j], through[0][j])
                    store(others.at[slot, part - 1, CHUNK + j], through[1][j])

            plgpu.barrier_arrive_and_wait(met)

            @pl.when(part == 0)
            def _():
                theirs = [range(first, first + count) for first in (0, CHUNK)]
                sums = [[load(others.at[slot, p, j]) for j in some] for p in range(parts - 1) for some in theirs]
                inputs_sum, decays_sum = (
                    [sum(x, own_sum) for own_sum, *x in zip(mine, *sums[kind::2])] for kind, mine in enumerate(through)
                )
                finish(inputs_sum, decays_sum)

        final = plan.chunks - 1
        fetch(final, final % 2)
        whole, rest = divmod(plan.length, CHUNK)
        if rest:
            chunk(final, rest)
        jax.lax.fori_loop(0, whole, lambda q, _: chunk(whole - 1 - q, CHUNK), None)
        plgpu.barrier_wait(arrived.at[part * 2 + 1])
        for i in range(states):
            store(dA.at[sequence, direction, part * states + i, channels], load(dA_so_far.at[part, i]))
            store(dfirst.at[sequence, direction, part * states + i, channels], load(carried.at[part, i]))

        @on_the_first_part
        def _():
            store(dD.at[sequence, direction, channels], load(totals.at[0]))
            store(dbias.at[sequence, direction, channels], load(totals.at[1]))

    return launch(plan, kernel, outputs, scratch)(u, delta, A, B, C, dy, boundaries, *given)


def launch(plan, kernel, outputs, scratch):
    """One launch for all sequences, directions and blocks of channels."""
    return plgpu.kernel(
        kernel,
        out_type=tuple(outputs),
        scratch_types=scratch,
        grid=plan.grid,
        grid_names=("sequence", "direction", "block"),
        **({"num_threads": plan.parts, "thread_name": "part"} if plan.parts > 1 else {}),
        compiler_params=PARAMETERS,
        **({} if plan.interpret is None else {"interpret": plan.interpret}),
    )

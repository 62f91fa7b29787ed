"""The two Pallas TPU kernels of the scan: batch on lanes, channels on sublanes, steps in order, states in VMEM."""

import dataclasses
import functools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bdgf_kernels.selective_scan.call import Order, divided

LANES = 128
SUBLANES = 8
CHUNK = 32
# Found by counting the compiler's bundles on v5e and v6e: fewer steps at a time leave slots empty, more make it spill.
FORWARD_STEPS = 8
BACKWARD_STEPS = 4
STATES_AT_ONCE = 8
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
VMEM_LIMIT = 60 * 2**20


class Tile(NamedTuple):
    """Rows (all L, or a multiple of CHUNK) and channels (a multiple of 8 that divides a group's) in VMEM at a time."""

    rows: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels know while they are traced.

    Args:
      batch: sequences, a multiple of 128; the other lengths are those of the padded arrays too.
      rows: rows of a segment, as in Tile.
      tile: channels of a tile.
      interpret: what `pallas_call` is to do instead of compiling, False to compile.
    """

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    rows: int
    tile: int
    orders: tuple[Order, ...]
    own_delta: bool
    softplus: bool
    interpret: object = False

    @property
    def segments(self) -> int:
        """Segments of a sequence, the last one perhaps shorter."""
        return -(-self.length // self.rows)

    @property
    def chunks(self) -> int:
        """Chunks of a sequence: the forward pass keeps the state at each one's boundary."""
        return -(-self.length // CHUNK)

    @property
    def tiles(self) -> int:
        """Tiles of channels."""
        return self.channels // self.tile

    @property
    def directions(self) -> int:
        """Scans over the same rows."""
        return len(self.orders)

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Lanes' worth of sequences, tiles of channels, directions and, innermost, segments: they share a state."""
        return self.batch // LANES, self.tiles, self.directions, self.segments

    def descending(self, direction):
        """Whether a direction visits places from the last to the first: known while tracing if all directions agree."""
        flags = [order.reverse for order in self.orders]
        if len(set(flags)) == 1:
            return flags[0]
        result = direction == flags.index(True)
        for i in range(flags.index(True) + 1, len(flags)):
            result = result | (direction == i) if flags[i] else result
        return result

    def row(self, direction, place):
        """The row at a place of a segment. Places count along the direction's axis of the grid, never backwards."""
        row, before = place, None
        for i, order in enumerate(self.orders):
            if order.grid != before:
                row = jnp.where(direction >= i, Order(grid=order.grid).row(place, self.length), row)
                before = order.grid
        return row


def visit(descending, count, step):
    """The place that is visited at a step of a walk over `count` places."""
    if isinstance(descending, bool):
        return count - 1 - step if descending else step
    return jnp.where(descending, count - 1 - step, step)


def either(condition, action: Callable[[], None]) -> None:
    """Acts where a condition holds, which is known while tracing or is not."""
    if isinstance(condition, bool):
        if condition:
            action()
    else:
        pl.when(condition)(action)


def repeat(count: int, body: Callable, carry=()):
    """A loop, written out where it turns only once, so that the compiler sees one straight piece of code."""
    return body(0, carry) if count == 1 else jax.lax.fori_loop(0, count, body, carry)


def blocks(plan, backwards):
    """The block of each kind of array that a grid step sees. Segments are visited from the first or from the last."""
    from_last = plan.segments > 1 and plan.orders[0].reverse != backwards
    segment = lambda s: plan.segments - 1 - s if from_last else s
    group = lambda t: divided(t, plan.tiles // plan.groups)[0] if plan.groups > 1 else 0
    rows, tile, n = plan.rows, plan.tile, plan.states
    kept = -(-rows // CHUNK)
    return types.SimpleNamespace(
        segment=segment,
        row=pl.BlockSpec((rows, tile, LANES), lambda b, t, k, s: (segment(s), t, b)),
        delta=pl.BlockSpec(
            (None, rows, tile, LANES), lambda b, t, k, s: (k if plan.own_delta else 0, segment(s), t, b)
        ),
        shared=pl.BlockSpec((None, None, rows, n, LANES), lambda b, t, k, s: (k, group(t), segment(s), 0, b)),
        partial=pl.BlockSpec((None, None, rows, n, LANES), lambda b, t, k, s: (t, k, segment(s), 0, b)),
        rates=pl.BlockSpec((None, n, tile, LANES), lambda b, t, k, s: (k, 0, t, 0)),
        channel=pl.BlockSpec((None, tile, LANES), lambda b, t, k, s: (k, t, 0)),
        state=pl.BlockSpec((None, n, tile, LANES), lambda b, t, k, s: (k, 0, t, b)),
        channel_sum=pl.BlockSpec((None, tile, LANES), lambda b, t, k, s: (k, t, b)),
        boundary=pl.BlockSpec((None, kept, n, tile, LANES), lambda b, t, k, s: (k, segment(s), 0, t, b)),
        keep=pl.BlockSpec((rows, 1, LANES), lambda b, t, k, s: (segment(s), 0, b)),
    )


def launch(plan, name, kernel, inputs, outputs, scratch):
    """One launch for all sequences, tiles, directions and segments; the kernel gets its references by name.

    Inputs are (array, block) by name, outputs (shape, type, block), scratch shapes of float32; those that are None are
    left out, and the kernel finds None.
    """
    every = [*inputs, *outputs, *scratch]
    inputs, outputs = ({k: v for k, v in x.items() if v is not None} for x in (inputs, outputs))
    alike = jax.typeof(inputs["u"][0]).manual_axis_type
    names = [*inputs, *outputs, *scratch]

    def named(*refs):
        kernel(types.SimpleNamespace(**(dict.fromkeys(every) | dict(zip(names, refs)))))

    results = pl.pallas_call(
        named,
        name=name,
        grid=plan.grid,
        in_specs=[block for _, block in inputs.values()],
        out_specs=[block for *_, block in outputs.values()],
        out_shape=[jax.ShapeDtypeStruct(s, t, manual_axis_type=alike) for s, t, _ in outputs.values()],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_LIMIT,
        ),
        interpret=plan.interpret,
    )(*(array for array, _ in inputs.values()))
    return types.SimpleNamespace(**(dict.fromkeys(every) | dict(zip(outputs, results))))


def each_segment(plan, segment, action: Callable[[int], None]) -> None:
    """Acts with the number of rows that a segment has, known while tracing: the last one may be shorter."""
    last = plan.length - (plan.segments - 1) * plan.rows
    if plan.segments == 1 or last == plan.rows:
        action(last)
        return
    pl.when(segment == plan.segments - 1)(lambda: action(last))
    pl.when(segment != plan.segments - 1)(lambda: action(plan.rows))


def each_chunk(rows: int, descending, action: Callable) -> None:
    """Acts on each chunk (index and length) of a segment in the order of the visits."""
    full, rest = divmod(rows, CHUNK)

    def tail():
        action(full, rest)

    def step(q, _):
        action(visit(descending, full, q), CHUNK)
        return ()

    if rest:
        either(descending, tail)
    if full:
        repeat(full, step)
    if rest:
        either(not descending if isinstance(descending, bool) else jnp.logical_not(descending), tail)


def step_size(plan, raw, shift):
    """The step size from delta and its bias.

    softplus(x) = log(1 + e^x), which is x itself from 20 on; where 1 + e^x would round e^x away, two terms of the
    logarithm's series serve, so that small step sizes are right to 2e-5 of themselves.
    """
    x = raw if shift is None else raw + shift
    if not plan.softplus:
        return x
    e = jnp.exp2(LOG2E * x)
    small = e * (1.0 - 0.5 * e)
    return jnp.where(x > 20.0, x, jnp.where(e < 2.0**-8, small, jnp.log(1.0 + e)))


def decay_of(step, rate, keep):
    """The factor of the carried state, as a power of 2, which is what the hardware raises."""
    decay = jnp.exp2(step * rate)
    return decay if keep is None else decay * keep


def load(ref, *index) -> Any:
    """Reads a register, or one row that all sublanes share, as float32."""
    return None if ref is None else ref[index].astype(jnp.float32)


def lanes(x):
    """Gives a number of its own to each of 128 lanes."""
    return None if x is None else jnp.broadcast_to(x[..., None], (*x.shape, LANES))


def both_passes(plan, operands, at):
    """The inputs that forward and backward kernels read; A comes over ln 2, since decays are powers of 2."""
    u, delta, A, B, C, D, bias, keep = operands
    given = lambda x, block: None if x is None else (x, block)
    return {
        "u": (u, at.row),
        "delta": (delta, at.delta),
        "A": (lanes(A * LOG2E), at.rates),
        "B": (B, at.shared),
        "C": (C, at.shared),
        "D": given(lanes(D), at.channel),
        "bias": given(lanes(bias), at.channel),
        "keep": given(keep, at.keep),
    }


def register(i):
    """Channels that one register holds."""
    return pl.ds(i * SUBLANES if isinstance(i, int) else pl.multiple_of(i * SUBLANES, SUBLANES), SUBLANES)


def forward(plan, operands, first, *, keep_boundaries, final_state):
    """Launches the forward kernel; returns y, the directions added up, the states at the boundaries, the last states.

    u, y: (l d b); delta: (k' l d b); A: (k n d); B, C: (k g l n b); D, bias: (k d); first and last states: (k n d b);
    keep: (l 1 b), 0 where the carried state is dropped. y has the type of u if there is one direction, else float32.
    """
    at = blocks(plan, backwards=False)
    k, n, d, b = plan.directions, plan.states, plan.channels, plan.batch
    state = (k, n, d, b)
    y_type = operands[0].dtype if k == 1 else jnp.float32
    inputs = both_passes(plan, operands, at) | {"first": None if first is None else (first, at.state)}
    outputs = {
        "y": ((plan.length, d, b), y_type, at.row),
        "boundaries": ((k, plan.chunks, n, d, b), jnp.float32, at.boundary) if keep_boundaries else None,
        "last": (state, jnp.float32, at.state) if final_state else None,
    }
    ahead = (2 * FORWARD_STEPS, SUBLANES, LANES)
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
                if plan.directions > 1:
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

            pairs, rest = divmod(count, 2 * FORWARD_STEPS)
            ready = min(count, FORWARD_STEPS)

            def pair(q, _):
                """Two groups of steps, each preparing the one after it: the first the second, that the next pair's."""
                first = 2 * q * FORWARD_STEPS
                second, third = first + FORWARD_STEPS, first + 2 * FORWARD_STEPS
                if rest < FORWARD_STEPS:
                    third = min(third, count - ready) if isinstance(q, int) else jnp.minimum(third, count - ready)
                several(first, 0, FORWARD_STEPS, functools.partial(prepare, second, FORWARD_STEPS))
                several(second, FORWARD_STEPS, FORWARD_STEPS, functools.partial(prepare, third, 0))
                return ()

            for j in range(ready):
                prepare(0, 0, j)
            if pairs:
                repeat(pairs, pair)
            left = count - rest
            if rest > FORWARD_STEPS:
                for j in range(rest - FORWARD_STEPS):
                    prepare(left + FORWARD_STEPS, FORWARD_STEPS, j)
                several(left, 0, FORWARD_STEPS)
                several(left + FORWARD_STEPS, FORWARD_STEPS, rest - FORWARD_STEPS)
            elif rest:
                # Ready are the last steps of all, of which only the last few are left.
                several(left, ready - rest, rest)

        def segment(rows):
            def block(i, _):
                channels = register(i)

                def chunk(c, count):
                    for j in range(n):
                        refs.boundaries[c, j, channels] = refs.state[j, channels]
                    walk(channels, c * CHUNK, count)

                if keep_boundaries:
                    each_chunk(rows, descending, chunk)
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
        "du": ((length, d, b), operands[0].dtype if alone else wide, at.row),
        "ddelta": ((deltas, length, d, b), operands[1].dtype if alone or plan.own_delta else wide, at.delta),
        "dB": ((plan.tiles, k, length, n, b), wide, at.partial),
        "dC": ((plan.tiles, k, length, n, b), wide, at.partial),
        "dA": ((k, n, d, b), wide, at.state),
        "dfirst": ((k, n, d, b), wide, at.state),
        "dD": ((k, d, b), wide, at.channel_sum),
        "dbias": ((k, d, b), wide, at.channel_sum),
    }
    a_chunk, sums = (CHUNK, SUBLANES, LANES), (CHUNK, n, SUBLANES, LANES)
    scratch = {"steps": a_chunk, "added": a_chunk, "douts": a_chunk, "dB_terms": sums, "dC_terms": sums} | {
        "states": (CHUNK + 1, n, SUBLANES, LANES)
    }
    at_once = max(i for i in range(1, STATES_AT_ONCE + 1) if n % i == 0)

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
            shared = k > 1 and (ref is refs.du or not plan.own_delta)
            before = jnp.where(direction > 0, ref[index], 0.0) if shared else 0.0
            ref[index] = (before + value).astype(ref.dtype)

        def chunk(c, count):
            """Walks a chunk back, for one register of channels after the other, then adds their dB and dC up."""
            rows = [plan.row(direction, c * CHUNK + visit(descending, count, j)) for j in range(count)]
            whole, rest = divmod(count, BACKWARD_STEPS)

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
                for first in range(0, count, BACKWARD_STEPS):
                    for i in range(n):
                        rate, state = refs.A[i, channels], refs.states[first, i]
                        for j in range(first, min(first + BACKWARD_STEPS, count)):
                            decay = decay_of(refs.steps[j], rate, kept[j])
                            state = decay * state + refs.added[j] * refs.B[rows[j], i : i + 1]
                            refs.states[j + 1, i] = state
                if rest:
                    several(channels, skip, c, count, whole, rest)

                def full(q, _):
                    several(channels, skip, c, count, whole - 1 - q, BACKWARD_STEPS)
                    return ()

                if whole:
                    repeat(whole, full)
                return ()

            repeat(plan.tile // SUBLANES, block)

            def add_up(j, _):
                row = plan.row(direction, c * CHUNK + visit(descending, count, j))
                for total, terms in ((refs.dB, refs.dB_terms), (refs.dC, refs.dC_terms)):
                    total[row] = jnp.sum(terms[j], axis=1)
                    terms[j] = jnp.zeros(sums[1:], wide)
                return ()

            jax.lax.fori_loop(0, count, add_up, ())

        def several(channels, skip, c, total, q, count):
            """Walks a few steps back, one state after the other."""
            places = [q * BACKWARD_STEPS + j for j in range(count)]
            rows = [plan.row(direction, c * CHUNK + visit(descending, total, place)) for place in places]
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
            each_chunk(rows, against, chunk)

        each_segment(plan, at.segment(visited), segment)

    return launch(plan, "selective_scan_backward", kernel, inputs, outputs, scratch)

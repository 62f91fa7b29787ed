"""What the Pallas TPU kernels of the scan share: the plan of a call, their launch, their walks and their arithmetic."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bdgf_kernels.selective_scan.call import Order, divided
from bdgf_kernels.selective_scan.exponentials import LOG2E

LANES = 128
SUBLANES = 8
VMEM_LIMIT = 60 * 2**20


class Tile(NamedTuple):
    """Rows (all L, or a multiple of a chunk) and channels (a multiple of 8 that divides a group's) in VMEM at once."""

    rows: int
    channels: int


class Tiling(NamedTuple):
    """What of a call is not given by its arrays.

    Args:
      forward, backward: the tiles of the two kernels.
      chunk: steps between two states that the forward pass keeps, and that the backward kernel recomputes at a time.
      forward_steps, backward_steps: steps that a kernel takes for one state before it turns to the next.
      states_at_once: states whose steps back are written out.
    """

    forward: Tile
    backward: Tile
    chunk: int
    forward_steps: int
    backward_steps: int
    states_at_once: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels know while they are traced.

    Args:
      batch: sequences, a multiple of 128; the other lengths are those of the padded arrays too.
      rows: rows of a segment, as in Tile.
      tile: channels of a tile.
      tiling: the lengths of loops.
      orders: of the directions.
      own_channels: whether each direction walks channels of its own, side by side in a row.
      own_delta: whether each direction has step sizes of its own.
      interpret: what `pallas_call` is to do instead of compiling, False to compile.
    """

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    rows: int
    tile: int
    tiling: Tiling
    orders: tuple[Order, ...]
    own_channels: bool
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
        return -(-self.length // self.tiling.chunk)

    @property
    def tiles(self) -> int:
        """Tiles of channels."""
        return self.channels // self.tile

    @property
    def directions(self) -> int:
        """Scans over the same rows."""
        return len(self.orders)

    @property
    def added_up(self) -> bool:
        """Whether several directions write to the same rows and channels, which lie in VMEM until the last has."""
        return self.directions > 1 and not self.own_channels

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
    kept = -(-rows // plan.tiling.chunk)
    return types.SimpleNamespace(
        segment=segment,
        row=pl.BlockSpec(
            (rows, tile, LANES), lambda b, t, k, s: (segment(s), k * plan.tiles + t if plan.own_channels else t, b)
        ),
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


def each_chunk(chunk: int, rows: int, descending, action: Callable) -> None:
    """Acts on each chunk (index and length) of a segment in the order of the visits."""
    full, rest = divmod(rows, chunk)

    def tail():
        action(full, rest)

    def step(q, _):
        action(visit(descending, full, q), chunk)
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

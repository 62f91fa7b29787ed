"""The scan as Pallas kernels for TPUs: sequences on lanes, channels on sublanes, the steps in order.

A vector register holds one state of 8 channels of 128 sequences. B and C, which all channels share, are rows that the
load spreads over the sublanes, A is spread over the lanes beforehand, so nothing is ever moved across lanes or
sublanes in the forward pass: a step of a register is six vector operations and an exponential. The state stays in
VMEM while the innermost axis of the grid walks the segments of a sequence.

The backward kernel walks chunks of 32 steps from the last one. It recomputes a chunk's states in VMEM from what the
forward pass kept at its boundary, then walks back, four steps of a state at a time. dB and dC are sums over channels:
registers of 8 channels are added up in VMEM as they are, and only their totals cross sublanes, once a tile.

One change of layout brings arrays from (b, l, d) to (l, d, b), padded to whole registers. Directions differ in the rows
that a kernel reads and writes; with several, all rows of a tile lie in VMEM, where y and the gradients are added up.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import tuning
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, Sizes, own_channels, sizes
from bdgf_kernels.selective_scan.interpreting import Interpreter
from bdgf_kernels.selective_scan.mosaic_tpu_backward import backward
from bdgf_kernels.selective_scan.mosaic_tpu_forward import forward
from bdgf_kernels.selective_scan.mosaic_tpu_plan import LANES, SUBLANES, Plan, Tile, Tiling
from bdgf_kernels.selective_scan.padding import drop_channels, pad_channels, pad_last

MOST_STATES = 32
FEWEST_SEQUENCES = 64
VMEM = 48 * 2**20
"""What blocks and scratch may take of a core's VMEM; v5e and v6e have 128 MiB, v7x 64."""

interpreted = Interpreter()


def rehearsal() -> contextlib.AbstractContextManager[None]:
    """Runs calls without a TPU, by the interpreter that finds races."""
    return interpreted(pltpu.InterpretParams(detect_races=True))


def defaults(size: Sizes) -> dict[str, int]:
    """What the kernels run with where nothing has been measured, as counted by `benchmarks/tpu_bundles.py`.

    `forward_channels`, `backward_channels`: the widest tiles; `rows`: of a segment, at most, `chunk` times a power of
    two; both are narrowed to what fits in VMEM. The others: as in `Tiling`; fewer steps at a time leave slots of the
    bundles empty on v5e and v6e, more make the compiler spill.
    """
    del size
    return {
        "forward_channels": 64,
        "backward_channels": 128,
        "rows": 512,
        "chunk": 32,
        "forward_steps": 8,
        "backward_steps": 4,
        "states_at_once": 8,
    }


def candidates(size: Sizes) -> list[dict[str, int]]:
    """What the tuner tries: the default, and changes of one number."""
    changes = {"forward_channels": (32, 128), "backward_channels": (64,), "rows": (128,), "chunk": (16, 64)}
    changes |= {"forward_steps": (4, 16), "backward_steps": (2, 8), "states_at_once": (4, 16)}
    usual = defaults(size)
    return [usual, *(usual | {name: value} for name, values in changes.items() for value in values)]


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served."""
    n = sizes(operands).n
    if n > MOST_STATES:
        return f"its scratch memory is laid out for at most {MOST_STATES} states, not {n}."
    chosen = tiling(operands, options)
    if chosen is None:
        return (
            f"several directions, or one down a grid's columns, need all {sizes(operands).l} rows of 8 channels in "
            "VMEM at a time, which is too many."
        )
    b, length, d, k, _, n = padded(operands)
    boundaries = k * -(-length // chosen.chunk) * n * d
    largest = b * max(k * length * d, boundaries, d // chosen.backward.channels * k * length * n)
    if largest >= 2**31:
        return f"its offsets are proven up to 31 bits, and an array would have {largest} elements."
    return None


def fills_lanes(operands: Operands) -> bool:
    """Whether a call has the sequences that it takes to keep at least half of the lanes busy.

    A smaller batch is served, padded to 128, but pays up to 128 times its memory for it.
    """
    return operands.u.shape[0] >= FEWEST_SEQUENCES


def padded(operands: Operands) -> Sizes:
    """The axes' lengths in whole registers: sequences to 128, the channels of each group to 8."""
    b, length, d, k, g, n = sizes(operands)
    wide = d // g
    return Sizes(b + -b % LANES, length, g * (wide + -wide % SUBLANES), k, g, n)


def tiling(operands: Operands, options: Options) -> Tiling | None:
    """Chooses, for the forward and the backward kernel, the rows and channels that lie in VMEM at a time.

    The widest tile comes first, then the longest segment. A wide tile makes dB and dC cross the sublanes less often, a
    long segment starts the forward loop less often.
    """
    size = sizes(operands)
    knobs = defaults(size) | tuning.tuned("mosaic_tpu", size)
    _, length, d, _, g, _ = padded(operands)
    whole = len(options.orders) > 1 or any(order.grid is not None for order in options.orders)
    longest, chunk = knobs["rows"], knobs["chunk"]
    segments = [length] if whole or length <= longest else []
    if not whole:
        halved = (longest >> i for i in range((longest // chunk).bit_length()))
        segments += [rows for rows in halved if rows < length]
    registers = d // g // SUBLANES

    def first_that_fits(widest, taken):
        tiles = [SUBLANES * i for i in range(widest // SUBLANES, 0, -1) if registers % i == 0]
        every = (Tile(rows, channels) for channels in tiles for rows in segments)
        return next((tile for tile in every if taken(operands, options, tile, knobs) <= VMEM), None)

    ahead = first_that_fits(knobs["forward_channels"], forward_takes)
    back = first_that_fits(knobs["backward_channels"], backward_takes)
    if ahead is None or back is None:
        return None
    return Tiling(ahead, back, chunk, knobs["forward_steps"], knobs["backward_steps"], knobs["states_at_once"])


def forward_takes(operands: Operands, options: Options, tile: Tile, knobs: dict[str, int]) -> int:
    """Bytes of VMEM that the forward kernel takes; blocks are there twice, to be fetched ahead."""
    n = max(sizes(operands).n, SUBLANES)
    alone = len(options.orders) == 1
    each = operands.u.dtype.itemsize + operands.delta.dtype.itemsize + (operands.u.dtype.itemsize if alone else 4)
    by_row = tile.channels * each + 2 * 4 * n
    by_state = 4 * n * tile.channels * (-(-tile.rows // knobs["chunk"]) + 4)
    return LANES * (2 * (tile.rows * by_row + by_state) + 8 * knobs["forward_steps"] * SUBLANES * 3)


def backward_takes(operands: Operands, options: Options, tile: Tile, knobs: dict[str, int]) -> int:
    """Bytes of VMEM that the backward kernel takes."""
    n = max(sizes(operands).n, SUBLANES)
    read = 2 * operands.u.dtype.itemsize + operands.delta.dtype.itemsize
    written = operands.u.dtype.itemsize + operands.delta.dtype.itemsize if len(options.orders) == 1 else 8
    by_row = tile.channels * (read + written) + 4 * 4 * n
    by_state = 4 * n * tile.channels * (-(-tile.rows // knobs["chunk"]) + 4)
    scratch = 4 * SUBLANES * (knobs["chunk"] + 1) * (3 + 3 * n)
    return LANES * (2 * (tile.rows * by_row + by_state) + scratch)


def scan(operands: Operands, options: Options) -> Outputs:
    """Brings arrays to the kernels' layout and back, and gates."""
    b, _, d, k, g, _ = sizes(operands)
    in_a_row = g * k if own_channels(operands) else g
    more_sequences = padded(operands).b - b

    def by_channel(x: Any, axis: int) -> Any:
        """Pads the channels of each group to whole registers."""
        return None if x is None else pad_channels(x, axis, g, SUBLANES)

    def by_sequence(x, order):
        """Puts the sequences last and pads them to whole registers."""
        return pad_last(x.transpose(order), more_sequences)

    # The vector unit has no float16.
    rows = lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x
    first, reset = operands.initial_state, operands.reset
    arguments = (
        pad_channels(by_sequence(rows(operands.u), (1, 2, 0)), 1, in_a_row, SUBLANES),
        by_channel(by_sequence(rows(operands.delta), (2, 1, 3, 0)), 2),
        by_channel(operands.A.swapaxes(1, 2), 2),
        by_sequence(operands.B.astype(jnp.float32), (2, 3, 1, 4, 0)),
        by_sequence(operands.C.astype(jnp.float32), (2, 3, 1, 4, 0)),
        by_channel(operands.D, 1),
        by_channel(operands.delta_bias, 1),
        None if first is None else by_channel(by_sequence(first, (1, 3, 2, 0)), 2),
        None if reset is None else by_sequence((~reset).astype(jnp.float32)[:, :, None], (1, 2, 0)),
    )
    outputs: Outputs = run(options, tiling(operands, options), interpreted.parameters, *arguments)
    y, last = outputs

    y = drop_channels(y, 1, in_a_row, operands.u.shape[2])[..., :b].transpose(2, 0, 1)
    if operands.z is not None:
        y = y.astype(jnp.float32) * jax.nn.silu(operands.z.astype(jnp.float32))
    if last is not None:
        last = drop_channels(last, 2, g, d)[..., :b].transpose(3, 0, 2, 1)
    return y.astype(operands.u.dtype), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run(
    options: Options,
    tiling: Tiling,
    interpret: object,
    u: Float[Array, "l c b"],
    delta: Float[Array, "kd l d b"],
    A: Float[Array, "k n d"],
    B: Float[Array, "k g l n b"],
    C: Float[Array, "k g l n b"],
    D: Float[Array, "k d"] | None,
    bias: Float[Array, "k d"] | None,
    first: Float[Array, "k n d b"] | None,
    keep: Float[Array, "l 1 b"] | None,
) -> tuple[Float[Array, "l c b"], Float[Array, "k n d b"] | None]:
    """Returns y, directions over the same channels added up, and, where wanted, the last state."""
    plan = planned(options, tiling, tiling.forward, interpret, u, delta, A, B)
    done = forward(
        plan, (u, delta, A, B, C, D, bias, keep), first, keep_boundaries=False, final_state=options.final_state
    )
    return done.y, done.last


def planned(options, tiling, tile, interpret, u, delta, A, B):
    """Gathers what the kernels have to know."""
    length, _, b = u.shape
    return Plan(
        batch=b,
        length=length,
        channels=A.shape[2],
        states=B.shape[3],
        groups=B.shape[1],
        rows=tile.rows,
        tile=tile.channels,
        tiling=tiling,
        orders=options.orders,
        own_channels=u.shape[1] != A.shape[2],
        own_delta=delta.shape[0] > 1,
        softplus=options.delta_softplus,
        interpret=interpret,
    )


def run_forward(options, tiling, interpret, u, delta, A, B, C, D, bias, first, keep):
    """The forward pass; keeps the state at every 32nd step."""
    plan = planned(options, tiling, tiling.forward, interpret, u, delta, A, B)
    operands = (u, delta, A, B, C, D, bias, keep)
    done = forward(plan, operands, first, keep_boundaries=True, final_state=options.final_state)
    return (done.y, done.last), (operands, first, done.boundaries)


def run_backward(options, tiling, interpret, kept, cotangents):
    """The backward pass: the kernel, then the sums over tiles and sequences, in a fixed order."""
    operands, first, boundaries = kept
    u, delta, A, B, _, D, bias, keep = operands
    dy, dlast = cotangents
    plan = planned(options, tiling, tiling.backward, interpret, u, delta, A, B)
    done = backward(plan, operands, boundaries, dy, dlast)
    by_group = lambda x: jnp.moveaxis(x.reshape(plan.groups, -1, *x.shape[1:]).sum(axis=1), 0, 1)
    gradients = (
        done.du.astype(u.dtype),
        done.ddelta.astype(delta.dtype),
        done.dA.sum(axis=-1),
        by_group(done.dB),
        by_group(done.dC),
        None if D is None else done.dD.sum(axis=-1),
        None if bias is None else done.dbias.sum(axis=-1),
        None if first is None else done.dfirst,
        None if keep is None else jnp.zeros_like(keep),
    )
    return compatibility.vary_alike((*gradients, u))[:-1]


run.defvjp(run_forward, run_backward)

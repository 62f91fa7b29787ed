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

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import mosaic_tpu_kernels as kernels
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, Sizes, sizes
from bdgf_kernels.selective_scan.interpreting import Interpreter
from bdgf_kernels.selective_scan.padding import drop_channels, pad_channels, pad_last

MOST_STATES = 32
FORWARD_TILE, BACKWARD_TILE = 64, 128
LONGEST_SEGMENT = 512
SEGMENTS = (512, 256, 128, 64, 32)
FEWEST_SEQUENCES = 64
VMEM = 48 * 2**20
"""What blocks and scratch may take of a core's VMEM; v5e and v6e have 128 MiB, v7x 64."""

interpreted = Interpreter()


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served."""
    n = sizes(operands).n
    if n > MOST_STATES:
        return f"its scratch memory is laid out for at most {MOST_STATES} states, not {n}."
    tiles = tiling(operands, options)
    if tiles is None:
        return (
            f"several directions, or one down a grid's columns, need all {sizes(operands).l} rows of 8 channels in "
            "VMEM at a time, which is too many."
        )
    b, length, d, k, _, n = padded(operands)
    boundaries = k * -(-length // kernels.CHUNK) * n * d
    largest = b * max(k * length * d, boundaries, d // tiles[1].channels * k * length * n)
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
    return Sizes(b + -b % kernels.LANES, length, g * (wide + -wide % kernels.SUBLANES), k, g, n)


def tiling(operands: Operands, options: Options) -> tuple[kernels.Tile, kernels.Tile] | None:
    """Chooses, for the forward and the backward kernel, the rows and channels that lie in VMEM at a time.

    The widest tile comes first, then the longest segment. A wide tile makes dB and dC cross the sublanes less often, a
    long segment starts the forward loop less often.
    """
    _, length, d, _, g, _ = padded(operands)
    whole = len(options.orders) > 1 or any(order.grid is not None for order in options.orders)
    segments = [length] if whole or length <= LONGEST_SEGMENT else []
    if not whole:
        segments += [rows for rows in SEGMENTS if rows < length]
    registers = d // g // kernels.SUBLANES

    def first_that_fits(widest, taken):
        tiles = [kernels.SUBLANES * i for i in range(widest // kernels.SUBLANES, 0, -1) if registers % i == 0]
        every = (kernels.Tile(rows, channels) for channels in tiles for rows in segments)
        return next((tile for tile in every if taken(operands, options, tile) <= VMEM), None)

    forward, backward = first_that_fits(FORWARD_TILE, forward_takes), first_that_fits(BACKWARD_TILE, backward_takes)
    return None if forward is None or backward is None else (forward, backward)


def forward_takes(operands: Operands, options: Options, tile: kernels.Tile) -> int:
    """Bytes of VMEM that the forward kernel takes; blocks are there twice, to be fetched ahead."""
    n = max(sizes(operands).n, kernels.SUBLANES)
    alone = len(options.orders) == 1
    each = operands.u.dtype.itemsize + operands.delta.dtype.itemsize + (operands.u.dtype.itemsize if alone else 4)
    by_row = tile.channels * each + 2 * 4 * n
    by_state = 4 * n * tile.channels * (-(-tile.rows // kernels.CHUNK) + 4)
    return kernels.LANES * (2 * (tile.rows * by_row + by_state) + 8 * kernels.FORWARD_STEPS * kernels.SUBLANES * 3)


def backward_takes(operands: Operands, options: Options, tile: kernels.Tile) -> int:
    """Bytes of VMEM that the backward kernel takes."""
    n = max(sizes(operands).n, kernels.SUBLANES)
    read = 2 * operands.u.dtype.itemsize + operands.delta.dtype.itemsize
    written = operands.u.dtype.itemsize + operands.delta.dtype.itemsize if len(options.orders) == 1 else 8
    by_row = tile.channels * (read + written) + 4 * 4 * n
    by_state = 4 * n * tile.channels * (-(-tile.rows // kernels.CHUNK) + 4)
    scratch = 4 * kernels.SUBLANES * (kernels.CHUNK + 1) * (3 + 3 * n)
    return kernels.LANES * (2 * (tile.rows * by_row + by_state) + scratch)


def scan(operands: Operands, options: Options) -> Outputs:
    """Brings arrays to the kernels' layout and back, and gates."""
    b, _, d, _, g, _ = sizes(operands)
    more_sequences = padded(operands).b - b

    def by_channel(x: Any, axis: int) -> Any:
        """Pads the channels of each group to whole registers."""
        return None if x is None else pad_channels(x, axis, g, kernels.SUBLANES)

    def by_sequence(x, order):
        """Puts the sequences last and pads them to whole registers."""
        return pad_last(x.transpose(order), more_sequences)

    # The vector unit has no float16.
    rows = lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x
    first, reset = operands.initial_state, operands.reset
    arguments = (
        by_channel(by_sequence(rows(operands.u), (1, 2, 0)), 1),
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

    y = drop_channels(y, 1, g, d)[..., :b].transpose(2, 0, 1)
    if operands.z is not None:
        y = y.astype(jnp.float32) * jax.nn.silu(operands.z.astype(jnp.float32))
    if last is not None:
        last = drop_channels(last, 2, g, d)[..., :b].transpose(3, 0, 2, 1)
    return y.astype(operands.u.dtype), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run(
    options: Options,
    tiles: tuple[kernels.Tile, kernels.Tile],
    interpret: object,
    u: Float[Array, "l d b"],
    delta: Float[Array, "kd l d b"],
    A: Float[Array, "k n d"],
    B: Float[Array, "k g l n b"],
    C: Float[Array, "k g l n b"],
    D: Float[Array, "k d"] | None,
    bias: Float[Array, "k d"] | None,
    first: Float[Array, "k n d b"] | None,
    keep: Float[Array, "l 1 b"] | None,
) -> tuple[Float[Array, "l d b"], Float[Array, "k n d b"] | None]:
    """Returns y, the directions added up, and, where wanted, the last state."""
    plan = planned(options, tiles[0], interpret, u, delta, B)
    done = kernels.forward(
        plan, (u, delta, A, B, C, D, bias, keep), first, keep_boundaries=False, final_state=options.final_state
    )
    return done.y, done.last


def planned(options, tile, interpret, u, delta, B):
    """Gathers what the kernels have to know."""
    length, d, b = u.shape
    return kernels.Plan(
        batch=b,
        length=length,
        channels=d,
        states=B.shape[3],
        groups=B.shape[1],
        rows=tile.rows,
        tile=tile.channels,
        orders=options.orders,
        own_delta=delta.shape[0] > 1,
        softplus=options.delta_softplus,
        interpret=interpret,
    )


def run_forward(options, tiles, interpret, u, delta, A, B, C, D, bias, first, keep):
    """The forward pass; keeps the state at every 32nd step."""
    plan = planned(options, tiles[0], interpret, u, delta, B)
    operands = (u, delta, A, B, C, D, bias, keep)
    done = kernels.forward(plan, operands, first, keep_boundaries=True, final_state=options.final_state)
    return (done.y, done.last), (operands, first, done.boundaries)


def run_backward(options, tiles, interpret, kept, cotangents):
    """The backward pass: the kernel, then the sums over tiles and sequences, in a fixed order."""
    operands, first, boundaries = kept
    u, delta, _, B, _, D, bias, keep = operands
    dy, dlast = cotangents
    plan = planned(options, tiles[1], interpret, u, delta, B)
    done = kernels.backward(plan, operands, boundaries, dy, dlast)
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

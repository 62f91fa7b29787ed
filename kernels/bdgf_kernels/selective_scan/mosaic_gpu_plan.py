"""What the Mosaic GPU kernels of the scan share: the plan of a call, and a thread's own arithmetic."""

# The type checker reads the oldest jax that is supported, whose `plgpu.load` was another function.
# pyright: reportCallIssue=false

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from bdgf_kernels.selective_scan.call import Order, divided, row_of
from bdgf_kernels.selective_scan.exponentials import LOG2E, polynomial

LANES = 128
CHUNK = 16
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
      staged: chunks of B and C that lie in shared memory at a time, going forward.
      unroll: steps that are loaded at once, going forward.
      parts: warpgroups that share a channel's states going backward, each of which keeps n / parts of them.
      orders: of the directions.
      own_channels: whether each direction walks channels of its own, side by side in a row.
      own_delta: whether each direction has step sizes of its own.
      interpret: parameters of the interpreter, False to compile.
    """

    batch: int
    length: int
    channels: int
    states: int
    groups: int
    staged: int
    unroll: int
    parts: int
    orders: tuple[Order, ...]
    own_channels: bool
    own_delta: bool
    softplus: bool
    interpret: object = False

    @property
    def chunks(self) -> int:
        """Chunks of 16 steps, the last one perhaps shorter."""
        return -(-self.length // CHUNK)

    @property
    def segments(self) -> int:
        """How many times B and C are staged."""
        return -(-self.chunks // self.staged)

    def by_chunk(self, keep_boundaries: bool) -> bool:
        """Whether the forward kernel's loop runs over chunks: where it keeps a state at each, or loads a whole one."""
        return keep_boundaries or self.unroll == CHUNK

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks: sequences, directions, and 128 channels each."""
        return self.batch, len(self.orders), self.channels // LANES

    def place(self):
        """The sequence, the direction and the 128 channels that a block serves.

        All blocks lie along one axis: CUDA has 65535 at most along the others, too few for sequences.
        """
        _, directions, blocks = self.grid
        rest, block = divided(jax.lax.axis_index("place"), blocks)
        return *divided(rest, directions), block

    def row(self, direction, step):
        """The row that a direction visits at a step."""
        return row_of(self.orders, direction, step, self.length)

    def columns(self, direction, block):
        """Where a block's channels lie in a row that holds each direction's own."""
        return pl.ds(direction * self.channels + block * LANES, LANES)

    def by_row(self, *, own):
        """The shape of what is written by row: in place where it is a direction's own, else apart, to be added up."""
        planes, entries = (1, len(self.orders)) if own else (len(self.orders), 1)
        return self.batch, planes, self.length, entries * self.channels

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

    softplus(x) / ln 2 = max(t, 0) + log2(1 + e) with t = x / ln 2 and e = 2^-|t|. A polynomial serves for the
    logarithm: the exponential unit, which would also have to take it, is what bounds the forward pass, and
    log2(1 + e) itself rounds a small e away.
    """
    t = raw * LOG2E + shift
    if not plan.softplus:
        return t
    above = jnp.maximum(t, 0.0)
    e = jnp.exp2(t - 2.0 * above)
    return above + e * polynomial(LOG2_OF_ONE_PLUS, e)


def repeat(count, body, carry):
    """A loop, if it is one: the compiler does not dissolve those of a single turn."""
    if count > 1:
        return jax.lax.fori_loop(0, count, body, carry)
    return body(0, carry) if count else carry


def parameter(ref, direction, channels):
    """Reads a channel's own number, zero where there is no such argument."""
    return zero() if ref is None else load(ref.at[direction, channels])


def row_type(plan, dtype, *, own):
    """What is a direction's own is rounded by the kernel; the others are added up in float32 before."""
    return dtype if own or len(plan.orders) == 1 else jnp.float32


def launch(plan, kernel, outputs, scratch, parts=1):
    """One launch for all sequences, directions and blocks of channels."""
    return plgpu.kernel(
        kernel,
        out_type=tuple(outputs),
        scratch_types=scratch,
        grid=(math.prod(plan.grid),),
        grid_names=("place",),
        **({"num_threads": parts, "thread_name": "part"} if parts > 1 else {}),
        compiler_params=PARAMETERS,
        interpret=plan.interpret or None,
    )


def bytes_of(scratch) -> int:
    """Adds up what a kernel asks for of a multiprocessor's shared memory: float32 arrays, and 8 bytes a barrier."""
    barriers = [x for x in scratch.values() if isinstance(x, plgpu.Barrier)]
    arrays = [x for x in scratch.values() if not isinstance(x, plgpu.Barrier)]
    return 4 * sum(math.prod(x.shape) for x in arrays) + 8 * sum(int(np.prod(x.num_barriers)) for x in barriers)

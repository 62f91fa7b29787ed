"""The scan as Pallas kernels for NVIDIA Hopper and newer: a thread owns a channel and walks the steps in order.

One warpgroup of 128 threads serves 128 channels of one sequence and one direction. A thread keeps the n states of its
channel in registers; B and C, which all channels share, are staged in shared memory and read as broadcasts. So there is
no scan across threads, and nothing of size b l d n in memory: the exponential unit is what bounds the forward pass.

The backward kernel walks chunks of 16 steps from the last one. For a state at a time it recomputes the chunk from the
state that the forward pass kept at its boundary, walks back, and adds what belongs to dB and dC up over the channels of
a warp. dA, dD and the bias's gradient stay with the thread. There are no atomics: the same bits every time.

Directions differ in the rows that a kernel reads and writes: u, delta, y and their gradients are never flipped or
transposed in memory. B and C, smaller by n / d, are brought into visiting order and float32 by one pass of XLA's.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import tuning
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, Sizes, by_step, own_channels, sizes
from bdgf_kernels.selective_scan.exponentials import LN2, LOG2E
from bdgf_kernels.selective_scan.interpreting import Interpreter
from bdgf_kernels.selective_scan.padding import drop_channels, pad_channels, pad_last

HOPPER = 9.0
CHANNELS_MULTIPLE = 128
STATES_MULTIPLE = 4
MOST_STATES = 16
PROCESSORS = 132
STAGED, STAGED_ALONE = 26, 100

interpreted = Interpreter()


def rehearsal() -> contextlib.AbstractContextManager[None]:
    """Runs calls without a GPU, by the interpreter that finds races."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return interpreted(plgpu.InterpretGPUParams(detect_races=True))  # pyright: ignore[reportAttributeAccessIssue] -- newer


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served."""
    del options
    b, length, d, k, g, n = sizes(operands)
    if not compatibility.HAS_MOSAIC_GPU:
        return f"its kernels are written for jax 0.11 and newer, this is {jax.__version__}."
    capability = compatibility.weakest_gpu()
    if capability is not None and capability < HOPPER:
        return f"its kernels need compute capability {HOPPER} or higher, this machine's GPU has {capability}."
    if operands.reset is not None:
        return "its kernels take no reset."
    if n > MOST_STATES:
        return f"a thread keeps its states in registers, at most {MOST_STATES} of them, not {n}."
    if g > 1 and d // g % CHANNELS_MULTIPLE:
        return f"{CHANNELS_MULTIPLE} channels must share their B and C, but a group has {d // g}."
    if own_channels(operands) and d % CHANNELS_MULTIPLE:
        return f"{CHANNELS_MULTIPLE} channels must share their direction, but a direction has {d} of its own."
    chunks, high = -(-length // 16), n + -n % STATES_MULTIPLE
    largest = b * k * (d + -d % CHANNELS_MULTIPLE) * max(length, chunks * high)
    if largest >= 2**31:
        return f"its offsets are proven up to 31 bits, and an array would have {largest} elements."
    return None


def scan(operands: Operands, options: Options) -> Outputs:
    """Pads channels to 128 and states to 4, runs the kernels, adds the directions up and gates."""
    b, length, d, _, g, n = sizes(operands)
    given = lambda x, change: None if x is None else change(x)
    wide = lambda x: pad_channels(x, x.ndim - 1, g, CHANNELS_MULTIPLE)
    high = lambda x: pad_last(x, -n % STATES_MULTIPLE)
    by_state = lambda x: wide(high(x).swapaxes(-1, -2))
    # Channels of a direction's own are whole blocks already.
    u = operands.u if own_channels(operands) else wide(operands.u)
    delta = wide(operands.delta).reshape(b, length, -1)
    A, first = by_state(operands.A), given(operands.initial_state, by_state)
    B, C = (by_step(high(x.astype(jnp.float32)), options) for x in (operands.B, operands.C))
    D, bias = given(operands.D, wide), given(operands.delta_bias, wide)

    own_delta = operands.delta.shape[2] > 1
    outputs: Outputs = run(options, own_delta, interpreted.parameters, u, delta, A, B, C, D, bias, first)
    y, last = drop_channels(outputs[0], 2, g, operands.u.shape[2]), outputs[1]
    if operands.z is not None:
        y = y.astype(jnp.float32) * jax.nn.silu(operands.z.astype(jnp.float32))
    return y.astype(operands.u.dtype), given(last, lambda x: drop_channels(x, 3, g, d).swapaxes(-1, -2)[..., :n])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run(
    options: Options,
    own_delta: bool,
    interpret: object,
    u: Float[Array, "b l c"],
    delta: Float[Array, "b l kd_d"],
    A: Float[Array, "k n d"],
    B: Float[Array, "l k b g n"],
    C: Float[Array, "l k b g n"],
    D: Float[Array, "k d"] | None,
    bias: Float[Array, "k d"] | None,
    first: Float[Array, "b k n d"] | None,
) -> tuple[Float[Array, "b l c"], Float[Array, "b k n d"] | None]:
    """Returns y, directions over the same channels added up, and, where wanted, the last state.

    B and C are in visiting order.
    """
    return launch(options, own_delta, interpret, (u, delta, A, B, C, D, bias, first), keep_boundaries=False)[0]


def defaults(size: Sizes) -> dict[str, int]:
    """What the kernels run with where nothing has been measured, as counted by `benchmarks/static_cost.py`.

    `unroll`: steps that the forward kernel loads at once, a divisor of 16; 4 leave room for four blocks a
    multiprocessor, 16 keep one warp a scheduler busy. `staged`: the steps over 16 of B and C in its shared memory.
    `parts`: warpgroups that share the states going backward.
    """
    few = size.b * size.k * -(-size.d // CHANNELS_MULTIPLE) <= PROCESSORS
    most = STAGED_ALONE if few else STAGED
    chunks = -(-size.l // 16)
    return {
        "unroll": 16 if few else 4,
        "staged": -(-chunks // -(-chunks // most)),
        "parts": 2 if few and size.n > STATES_MULTIPLE and chunks > 1 else 1,
    }


def candidates(size: Sizes) -> list[dict[str, int]]:
    """What the tuner tries: the default, and every change of one or both of the numbers that matter most."""
    usual = defaults(size)
    tried = [usual | {"unroll": unroll, "parts": parts} for unroll in (4, 8, 16) for parts in (1, 2)]
    return [usual, *(choice for choice in tried if choice != usual)]


def planned(options, own_delta, interpret, u, A, B):
    """Gathers what the kernels have to know."""
    from bdgf_kernels.selective_scan.mosaic_gpu_plan import Plan

    b, length, _ = u.shape
    d = A.shape[-1]
    groups, n = B.shape[-2:]
    size = Sizes(b, length, d, len(options.orders), groups, n)
    knobs = defaults(size) | tuning.tuned("mosaic_gpu", size)
    return Plan(
        batch=b,
        length=length,
        channels=d,
        states=n,
        groups=groups,
        staged=knobs["staged"],
        unroll=knobs["unroll"],
        parts=knobs["parts"] if n % (knobs["parts"] * STATES_MULTIPLE) == 0 else 1,
        orders=options.orders,
        own_channels=u.shape[-1] != d,
        own_delta=own_delta,
        softplus=options.delta_softplus,
        interpret=interpret,
    )


def in_segments(x: Float[Array, "l k b g n"], plan) -> Float[Array, "b k g s n"]:
    """Puts steps last but one, in whole segments: zero past the last step."""
    steps = plan.segments * plan.staged * 16
    x = jnp.pad(x, ((0, steps - x.shape[0]), *((0, 0),) * 4))
    return jnp.moveaxis(x, (2, 1, 3), (0, 1, 2))


def in_kernels_units(operands):
    """Measures step sizes in units of ln 2, so that the kernels raise 2 to powers instead of e."""
    u, delta, A, B, C, D, bias, first = operands
    return u, delta, A, B * LN2, C, D, None if bias is None else bias * LOG2E, first


def launch(options, own_delta, interpret, arguments, *, keep_boundaries):
    """Runs the forward kernel."""
    from bdgf_kernels.selective_scan.mosaic_gpu_forward import forward

    u, delta, A, B, C, D, bias, first = arguments
    plan = planned(options, own_delta, interpret, u, A, B)
    operands = in_kernels_units((u, delta, A, in_segments(B, plan), in_segments(C, plan), D, bias, first))
    y, boundaries, last = forward(plan, operands, keep_boundaries=keep_boundaries, final_state=options.final_state)
    # A kernel's outputs do not say over which mesh axes they differ; inside shard_map they have to.
    *outputs, boundaries, _ = compatibility.vary_alike((y.sum(axis=1), last, boundaries, u))
    return tuple(outputs), boundaries


def run_forward(options, own_delta, interpret, *arguments):
    """The forward pass; keeps the state at every 16th step."""
    outputs, boundaries = launch(options, own_delta, interpret, arguments, keep_boundaries=True)
    return outputs, (boundaries, arguments)


def run_backward(options, own_delta, interpret, kept, cotangents):
    """The backward pass: the kernel, then the sums that cross blocks, in a fixed order."""
    from bdgf_kernels.selective_scan.mosaic_gpu_backward import backward

    boundaries, (u, delta, A, B, C, D, bias, first) = kept
    dy, dlast = cotangents
    plan = planned(options, own_delta, interpret, u, A, B)
    in_chunks = [in_segments(x, plan).reshape(*x.shape[2:0:-1], x.shape[3], -1, 16, x.shape[4]) for x in (B, C)]
    transposed = [x.swapaxes(-1, -2) for x in in_chunks]
    operands = in_kernels_units((u, delta, A, *transposed, D, bias, first))
    du, ddelta, dA, dD, dbias, dfirst, dBC = backward(plan, operands, boundaries, dy, dlast)

    b, k, blocks, parts, _, _ = dBC.shape
    groups, n = B.shape[3:]
    # by group, block, part, chunk, two states, half a warp, state, dB or dC, step
    sums = dBC.reshape(b, k, groups, blocks // groups, parts, plan.chunks, -1, 8, 2, 2, 16).sum(axis=(3, 7))
    sums = jnp.moveaxis(sums, (4, 8, 1, 0, 2, 3, 5, 6, 7), range(9)).reshape(plan.chunks * 16, k, b, groups, n, 2)
    dB, dC = sums[: plan.length, ..., 0], sums[: plan.length, ..., 1]
    gradients = (
        du.sum(axis=1).astype(u.dtype),
        ddelta.sum(axis=1).astype(delta.dtype),
        dA.sum(axis=0) * LN2,
        dB * LN2,
        dC,
        None if D is None else dD.sum(axis=0),
        None if bias is None else dbias.sum(axis=0),
        None if first is None else dfirst,
    )
    return compatibility.vary_alike((*gradients, u))[:-1]


run.defvjp(run_forward, run_backward)

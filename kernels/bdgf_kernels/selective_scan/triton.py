"""The scan by Pallas's Triton backend, for NVIDIA GPUs from Ampere on: a block of channels walks the steps in order.

A program serves a few channels of one sequence and one direction; its state is a (channels, states) array in registers.
Nothing of size b l d n reaches memory. The backward kernel walks chunks of steps from the last one, recomputes a
chunk's states in registers from the state that the forward pass kept at its boundary, and sums dB and dC over its own
channels; XLA adds the programs' sums up. There are no atomics: the same bits every time.

Pallas's Triton backend is deprecated since jax 0.11. Everything about it is in this file, which may be deleted with it.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import tuning
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, Sizes, own_channels, row_of, sizes
from bdgf_kernels.selective_scan.exponentials import LN2, LOG2E
from bdgf_kernels.selective_scan.interpreting import Interpreter
from bdgf_kernels.selective_scan.padding import drop_channels, pad_channels, pad_last

AMPERE = 8.0
MOST_STATES = 32

interpreted = Interpreter()


def rehearsal() -> contextlib.AbstractContextManager[None]:
    """Runs calls without a GPU, by the plain interpreter: Triton has none that finds races."""
    return interpreted(True)


def defaults(size: Sizes) -> dict[str, int]:
    """What the kernels run with where nothing has been measured.

    `channels`: those of a program, a power of two. `chunk`: steps between two states that the forward pass keeps, and
    that the backward kernel recomputes at a time. `forward_warps`, `backward_warps`: those of a program.
    """
    del size
    return {"channels": 32, "chunk": 8, "forward_warps": 1, "backward_warps": 4}


def candidates(size: Sizes) -> list[dict[str, int]]:
    """What the tuner tries: the default, and changes of one number."""
    changes = {"channels": (16, 64), "chunk": (4, 16), "forward_warps": (2, 4), "backward_warps": (1, 2)}
    usual = defaults(size)
    return [usual, *(usual | {name: value} for name, values in changes.items() for value in values)]


def chosen(operands: Operands) -> dict[str, int]:
    """The numbers that a call runs with."""
    size = sizes(operands)
    knobs = defaults(size) | tuning.tuned("triton", size)
    return knobs | {"channels": min(knobs["channels"], power_of_two(size.d // size.g))}


def supports(operands: Operands, options: Options) -> str | None:
    """Says why a call can't be served."""
    del options
    b, length, d, k, g, n = sizes(operands)
    capability = compatibility.weakest_gpu()
    if capability is not None and capability < AMPERE:
        return f"its kernels need compute capability {AMPERE} or higher, this machine's GPU has {capability}."
    if n > MOST_STATES:
        return f"a program keeps its states in registers, at most {MOST_STATES} of them, not {n}."
    knobs = chosen(operands)
    block, chunks = knobs["channels"], -(-length // knobs["chunk"])
    wide, states = d + g * block, power_of_two(n)
    largest = b * k * max(length * wide, chunks * wide * states, length * states * (wide // block))
    if largest >= 2**31:
        return f"its offsets have 32 bits, and an array would have {largest} elements."
    return None


def power_of_two(n: int) -> int:
    """The smallest power of two that is not less: what Triton's arrays have to have."""
    return 1 << (n - 1).bit_length()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the kernels know while they are traced; channels and states are those of the padded arrays.

    Args:
      own_channels: whether each direction walks channels of its own, side by side in a row.
      own_delta: whether each direction has step sizes of its own.
      block: channels of a program.
      chunk: steps between two states that are kept.
      warps: of a program, forward and backward.
    """

    options: Options
    interpret: object
    batch: int
    length: int
    directions: int
    groups: int
    channels: int
    states: int
    own_channels: bool
    own_delta: bool
    block: int
    chunk: int
    warps: tuple[int, int]

    @property
    def blocks(self) -> int:
        """Programs that share a sequence and a direction."""
        return self.channels // self.block

    @property
    def chunks(self) -> int:
        """Chunks of steps, the last one perhaps shorter."""
        return -(-self.length // self.chunk)

    def place(self):
        """The program's sequence, direction, block, its channels, the entry of delta and the group that they use; and
        where they lie in rows: the plane of what is written by row, and the columns of that and of u.
        """
        sequence, direction, block = (pl.program_id(axis) for axis in range(3))
        group = jax.lax.div(block, jnp.int32(self.blocks // self.groups)) if self.groups > 1 else 0
        channels = pl.ds(block * self.block, self.block)
        plane, columns = direction, channels
        if self.own_channels:
            plane, columns = 0, pl.ds(direction * self.channels + block * self.block, self.block)
        return sequence, direction, block, channels, direction if self.own_delta else 0, group, plane, columns

    @property
    def by_row(self):
        """The shape of what is written by row: in place where channels are a direction's own, else to be added up."""
        planes, entries = (1, self.directions) if self.own_channels else (self.directions, 1)
        return self.batch, planes, self.length, entries * self.channels

    def row(self, direction, step):
        """The row that a direction visits at a step."""
        return row_of(self.options.orders, direction, step, self.length)


def scan(operands: Operands, options: Options) -> Outputs:
    """Pads channels and states, runs the kernels, adds the directions up and gates."""
    _, _, d, k, g, n = sizes(operands)
    knobs = chosen(operands)
    in_a_row = g * k if own_channels(operands) else g

    def wide(x: Any, axis: int) -> Any:
        """Pads the channels of each group to whole blocks."""
        return None if x is None else pad_channels(x, axis, g, knobs["channels"])

    def high(x: Any) -> Any:
        """Pads the states."""
        return None if x is None else pad_last(x, power_of_two(n) - n)

    keep = None if operands.reset is None else (~operands.reset).astype(jnp.float32)
    u = pad_channels(operands.u, 2, in_a_row, knobs["channels"])
    B, C = high(operands.B.astype(jnp.float32)), high(operands.C.astype(jnp.float32))
    A = high(wide(operands.A, 1))
    plan = Plan(
        options=options,
        interpret=interpreted.parameters,
        batch=u.shape[0],
        length=u.shape[1],
        directions=B.shape[2],
        groups=g,
        channels=A.shape[1],
        states=B.shape[4],
        own_channels=own_channels(operands),
        own_delta=operands.delta.shape[2] > 1,
        block=knobs["channels"],
        chunk=knobs["chunk"],
        warps=(knobs["forward_warps"], knobs["backward_warps"]),
    )
    first = high(wide(operands.initial_state, 2))
    D, bias = wide(operands.D, 1), wide(operands.delta_bias, 1)
    outputs: Outputs = run(plan, u, wide(operands.delta, 3), A, B, C, D, bias, first, keep)
    y, last = outputs
    y = drop_channels(y, 2, in_a_row, operands.u.shape[2])
    if operands.z is not None:
        y = y.astype(jnp.float32) * jax.nn.silu(operands.z.astype(jnp.float32))
    if last is not None:
        last = drop_channels(last, 2, g, d)[..., :n]
    return y.astype(operands.u.dtype), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(
    plan: Plan,
    u: Float[Array, "b l c"],
    delta: Float[Array, "b l kd d"],
    A: Float[Array, "k d n"],
    B: Float[Array, "b l k g n"],
    C: Float[Array, "b l k g n"],
    D: Float[Array, "k d"] | None,
    bias: Float[Array, "k d"] | None,
    first: Float[Array, "b k d n"] | None,
    keep: Float[Array, "b l"] | None,
) -> tuple[Float[Array, "b l c"], Float[Array, "b k d n"] | None]:
    """Returns y, directions over the same channels added up, and, where wanted, the last state."""
    return forward(plan, (u, delta, A, B, C, D, bias, keep), first)[0]


def load(ref, *index) -> Any:
    """Reads float32 numbers; None where there is no such argument."""
    return None if ref is None else ref[index].astype(jnp.float32)


def step_size(plan, raw, shift):
    """The step size from delta and its bias."""
    x = raw if shift is None else raw + shift
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x))) if plan.options.delta_softplus else x


def read_step(plan, refs, place, row, shift):
    """Input, step size, B and what is kept of the carried state, at a row."""
    sequence, direction, _, channels, own, group, _, columns = place
    x = load(refs["u"], sequence, row, columns)
    step = step_size(plan, load(refs["delta"], sequence, row, own, channels), shift)
    return x, step, load(refs["B"], sequence, row, direction, group), load(refs["keep"], sequence, row)


def advance(state, rates, x, step, B, keep):
    """The state after a step, and its decay; rates come over ln 2, since decays are powers of 2."""
    decay = jnp.exp2(step[:, None] * rates)
    decay = decay if keep is None else decay * keep
    return decay * state + (step * x)[:, None] * B[None], decay


def each_chunk(plan, backwards, body, carry):
    """Runs body(chunk, length, carry) on all chunks; the last one, if shorter, is code of its own."""
    full, rest = divmod(plan.length, plan.chunk)
    if rest and backwards:
        carry = body(full, rest, carry)
    chunk = lambda c, carry: body(full - 1 - c if backwards else c, plan.chunk, carry)
    carry = jax.lax.fori_loop(0, full, chunk, carry) if full else carry
    return carry if backwards or not rest else body(full, rest, carry)


def launch(plan, name, kernel, inputs, outputs):
    """One launch for all sequences, directions and blocks; inputs and outputs that are None are left out."""
    inputs, outputs = ({k: v for k, v in x.items() if v is not None} for x in (inputs, outputs))
    alike = jax.typeof(inputs["u"]).manual_axis_type

    def named(*refs):
        kernel(dict.fromkeys(("D", "bias", "first", "keep", "dlast", "last", "boundaries")) | dict(zip(names, refs)))

    names = [*inputs, *outputs]
    results = pl.pallas_call(
        named,
        name=f"selective_scan_{name}",
        grid=(plan.batch, plan.directions, plan.blocks),
        out_shape=[jax.ShapeDtypeStruct(*how, manual_axis_type=alike) for how in outputs.values()],
        compiler_params=plgpu.CompilerParams(num_warps=plan.warps[name == "backward"], num_stages=1),
        interpret=plan.interpret,
    )(*inputs.values())
    return dict(zip(outputs, results))


def forward(plan, operands, first, *, keep_boundaries=False):
    """Runs the forward kernel; returns y and the last state, and the states at the chunks' boundaries."""
    u, delta, A, B, C, D, bias, keep = operands
    b, k, d, n = plan.batch, plan.directions, plan.channels, plan.states
    y_type = u.dtype if k == 1 or plan.own_channels else jnp.float32
    inputs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "bias": bias, "keep": keep, "first": first}
    outputs = {
        "y": (plan.by_row, y_type),
        "last": ((b, k, d, n), jnp.float32) if plan.options.final_state else None,
        "boundaries": ((b, k, plan.chunks, d, n), jnp.float32) if keep_boundaries else None,
    }

    def kernel(refs):
        place = sequence, direction, _, channels, _, group, plane, columns = plan.place()
        rates = load(refs["A"], direction, channels) * LOG2E
        skip, shift = load(refs["D"], direction, channels), load(refs["bias"], direction, channels)
        state = load(refs["first"], sequence, direction, channels)
        state = jnp.zeros((plan.block, n), jnp.float32) if state is None else state

        def walk(step, state):
            row = plan.row(direction, step)
            x, step, B, keep = read_step(plan, refs, place, row, shift)
            state, _ = advance(state, rates, x, step, B, keep)
            y = jnp.sum(state * load(refs["C"], sequence, row, direction, group)[None], axis=1)
            y = y if skip is None else y + skip * x
            refs["y"][sequence, plane, row, columns] = y.astype(y_type)
            return state

        def chunk(c, count, state):
            refs["boundaries"][sequence, direction, c, channels] = state
            return jax.lax.fori_loop(c * plan.chunk, c * plan.chunk + count, walk, state)

        if keep_boundaries:
            state = each_chunk(plan, False, chunk, state)
        else:
            state = jax.lax.fori_loop(0, plan.length, walk, state)
        if refs["last"] is not None:
            refs["last"][sequence, direction, channels] = state

    done = launch(plan, "forward", kernel, inputs, outputs)
    return (done["y"].sum(axis=1), done.get("last")), done.get("boundaries")


def run_forward(plan, u, delta, A, B, C, D, bias, first, keep):
    """The forward pass; keeps the states at the chunks' boundaries."""
    operands = (u, delta, A, B, C, D, bias, keep)
    outputs, boundaries = forward(plan, operands, first, keep_boundaries=True)
    return outputs, (operands, first, boundaries)


def run_backward(plan, kept, cotangents):
    """The backward pass: the kernel, then the sums that cross programs, in a fixed order."""
    operands, first, boundaries = kept
    u, delta, A, B, C, D, bias, keep = operands
    dy, dlast = cotangents
    b, length, k, d, n = plan.batch, plan.length, plan.directions, plan.channels, plan.states
    inputs = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "bias": bias, "keep": keep}
    inputs |= {"dy": dy, "kept": boundaries, "dlast": dlast}
    wide = jnp.float32
    deltas, sums = ((b, length, k, d) if plan.own_delta else (b, k, length, d)), ((b, k, plan.blocks, length, n), wide)
    outputs = {"du": (plan.by_row, wide), "ddelta": (deltas, wide), "dB": sums, "dC": sums}
    outputs |= dict.fromkeys(("dA", "dfirst"), ((b, k, d, n), wide)) | dict.fromkeys(("dD", "dbias"), ((b, k, d), wide))

    def kernel(refs):
        place = sequence, direction, block, channels, _, group, plane, columns = plan.place()
        rates = load(refs["A"], direction, channels) * LOG2E
        skip, shift = load(refs["D"], direction, channels), load(refs["bias"], direction, channels)
        carry = load(refs["dlast"], sequence, direction, channels)
        nothing = jnp.zeros((plan.block, n), wide)

        def chunk(c, count, sums):
            carry, dA, dD, dbias = sums
            rows = [plan.row(direction, c * plan.chunk + j) for j in range(count)]
            states = [load(refs["kept"], sequence, direction, c, channels)]
            for row in rows:
                states.append(advance(states[-1], rates, *read_step(plan, refs, place, row, shift))[0])
            for row, before, after in reversed(list(zip(rows, states, states[1:]))):
                x, step, B, keep = read_step(plan, refs, place, row, shift)
                _, decay = advance(before, rates, x, step, B, keep)
                dout = load(refs["dy"], sequence, row, columns)
                gradient = carry + dout[:, None] * load(refs["C"], sequence, row, direction, group)[None]
                at = sequence, direction, block, row
                refs["dB"][at] = jnp.sum(gradient * (step * x)[:, None], axis=0)
                refs["dC"][at] = jnp.sum(dout[:, None] * after, axis=0)
                carry = gradient * decay
                decayed = carry * before
                through_input = jnp.sum(gradient * B[None], axis=1)
                dstep = x * through_input + LN2 * jnp.sum(decayed * rates, axis=1)
                if plan.options.delta_softplus:
                    dstep = dstep * (1.0 - jnp.exp(-step))
                dx = step * through_input
                refs["du"][sequence, plane, row, columns] = dx if skip is None else dx + skip * dout
                at = (row, direction) if plan.own_delta else (direction, row)
                refs["ddelta"][(sequence, *at, channels)] = dstep
                dA, dD, dbias = dA + decayed * step[:, None], dD + dout * x, dbias + dstep
            return carry, dA, dD, dbias

        none = jnp.zeros((plan.block,), wide)
        sums = each_chunk(plan, True, chunk, (nothing if carry is None else carry, nothing, none, none))
        for name, value in zip(("dfirst", "dA", "dD", "dbias"), sums):
            refs[name][sequence, direction, channels] = value

    done = launch(plan, "backward", kernel, inputs, outputs)
    by_group = lambda x: jnp.moveaxis(x.reshape(b, k, plan.groups, -1, length, n).sum(axis=3), 3, 1)
    gradients = (
        done["du"].sum(axis=1).astype(u.dtype),
        (done["ddelta"] if plan.own_delta else done["ddelta"].sum(axis=1)[:, :, None]).astype(delta.dtype),
        done["dA"].sum(axis=0),
        by_group(done["dB"]),
        by_group(done["dC"]),
        None if D is None else done["dD"].sum(axis=0),
        None if bias is None else done["dbias"].sum(axis=0),
        None if first is None else done["dfirst"],
        None if keep is None else jnp.zeros_like(keep),
    )
    return compatibility.vary_alike((*gradients, u))[:-1]


run.defvjp(run_forward, run_backward)

"""Sums over the channels of a warp, which are its threads: what decides the cost of the backward kernel on a GPU.

A thread writes its terms for two states, 32 each, to shared memory in a row of its own, 128 bits at a time. Then each
half of the warp takes 16 of the warp's 32 rows, and a thread adds four neighbouring columns up over them, again 128
bits at a time. That is a write, a read and an addition a term, the first two a quarter of an instruction, where a
butterfly of shuffles costs a shuffle, a select and an addition each. A row has room for two such turns, so that one can
be added up while the other is written. Rows lie 132 words apart: what eight neighbouring threads write falls into
different banks.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, gpu, llvm, vector

WARPS, WARP = 4, 32
STATES, TERMS, TURNS = 2, 32, 2
COLUMNS = STATES * TERMS
STRIDE = TURNS * COLUMNS + 4
LANES_A_ROW, ROWS = COLUMNS // 4, WARP // 2
SUMS = WARPS * 2 * COLUMNS
ONE_A_THREAD = plgpu.Layout.WG_STRIDED((WARPS * WARP,), vec_size=1)
FOUR_A_THREAD = plgpu.Layout.WG_STRIDED((SUMS,), vec_size=4)


def scratch(warpgroups):
    """Shared memory for the terms of each thread."""
    return plgpu.SMEM((warpgroups, WARPS, WARP, STRIDE), jnp.float32)


def written(warp, lane, turn, column):
    """Where a thread writes a term."""
    return (warp * WARP + lane) * STRIDE + turn * COLUMNS + column


def read(warp, lane, turn, row):
    """Where a thread reads the first of the four columns that it adds up, in one of its half's rows."""
    return (warp * WARP + lane // LANES_A_ROW * ROWS + row) * STRIDE + turn * COLUMNS + 4 * (lane % LANES_A_ROW)


def write(terms, turn, column, scratch, interpret):
    """Writes arrays, a number a thread, to neighbouring columns of a turn's; the first is a multiple of 4.

    Up to 3 columns after them are undefined then.
    """
    if not interpret:
        layouts = (plgpu.RefType(), *[ONE_A_THREAD] * len(terms))
        first = written(0, 0, turn, column)
        plgpu.inline_mgpu(arg_types=layouts)(lambda ctx, *x: write_in_machine_terms(first, *x))(scratch, *terms)
    else:
        first, rows = turn * COLUMNS + column, jnp.stack([x.reshape(WARPS, WARP) for x in terms], axis=-1)
        scratch[:, :, first : first + len(terms)] = rows


def add_up(turn, scratch, interpret, *, chains, wait=False):
    """Adds a turn's columns up over half a warp's rows: 64 sums for the first half of the first warp, and so on.

    What was written before is waited for; `wait` says that those who write next have to wait for what is read here.
    Of the additions, so many chains run along: two where nothing else is left to do, one where registers are scarce.
    """
    if not interpret:
        kind = plgpu.ShapeDtypeStruct((SUMS,), np.dtype(np.float32), layout=FOUR_A_THREAD)
        body = functools.partial(add_up_in_machine_terms, turn=turn, chains=chains, wait=wait)
        return plgpu.inline_mgpu(arg_types=(plgpu.RefType(),), return_type=kind)(body)(scratch)
    first = turn * COLUMNS
    return scratch[:, :, first : first + COLUMNS].reshape(WARPS, 2, ROWS, COLUMNS).sum(axis=2).reshape(SUMS)


def place(scratch):
    """A thread's warp and its place there, and a function that points to a word of shared memory by their sum."""
    thread = gpu.thread_id(gpu.Dimension.x)
    warp = arith.remui(arith.divui(thread, number(WARP)), number(WARPS))
    lane = arith.remui(thread, number(WARP))
    base = mgpu.utils.memref_ptr(scratch)

    def pointer(start, offset):
        index = arith.index_cast(ir.IntegerType.get_signless(32), arith.addi(start, number(offset)))
        return mgpu.utils.getelementptr(base, [index], ir.F32Type.get())

    return warp, lane, pointer


def number(x):
    """An index that is known."""
    index = ir.IndexType.get()
    return arith.constant(index, ir.IntegerAttr.get(index, x))


def write_in_machine_terms(first, scratch, *terms):
    """Pallas has no name for a thread's own row; the interpreter can't run this."""
    warp, lane, pointer = place(scratch)
    row = arith.muli(arith.addi(arith.muli(warp, number(WARP)), lane), number(STRIDE))
    i32 = ir.IntegerType.get_signless(32)
    values = [vector.extract(x.registers.item(), [], [0]) for x in terms]
    for i in range(0, len(values), 4):
        four = llvm.mlir_undef(ir.VectorType.get((4,), ir.F32Type.get()))
        for j, value in enumerate(values[i : i + 4]):
            at = arith.constant(i32, ir.IntegerAttr.get(i32, j))
            four = llvm.insertelement(four, value, at)
        llvm.store(four, pointer(row, first + i), alignment=16)


def add_up_in_machine_terms(ctx, scratch, *, turn, chains, wait):
    """A warp's rows are its own: it waits for its threads alone, for their writes and, if need be, for their reads."""
    del ctx
    warp, lane, pointer = place(scratch)
    half, lane = arith.divui(lane, number(LANES_A_ROW)), arith.remui(lane, number(LANES_A_ROW))
    row = arith.addi(arith.muli(warp, number(WARP)), arith.muli(half, number(ROWS)))
    start = arith.addi(arith.muli(row, number(STRIDE)), arith.muli(lane, number(4)))
    four = ir.VectorType.get((4,), ir.F32Type.get())
    mgpu.utils.warp_barrier()
    rows = [llvm.load(four, pointer(start, read(0, 0, turn, row)), alignment=16) for row in range(ROWS)]
    if wait:
        mgpu.utils.warp_barrier()
    # A tree of additions would want all rows in registers at once.
    sums = [functools.reduce(arith.addf, rows[i::chains]) for i in range(chains)]
    sums = [functools.reduce(arith.addf, sums)]
    return mgpu.FragmentedArray(
        _registers=np.asarray(sums, dtype=object),
        _layout=mgpu.WGStridedFragLayout((SUMS,), 4),
        _is_signed=None,
    )

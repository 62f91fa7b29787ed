"""Sums over the channels of a warp, which are its threads: what decides the cost of the backward kernel on a GPU.

A thread writes its terms for four states, 32 each, to shared memory as a row of its own, 128 bits at a time; then it
adds four neighbouring columns up over the 32 rows of its warp, again 128 bits at a time. That is a write, a read and an
addition a term, the first two a quarter of an instruction, where a butterfly of shuffles costs a shuffle, a select and
an addition each. Rows lie 132 words apart, so that what eight neighbouring threads write falls into different banks.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, gpu, llvm, vector

WARPS, WARP = 4, 32
STATES, TERMS = 4, 32
COLUMNS = STATES * TERMS
STRIDE = COLUMNS + 4
SUMS = WARPS * COLUMNS
ONE_A_THREAD = plgpu.Layout.WG_STRIDED((WARPS * WARP,), vec_size=1)
FOUR_A_THREAD = plgpu.Layout.WG_STRIDED((SUMS,), vec_size=4)


def scratch(warpgroups):
    """Shared memory for the terms of each thread."""
    return plgpu.SMEM((warpgroups, WARPS, WARP, STRIDE), jnp.float32)


def written(warp, lane, column):
    """Where a thread writes a term."""
    return (warp * WARP + lane) * STRIDE + column


def read(warp, lane, row):
    """Where a thread reads the first of the four columns that it adds up."""
    return (warp * WARP + row) * STRIDE + 4 * lane


def write(terms, column, scratch, interpret):
    """Writes arrays, a number a thread, to neighbouring columns; the first is a multiple of 4.

    Up to 3 columns after them are undefined then.
    """
    if not interpret:
        layouts = (plgpu.RefType(), *[ONE_A_THREAD] * len(terms))
        plgpu.inline_mgpu(arg_types=layouts)(lambda ctx, *x: write_in_machine_terms(column, *x))(scratch, *terms)
    else:
        rows = jnp.stack([x.reshape(WARPS, WARP) for x in terms], axis=-1)
        scratch[:, :, column : column + len(terms)] = rows


def add_up(scratch, interpret):
    """Adds the columns up over each warp's rows: 128 sums for the first warp, for the second, and so on."""
    if not interpret:
        kind = plgpu.ShapeDtypeStruct((SUMS,), np.dtype(np.float32), layout=FOUR_A_THREAD)
        return plgpu.inline_mgpu(arg_types=(plgpu.RefType(),), return_type=kind)(add_up_in_machine_terms)(scratch)
    return scratch[:, :, :COLUMNS].sum(axis=1).reshape(SUMS)


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


def write_in_machine_terms(column, scratch, *terms):
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
        llvm.store(four, pointer(row, written(0, 0, column + i)), alignment=16)


def add_up_in_machine_terms(ctx, scratch):
    """A warp's rows are its own: it waits for its threads alone, for their writes and then for their reads."""
    del ctx
    warp, lane, pointer = place(scratch)
    start = arith.addi(arith.muli(warp, number(WARP * STRIDE)), arith.muli(lane, number(4)))
    four = ir.VectorType.get((4,), ir.F32Type.get())
    mgpu.utils.warp_barrier()
    rows = [llvm.load(four, pointer(start, read(0, 0, row)), alignment=16) for row in range(WARP)]
    mgpu.utils.warp_barrier()
    # Two sums run along: a tree of additions would want all rows in registers at once.
    sums = [functools.reduce(arith.addf, rows[i::2]) for i in range(2)]
    sums = [arith.addf(*sums)]
    return mgpu.FragmentedArray(
        _registers=np.asarray(sums, dtype=object),
        _layout=mgpu.WGStridedFragLayout((SUMS,), 4),
        _is_signed=None,
    )

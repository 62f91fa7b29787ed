"""Sums over the channels of a warp, which are its threads: what decides the cost of the backward kernel on a GPU.

A warp writes its 32 terms as rows of 32 columns to shared memory, a row a term, and each thread then adds a row up:
31 additions for 32 sums, where a butterfly of shuffles costs a shuffle, a select and an addition each. Rows lie 36
words apart, so that the 128-bit reads of eight neighbouring threads fall into different banks.
"""

import jax.numpy as jnp
import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, gpu, llvm, vector

TERMS = 32
WARPS = 4
WARP = 32
STRIDE = 36
ONE_A_THREAD = plgpu.Layout.WG_STRIDED((WARPS * WARP,), vec_size=1)


def scratch():
    """Shared memory for the terms of each warp."""
    return plgpu.SMEM((WARPS * TERMS * STRIDE,), jnp.float32)


def written(warp, lane, term):
    """Where a thread writes a term."""
    return (warp * TERMS + term) * STRIDE + lane


def read(warp, lane, quarter):
    """Where a thread reads four columns of the row that it adds up."""
    return (warp * TERMS + lane) * STRIDE + 4 * quarter


def by_warp(terms, scratch, interpret):
    """Adds up to 32 arrays, a number a thread, up over each warp: thread t gets term t % 32 summed over warp t // 32.

    What threads get for whom there is no term is undefined.
    """
    if interpret is None:
        inline = plgpu.inline_mgpu(
            arg_types=(plgpu.RefType(), *[ONE_A_THREAD] * len(terms)),
            return_type=plgpu.ShapeDtypeStruct((WARPS * WARP,), jnp.float32, layout=ONE_A_THREAD),
        )
        return inline(transpose_and_add)(scratch, *terms)
    sums = jnp.stack([x.reshape(WARPS, WARP).sum(axis=1) for x in terms], axis=1)
    return jnp.pad(sums, ((0, 0), (0, TERMS - len(terms)))).reshape(WARPS * WARP)


def transpose_and_add(ctx, scratch, *terms):
    """The sums in machine terms, since Pallas has no name for a warp's own rows; the interpreter can't run it."""
    del ctx
    index, f32 = ir.IndexType.get(), ir.F32Type.get()
    number = lambda x: arith.constant(index, ir.IntegerAttr.get(index, x))
    thread = gpu.thread_id(gpu.Dimension.x)
    warp, lane = arith.divui(thread, number(WARP)), arith.remui(thread, number(WARP))
    # The last call's reads must be over before its rows are overwritten.
    mgpu.utils.warp_barrier()
    start = arith.addi(arith.muli(warp, number(TERMS * STRIDE)), lane)
    for i, term in enumerate(terms):
        vector.store(term.registers.item(), scratch, [arith.addi(start, number(written(0, 0, i)))])
    mgpu.utils.warp_barrier()
    four = ir.VectorType.get((4,), f32)
    base = mgpu.utils.memref_ptr(scratch)
    first = arith.addi(arith.muli(warp, number(TERMS * STRIDE)), arith.muli(lane, number(STRIDE)))
    sums = []
    for quarter in range(WARP // 4):
        offset = arith.index_cast(ir.IntegerType.get_signless(32), arith.addi(first, number(read(0, 0, quarter))))
        pointer = mgpu.utils.getelementptr(base, [offset], f32)
        sums.append(llvm.load(four, pointer, alignment=16))
    while len(sums) > 1:
        sums = [arith.addf(a, b) for a, b in zip(sums[::2], sums[1::2])]
    total = vector.reduction(f32, vector.CombiningKind.ADD, sums[0])
    register = vector.broadcast(ir.VectorType.get((1,), f32), total)
    return mgpu.FragmentedArray(
        _registers=np.asarray([register], dtype=object),
        _layout=mgpu.WGStridedFragLayout((WARPS * WARP,), 1),
        _is_signed=None,
    )

"""Bundles a step of the TPU kernels, counted from the compiler's final schedule: `python -m benchmarks.tpu_bundles`.

A TPU core issues one bundle of instructions a clock. libtpu compiles for a chip that is not there and writes down the
bundles that it ends with. Those of the loops over chunks, blocks of 8 channels, steps and states count as often as the
loops run, with their prologues, softplus, and the last, shorter chunk; the sum is divided by the number of times that a
register of (8 channels, 128 sequences) is advanced by a step of one state. What a grid step needs besides, to fetch
blocks and to clear scratch, is not counted. An 11 x 11 patch, 128 channels, 16 states, softplus, bias and D.

"forward" is the call alone, "forward_for_gradients" also keeps the state at every 32nd step, which "backward" reads.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from benchmarks import deviceless

TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x4"}
SHAPE = "ours_121"


def loops(schedule: str) -> list[tuple[int, int]]:
    """Reads depth and own bundles of each loop that computes anything, in order, from a kernel's final bundles.

    A loop begins where its mark stands; the depths of other bundles vary by what was moved across a loop's edge. The
    grid is the loop at depth 1 and left out, and so are loops that only copy or clear.
    """
    found, around = [[0, 0, False]], [0]
    for line in schedule.splitlines():
        bundle = re.match(r"\s*(?:0x[0-9a-f]+|0)\s+(\w\w)?\s*:\s*(>*)", line)
        if bundle is None:
            continue
        depth = len(bundle[2])
        if bundle[1] == "LB":
            del around[depth:]
            around.append(len(found))
            found.append([depth, 0, False])
        found[around[min(depth, len(around) - 1)]][1] += 1
        if "= vmul." in line or "= vadd.f32" in line:
            for i in around:
                found[i][2] = True
    return [(depth, bundles) for depth, bundles, computes in found if computes and depth > 1]


def executed(schedule: str, trips: list[int]) -> int:
    """Counts the bundles that run.

    Args:
      schedule: the compiler's final bundles.
      trips: how often each loop runs for one turn of the loop round it, in the order in which they begin.

    Raises:
      RuntimeError: the compiler made other loops than were reckoned with, so the count would be wrong.
    """
    found = loops(schedule)
    if len(found) != len(trips):
        raise RuntimeError(f"The schedule has {len(found)} loops, {len(trips)} were reckoned with: {found}.")
    total, turns = 0, [1]
    for (depth, bundles), count in zip(found, trips):
        del turns[depth - 1 :]
        turns.append(turns[-1] * count)
        total += bundles * turns[-1]
    return total


def segments(tile, length: int) -> list[tuple[int, int]]:
    """Rows of the last segment and of the others, with how many there are, in the order of the kernel's branches."""
    count = -(-length // tile.rows)
    last = length - (count - 1) * tile.rows
    return [(last, count)] if last == tile.rows else [(last, 1), *([(tile.rows, count - 1)] if count > 1 else [])]


def forward_trips(tile, length: int, chunk: int, several: int) -> list[int]:
    """Turns of the forward kernel's loops for one register of channels; a loop that turns once is none."""
    trips = []
    for rows, times in segments(tile, length):
        trips.append(times)
        full, rest = divmod(rows, chunk)
        walks = [(full, chunk)] if full else []
        for turns, steps in [*walks, *([(1, rest)] if rest else [])]:
            trips += [turns] if turns > 1 else []
            trips += [steps // several] if steps // several > 1 else []
    return trips


def backward_trips(tiling, length: int, n: int) -> list[int]:
    """Turns of the backward kernel's loops for all registers of a tile."""
    from bdgf_kernels.selective_scan.mosaic_tpu_plan import SUBLANES

    blocks, at_once = tiling.backward.channels // SUBLANES, tiling.states_at_once
    more = lambda turns: [turns] if turns > 1 else []
    trips = []
    for rows, times in segments(tiling.backward, length):
        full, rest = divmod(rows, tiling.chunk)
        for turns, steps in [*([(1, rest)] if rest else []), *([(full, tiling.chunk)] if full else [])]:
            whole, left = divmod(steps, tiling.backward_steps)
            # The loop over chunks, where there is one, stands round the others.
            outer = [turns * times] if turns > 1 else []
            once = 1 if outer else times
            states = more(n // at_once)
            trips += [*outer, blocks * once, *(states if left else []), *more(whole), *states, steps * once]
    return trips


def compile_for(topology: str, dtype: str) -> None:
    """Compiles both passes for a chip that is not there; libtpu was told by the environment what to write down."""
    import jax
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    place = jax.sharding.SingleDeviceSharding(chip)
    scan, gradients, arguments = deviceless.counted_call(SHAPE, "mosaic_tpu", place, dtype)
    jax.jit(scan).lower(*arguments).compile()
    jax.jit(gradients).lower(arguments[0], *arguments).compile()


def compile_all(topology: str) -> None:
    """Compiles, for a chip that is not there, gradients of calls that the count leaves out: all options, a grid."""
    import jax
    import jax.numpy as jnp
    from bdgf_kernels import selective_scan, selective_scan_2d
    from jax.experimental import topologies

    chip = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    place = jax.sharding.SingleDeviceSharding(chip)
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    wide = jnp.float32

    def compile_gradients(scan, *arguments):
        loss = lambda *x: sum(part.astype(wide).sum() for part in jax.tree.leaves(scan(*x)))
        jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments))))).lower(*arguments).compile()

    b, length, d, n, g = 130, 1000, 40, 5, 2
    rows, states = array(b, length, d), array(b, length, g, n)
    by_channel = array(d, dtype=wide)
    first, reset = array(b, d, n, dtype=wide), jnp.zeros((b, length), bool)
    how = {"delta_softplus": True, "return_final_state": True, "reverse": True, "implementation": "mosaic_tpu"}
    compile_gradients(
        lambda u, delta, A, B, C, D, z, bias, first: selective_scan(
            u, delta, A, B, C, D, z, bias, initial_state=first, reset=reset, **how
        ),
        *(rows, rows, array(d, n, dtype=wide), states, states, by_channel, rows, by_channel, first),
    )

    k, grid = 4, (256, 11, 11)
    shared = array(*grid, k, 16)
    compile_gradients(
        lambda *x: selective_scan_2d(*x, delta_softplus=True, implementation="mosaic_tpu"),
        *(array(*grid, 64), array(*grid, 64), array(k, 64, 16, dtype=wide), shared, shared),
    )


def compiled_elsewhere(*how: str) -> dict[str, str]:
    """Compiles in a process of its own, since libtpu reads its flags once; returns the kernels' final bundles."""
    with tempfile.TemporaryDirectory() as work:
        # What is found in a cache is not compiled, and dumps nothing.
        told = {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TPU_SKIP_MDS_QUERY": "1",
            "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={work} --xla_jf_dump_llo_text=true",
        }
        command = [sys.executable, "-m", "benchmarks.tpu_bundles", *how]
        here = pathlib.Path(__file__).parents[1]
        done = subprocess.run(command, cwd=here, env=os.environ | told, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(how)} does not compile:\n{done.stderr[-4000:]}")
        files = sorted(pathlib.Path(work).glob("*selective_scan_*final_bundles.txt"))
        return {path.name: path.read_text() for path in files if "schedule-analysis" not in path.name}


def schedules(chip: str, dtype: str) -> dict[str, str]:
    """Returns the schedule of each kernel."""
    texts = compiled_elsewhere("--compile-for", TOPOLOGIES[chip], dtype)
    forward = sorted((text for name, text in texts.items() if "selective_scan_forward" in name), key=len)
    (backward,) = (text for name, text in texts.items() if "selective_scan_backward" in name)
    return {"forward": forward[0], "forward_for_gradients": forward[1], "backward": backward}


def measure(chip: str, dtype: str) -> dict[str, dict[str, float]]:
    """Compiles both kernels for a chip and counts their bundles."""
    import jax
    import jax.numpy as jnp
    from bdgf_kernels.selective_scan import mosaic_tpu
    from bdgf_kernels.selective_scan.call import Operands, Options
    from bdgf_kernels.selective_scan.mosaic_tpu_plan import SUBLANES
    from bdgf_kernels.selective_scan.shapes import SHAPES

    b, length, d, n, _ = SHAPES[SHAPE]
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    rows, states = array(b, length, d), array(b, length, 1, 1, n)
    operands = Operands(rows, array(b, length, 1, d), array(1, d, n), states, states)
    tiling = mosaic_tpu.tiling(operands, Options())
    assert tiling is not None
    forward, backward = tiling.forward, tiling.backward
    several = 2 * tiling.forward_steps
    trips = {
        "forward": forward_trips(forward, length, length, several),
        "forward_for_gradients": forward_trips(forward, length, tiling.chunk, several),
        "backward": backward_trips(tiling, length, n),
    }
    blocks = {"backward": backward.channels // SUBLANES}
    return {
        kind: {"bundles_per_register_step": round(executed(text, trips[kind]) / (blocks.get(kind, 1) * length * n), 2)}
        for kind, text in schedules(chip, dtype).items()
    }


def main() -> None:
    """Prints the table and, where asked, records float32's beside the GPU's."""
    parser = argparse.ArgumentParser(description="Counts the TPU kernels' bundles.")
    parser.add_argument("--record", action="store_true", help=f"put the counts into {deviceless.RECORD.name}")
    parser.add_argument("--compile-for", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--compile-all", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile_all:
        compile_all(options.compile_all)
        return
    if options.compile_for:
        compile_for(*options.compile_for)
        return
    table = {}
    for chip in TOPOLOGIES:
        wide, half = (measure(chip, dtype) for dtype in ("float32", "bfloat16"))
        for kind, row in half.items():
            wide[kind]["bundles_per_register_step_bfloat16"] = row["bundles_per_register_step"]
        table[chip] = wide
    print(json.dumps(table, indent=2))
    if options.record:
        deviceless.record(table)


if __name__ == "__main__":
    main()

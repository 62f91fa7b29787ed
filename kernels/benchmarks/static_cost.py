"""Instructions an element of the Hopper kernels, counted from their machine code: `python -m benchmarks.static_cost`.

Every instruction of the whole kernel counts as often as the loops round it run: prologue, softplus, the last, shorter
chunk. Divided by the l n elements of a thread's channel that gives thread-instructions an element (b, l, d, n). Waiting
for a copy is counted once. "forward" is the call alone, "forward_for_gradients" also writes the state at every
16th step, which "backward" reads. The model is the slowest of the pipes at 1.755 GHz on 132 multiprocessors:
128 instructions issued, 16 exponentials and 32 lanes of shared memory a clock, and 3.35 TB/s. It knows no latency.

The rows of mamba_ssm 2.3.2.post1 are recorded numbers, counted in the same way from nvdisasm of its sm_90 code.
"""

import argparse
import json
import pathlib
import re

from benchmarks import deviceless

RESULTS = pathlib.Path(__file__).parent / "results/static_cost.json"
MAMBA_MS = {"forward": 0.461, "forward_for_gradients": 0.461, "backward": 0.918}
"""mamba_ssm 2.3.2.post1 by the same model at the same shape, bfloat16."""
SHAPE = "ours_121"
CLOCK, PROCESSORS, MEMORY = 1.755e9, 132, 3.35e12


def instructions(code: list[str]) -> tuple[list[str], dict[str, int]]:
    """Reads a disassembly: its instructions in order, and the index that each label stands before."""
    found, labels = [], {}
    for line in code:
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label.group(1)] = len(found)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            found.append(instruction.group(1))
    return found, labels


def name(instruction: str) -> str:
    """The operation, without predicate and modifiers."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0].split(".")[0]


def loops(found: list[str], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of every loop with arithmetic in it, in order; waits that spin are none."""
    exit_at = max(i for i, text in enumerate(found) if name(text) == "EXIT")
    result = []
    for i, text in enumerate(found[: exit_at + 1]):
        target = re.search(r"BRA.*`\((\.L\w+)\)", text)
        if target and labels.get(target.group(1), i + 1) <= i:
            result.append((labels[target.group(1)], i))
    return sorted(span for span in result if any(name(x) == "MUFU" for x in found[span[0] : span[1]]))


def executed(code: list[str], trips: list[int]) -> dict[str, float]:
    """Counts the instructions that a thread runs, by operation.

    Args:
      code: the disassembly.
      trips: how often each loop runs, in the order in which the loops begin.

    Raises:
      RuntimeError: the compiler made other loops than were reckoned with, so the count would be wrong.
    """
    found, labels = instructions(code)
    spans = loops(found, labels)
    trips = [count for count in trips if count > 1]
    if len(spans) != len(trips):
        raise RuntimeError(f"The machine code has {len(spans)} loops, {len(trips)} were reckoned with.")
    counts: dict[str, float] = {}
    last = max(i for i, text in enumerate(found) if name(text) == "EXIT")
    for i, text in enumerate(found[: last + 1]):
        times = 1
        for (start, end), count in zip(spans, trips):
            if start <= i <= end:
                times *= count
        counts[name(text)] = counts.get(name(text), 0.0) + times
    return counts


def measure() -> dict:
    """Compiles both kernels for an 11 x 11 patch in bfloat16, with softplus, bias and D, and counts them."""
    folder = deviceless.tools()
    if folder is None:
        raise SystemExit("This needs jax-cuda13-plugin, jax-cuda13-pjrt and nvidia-cuda-nvcc, -nvdisasm, nvidia-nvvm.")
    deviceless.prepare(folder)

    import jax
    import jax.numpy as jnp
    from bdgf_kernels import selective_scan
    from bdgf_kernels.selective_scan import channel_sums
    from bdgf_kernels.selective_scan import mosaic_gpu_kernels as kernels
    from bdgf_kernels.selective_scan.shapes import SHAPES

    b, length, d, n, _ = SHAPES[SHAPE]
    device = deviceless.hopper()
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=device)
    wide = jnp.float32
    rows, states = array(b, length, d), array(b, length, n)
    arguments = (rows, rows, array(d, n, dtype=wide), states, states, array(d, dtype=wide), array(d, dtype=wide))

    def scan(u, delta, A, B, C, D, bias):
        how = {"delta_bias": bias, "delta_softplus": True, "implementation": "mosaic_gpu"}
        return selective_scan(u, delta, A, B, C, D, **how)

    def gradients(dy, *arguments):
        return jax.vjp(scan, *arguments)[1](dy)

    (alone,) = deviceless.kernels_of(scan, arguments)
    with_boundaries, backward = sorted(deviceless.kernels_of(gradients, (rows, *arguments)), key=len)
    texts = {"forward": alone, "forward_for_gradients": with_boundaries, "backward": backward}
    full, rest = divmod(length, kernels.CHUNK)
    state_trips = n // channel_sums.STATES
    trips = {
        "forward": [length // kernels.UNROLL],
        "forward_for_gradients": [full, kernels.CHUNK // kernels.UNROLL, rest // kernels.UNROLL],
        "backward": [state_trips, full, state_trips],
    }
    elements = SHAPES[SHAPE].elements

    def wide_passes(kind):
        """Passes an element more than one for accesses whose 128 bits differ from thread to thread: three each.

        Reads of B and C are the same for all threads; the channels' sums write TERMS / 4 times a chunk and state, and
        read WARP times a chunk and four states.
        """
        if kind != "backward":
            return 0.0
        sums = channel_sums
        return 3 * (sums.TERMS / 4 + sums.WARP / sums.STATES) / kernels.CHUNK * (-(-length // 16) * 16 / length)

    # Bytes a step: rows in bfloat16, B and C in float32, a state every 16 steps, and what warps give to dB and dC.
    shared, boundaries, sums = 2 * 4 * n, 4 * n * d // 16, 4 * n * d // 16
    moved = {
        "forward": 3 * 2 * d + shared,
        "forward_for_gradients": 3 * 2 * d + shared + boundaries,
        "backward": 5 * 2 * d + shared + boundaries + sums,
    }
    table = {}
    for kind, text in texts.items():
        used, code = deviceless.assemble(text, folder)
        counts = executed(code, trips[kind])
        each = {key: value / (length * n) for key, value in counts.items()}
        total = sum(each.values())
        pipes = {
            "issue": total / 128,
            "exponentials": each["MUFU"] / 16,
            "shared memory": (each["LDS"] + each.get("STS", 0.0) + wide_passes(kind)) / 32,
        }
        seconds = {pipe: clocks * elements / (PROCESSORS * CLOCK) for pipe, clocks in pipes.items()}
        seconds["memory"] = b * length * moved[kind] / MEMORY
        bound = max(seconds, key=lambda pipe: seconds[pipe])
        blocks = 65536 // (-(-used["registers"] // 8) * 8 * 128)
        table[kind] = {
            "instructions_per_element": round(total, 2),
            **used,
            "warps_per_sm": 4 * blocks,
            "atomics": int(sum(count for key, count in counts.items() if key in ("ATOM", "ATOMG", "RED"))),
            "bound_by": bound,
            "modelled_ms": {SHAPE: round(1e3 * seconds[bound], 3)},
            "modelled_speedup": {SHAPE: round(MAMBA_MS[kind] / (1e3 * seconds[bound]), 2)},
        }
    return {"hopper": table, "jax": jax.__version__}


def main() -> None:
    """Prints the table and, where asked, records it."""
    parser = argparse.ArgumentParser(description="Counts the Hopper kernels' instructions.")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name} beside the benchmarks")
    options = parser.parse_args()
    results = measure()
    text = json.dumps(results, indent=2)
    print(text)
    if options.record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()

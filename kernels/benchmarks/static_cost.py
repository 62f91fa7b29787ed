"""What the Hopper kernels cost, counted from their machine code: `python -m benchmarks.static_cost [--record]`.

Every instruction of the whole kernel counts as often as the loops round it run: prologue, softplus, the last, shorter
chunk. Divided by the l n elements of a thread's channel that gives thread-instructions an element (b, l, d, n); where
parts of a block share a channel, all of them count. Waiting for a copy is counted once. "forward" is the call alone,
"forward_for_gradients" also writes the state at every 16th step, which "backward" reads.

The model is the slowest of the pipes at 1.755 GHz on 132 multiprocessors: 128 instructions issued, 16 exponentials and
32 lanes of shared memory a clock (128-bit accesses that differ from lane to lane take four), and 3.35 TB/s. It knows no
latency, as mamba_ssm's numbers (`mamba_ssm_cost.py`) do not. Where a call has no more blocks than the chip has
multiprocessors, that would flatter: there a multiprocessor's warps are also followed instruction by instruction
(`issue_model.py`), and the slower of both counts. For the other shapes that time stands beside the model's, as
`modelled_milliseconds_with_latency`.
"""

import argparse
import collections
import json
import pathlib
from collections.abc import Sequence

from benchmarks import deviceless, issue_model, mamba_ssm_cost, sass

RESULTS = pathlib.Path(__file__).parent / "results"
SHAPE = "ours_121"
"""The shape that the bars are about, and the first; the others are modelled for their time alone."""
MODELLED = (SHAPE, "lm_2048", "lm_8192")
KINDS = ("forward", "forward_for_gradients", "backward")
CLOCK, PROCESSORS, MEMORY = 1.755e9, 132, 3.35e12
SHARED_MEMORY = 228 * 1024
RESERVED = 1024
"""Bytes of shared memory that the system takes a block."""


def reckoned(kind: str, plan) -> list[int]:
    """How often the loops of a kernel run."""
    from bdgf_kernels.selective_scan import channel_sums
    from bdgf_kernels.selective_scan.mosaic_gpu_plan import CHUNK

    whole, rest = divmod(plan.length, CHUNK)
    if kind == "backward":
        turns = plan.states // plan.parts // (channel_sums.STATES * channel_sums.TURNS)
        return [*([turns] if rest else []), whole, turns]

    def segment(count):
        if not plan.by_chunk(kind == "forward_for_gradients"):
            return [count // plan.unroll - 1]
        whole, rest = divmod(count, CHUNK)
        return [whole, CHUNK // plan.unroll, rest // plan.unroll - 1]

    full, last = plan.staged * CHUNK, plan.length - (plan.segments - 1) * plan.staged * CHUNK
    return [plan.segments - 1, *(segment(full) if plan.segments > 1 else []), *segment(last)]


def compiled(shape: str) -> dict[str, tuple]:
    """Compiles the kernels for a shape, bfloat16 with softplus, bias and D; returns PTX and plan by kind."""
    import jax
    from bdgf_kernels.selective_scan import mosaic_gpu
    from bdgf_kernels.selective_scan.call import Options
    from bdgf_kernels.selective_scan.shapes import SHAPES

    b, length, d, n, _ = SHAPES[shape]
    scan, gradients, arguments = deviceless.counted_call(shape, "mosaic_gpu", deviceless.hopper())
    rows = arguments[0]
    (alone,) = deviceless.kernels_of(scan, arguments)
    both = deviceless.kernels_of(gradients, (rows, *arguments))
    # Only the backward kernel adds up over the channels of a warp, whose threads it has to wait for.
    with_boundaries, backward = sorted(both, key=lambda text: "bar.warp.sync" in text)
    texts = {"forward": alone, "forward_for_gradients": with_boundaries, "backward": backward}
    A = jax.ShapeDtypeStruct((1, n, d), "float32")
    B = jax.ShapeDtypeStruct((length, 1, b, 1, n), rows.dtype)
    plan = mosaic_gpu.planned(Options(), True, None, rows, A, B)
    return {kind: (text, plan) for kind, text in texts.items()}


def moved(kind: str, plan) -> float:
    """Bytes of a sequence's step: bfloat16 rows, float32 B and C, a state each 16 steps, half warps' sums of dB, dC."""
    d, n = plan.channels, plan.states
    shared, boundaries, sums = 2 * 4 * n, 4 * n * d / 16, 8 * n * d / 16
    return {
        "forward": 3 * 2 * d + shared,
        "forward_for_gradients": 3 * 2 * d + shared + boundaries,
        "backward": 5 * 2 * d + shared + boundaries + sums,
    }[kind]


def costs(kind: str, text: str, plan, folder: pathlib.Path) -> dict:
    """Counts a kernel and models its time."""
    from bdgf_kernels.selective_scan import mosaic_gpu_backward, mosaic_gpu_forward
    from bdgf_kernels.selective_scan.mosaic_gpu_plan import bytes_of

    used, code = deviceless.assemble(text, folder)
    steps = issue_model.marked(sass.trace(code, reckoned(kind, plan)))
    counts = collections.Counter(map(sass.name, steps))
    parts = plan.parts if kind == "backward" else 1
    each = {operation: count * parts / (plan.length * plan.states) for operation, count in counts.items()}
    passes = sum(issue_model.passes(step) for step in steps if sass.name(step) in ("LDS", "STS"))
    shared = bytes_of((mosaic_gpu_backward if kind == "backward" else mosaic_gpu_forward).shared(plan))

    fitting = (
        65536 // (-(-used["registers"] // 8) * 8 * 128 * parts),
        SHARED_MEMORY // (shared + RESERVED),
        64 // (4 * parts),
    )
    resident, blocks = min(fitting), plan.batch * len(plan.orders) * plan.channels // 128
    # Of the chip, only processors that have a block count.
    busy = min(PROCESSORS, blocks)
    elements = plan.batch * plan.length * plan.channels * plan.states
    clocks = {
        "issue": sum(each.values()) / 128,
        "exponentials": each["MUFU"] / 16,
        "shared memory": passes * parts / (plan.length * plan.states) / 32,
    }
    seconds = {pipe: clock * elements / (busy * CLOCK) for pipe, clock in clocks.items()}
    seconds["memory"] = plan.batch * plan.length * moved(kind, plan) / MEMORY
    together = min(resident, -(-blocks // PROCESSORS))
    followed = issue_model.clocks(steps, together * parts) / CLOCK * max(1.0, blocks / (PROCESSORS * together))
    if blocks <= PROCESSORS:
        seconds["latency"] = followed
    bound = max(seconds, key=lambda pipe: seconds[pipe])
    return {
        "instructions_per_element": round(sum(each.values()), 2),
        **used,
        "warps_per_sm": 4 * parts * resident,
        "shared_memory_bytes": shared,
        "atomics": sum(count for key, count in counts.items() if key in ("ATOM", "ATOMG", "ATOMS", "RED")),
        "bound_by": bound,
        "milliseconds": round(1e3 * seconds[bound], 4),
        "milliseconds_with_latency": round(1e3 * followed, 4),
    }


def measure(shapes: Sequence[str]) -> dict[str, dict]:
    """Counts the three kernels: in full for an 11 x 11 patch, and their modelled times for every shape."""
    folder = deviceless.tools()
    if folder is None:
        raise SystemExit("This needs jax-cuda13-plugin, jax-cuda13-pjrt and nvidia-cuda-nvcc, -nvdisasm, nvidia-nvvm.")
    deviceless.prepare(folder)
    table = {kind: {} for kind in KINDS}
    for shape in shapes:
        for kind, (text, plan) in compiled(shape).items():
            row = costs(kind, text, plan, folder)
            times = {key: row.pop(key) for key in ("milliseconds", "milliseconds_with_latency")}
            entry = table[kind]
            if shape == SHAPE:
                entry |= row
            else:
                entry.setdefault("other_shapes", {})[shape] = row
            for key, value in times.items():
                entry.setdefault(f"modelled_{key}", {})[shape] = value
            ratio = mamba_ssm_cost.MILLISECONDS[shape][kind] / times["milliseconds"]
            entry.setdefault("modelled_speedup", {})[shape] = round(ratio, 3)
    return table


def print_table(table: dict[str, dict]) -> None:
    """Prints a line for every kernel and shape, and mamba_ssm's beneath."""
    line = "{:<22} {:<10} {:>12} {:>9} {:>8} {:>6} {:>8} {:>15} {:>9} {:>9}".format
    titles = ("instructions", "registers", "warps/SM", "spills", "shared", "bound by", "model ms", "speed-up")
    print(line("kernel", "shape", *titles))
    for kind, entry in table.items():
        for shape in entry["modelled_speedup"]:
            row = entry if shape == SHAPE else entry["other_shapes"][shape]
            numbers = (row["registers"], row["warps_per_sm"], row["spill_bytes"], row["shared_memory_bytes"])
            times = (entry["modelled_milliseconds"][shape], entry["modelled_speedup"][shape])
            print(line(kind, shape, row["instructions_per_element"], *numbers, row["bound_by"], *times))
            peer = mamba_ssm_cost.INSTRUCTIONS[shape][kind], mamba_ssm_cost.MILLISECONDS[shape][kind]
            print(line("  mamba_ssm", "", peer[0], *[""] * 5, peer[1], ""))


def draw(table: dict[str, dict]) -> None:
    """Draws instructions an element and modelled times beside mamba_ssm's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 3.6), layout="constrained")
    bars = [(kind, shape) for shape in MODELLED for kind in ("forward", "backward")]
    places = range(len(bars))
    row = lambda kind, shape: table[kind] if shape == SHAPE else table[kind]["other_shapes"][shape]
    panels_of = (
        (lambda *bar: row(*bar)["instructions_per_element"], mamba_ssm_cost.INSTRUCTIONS, "instructions an element"),
        (lambda kind, shape: table[kind]["modelled_milliseconds"][shape], mamba_ssm_cost.MILLISECONDS, "modelled ms"),
    )
    for panel, (ours, theirs, label) in zip(panels, panels_of):
        values = [theirs[shape][kind] for kind, shape in bars], [ours(*bar) for bar in bars]
        for side, (name_, color, heights) in enumerate(zip(("mamba_ssm", "mosaic_gpu"), ("0.7", "C2"), values)):
            drawn = panel.bar([x + 0.4 * side - 0.2 for x in places], heights, 0.4, color=color, label=name_)
            panel.bar_label(drawn, fmt="%.3g", fontsize=8)
        panel.set_xticks(list(places), [f"{kind}\n{shape}" for kind, shape in bars], fontsize=8)
        panel.set_ylabel(label)
        panel.margins(y=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.suptitle("Counted from the machine code for an H100; no time was measured", fontsize=10)
    figure.savefig(RESULTS / "static_cost.png", dpi=150)


def main() -> None:
    """Prints the table and, where asked, records it."""
    parser = argparse.ArgumentParser(description="Counts what the Hopper kernels cost.")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON instead of a table")
    parser.add_argument("--record", action="store_true", help="write them, and a figure, to benchmarks/results")
    parser.add_argument("--shapes", nargs="+", default=MODELLED, choices=MODELLED, help="fewer, and sooner done")
    options = parser.parse_args()
    if options.record and tuple(options.shapes) != MODELLED:
        parser.error("--record wants all shapes")
    table = measure(options.shapes)
    if options.json:
        print(json.dumps(table, indent=2))
    else:
        print_table(table)
    if options.record:
        deviceless.record({"hopper": table})
        draw(table)


if __name__ == "__main__":
    main()

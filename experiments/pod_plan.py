"""What a pod would do: both trainings and prediction compiled for chips that are not there, and their rooflines.

    PYTHONPATH=.venv/3.12/compilers python experiments/pod_plan.py --out FILE.json --plot FILE.png

`pod_programs.py` counts what a program asks of a chip; this adds what the chip can do, and what follows. Nothing here
was timed. The model, a chip's step at a fixed batch a chip (weak scaling):

    alone = max(FLOPs / peak, bytes / bandwidth) + scan,    step = alone + collectives.

- FLOPs and bytes are XLA's for the compiled program; bytes count what every fusion reads and writes, so that a value
  which stays in fast memory is counted too, and the memory bound is an upper one.
- The scan's kernels are counted instead of modelled by XLA (`kernels/benchmarks/results/static_cost.json`): on TPUs
  bundles of the final schedule, one a clock, for registers of 8 channels by 128 samples; on Hopper the modelled time
  an element with every latency counted, channels in blocks of 128. They are added, as if nothing ran beside them.
- An all-reduce of B bytes among n takes 2 (n-1)/n B / link (ring or torus, every link busy), others half of that; the
  link is half of the vendor's figure, which adds up both directions; and a microsecond a hop, there and back along each
  axis of a square torus.
- efficiency = alone / (alone + collectives), as if none of them ran beside arithmetic; `efficiency_with_overlap` hides
  them behind the backward pass, two thirds of the step. Stragglers and input are not modelled.
- A batch saturates a chip where what does not grow with it, the optimiser's 11 passes over the parameters and the
  collectives, is a tenth of the step.

Peaks are the vendors' published figures, dense bfloat16. A TPU's clock follows from its peak and its multipliers (v5e:
4 of 128 × 128); v6e's is inferred and may be off by two, which only the scan's share depends on.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax.run import read_json, write_json
from experiments.pod_programs import HOPPER, PREDICTION, TRAININGS

ROOT = pathlib.Path(__file__).parent.parent
STATIC_COST = ROOT / "kernels/benchmarks/results/static_cost.json"
PLANNED = {
    "v5e-8": TRAININGS,
    "v5e-256": TRAININGS,
    "v6e-8": TRAININGS,
    HOPPER: (*TRAININGS, *PREDICTION),
    "v5e-1": PREDICTION,
    "v6e-1": PREDICTION,
}
PASSES = 11
"""Of the optimiser over float32 vectors: parameters, average and two moments read and written, the gradient thrice."""
HOP = 1e-6
"""Seconds from a chip to its neighbour, an assumption."""
SATURATED = 0.9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks: FLOPs a second in bfloat16, bytes a second of memory and of all links, memory, clock in Hz."""

    flops: float
    memory: float
    links: float
    capacity: float
    clock: float


CHIPS = {
    "v5e": Chip(197e12, 819e9, 1600e9 / 8, 16e9, 197e12 / (4 * 128**2 * 2)),
    "v6e": Chip(918e12, 1640e9, 3584e9 / 8, 32e9, 918e12 / (4 * 256**2 * 2)),
    "h100": Chip(989e12, 3.35e12, 900e9, 80e9, 1.755e9),
}
"""Google Cloud's documentation of TPU v5e and v6e; NVIDIA's data sheet of the H100 SXM."""


def main() -> int:
    """Compiles what is asked for, writes the plan after each program and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=list(PLANNED), choices=PLANNED, metavar="TARGET")
    parser.add_argument("--programs", nargs="*", default=[*TRAININGS, *PREDICTION], metavar="PROGRAM")
    parser.add_argument("--label", default="", help="keeps these beside the plan, as `program (label)`")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.png")
    options, overrides = parser.parse_known_args()
    for target in options.targets:
        for program in [program for program in PLANNED[target] if program in options.programs]:
            counts = compiled_elsewhere(target, program, overrides)
            name = f"{program} ({options.label})" if options.label else program
            plan = read_json(options.out)  # which others may have written to meanwhile
            plan.setdefault(target, {})[name] = {"overrides": overrides} | estimate(target, program, counts)
            write_json(options.out, plan)
    plan = read_json(options.out)
    print(table(plan))
    if options.plot:
        plot(plan, options.plot)
    return 0


def compiled_elsewhere(target: str, program: str, overrides: list[str]) -> dict[str, Any]:
    """The counts of a program, which a process of its own compiles.

    Raises:
      SystemExit: it failed; says why.
    """
    print(f"compiling {program} for {target} …", file=sys.stderr, flush=True)
    command = [sys.executable, str(ROOT / "experiments/pod_programs.py"), target, program, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"pod_plan: {program} for {target} was not compiled:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def estimate(target: str, program: str, counts: dict[str, Any]) -> dict[str, Any]:
    """The counts of a chip's part, and what follows from them by the model above."""
    generation = target.split("-")[0]
    chip, batch = CHIPS[generation], counts["batch_per_chip"]
    parts = {"compute": counts["flops"] / chip.flops, "memory": counts["bytes"] / chip.memory}
    parts["scan"] = scan_seconds(generation, program, counts["scan"]) if counts["scan"] else 0.0
    alone = max(parts["compute"], parts["memory"]) + parts["scan"]
    talk = sum(collective_seconds(one["kind"], one["bytes"], one["devices"], chip) for one in counts["collectives"])
    unhidden = max(0.0, talk - 2 / 3 * alone)
    fixed = PASSES * 4 * counts["parameters"] / chip.memory if program in TRAININGS else 0.0
    each = (alone - min(fixed, alone / 2)) / batch
    step = alone + talk
    return counts | {
        "collective_bytes": sum(one["bytes"] for one in counts["collectives"]),
        "flops_per_byte": counts["flops"] / counts["bytes"],
        "flops_per_byte_at_the_ridge": chip.flops / chip.memory,
        "seconds": parts | {"collectives": talk},
        "step_seconds": step,
        "bound": max(parts, key=lambda part: parts[part]),
        "per_second_per_chip": batch / step,
        "saturating_batch_per_chip": math.ceil((fixed + talk) / each * SATURATED / (1 - SATURATED)),
        "efficiency": alone / step,
        "efficiency_with_overlap": alone / (alone + unhidden),
        "share_of_memory": counts["bytes_per_chip"] / chip.capacity,
    }


def scan_seconds(generation: str, program: str, scan: dict[str, int]) -> float:
    """The kernels of all selective scans of a step, from their counted instructions."""
    counted = json.loads(STATIC_COST.read_text())
    kinds = ("forward_for_gradients", "backward") if program == "train" else ("forward",)
    times = scan["calls"] * scan["directions"] * scan["l"] * scan["n"]
    if generation == "h100":
        elements = times * scan["b"] * math.ceil(scan["d"] / 128) * 128
        measured = [counted["hopper"][kind]["modelled_milliseconds_with_latency"]["ours_121"] for kind in kinds]
        return elements * sum(measured) * 1e-3 / (1024 * 121 * 128 * 16)
    registers = times * math.ceil(scan["d"] / 8) * math.ceil(scan["b"] / 128)
    bundles = sum(counted[generation][kind]["bundles_per_register_step_bfloat16"] for kind in kinds)
    return registers * bundles / CHIPS[generation].clock


def collective_seconds(kind: str, size: int, devices: int, chip: Chip) -> float:
    """One collective whose result has `size` bytes, among so many devices."""
    if devices == 1:
        return 0.0
    passes = 2.0 if kind == "all-reduce" else 1.0
    hops = passes * 2 * math.ceil(math.sqrt(devices) - 1)
    return passes * (devices - 1) / devices * size / (chip.links / 2) + hops * HOP


def table(plan: dict[str, dict[str, Any]]) -> str:
    """The plan as Markdown, a line for each program and target."""
    lines = [
        "| target | program | batch a chip | GB a chip | GFLOP | GB moved | FLOP/B (ridge) | collectives, MB | step, ms"
        " | bound | saturates at | efficiency (overlapped) |",
        "|" + " --- |" * 12,
    ]
    for target, programs in plan.items():
        for program, row in programs.items():
            cells = [
                target,
                program,
                f"{row['batch_per_chip']} {row['unit']}",
                f"{row['bytes_per_chip'] / 1e9:.2f}",
                f"{row['flops'] / 1e9:,.0f}",
                f"{row['bytes'] / 1e9:.1f}",
                f"{row['flops_per_byte']:.0f} ({row['flops_per_byte_at_the_ridge']:.0f})",
                f"{row['collective_bytes'] / 1e6:.1f}",
                f"{1e3 * row['step_seconds']:.2f}",
                row["bound"],
                str(row["saturating_batch_per_chip"]) if program.split(" ")[0] in TRAININGS else "",
                f"{row['efficiency']:.1%} ({row['efficiency_with_overlap']:.1%})" if row["chips"] > 1 else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(plan: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
    """Where the time of a step goes, a bar for each training and target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [
        (f"{target}\n{program.replace(' (', chr(10) + '(')}", row)
        for target, programs in plan.items()
        for program, row in programs.items()
        if program.split(" ")[0] in TRAININGS
    ]
    figure, axes = pyplot.subplots(figsize=(1.1 * len(rows) + 2.4, 4.4), layout="constrained")
    parts = {"compute": "C0", "memory": "C1", "scan": "C2", "collectives": "C3"}
    for index, (part, colour) in enumerate(parts.items()):
        places = [place + 0.2 * index - 0.3 for place in range(len(rows))]
        axes.bar(places, [1e3 * row["seconds"][part] for _, row in rows], 0.2, color=colour, label=part)
    steps = [1e3 * row["step_seconds"] for _, row in rows]
    axes.hlines(steps, [i - 0.4 for i in range(len(rows))], [i + 0.4 for i in range(len(rows))], "0.3", label="step")
    axes.set_xticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_ylabel("milliseconds by the roofline")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Compiled for chips that were not there; nothing was timed", fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())

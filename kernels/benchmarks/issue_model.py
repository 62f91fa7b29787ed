"""How long a multiprocessor takes for a few resident warps: their machine code, issued in order, with latencies.

Counting instructions assumes that there is always a warp that can issue. A language model's shape leaves a scheduler one
or two, which wait for what they have asked for. Here a scheduler issues one instruction a clock, from the warp that can
go first; an instruction can go once its registers are there and its pipe is free. What each assumption costs is in the
tables below: clocks that a warp's instruction keeps a scheduler's quarter of a pipe, and clocks until its result is
there. Latencies are those of the microbenchmarks of Luo et al., 2024, arXiv 2402.13499, rounded up; a global load always
misses the caches. Bandwidth of memory, the number of loads under way, and clashes of registers' banks are left out.
"""

import re
from collections.abc import Sequence

PIPES = {
    "MUFU": ("exponentials", 8),
    "LDS": ("shared memory", 4),
    "STS": ("shared memory", 4),
    "SHFL": ("shared memory", 4),
    "LDG": ("memory", 4),
    "STG": ("memory", 4),
    **{name: ("integers", 2) for name in ("IADD3", "SHF", "LOP3", "LEA", "ISETP", "SEL", "PRMT", "FMNMX", "F2FP")},
}
"""By operation: its pipe, and the clocks for the 32 lanes; all others take the FP32 pipe for one."""
LATENCY = {"MUFU": 24, "LDS": 32, "LDG": 700, "SHFL": 32, "BAR": 32, "SYNCS": 32}
"""Clocks until the result is there; all others take 5."""
NO_RESULT = {"STG", "STS", "BRA", "EXIT", "NOP", "BAR", "WARPSYNC", "BSYNC", "MEMBAR", "SYNCS", "UTMALDG", "UBLKCP"}


def registers(operand: str, width: int) -> list[str]:
    """Names the registers and predicates in an operand; the widest reading of a vector."""
    found = []
    for kind, number, pair in re.findall(r"\b(UR|R|UP|P)(\d+)(?:\.\w+)*?(\.64)?", operand):
        count = max(width, 2 if pair else 1) if kind in ("R", "UR") else 1
        found += [f"{kind}{int(number) + i}" for i in range(count)]
    return found


def parsed(instruction: str, wide: float = 1.0) -> tuple[str, int, int, list[str], list[str]]:
    """Reads an instruction: its pipe, clocks there, clocks until its result, what it reads and what it writes."""
    guard = re.match(r"@!?(U?P\d+)\s+", instruction)
    text = re.sub(r"^@!?U?P\w+\s+", "", instruction)
    operation, _, rest = text.partition(" ")
    name = operation.split(".")[0]
    operands = [x for x in rest.split(",") if x.strip()]
    width = 4 if ".128" in operation else 2 if ".64" in operation or ".WIDE" in operation else 1
    written, read = [], [guard.group(1)] if guard else []
    data = name in ("STG", "STS")
    for i, operand in enumerate(operands):
        predicate = re.match(r"\s*U?P[\dT]+\s*$", operand) and i < 2
        if name not in NO_RESULT and (i == 0 or predicate):
            written += registers(operand, width if i == 0 else 1)
        else:
            read += registers(operand, width if data and "[" not in operand else 1)
    pipe, clocks = PIPES.get(name, ("arithmetic", 1))
    return pipe, round(clocks * wide), LATENCY.get(name, 5), read, written


def clocks(trace: Sequence[tuple[str, float]], warps: int) -> int:
    """Returns the clocks that a scheduler takes for some warps with one trace each.

    Args:
      trace: the instructions that a warp executes in order, each with how many times its pipe's usual clocks it takes.
      warps: how many are resident on the scheduler.
    """
    known: dict[tuple[str, float], tuple] = {}
    program = [known.setdefault(step, parsed(*step)) if step not in known else known[step] for step in trace]
    ready: list[dict[str, int]] = [{} for _ in range(warps)]
    free: dict[str, int] = {}
    at, next_issue, now = [0] * warps, [0] * warps, 0

    def can_go(warp):
        pipe, _, _, read, written = program[at[warp]]
        there = ready[warp]
        return max(next_issue[warp], free.get(pipe, 0), *(there.get(x, 0) for x in (*read, *written)), 0)

    active = list(range(warps))
    times = [can_go(warp) for warp in active]
    while active:
        warp = min(active, key=lambda w: (max(times[w], now), w))
        start = max(can_go(warp), now)
        if start > max(times[warp], now):
            times[warp] = start
            continue
        pipe, busy, latency, _, written = program[at[warp]]
        for name in written:
            ready[warp][name] = start + latency
        free[pipe] = start + busy
        now = start + 1
        waits = latency if not written and latency > 5 else 1
        next_issue[warp] = start + waits
        at[warp] += 1
        if at[warp] == len(program):
            active.remove(warp)
        else:
            times[warp] = can_go(warp)
    return now

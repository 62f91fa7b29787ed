"""How long a multiprocessor takes for a few resident warps: their machine code, issued in order, with latencies.

Counting instructions assumes that there is always a warp that can issue. A language model's shape leaves a scheduler
one warp or two, which wait for what they have asked for. Here a scheduler issues one instruction a clock, going on with
a warp as long as that can go, else with the youngest that can. A warp goes in order: its next instruction needs its
registers there, and room at its pipe, where four may be under way or wait. The tables say for how many clocks an
instruction takes a scheduler's quarter of its pipe, and after how many its result is there.

Assumptions: 4 clocks for arithmetic (Jia et al., 2018, arXiv 1804.06826), 32 for shared memory and 700 for every load
from memory, as if nothing were in a cache (measured: 29 and below 700; Luo et al., 2024, arXiv 2402.13499), 24 for
exponentials. Left out: the bandwidth of memory, clashes of registers' banks, fetching of instructions.
"""

import collections
import re
from collections.abc import Sequence

HALF_RATE = ("IADD3", "SHF", "LOP3", "LEA", "ISETP", "SEL", "PRMT", "FMNMX", "F2FP")
PIPES = {
    "MUFU": ("exponentials", 8),
    **dict.fromkeys(("LDS", "STS", "SHFL"), ("shared memory", 4)),
    **dict.fromkeys(("LDG", "STG"), ("memory", 4)),
    **dict.fromkeys(HALF_RATE, ("integers", 2)),
}
"""By operation: its pipe, and the clocks that 32 lanes take there; all others take the FP32 pipe for one."""
USUAL = 4
LATENCY = {"MUFU": 24, "LDS": 32, "LDG": 700, "SHFL": 32, "BAR": 32, "SYNCS": 32}
"""Clocks until the result is there; all others take the usual."""
QUEUED = 4
"""Instructions that may be under way at a pipe or wait for it, before the next for that pipe holds its warp up."""
MEETING = "SYNCS.ARRIVE.TRANS64.A1T0"
"""How a warp says that it has come to where all parts of its block meet; it waits for the others there."""
NO_RESULT = {
    *("STG", "STS", "BRA", "EXIT", "NOP", "BAR", "WARPSYNC", "BSYNC", "MEMBAR"),
    *("SYNCS", "UTMALDG", "UBLKCP", "NANOSLEEP"),
}


DIFFERS = " from lane to lane"
"""Marks a read whose address is not the same for all lanes."""


def marked(trace: Sequence[str]) -> list[str]:
    """Marks the wide reads of shared memory whose address depends on the thread, followed from its index on."""
    known = {instruction: parsed(instruction) for instruction in set(trace)}
    own: set[str] = set()
    result = []
    for instruction in trace:
        *_, read, written = known[instruction]
        depends = any(x in own for x in read)
        result.append(instruction + DIFFERS if "LDS.128" in instruction and depends else instruction)
        if "SR_TID" in instruction or "SR_LANEID" in instruction or re.search(r"\b(LDG|LDS)\.", instruction):
            depends = True
        elif "SHFL.IDX" in instruction or instruction.startswith("@"):
            # One lane's value for all; or perhaps not written, so that what was there stays.
            depends = depends and "SHFL.IDX" not in instruction
            if instruction.startswith("@") and not depends:
                continue
        (own.update if depends else own.difference_update)(written)
    return result


def passes(instruction: str) -> int:
    """How often 32 lanes use their shared memory: 128 bits a lane take four times, unless all lanes read the same."""
    return 4 if "STS.128" in instruction or instruction.endswith(DIFFERS) else 1


def registers(operand: str, width: int) -> list[str]:
    """Names the registers and predicates in an operand; the widest reading of a vector."""
    found = []
    for kind, number, pair in re.findall(r"\b(UR|R|UP|P)(\d+)(?:\.\w+)*?(\.64)?", operand):
        count = max(width, 2 if pair else 1) if kind in ("R", "UR") else 1
        found += [f"{kind}{int(number) + i}" for i in range(count)]
    return found


def parsed(instruction: str) -> tuple[str, int, int, list[str], list[str]]:
    """Reads an instruction: its pipe, clocks there, clocks until its result, what it reads and what it writes."""
    guard = re.match(r"@!?(U?P\d+)\s+", instruction)
    text = re.sub(r"^@!?U?P\w+\s+", "", instruction)
    operation, _, rest = text.partition(" ")
    name = operation.split(".")[0]
    rest = rest.removesuffix(DIFFERS)
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
    latency = USUAL if name == "SYNCS" and (guard or "ARRIVE" in operation) else LATENCY.get(name, USUAL)
    return pipe, clocks * passes(instruction), latency, read, written


def clocks(trace: Sequence[str], warps: int) -> int:
    """Returns the clocks that a scheduler takes for some warps, each with the same trace.

    Args:
      trace: the instructions that a warp executes, in order.
      warps: how many are resident on the scheduler.
    """
    known = {instruction: parsed(instruction) for instruction in set(trace)}
    program = [known[instruction] for instruction in trace]
    meets = [MEETING in instruction for instruction in trace]
    ready: list[dict[str, int]] = [{} for _ in range(warps)]
    queues: dict[str, collections.deque[int]] = {}
    at, free, meetings = [0] * warps, [0] * warps, [0] * warps
    now = last = 0

    def can_go(warp):
        pipe, _, _, read, written = program[at[warp]]
        there, queue = ready[warp], queues.get(pipe, ())
        room = queue[0] if len(queue) == QUEUED else 0
        return max(free[warp], room, *(there.get(x, 0) for x in read), *(there.get(x, 0) for x in written), now)

    active = list(range(warps))
    while active:
        waiting = [w for w in active if meetings[w] == min(meetings[v] for v in active)]
        start, _, warp = min((can_go(w), w != last, -w) for w in waiting)
        last = warp = -warp
        pipe, busy, latency, _, written = program[at[warp]]
        queue = queues.setdefault(pipe, collections.deque(maxlen=QUEUED))
        begins = max(start, queue[-1] if queue else 0)
        queue.append(begins + busy)
        for name in written:
            ready[warp][name] = begins + latency
        now = start + 1
        free[warp] = start + (latency if not written and latency > USUAL else 1)
        meetings[warp] += meets[at[warp]]
        at[warp] += 1
        if at[warp] == len(program):
            active.remove(warp)
    return max(now, *(queue[-1] for queue in queues.values()))

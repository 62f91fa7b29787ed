"""NVIDIA's machine code as `nvdisasm` writes it: instructions, loops, and what a thread runs of them."""

import re


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


def trace(code: list[str], trips: list[int]) -> list[str]:
    """Writes out the instructions that a thread runs, loops as often as they run.

    Args:
      code: the disassembly.
      trips: how often each loop runs, in the order in which the loops begin, an outer before an inner one.

    Raises:
      RuntimeError: the compiler made other loops than were reckoned with, so the count would be wrong.
    """
    found, labels = instructions(code)
    spans = [(start, -end) for start, end in loops(found, labels)]
    trips = [count for count in trips if count > 1]
    if len(spans) != len(trips):
        raise RuntimeError(f"The machine code has {len(spans)} loops, {len(trips)} were reckoned with.")
    counts = dict(zip(sorted(spans), trips))

    def unrolled(first, last, inside):
        at, result = first, []
        while at <= last:
            here = sorted(span for span in counts if span[0] == at and span not in inside and -span[1] <= last)
            if here:
                result += unrolled(at, -here[0][1], (*inside, here[0])) * counts[here[0]]
                at = -here[0][1] + 1
            else:
                result.append(found[at])
                at += 1
        return result

    return unrolled(0, max(i for i, text in enumerate(found) if name(text) == "EXIT"), ())

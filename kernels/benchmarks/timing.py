"""How the benchmarks take times: of calls after a warm-up, with inputs that no cache still holds, one after the other.

Programs that are compared take turns, a timed run each, so that whatever else a machine does slows all of them alike.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

PAST_CACHES = 128 * 2**20
"""Bytes of inputs to go through before any is used again: more than an H100's L2 holds, or most last-level caches."""
MOST_COPIES = 32

Timer = Callable[[int], float]
"""Makes one timed run, the i-th; returns the time of a call in ms."""


def copies(given: Any) -> list[Any]:
    """Copies a call's arguments until they are past the caches together, or there are many of them."""
    size = sum(x.nbytes for x in jax.tree.leaves(given))
    count = min(MOST_COPIES, -(-PAST_CACHES // size) + 1)
    return [given, *(jax.tree.map(lambda x: x.copy(), given) for _ in range(count - 1))]


def rotated(inputs: Sequence[Any], turn: int, calls: int) -> list[Any]:
    """Returns the inputs of a timed run's calls; runs go on where the one before stopped."""
    return [inputs[(turn * calls + i) % len(inputs)] for i in range(calls)]


def timer(run: Callable[[Any], Any], inputs: Sequence[Any], calls: int) -> Timer:
    """Times a program of ours: its calls are all handed to the device, then waited for."""

    def milliseconds(turn):
        given = rotated(inputs, turn, calls)
        start = time.perf_counter()
        results = [run(x) for x in given]
        jax.block_until_ready(results)
        return 1e3 * (time.perf_counter() - start) / calls

    return milliseconds


def interleaved(timers: dict[str, Timer], repeats: int) -> dict[str, list[float]]:
    """Runs `repeats` rounds, in which every timer has a run that warms up and one that counts.

    A run right after another program's would pay for the memory that it gave back and the caches that it emptied.
    """
    times = {name: [] for name in timers}
    for turn in range(repeats):
        for name, run in timers.items():
            run(2 * turn)
            times[name].append(run(2 * turn + 1))
    return times


def quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper one."""
    if len(times) < 2:
        return times[0], times[0], times[0]
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return lower, median, upper

"""Measures the numbers that a kernel runs with and records the fastest: `python -m benchmarks.tune --shapes ours_121`.

For an implementation with `candidates(sizes)`, every choice is timed, forward and backward together, on the device at
hand; each has to give the reference's outputs and gradients first. All raw times go, with the choice, to the package's
data for this kind of device (`tuning.py`), which calls then read by default. `--interpret` rehearses two choices on
tiny sizes without a GPU and records nothing.
"""

import argparse
import json
import statistics

import jax
import jax.numpy as jnp
from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import tuning
from bdgf_kernels.selective_scan.call import Sizes
from bdgf_kernels.selective_scan.choice import IMPLEMENTATIONS
from bdgf_kernels.selective_scan.shapes import SHAPES

from benchmarks import selective_scan as benchmark
from benchmarks import timing


def timed(given: dict, wanted: tuple, name: str, repeats: int) -> list[float]:
    """Checks a choice, and returns the times of both passes together, in ms, after one that warms up."""
    programs = benchmark.passes(name)
    got = jax.tree.map(benchmark.in_float32, programs["forward+backward"](given))
    benchmark.check(f"{name} with a choice", got, wanted, given["u"].dtype.name)
    inputs = timing.copies(given)
    calls = benchmark.calls_of(given)
    run = timing.timer(programs["forward+backward"], inputs, calls)
    return timing.interleaved({name: run}, repeats)[name]


def tune(name: str, given: dict, repeats: int, most: int | None = None) -> dict:
    """Times every candidate for a call, or the first few; returns a row of the package's data."""
    b, length, d = given["u"].shape
    size = Sizes(b, length, d, 1, 1, given["A"].shape[1])
    wanted, times = benchmark.truth(given), []
    for choice in IMPLEMENTATIONS[name].candidates(size)[:most]:
        with tuning.trying(choice):
            times.append({"choice": choice, "milliseconds": [round(x, 4) for x in timed(given, wanted, name, repeats)]})
        print(choice, statistics.median(times[-1]["milliseconds"]), flush=True)
    best = min(times, key=lambda row: statistics.median(row["milliseconds"]))
    return {"sizes": size._asdict(), "choice": best["choice"], "times": times}


def record(name: str, rows: list[dict]) -> None:
    """Adds rows to the package's data, in place of those for the same sizes."""
    file = tuning.path(str(compatibility.accelerator()))
    table = json.loads(file.read_text()) if file.exists() else {}
    new = [row["sizes"] for row in rows]
    table[name] = [row for row in table.get(name, []) if row["sizes"] not in new] + rows
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(table, indent=2) + "\n")


def main() -> None:
    """Tunes the shapes that are named."""
    tunable = [name for name, module in IMPLEMENTATIONS.items() if hasattr(module, "candidates")]
    parser = argparse.ArgumentParser(description="Times a kernel's choices and records the fastest.")
    parser.add_argument("--implementation", choices=tunable, default=tunable[0])
    parser.add_argument("--shapes", nargs="+", default=["ours_49", "ours_121", "ours_289"], choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--interpret", action="store_true", help="tiny sizes, interpreted; nothing is recorded")
    options = parser.parse_args()
    if options.interpret:
        given = benchmark.random_arguments(1, 17, 8, 4, jnp.dtype(jnp.bfloat16))
        with IMPLEMENTATIONS[options.implementation].rehearsal():
            tune(options.implementation, given, 1, most=2)
        return
    if compatibility.accelerator() is None:
        raise SystemExit("There is no accelerator here; --interpret rehearses without one.")
    given = (benchmark.arguments(shape, jnp.dtype(jnp.bfloat16)) for shape in options.shapes)
    record(options.implementation, [tune(options.implementation, x, options.repeats) for x in given])


if __name__ == "__main__":
    main()

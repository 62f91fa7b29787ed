"""Times the scan's implementations on this machine: `python -m benchmarks.selective_scan`, in the folder `kernels`.

Every implementation that serves the device is compared with the reference, outputs and every gradient, before it is
timed; one that is wrong stops the run. On a CPU ours and the peers take the cores that the process may run on, so
`taskset -c 0` compares them on one. Times are medians over runs after a warm-up, on inputs that no cache holds
(`timing.py`). The peers, run in turns with ours, are two eager PyTorch loops on a CPU and mamba_ssm's CUDA kernels on
an NVIDIA GPU; where they are not installed, ratios are missing. Rows go to `results/selective_scan_<device>.json`.

`--plot` measures a series of lengths and a series of batches instead, and draws both.
"""

import argparse
import functools
import importlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from bdgf_kernels import selective_scan
from bdgf_kernels.selective_scan.choice import FASTEST_FIRST, IMPLEMENTATIONS
from bdgf_kernels.selective_scan.shapes import SHAPES, Shape

from benchmarks import series, timing

RESULTS = pathlib.Path(__file__).parent / "results"
EVERYWHERE = "reference", "associative"
PASSES = "forward", "forward+backward"
PEERS = {"cpu": (("peer_torch_whole",), ("peer_torch",)), "gpu": (("peer_mamba_ssm_library", "peer_mamba_ssm"),)}
"""What ours are compared with, what people run first: of each, the module that loads first."""
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far from the reference a result may be, as a share of the largest value."""
MOST_STATES = 2**28
"""What the reference may keep at once: larger batches are compared in pieces."""
CALLS, CALLS_BYTES = 20, 4 * 2**30
"""On an accelerator, the calls of a timed run, fewer where their inputs would be larger than this."""
H100 = {"bytes": 3.0e12, "exponentials": 132 * 16 * 1.75e9}
"""What an H100 can do in a second at most."""
COLUMNS = (
    *("implementation", "shape", "pass", "dtype", "median_ms", "quartiles", "ratio_to_peer", "ratio_to_peers"),
    *("fraction_of_floor", "peak_memory", "device", "versions", "repeats"),
)
"""Of a row: times in ms, how often faster than the first peer and than each, the share of the time that the device
can't do without where that is known, bytes of temporary arrays and outputs, timed runs."""


class WrongError(Exception):
    """An implementation's result is not the reference's."""


def arguments(shape: str, dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Random arguments of a named shape."""
    b, length, d, n, _ = SHAPES[shape]
    return random_arguments(b, length, d, n, dtype)


def random_arguments(b: int, length: int, d: int, n: int, dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Random arguments with softplus, bias and D, as a Mamba layer calls the scan, and y's cotangent `dy`."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    normal = lambda *axes: jax.random.normal(next(keys), axes)
    rows = {"u": normal(b, length, d), "delta": normal(b, length, d) - 2.0}
    states = {"B": normal(b, length, n), "C": normal(b, length, n)}
    rest = {"A": -jnp.exp(normal(d, n)), "D": normal(d), "delta_bias": 0.1 * normal(d)}
    return {name: x.astype(dtype) for name, x in (rows | states | {"dy": normal(b, length, d)}).items()} | rest


def passes(name: str) -> dict[str, Any]:
    """The two programs that are timed, each of a call's arguments: y, and y with the gradients by name."""

    def forward(given):
        scan = {key: x for key, x in given.items() if key != "dy"}
        return selective_scan(**scan, delta_softplus=True, implementation=name)

    def both(given):
        y, pull = jax.vjp(lambda scan: forward(scan), {key: x for key, x in given.items() if key != "dy"})
        return y, pull(given["dy"])[0]

    return {"forward": jax.jit(lambda given: (forward(given), {})), "forward+backward": jax.jit(both)}


def truth(given: dict[str, jax.Array]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The reference's y and gradients, a piece of the batch after the other where all its states are too many."""
    b, length, d = given["u"].shape
    most = max(1, MOST_STATES // (length * d * given["A"].shape[1]))
    piece = max(x for x in range(1, min(b, most) + 1) if b % x == 0)
    run = passes("reference")["forward+backward"]
    results = []
    for start in range(0, b, piece):
        part = {name: x[start : start + piece] if x.ndim == 3 else x for name, x in given.items()}
        results.append(jax.tree.map(in_float32, run(part)))
    together = lambda name, *x: np.concatenate(x) if x[0].ndim == 3 else sum(x)
    y = np.concatenate([y for y, _ in results])
    return y, {name: together(name, *(x[name] for _, x in results)) for name in results[0][1]}


def in_float32(x: jax.Array) -> np.ndarray:
    """Brings a result to where it is compared."""
    return np.asarray(x.astype(jnp.float32))


def check(who: str, got: tuple[Any, dict], want: tuple[Any, dict], dtype: str) -> None:
    """Raises WrongError where y or a gradient is further from the reference's than it may be, or not a number."""
    pairs = {"y": (got[0], want[0])} | {f"the gradient of {name}": (x, want[1][name]) for name, x in got[1].items()}
    for what, (ours, true) in pairs.items():
        worst = np.abs(ours - true).max() / max(np.abs(true).max(), 1e-6)
        if not worst <= BOUNDS[dtype]:
            raise WrongError(f"{who}: {what} is off by {worst:.1e} of its largest value; {BOUNDS[dtype]:.0e} may be.")


@functools.cache
def peers() -> tuple[ModuleType, ...]:
    """Loads what ours are compared with on this device; says so where it is not installed."""
    loaded = []
    for modules in PEERS.get(jax.default_backend(), ()):
        for module in modules:
            try:
                loaded.append(importlib.import_module(f"benchmarks.{module}"))
                break
            except (ImportError, OSError) as reason:
                print(f"{module} does not load: {reason}", flush=True)
    if not loaded:
        print("No ratios: there is no peer.", flush=True)
    return tuple(loaded)


def device() -> str:
    """Names the device that is measured, a CPU with its cores, and the flags that XLA was given."""
    kind = jax.devices()[0].device_kind
    cores = [f"cores: {len(os.sched_getaffinity(0))}"] if jax.default_backend() == "cpu" else []
    return ", ".join([kind, *cores, *os.environ.get("XLA_FLAGS", "").split()])


def here() -> tuple[str, ...]:
    """Names the implementations that are made for this device, the default last."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    return (*EVERYWHERE, *(name for name in IMPLEMENTATIONS if name in FASTEST_FIRST[platform]))


def floor(shape: Shape, dtype: jnp.dtype, kind: str) -> float | None:
    """The ms that a forward pass takes at least: u, delta, y, B and C from and to memory, or its exponentials."""
    if "H100" not in jax.devices()[0].device_kind or kind != "forward":
        return None
    size = jnp.dtype(dtype).itemsize * (3 * shape.b * shape.l * shape.d + 2 * shape.b * shape.l * shape.n)
    return 1e3 * max(size / H100["bytes"], shape.elements / H100["exponentials"])


def calls_of(given: dict[str, jax.Array]) -> int:
    """How many calls a timed run makes: one on a CPU; on an accelerator enough that it need not wait for the host."""
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(CALLS, CALLS_BYTES // sum(x.nbytes for x in given.values())))


def measure(
    title: str, shape: Shape, dtype: jnp.dtype, repeats: int, names: Sequence[str], kinds: Sequence[str] = PASSES
) -> Iterator[dict]:
    """Checks every implementation that serves a shape, then times them and the peer in turns; yields the rows."""
    given = random_arguments(shape.b, shape.l, shape.d, shape.n, dtype)
    dtype = jnp.dtype(dtype)
    want = truth(given)
    programs, memory = {}, {}
    for name in names:
        runs = passes(name)
        try:
            for kind in kinds:
                analysis = runs[kind].lower(given).compile().memory_analysis()
                memory[name, kind] = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        except NotImplementedError as reason:
            print(f"{title}, {name} is left out: {reason}", flush=True)
            continue
        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
        if max(memory[name, kind] for kind in kinds) > 0.8 * limit:
            print(f"{title}, {name} is left out: it needs more memory than the device has.", flush=True)
            continue
        for kind in kinds:
            check(f"{name} at {title}, {kind}", jax.tree.map(in_float32, runs[kind](given)), want, dtype.name)
        programs[name] = runs

    inputs = timing.copies(given)
    calls = calls_of(given)
    theirs = {other: [other.load(x) for x in inputs] for other in peers()}
    for kind in kinds:
        timers = {name: timing.timer(runs[kind], inputs, calls) for name, runs in programs.items()}
        for other, given_to_it in theirs.items():
            y, gradients = other.run(kind, given_to_it[0])
            got = other.as_numpy(y), {name: other.as_numpy(x) for name, x in gradients.items()}
            check(f"{other.NAME} at {title}, {kind}", got, want, dtype.name)
            run = functools.partial(other.milliseconds, kind)
            timers[other.NAME] = lambda turn, run=run, x=given_to_it: run(timing.rotated(x, turn, calls))
        times = timing.interleaved(timers, repeats)
        least = floor(shape, dtype, kind)
        versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
        for other in theirs:
            versions |= other.version()
        medians = {name: timing.quartiles(taken)[1] for name, taken in times.items()}
        for name, taken in times.items():
            lower, median, upper = timing.quartiles(taken)
            ratios = {other.NAME: round(medians[other.NAME] / median, 2) for other in theirs}
            row = (
                *(name, title, kind, dtype.name, round(median, 4), [round(lower, 4), round(upper, 4)]),
                *(next(iter(ratios.values()), None), ratios),
                round(least / median, 3) if least else None,
                *(memory.get((name, kind)), device(), versions, repeats),
            )
            yield dict(zip(COLUMNS, row))


def table(rows: Sequence[dict]) -> str:
    """Writes rows as a table for a terminal."""
    titles = f"{'':28} {'':17} {'':16} {'dtype':8} {'median':>9} {'quartiles':>19} {'floor':>6} {'MB':>8}"
    lines = [f"{titles} ratio to peers"]
    for row in rows:
        known = lambda x, form: "" if x is None else format(x, form)
        megabytes = None if row["peak_memory"] is None else row["peak_memory"] / 1e6
        lower, upper = row["quartiles"]
        lines.append(
            f"{row['shape']:28} {row['implementation']:17} {row['pass']:16} {row['dtype']:8} {row['median_ms']:9.3f} "
            f"{lower:9.3f} {upper:9.3f} "
            f"{known(row['fraction_of_floor'], '6.2f'):>6} {known(megabytes, '8.1f'):>8} "
            + ", ".join(f"{peer} {ratio:.2f}" for peer, ratio in row["ratio_to_peers"].items())
        )
    return "\n".join(lines)


def file(results: pathlib.Path, ending: str = ".json") -> pathlib.Path:
    """Where the measurements of this kind of device go."""
    kind = jax.devices()[0].device_kind.replace(" ", "_").lower()
    return results / f"selective_scan_{kind}{ending}"


def write(rows: Sequence[dict], results: pathlib.Path) -> None:
    """Puts rows into the device's file, in place of those of the same shape, type and device."""
    path = file(results)
    kept = json.loads(path.read_text()) if path.exists() else []
    what = lambda row: tuple(row.get(column) for column in ("shape", "dtype", "device"))
    new = {what(row) for row in rows}
    kept = [row for row in kept if what(row) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*kept, *rows], indent=2) + "\n")


def measure_series(take: Callable[[str, Shape], Iterator[dict]], results: pathlib.Path) -> None:
    """Measures time against length and against batch; writes the rows and their figure.

    Args:
      take: (name of a shape, the shape) -> its rows.
      results: the folder that is written to.
    """
    grown = series.of_platform(jax.default_backend())
    rows = {axis: [] for axis in grown}
    for axis, shapes in grown.items():
        for shape in shapes:
            new = list(take("x".join(map(str, shape[:4])), shape))
            print(table(new), flush=True)
            rows[axis] += new
    results.mkdir(parents=True, exist_ok=True)
    file(results, "_series.json").write_text(json.dumps([*itertools.chain(*rows.values())], indent=2) + "\n")
    series.draw(rows, file(results, ".png"))


def main() -> None:
    """Times the shapes that are named, or the series that are drawn, and records the rows by kind of device."""
    usual = ["cpu_121", "cpu_121_narrow", "cpu_lm_1024"]
    if jax.default_backend() != "cpu":
        usual = ["ours_49", "ours_121", "ours_289", "lm_2048", "lm_8192"]
    parser = argparse.ArgumentParser(description="Times the scan's implementations on this machine.")
    parser.add_argument("--shapes", nargs="+", default=usual, choices=list(SHAPES))
    parser.add_argument("--dtype", default="float32", choices=list(BOUNDS))
    parser.add_argument("--repeats", type=int, default=20, help="timed runs")
    parser.add_argument("--implementations", nargs="+", default=list(here()), choices=list(IMPLEMENTATIONS))
    parser.add_argument("--plot", action="store_true", help="measure and draw time against length and batch instead")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="the folder that is written to")
    options = parser.parse_args()
    take = functools.partial(
        measure, dtype=jnp.dtype(options.dtype), repeats=options.repeats, names=options.implementations
    )
    try:
        if options.plot:
            measure_series(take, options.results)
            return
        for shape in options.shapes:
            rows = list(take(shape, SHAPES[shape]))
            print(table(rows), flush=True)
            write(rows, options.results)
    except WrongError as wrong:
        raise SystemExit(f"Nothing more is timed. {wrong}") from wrong


if __name__ == "__main__":
    main()

"""Everything that wants an NVIDIA GPU, in one command and under eight minutes: `python -m benchmarks.on_gpu`.

1. correctness: the kernels on the chip against the float64 oracle of the tests: y, last state, every gradient;
2. bits: 20 runs of the forward and backward pass give the same bits;
3. benchmark: our shapes and a language model's, against mamba_ssm's CUDA kernels where they are installed, or were
   brought along as `mamba_ssm_library` builds them; without them the stage runs and counts as failed;
4. tune: times the kernels' numbers and records the fastest in the package's data.

A stage that fails does not keep the next from running. What is known is written to `results/on_gpu_<device>.json` as
soon as it is known, the benchmark's rows also to `results/selective_scan_<device>.json`. `--rehearse` goes through all
stages with the interpreters, on tiny shapes and a CPU, and tunes without recording.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # mamba_ssm wants memory of the GPU too

import argparse
import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import mosaic_gpu, triton
from bdgf_kernels.selective_scan.shapes import SHAPES, Shape

from benchmarks import selective_scan as benchmark
from benchmarks import tune as tuner

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import scan_oracle as oracle

KERNELS = "mosaic_gpu", "triton"
OPTIONAL = "D", "z", "delta_bias", "initial_state"
SECONDS = 450
"""When no further measurement is begun; what is left until eight minutes is for the one under way."""

CASES = {
    "ours_49": {"b": 2, "l": 49, "d": 128, "n": 16},
    "ours_121": {"b": 2, "l": 121, "d": 128, "n": 16},
    "ours_121, reverse, two groups": {"b": 2, "l": 121, "d": 512, "n": 8, "g": 2, "reverse": True},
    "ours_289, narrow": {"b": 2, "l": 289, "d": 64, "n": 16},
    "lm_2048, a quarter as wide": {"b": 1, "l": 2048, "d": 512, "n": 16},
}
"""The shapes with the batch reduced to what the oracle can do; every optional argument but `reset` is there."""
WIDER = {
    f"{b}x{length}x{d}x{n}": Shape(b, length, d, n, "a corner of what we train and map with")
    for b, length, d, n in [
        *((256, 121, 128, 16), (4096, 121, 128, 16), (1024, 121, 64, 16), (1024, 121, 512, 16)),
        *((1024, 121, 128, 8), (4096, 49, 64, 8), (256, 289, 512, 16)),
    ]
}
BENCHMARK = {name: SHAPES[name] for name in ("ours_121", "lm_2048", "ours_49", "ours_289", "lm_8192")} | WIDER
TUNED = "ours_121", "lm_2048", "ours_49", "ours_289"
TINY = {"l": 17, "d": 128, "n": 4}


class Stages:
    """Runs stages, keeps what they give and writes it after each row."""

    def __init__(self, path: pathlib.Path):
        versions = {"jax": jax.__version__}
        self.path, self.start = path, time.monotonic()
        self.report = {"device": benchmark.device(), "versions": versions, "stages": {}}

    def late(self) -> bool:
        """Whether it is too late to begin another measurement."""
        return time.monotonic() - self.start > SECONDS

    def run(self, name: str, rows: Callable[[], Iterator[dict]]) -> list[dict]:
        """Runs a stage to its end or its failure; returns its rows."""
        print(f"--- {name}", flush=True)
        stage = self.report["stages"][name] = {"failed": None, "rows": []}
        begun = time.monotonic()
        try:
            for row in rows():
                stage["rows"].append(row)
                self.write()
            bad = [row for row in stage["rows"] if row.get("error")]
            stage["failed"] = f"{len(bad)} of {len(stage['rows'])} rows" if bad else None
        except (Exception, SystemExit) as error:
            stage["failed"] = f"{type(error).__name__}: {error}"
        stage["seconds"] = round(time.monotonic() - begun, 1)
        print(f"{name}: {stage['failed'] or 'done'}", flush=True)
        self.write()
        return stage["rows"]

    def write(self) -> None:
        """Writes what is known by now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.report, indent=2) + "\n")


@contextlib.contextmanager
def noting_failure(row: dict) -> Iterator[None]:
    """Writes into a row why its measurement was refused or went wrong, and prints it."""
    try:
        yield
    except NotImplementedError as reason:
        row["refused"] = str(reason)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    print(row, flush=True)


def correctness(cases: dict[str, dict], stages: Stages) -> Iterator[dict]:
    """Compares both kernels with the oracle, in both types."""
    for title, sizes in cases.items():
        for dtype in ("float32", "bfloat16"):
            case = oracle.Case(**sizes, dtype=dtype, softplus=True, optional=OPTIONAL)
            for name in KERNELS:
                if stages.late():
                    return
                row = {"case": title, "dtype": dtype, "implementation": name, "error": None}
                with noting_failure(row):
                    oracle.check(case, name)
                yield row


def bits(shapes: dict[str, Shape], runs: int, stages: Stages) -> Iterator[dict]:
    """Compares the bits of runs with those of the first."""
    for title, shape in shapes.items():
        given = benchmark.random_arguments(shape.b, shape.l, shape.d, shape.n, jnp.dtype(jnp.bfloat16))
        for name in KERNELS:
            if stages.late():
                return
            row = {"shape": title, "implementation": name, "runs": runs, "error": None}
            with noting_failure(row):
                run = benchmark.passes(name)["forward+backward"]
                results = ([np.asarray(x).tobytes() for x in jax.tree.leaves(run(given))] for _ in range(runs))
                first = next(results)
                others = sum(result != first for result in results)
                row["error"] = f"{others} of {runs} runs gave other bits" if others else None
            yield row


def timed(shapes: dict[str, Shape], repeats: int, names: tuple, stages: Stages) -> Iterator[dict]:
    """Times shapes until it is late; a shape that fails is a row that says so."""
    for title, shape in shapes.items():
        if stages.late() or (title in WIDER and time.monotonic() - stages.start > 0.7 * SECONDS):
            print(f"{title} is left out: no time is left for it.", flush=True)
            continue
        try:
            yield from benchmark.measure(title, shape, jnp.dtype(jnp.bfloat16), repeats, names)
        except Exception as error:
            print(f"{title}: {error}", flush=True)
            yield {"shape": title, "error": f"{type(error).__name__}: {error}"}


def tuned(shapes: dict[str, Shape], repeats: int, most: int | None, stages: Stages) -> Iterator[dict]:
    """Tunes shapes until it is late; records each at once, on a GPU."""
    for shape in shapes.values():
        if stages.late():
            return
        given = benchmark.random_arguments(shape.b, shape.l, shape.d, shape.n, jnp.dtype(jnp.bfloat16))
        row = tuner.tune("mosaic_gpu", given, repeats, most)
        if compatibility.accelerator():
            tuner.record("mosaic_gpu", [row])
        yield row


def main() -> None:
    """Runs all stages, prints a table, and fails where one of them failed."""
    parser = argparse.ArgumentParser(description="Checks, times and tunes the kernels on an NVIDIA GPU.")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, interpreted on a CPU")
    parser.add_argument("--results", type=pathlib.Path, default=benchmark.RESULTS, help="the folder written to")
    options = parser.parse_args()
    if not options.rehearse and jax.default_backend() != "gpu":
        raise SystemExit("There is no NVIDIA GPU here; --rehearse goes through all stages without one.")
    if options.rehearse and jax.default_backend() != "cpu":
        raise SystemExit("A rehearsal is for a CPU: set JAX_PLATFORMS=cpu.")
    kind = "rehearsal" if options.rehearse else jax.devices()[0].device_kind.replace(" ", "_").lower()
    stages = Stages(options.results / f"on_gpu_{kind}.json")
    tiny = {"tiny": Shape(1, **TINY, source="a rehearsal")}
    with contextlib.ExitStack() as how:
        if options.rehearse:
            how.enter_context(mosaic_gpu.rehearsal())
            how.enter_context(triton.interpreted(True))
        cases = {"tiny": {"b": 1, **TINY}} if options.rehearse else CASES
        shapes = tiny if options.rehearse else BENCHMARK
        few = tiny if options.rehearse else {name: SHAPES[name] for name in TUNED[:2]}
        again = tiny if options.rehearse else {name: SHAPES[name] for name in TUNED}
        repeats = 2 if options.rehearse else 20
        names = KERNELS if options.rehearse else (*KERNELS, "chunked")
        stages.run("correctness", lambda: correctness(cases, stages))
        stages.run("bits", lambda: bits(few, repeats, stages))
        rows = stages.run("benchmark", lambda: timed(shapes, repeats, names, stages))
        if not options.rehearse and not benchmark.peers():
            stages.report["stages"]["benchmark"]["failed"] = "no peer: there are times and no ratios"
        rows = [row for row in rows if "median_ms" in row]
        if not options.rehearse:
            benchmark.write(rows, options.results)
        stages.run("tune", lambda: tuned(again, repeats, 2 if options.rehearse else None, stages))
    print(benchmark.table(rows))
    for name, stage in stages.report["stages"].items():
        print(f"{name:12} {len(stage['rows']):3} rows {stage['seconds']:6.1f} s  {stage['failed'] or 'done'}")
    if any(stage["failed"] for stage in stages.report["stages"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

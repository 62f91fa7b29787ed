"""Times the scan's implementations on this machine: `python -m benchmarks.selective_scan`, in the folder `kernels`.

Every implementation is compared with the reference before it is timed. Times are medians over runs after a warm-up.
On a CPU the peer is an eager PyTorch loop over the steps, timed only where PyTorch is installed.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from bdgf_kernels import selective_scan
from bdgf_kernels.selective_scan.choice import FASTEST_FIRST, IMPLEMENTATIONS
from bdgf_kernels.selective_scan.shapes import SHAPES

RESULTS = pathlib.Path(__file__).parent / "results"


def arguments(shape, dtype):
    """Random arguments of a named shape."""
    b, length, d, n, _ = SHAPES[shape]
    return random_arguments(b, length, d, n, dtype)


def random_arguments(b, length, d, n, dtype):
    """Random arguments with softplus, bias and D, as a Mamba layer calls the scan."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    normal = lambda *axes: jax.random.normal(next(keys), axes)
    rows = {"u": normal(b, length, d), "delta": normal(b, length, d) - 2.0}
    states = {"B": normal(b, length, n), "C": normal(b, length, n)}
    halves = {name: x.astype(dtype) for name, x in (rows | states).items()}
    return halves | {"A": -jnp.exp(normal(d, n)), "D": normal(d), "delta_bias": 0.1 * normal(d)}


def milliseconds(run, repeats):
    """The median time of a call, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def finished(run, given):
    """Runs a program to its end."""
    return jax.block_until_ready(run(given))


def passes(given, name):
    """The two programs that are timed: the scan, and the gradients of a weighted sum of its outputs."""
    scan = lambda x: jnp.asarray(selective_scan(**x, delta_softplus=True, implementation=name))
    weights = jnp.cos(jnp.arange(given["u"].size, dtype=jnp.float32)).reshape(given["u"].shape)
    loss = lambda x: (scan(x).astype(jnp.float32) * weights).sum()
    return {"forward": jax.jit(scan), "forward+backward": jax.jit(jax.grad(loss))}


def peer(given, repeats):
    """Times the same scan as an eager PyTorch loop; no times where PyTorch is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports] -- an optional dependency
    except ImportError:
        return {}
    x = {name: torch.tensor(np.asarray(value.astype(jnp.float32)), requires_grad=True) for name, value in given.items()}

    def scan():
        delta = torch.nn.functional.softplus(x["delta"] + x["delta_bias"])
        state, rows = 0.0, []
        for t in range(delta.shape[1]):
            decay = torch.exp(delta[:, t, :, None] * x["A"])
            state = decay * state + (delta[:, t] * x["u"][:, t])[..., None] * x["B"][:, t, None]
            rows.append((state * x["C"][:, t, None]).sum(-1))
        return torch.stack(rows, 1) + x["D"] * x["u"]

    def forward():
        with torch.no_grad():
            scan()

    both = lambda: torch.autograd.grad(scan().sum(), list(x.values()))
    return {"forward": milliseconds(forward, repeats), "forward+backward": milliseconds(both, max(3, repeats // 5))}


def measure(shape, dtype, repeats):
    """Returns a row for each implementation that serves the shape, and each pass."""
    given, rows = arguments(shape, dtype), []
    peers = peer(given, repeats) if jax.default_backend() == "cpu" else {}
    wanted = {kind: run(given) for kind, run in passes(given, "reference").items()}
    for name in IMPLEMENTATIONS:
        for kind, run in passes(given, name).items():
            try:
                got = run(given)
            except NotImplementedError as reason:
                print(f"{shape} {name}: {reason}")
                break
            for ours, true in zip(jax.tree.leaves(got), jax.tree.leaves(wanted[kind])):
                worst = float(jnp.abs(ours - true).max() / jnp.maximum(jnp.abs(true).max(), 1e-6))
                if worst > (1e-4 if dtype == jnp.float32 else 2e-2):
                    raise SystemExit(f"{name} is wrong at {shape}, {kind}: {worst:.1e} of the largest value.")
            row = {
                "implementation": name,
                "default": name == FASTEST_FIRST[jax.default_backend()][0],
                "shape": shape,
                "pass": kind,
                "dtype": jnp.dtype(dtype).name,
                "median_ms": round(milliseconds(functools.partial(finished, run, given), repeats), 2),
            }
            if kind in peers:
                row |= {"peer_ms": round(peers[kind], 1), "ratio_to_peer": round(peers[kind] / row["median_ms"], 1)}
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Times the shapes that are named and records the rows by kind of device."""
    parser = argparse.ArgumentParser(description="Times the scan's implementations on this machine.")
    parser.add_argument("--shapes", nargs="+", default=["cpu_121", "cpu_121_narrow"], choices=list(SHAPES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="write results/selective_scan_<device>.json")
    options = parser.parse_args()
    rows = [row for shape in options.shapes for row in measure(shape, jnp.dtype(options.dtype), options.repeats)]
    if options.record:
        RESULTS.mkdir(exist_ok=True)
        device = jax.devices()[0].device_kind.replace(" ", "_").lower()
        text = json.dumps(rows, indent=2)
        RESULTS.joinpath(f"selective_scan_{device}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

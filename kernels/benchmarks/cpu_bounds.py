"""What bounds the scan on a CPU, measured apart: `taskset -c 0 python -m benchmarks.cpu_bounds`.

For as many elements (b, l, d, n) as a call has, and in loops over as many steps: exponentials alone, as XLA has them
and by the polynomial of ours; the state read and written alone; softplus of every step size; and the passes of
`chunked` in whole, the forward pass also with XLA's exponential in place of the polynomial. All take turns.
"""

import argparse
from unittest import mock

import jax
import jax.numpy as jnp
from bdgf_kernels.selective_scan import chunked
from bdgf_kernels.selective_scan.exponentials import power_of_2, softplus
from bdgf_kernels.selective_scan.shapes import SHAPES, Shape

from benchmarks import timing
from benchmarks.selective_scan import arguments, passes


def parts(shape: Shape, given: dict[str, jax.Array]) -> dict:
    """Programs of the scan's parts, each of the call's arguments."""
    rates = given["A"].T

    def each_step(body):
        def program(given):
            step = lambda state, delta: (body(state, delta[:, None]), None)
            start = jnp.zeros((shape.b, shape.n, shape.d))
            return jax.lax.scan(step, start, jnp.abs(given["delta"].swapaxes(0, 1)))[0]

        return jax.jit(program)

    with mock.patch.object(chunked, "power_of_2", jnp.exp2):
        with_xlas_own = passes("chunked")["forward"].lower(given).compile()

    return {
        "exponentials, XLA's own": each_step(lambda _, delta: jnp.exp(delta * rates[None])),
        "exponentials by the polynomial": each_step(lambda _, delta: power_of_2(delta * rates[None])),
        "the state read and written": each_step(lambda state, delta: state * delta + 1.0),
        "softplus of the step sizes": jax.jit(lambda given: softplus(given["delta"] + given["delta_bias"])),
        "forward, XLA's exponentials": with_xlas_own,
        **{f"{kind}, the default": run for kind, run in passes("chunked").items()},
    }


def main() -> None:
    """Prints quartiles and the least of the times in ms, and the medians in ns an element."""
    parser = argparse.ArgumentParser(description="Times the parts of the scan on this CPU.")
    parser.add_argument("--shape", default="cpu_121", choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    given = arguments(options.shape, jnp.dtype(jnp.float32))
    inputs = timing.copies(given)
    timers = {name: timing.timer(run, inputs, 1) for name, run in parts(shape, given).items()}
    for name, taken in timing.interleaved(timers, options.repeats).items():
        lower, median, upper = timing.quartiles(taken)
        each = f"{1e6 * median / shape.elements:6.2f} ns an element"
        print(f"{name:34} {lower:8.2f} {median:8.2f} {upper:8.2f} ms {each}, fastest {min(taken):.2f} ms")


if __name__ == "__main__":
    main()

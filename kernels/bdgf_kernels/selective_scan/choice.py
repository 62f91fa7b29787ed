"""Which implementation serves a call: the one that is named, or the fastest for the platform that is compiled for."""

import logging
from collections.abc import Sequence
from types import ModuleType

import jax

from bdgf_kernels.selective_scan import associative, chunked, mosaic_gpu, mosaic_tpu, reference, triton
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs, sizes
from bdgf_kernels.selective_scan.second_order import differentiable_twice

IMPLEMENTATIONS: dict[str, ModuleType] = {
    "reference": reference,
    "associative": associative,
    "chunked": chunked,
    "mosaic_gpu": mosaic_gpu,
    "mosaic_tpu": mosaic_tpu,
    "triton": triton,
}
"""Every implementation that exists, by name: modules with `supports` and `scan`."""

KERNELS = ("mosaic_gpu", "mosaic_tpu", "triton")
"""Those whose passes are Pallas kernels, which JAX cannot differentiate."""

FASTEST_FIRST = {
    "cpu": ("chunked",),
    "cuda": ("mosaic_gpu", "triton", "chunked"),
    "rocm": ("chunked",),
    "tpu": ("mosaic_tpu", "chunked"),
}
"""What is tried, in order, by the platform of the compilation."""

logger = logging.getLogger(__name__)


def implementations() -> tuple[str, ...]:
    """Names what `implementation=` may say."""
    return tuple(IMPLEMENTATIONS)


def scan(operands: Operands, options: Options, implementation: str | Sequence[str] | None) -> Outputs:
    """Runs the call by the implementation that is named, the first of several that serves it, or the default.

    The default follows the target of the compilation (`jax.lax.platform_dependent`), not the host's devices.

    Raises:
      ValueError: a name that no implementation has.
      NotImplementedError: none of those named serves the call, with every reason.
    """
    if implementation is not None:
        names = (implementation,) if isinstance(implementation, str) else tuple(implementation)
        return run(first_that_serves(names, operands, options), operands, options)
    chosen = {
        name: first_that_serves(worthwhile(names, operands), operands, options) for name, names in FASTEST_FIRST.items()
    }
    logger.info("selective_scan %s %s: %s", sizes(operands), options, chosen)
    if len(set(chosen.values())) == 1:
        return run(chosen["cpu"], operands, options)

    def branch(name):
        return lambda operands: run(name, operands, options)

    return jax.lax.platform_dependent(operands, **{platform: branch(name) for platform, name in chosen.items()})


def run(name: str, operands: Operands, options: Options) -> Outputs:
    """Runs the call by one implementation, with gradients that can be differentiated again."""
    scan = IMPLEMENTATIONS[name].scan
    return (differentiable_twice(scan) if name in KERNELS else scan)(operands, options)


def worthwhile(names: Sequence[str], operands: Operands) -> Sequence[str]:
    """Leaves the TPU kernel out where most of its 128 lanes would be idle: it pads the batch, and memory with it."""
    return names if mosaic_tpu.fills_lanes(operands) else [name for name in names if name != "mosaic_tpu"]


def first_that_serves(names: Sequence[str], operands: Operands, options: Options) -> str:
    """Returns the first name whose implementation serves the call."""
    reasons = []
    for name in names:
        if name not in IMPLEMENTATIONS:
            raise ValueError(f"implementation {name!r} does not exist; there are {', '.join(IMPLEMENTATIONS)}.")
        reason = IMPLEMENTATIONS[name].supports(operands, options)
        if reason is None:
            return name
        reasons.append(NotImplementedError(f"{name}: {reason}"))
    message = "No implementation serves this call. " + " ".join(map(str, reasons))
    raise NotImplementedError(message) from ExceptionGroup("each for a reason of its own", reasons)

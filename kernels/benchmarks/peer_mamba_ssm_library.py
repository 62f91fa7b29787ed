"""The peer on an NVIDIA GPU without PyTorch: mamba_ssm's CUDA kernels as custom calls, built elsewhere beforehand.

`python -m benchmarks.mamba_ssm_library SOURCE` builds them where nvcc is, with no GPU; the file is then brought along.
They are launched as mamba_ssm launches them, for bfloat16, and timed as our own programs are.
"""

import ctypes
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import mamba_ssm_library, timing

NAME = "mamba_ssm"
ROWS = ("u", "delta", "B", "C", "dy")
"""What mamba_ssm wants with steps last; brought into that form before any time is taken."""
CHUNK = 2048
"""Steps after which its forward kernel keeps the states."""


def register() -> None:
    """Makes the kernels known to XLA.

    Raises:
      ImportError: the library has not been built or brought along.
    """
    file = mamba_ssm_library.LIBRARY
    if not file.exists():
        raise ImportError(f"{file} is not there; `python -m benchmarks.mamba_ssm_library SOURCE` builds it.")
    library = ctypes.CDLL(str(file))
    for kernel in ("mamba_ssm_forward", "mamba_ssm_backward"):
        jax.ffi.register_ffi_target(kernel, jax.ffi.pycapsule(getattr(library, kernel)), platform="CUDA")


register()


def version() -> dict[str, str]:
    """Names the version that the peer's times depend on."""
    file = mamba_ssm_library.VERSION
    return {"mamba_ssm": file.read_text().strip() if file.exists() else "unknown"}


def load(given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Brings a call's arguments to the peer's layout."""
    return {name: jnp.array(x.swapaxes(1, 2) if name in ROWS else x) for name, x in given.items()}


def forward(x: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns y and the states that the backward kernel reads."""
    b, d, length = x["u"].shape
    states = jax.ShapeDtypeStruct((b, d, -(-length // CHUNK), 2 * x["A"].shape[1]), jnp.float32)
    call = jax.ffi.ffi_call("mamba_ssm_forward", (jax.ShapeDtypeStruct((b, d, length), jnp.bfloat16), states))
    y, states = call(*arguments(x))
    return y, states


def arguments(x: dict[str, jax.Array]) -> list[jax.Array]:
    """A call's arguments in the kernels' order."""
    return [x[name] for name in ("u", "delta", "A", "B", "C", "D", "delta_bias")]


@jax.jit
def scanned(x: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The pass forward."""
    return forward(x)[0], {}


@jax.jit
def differentiated(x: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The pass forward+backward: y and the gradients by name, in their arguments' types."""
    y, states = forward(x)
    given = arguments(x)
    wide = lambda i: jax.ShapeDtypeStruct(given[i].shape, jnp.float32)
    half = jax.ShapeDtypeStruct(y.shape, jnp.bfloat16)
    kinds = (half, half, *(wide(i) for i in range(2, 7)))
    du, ddelta, dA, dB, dC, dD, dbias = jax.ffi.ffi_call("mamba_ssm_backward", kinds)(*given, x["dy"], states)
    gradients = {"u": du, "delta": ddelta, "A": dA, "D": dD, "delta_bias": dbias}
    return y, gradients | {"B": dB.astype(jnp.bfloat16), "C": dC.astype(jnp.bfloat16)}


PASSES = {"forward": scanned, "forward+backward": differentiated}


def run(kind: str, x: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns y and, in the pass forward+backward, the gradients by name."""
    return PASSES[kind](x)


def as_numpy(x: Any) -> np.ndarray:
    """Brings one of the peer's arrays to the shape and layout of ours."""
    x = x.swapaxes(1, 2) if x.ndim == 3 else x
    return np.asarray(x.astype(jnp.float32))


def milliseconds(kind: str, inputs: list[dict[str, jax.Array]]) -> float:
    """Times a call for each of the inputs; returns the time of one."""
    return timing.timer(PASSES[kind], inputs, len(inputs))(0)

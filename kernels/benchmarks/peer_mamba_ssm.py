"""The peer on an NVIDIA GPU: mamba_ssm's CUDA kernels, timed on the device.

mamba_ssm 2.3 does not build them by default: `MAMBA_FORCE_BUILD=TRUE MAMBA_KEEP_CUDA_BUILD=TRUE pip install
--no-build-isolation mamba-ssm`, on the machine that is measured. Without the extension its functions fall back to
something slower, so there is no peer where `selective_scan_cuda` can't be imported.
"""

from typing import Any

import jax
import jax.numpy as jnp
import mamba_ssm  # pyright: ignore[reportMissingImports] -- an optional dependency, as the next three
import numpy as np
import selective_scan_cuda  # noqa: F401  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]

NAME = "mamba_ssm"
ROWS = ("u", "delta", "B", "C", "dy")
"""What mamba_ssm wants with steps last; brought into that form before any time is taken."""


def version() -> dict[str, str]:
    """Names the versions that the peer's times depend on."""
    return {"torch": torch.__version__, "mamba_ssm": mamba_ssm.__version__}


def load(given: dict[str, jax.Array]) -> dict[str, Any]:
    """Copies a call's arguments to tensors on the GPU that gradients are wanted for, in the same types."""
    tensors = {}
    for name, value in given.items():
        tensor = torch.from_numpy(np.array(value.astype(jnp.float32))).cuda()
        tensor = tensor.to(torch.bfloat16 if value.dtype == jnp.bfloat16 else torch.float32)
        tensor = tensor.transpose(1, 2).contiguous() if name in ROWS else tensor
        tensors[name] = tensor.requires_grad_(name != "dy")
    return tensors


def run(kind: str, x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns y and, in the pass forward+backward, the gradients by name."""
    inputs = {name: tensor for name, tensor in x.items() if name != "dy"}
    if kind == "forward":
        with torch.no_grad():
            return selective_scan_fn(**inputs, delta_softplus=True), {}
    y = selective_scan_fn(**inputs, delta_softplus=True)
    return y, dict(zip(inputs, torch.autograd.grad(y, list(inputs.values()), x["dy"])))


def as_numpy(x: Any) -> np.ndarray:
    """Brings one of the peer's arrays to the shape and layout of ours."""
    x = x.transpose(1, 2) if x.ndim == 3 else x
    return x.detach().float().cpu().numpy()


def milliseconds(kind: str, inputs: list[dict[str, Any]]) -> float:
    """Times a call for each of the inputs between two events on the device; returns the time of one."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for x in inputs:
        run(kind, x)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / len(inputs)

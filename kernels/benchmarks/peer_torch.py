"""A peer on a CPU: the scan as an eager PyTorch loop over the steps, its gradients by autograd.

This is as lean as such a loop gets: a step's decays and inputs are worked out in the step. `peer_torch_whole` is the
form that people run. PyTorch is wanted by nothing but this comparison: `pip install torch`.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports] -- an optional dependency

NAME = "torch_eager"

torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as XLA takes


def version() -> dict[str, str]:
    """Names the versions that the peer's times depend on."""
    return {"torch": torch.__version__}


def load(given: dict[str, jax.Array]) -> dict[str, Any]:
    """Copies a call's arguments to tensors that gradients are wanted for, in the same types."""
    tensors = {}
    for name, value in given.items():
        tensor = torch.from_numpy(np.array(value.astype(jnp.float32)))
        kind = torch.bfloat16 if value.dtype == jnp.bfloat16 else torch.float32
        tensors[name] = tensor.to(kind).requires_grad_(name != "dy")
    return tensors


def run(kind: str, x: dict[str, Any], scan: Callable | None = None) -> tuple[Any, dict[str, Any]]:
    """Returns y and, in the pass forward+backward, the gradients by name, of this scan or of another one."""
    scan = scan or lean
    inputs = {name: tensor for name, tensor in x.items() if name != "dy"}
    if kind == "forward":
        with torch.no_grad():
            return scan(**inputs), {}
    y = scan(**inputs)
    return y, dict(zip(inputs, torch.autograd.grad(y, list(inputs.values()), x["dy"])))


def lean(u, delta, A, B, C, D, delta_bias):
    """The equations, a step at a time, with the state in float32."""
    kind, (u, delta, B, C) = u.dtype, (x.float() for x in (u, delta, B, C))
    delta = torch.nn.functional.softplus(delta + delta_bias)
    state, rows = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        rows.append((state * C[:, t, None]).sum(-1))
    return (torch.stack(rows, 1) + D * u).to(kind)


def as_numpy(x: Any) -> np.ndarray:
    """Brings one of the peer's arrays to the shape and layout of ours."""
    return x.detach().float().numpy()


def milliseconds(kind: str, inputs: list[dict[str, Any]], scan: Callable | None = None) -> float:
    """Times a call for each of the inputs; returns the time of one."""
    start = time.perf_counter()
    for x in inputs:
        run(kind, x, scan)
    return 1e3 * (time.perf_counter() - start) / len(inputs)

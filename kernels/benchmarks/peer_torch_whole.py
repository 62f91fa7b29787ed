"""The form of the scan that people run without a GPU: eager PyTorch with decays and inputs of all steps in memory.

mamba_ssm's reference implementation, the usual fallback, and ports that follow it work out exp(Δ A) and Δ B u as
(b, d, l, n) before the loop over the steps. Autograd makes every step's slice of them a gradient of the whole size.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports] -- an optional dependency

from benchmarks import peer_torch
from benchmarks.peer_torch import as_numpy, load, version

__all__ = ["NAME", "as_numpy", "load", "milliseconds", "run", "version"]

NAME = "torch_eager_whole"


def run(kind: str, x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns y and, in the pass forward+backward, the gradients by name."""
    return peer_torch.run(kind, x, scan)


def scan(u, delta, A, B, C, D, delta_bias):
    """The equations: all decays and inputs, then the recurrence."""
    kind, (u, delta, B, C) = u.dtype, (x.float() for x in (u, delta, B, C))
    delta = torch.nn.functional.softplus(delta + delta_bias)
    decays = torch.exp(torch.einsum("bld,dn->bdln", delta, A))
    added = torch.einsum("bld,bln->bdln", delta * u, B)
    state, rows = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        state = decays[:, :, t] * state + added[:, :, t]
        rows.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    return (torch.stack(rows, 1) + D * u).to(kind)


def milliseconds(kind: str, inputs: list[dict[str, Any]]) -> float:
    """Times a call for each of the inputs; returns the time of one."""
    return peer_torch.milliseconds(kind, inputs, scan)

"""Kernels of BDGF-JAX, a distribution of their own that needs jax and jaxtyping and nothing else."""

from bdgf_kernels.selective_scan.api import selective_scan, selective_scan_2d

__all__ = ["selective_scan", "selective_scan_2d"]

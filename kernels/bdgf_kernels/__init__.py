"""Kernels of BDGF-JAX, a distribution of their own."""

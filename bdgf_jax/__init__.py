"""BDGF-JAX: diffusion-guided multimodal land-cover classification."""

__version__ = "0.1.0"

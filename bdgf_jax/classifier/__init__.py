"""Guided classification: patches and diffusion features in, class probabilities of three branches out."""

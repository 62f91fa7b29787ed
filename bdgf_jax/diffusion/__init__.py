"""A scene becomes a pre-trained multimodal DDPM, and the DDPM becomes diffusion features."""

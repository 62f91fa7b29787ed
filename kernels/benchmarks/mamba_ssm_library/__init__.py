"""mamba_ssm's CUDA kernels in a shared library that needs neither PyTorch nor a compiler where it runs."""

import pathlib

BUILD = pathlib.Path(__file__).parents[2] / "build"
LIBRARY = BUILD / "mamba_ssm.so"
VERSION = BUILD / "mamba_ssm.version"

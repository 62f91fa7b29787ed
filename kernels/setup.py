"""Installs `bdgf-kernels`, which needs jax and jaxtyping and nothing else."""

import setuptools

JAX = "0.10.2; python_version < '3.12'", "0.12.0.1; python_version >= '3.12'"

setuptools.setup(
    name="bdgf-kernels",
    version="0.1.0",
    description="The selective scan of Mamba in JAX: plain, associative and Pallas implementations behind one function",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["bdgf_kernels", "bdgf_kernels.*"]),
    package_data={"bdgf_kernels": ["py.typed", "**/*.json"]},
    install_requires=["jax>=0.10.2,<0.13", "jaxtyping"],
    extras_require={
        # Compiles for GPUs that are not there; no CUDA libraries. The plugin has to be of jax's own version.
        "aot": [
            *(f"jax-cuda13-{part}=={version}" for part in ("plugin", "pjrt") for version in JAX),
            "absl-py",
            "nvidia-cuda-nvcc>=13,<14",
            "nvidia-nvvm>=13,<14",
            "nvidia-cuda-nvdisasm>=13,<14",
        ],
    },
)

"""Installs `bdgf-kernels`, which needs jax and jaxtyping and nothing else."""

import setuptools

setuptools.setup(
    name="bdgf-kernels",
    version="0.1.0",
    description="The selective scan of Mamba in JAX: plain, associative and Pallas implementations behind one function",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["bdgf_kernels", "bdgf_kernels.*"]),
    package_data={"bdgf_kernels": ["py.typed", "**/*.json"]},
    install_requires=["jax>=0.10.2,<0.13", "jaxtyping"],
)

"""Installs `bdgf_jax`, its command line and its configs. `kernels/` is a distribution of its own."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "bdgf_jax/__init__.py").read_text()).group(1)

setuptools.setup(
    name="bdgf-jax",
    version=VERSION,
    description="Diffusion-guided multimodal land-cover classification in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*setuptools.find_packages(include=["bdgf_jax", "bdgf_jax.*"]), "bdgf_jax.configs"],
    package_dir={"bdgf_jax.configs": "configs"},
    package_data={"bdgf_jax.evaluation": ["*.j2", "*.css", "*.js"], "bdgf_jax": ["py.typed"]},
    entry_points={"console_scripts": ["bdgf = bdgf_jax.cli:main"]},
    install_requires=[
        "bdgf-kernels",
        "absl-py",
        # The wheels for Windows lag behind: there they are an extra, which only prepared scenes and corpora need.
        "array_record; sys_platform != 'win32'",
        "grain>=0.2.18; sys_platform != 'win32'",
        "chex",
        "einops>=0.8",
        "flatbuffers",
        "flax>=0.12.8",
        "h5py",
        "importlib_resources",
        "jax>=0.10.2,<0.13",
        "jaxtyping",
        "jinja2",
        "matplotlib>=3.9",
        "ml-collections>=1.1",
        "numpy>=2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pyogrio>=0.10",
        "rasterio>=1.4",
        "rich",
        "scikit-image",
        "scikit-learn",
        "scipy>=1.11",
        "shapely>=2",
        "tensorboardX",
        "tensorflow-datasets",
        "threadpoolctl",
    ],
    extras_require={
        "cuda13": ["jax[cuda13]>=0.10.2,<0.13"],
        "prepared": ["array_record", "grain>=0.2.18"],
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "test": [
            "beartype",
            "hypothesis",
            "pyright",
            "pytest",
            "pytest-xdist",
            "pyyaml",
            "rio-cogeo",
            "ruff",
        ],
    },
)

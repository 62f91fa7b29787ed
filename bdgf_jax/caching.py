"""Compiled programs are kept between runs, so that only the first run of a program waits for the compiler."""

import os
import pathlib

import jax

from bdgf_jax import __version__


def use_compilation_cache() -> pathlib.Path:
    """Keeps compiled programs in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says; the folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or pathlib.Path(caches, "bdgf-jax", __version__)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return pathlib.Path(folder)

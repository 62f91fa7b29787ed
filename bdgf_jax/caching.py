"""Compiled programs are kept between runs, so that only the first run of a program waits for the compiler."""

import os
import pathlib

import jax

from bdgf_jax import __version__


def use_compilation_cache() -> pathlib.Path:
    """Keeps every compiled program in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says; the folder.

    It says so when it makes the folder, and never again.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or pathlib.Path(caches, "bdgf-jax", __version__))
    if not folder.exists():
        print(f"Compiled programs are kept in {folder}: the next run does not wait for them.", flush=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder

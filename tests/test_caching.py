import os
import subprocess
import sys

PROGRAM = """
import jax
import jax.numpy as jnp
from bdgf_jax.caching import use_compilation_cache

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
use_compilation_cache()
(jnp.arange(3.0) * 2.0).sum()
print("compiled:", events.count("/jax/compilation_cache/cache_misses"))
print("found:", events.count("/jax/compilation_cache/cache_hits"))
"""


def test_what_was_compiled_once_is_not_compiled_again_however_small(tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    told, compiled, found = zip(*(outputs(environment) for _ in range(2)), strict=True)
    assert told == ([f"Compiled programs are kept in {tmp_path / 'bdgf-jax'}"], [])
    assert compiled[0] > 0
    assert (compiled[1], found) == (0, (0, compiled[0]))


def outputs(environment):
    """What the program told of the folder, up to its version, and how many programs it compiled and found."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    *told, compiled, found = process.stdout.splitlines()
    number = lambda line: int(line.partition(": ")[2])
    return [line.rpartition("/")[0] for line in told], number(compiled), number(found)

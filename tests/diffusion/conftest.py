import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from bdgf_jax.diffusion.denoiser import build_denoiser


@pytest.fixture(scope="session")
def channels():
    return {"hsi": 4, "sar": 2}


@pytest.fixture(scope="session")
def settings():
    return ConfigDict(
        {"width": 8, "multipliers": (1, 2), "blocks": 1, "dtype": "float32", "rematerialise": False}
        | {"target": "noise", "hidden_weight": 0.1}
    )


@pytest.fixture(scope="session")
def masking():
    return ConfigDict(
        {
            "rule": "adaptive",
            "ratio": 0.4,
            "floor": 0.05,
            "alpha": 0.5,
            "temperature": 0.2,
            "exponent": 1.0,
            "concentration": 10.0,
            "whole": 0.5,
            "cell": 4,
            "ramp": (0.0, 0.0),
            "decay": 0.9,
        }
    )


@pytest.fixture(scope="session")
def denoiser(settings, channels):
    graph, parameters = build_denoiser(settings, channels, seed=0)
    # Heads start at zero, so that a fresh network says nothing; a little noise makes every weight matter.
    noisy = lambda path, leaf: leaf + 0.1 * jax.random.normal(jax.random.key(hash(str(path)) % 1000), leaf.shape)
    return graph, jax.tree_util.tree_map_with_path(noisy, parameters)


@pytest.fixture(scope="session")
def images(channels):
    key = jax.random.key(0)
    return {
        name: jax.random.normal(jax.random.fold_in(key, i), (3, 16, 16, c))
        for i, (name, c) in enumerate(channels.items())
    }


@pytest.fixture(scope="session")
def nothing_hidden(channels):
    return {name: jnp.zeros((3, 16, 16), bool) for name in channels}

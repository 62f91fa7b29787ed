"""A small classifier: its config, its inputs and the scene that it learns from."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier.model import GuidedClassifier

CLASSES = 3
TIMESTEPS = 2
CHANNELS = {"hsi": 5, "sar": 2}
LEVELS = (6, 4)


@pytest.fixture
def config():
    return ml_collections.ConfigDict(
        {
            "branches": ("cnn", "mamba", "transformer"),
            "width": 16,
            "stages": 2,
            "patch": 5,
            "centre": 1,
            "dropout": 0.0,
            "guidance": {
                "cnn": "fusion",
                "mamba": "group_channel_attention",
                "transformer": "cross_attention",
            },
            "merge_timesteps": "softmax",
            "groups": 4,
            "reduction": 16,
            "heads": 2,
            "state": 4,
            "expansion": 1.0,
            "directions": "four",
            "convolution": "causal",
            "head": "mean",
            "direct": {
                "share": 0.75,
                "landmarks": 0,
                "gamma": 0.5,
                "last_share": 0.5,
                "ridge": 1.0,
                "discriminant": 0.1,
            },
            "fusion": "mean",
            "dtype": "float32",
            "rematerialise": False,
            "mutual": {
                "entropy": 0.1,
                "similarity": 0.1,
                "kind": "cosine",
                "alignment": "both",
                "sure_teachers": False,
                "ramp": 0.2,
                "unlabelled": 0,
            },
        }
    )


@pytest.fixture
def train():
    return ml_collections.ConfigDict(
        {
            "steps": 100,
            "augment": True,
            "jitter": 0.0,
            "class_balance": "none",
            "label_smoothing": 0.0,
            "modality_dropout": 0.0,
            "seed": 0,
        }
    )


@pytest.fixture
def make(config):
    """Makes a classifier from the config as it is when this is called."""

    def make_classifier(seed=0, levels=LEVELS, modalities=CHANNELS):
        guidance = [(TIMESTEPS, channels) for channels in levels]
        return GuidedClassifier(config, modalities=modalities, guidance=guidance, classes=CLASSES, rngs=nnx.Rngs(seed))

    return make_classifier


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def patches():
    """Images by modality and guidance by level for a batch of four patches."""
    images = {name: random(i, 4, 5, 5, c) for i, (name, c) in enumerate(CHANNELS.items())}
    guidance = [random(10 + i, 4, 5, 5, TIMESTEPS, c).astype(jnp.bfloat16) for i, c in enumerate(LEVELS)]
    return images, guidance


@pytest.fixture
def data():
    """A scene of 16 by 16 pixels; every pixel of its left half is a training pixel."""
    labels = np.random.default_rng(0).integers(0, CLASSES, (16, 16)).astype(np.int32)
    labels[:, 8:] = -1
    return {
        "images": {name: random(i, 16, 16, c) for i, (name, c) in enumerate(CHANNELS.items())},
        "guidance": tuple(random(10 + i, 16, 16, TIMESTEPS, c).astype(jnp.bfloat16) for i, c in enumerate(LEVELS)),
        "labels": jnp.asarray(labels),
        "class_weights": jnp.ones(CLASSES),
    }

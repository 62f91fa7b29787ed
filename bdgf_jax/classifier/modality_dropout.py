"""Classifier training that loses a sensor now and then, so that a map can be made without it [ours].

In a sample whose modality is hidden, its patch is 0 where the branches' stems read it, and the guidance is what the
DDPM and the context give of the scene without it. Features cannot be computed for a sample in passing, since the
denoiser sees far beyond a patch; so there are as many sets of them as modalities, and one of all, made before the
training, which needs that many times the memory. Two modalities are never hidden at once: a map without two is asked
of a classifier that has seen each of them missing alone.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bdgf_jax.errors import InputError


def check_probability(probability: float) -> None:
    """Raises an InputError unless `train.modality_dropout` is a probability."""
    if not 0.0 <= probability <= 1.0:
        raise InputError(f"train.modality_dropout is a probability, expected 0 to 1, got {probability}.")


def draw_hidden(key: PRNGKeyArray, count: int, *, modalities: int, probability: float) -> Int[Array, " count"]:
    """What each sample loses: 0 for nothing or, with this probability, the number of a modality, counted from 1."""
    for_whether, for_which = jax.random.split(key)
    which = jax.random.randint(for_which, (count,), 1, modalities + 1)
    return jnp.where(jax.random.bernoulli(for_whether, probability, (count,)), which, 0)


def hide(images: Mapping[str, Float[Array, "b p p _"]], hidden: Int[Array, " b"]) -> dict[str, Float[Array, "b p p _"]]:
    """Patches by modality, 0 where the sample has lost it."""
    return {
        name: jnp.where((hidden == index)[:, None, None, None], jnp.zeros_like(image), image)
        for index, (name, image) in enumerate(images.items(), start=1)
    }


def choose(guidance: Sequence[Float[Array, "b p p v _ _"]], hidden: Int[Array, " b"]) -> tuple[Array, ...]:
    """Each sample's guidance (b p p t d) at every level, out of the v sets: of all modalities, then without each."""
    return tuple(jax.vmap(lambda patch, which: patch[:, :, which])(level, hidden) for level in guidance)

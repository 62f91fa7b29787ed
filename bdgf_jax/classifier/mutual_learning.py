"""Mutual learning between the branches: aligned entropy and aligned features [paper: arXiv 2509.23310]."""

from collections.abc import Mapping
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bdgf_jax.errors import InputError

ALIGNMENTS = ("both", "entropy", "divergence")
SIMILARITIES = ("cosine", "relational")


def normalised_entropy(logits: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    """H = -Σ_k p_k log p_k / log K in [0, 1] of p = softmax(logits)."""
    log_probabilities = nnx.log_softmax(logits)
    return -(jnp.exp(log_probabilities) * log_probabilities).sum(-1) / jnp.log(logits.shape[-1])


def entropy_loss(
    logits: Mapping[str, Float[Array, "*b k"]], *, alignment: str = "both", sure_teachers: bool = False
) -> Float[Array, ""]:
    """How far the branches' certainties and predictions lie apart.

        Σ_{b<b'} mean (H_b - H_b')²  +  Σ_{b≠b'} mean w_b' KL(stop(p_b') ‖ p_b).

    In the first sum the gradient is stopped at the surer branch of each pixel, else both could agree by going flat. The
    second is deep mutual learning, arXiv 1706.00384 [kin], with w_b' = exp(-stop(H_b')) where sure teachers shall count
    more, else 1.

    Args:
      logits: those of each branch for the same pixels.
      alignment: `both` sums, or only the first (`entropy`) or the second (`divergence`).
      sure_teachers: whether a teacher's certainty weighs its lessons.

    Raises:
      InputError: if `alignment` is unknown.
    """
    if alignment not in ALIGNMENTS:
        raise InputError(f"classifier.mutual.alignment is '{alignment}'; expected one of {', '.join(ALIGNMENTS)}.")
    loss = jnp.zeros(())
    if alignment != "divergence":
        entropies = {name: normalised_entropy(values) for name, values in logits.items()}
        for one, other in combinations(entropies.values(), 2):
            surer = jax.lax.stop_gradient(jnp.minimum(one, other))
            loss = loss + ((jnp.maximum(one, other) - surer) ** 2).mean()
    if alignment != "entropy":
        for student, teacher in permutations(logits.values(), 2):
            loss = loss + divergence(jax.lax.stop_gradient(teacher), student, sure_teachers).mean()
    return loss


def divergence(teacher: Float[Array, "*b k"], student: Float[Array, "*b k"], sure_teachers: bool) -> Float[Array, "*b"]:
    """w KL(softmax(teacher) ‖ softmax(student)), in nats."""
    log_teacher = nnx.log_softmax(teacher)
    lesson = (jnp.exp(log_teacher) * (log_teacher - nnx.log_softmax(student))).sum(-1)
    return lesson * jnp.exp(-normalised_entropy(teacher)) if sure_teachers else lesson


def similarity_loss(embeddings: Mapping[str, Float[Array, "b d"]], *, kind: str = "cosine") -> Float[Array, ""]:
    """How unlike the branches' features are.

    `cosine`: Σ_{b<b'} mean (1 - cos(z_b, z_b')). `relational`: Σ_{b<b'} mean (S_b - S_b')² with S_b the matrix of
    cosine similarities between the patches of the batch, arXiv 1907.09682 [kin]; it asks the branches to agree on which
    patches are alike, and leaves each its own features.

    Raises:
      InputError: if `kind` is unknown.
    """
    if kind not in SIMILARITIES:
        raise InputError(f"classifier.mutual.kind is '{kind}'; expected one of {', '.join(SIMILARITIES)}.")
    units = [
        embedding * jax.lax.rsqrt((embedding**2).sum(-1, keepdims=True) + 1e-12) for embedding in embeddings.values()
    ]
    loss = jnp.zeros(())
    for one, other in combinations(units, 2):
        if kind == "cosine":
            loss = loss + (1.0 - (one * other).sum(-1)).mean()
        else:
            loss = loss + ((one @ one.T - other @ other.T) ** 2).mean()
    return loss

"""The classifier's objective: what the training loop calls at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from bdgf_jax.classifier.augmentation import jitter, random_symmetries, transform
from bdgf_jax.classifier.modality_dropout import check_probability, choose, draw_hidden, hide
from bdgf_jax.classifier.model import Predictions
from bdgf_jax.classifier.mutual_learning import entropy_loss, similarity_loss
from bdgf_jax.errors import InputError

BALANCES = ("none", "weighted", "balanced")


def classification_objective(
    graph: nnx.GraphDef,
    classifier: Any,
    train: Any,
    *,
    gather: Callable[[Any, Int[Array, "b 2"], int], Any],
) -> Callable:
    """Makes `objective(parameters, carry, data, centres, key, step) -> (loss, (terms, carry))`.

        loss = Σ_b CE(logits_b, y) + CE(fused, y) + r (λ_e L_entropy + λ_s L_similarity),

    with r rising linearly from 0 to 1 over the first `mutual.ramp` of the steps, so that branches first learn something
    to teach. Of the s×s pixels that a patch predicts, the loss counts the one that was drawn, which lies anywhere among
    them: each training pixel weighs the same whatever s is, also where its neighbours are labelled [ours].

    L_entropy and L_similarity need no labels. With `mutual.unlabelled` they are means over that many patches from
    anywhere in the scene beside each labelled one [ours].

    Args:
      graph: the classifier's graph from `nnx.split`; `parameters` is the state beside it.
      classifier: the `classifier` section; here `patch`, `centre` and `mutual` are read.
      train: the `train` section; here `steps`, `augment`, `jitter`, `class_balance`, `label_smoothing` and
        `modality_dropout` are read.
      gather: `gather(arrays, centres, side)`, patches (b side side …) around the centres from scene arrays (h w …).

    The objective's `data` holds `images` (by modality, h w c), `guidance` (levels, h w t d), `labels` (h w, int32, -1
    wherever there is no training pixel), `class_weights` (k,), which are read where `class_balance` is `weighted`, and
    `unlabelled` (n, 2), rows and columns of pixels without labels, where `mutual.unlabelled` asks for some.
    With `modality_dropout`, the levels are (h w v t d), see `modality_dropout.choose`.

    Raises:
      InputError: if `train.class_balance` is unknown, or `train.modality_dropout` no probability.
    """
    if train.class_balance not in BALANCES:
        raise InputError(f"train.class_balance is '{train.class_balance}'; expected one of {', '.join(BALANCES)}.")
    mutual, dropout = classifier.mutual, train.modality_dropout
    check_probability(dropout)

    def objective(parameters, carry, data, centres, key, step):
        shift_key, symmetry_key, jitter_key, dropout_key = jax.random.split(key, 4)
        if mutual.unlabelled:
            shape = (mutual.unlabelled * len(centres),)
            drawn = jax.random.randint(jax.random.fold_in(key, 5), shape, 0, len(data["unlabelled"]))
            centres = jnp.concatenate([centres, data["unlabelled"][drawn]])
        shifted = shift(centres, shift_key, side=classifier.centre, shape=data["labels"].shape)
        patches = gather((data["images"], data["guidance"]), shifted, classifier.patch)
        labels = alone(gather(data["labels"], centres, 1), centres - shifted, side=classifier.centre)
        hidden = None
        if dropout:
            hiding_key = jax.random.fold_in(key, 4)
            hidden = draw_hidden(hiding_key, len(centres), modalities=len(data["images"]), probability=dropout)
            patches = patches[0], choose(patches[1], hidden)
        if train.augment:
            patches, labels = transform((patches, labels), random_symmetries(symmetry_key, len(centres)))
        images, guidance = jitter(patches, jitter_key, train.jitter)
        images = images if hidden is None else hide(images, hidden)
        predictions = nnx.merge(graph, parameters)(images, guidance, rngs=nnx.Rngs(dropout=dropout_key))
        weights = data["class_weights"] if train.class_balance == "weighted" else None
        terms = loss_terms(predictions, labels, weights, mutual=mutual, smoothing=train.label_smoothing)
        ramp = jnp.minimum(step.astype(jnp.float32) / max(1.0, mutual.ramp * train.steps), 1.0)
        factors = {"loss/entropy": mutual.entropy * ramp, "loss/similarity": mutual.similarity * ramp}
        loss = sum(factors.get(name, 1.0) * term for name, term in terms.items())
        return loss, (terms, carry)

    return objective


def loss_terms(
    predictions: Predictions,
    labels: Int[Array, "b s s"],
    weights: Float[Array, " k"] | None,
    *,
    mutual: Any,
    smoothing: float,
) -> dict[str, Float[Array, ""]]:
    """Every term of the loss, before its factor: `loss/<branch>`, `loss/fused`, `loss/entropy`, `loss/similarity`."""
    classification = {**predictions.logits, "fused": predictions.fused}
    terms = {
        f"loss/{name}": cross_entropy(logits, labels, weights, smoothing=smoothing)
        for name, logits in classification.items()
    }
    terms["loss/entropy"] = entropy_loss(
        predictions.logits, alignment=mutual.alignment, sure_teachers=mutual.sure_teachers
    )
    terms["loss/similarity"] = similarity_loss(predictions.embeddings, kind=mutual.kind)
    return terms


def cross_entropy(
    logits: Float[Array, "*b k"], labels: Int[Array, "*b"], weights: Float[Array, " k"] | None, *, smoothing: float
) -> Float[Array, ""]:
    """Mean cross-entropy over the labelled pixels (label ≥ 0), in nats; 0 where there are none.

    The target is (1 - smoothing) onehot(y) + smoothing / K. With class weights w it is Σ w_y CE / Σ w_y.
    """
    log_probabilities = nnx.log_softmax(logits)
    classes = jnp.maximum(labels, 0)
    target = jnp.take_along_axis(log_probabilities, classes[..., None], axis=-1)[..., 0]
    losses = -(1.0 - smoothing) * target - smoothing * log_probabilities.mean(-1)
    counts = (labels >= 0).astype(losses.dtype)
    if weights is not None:
        counts = counts * weights[classes]
    return (counts * losses).sum() / jnp.maximum(counts.sum(), jnp.finfo(losses.dtype).tiny)


def shift(centres: Int[Array, "b 2"], key: PRNGKeyArray, *, side: int, shape: tuple[int, ...]) -> Int[Array, "b 2"]:
    """Moves each patch at random so that its pixel comes to lie anywhere in the centre side×side, inside the scene."""
    reach = side // 2
    if reach == 0:
        return centres
    offsets = jax.random.randint(key, centres.shape, -reach, reach + 1, centres.dtype)
    last = jnp.broadcast_to(jnp.asarray(shape, centres.dtype) - 1, centres.shape)
    return jnp.clip(centres + offsets, 0, last)


def alone(labels: Int[Array, "b 1 1"], offsets: Int[Array, "b 2"], *, side: int) -> Int[Array, "b s s"]:
    """Labels of the centre side×side, in which only the pixel that lies `offsets` off the middle has one."""
    at = offsets + side // 2
    places = jnp.arange(side, dtype=at.dtype)
    there = (places[None, :, None] == at[:, :1, None]) & (places[None, None, :] == at[:, 1:, None])
    return jnp.where(there, labels, -1)

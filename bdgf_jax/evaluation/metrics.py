"""Agreement of a map with its reference: confusion matrix, overall and average accuracy, Cohen's kappa."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bdgf_jax.errors import InputError

FIGURES = ("oa", "aa", "kappa")
"""What a map is summed up by, as `scores` names them."""


def confusion_matrix(
    reference: Int[np.ndarray, " n"], prediction: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Counts n_ij of pixels that are class i in the reference (rows) and class j on the map (columns).

    Raises:
      InputError: there is no pixel, or a label lies outside 0 … classes − 1.
    """
    if not reference.size:
        raise InputError(
            "No pixel to evaluate on: the split left no test pixels with a label and valid data;"
            " lower scene.split.guard or scene.split.train_blocks, or check the test mask."
        )
    for name, labels in (("reference", reference), ("map", prediction)):
        if labels.min() < 0 or labels.max() >= classes:
            raise InputError(
                f"The {name} has labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1};"
                " evaluate at pixels that are labelled and mapped."
            )
    pairs = reference.astype(np.int64) * classes + prediction
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def agreement(reference: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n k"]) -> dict[str, Any]:
    """`scores` of the most probable classes; raises as `confusion_matrix` does."""
    predicted = probabilities.argmax(-1).astype(np.int32)
    return scores(confusion_matrix(reference, predicted, probabilities.shape[-1]))


def scores(confusion: Int[np.ndarray, "k k"]) -> dict[str, Any]:
    """Accuracies of a confusion matrix n_ij, as fractions.

        OA = Σ_i n_ii / n,    p_i = n_ii / n_i·,    AA = mean of p_i over the classes with n_i· > 0,
        κ = (OA − p_e) / (1 − p_e),    p_e = Σ_i n_i· n_·i / n².

    p_i is the producer's accuracy (recall). A class without reference pixels has p_i = nan; κ is nan where chance
    alone explains everything, that is where reference and map hold one and the same class.

    Returns:
      "oa", "aa", "kappa" and "per_class", the list of p_i.

    Raises:
      InputError: the matrix counts no pixel.
    """
    counts = confusion.astype(np.float64)
    total = counts.sum()
    if not total:
        raise InputError("The confusion matrix is empty: there are no test pixels to evaluate on.")
    reference, mapped = counts.sum(axis=1), counts.sum(axis=0)
    agreement = np.trace(counts) / total
    chance = reference @ mapped / total**2
    per_class = np.divide(np.diag(counts), reference, out=np.full(len(counts), np.nan), where=reference > 0)
    return {
        "oa": float(agreement),
        "aa": float(np.nanmean(per_class)),
        "kappa": float((agreement - chance) / (1.0 - chance)) if chance < 1.0 else float("nan"),
        "per_class": per_class.tolist(),
    }


def users_accuracy(confusion: Int[np.ndarray, "k k"]) -> Float[np.ndarray, " k"]:
    """n_jj / n_·j, the share of a mapped class that is right (precision); nan for classes that the map never shows."""
    mapped = confusion.sum(axis=0).astype(np.float64)
    return np.divide(np.diag(confusion), mapped, out=np.full(len(mapped), np.nan), where=mapped > 0)

"""Two answers to classes of unequal size: weights in the loss, or repeats among the training pixels."""

import numpy as np
from jaxtyping import Float, Int


def class_weights(labels: Int[np.ndarray, "h w"], classes: int) -> Float[np.ndarray, " k"]:
    """Weights inverse to each class's number of pixels, such that a training pixel weighs 1 in the mean.

    Args:
      labels: -1 wherever there is no training pixel; a class without any weighs 0.
      classes: number k of classes.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def balanced_candidates(
    candidates: Int[np.ndarray, "n 2"], labels: Int[np.ndarray, "h w"], *, seed: int = 0
) -> Int[np.ndarray, "m 2"]:
    """Repeats the training pixels of small classes until every class has as many as the largest.

    Every pixel of a class comes equally often, give or take one; which ones come once more is drawn with `seed`.

    Args:
      candidates: rows and columns of the training pixels.
      labels: the scene's, ≥ 0 at every candidate.
      seed: of the draw.
    """
    classes = labels[candidates[:, 0], candidates[:, 1]]
    largest = np.bincount(classes).max()
    generator = np.random.default_rng(seed)
    repeated = [
        np.resize(generator.permutation(np.flatnonzero(classes == label)), largest) for label in np.unique(classes)
    ]
    return candidates[np.concatenate(repeated)]

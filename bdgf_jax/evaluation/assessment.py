"""Accuracy assessment of a map at the scene's test pixels, as `metrics.json` holds it."""

import math
from typing import Any

import numpy as np
from jaxtyping import Int

from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.scenes.scene import Scene
from bdgf_jax.scenes.splits import within_reach


def assess(scene: Scene, prediction: Int[np.ndarray, "h w"], *, reach: int) -> dict[str, Any]:
    """Scores of a map at the test pixels, and what remains of them away from the training pixels.

    Where patches of side P round a test and a training pixel share pixels, the test pixel was partly seen in
    training, which flatters: so the overall accuracy is also given without the test pixels that lie within `reach`
    of a training pixel, P − 1 for patches of side P.

    Returns:
      What `metrics.json` holds, seed and seconds excepted: fractions in 0 … 1, None where a figure is undefined.

    Raises:
      InputError: there are no test pixels.
    """
    test, classes = scene.masks["test"], len(scene.classes)
    confusion = confusion_matrix(scene.labels[test], prediction[test], classes)
    figures = scores(confusion)
    overlapping = test & within_reach(scene.masks["train"], reach)
    apart = test & ~overlapping
    hits = prediction[apart] == scene.labels[apart]
    return {
        "oa": figures["oa"],
        "aa": figures["aa"],
        "kappa": _defined(figures["kappa"]),
        "per_class": {cover.name: _defined(p) for cover, p in zip(scene.classes, figures["per_class"])},
        "confusion": confusion.tolist(),
        "n_train": int(scene.masks["train"].sum()),
        "n_test": int(test.sum()),
        "overlapping_test_pixels": int(overlapping.sum()),
        "oa_without_overlap": float(hits.mean()) if hits.size else None,
    }


def _defined(figure: float) -> float | None:
    return None if math.isnan(figure) else figure

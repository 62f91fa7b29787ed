"""Accuracy assessment of a map at the scene's test pixels, as `metrics.json` holds it."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bdgf_jax.evaluation.calibration import error_detection, expected_calibration_error, reliability
from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.scenes.scene import Scene
from bdgf_jax.scenes.splits import within_reach


def assess(
    scene: Scene,
    prediction: Int[np.ndarray, "h w"],
    *,
    reach: int,
    confidence: Float[np.ndarray, "h w"] | None = None,
    disagreement: Float[np.ndarray, "h w"] | None = None,
) -> dict[str, Any]:
    """Scores of a map at the test pixels, and what remains of them away from the training pixels.

    Where patches of side P round a test and a training pixel share pixels, the test pixel was partly seen in
    training, which flatters: so the overall accuracy is also given without the test pixels that lie within `reach`
    of a training pixel, P − 1 for patches of side P.

    Args:
      scene: its test pixels are the reference.
      prediction: class of each pixel, -1 for nodata.
      reach: see above.
      confidence: probability of the class that the map shows, where it is known.
      disagreement: of the branches, in 0 … 1, where it is known.

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
    right = prediction[test] == scene.labels[test]
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
        "ece": None if confidence is None else expected_calibration_error(reliability(confidence[test], right)),
        "confidence": None if confidence is None else _confidence(confidence[test], right),
        "disagreement": None if disagreement is None else _disagreement(disagreement[test], right),
    }


def _confidence(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    return {
        "mean": float(confidence.mean(dtype=np.float64)),
        "finds_errors": error_detection(-confidence, right),
        "reliability": reliability(confidence, right),
    }


def _disagreement(disagreement: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> dict[str, float | None]:
    mean = lambda of: float(disagreement[of].mean(dtype=np.float64)) if of.any() else None
    return {"right": mean(right), "wrong": mean(~right), "finds_errors": error_detection(disagreement, right)}


def _defined(figure: float) -> float | None:
    return None if math.isnan(figure) else figure

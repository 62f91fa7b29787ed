"""Accuracy assessment of a map at the scene's test pixels, as `metrics.json` holds it."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bdgf_jax.evaluation.area_estimation import estimate_areas
from bdgf_jax.evaluation.calibration import error_detection, expected_calibration_error, reliability
from bdgf_jax.evaluation.intervals import block_bootstrap_interval
from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.scenes.ground import hectares_per_pixel
from bdgf_jax.scenes.inspection import overlapping_test_pixels
from bdgf_jax.scenes.scene import Scene
from bdgf_jax.scenes.splits import block_index


def assess(
    scene: Scene,
    prediction: Int[np.ndarray, "h w"],
    *,
    patch: int,
    block: int,
    probability_sample: bool = False,
    confidence: Float[np.ndarray, "h w"] | None = None,
    disagreement: Float[np.ndarray, "h w"] | None = None,
) -> dict[str, Any]:
    """Scores of a map at the test pixels, and what remains of them away from the training pixels.

    Where the patches round a test and a training pixel share pixels, the test pixel was partly seen in training, which
    flatters: so the overall accuracy is also given without such test pixels.

    Args:
      scene: its test pixels are the reference.
      prediction: class of each pixel, -1 for nodata.
      patch: side of the square round a pixel that its prediction may have seen.
      block: side of the blocks that the interval of the overall accuracy resamples, in pixels.
      probability_sample: whether the test pixels were drawn at random from all of the scene, or from each class of this
        map, so that areas and accuracies of the whole scene can be estimated from them.
      confidence: probability of the class that the map shows, where it is known.
      disagreement: of the branches, in 0 … 1, where it is known.

    Returns:
      What `metrics.json` holds, seed and seconds excepted: fractions in 0 … 1, None where a figure is undefined.

    A class without test pixels has no accuracy, and average accuracy is the mean over the others.

    Raises:
      InputError: there are no test pixels, or too few of a class to estimate its area from.
    """
    test, classes = scene.masks["test"], len(scene.classes)
    confusion = confusion_matrix(scene.labels[test], prediction[test], classes)
    figures = scores(confusion)
    overlapping = overlapping_test_pixels(scene, patch)
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
        "oa_interval": block_bootstrap_interval(right, block_index(scene.shape, block)[test]),
        "classes_without_test_pixels": [
            cover.name for cover, tested in zip(scene.classes, confusion.sum(axis=1)) if not tested
        ],
        "area_adjusted": _areas(scene, prediction, confusion) if probability_sample else None,
        "ece": None if confidence is None else expected_calibration_error(reliability(confidence[test], right)),
        "confidence": None if confidence is None else _confidence(confidence[test], right),
        "disagreement": None if disagreement is None else _disagreement(disagreement[test], right),
    }


def _areas(scene: Scene, prediction: Int[np.ndarray, "h w"], confusion: Int[np.ndarray, "k k"]) -> dict[str, Any]:
    mapped = np.bincount(prediction[prediction >= 0], minlength=len(scene.classes))
    found = estimate_areas(confusion, mapped)
    pair = lambda value, margin: {"estimate": _defined(float(value)), "margin": _defined(float(margin))}
    return {
        "oa": pair(found.oa, found.oa_margin),
        "pixels": int(mapped.sum()),
        "hectares_per_pixel": hectares_per_pixel(scene),
        "per_class": {
            cover.name: {
                "mapped": float(mapped[k] / mapped.sum()),
                "area": pair(found.areas[k], found.areas_margin[k]),
                "users": pair(found.users[k], found.users_margin[k]),
                "producers": pair(found.producers[k], found.producers_margin[k]),
            }
            for k, cover in enumerate(scene.classes)
        },
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

import dataclasses
import json

import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.assessment import assess


def test_the_reference_itself_scores_full_marks(scene):
    figures = assess(scene, scene.labels, reach=4)
    assert figures["oa"] == figures["aa"] == figures["kappa"] == figures["oa_without_overlap"] == 1.0
    assert figures["per_class"] == {"water": 1.0, "<b>&": 1.0, "roof": 1.0}
    assert figures["n_train"] == scene.masks["train"].sum()
    assert figures["n_test"] == np.sum(figures["confusion"]) == scene.masks["test"].sum()


def test_errors_near_training_pixels_are_told_from_errors_far_away(scene):
    """Training pixels fill columns up to 23: with a reach of 10, test pixels up to column 33 are near."""
    prediction = scene.labels.copy()
    near = scene.masks["test"] & (np.arange(56) <= 33)
    prediction[near] = (prediction[near] + 1) % 3
    figures = assess(scene, prediction, reach=10)
    assert figures["overlapping_test_pixels"] == near.sum()
    assert figures["oa"] == pytest.approx(1 - near.sum() / scene.masks["test"].sum())
    assert figures["oa_without_overlap"] == 1.0


def test_figures_without_meaning_are_null_in_json(scene):
    labels = np.where(scene.labels >= 0, 0, -1).astype(np.int32)
    figures = assess(dataclasses.replace(scene, labels=labels), labels, reach=100)
    assert json.loads(json.dumps(figures, allow_nan=False))["kappa"] is None
    assert figures["per_class"] == {"water": 1.0, "<b>&": None, "roof": None}
    assert figures["oa_without_overlap"] is None


def test_confidence_and_disagreement_are_judged_at_the_test_pixels_alone(scene):
    prediction, test = scene.labels.copy(), scene.masks["test"]
    rows, columns = np.nonzero(test)
    wrong = np.zeros(scene.shape, bool)
    wrong[rows[::4], columns[::4]] = True
    prediction[wrong] = (prediction[wrong] + 1) % 3
    confidence = np.where(test, np.where(wrong, 0.5, 0.9), -1.0).astype(np.float32)
    figures = assess(
        scene, prediction, reach=4, confidence=confidence, disagreement=np.where(test, 1.0 - confidence, 99.0)
    )
    share = wrong.sum() / test.sum()
    assert figures["ece"] == pytest.approx(share * 0.5 + (1 - share) * 0.1, abs=1e-6)
    assert figures["confidence"]["mean"] == pytest.approx(share * 0.5 + (1 - share) * 0.9, abs=1e-6)
    assert figures["confidence"]["finds_errors"] == figures["disagreement"]["finds_errors"] == 1.0
    assert figures["disagreement"]["right"] == pytest.approx(0.1)
    assert figures["disagreement"]["wrong"] == pytest.approx(0.5)
    unknown = assess(scene, prediction, reach=4)
    assert unknown["ece"] is unknown["confidence"] is unknown["disagreement"] is None


def test_a_scene_without_test_pixels_is_refused(scene):
    masks = scene.masks | {"test": np.zeros(scene.shape, bool)}
    with pytest.raises(InputError, match="no test pixels"):
        assess(dataclasses.replace(scene, masks=masks), scene.labels, reach=4)

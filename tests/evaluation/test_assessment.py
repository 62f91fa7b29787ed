import dataclasses
import json

import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.assessment import assess


def test_the_reference_itself_scores_full_marks(scene):
    figures = assess(scene, scene.labels, patch=5, block=8)
    assert figures["oa"] == figures["aa"] == figures["kappa"] == figures["oa_without_overlap"] == 1.0
    assert figures["per_class"] == {"water": 1.0, "<b>&": 1.0, "roof": 1.0}
    assert figures["n_train"] == scene.masks["train"].sum()
    assert figures["n_test"] == np.sum(figures["confusion"]) == scene.masks["test"].sum()


def test_errors_near_training_pixels_are_told_from_errors_far_away(scene):
    """Training pixels fill columns up to 23: patches of 11 overlap those of test pixels up to column 33."""
    prediction = scene.labels.copy()
    near = scene.masks["test"] & (np.arange(56) <= 33)
    prediction[near] = (prediction[near] + 1) % 3
    figures = assess(scene, prediction, patch=11, block=8)
    assert figures["overlapping_test_pixels"] == near.sum()
    assert figures["oa"] == pytest.approx(1 - near.sum() / scene.masks["test"].sum())
    assert figures["oa_without_overlap"] == 1.0


def test_figures_without_meaning_are_null_in_json(scene):
    labels = np.where(scene.labels >= 0, 0, -1).astype(np.int32)
    figures = assess(dataclasses.replace(scene, labels=labels), labels, patch=101, block=8)
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
        scene, prediction, patch=5, block=8, confidence=confidence, disagreement=np.where(test, 1.0 - confidence, 99.0)
    )
    share = wrong.sum() / test.sum()
    assert figures["ece"] == pytest.approx(share * 0.5 + (1 - share) * 0.1, abs=1e-6)
    assert figures["confidence"]["mean"] == pytest.approx(share * 0.5 + (1 - share) * 0.9, abs=1e-6)
    assert figures["confidence"]["finds_errors"] == figures["disagreement"]["finds_errors"] == 1.0
    assert figures["disagreement"]["right"] == pytest.approx(0.1)
    assert figures["disagreement"]["wrong"] == pytest.approx(0.5)
    unknown = assess(scene, prediction, patch=5, block=8)
    assert unknown["ece"] is unknown["confidence"] is unknown["disagreement"] is None


def test_the_interval_of_the_overall_accuracy_holds_it_and_needs_blocks(scene):
    prediction = scene.labels.copy()
    prediction[::3] = (prediction[::3] + 1) % 3
    prediction[scene.labels < 0] = -1
    low, high = assess(scene, prediction, patch=5, block=8)["oa_interval"]
    assert low < assess(scene, prediction, patch=5, block=8)["oa"] < high
    assert assess(scene, prediction, patch=5, block=40)["oa_interval"] is None


def test_classes_without_test_pixels_are_named_and_left_out_of_the_average(scene):
    masks = scene.masks | {"test": scene.masks["test"] & (scene.labels != 2)}
    figures = assess(dataclasses.replace(scene, masks=masks), scene.labels, patch=5, block=8)
    assert figures["classes_without_test_pixels"] == ["roof"]
    assert figures["aa"] == 1.0
    assert figures["per_class"]["roof"] is None


def test_areas_are_estimated_only_from_a_declared_sample(scene):
    """A map that calls every pixel of water one of roof: as much of it is found in the sample as was mapped."""
    prediction = np.where(scene.labels == 0, 2, scene.labels).astype(np.int32)
    assert assess(scene, prediction, patch=5, block=8)["area_adjusted"] is None
    areas = assess(scene, prediction, patch=5, block=8, probability_sample=True)["area_adjusted"]
    test = scene.labels[scene.masks["test"]]
    roofs = (prediction == 2).sum() / (prediction >= 0).sum()
    expected = roofs * (test == 0).sum() / ((test == 0) | (test == 2)).sum()
    assert areas["per_class"]["water"]["area"]["estimate"] == pytest.approx(expected)
    assert areas["per_class"]["water"]["mapped"] == 0.0
    assert areas["per_class"]["water"]["users"]["estimate"] is None
    assert areas["hectares_per_pixel"] == pytest.approx(0.01)
    json.dumps(areas, allow_nan=False)


def test_a_scene_without_test_pixels_is_refused(scene):
    masks = scene.masks | {"test": np.zeros(scene.shape, bool)}
    with pytest.raises(InputError, match="no test pixels"):
        assess(dataclasses.replace(scene, masks=masks), scene.labels, patch=5, block=8)

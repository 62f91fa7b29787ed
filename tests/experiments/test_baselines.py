import dataclasses

import numpy as np
import pytest

from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.scenes.splits import Blocks, split_blocks
from bdgf_jax.scenes.synthetic import synthetic_scene
from experiments.baselines import METHODS, VOTERS, baseline_features, baselines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene():
    scene = synthetic_scene(height=64, width=64, bands=12, classes=4, seed=0)
    split = split_blocks(scene.labels, Blocks(side=8, per_class=30, guard=2))
    return dataclasses.replace(scene, masks=split.masks)


@pytest.fixture(scope="module")
def features(scene):
    return baseline_features(scene)


@pytest.fixture(scope="module")
def probabilities(scene, features):
    return baselines(scene, features, seed=0, methods=(*METHODS, *VOTERS))


def test_balanced_features_give_every_modality_the_same_variance(scene, features):
    variance = np.bincount(features.modality, features.balanced.var(axis=0))
    np.testing.assert_allclose(variance, np.ones(len(scene.modalities)), rtol=1e-4)


def test_bands_come_first_and_are_standardised(scene, features):
    stacked = np.concatenate([modality.image for modality in scene.modalities.values()], axis=-1)
    expected = stacked[scene.labels >= 0].astype(np.float64)
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    np.testing.assert_allclose(features.bands, expected, atol=1e-3)
    np.testing.assert_array_equal(features.modality[: features.band_count], [0] * 12 + [1] * 2 + [2])


@pytest.mark.parametrize("method", METHODS)
def test_a_method_beats_chance_and_says_how_sure_it_is(scene, probabilities, method):
    given = probabilities[method]
    assert given.shape == (scene.masks["test"].sum(), 4)
    np.testing.assert_allclose(given.sum(axis=1), 1.0, rtol=1e-5)
    confusion = confusion_matrix(scene.labels[scene.masks["test"]], given.argmax(axis=1).astype(np.int32), 4)
    assert scores(confusion)["aa"] > 0.6


def test_the_vote_is_the_mean_of_its_voters(probabilities):
    mean = np.mean([probabilities[voter] for voter in VOTERS], axis=0)
    np.testing.assert_allclose(probabilities["soft_vote"], mean, rtol=1e-6)


def test_labels_of_test_pixels_are_never_looked_at(scene, features, probabilities):
    labels = scene.labels.copy()
    labels[scene.masks["test"]] = np.random.default_rng(0).permutation(labels[scene.masks["test"]])
    other = dataclasses.replace(scene, labels=labels)
    methods = ("rf_pixels", "svm_profiles", "lda_profiles")
    again = baselines(other, baseline_features(other), seed=0, methods=methods)
    for method in methods:
        np.testing.assert_allclose(again[method], probabilities[method], rtol=1e-5)


def test_a_class_without_training_pixels_is_never_predicted(scene, features):
    train = scene.masks["train"] & (scene.labels != 1)
    other = dataclasses.replace(scene, masks=scene.masks | {"train": train})
    for chances in baselines(other, features, seed=0, methods=("svm_pixels", "lda_profiles")).values():
        assert (chances[:, 1] == 0.0).all()
        np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-5)


def test_two_classes_are_told_apart_too(scene, features):
    two = scene.labels < 2
    masks = {name: mask & two for name, mask in scene.masks.items()}
    given = baselines(dataclasses.replace(scene, masks=masks), features, seed=0, methods=("svm_pixels",))["svm_pixels"]
    assert (given.argmax(axis=1) == scene.labels[masks["test"]]).mean() > 0.7


def test_features_of_a_scene_with_fewer_labels_are_refused(scene, features):
    fewer = dataclasses.replace(features, rows=np.where(scene.labels == 2, -1, features.rows))
    with pytest.raises(ValueError, match="compute them anew"):
        baselines(scene, fewer, seed=0, methods=("lda_profiles",))

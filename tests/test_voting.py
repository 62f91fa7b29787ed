"""The cheap vote, against its voters one by one."""

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from bdgf_jax import configuration, extraction
from bdgf_jax.errors import InputError
from bdgf_jax.run import open_run
from bdgf_jax.voting import TREES, vote


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = configuration.load("demo:tiny", ["--config.features.source=none"])
    return open_run(config, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def guidance(run):
    return extraction.features(run)


@pytest.fixture(scope="module")
def votes(run, guidance):
    return vote(run, guidance, run.scene.masks["test"])


def test_wanted_pixels_get_probabilities_and_the_others_nothing(run, votes):
    test = run.scene.masks["test"]
    np.testing.assert_allclose(votes[test].sum(-1), 1.0, atol=1e-5)
    assert not votes[~test].any()


def test_it_is_better_than_chance_by_far(run, votes):
    test = run.scene.masks["test"]
    assert (votes[test].argmax(-1) == run.scene.labels[test]).mean() > 0.6


def test_the_forest_has_a_third_of_the_say(run, guidance, votes):
    """Of two votes by other forests, all else equal, a third of the difference between the forests is left."""
    other = dataclasses.replace(run, config=run.config.copy_and_resolve_references())
    other.config.train.seed = run.config.train.seed + 1
    train, test = run.scene.masks["train"], run.scene.masks["test"]
    context = guidance[-1].astype(np.float32).reshape(*run.scene.shape, -1)
    forest = lambda seed: (
        RandomForestClassifier(TREES, random_state=seed)
        .fit(context[train], run.scene.labels[train])
        .predict_proba(context[test])
    )
    seed = run.config.train.seed
    difference = (vote(other, guidance, test) - votes)[test]
    np.testing.assert_allclose(difference, (forest(seed + 1) - forest(seed)) / 3, atol=1e-5)


def test_labels_of_other_pixels_are_never_looked_at(run, guidance, votes):
    labels = np.where(run.scene.masks["train"], run.scene.labels, 0)
    other = dataclasses.replace(run, scene=dataclasses.replace(run.scene, labels=labels))
    np.testing.assert_array_equal(vote(other, guidance, run.scene.masks["test"]), votes)


def test_a_class_without_training_pixels_gets_nothing(run, guidance):
    masks = run.scene.masks | {"train": run.scene.masks["train"] & (run.scene.labels != 1)}
    other = dataclasses.replace(run, scene=dataclasses.replace(run.scene, masks=masks))
    assert not vote(other, guidance, run.scene.masks["test"])[..., 1].any()


def test_what_it_cannot_learn_from_is_said(run, guidance):
    nothing = run.scene.masks | {"train": np.zeros(run.scene.shape, bool)}
    untaught = dataclasses.replace(run, scene=dataclasses.replace(run.scene, masks=nothing))
    with pytest.raises(InputError, match=r"learns from training pixels, and '.*' has none"):
        vote(untaught, guidance, run.scene.masks["test"])
    config = run.config.copy_and_resolve_references()
    config.features.context.components = 0
    with pytest.raises(InputError, match=r"features\.context\.components = 0 leaves nothing"):
        vote(dataclasses.replace(run, config=config), (), run.scene.masks["test"])

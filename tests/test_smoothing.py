"""Smoothed maps: which radius is taken, what that needs to know, and what is told of it."""

import dataclasses

import numpy as np
import pytest

from bdgf_jax import caching, configuration, extraction, mapping, scoring
from bdgf_jax.cli import main
from bdgf_jax.errors import InputError
from bdgf_jax.fitting import check_training, train
from bdgf_jax.run import open_run, read_json
from bdgf_jax.smoothing import FILE, choose_radius, looked_at, smooth

SMALL = ["features.source=none", "classifier.stages=1", "classifier.branches=('cnn',)", "train.steps=30"]
OVERRIDES = [f"--config.{field}" for field in (*SMALL, "scene.split.validation_blocks=0.3")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(configuration.load("demo:tiny", OVERRIDES), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(run):
    guidance = extraction.features(run)
    train(run, guidance)
    return guidance


def smoothed_by(run, *radii):
    config = run.config.copy_and_resolve_references()
    config.predict.smoothing = radii
    return dataclasses.replace(run, config=config)


def blurred(run, flipped):
    """Probabilities that are right but for single pixels here and there, of which `flipped` is the share."""
    rng, classes = np.random.default_rng(0), len(run.classes)
    wrong = rng.integers(0, classes, run.scene.shape)
    labels = np.where(rng.uniform(size=run.scene.shape) < flipped, wrong, np.maximum(run.scene.labels, 0))
    return (0.9 * np.eye(classes, dtype=np.float32)[labels] + 0.1 / classes).astype(np.float32)


def test_probabilities_stay_probabilities_and_pixels_without_any_stay_without(run):
    probabilities = blurred(run, 0.2) * run.scene.valid[..., None]
    probabilities[:5] = 0.0
    filtered = smooth(run.images, probabilities, 3)
    predicted = probabilities.any(-1)
    assert filtered.min() >= 0.0
    np.testing.assert_allclose(filtered[predicted].sum(-1), 1.0, atol=1e-5)
    assert not filtered[~predicted].any()
    assert smooth(run.images, probabilities, 0) is probabilities


def test_the_radius_that_is_best_on_the_validation_pixels_is_taken(run):
    noisy, right = blurred(run, 0.3), blurred(run, 0.0)
    radius, reached = choose_radius(smoothed_by(run, 8, 0, 1), noisy)
    assert list(reached) == [0, 1, 8]
    assert reached[radius] == max(reached.values()) > reached[0]
    assert choose_radius(smoothed_by(run, 0, 1, 8), right)[0] == 0
    assert choose_radius(smoothed_by(run, 5), noisy) == (5, {})


@pytest.mark.slow
def test_a_map_is_smoothed_as_if_all_of_it_had_been_predicted(run, trained):
    """Only as much round the wanted pixels is predicted as they depend on."""
    asked, wanted = smoothed_by(run, 1, 2), run.scene.masks["test"] & (np.indices(run.scene.shape)[0] < 30)
    assert looked_at(asked, wanted).sum() < run.scene.valid.sum()
    whole, part = mapping.predict(asked, trained), mapping.predict(asked, trained, where=wanted)
    np.testing.assert_allclose(part["fused"][wanted], whole["fused"][wanted], atol=1e-5)
    assert not part["fused"][~wanted].any()
    plain = mapping.predict(run, trained)["fused"]
    np.testing.assert_array_equal(whole["rough"], plain)
    radius, _ = choose_radius(asked, plain)
    np.testing.assert_allclose(whole["fused"], smooth(run.images, plain, radius), atol=1e-6)


@pytest.mark.slow
def test_the_report_says_what_it_was_worth(run, trained):
    asked = smoothed_by(run, 0, 2)
    predictions = mapping.predict(asked, trained)
    scoring.score_smoothing(asked, predictions)
    mapping.write_maps(asked, predictions)
    metrics = scoring.evaluate(asked)
    found, test = metrics["smoothing"], run.scene.masks["test"]
    plain = (predictions["rough"][test].argmax(-1) == run.scene.labels[test]).mean()
    assert found["without"]["oa"] == pytest.approx(plain)
    assert set(found["validation_aa"]) == {"0", "2"}
    told = scoring.told_smoothing(found | {"radius": 2})
    assert "radius of 2, the best by its average accuracy on the validation pixels" in told
    assert f"{plain:.1%}" in told
    assert scoring.told_smoothing({"radius": 3, "validation_aa": {}, "without": None}).endswith("a radius of 3.")
    assert "not smoothed: no radius did better" in scoring.told_smoothing(found | {"radius": 0})
    scoring.score_smoothing(run, mapping.predict(run, trained))
    assert read_json(run.workdir / FILE) == {}


def test_a_choice_needs_validation_pixels(run, tmp_path):
    masks = run.scene.masks | {"validation": np.zeros(run.scene.shape, bool)}
    blind = dataclasses.replace(smoothed_by(run, 0, 2), scene=dataclasses.replace(run.scene, masks=masks))
    for check in (check_training, lambda run: looked_at(run, run.scene.valid)):
        with pytest.raises(InputError, match=r"predict\.smoothing is \(0, 2\), of which the validation pixels choose"):
            check(blind)
    check_training(smoothed_by(blind, 2))
    with pytest.raises(InputError, match="whole numbers of pixels"):
        check_training(smoothed_by(run, 2.5))


@pytest.mark.slow
def test_windows_take_one_radius(run, trained, capsys, monkeypatch):
    monkeypatch.setattr(caching, "use_compilation_cache", lambda: None)
    arguments = ["--config", "demo:tiny", "--workdir", str(run.workdir), *OVERRIDES]
    assert main(["predict", *arguments, "--config.predict.tile=64", "--config.predict.smoothing=(1,2)"]) == 2
    assert "predict.smoothing is (1, 2), of which validation pixels choose" in capsys.readouterr().err

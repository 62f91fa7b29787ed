"""Classifiers of many seeds that are trained together, and what is made of them."""

import json

import jax
import numpy as np
import pytest

from bdgf_jax import configuration, extraction, fitting, mapping, networks, scoring
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.run import open_run
from bdgf_jax.training.mesh import make_mesh

SEEDS = (5, 6)
OVERRIDES = [
    f"--config.{override}"
    for override in (
        "features.source=none",
        "features.context.components=1",
        "features.context.radii=(2,)",
        "features.context.windows=(3,)",
        "classifier.branches=('cnn',)",
        "classifier.patch=3",
        "classifier.stages=1",
        "classifier.direct.landmarks=64",
        "train.steps=6",
        "train.evaluate_every=0",
        "train.seed=5",
    )
]

pytestmark = pytest.mark.slow


def trained(workdir, *overrides):
    run = open_run(configuration.load("demo:tiny", [*OVERRIDES, *overrides]), workdir)
    guidance = extraction.features(run)
    return run, guidance, fitting.train(run, guidance)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Run, guidance and parameters of two seeds on eight devices."""
    return trained(tmp_path_factory.mktemp("together"), "--config.train.num_seeds=2", "--config.train.evaluate_every=6")


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    """The same of each seed by itself, on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "make_mesh", lambda axes, _: make_mesh(axes, jax.devices()[:1]))
        folder = tmp_path_factory.mktemp("singles")
        return [trained(folder / str(seed), f"--config.train.seed={seed}") for seed in SEEDS]


def test_members_come_to_what_single_runs_of_their_seeds_come_to(together, singles):
    run, _, parameters = together
    starts = [single for single, _ in zip(networks.separate(parameters, run.config), SEEDS, strict=True)]
    for member, (_, _, single) in zip(starts, singles, strict=True):
        close = lambda one, another: np.testing.assert_allclose(one, another, rtol=2e-4, atol=2e-5)
        jax.tree.map(close, jax.device_get(member), jax.device_get(single))
    landmarks = [np.asarray(single.direct_head.landmarks[...]) for _, _, single in singles]
    assert (landmarks[0] != landmarks[1]).any()  # so that the direct heads were of the seeds too


def test_the_map_is_by_the_mean_of_the_members_probabilities_and_each_is_scored_by_itself(together, singles):
    run, guidance, _ = together
    test = run.scene.masks["test"]
    alone = [mapping.predict(one, levels, where=test)["fused"] for one, levels, _ in singles]
    fused = mapping.predict(run, guidance, where=test)["fused"]
    np.testing.assert_allclose(fused, np.mean(alone, axis=0), atol=2e-4)

    mapping.write_maps(run, mapping.predict(run, guidance))
    scoring.score_members(run, guidance)
    metrics = scoring.evaluate(run)
    reference = run.scene.labels[test]
    figures = [scores(confusion_matrix(reference, one[test].argmax(-1).astype(np.int32), 4)) for one in alone]
    assert metrics["members"]["seeds"] == list(SEEDS)
    for name in ("oa", "aa", "kappa"):
        values = [one[name] for one in figures]
        found = metrics["members"][name]
        np.testing.assert_allclose(found["values"], values, atol=5e-3)  # a pixel or two on the edge of two classes
        assert found["mean"] == pytest.approx(np.mean(found["values"]))
        assert found["deviation"] == pytest.approx(np.std(found["values"], ddof=1))


def test_validation_is_of_the_members_together(together):
    run, guidance, _ = together
    log = [json.loads(line) for line in (run.workdir / "train" / "log.jsonl").read_text().splitlines()]
    seen = run.scene.masks["validation"]
    predicted = mapping.predict(run, guidance, where=seen)["fused"][seen].argmax(-1).astype(np.int32)
    assert scores(confusion_matrix(run.scene.labels[seen], predicted, 4))["aa"] == pytest.approx(
        log[-1]["validation/aa"]
    )


def test_a_training_of_no_seed_is_refused(tmp_path):
    run = open_run(configuration.load("demo:tiny", [*OVERRIDES, "--config.train.num_seeds=0"]), tmp_path)
    with pytest.raises(InputError, match=r"train\.num_seeds must be 1 or more, got 0"):
        networks.build(run, ())

import json
import sys
from functools import partial

import numpy as np
import pytest

from bdgf_jax import configuration, extraction
from bdgf_jax.run import open_run
from bdgf_jax.smoothing import choose_radius, smooth
from bdgf_jax.voting import vote
from experiments.real_scenes import classify, compare, configured, main, network, smoothed, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    small = ["features.levels=(0,)", "features.context.components=0"]
    smaller = ["classifier.stages=1", "classifier.branches=('cnn',)", "pretrain.steps=3", "train.steps=5"]
    config = configuration.load("demo:tiny", [f"--config.{override}" for override in (*small, *smaller)])
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("experiments.real_scenes.PAPER_FIELDS", {"classifier__centre": 1})
        record = compare(config, "tiny", range(1), workdir=folder / "runs", out=folder / "out.json")
    return config, folder, record


def test_every_method_has_a_number_a_seed_on_the_same_pixels(compared):
    _, folder, record = compared
    scene = json.loads((folder / "out.json").read_text())["scenes"][0]
    assert scene["scene"] == "tiny"
    assert scene["seeds"] == [0]
    assert len(scene["n_train"]) == len(scene["n_test"]) == 1
    shallow = {"rf_pixels", "svm_pixels", "soft_vote", "probe_trained", "probe_untrained"}
    assert shallow | {"bdgf", "bdgf_paper", "bdgf_smoothed"} <= set(scene["methods"])
    for figures in scene["methods"].values():
        for values in figures.values():
            assert len(values) == 1
            assert np.isfinite(values).all()
    assert record["methods"] == scene["methods"]


def test_seeds_that_are_done_are_not_run_again(compared, monkeypatch):
    config, folder, record = compared
    monkeypatch.setattr("experiments.real_scenes.pretrain", lambda run: pytest.fail("ran again"))
    again = compare(config, "tiny", range(1), workdir=folder / "runs", out=folder / "out.json")
    assert again["methods"] == record["methods"]


def test_some_methods_alone_are_scored_anew_where_that_is_asked(compared):
    config, folder, record = compared
    before = json.loads((folder / "out.json").read_text())
    stale = json.loads(json.dumps(before))
    for method in ("bdgf", "probe_trained", "soft_vote"):
        stale["scenes"][0]["methods"][method]["aa"] = [0.0]
    (folder / "stale.json").write_text(json.dumps(stale))
    where = {"workdir": folder / "runs", "out": folder / "stale.json"}
    renewed = compare(config, "tiny", range(1), ("bdgf", "probes"), renew=True, **where)["methods"]
    assert renewed["soft_vote"]["aa"] == [0.0]
    assert renewed | {"soft_vote": record["methods"]["soft_vote"]} == record["methods"]


def test_a_seed_that_only_some_methods_have_leaves_the_others_out_of_the_table(compared, tmp_path):
    config, folder, record = compared
    (tmp_path / "out.json").write_text((folder / "out.json").read_text())
    some = compare(config, "tiny", range(2), ("baselines",), workdir=folder / "runs", out=tmp_path / "out.json")
    assert some["seeds"] == [0, 1]
    assert some["methods"]["bdgf"]["aa"] == [*record["methods"]["bdgf"]["aa"], None]
    assert "| rf_pixels |" in table(some)
    assert "| bdgf |" not in table(some)


def test_a_group_that_does_not_exist_is_refused_by_name(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["real_scenes", "--config=demo:tiny", "--out=x.json", "--only=bdgf,votes"])
    assert main() == 2
    assert (
        "there is no 'votes'; there are bdgf, paper, smoothed, smoothed_baselines, probes, baselines"
        in capsys.readouterr().err
    )


def test_where_there_is_a_context_the_mean_with_the_vote_is_one_more_method(tmp_path):
    fields = ["features.source=none", "classifier.stages=1", "classifier.branches=('cnn',)", "train.steps=30"]
    run = open_run(configuration.load("demo:tiny", [f"--config.{field}" for field in fields]), tmp_path / "run")
    guidance, test = extraction.features(run), run.scene.masks["test"]
    found = classify(run, guidance)
    np.testing.assert_allclose(
        found["bdgf_with_vote"], (found["bdgf"] + vote(run, guidance, test)[test]) / 2, atol=1e-6
    )


def test_a_smoothed_map_has_the_radius_that_was_best_before_the_validation_blocks_were_learnt_from(tmp_path):
    fields = ["features.source=none", "classifier.stages=1", "classifier.branches=('cnn',)", "train.steps=30"]
    config = configuration.load("demo:tiny", [f"--config.{field}" for field in fields])
    run = open_run(config, tmp_path / "run")
    guidance, test, valid = extraction.features(run), run.scene.masks["test"], run.scene.valid
    methods = {"bdgf_smoothed": network, "lda_smoothed": partial(vote, names=("lda",))}
    found = smoothed(run, guidance, methods)
    aside = configured(config, scene__split__validation_blocks=0.3, predict__smoothing=(0, 1, 2, 4))
    choosing = open_run(aside, tmp_path / "aside")
    for method, predict in methods.items():
        radius, _ = choose_radius(choosing, predict(choosing, guidance, valid))
        expected = smooth(run.images, predict(run, guidance, valid), radius)[test]
        np.testing.assert_allclose(found[method], expected, atol=1e-5)


def test_the_table_states_mean_and_deviation():
    methods = {"bdgf": {"oa": [0.5, 0.6], "aa": [0.5, 0.7], "kappa": [0.1, 0.3]}}
    text = table({"scene": "x", "seeds": [0, 1], "methods": methods})
    assert "| x, 2 seeds | OA | AA | κ | bdgf ahead in AA, κ |" in text
    assert "| bdgf | 55.0 ± 7.1 | 60.0 ± 14.1 | 20.0 ± 14.1 |  |" in text


def test_the_table_compares_seed_by_seed():
    figures = lambda aa, kappa: {"oa": [0.5, 0.5, 0.5], "aa": aa, "kappa": kappa}
    methods = {"bdgf": figures([0.5, 0.6, 0.7], [0.1, 0.2, 0.3]), "other": figures([0.6, 0.5, 0.6], [0.2, 0.3, 0.3])}
    text = table({"scene": "x", "seeds": [0, 1, 2], "methods": methods})
    assert "| other | 50.0 ± 0.0 | 56.7 ± 5.8 | 26.7 ± 5.8 | 2, 0 |" in text


def test_a_derived_config_keeps_the_order_of_the_modalities_and_leaves_the_first_alone():
    config = configuration.load("sentinel_lulc")
    derived = configured(config, train__seed=7, scene__modalities__s2__file="other.tif")
    assert list(derived.scene.modalities) == list(config.scene.modalities) == ["s2", "s1", "dem"]
    assert (derived.train.seed, config.train.seed) == (7, 0)
    assert config.scene.modalities.s2.file == "S2L2A.tif"

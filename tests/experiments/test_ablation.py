import json

import numpy as np
import pytest

from bdgf_jax import configuration
from experiments.ablation import CHANGES, ablate, differences, plot, table
from experiments.afterwards import AFTERWARDS
from experiments.real_scenes import configured


@pytest.mark.parametrize("name", CHANGES)
def test_every_variant_changes_fields_that_exist(name):
    config = configuration.load("sentinel_lulc")
    changed = configured(config, **CHANGES[name])
    is_the_default = name in ("default", f"stride {config.classifier.centre}", *AFTERWARDS)
    assert (changed.to_dict() == config.to_dict()) == is_the_default
    levels = len(changed.features.levels) + (changed.features.context.components > 0)
    assert levels <= changed.classifier.stages


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    small = ["features.levels=(0,)", "features.context.components=0", "classifier.branches=('cnn', 'transformer')"]
    smaller = ["classifier.stages=1", "pretrain.steps=3", "train.steps=5"]
    config = configuration.load("demo:tiny", [f"--config.{override}" for override in (*small, *smaller)])
    folder = tmp_path_factory.mktemp("ablation")
    arguments = (config, "tiny", range(1), ("default", "CNN"), folder / "runs", folder / "out.json")
    return ablate(*arguments), arguments


@pytest.mark.slow
def test_a_variant_is_compared_with_the_default_on_the_same_pixels(record):
    kept = record[0]["variants"]["CNN"]
    won, lost = (kept["mcnemar"][which] for which in ("only_first", "only_second"))
    maps = [np.load(record[1][4] / name / "seed_0" / "test_pixels.npz") for name in ("cnn", "default")]
    assert (maps[0]["reference"] == maps[1]["reference"]).all()
    right = [(each["predicted"] == each["reference"]).sum() for each in maps]
    assert won - lost == right[0] - right[1]
    assert kept["branches_oa"][0] != kept["oa"][0]
    assert kept["oa"][0] == pytest.approx(right[0] / len(maps[0]["reference"]), abs=1e-6)


@pytest.mark.slow
def test_what_is_done_is_not_run_again(record, monkeypatch):
    before, arguments = record
    monkeypatch.setattr("experiments.ablation.train", lambda *_: pytest.fail("ran again"))
    assert ablate(*arguments) == before
    assert json.loads(arguments[5].read_text())["scenes"] == [before]


@pytest.mark.slow
def test_what_is_done_afterwards_is_done_to_the_default_s_classifiers(record, monkeypatch):
    before, arguments = record
    trained = []
    monkeypatch.setattr("experiments.ablation.train", lambda run, guidance: trained.append(run.workdir))
    names = ("default", "smoothed, radius 2", "estimated class proportions")
    after = ablate(*arguments[:3], names, arguments[4], arguments[5].with_name("afterwards.json"))
    again = json.loads(arguments[5].with_name("afterwards.json").read_text())["scenes"][0]
    assert set(trained) == {arguments[4] / "default" / "seed_0"}
    assert after["variants"]["default"] == {
        "seeds": [0],
        **{f: before["variants"]["default"][f] for f in again["variants"]["default"] if f != "seeds"},
    }
    for name in names[1:]:
        assert after["variants"][name]["mcnemar"]["only_first"] >= 0


def test_differences_are_paired_by_seed_and_stand_in_table_and_figure(tmp_path):
    figures = lambda seeds, aa: {"seeds": seeds, "oa": aa, "aa": aa, "kappa": aa}
    test = {"only_first": 3, "only_second": 9, "p": 0.15}
    variants = {"default": figures([0, 1, 2], [0.5, 0.6, 0.9]), "CNN": figures([2, 0], [0.8, 0.5]) | {"mcnemar": test}}
    record = {"scene": "x", "variants": variants}
    np.testing.assert_allclose(differences(record, "CNN", "aa"), [-10.0, 0.0], atol=1e-9)
    start = "| CNN | 65.0 ± 21.2 | 65.0 ± 21.2 | 65.0 ± 21.2 | -5.0 ± 7.1, -5.0 ± 7.1 |"
    assert f"{start}  | 3, 9, 0.15 |" in table(record)
    for name, alone in {"default": [0.4, 0.5, 0.6], "CNN": [0.5, 0.2]}.items():
        variants[name] |= {"branches_oa": alone, "branches_aa": alone}
    assert f"{start} -15.0 ± 7.1, -15.0 ± 7.1 | 3, 9, 0.15 |" in table(record)
    plot(record, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5_000

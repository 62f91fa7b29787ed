"""A model that one run has trained, taken from its folder and used on other scenes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import rasterio

from bdgf_jax import cli, configuration, extraction, mapping, model
from bdgf_jax.errors import InputError
from bdgf_jax.model import open_model
from bdgf_jax.run import open_run
from bdgf_jax.scenes.loading import load_scene

OVERRIDES = [
    f"--config.{override}"
    for override in (
        "diffusion.multipliers=(1,)",
        "features.levels=(0,)",
        "pretrain.steps=2",
        "classifier.branches=('cnn',)",
        "classifier.patch=3",
        "classifier.centre=1",
        "classifier.stages=2",
        "train.steps=2",
        "train.evaluate_every=0",
        "predict.batch_size=64",
    )
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir and the folder of the model that was exported from it."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["--config", "demo:tiny", *OVERRIDES, "--workdir", str(folder / "run")]
    assert cli.main(["train", *arguments]) == 0
    assert cli.main(["predict", *arguments]) == 0
    assert cli.main(["export", *arguments, "--out", str(folder / "model")]) == 0
    return folder / "run", folder / "model"


def predict(folder, workdir, *overrides):
    arguments = ["--config", "demo:tiny", *overrides, "--model", str(folder), "--workdir", str(workdir)]
    assert cli.main(["predict", *arguments]) == 0
    with rasterio.open(workdir / "map.tif") as file:
        return file.read(1)


def test_the_folder_alone_maps_the_scene_as_the_run_did(trained, tmp_path):
    run, folder = trained
    with rasterio.open(run / "map.tif") as file:
        expected = file.read(1)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(predict(folder, tmp_path / "exported"), expected)


def test_another_scene_is_seen_through_the_models_statistics(trained, tmp_path):
    run, folder = trained
    predict(run, tmp_path, "--config.scene.synthetic.seed=1")  # a run's workdir is a model, too
    described, original = (json.loads((path / "scene.json").read_text()) for path in (tmp_path, run))
    assert described["classes"] == original["classes"]
    for name, modality in described["modalities"].items():
        assert modality["statistics"] == original["modalities"][name]["statistics"]
        assert modality["range"] != original["modalities"][name]["range"]
    arrays, others = (np.load(path / "features" / "statistics.npz") for path in (tmp_path, folder))
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], others[name])


def test_checkpoints_alone_are_a_model(trained, tmp_path):
    run, _ = trained
    with rasterio.open(run / "map.tif") as file:
        expected = file.read(1)
    for stretch in ("pretrain", "train"):
        shutil.copytree(run / stretch / "checkpoints", tmp_path / "model" / stretch / "checkpoints")
    np.testing.assert_array_equal(predict(tmp_path / "model", tmp_path / "maps"), expected)
    (step,) = (tmp_path / "model" / "train" / "checkpoints").glob("*[0-9]")
    (step / "scene.json").write_text((step / "scene.json").read_text().replace("height", "depth"))
    with pytest.raises(InputError, match=r"holds no config\.json, so it is no model"):
        open_model(tmp_path / "model", configuration.load("demo:tiny"), tmp_path / "maps")


def altered(monkeypatch, change):
    def load(config, without=()):
        scene = load_scene(config, without)
        return dataclasses.replace(scene, modalities=change(dict(scene.modalities)))

    monkeypatch.setattr(model, "load_scene", load)


def test_a_scene_far_off_the_models_is_said(trained, tmp_path, monkeypatch, capsys):
    config = configuration.load("demo:tiny")
    open_model(trained[1], config, tmp_path / "alike")
    assert "lies far off" not in capsys.readouterr().err
    louder = lambda modalities: (
        modalities | {"sar": dataclasses.replace(modalities["sar"], image=10.0 * modalities["sar"].image)}
    )
    altered(monkeypatch, louder)
    run = open_model(trained[1], config, tmp_path / "far")
    assert "sar lies far off what the model was trained on" in capsys.readouterr().err
    assert [finding.subject for finding in run.scene.findings if "far off" in finding.message] == ["sar"]


def test_other_modalities_and_bands_are_refused_by_name(trained, tmp_path, monkeypatch):
    config = configuration.load("demo:tiny")
    renamed = lambda modalities: (
        modalities | {"sar": dataclasses.replace(modalities["sar"], bands=modalities["sar"].bands[::-1])}
    )
    altered(monkeypatch, renamed)
    with pytest.raises(InputError, match="the same bands in another order"):
        open_model(trained[1], config, tmp_path)
    altered(monkeypatch, lambda modalities: {name: modalities[name] for name in ("hsi", "sar")})
    with pytest.raises(InputError, match="'height' is missing"):
        open_model(trained[1], config, tmp_path)


def test_the_stablehlo_artefacts_are_reloaded_and_predict_as_the_model(trained):
    workdir, folder = trained
    run = open_run(configuration.load("demo:tiny", OVERRIDES), workdir)
    guidance = extraction.features(run)
    corner = (slice(10, 13), slice(20, 23))  # the patch round row 11, column 21
    patch = lambda array: np.repeat(array[corner][None], 64, axis=0)
    images, levels = jax.tree.map(patch, (run.images, list(guidance)))
    exported = {
        name: jax.export.deserialize((folder / f"classifier.{name}.stablehlo").read_bytes()) for name in model.PLATFORMS
    }
    assert {name: artefact.platforms for name, artefact in exported.items()} == {
        name: (name,) for name in model.PLATFORMS
    }
    where = np.zeros(run.scene.shape, bool)
    where[11, 21] = True
    expected = mapping.predict(run, guidance, where)["fused"][11, 21]
    probabilities = exported["cpu"].call(images, levels)
    assert probabilities.shape == (64, 1, 1, 4)
    np.testing.assert_allclose(probabilities[7, 0, 0], expected, atol=1e-5)


def test_what_is_no_model_and_what_exists_are_refused(trained, tmp_path):
    workdir, folder = trained
    config = configuration.load("demo:tiny")
    with pytest.raises(InputError, match=r"holds no config\.json, so it is no model"):
        open_model(tmp_path, config, tmp_path / "maps")
    with pytest.raises(InputError, match="is the model's own folder"):
        open_model(folder, config, folder)
    run = open_run(configuration.load("demo:tiny", OVERRIDES), workdir)
    with pytest.raises(InputError, match="exists already"):
        model.export_model(run, folder)

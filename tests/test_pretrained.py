"""A DDPM that is pre-trained on a corpus, and one that guides the classifier on a scene that it has not seen."""

import json
import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine

from bdgf_jax import cli
from bdgf_jax.training.checkpoints import load_arrays

CONFIG = """
from bdgf_jax import configuration

def get_config(size=""):
    config = configuration.load("base:tiny")
    config.scene.modalities.ms = {"file": "ms.tif", "names": ("G", "R", "N"), "bands": (1, 2, 3)}
    config.scene.modalities.dem = {"file": "dem.tif", "kind": "height"}
    config.scene.labels.file = "labels.tif"
    config.scene.split.kind = "per_class"
    config.diffusion.multipliers = (1,)
    config.pretrain.update(steps=4, batch_size=8, checkpoint_every=2, keep=9, crop=8, tile=16)
    config.masking.ramp = (0.0, 0.1)
    config.features.update(levels=(0,), timesteps=(50,), draws=1, tile=32, margin=0)
    config.classifier.update(branches=("cnn",), patch=3, stages=1)
    config.features.context.components = 0
    config.train.update(steps=2, batch_size=8)
    return config
"""


def write(path, image):
    profile = {"driver": "GTiff", "height": 32, "width": 32, "count": len(image), "dtype": image.dtype}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=Affine(10, 0, 4e5, 0, -10, 5e6)) as file:
        file.write(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two groups of images with labels, and the config that reads them."""
    folder, random = tmp_path_factory.mktemp("pretrained"), np.random.default_rng(0)
    (folder / "config.py").write_text(CONFIG)
    for number, name in enumerate(("one", "two")):
        group = folder / "groups" / name
        group.mkdir(parents=True)
        write(group / "ms.tif", random.normal(1000 + 5 * number, 30, (3, 32, 32)).astype(np.float32))
        write(group / "dem.tif", random.normal(100, 3, (1, 32, 32)).astype(np.float32))
        write(group / "labels.tif", random.integers(1, 3, (1, 32, 32), dtype=np.uint8))
    return folder


@pytest.fixture(autouse=True)
def data_folder(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))


def bdgf(command, folder, workdir, *overrides, group="one"):
    config = ["--config", str(folder / "config.py"), f"--config.scene.folder={folder / 'groups' / group}"]
    return cli.main([command, *config, "--workdir", str(workdir), *(f"--config.{override}" for override in overrides)])


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def statistics(workdir):
    modalities = json.loads((workdir / "scene.json").read_text())["modalities"]
    return {name: modality["statistics"] for name, modality in modalities.items()}


@pytest.fixture(scope="module")
def pretrained(folder):
    """The workdir of a pre-training on both groups, opened for the first of them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "tfds"))
        assert bdgf("pretrain", folder, folder / "run", f"pretrain.corpus={folder / 'groups'}") == 0
    return folder / "run"


@pytest.mark.slow
def test_statistics_are_those_of_all_of_the_corpus(folder, pretrained):
    pixels = []
    for name in ("one", "two"):
        with rasterio.open(folder / "groups" / name / "ms.tif") as file:
            pixels.append(file.read().reshape(3, -1))
    mean = np.concatenate(pixels, axis=1).astype(np.float64).mean(axis=1)
    assert statistics(pretrained)["ms"]["mean"] == pytest.approx(mean.tolist(), rel=1e-12)


@pytest.mark.slow
def test_a_pre_training_on_a_corpus_goes_on_to_the_last_bit(folder, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "pretrain" / "checkpoints" / "4")
    assert bdgf("pretrain", folder, tmp_path / "stopped", f"pretrain.corpus={folder / 'groups'}") == 0
    whole, resumed = (load_arrays(run / "pretrain" / "checkpoints") for run in (pretrained, tmp_path / "stopped"))
    assert list(whole) == list(resumed)
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


@pytest.mark.slow
def test_the_ddpm_of_another_run_guides_and_is_taken_over(folder, pretrained, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(pretrained, source)
    checkpoint = f"features.checkpoint={source / 'pretrain' / 'checkpoints' / '2'}"
    wider = "diffusion.width=16"  # which the pre-training's own width overrules
    assert bdgf("train", folder, tmp_path / "run", checkpoint, wider, group="two") == 0
    assert f"The DDPM is that of {source}" in capsys.readouterr().out
    assert statistics(tmp_path / "run") == statistics(pretrained)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["diffusion"]["width"] == 8
    assert [path.name for path in (tmp_path / "run" / "pretrain" / "checkpoints").iterdir()] == ["2"]
    source.rename(tmp_path / "gone")
    assert bdgf("predict", folder, tmp_path / "run", checkpoint, wider, group="two") == 0
    assert (tmp_path / "run" / "map.tif").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["scene.modalities.ms.names=('B','G','R')"],
            "modality 'ms': the bands are not those .* missing ['N'], not known to it ['B']",
        ),
        (
            ["scene.modalities.ms.bands=(1,2)", "scene.modalities.ms.names=('G','R')"],
            "modality 'ms': the bands are not those .* missing ['N'], not known to it []",
        ),
        (["features.source=untrained"], "features.source is 'untrained', which uses no checkpoint"),
        (["pretrain.corpus=x"], "so nothing is pre-trained; leave pretrain.corpus empty (it is x)"),
    ],
)
def test_what_does_not_fit_the_pre_training_is_named(folder, pretrained, tmp_path, capsys, overrides, message):
    assert bdgf("train", folder, tmp_path / "run", f"features.checkpoint={pretrained}", *overrides) == 2
    heard = said(capsys)
    for part in message.split(" .* "):
        assert part in heard


def test_where_nothing_was_pre_trained_it_is_said(folder, tmp_path, capsys):
    assert bdgf("train", folder, tmp_path / "run", f"features.checkpoint={tmp_path}") == 2
    assert f"features.checkpoint {tmp_path}: no pre-training is there; name the --workdir of" in said(capsys)


def test_a_group_of_a_corpus_that_lacks_a_modality_is_named_with_status_2(folder, tmp_path, capsys):
    shutil.copytree(folder / "groups", tmp_path / "groups")
    (tmp_path / "groups" / "two" / "dem.tif").unlink()
    assert bdgf("pretrain", folder, tmp_path / "run", f"pretrain.corpus={tmp_path / 'groups'}") == 2
    assert f"{tmp_path / 'groups' / 'two'} lacks dem.tif (modality 'dem')" in said(capsys)


def test_tiles_smaller_than_the_crops_are_refused(folder, tmp_path, capsys):
    corpus = f"pretrain.corpus={folder / 'groups'}"
    assert bdgf("pretrain", folder, tmp_path / "run", corpus, "pretrain.tile=4") == 2
    assert "pretrain.crop is 8, and the tiles of the corpus" in said(capsys)

"""So2Sat in small: files of the layout that TensorFlow Datasets' own builder reads, prepared, mapped and scored."""

import json
import sys

import h5py
import numpy as np
import pytest

from bdgf_jax import cli, configuration
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.maps import read_map
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.patch_sets import mosaic

CLASSES, SIDE = 17, 32
BANDS = {"sen1": 8, "sen2": 10}
# Patches in each file; every class is there equally often.
COUNTS = {"training": 3 * CLASSES, "validation": 2 * CLASSES}


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture
def files(tmp_path):
    """The folder of two files in which the first two bands of every patch tell its class, nearly."""
    random = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    for name, count in COUNTS.items():
        truth = random.permutation(np.arange(count) % CLASSES)
        with h5py.File(tmp_path / "files" / f"{name}.h5", "w") as handle:
            for key, bands in BANDS.items():
                patches = random.normal(size=(count, SIDE, SIDE, bands))
                patches[..., 0] += truth[:, None, None] % 5
                patches[..., 1] += truth[:, None, None] // 5
                handle[key] = patches
            handle["label"] = np.eye(CLASSES)[truth]
    return tmp_path / "files"


def config_of(files, *overrides):
    return configuration.load("so2sat:tiny", [f"--config.scene.folder={files}", *overrides]).scene


def cells_of(image):
    rows, columns = (size // SIDE for size in image.shape[:2])
    cells = image.reshape(rows, SIDE, columns, SIDE, *image.shape[2:]).swapaxes(1, 2)
    return cells.reshape(-1, SIDE, SIDE, *image.shape[2:])


def test_every_patch_is_a_cell_whose_class_stands_in_its_middle(files):
    scene = load_scene(config_of(files, "--config.scene.split.per_class=2", "--config.scene.patches.test_per_class=1"))
    assert [entry.name for entry in scene.classes][:2] == ["compact high-rise", "compact mid-rise"]
    assert {name: len(modality.bands) for name, modality in scene.modalities.items()} == {"s2": 10, "s1": 8}
    images = {name: cells_of(scene.modalities[modality].image) for name, modality in (("sen2", "s2"), ("sen1", "s1"))}
    labels = cells_of(scene.labels)
    for file, mask, each in (("training", "train", 2), ("validation", "test", 1)):
        held = cells_of(scene.masks[mask])
        at = held[:, SIDE // 2, SIDE // 2]
        assert held.sum() == at.sum() == each * CLASSES
        np.testing.assert_array_equal(np.bincount(labels[at][:, SIDE // 2, SIDE // 2]), each)
        with h5py.File(files / f"{file}.h5") as handle:
            truth = np.asarray(handle["label"]).argmax(1)
            for key, cells in images.items():
                stored = np.asarray(handle[key], np.float32)
                for cell, label in zip(cells[at], labels[at][:, SIDE // 2, SIDE // 2]):
                    (place,) = np.flatnonzero((stored == cell).all((1, 2, 3)))
                    assert truth[place] == label
    # 51 patches make 8 columns and 7 rows, of whose cells five stay empty.
    assert scene.shape == (7 * SIDE, 8 * SIDE)
    assert (~scene.valid).sum() == 5 * SIDE**2


def test_it_is_prepared_once_in_tfds_own_form_without_tensorflow(files):
    first = load_scene(config_of(files))
    assert "tensorflow" not in sys.modules
    assert all("so2sat/all" in source.path and "array_record" in source.path for source in first.sources)
    for file in files.iterdir():
        file.unlink()
    again = load_scene(config_of(files))
    np.testing.assert_array_equal(again.modalities["s2"].image, first.modalities["s2"].image)
    assert again.sources == first.sources


def test_a_class_with_fewer_patches_gives_all(files):
    scene = load_scene(config_of(files))
    assert {mask: int(scene.masks[mask].sum()) for mask in ("train", "test")} == {
        "train": COUNTS["training"],
        "test": COUNTS["validation"],
    }


def test_no_test_patch_overlaps_a_training_patch_and_only_labelled_pixels_are_mapped(files, tmp_path):
    workdir = tmp_path / "run"
    command = ["run", "--config", "so2sat:tiny", f"--config.scene.folder={files}", "--workdir", str(workdir)]
    small = ["features.source=none", "train.steps=2", "classifier.patch=7", "classifier.branches=('cnn',)"]
    assert cli.main([*command, *(f"--config.{override}" for override in small)]) == 0
    assert (read_map(workdir / "map.tif")[0] >= 0).sum() == sum(COUNTS.values())
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["overlapping_test_pixels"] == 0
    assert np.sum(metrics["confusion"]) == COUNTS["validation"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--config.scene.modalities.s1.file=sen1",
            r"holds no feature 'sen1'; it holds sentinel1, sentinel2, label, sample_id",
        ),
        (
            "--config.scene.patches.dataset=so2sat/nosuch",
            r"is 'so2sat/nosuch', which TensorFlow Datasets does not know",
        ),
        ("--config.scene.patches.test=nosuch", r"holds no split 'nosuch'; it holds train, validation"),
        ("--config.scene.patches.dataset=nosuchset", r"is 'nosuchset', which TensorFlow Datasets does not know"),
    ],
)
def test_what_does_not_exist_is_named(files, override, message):
    with pytest.raises(InputError, match=message):
        load_scene(config_of(files, override))


def test_a_missing_file_is_named(files):
    (files / "validation.h5").unlink()
    with pytest.raises(InputError, match=r"validation.h5 does not exist"):
        load_scene(config_of(files))


def test_a_mosaic_fills_row_by_row():
    cells = np.arange(3)[:, None, None] * np.ones((3, 2, 2), int)
    np.testing.assert_array_equal(mosaic(cells, -1), [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, -1, -1], [2, 2, -1, -1]])

"""Benchmark scenes as they are distributed, in small: files of the true layout, prepared once and loaded by name."""

import importlib.util
import sys

import h5py
import numpy as np
import pytest
import scipy.io

from bdgf_jax import configuration
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.layouts import LAYOUTS
from bdgf_jax.scenes.loading import load_scene

# Bands of each modality and number of classes, as the scenes' authors give them.
FACTS = {
    "berlin": ({"hsi": 244, "sar": 4}, 8),
    "augsburg": ({"hsi": 180, "sar": 4}, 7),
    "augsburg_dsm": ({"hsi": 180, "sar": 4, "dsm": 1}, 7),
    "yellow_river_estuary": ({"hsi": 285, "sar": 3}, 18),
    "lcz_hk": ({"msi": 10, "sar": 4}, 13),
    "houston2013": ({"hsi": 144, "lidar": 1}, 15),
    "houston2018": ({"hsi": 50, "lidar": 1}, 20),
    "trento": ({"hsi": 63, "lidar": 1}, 6),
    "muufl": ({"hsi": 64, "lidar": 2}, 11),
}
SHAPE = (14, 18)


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


def config_of(name, folder):
    return configuration.load(name, [f"--config.scene.folder={folder}"]).scene


def make_files(config, folder, *, bands, classes, version="5"):
    """Writes the files that a config names, filled with random images, every class and a split by lists of pixels."""
    random = np.random.default_rng(0)
    truth = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % (classes + 1)).astype(np.uint8)
    labelled = random.permutation(np.argwhere(truth > 0))
    parts = {"train": labelled[: len(labelled) // 2], "test": labelled[len(labelled) // 2 :]}
    content = {}
    for name, options in config.modalities.items():
        image = random.random((*SHAPE, bands[name]))
        content.setdefault(options.file, {})[options.key or name] = image[..., 0] if bands[name] == 1 else image
    if config.labels.file:
        content.setdefault(config.labels.file, {})[config.labels.key or "gt"] = truth
    for name, pixels in parts.items():
        file, key = config.split[f"{name}_file"], config.split[f"{name}_key"]
        if not file:
            continue
        image = np.zeros(SHAPE, np.uint8)
        image[tuple(pixels.T)] = truth[tuple(pixels.T)]
        content.setdefault(file, {})[key] = pixels if config.labels.file else image
    folder.mkdir(exist_ok=True)
    for file, variables in content.items():
        if version == "5":
            scipy.io.savemat(folder / file, variables)
            continue
        with h5py.File(folder / file, "w", userblock_size=512) as handle:
            for key, values in variables.items():
                handle[key] = values.T
    return content, truth, parts


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("name", FACTS)
def test_a_benchmark_scene_is_prepared_from_its_layout_and_loaded_by_name(tmp_path, name, version):
    bands, classes = FACTS[name]
    config = config_of(name, tmp_path / "files")
    content, truth, parts = make_files(config, tmp_path / "files", bands=bands, classes=classes, version=version)
    scene = load_scene(config)
    assert scene.shape == SHAPE
    assert {modality: len(it.bands) for modality, it in scene.modalities.items()} == bands
    for modality, options in config.modalities.items():
        image = content[options.file][options.key or modality].reshape(*SHAPE, -1)
        np.testing.assert_array_equal(scene.modalities[modality].image, image.astype(np.float32))
    values = [str(value) for value in range(1, classes + 1)]
    assert [entry.name for entry in scene.classes] == [config.labels.names[value] for value in values]
    assert [entry.colour for entry in scene.classes] == [config.labels.colours[value] for value in values]
    assert len({entry.colour for entry in scene.classes}) == classes
    np.testing.assert_array_equal(scene.labels, truth.astype(int) - 1)
    if config.split.kind == "masks":
        for mask, pixels in parts.items():
            np.testing.assert_array_equal(scene.centres(mask), pixels[np.lexsort(pixels.T[::-1])])


def test_a_prepared_scene_needs_its_files_no_more(tmp_path):
    config = config_of("berlin", tmp_path / "files")
    make_files(config, tmp_path / "files", bands=FACTS["berlin"][0], classes=8)
    first = load_scene(config)
    again = load_scene(config_of("berlin", tmp_path / "gone"))
    np.testing.assert_array_equal(again.modalities["hsi"].image, first.modalities["hsi"].image)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.sources == first.sources
    assert all("array_record" in source.path for source in again.sources)


def test_tensorflow_is_not_needed(tmp_path):
    config = config_of("trento", tmp_path / "files")
    make_files(config, tmp_path / "files", bands=FACTS["trento"][0], classes=6)
    load_scene(config)
    assert "tensorflow" not in sys.modules


def test_without_array_record_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs array_record: pip install 'bdgf-jax\[prepared\]'"):
        load_scene(config_of("berlin", tmp_path))


def test_a_missing_file_is_answered_with_what_to_get(tmp_path):
    (tmp_path / "files").mkdir()
    with pytest.raises(
        InputError,
        match=r"berlin_hsi.mat does not exist; [\s\S]*Berlin: 244 bands .* Put berlin_hsi.mat, berlin_sar.mat,"
        r" berlin_gt.mat, berlin_index.mat into one folder, and set scene.folder",
    ):
        load_scene(config_of("berlin", tmp_path / "files"))


def test_a_wrong_variable_is_answered_with_those_that_exist_and_prepares_nothing(tmp_path):
    config = config_of("houston2013", tmp_path / "files")
    make_files(config, tmp_path / "files", bands=FACTS["houston2013"][0], classes=15)
    config.split.train_key = "Houston2013_train"
    with pytest.raises(
        InputError, match=r"holds no variable 'Houston2013_train'; it holds houston_train, houston_test"
    ):
        load_scene(config)
    config.split.train_key = "houston_train"
    assert load_scene(config).shape == SHAPE


def test_other_files_are_prepared_apart(tmp_path):
    config = config_of("berlin", tmp_path / "files")
    make_files(config, tmp_path / "files", bands=FACTS["berlin"][0], classes=8)
    load_scene(config)
    config.modalities.sar.file = "other.mat"
    with pytest.raises(InputError, match=r"other.mat does not exist"):
        load_scene(config)
    scipy.io.savemat(tmp_path / "files" / "other.mat", {"berlin_sar": np.full((*SHAPE, 4), -7.0)})
    assert (load_scene(config).modalities["sar"].image == -7).all()
    assert not (load_scene(config_of("berlin", tmp_path)).modalities["sar"].image == -7).any()


def test_labels_that_are_fractions_are_not_rounded_on_the_way(tmp_path):
    config = config_of("berlin", tmp_path / "files")
    _, truth, _ = make_files(config, tmp_path / "files", bands=FACTS["berlin"][0], classes=8)
    scipy.io.savemat(tmp_path / "files" / "berlin_gt.mat", {"berlin_gt": truth + 0.5})
    with pytest.raises(InputError, match=r"berlin_gt.mat holds fractions such as 0.5, 1.5"):
        load_scene(config)


def test_images_of_different_size_are_refused(tmp_path):
    config = config_of("berlin", tmp_path / "files")
    make_files(config, tmp_path / "files", bands=FACTS["berlin"][0], classes=8)
    scipy.io.savemat(tmp_path / "files" / "berlin_sar.mat", {"berlin_sar": np.zeros((13, 18, 4))})
    with pytest.raises(InputError, match=r"differ in size: 'hsi' 14 × 18, 'sar' 13 × 18"):
        load_scene(config)


def test_every_layout_is_a_builder_that_says_what_to_get(tmp_path):
    from bdgf_jax.scenes.prepared import MultimodalScene

    assert {config.name for config in MultimodalScene.BUILDER_CONFIGS} == set(LAYOUTS)
    for name, layout in LAYOUTS.items():
        said = MultimodalScene(config=name, data_dir=tmp_path, file_format="array_record").MANUAL_DOWNLOAD_INSTRUCTIONS
        assert layout.title in said
        assert all(file in said for _, file, _ in layout.images.values())

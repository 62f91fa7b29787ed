"""The real scenes that lie beside the repository, where they do: read, resampled and split as their notes say."""

import pathlib

import numpy as np
import pytest

from bdgf_jax.scenes.inspection import inspect_scene, overlapping_test_pixels
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import class_counts
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real scenes is not beside this repository")


@pytest.fixture
def sentinel(scene_config):
    scene_config.modalities = {
        "s2": {"file": "S2L2A.tif"},
        "s1": {"file": "S1RTC.tif", "kind": "sar"},
        "dem": {"file": "DEM.tif", "kind": "height"},
    }
    scene_config.labels.update(file="LULC.tif", ignore=(), minimum_test_pixels=100)
    scene_config.split.update(kind="blocks", block=16, per_class=60, guard=10)
    return scene_config


@pytest.fixture
def berlin(scene_config):
    scene_config.folder = str(DATA / "berlin_urban_gradient")
    scene_config.modalities = {
        "enmap": {"file": "EnMAP_BerlinUrbanGradient.bsq", "bands": (10, 30, 60, 120, 200)},
        "hymap": {"file": "HighResolution_BerlinUrbanGradient.bsq"},
    }
    scene_config.reference = "hymap"
    scene_config.labels.update(file="labels_level2_3.6m.tif", minimum_test_pixels=100)
    scene_config.split.update(kind="blocks", block=48, per_class=60, guard=10)
    return scene_config


@pytest.mark.parametrize(("tile", "classes", "epsg"), [("433D_629L_3_1", 5, 32718), ("282D_485L_3_3", 4, 32722)])
def test_a_sentinel_tile_is_read_split_and_whitened(sentinel, tile, classes, epsg):
    sentinel.folder = str(DATA / "sentinel_lulc" / tile)
    scene = load_scene(sentinel)
    assert scene.shape == (224, 224)
    assert scene.georeference.crs == f"EPSG:{epsg}"
    assert {name: len(modality.bands) for name, modality in scene.modalities.items()} == {"s2": 12, "s1": 2, "dem": 1}
    assert len(scene.classes) == classes
    assert class_counts(scene.labels, scene.masks["train"], classes).tolist() == [60] * classes
    assert class_counts(scene.labels, scene.masks["test"], classes).min() >= 100
    assert not overlapping_test_pixels(scene, 11).any()
    assert not [finding for finding in inspect_scene(scene) if finding.severity == "error"]
    whitened = apply_band_transform(fit_band_transform(scene.modalities["s2"]), scene.modalities["s2"])
    np.testing.assert_allclose(whitened.std(axis=(0, 1)), 1.0, atol=1e-3)


def test_berlin_is_inflated_resampled_and_split(berlin):
    scene = load_scene(berlin)
    assert scene.shape == (660, 494)
    assert scene.georeference.crs == "EPSG:32633"
    assert scene.modalities["enmap"].wavelengths[:2] == (470.0, 570.0)
    # The coarse image starts 2.4 m east of the fine one: the first column of 3.6 m pixels has its centres outside.
    np.testing.assert_array_equal(np.flatnonzero(~scene.modalities["enmap"].valid.all(axis=0)), [0])
    counts = class_counts(scene.labels, scene.labels >= 0, 6)
    assert counts.tolist() == [14787, 20028, 8115, 13040, 453, 646]
    assert any("resampled (bilinear) from 80 × 60 at 30" in finding.message for finding in scene.findings)
    assert not overlapping_test_pixels(scene, 11).any()


def test_the_shapefile_of_berlin_burns_to_the_labels_that_were_burnt_before(berlin):
    berlin.split.kind, berlin.labels.minimum_test_pixels = "per_class", 0
    before = load_scene(berlin)
    berlin.labels.update(file="LandCov_BerlinUrbanGradient.shp", attribute="Level_2_ID")
    scene = load_scene(berlin)
    contested = scene.labels != before.labels
    # Two polygons overlap by a few pixels, where whoever burnt the labels let the last one win.
    assert contested.sum() == 31
    assert (scene.labels[contested] == -1).all()
    assert any("31 pixels lie in polygons of two classes or more" in finding.message for finding in scene.findings)


def test_resampled_berlin_agrees_with_what_both_sensors_saw(berlin):
    """EnMAP at 670 nm and HyMap at 647 nm look at one ground: they must agree where they were laid upon each other."""
    berlin.modalities.enmap.bands = (47,)
    scene = load_scene(berlin)
    enmap, red = scene.modalities["enmap"], scene.modalities["hymap"].image[..., 2]
    agreement = lambda shift: np.corrcoef(
        enmap.image[40:-40, 40:-40, 0].ravel(), np.roll(red, shift, axis=(0, 1))[40:-40, 40:-40].ravel()
    )[0, 1]
    here = agreement((0, 0))
    assert here > 0.5
    assert all(here > agreement(shift) for shift in [(9, 0), (-9, 0), (0, 9), (0, -9)])

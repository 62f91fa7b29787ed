import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from bdgf_jax.scenes.drawing import draw_scene, paint_labels
from bdgf_jax.scenes.inspection import inspect_scene, overlapping_test_pixels, print_inspection, refuse_errors
from bdgf_jax.scenes.scene import Finding, SceneErrors
from bdgf_jax.scenes.splits import Blocks, split_blocks
from bdgf_jax.scenes.synthetic import synthetic_scene


@pytest.fixture
def scene():
    scene = synthetic_scene(height=64, width=48, bands=12, classes=4)
    split = split_blocks(scene.labels, Blocks(side=8, guard=10, per_class=20))
    return replace(scene, masks=split.masks, split=split.description)


def with_image(scene, name, change, **fields):
    modality = scene.modalities[name]
    image = modality.image.copy()
    change(image)
    return replace(scene, modalities={**scene.modalities, name: replace(modality, image=image, **fields)})


def said(scene, subject):
    return " ".join(f"{f.severity}: {f.message}" for f in inspect_scene(scene) if f.subject == subject)


def test_a_sound_scene_calls_for_no_warning(scene):
    assert {finding.severity for finding in inspect_scene(scene)} == {"note"}


def test_constant_bands_are_named(scene):
    odd = with_image(scene, "hsi", lambda image: image[..., 3:5].fill(0.5))
    assert "warning: 2 bands '945 nm', '1127 nm' constant" in said(odd, "hsi")


def test_values_that_look_like_nodata_are_pointed_out(scene):
    odd = with_image(scene, "height", lambda image: image[:2, :2].fill(-9999))
    assert "-9999 stands apart from all other values in band 'height'" in said(odd, "height")


def test_empty_pixels_are_pointed_out(scene):
    odd = with_image(scene, "hsi", lambda image: image[:3, :3].fill(0))
    assert "9 pixels are 0 in every band" in said(odd, "hsi")


def test_odd_units_are_pointed_out(scene):
    scaled = with_image(scene, "hsi", lambda image: np.multiply(image, 10_000, out=image))
    assert "look like reflectance × 10⁴" in said(scaled, "hsi")
    linear = with_image(scene, "sar", lambda image: np.power(10, image / 10, out=image))
    assert "linear power; set `scale` to 'db'" in said(linear, "sar")


def test_what_the_statistics_take_care_of_is_said(scene):
    assert re.search(r"note: values from -\d\S+ to -?\d\S+ are taken as decibels", said(scene, "sar"))
    assert "the statistics take the offset of the datum off" in said(scene, "height")


def test_a_modality_of_one_value_is_an_error_that_stops_a_run(scene):
    flat = with_image(scene, "height", lambda image: image.fill(7))
    with pytest.raises(SceneErrors, match=r"band 'height' constant \(7\), and nothing else; leave this modality out"):
        refuse_errors(inspect_scene(flat))


def test_nodata_and_partial_coverage_are_counted(scene):
    valid = np.ones(scene.shape, bool)
    valid[:16] = False
    sar = replace(scene.modalities["sar"], valid=valid)
    partial = replace(scene, modalities={**scene.modalities, "sar": sar})
    assert "warning: 768 pixels (25.00%) are nodata" in said(partial, "sar")
    assert "768 pixels are seen by some of the modalities only" in said(partial, "grid")


def test_overlapping_patches_are_counted(scene):
    assert "overlap" not in said(scene, "split")
    close = split_blocks(scene.labels, Blocks(side=8, guard=9, per_class=20))
    near = replace(scene, masks=close.masks)
    expected = int(overlapping_test_pixels(near, 11).sum())
    assert expected > 0
    assert f"patches of {expected} test pixels" in said(near, "split")
    assert overlapping_test_pixels(near, 10).sum() == 0


def test_classes_without_training_pixels_are_errors_and_come_first(scene):
    train = scene.masks["train"] & (scene.labels != 2)
    poor = replace(scene, masks={**scene.masks, "train": train}, findings=(Finding("note", "x", "was read"),))
    findings = inspect_scene(poor)
    assert findings[0].severity == "error"
    assert f"'{scene.classes[2].name}' has no training pixel" in findings[0].message
    assert Finding("note", "x", "was read") in findings


def test_the_printed_tables_hold_modalities_classes_and_findings(scene):
    console = Console(width=140, record=True, force_terminal=False)
    print_inspection(scene, console)
    text = console.export_text()
    for word in (
        "hsi",
        "optical",
        "400–2400 nm",
        "EPSG:32633",
        "training pixels a class",
        "80 train",
        *(c.name for c in scene.classes),
    ):
        assert word in text


def test_the_picture_holds_every_panel(scene, tmp_path):
    draw_scene(scene, tmp_path / "scene.png")
    picture = imread(tmp_path / "scene.png")
    assert picture.shape[1] > 1500
    train = np.array([0xD1, 0x20, 0x5C]) / 255
    assert (np.abs(picture[..., :3] - train).max(axis=-1) < 0.01).sum() > 100


def test_a_scene_without_labels_or_place_can_be_drawn(scene, tmp_path):
    bare = replace(
        scene, labels=np.full(scene.shape, -1, np.int32), georeference=None,
        masks={name: np.zeros(scene.shape, bool) for name in scene.masks},
    )  # fmt: skip
    draw_scene(bare, tmp_path / "scene.png")
    assert (tmp_path / "scene.png").stat().st_size > 10_000
    assert not [finding for finding in inspect_scene(bare) if finding.severity == "error"]


def test_labels_are_painted_in_the_colours_of_their_classes(scene):
    labels = scene.labels.copy()
    labels[:5] = -1
    picture = paint_labels(replace(scene, labels=labels))
    assert (picture[:5] == 1).all()
    red, green, blue = (int(scene.classes[labels[20, 20]].colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    np.testing.assert_allclose(picture[20, 20], [red, green, blue], atol=1e-6)

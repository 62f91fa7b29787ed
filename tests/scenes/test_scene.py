from dataclasses import replace

import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Modality, check_modalities, class_counts
from bdgf_jax.scenes.synthetic import synthetic_scene


@pytest.fixture
def scene():
    return synthetic_scene(height=16, width=20, bands=4, classes=3)


def test_centres_are_the_pixels_of_a_mask_in_raster_order(scene):
    mask = np.zeros(scene.shape, bool)
    mask[3, 7] = mask[1, 19] = mask[15, 0] = True
    centres = replace(scene, masks={**scene.masks, "train": mask}).centres("train")
    assert centres.tolist() == [[1, 19], [3, 7], [15, 0]]
    assert centres.dtype == np.int32


def test_a_pixel_is_valid_where_any_modality_sees_it(scene):
    modalities = {}
    for name, modality in scene.modalities.items():
        valid = np.ones(scene.shape, bool)
        valid[:4, :4] = False
        valid[8, 8] = name == "sar"
        modalities[name] = replace(modality, valid=valid)
    expected = np.ones(scene.shape, bool)
    expected[:4, :4] = False
    np.testing.assert_array_equal(replace(scene, modalities=modalities).valid, expected)


def test_modalities_on_another_grid_are_refused_with_both_sizes(scene):
    odd = Modality(np.zeros((16, 19, 1), np.float32), np.ones((16, 19), bool), ("a",))
    with pytest.raises(InputError, match="modality 'odd' is 16 × 19 pixels, the scene's labels are 16 × 20"):
        replace(scene, modalities={**scene.modalities, "odd": odd})


def test_a_single_modality_is_refused(scene):
    with pytest.raises(InputError, match="two modalities or more"):
        replace(scene, modalities={"sar": scene.modalities["sar"]})


def test_masks_that_share_pixels_are_refused(scene):
    mask = np.zeros(scene.shape, bool)
    mask[2, 3] = True
    with pytest.raises(InputError, match=r"1 pixels are in the training and in the test mask.*\(2, 3\)"):
        replace(scene, masks={"train": mask, "validation": ~mask & False, "test": mask})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("hsi",), "'sar' is missing, given are 'hsi'"),
        (("hsi", "sar", "dem"), "'dem' was given, expected are 'hsi', 'sar'"),
    ],
)
def test_the_odd_modality_is_named(given, message):
    with pytest.raises(InputError, match=message):
        check_modalities(("hsi", "sar"), given)


def test_the_order_of_modalities_is_free():
    check_modalities({"hsi": 1, "sar": 2}, ["sar", "hsi"])


def test_counts_leave_unlabelled_pixels_out():
    labels = np.array([[0, -1, 2], [2, 0, 1]], np.int32)
    mask = np.array([[True, True, True], [True, False, False]])
    assert class_counts(labels, mask, 4).tolist() == [1, 0, 2, 0]

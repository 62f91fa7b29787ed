import io

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from bdgf_jax.evaluation import pictures


def rgba(colour):
    return tuple(round(255 * level) for level in matplotlib.colors.to_rgba(colour))


def test_classes_have_their_own_colours_and_nodata_is_transparent(scene):
    picture = pictures.class_picture(scene.labels, scene.classes)
    for index, cover in enumerate(scene.classes):
        assert (picture[scene.labels == index] == rgba(cover.colour)).all()
    assert (picture[scene.labels == -1] == 0).all()


def test_errors_show_at_test_pixels_only(scene):
    prediction = scene.labels.copy()
    row, column = scene.centres("test")[5]
    prediction[row, column] = (prediction[row, column] + 1) % 3
    prediction[scene.masks["train"]] = 0
    picture = pictures.error_picture(scene, prediction)
    assert (picture == rgba(pictures.WRONG)).all(-1).sum() == 1
    assert tuple(picture[row, column]) == rgba(pictures.WRONG)
    assert (picture == rgba(pictures.RIGHT)).all(-1).sum() == scene.masks["test"].sum() - 1
    assert (picture[scene.labels == -1] == 0).all()


def test_certainty_and_disagreement_run_through_their_colours_and_stop_at_the_ends():
    shares, valid = np.array([[0.25, 0.5, 1.0, 0.1]], np.float32), np.array([[True, True, True, False]])
    confidence = pictures.confidence_picture(shares, valid, chance=0.25)
    assert tuple(confidence[0, 0]) == pictures.CONFIDENCE_COLOURS(0.0, bytes=True)
    assert tuple(confidence[0, 2]) == pictures.CONFIDENCE_COLOURS(1.0, bytes=True)
    disagreement = pictures.disagreement_picture(shares, valid, highest=0.5)
    assert tuple(disagreement[0, 0]) == pictures.DISAGREEMENT_COLOURS(0.5, bytes=True)
    np.testing.assert_array_equal(disagreement[0, 1], disagreement[0, 2])
    assert (confidence[0, 3] == 0).all()
    assert (disagreement[0, 3] == 0).all()


def test_crops_lie_on_valid_ground_and_inside_the_scene_where_there_is_room():
    valid = np.ones((40, 30), bool)
    valid[:20] = False
    centres = pictures.crop_centres(valid, side=8, count=4)
    assert centres.shape == (4, 2)
    assert len(np.unique(centres, axis=0)) == 4
    assert valid[tuple(centres.T)].all()
    assert ((centres >= 4) & (centres <= np.array([36, 26]))).all()
    assert pictures.crop_centres(valid, side=64, count=4).shape == (4, 2)


def crops_of(modality, side=12):
    return np.stack([modality.image[row : row + side, 4 : 4 + side] for row in (8, 14, 20)])


@pytest.mark.parametrize("name", ["msi", "sar", "dsm"])
def test_drawn_samples_go_through_the_stretch_of_the_real_crops(scene, name):
    modality = scene.modalities[name]
    crops = crops_of(modality)
    real, same = pictures.sample_pictures(modality, crops, crops)
    np.testing.assert_allclose(real, same, atol=1e-6)
    assert real.shape == (3, 12, 12, 3)
    assert real.std() > 0.05


def test_a_sample_out_of_range_does_not_pale_the_others(scene):
    modality = scene.modalities["msi"]
    crops = crops_of(modality)
    wild = np.concatenate([crops, crops[:1] + 1e6])
    real, drawn = pictures.sample_pictures(modality, crops, wild)
    assert real.std() > 0.05
    assert (drawn[-1] == 1.0).all()


def test_constant_crops_do_not_divide_by_zero(scene):
    for modality in scene.modalities.values():
        crops = np.ones((2, 8, 8, modality.image.shape[-1]), np.float32)
        assert np.isfinite(pictures.sample_pictures(modality, crops, crops)[0]).all()


def test_large_scenes_are_thinned_and_small_ones_left_alone():
    assert pictures.thinned(np.zeros((1201, 300))).shape == (601, 150)
    assert pictures.thinned(np.zeros((1200, 300, 3))).shape == (1200, 300, 3)
    assert max(pictures.thinned(np.zeros((20_000, 7))).shape) <= pictures.LARGEST_SIDE


def test_png_keeps_every_pixel(scene):
    picture = pictures.class_picture(scene.labels, scene.classes)
    read = matplotlib.image.imread(io.BytesIO(pictures.png(picture)))
    np.testing.assert_array_equal(np.round(255 * read), picture)

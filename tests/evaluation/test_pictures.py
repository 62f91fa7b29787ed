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


def test_drawn_samples_go_through_the_stretch_of_the_real_crops():
    rng = np.random.default_rng(0)
    crops = rng.normal(5.0, 2.0, (6, 8, 8, 4)).astype(np.float32)
    real, same = pictures.sample_pictures(crops, crops)
    np.testing.assert_array_equal(real, same)
    _, brighter = pictures.sample_pictures(crops, crops + 100.0)
    assert (brighter == 255).all()


@pytest.mark.parametrize(("channels", "colour"), [(1, False), (2, False), (3, True), (12, True)])
def test_fewer_than_three_channels_are_grey(channels, colour):
    crops = np.random.default_rng(0).normal(size=(2, 8, 8, channels)).astype(np.float32)
    real, _ = pictures.sample_pictures(crops, crops)
    assert bool(np.ptp(real, axis=-1).any()) == colour


def test_constant_crops_do_not_divide_by_zero():
    crops = np.ones((2, 8, 8, 3), np.float32)
    assert np.isfinite(pictures.sample_pictures(crops, crops)[0]).all()


def test_large_scenes_are_thinned_and_small_ones_left_alone():
    assert pictures.thinned(np.zeros((1201, 300))).shape == (601, 150)
    assert pictures.thinned(np.zeros((1200, 300, 3))).shape == (1200, 300, 3)
    assert max(pictures.thinned(np.zeros((20_000, 7))).shape) <= pictures.LARGEST_SIDE


def test_png_keeps_every_pixel(scene):
    picture = pictures.class_picture(scene.labels, scene.classes)
    read = matplotlib.image.imread(io.BytesIO(pictures.png(picture)))
    np.testing.assert_array_equal(np.round(255 * read), picture)

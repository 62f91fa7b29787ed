import dataclasses

import matplotlib.colors
import matplotlib.image
import numpy as np

from bdgf_jax.evaluation.map_picture import draw_map


def draw(path, scene, prediction):
    counts = np.bincount(prediction[prediction >= 0], minlength=len(scene.classes))
    draw_map(path, scene.name, scene, scene.classes, prediction, counts)


def test_the_picture_shows_every_class_in_map_and_legend_and_a_scale_where_one_is_known(tmp_path, scene):
    draw(tmp_path / "map.png", scene, scene.labels)
    picture = matplotlib.image.imread(tmp_path / "map.png")[..., :3]
    # The map reaches down to the bottom of the picture, the legend does not.
    edge = np.flatnonzero((picture[3 * len(picture) // 4] < 1).any(axis=-1)).max() + 1
    left, right = picture[:, :edge], picture[:, edge:]
    for cover in scene.classes:
        colour = matplotlib.colors.to_rgb(cover.colour)
        assert (np.abs(left - colour).max(axis=-1) < 0.01).sum() > 10_000
        assert 50 < (np.abs(right - colour).max(axis=-1) < 0.01).sum() < 2_000
    draw(tmp_path / "nowhere.png", dataclasses.replace(scene, georeference=None), scene.labels)
    nowhere = matplotlib.image.imread(tmp_path / "nowhere.png")[..., :3]
    assert (np.abs(nowhere - picture).max(axis=-1) > 0.5).sum() > 500


def test_a_map_without_a_single_mapped_pixel_can_be_drawn(tmp_path, scene):
    draw(tmp_path / "map.png", scene, np.full(scene.shape, -1, np.int32))
    assert (tmp_path / "map.png").stat().st_size > 1000

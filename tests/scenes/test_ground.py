import dataclasses

import pytest

from bdgf_jax.scenes.ground import hectares_per_pixel, metres_per_pixel
from bdgf_jax.scenes.scene import Georeference
from bdgf_jax.scenes.synthetic import synthetic_scene


@pytest.fixture(scope="module")
def scene():
    return synthetic_scene(height=40, width=56, bands=4, classes=3)


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32633", (3.6, 0, 5e5, 0, -3.6, 5.8e6), 3.6),
        ("EPSG:32633", (3.0, 4.0, 5e5, 4.0, -3.0, 5.8e6), 5.0),
        ("EPSG:2263", (10.0, 0, 9e5, 0, -10.0, 2e5), 10 * 1200 / 3937),  # US survey feet
        ("EPSG:4326", (1e-4, 0, 13.0, 0, -1e-4, 60.002), 1e-4 * 111_195.08 / 2),  # the scene's middle is at 60° N
        (None, (1.0, 0, 0, 0, 1.0, 0), None),
    ],
)
def test_the_width_of_a_pixel_is_known_in_metres(scene, crs, transform, metres):
    place = dataclasses.replace(scene, georeference=Georeference(crs, tuple(map(float, transform))))
    assert metres_per_pixel(place) == (None if metres is None else pytest.approx(metres, rel=1e-6))


@pytest.mark.parametrize(
    ("crs", "transform", "hectares"),
    [
        ("EPSG:32633", (30.0, 0.0, 5e5, 0.0, -30.0, 5.8e6), 0.09),
        ("EPSG:32633", (3.0, 4.0, 5e5, 4.0, -3.0, 5.8e6), 0.0025),
        ("EPSG:2263", (10.0, 0.0, 9e5, 0.0, -10.0, 2e5), (12_000 / 3937) ** 2 / 1e4),
        ("EPSG:4326", (1e-4, 0.0, 13.0, 0.0, -1e-4, 60.0), None),
        (None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None),
    ],
)
def test_the_area_of_a_pixel_is_known_where_all_have_the_same(scene, crs, transform, hectares):
    place = dataclasses.replace(scene, georeference=Georeference(crs, transform))
    assert hectares_per_pixel(place) == (None if hectares is None else pytest.approx(hectares, rel=1e-6))

"""The template of a scene of one's own, filled in with small files on three grids in two reference systems."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine

from bdgf_jax import configuration
from bdgf_jax.cli import main
from bdgf_jax.scenes.loading import load_scene

LEFT, TOP = 400_000.0, 5_800_000.0
# Left edges of three strips of land, in metres from the left.
STRIPS = {"water": 0, "trees": 200, "built": 400}
TEMPLATE = configuration.config_folder() / "my_scene.py"


def write(path, image, *, pixel, crs="EPSG:32633", corner=(LEFT, TOP), nodata=None):
    height, width, count = image.shape
    place = Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    profile = {"height": height, "width": width, "count": count, "dtype": image.dtype, "nodata": nodata}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=place, **profile) as dataset:
        dataset.write(np.moveaxis(image, -1, 0))


@pytest.fixture
def folder(tmp_path):
    """A folder of the files that the template names; of the land, 600 m square, water is in the west."""
    random = np.random.default_rng(0)
    land = lambda pixel, side: (np.arange(side) * pixel // 200).clip(0, 2)[None, :, None]
    reflectance = 1000 * (1 + land(10, 60)) + random.integers(0, 500, (60, 60, 5))
    reflectance[:4, :4] = 0
    write(tmp_path / "optical.tif", reflectance.astype(np.uint16), pixel=10)
    power = 10 ** ((-20 + 5 * land(20, 30) + random.standard_normal((30, 30, 2))) / 10)
    write(tmp_path / "sar.tif", power.astype(np.float32), pixel=20)
    # In the neighbouring zone, whose grid lies askew to the others', and larger than they are.
    heights = random.normal(40, 2, (80, 80, 1)).astype(np.float32)
    write(tmp_path / "dsm.tif", heights, pixel=30, crs="EPSG:32632", corner=(807_800.0, 5_809_600.0))
    shapes = [shapely.box(LEFT + left, TOP - 600, LEFT + left + 200, TOP) for left in STRIPS.values()]
    fields = [np.array([name.title() for name in STRIPS], object)]
    for name in ("labels.gpkg", "labels.shp"):
        pyogrio.raw.write(
            tmp_path / name, shapely.to_wkb(np.array(shapes, object)), fields, ["class"],
            geometry_type="Polygon", crs="EPSG:32633",
        )  # fmt: skip
    return tmp_path


def test_the_template_reads_files_on_different_grids_and_polygons(folder):
    scene = load_scene(configuration.load(str(TEMPLATE), [f"--config.scene.folder={folder}"]).scene)
    assert scene.shape == (60, 60)
    assert list(scene.modalities) == ["optical", "sar", "dsm"]
    optical, sar, dsm = scene.modalities.values()
    assert optical.bands == ("blue", "green", "red", "near infrared")
    assert 0.09 < optical.image[optical.valid].min() < optical.image.max() < 0.36
    np.testing.assert_array_equal(np.argwhere(~optical.valid), np.argwhere(np.ones((4, 4))))
    np.testing.assert_allclose([sar.image[:, :18].mean(), sar.image[:, 42:].mean()], [-20, -10], atol=0.5)
    assert dsm.valid.all()
    assert abs(dsm.image.mean() - 40) < 1
    expected = np.broadcast_to(np.arange(60) // 20, (60, 60))
    np.testing.assert_array_equal(scene.labels, expected)
    assert [entry.name for entry in scene.classes] == list(STRIPS)
    assert scene.masks["train"].any()
    assert scene.masks["test"].any()


def test_an_edited_copy_with_a_shapefile_is_inspected_from_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    text = TEMPLATE.read_text().replace("~/data/my_scene", str(folder)).replace("labels.gpkg", "labels.shp")
    (folder / "mine.py").write_text(text)
    assert main(["inspect", "--config", str(folder / "mine.py"), "--workdir", str(folder / "run")]) == 0
    said = capsys.readouterr().out
    for words in (
        "3 polygons burnt onto 60 × 60 at 10 (EPSG:32633) by 'class'",
        "no value is negative, so it holds linear power: 10 log10 of it, decibels, is taken",
        "resampled (bilinear) from 30 × 30 at 20 (EPSG:32633) to 60 × 60 at 10",
        "of 80 × 80 were read: no more is needed",
        "are taken as decibels",
    ):
        assert words in said
    assert (folder / "run" / "scene.png").stat().st_size > 10_000


def test_the_sources_of_a_shapefile_include_its_table(folder):
    config = configuration.load(str(TEMPLATE), [f"--config.scene.folder={folder}"]).scene
    config.labels.file = "labels.shp"
    names = [source.path.rsplit("/", 1)[-1] for source in load_scene(config).sources]
    assert {"labels.shp", "labels.dbf", "labels.prj"} <= set(names)

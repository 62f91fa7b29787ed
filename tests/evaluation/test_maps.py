import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rio_cogeo.cogeo import cog_validate

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.maps import read_map, read_map_of, read_shares, write_map, write_shares
from bdgf_jax.scenes.scene import Georeference, LandCover

CLASSES = (LandCover("water", "#0a1464"), LandCover("<b>& Bäume", "#00ff80"), LandCover("roof", "#c83c28"))
BERLIN = Georeference("EPSG:32633", (3.6, 0.0, 384000.0, 0.0, -3.6, 5819000.0))


@pytest.fixture
def land_cover():
    return np.random.default_rng(0).integers(-1, 3, (300, 270)).astype(np.int32)


def test_a_map_opens_in_place_with_its_colours_and_transparent_nodata(tmp_path, land_cover):
    write_map(tmp_path / "map.tif", land_cover, CLASSES, BERLIN)
    with rasterio.open(tmp_path / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), land_cover + 1)
        assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), 0)
        assert file.crs.to_epsg() == 32633
        assert tuple(file.transform)[:6] == BERLIN.transform
        assert file.profile["compress"] == "deflate"
        assert file.profile["tiled"]
        assert file.colormap(1)[1] == (10, 20, 100, 255)
        assert file.colormap(1)[3] == (200, 60, 40, 255)
        np.testing.assert_array_equal(file.read_masks(1) == 0, land_cover == -1)


@pytest.mark.parametrize("shape", [(700, 530), (20, 30)])
@pytest.mark.parametrize("georeference", [BERLIN, None])
def test_every_file_is_a_valid_cloud_optimised_geotiff(tmp_path, shape, georeference):
    rng = np.random.default_rng(0)
    write_map(tmp_path / "map.tif", rng.integers(-1, 3, shape).astype(np.int32), CLASSES, georeference)
    shares = rng.random((*shape, 3)).astype(np.float32)
    write_shares(tmp_path / "shares.tif", shares, shares[..., 0] > 0.1, ["a", "b", "c"], georeference)
    for name in ("map.tif", "shares.tif"):
        valid, errors, warnings = cog_validate(tmp_path / name, strict=True, quiet=True)
        assert valid, (errors, warnings)
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "map.tif.aux.xml", "map.qml", "shares.tif"}


def test_an_overview_shows_classes_that_are_there_and_keeps_nodata(tmp_path):
    land_cover = np.zeros((1024, 1024), np.int32)
    land_cover[:, 512:] = 2
    land_cover[:512] = -1
    write_map(tmp_path / "map.tif", land_cover, CLASSES, BERLIN)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as overview:
        assert overview.shape == (512, 512)
        np.testing.assert_array_equal(overview.read(1), land_cover[::2, ::2] + 1)
        np.testing.assert_array_equal(overview.read_masks(1) > 0, land_cover[::2, ::2] >= 0)


def test_the_style_for_qgis_gives_each_value_its_name_and_colour(tmp_path, land_cover):
    write_map(tmp_path / "map.tif", land_cover, CLASSES, BERLIN)
    renderer = ElementTree.parse(tmp_path / "map.qml").find("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [(entry.get("value"), entry.get("label"), entry.get("color")) for entry in renderer.iter("paletteEntry")]
    assert entries == [(str(value), cover.name, cover.colour) for value, cover in enumerate(CLASSES, start=1)]


def test_gdal_itself_finds_the_names_of_the_classes(tmp_path, land_cover):
    """GDAL copies the category names along when it translates to a format that keeps them."""
    write_map(tmp_path / "map.tif", land_cover, CLASSES, BERLIN)
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "map.vrt", driver="VRT")
    text = (tmp_path / "map.vrt").read_text()
    assert "<Category>water</Category>" in text
    assert "<Category>&lt;b&gt;&amp; Bäume</Category>" in text


@pytest.mark.parametrize("georeference", [BERLIN, None, Georeference(None, BERLIN.transform)])
def test_a_map_comes_back_as_it_was_written(tmp_path, land_cover, georeference):
    write_map(tmp_path / "map.tif", land_cover, CLASSES, georeference)
    values, classes, place = read_map(tmp_path / "map.tif")
    np.testing.assert_array_equal(values, land_cover)
    assert classes == CLASSES
    if georeference is None:
        assert place is None
    else:
        assert place.transform == georeference.transform
        assert (place.crs is None) == (georeference.crs is None)


def test_confidence_and_probabilities_keep_nodata_apart_from_zero(tmp_path):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), (40, 30)).astype(np.float32)
    probabilities[0, 0] = (0.0, 0.0, 1.0)
    valid = rng.random((40, 30)) < 0.7
    valid[0, 0] = True
    write_shares(tmp_path / "confidence.tif", probabilities.max(-1)[..., None], valid, ["confidence"], BERLIN)
    write_shares(tmp_path / "probabilities.tif", probabilities, valid, [cover.name for cover in CLASSES], BERLIN)
    with rasterio.open(tmp_path / "confidence.tif") as file:
        assert file.dtypes == ("float32",)
        np.testing.assert_array_equal(file.read_masks(1) > 0, valid)
        np.testing.assert_array_equal(file.read(1)[valid], probabilities.max(-1)[valid])
    with rasterio.open(tmp_path / "probabilities.tif") as file:
        assert file.descriptions == tuple(cover.name for cover in CLASSES)
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0)[valid], probabilities[valid])
        np.testing.assert_array_equal(file.read(1, masked=True).mask, ~valid)
    np.testing.assert_array_equal(read_shares(tmp_path / "probabilities.tif")[valid], probabilities[valid])
    (tmp_path / "probabilities.tif").write_text("no raster")
    with pytest.raises(InputError, match=r"probabilities\.tif: cannot be read"):
        read_shares(tmp_path / "probabilities.tif")


def test_more_classes_than_a_byte_holds_are_refused(tmp_path, land_cover):
    with pytest.raises(InputError, match="at most 255 classes, got 256"):
        write_map(tmp_path / "map.tif", land_cover, CLASSES * 85 + CLASSES[:1], None)


def test_a_map_that_breaks_off_while_written_leaves_the_old_one(tmp_path, land_cover, monkeypatch):
    write_map(tmp_path / "map.tif", land_cover, CLASSES, BERLIN)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("bdgf_jax.evaluation.geotiff.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_map(tmp_path / "map.tif", land_cover * 0, CLASSES, BERLIN)
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif")[0], land_cover)
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "map.tif.aux.xml", "map.qml"}


def test_what_is_no_map_is_named(tmp_path, land_cover):
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(InputError, match=r"text\.tif is not a map"):
        read_map(tmp_path / "text.tif")
    write_map(tmp_path / "map.tif", land_cover, CLASSES, None)
    (tmp_path / "map.tif.aux.xml").unlink()
    with pytest.raises(InputError, match=r"map\.tif\.aux\.xml with the names"):
        read_map(tmp_path / "map.tif")


def test_names_of_another_map_are_noticed(tmp_path, land_cover):
    write_map(tmp_path / "map.tif", land_cover, CLASSES, None)
    write_map(tmp_path / "other.tif", land_cover * 0, CLASSES[:1], None)
    (tmp_path / "other.tif.aux.xml").replace(tmp_path / "map.tif.aux.xml")
    with pytest.raises(InputError, match=r"holds the value 3, but .* names 1 classes only"):
        read_map(tmp_path / "map.tif")


def test_a_map_of_another_scene_is_refused_by_what_differs(tmp_path, scene):
    path = tmp_path / "map.tif"
    write_map(path, scene.labels, scene.classes, scene.georeference)
    np.testing.assert_array_equal(read_map_of(scene, path), scene.labels)
    shifted = dataclasses.replace(scene.georeference, transform=(10.0, 0.0, 5e5 + 10.0, 0.0, -10.0, 5.8e6))
    write_map(path, scene.labels, scene.classes, shifted)
    with pytest.raises(InputError, match=r"lies elsewhere: its transform is .*500010\.0"):
        read_map_of(scene, path)
    write_map(path, scene.labels, CLASSES, scene.georeference)
    with pytest.raises(InputError, match=r"shows the classes .*Bäume.* where the scene has"):
        read_map_of(scene, path)
    write_map(path, scene.labels[:-1], scene.classes, scene.georeference)
    with pytest.raises(InputError, match=r"has \(39, 56\) pixels where the scene has \(40, 56\)"):
        read_map_of(scene, path)

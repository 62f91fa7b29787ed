import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling

from bdgf_jax.scenes import georeferenced_files
from bdgf_jax.scenes.grids import Grid, resample
from bdgf_jax.scenes.readers import read_raster
from bdgf_jax.scenes.scene import Georeference

LEFT, TOP = 400_000.0, 5_800_000.0


def grid(height, width, pixel, *, left=LEFT, top=TOP):
    return Grid((height, width), Georeference("EPSG:32633", (pixel, 0.0, left, 0.0, -pixel, top)))


@pytest.fixture
def smooth(geotiff):
    """A file of 101 × 83 pixels whose size no overview divides, and its image."""
    rows, columns = np.indices((101, 83))
    image = np.stack([rows + 0.5 * columns, np.sin(rows / 30) * 50 - columns], axis=-1).astype(np.float32)
    return geotiff("smooth.tif", image), image


def onto(path, target):
    raster = read_raster(path, onto=target)
    own = Grid(raster.shape, raster.georeference)
    return raster, resample(raster.values, raster.valid.all(axis=2), own, target, "bilinear", what="x")


def test_only_the_rows_and_columns_that_a_grid_covers_are_read(smooth):
    path, image = smooth
    target = grid(40, 30, 5.0, left=LEFT + 300, top=TOP - 400)
    raster, (values, valid) = onto(path, target)
    assert raster.shape == (20 + 2 * 3, 15 + 2 * 3)
    np.testing.assert_array_equal(raster.values, image[37:63, 27:48])
    whole = read_raster(path)
    expected, covered = resample(
        whole.values, whole.valid.all(axis=2), Grid(whole.shape, whole.georeference), target, "bilinear", what="x"
    )
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(valid, covered)
    assert raster.remarks == ("rows 37 to 62 and columns 27 to 47 of 101 × 83 were read: no more is needed.",)


def test_a_grid_in_another_system_reads_what_lies_under_it(smooth):
    path, _ = smooth
    target = Grid((20, 20), Georeference("EPSG:4326", (0.0001, 0.0, 13.5345, 0.0, -0.00006, 52.3400)))
    raster, (values, valid) = onto(path, target)
    whole = read_raster(path)
    expected, covered = resample(
        whole.values, whole.valid.all(axis=2), Grid(whole.shape, whole.georeference), target, "bilinear", what="x"
    )
    assert np.prod(raster.shape) < 0.5 * np.prod(whole.shape)
    assert covered.any()
    np.testing.assert_array_equal(valid, covered)
    np.testing.assert_allclose(values, expected, atol=1e-3)


def test_a_coarser_grid_is_served_from_the_coarsest_overview_that_suffices(smooth):
    path, image = smooth
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.average)
    target = grid(20, 16, 50.0)
    raster, (values, valid) = onto(path, target)
    assert raster.shape == (26, 21)
    assert raster.remarks == ("read from its overview 26 × 21.",)
    assert valid.all()
    # The image is nearly a plane that falls by 5 from a pixel of the grid to the next: a fifth of that is allowed.
    means = image[:100, :80].reshape(20, 5, 16, 5, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(values[1:-1, 1:-1], means[1:-1, 1:-1], atol=1.0)


def test_a_grid_askew_of_the_same_pixel_size_reads_every_pixel_under_it(smooth):
    path, _ = smooth
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    step = 10 / np.sqrt(2)
    askew = Grid((20, 20), Georeference("EPSG:32633", (step, step, LEFT + 300, -step, step, TOP - 500)))
    raster = read_raster(path, onto=askew)
    assert raster.georeference.transform[0] == 10
    assert max(raster.shape) < 20 * np.sqrt(2) + 2 * 4


def test_a_finer_grid_is_never_served_from_an_overview(smooth):
    path, image = smooth
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    raster = read_raster(path, onto=grid(101, 83, 10.0))
    np.testing.assert_array_equal(raster.values, image)


def test_a_file_elsewhere_is_read_so_that_its_place_can_be_told(smooth):
    assert read_raster(smooth[0], onto=grid(10, 10, 10.0, left=LEFT + 10_000)).shape == (101, 83)


def test_reading_by_blocks_of_rows_gives_the_whole(smooth, monkeypatch):
    path, image = smooth
    monkeypatch.setattr(georeferenced_files, "ROW_BYTES", 83 * 2 * 4 * 15)
    with rasterio.open(path) as dataset:
        assert dataset.block_shapes[0][0] < 101
    np.testing.assert_array_equal(read_raster(path).values, image)


def test_a_large_file_without_tiles_is_said_to_be_slow(smooth, tmp_path, monkeypatch):
    path, image = smooth
    assert not read_raster(path).remarks
    monkeypatch.setattr(georeferenced_files, "LARGE_BYTES", image.nbytes)
    assert "has no internal tiles" in read_raster(path).remarks[0]
    with rasterio.open(path) as dataset:
        profile = dataset.profile | {"tiled": True, "blockxsize": 32, "blockysize": 32}
    with rasterio.open(tmp_path / "tiled.tif", "w", **profile) as dataset:
        dataset.write(np.moveaxis(image, -1, 0))
    assert not read_raster(tmp_path / "tiled.tif").remarks


def test_selected_bands_alone_are_read_with_their_names_and_nodata(geotiff):
    image = np.arange(4 * 5 * 3).reshape(4, 5, 3).astype(np.float32)
    path = geotiff("bands.tif", image, nodata=5)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red")
    raster = read_raster(path, bands=(3, 1))
    np.testing.assert_array_equal(raster.values, image[..., [2, 0]])
    assert raster.bands == ("red", "blue")
    assert np.argwhere(~raster.valid).tolist() == [[0, 1, 0]]


def test_declared_scales_are_kept_beside_the_stored_values(geotiff):
    path = geotiff("scaled.tif", np.full((4, 5, 2), 200, np.int16), nodata=-1)
    assert read_raster(path).units is None
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.01, 0.1), (0.0, -5.0)
    raster = read_raster(path)
    assert (raster.values == 200).all()
    assert raster.units == ((0.01, 0.0), (0.1, -5.0))

import numpy as np
import pyogrio
import pytest
import shapely

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.scene import Georeference
from bdgf_jax.scenes.vector_labels import burn_polygons

LEFT, TOP, PIXEL = 400_000.0, 5_800_000.0, 10.0
NAMES = {"1": "Water", "2": "Trees"}


@pytest.fixture
def grid():
    return Grid((20, 30), Georeference("EPSG:32633", (PIXEL, 0.0, LEFT, 0.0, -PIXEL, TOP)))


def rectangle(top, left, bottom, right):
    """A polygon round whole pixels of the grid."""
    return shapely.box(LEFT + left * PIXEL, TOP - bottom * PIXEL, LEFT + right * PIXEL, TOP - top * PIXEL)


@pytest.fixture
def polygons(tmp_path):
    """Writes polygons with an attribute and returns the file."""

    def write(shapes, values, *, name="labels.gpkg", crs="EPSG:32633", layer=None, append=False):
        pyogrio.raw.write(
            tmp_path / name, shapely.to_wkb(np.array(shapes, object)), [np.array(values)], ["class"],
            geometry_type="Polygon", crs=crs, layer=layer, append=append,
        )  # fmt: skip
        return tmp_path / name

    return write


SHAPES = (rectangle(2, 3, 8, 10), rectangle(12, 15, 20, 30))


def expected(first=1, second=2):
    values = np.zeros((20, 30), int)
    values[2:8, 3:10], values[12:20, 15:30] = first, second
    return values


def burnt(*arguments, **options):
    values, valid, names, findings = burn_polygons(*arguments, **options)
    return np.where(valid, values, 0), names, " ".join(finding.message for finding in findings)


@pytest.mark.parametrize("name", ["labels.shp", "labels.gpkg", "labels.geojson"])
def test_a_pixel_takes_the_class_of_the_polygon_round_its_centre(polygons, grid, name):
    crs = "EPSG:32633" if name != "labels.geojson" else "EPSG:4326"
    shapes = SHAPES if crs == "EPSG:32633" else moved(SHAPES, crs)
    values, _, said = burnt(polygons(shapes, [5, 7], name=name, crs=crs), grid, attribute="class")
    np.testing.assert_array_equal(values, expected(5, 7))
    assert "2 polygons burnt onto 20 × 30 at 10 (EPSG:32633) by 'class'" in said


def moved(shapes, crs):
    from rasterio.warp import transform

    move = lambda points: np.column_stack(transform("EPSG:32633", crs, points[:, 0], points[:, 1]))
    return shapely.transform(np.array(shapes, object), move)


def test_another_reference_system_is_transformed(polygons, grid):
    path = polygons(moved(SHAPES, "EPSG:25832"), [1, 2], crs="EPSG:25832")
    values, _, _ = burnt(path, grid, attribute="class")
    np.testing.assert_array_equal(values, expected())


def test_classes_in_words_take_the_values_of_their_names(polygons, grid):
    path = polygons(SHAPES, np.array(["trees", "water "], object))
    values, names, _ = burnt(path, grid, attribute="class", names=NAMES)
    np.testing.assert_array_equal(values, expected(2, 1))
    assert names == NAMES
    values, names, _ = burnt(path, grid, attribute="class")
    np.testing.assert_array_equal(values, expected(1, 2))
    assert names == {"1": "trees", "2": "water"}


def test_what_two_classes_claim_is_unlabelled_and_said(polygons, grid):
    path = polygons([*SHAPES, rectangle(6, 8, 10, 12), rectangle(2, 3, 4, 4)], [1, 2, 2, 1])
    values, _, said = burnt(path, grid, attribute="class")
    wanted = expected()
    wanted[6:10, 8:12] = 2
    wanted[6:8, 8:10] = 0
    np.testing.assert_array_equal(values, wanted)
    assert "4 pixels lie in polygons of two classes or more" in said


def test_polygons_without_a_class_are_left_out_and_said(polygons, grid):
    path = polygons([*SHAPES, rectangle(0, 0, 2, 2)], np.array(["water", "trees", None], object))
    values, _, said = burnt(path, grid, attribute="class", names=NAMES)
    np.testing.assert_array_equal(values, expected())
    assert "1 features have no geometry or no 'class'" in said


def test_a_layer_is_asked_for_where_there_are_several(polygons, grid):
    polygons(SHAPES, [1, 2], layer="cover")
    path = polygons([rectangle(0, 0, 5, 5)], [3], layer="roads", append=True)
    with pytest.raises(InputError, match=r"holds the layers cover, roads; set scene.labels.layer"):
        burn_polygons(path, grid, attribute="class")
    values, _, _ = burnt(path, grid, attribute="class", layer="cover")
    np.testing.assert_array_equal(values, expected())


def test_a_shapefile_without_a_system_is_taken_to_be_in_the_grids(polygons, grid):
    path = polygons(SHAPES, [1, 2], name="labels.shp", crs=None)
    values, _, said = burnt(path, grid, attribute="class")
    np.testing.assert_array_equal(values, expected())
    assert "labels.shp names no reference system" in said


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1, 2], {"attribute": ""}, r"scene.labels.attribute is empty; .*labels.gpkg has the attributes class: name"),
        ([1, 2], {"attribute": "cls"}, r"scene.labels.attribute is 'cls'; .* has the attributes class"),
        ([1.5, 2.0], {"attribute": "class"}, r"'class' holds fractions such as 1.5; it names no class"),
        (
            ["sea", "trees"],
            {"attribute": "class", "names": NAMES},
            r"classes sea, trees, but .* has no sea; it holds W",
        ),
    ],
)
def test_what_names_no_class_is_refused(polygons, grid, values, options, message):
    values = np.array(values, object) if isinstance(values[0], str) else values
    with pytest.raises(InputError, match=message):
        burn_polygons(polygons(SHAPES, values), grid, **options)


def test_polygons_elsewhere_or_smaller_than_a_pixel_are_refused(polygons, grid):
    path = polygons([shapely.box(LEFT + 1, TOP - 3, LEFT + 3, TOP - 1)], [1])
    with pytest.raises(InputError, match=r"no polygon covers the centre of a pixel of the reference grid \(20 × 30"):
        burn_polygons(path, grid, attribute="class")


def test_polygons_need_a_grid_that_lies_somewhere(polygons):
    with pytest.raises(InputError, match=r"does not say where it lies; use a geo-referenced image as scene.reference"):
        burn_polygons(polygons(SHAPES, [1, 2]), Grid((20, 30), None), attribute="class")


@pytest.mark.parametrize("name", ["labels.gpkg", "labels.shp", "labels.geojson"])
def test_a_text_that_names_another_source_is_not_followed(polygons, grid, tmp_path, name):
    secret = polygons(SHAPES, [1, 2], name="secret.gpkg", layer="secret")
    (tmp_path / name).write_text(
        f'<OGRVRTDataSource><OGRVRTLayer name="secret"><SrcDataSource>{secret}</SrcDataSource></OGRVRTLayer>'
        "</OGRVRTDataSource>"
    )
    assert pyogrio.read_info(tmp_path / name)["features"] == 2
    with pytest.raises(InputError, match=f"{name} is not what its name says"):
        burn_polygons(tmp_path / name, grid, attribute="class")


def test_a_file_that_is_cut_short_is_refused(polygons, grid):
    path = polygons(SHAPES, [1, 2])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"labels.gpkg cannot be read as a vector file"):
        burn_polygons(path, grid, attribute="class")

import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid, resample
from bdgf_jax.scenes.scene import Georeference


def grid(height, width, pixel=10.0, origin=(400_000.0, 5_800_000.0), crs="EPSG:32633"):
    return Grid((height, width), Georeference(crs, (pixel, 0.0, origin[0], 0.0, -pixel, origin[1])))


def plane(target):
    """A ramp in map coordinates, sampled at the pixel centres of a grid."""
    a, _, c, _, e, f = target.georeference.transform
    rows, columns = np.indices(target.shape)
    return (0.01 * (c + a * (columns + 0.5)) - 0.02 * (f + e * (rows + 0.5)) + 115_000)[..., None].astype(np.float32)


def whole(target):
    return np.ones(target.shape, bool)


def test_bilinear_resampling_reproduces_a_plane():
    coarse, fine = grid(12, 10, 30.0), grid(60, 50, 6.0)
    values, valid = resample(plane(coarse), whole(coarse), coarse, fine, "bilinear", what="x")
    inside = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(values[inside], plane(fine)[inside], atol=0.02)
    assert valid.all()


def test_invalid_pixels_leak_into_no_neighbour_and_stay_invalid():
    coarse, fine = grid(12, 10, 30.0), grid(60, 50, 6.0)
    image, valid = plane(coarse), whole(coarse)
    valid[4:6, 3] = False
    image[~valid] = 1e9
    values, covered = resample(image, valid, coarse, fine, "bilinear", what="x")
    assert np.abs(values[covered] - plane(fine)[covered]).max() < 1.0
    np.testing.assert_array_equal(covered, np.kron(valid, np.ones((5, 5), bool)))
    assert (values[~covered] == 0).all()


def test_pixels_outside_the_source_are_invalid():
    coarse, wide = grid(4, 4, 30.0), grid(10, 10, 30.0, origin=(399_910.0, 5_800_090.0))
    _, valid = resample(plane(coarse), whole(coarse), coarse, wide, "bilinear", what="x")
    assert valid.sum() == 16
    assert valid[3:7, 3:7].all()


def test_another_reference_system_is_reprojected():
    utm = grid(40, 40, 30.0)
    neighbour = grid(60, 60, 30.0, origin=(-14_000.0, 5_815_000.0), crs="EPSG:32634")
    with pytest.raises(InputError, match=r"does not overlap the reference grid \(60 × 60 at 30 \(EPSG:32634\)\)"):
        resample(plane(utm), whole(utm), utm, neighbour, "bilinear", what="x")
    geographic = Grid((50, 50), Georeference("EPSG:4326", (0.0003, 0.0, 13.525, 0.0, -0.0002, 52.342)))
    values, valid = resample(plane(utm), whole(utm), utm, geographic, "bilinear", what="x")
    assert 0.2 < valid.mean() < 1
    low, high = plane(utm).min(), plane(utm).max()
    assert ((values[valid] >= low - 0.01) & (values[valid] <= high + 0.01)).all()


def test_many_bands_come_out_as_each_alone():
    coarse, fine = grid(6, 5, 30.0), grid(18, 15, 10.0)
    image = np.random.default_rng(0).standard_normal((6, 5, 37)).astype(np.float32)
    together, _ = resample(image, whole(coarse), coarse, fine, "cubic", what="x")
    alone, _ = resample(image[..., 36:], whole(coarse), coarse, fine, "cubic", what="x")
    np.testing.assert_allclose(together[..., 36:], alone, atol=1e-5)


def test_labels_keep_their_values_under_nearest_neighbour():
    coarse, fine = grid(6, 5, 30.0), grid(18, 15, 10.0)
    labels = np.random.default_rng(0).integers(0, 9, (6, 5, 1)).astype(np.uint8)
    values, _ = resample(labels, whole(coarse), coarse, fine, "nearest", what="x")
    np.testing.assert_array_equal(values[..., 0], np.kron(labels[..., 0], np.ones((3, 3), np.uint8)))
    assert values.dtype == np.uint8


def test_grids_without_a_geo_reference_are_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"modality 'sar' is 4 × 5 without geo-reference pixels.*6 × 5 at 10"):
        resample(
            np.zeros((4, 5, 1), np.float32), np.ones((4, 5), bool), Grid((4, 5), None), grid(6, 5), "bilinear",
            what="modality 'sar'",
        )  # fmt: skip


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"scene.resampling is 'linear', expected one of nearest, bilinear"):
        resample(plane(grid(4, 4)), whole(grid(4, 4)), grid(4, 4), grid(8, 8, 5.0), "linear", what="x")


def test_a_grid_holds_another_up_to_a_hundredth_of_a_pixel():
    assert grid(9, 8).holds(grid(9, 8, origin=(400_000.0 + 1e-6, 5_800_000.0)))
    assert not grid(9, 8).holds(grid(9, 8, origin=(400_005.0, 5_800_000.0)))
    assert not grid(9, 8).holds(grid(9, 8, crs="EPSG:32634"))
    assert not grid(9, 8).holds(grid(8, 9))
    assert grid(9, 8).holds(Grid((9, 8), None))

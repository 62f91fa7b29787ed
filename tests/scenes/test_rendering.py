import numpy as np
import pytest

from bdgf_jax.scenes.rendering import colour_bands, hillshade, is_linear_power, render_modality


@pytest.mark.parametrize("kind", ["optical", "sar", "height"])
@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_every_modality_becomes_a_picture_and_nodata_white(modality, kind, bands):
    image = np.random.default_rng(0).standard_normal((12, 9, bands))
    valid = np.ones((12, 9), bool)
    valid[:3, :3] = False
    picture = render_modality(modality(np.where(valid[..., None], image, 0), valid, kind=kind))
    assert picture.shape == (12, 9, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert (picture[~valid] == 1).all()
    assert picture[valid].std() > 0.05


def test_bands_are_chosen_by_wavelength_in_any_order(modality):
    image = np.zeros((4, 4, 5))
    wavelengths = (842.0, 490.0, 665.0, 1610.0, 560.0)
    assert colour_bands(modality(image, wavelengths=wavelengths)) == (2, 4, 1)
    assert colour_bands(modality(image, wavelengths=(842.0, 900.0, 1000.0, 1610.0, 2200.0))) is None
    assert colour_bands(modality(image)) is None


def test_a_red_surface_looks_red(modality):
    image = np.full((10, 10, 3), 0.1)
    image[5:, :, 2] = 0.4
    picture = render_modality(modality(image, wavelengths=(480.0, 560.0, 650.0)))
    assert (picture[5:, :, 0] > picture[5:, :, 1] + 0.5).all()


def test_nodata_does_not_bend_the_stretch(modality):
    image = np.random.default_rng(0).random((20, 20, 3))
    valid = np.ones((20, 20), bool)
    valid[:8] = False
    spoilt = np.where(valid[..., None], image, -9999.0)
    for kind in ("optical", "sar"):
        np.testing.assert_allclose(
            render_modality(modality(spoilt + 0.0, valid, kind=kind))[8:],
            render_modality(modality(image[8:], kind=kind)),
            atol=1e-5,
        )


def test_a_scene_that_is_all_nodata_is_white(modality):
    for kind in ("optical", "sar", "height"):
        assert (render_modality(modality(np.zeros((5, 5, 2)), np.zeros((5, 5), bool), kind=kind)) == 1).all()


def test_slopes_towards_the_light_are_brighter():
    rows, columns = np.indices((20, 20)).astype(np.float64)
    facing, averted = hillshade(rows + columns), hillshade(-rows - columns)
    assert facing.mean() > hillshade(np.zeros((20, 20))).mean() > averted.mean()


def test_power_is_told_from_decibels(modality):
    assert is_linear_power(modality(np.full((3, 3, 1), 0.2)))
    assert not is_linear_power(modality(np.full((3, 3, 1), -12.0)))

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Modality
from bdgf_jax.scenes.statistics import (
    BandTransform,
    apply_band_transform,
    fit_band_transform,
    invert_band_transform,
)


@pytest.fixture
def spectra():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((40, 30, 4)) @ random.standard_normal((4, 9)) + 0.05 * random.standard_normal(
        (40, 30, 9)
    )
    return (mixed * 300 + 2000).astype(np.float32)


def test_whitened_components_are_those_of_scikit_learn_up_to_their_sign(modality, spectra):
    valid = np.random.default_rng(1).random(spectra.shape[:2]) > 0.3
    transform = fit_band_transform(modality(spectra, valid), mode="whiten", components=6)
    ours = apply_band_transform(transform, modality(spectra, valid))[valid].astype(np.float64)
    reference = PCA(6, whiten=True, svd_solver="full").fit_transform(spectra[valid].astype(np.float64))
    # scikit-learn divides the scatter by n - 1, we by n.
    reference *= np.sqrt(len(reference) / (len(reference) - 1))
    np.testing.assert_allclose(np.abs(ours), np.abs(reference), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.cov(ours.T), np.eye(6), atol=2e-3)


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_nodata_touches_no_statistic_and_comes_out_as_zero(modality, spectra, mode):
    valid = np.random.default_rng(1).random(spectra.shape[:2]) > 0.3
    spoilt = np.where(valid[:, :, None], spectra, np.float32(-9999))
    clean = fit_band_transform(modality(np.where(valid[:, :, None], spectra, 0), valid), mode=mode)
    other = fit_band_transform(modality(spoilt, valid), mode=mode)
    assert clean.to_dict() == other.to_dict()
    assert (apply_band_transform(other, modality(spoilt, valid))[~valid] == 0).all()


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_spikes_beyond_the_percentiles_and_nodata_move_nothing(modality, spectra, mode):
    spikes = np.zeros(spectra.shape[:2], bool)
    spikes.flat[::301] = True
    nodata = np.zeros_like(spikes)
    nodata.flat[5::7] = True
    high = np.where(spikes[:, :, None], np.float32(1e7), spectra)
    higher = np.where(spikes[:, :, None], np.float32(1e9), spectra)
    higher[nodata] = -9999
    options = {"mode": mode, "percentiles": (1, 99)}
    one, other = (fit_band_transform(modality(image, ~nodata), **options) for image in (high, higher))
    assert one.to_dict() == other.to_dict()
    clipped = apply_band_transform(one, modality(high, ~nodata))
    assert np.abs(clipped).max() < 20
    plain = fit_band_transform(modality(high, ~nodata), mode=mode)
    # Without percentiles the spikes are the leading component, beside which all else is level.
    assert np.ptp(apply_band_transform(plain, modality(high, ~nodata))[~spikes & ~nodata][:, 0]) < 1


def test_clipping_stops_at_the_percentiles_of_numpy(modality, spectra):
    transform = fit_band_transform(modality(spectra), mode="standardise", percentiles=(10, 75))
    bands = invert_band_transform(transform, apply_band_transform(transform, modality(spectra)))
    low, high = np.percentile(spectra, (10, 75), axis=(0, 1), method="nearest")
    np.testing.assert_allclose(bands.min(axis=(0, 1)), low, rtol=1e-5)
    np.testing.assert_allclose(bands.max(axis=(0, 1)), high, rtol=1e-5)


@pytest.mark.parametrize("percentiles", [(99, 1), (5, 5), (-1, 99), (2,)])
def test_percentiles_that_are_none_are_refused(modality, spectra, percentiles):
    with pytest.raises(InputError, match=r"scene.statistics.percentiles is .*, expected two rising numbers"):
        fit_band_transform(modality(spectra), percentiles=percentiles)


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_neither_the_datum_of_heights_nor_the_factor_of_reflectance_matters(modality, spectra, mode):
    heights = spectra[..., :1] / 100
    for image, other in ((heights, heights + 3000), (spectra, spectra * 1e-4)):
        first, second = (
            apply_band_transform(fit_band_transform(modality(values), mode=mode), modality(values))
            for values in (image, other.astype(np.float32))
        )
        np.testing.assert_allclose(second, first, atol=2e-3)


def test_components_without_variance_are_dropped(modality, spectra):
    doubled = np.concatenate([spectra, spectra[..., :3] * 2, np.full_like(spectra[..., :1], 7.1)], axis=2)
    transform = fit_band_transform(modality(doubled), mode="whiten", components=30)
    assert transform.projection.shape == (13, 9)
    np.testing.assert_allclose(transform.explained.sum(), 1.0, atol=1e-9)


def test_a_constant_band_becomes_zero_when_standardised(modality, spectra):
    spectra[..., 4] = 0.1
    whole = modality(spectra)
    standardised = apply_band_transform(fit_band_transform(whole, mode="standardise"), whole)
    assert (standardised[..., 4] == 0).all()
    np.testing.assert_allclose(np.delete(standardised, 4, axis=2).std(axis=(0, 1)), 1.0, atol=1e-4)


def test_a_transform_survives_json_to_the_last_bit(modality, spectra):
    transform = fit_band_transform(modality(spectra), percentiles=(1, 99))
    again = BandTransform.from_dict(json.loads(json.dumps(transform.to_dict())))
    np.testing.assert_array_equal(
        apply_band_transform(again, modality(spectra)), apply_band_transform(transform, modality(spectra))
    )


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_the_inverse_gives_back_the_bands(modality, spectra, mode):
    spectra[..., 4] = 12.0
    transform = fit_band_transform(modality(spectra), mode=mode, components=9)
    bands = invert_band_transform(transform, apply_band_transform(transform, modality(spectra)))
    np.testing.assert_allclose(bands, spectra, rtol=1e-4, atol=0.05)


def test_statistics_by_chunks_are_those_of_the_whole(modality, spectra, monkeypatch):
    whole = fit_band_transform(modality(spectra))
    monkeypatch.setattr("bdgf_jax.scenes.statistics.ROWS_AT_ONCE", 7)
    chunked = fit_band_transform(modality(spectra))
    np.testing.assert_allclose(chunked.projection, whole.projection, rtol=1e-6)
    np.testing.assert_allclose(
        apply_band_transform(chunked, modality(spectra)), apply_band_transform(whole, modality(spectra)), atol=1e-5
    )


def test_a_band_without_a_valid_pixel_is_named(modality, spectra):
    with pytest.raises(InputError, match="'band 1' has no valid pixel"):
        fit_band_transform(modality(spectra, np.zeros(spectra.shape[:2], bool)))


def test_one_value_everywhere_is_refused(modality):
    with pytest.raises(InputError, match="'band 1' holds 3 at every pixel"):
        fit_band_transform(modality(np.full((5, 5, 2), 3.0)))


def test_an_unknown_mode_is_refused(modality, spectra):
    with pytest.raises(InputError, match="'whitening', expected 'whiten' or 'standardise'"):
        fit_band_transform(modality(spectra), mode="whitening")


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (("a", "b"), r"missing \['c'\]"),
        (("a", "b", "d"), r"missing \['c'\], not known to it \['d'\]"),
        (("b", "a", "c"), "band 1 is 'b' where the model was trained on 'a'"),
        (("a", "b", "c", "c"), "not those that the model was trained on"),
    ],
)
def test_absent_and_reordered_bands_are_refused_by_name(bands, message):
    random = np.random.default_rng(0)
    make = lambda names: Modality(
        random.standard_normal((6, 6, len(names))).astype(np.float32), np.ones((6, 6), bool), tuple(names)
    )
    with pytest.raises(InputError, match=message):
        apply_band_transform(fit_band_transform(make("abc")), make(bands))

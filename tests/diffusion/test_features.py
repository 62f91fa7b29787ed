import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.diffusion.features import (
    even_tile,
    fit_feature_statistics,
    noise_field,
    scene_features,
    standardise_features,
    tile_activations,
    tile_count,
)
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.patches import gather

SHAPE = (50, 34)


def whole_field(channels, seed, draws):
    return noise_field(channels, seed, draws, np.arange(SHAPE[0]), np.arange(SHAPE[1]), width=SHAPE[1])


@pytest.fixture(scope="module")
def arrays(channels):
    key = jax.random.key(0)
    images = {name: jax.random.normal(key, (*SHAPE, c)) for name, c in channels.items()}
    valid = {name: jnp.ones(SHAPE, bool) for name in channels}
    return {"images": images, "valid": valid, "noise": whole_field(channels, 0, 2)}


def maps(denoiser, arrays, tile, margin, levels=(0, 1), timesteps=(5, 40)):
    graph, parameters = denoiser
    activations = tile_activations(
        graph, noise_schedule("cosine", 100), timesteps, levels=levels, tile=tile, margin=margin, gather=gather
    )
    return scene_features(activations, parameters, arrays, SHAPE, tile=tile)


def test_levels_come_at_the_scene_s_resolution_with_every_timestep(denoiser, arrays):
    assert [level.shape for level in maps(denoiser, arrays, 32, 16)] == [(*SHAPE, 2, 16), (*SHAPE, 2, 8)]


def test_tiles_of_any_size_give_the_features_of_one_piece(denoiser, arrays):
    pieces, whole = maps(denoiser, arrays, 16, 16), maps(denoiser, arrays, 64, 16)
    for small, large in zip(pieces, whole):
        np.testing.assert_allclose(small.astype(np.float32), large.astype(np.float32), atol=0.05)


def test_features_are_the_mean_over_the_draws_of_noise(denoiser, arrays):
    noise = lambda draw: {name: array[:, :, draw : draw + 1] for name, array in arrays["noise"].items()}
    single = [maps(denoiser, arrays | {"noise": noise(draw)}, 64, 16) for draw in range(2)]
    for one, other, mean in zip(*single, maps(denoiser, arrays, 64, 16)):
        one, other, mean = (level.astype(np.float32) for level in (one, other, mean))
        np.testing.assert_allclose((one + other) / 2, mean, rtol=2**-7, atol=0.02)
        assert np.abs(one - other).max() > 0.1


def test_no_draw_of_noise_is_refused(channels):
    with pytest.raises(InputError, match=r"features.draws must be 1 or more, got 0"):
        whole_field(channels, 0, 0)


def test_noise_is_that_of_the_whole_scene_at_once_wherever_it_is_asked_for(channels):
    whole = {
        name: jax.random.normal(jax.random.fold_in(jax.random.key(3), index), (*SHAPE, 2, count))
        for index, (name, count) in enumerate(channels.items())
    }
    rows, columns = np.array([49, 7, 8, 0, 7]), np.array([33, 2])
    part = noise_field(channels, 3, 2, rows, columns, width=SHAPE[1])
    for name, field in whole_field(channels, 3, 2).items():
        np.testing.assert_array_equal(field, whole[name])
        np.testing.assert_array_equal(part[name], whole[name][rows][:, columns])


def test_noise_goes_on_where_its_counter_leaves_32_bits():
    # Pixels of 4 channels: those of the second row count from 2**32 - 2 on, and so over the edge.
    draw = lambda row, column, width: noise_field({"a": 4}, 0, 1, np.array([row]), np.array([column]), width=width)[
        "a"
    ].ravel()
    edge = noise_field({"a": 1}, 0, 1, np.array([1]), np.arange(4), width=2**32 - 2)["a"].ravel()
    again = np.concatenate([draw(1, 0, 2**30 - 1), draw(1, 1, 2**30 - 1), draw(1, 2, 2**30 - 1)])
    np.testing.assert_array_equal(edge, again[2:6])
    assert len(np.unique(again)) == 12


def test_a_chosen_level_is_the_same_alone(denoiser, arrays):
    np.testing.assert_array_equal(maps(denoiser, arrays, 32, 16, levels=(1,))[0], maps(denoiser, arrays, 32, 16)[1])


def test_progress_counts_every_tile(denoiser, arrays):
    graph, parameters = denoiser
    activations = tile_activations(
        graph, noise_schedule("cosine", 100), (5,), levels=(1,), tile=32, margin=8, gather=gather
    )
    done = []
    scene_features(activations, parameters, arrays, SHAPE, tile=32, on_progress=done.append)
    assert sum(done) == tile_count(SHAPE, 32) == 4


def test_standardised_features_have_zero_mean_and_unit_deviation_where_there_is_data():
    level = np.random.default_rng(0).normal(3.0, 2.0, (40, 40, 2, 5)).astype(np.float32)
    valid = np.arange(40)[None, :] < np.full(40, 30)[:, None]
    level[~valid] = 1e6
    standardised = standardise_features([level], fit_feature_statistics([level], valid))[0].astype(np.float32)
    np.testing.assert_allclose(standardised[valid].mean(0), 0.0, atol=0.01)
    np.testing.assert_allclose(standardised[valid].std(0), 1.0, atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 15, "margin": 8}, "features.tile and features.margin must be multiples of 2"),
        (
            {"tile": 16, "margin": 8, "levels": (2,)},
            r"features.levels must be some of 0 … 1, coarsest first; got \(2,\)",
        ),
        ({"tile": 16, "margin": 8, "timesteps": (100,)}, "features.timesteps must be some of 0 … 99"),
    ],
)
def test_what_does_not_fit_the_denoiser_is_refused(denoiser, arrays, options, message):
    with pytest.raises(InputError, match=message):
        maps(denoiser, arrays, **options)


@pytest.mark.parametrize(
    ("shape", "longest", "side"),
    [
        ((224, 224), 128, 112),
        ((128, 128), 128, 128),
        ((129, 40), 128, 68),
        ((40, 30), 128, 40),
        ((1000, 700), 128, 128),
    ],
)
def test_tiles_cover_a_scene_evenly(shape, longest, side):
    assert even_tile(shape, longest, multiple=4) == side
    assert tile_count(shape, side) == tile_count(shape, longest)

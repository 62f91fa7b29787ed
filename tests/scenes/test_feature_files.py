import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.feature_files import read_feature_maps

VALID = np.ones((6, 5), bool)
VALID[0, 0] = False


def saved(path, *shape):
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(path, maps)
    return maps


def test_a_file_is_a_level_and_its_features_stand_where_a_timesteps_would(tmp_path):
    coarse, fine = saved(tmp_path / "coarse.npy", 6, 5, 8), saved(tmp_path / "fine.npy", 6, 5, 3)
    levels = read_feature_maps(f"{tmp_path}/coarse.npy, {tmp_path}/fine.npy", VALID)
    for level, maps in zip(levels, (coarse, fine), strict=True):
        np.testing.assert_array_equal(level[VALID][:, 0], maps[VALID])
        assert not level[~VALID].any()


def test_features_may_lack_where_the_scene_holds_no_data_and_nowhere_else(tmp_path):
    maps = saved(tmp_path / "maps.npy", 6, 5, 3)
    maps[0, 0] = np.nan
    np.save(tmp_path / "maps.npy", maps)
    assert np.isfinite(read_feature_maps(f"{tmp_path}/maps.npy", VALID)[0]).all()
    maps[2, 3, 1] = np.nan
    np.save(tmp_path / "maps.npy", maps)
    with pytest.raises(InputError, match=r"maps.npy lacks features of 1 pixels where the scene holds data"):
        read_feature_maps(f"{tmp_path}/maps.npy", VALID)


def test_maps_on_another_grid_are_refused_with_both_shapes(tmp_path):
    saved(tmp_path / "maps.npy", 5, 6, 3)
    with pytest.raises(InputError, match=r"maps.npy has 5 × 6 pixels where the scene has 6 × 5"):
        read_feature_maps(f"{tmp_path}/maps.npy", VALID)


def test_a_source_that_is_neither_name_nor_file_is_told_what_it_may_be():
    with pytest.raises(InputError, match=r"no file dppm. It is ddpm, untrained, none, or files of feature maps"):
        read_feature_maps("dppm", VALID)

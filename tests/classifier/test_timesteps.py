import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier.timesteps import TimestepMerging
from bdgf_jax.errors import InputError

FEATURES = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))


def test_a_learned_merge_starts_at_the_mean():
    merge = TimestepMerging(4, timesteps=3, kind="softmax")
    np.testing.assert_allclose(merge(FEATURES), FEATURES.mean(-2), atol=1e-6)


def test_each_channel_can_choose_its_own_timestep():
    merge = TimestepMerging(4, timesteps=3, kind="softmax")
    merge.weights = nnx.Param(1e3 * jnp.eye(3, 4))
    merged = merge(FEATURES)
    for channel in range(3):
        np.testing.assert_allclose(merged[..., channel], FEATURES[..., channel, channel], atol=1e-6)


def test_concatenated_timesteps_lie_side_by_side():
    merge = TimestepMerging(4, timesteps=3, kind="concat")
    assert merge.channels == 12
    np.testing.assert_array_equal(merge(FEATURES)[..., 4:8], FEATURES[..., 1, :])


def test_a_single_timestep_needs_no_parameter():
    merge = TimestepMerging(4, timesteps=1, kind="softmax")
    assert merge.weights is None
    np.testing.assert_allclose(merge(FEATURES[..., :1, :]), FEATURES[..., 0, :])


def test_stored_halves_are_merged_in_single_precision():
    for kind in ("softmax", "mean", "concat"):
        assert TimestepMerging(4, timesteps=3, kind=kind)(FEATURES.astype(jnp.bfloat16)).dtype == jnp.float32


def test_an_unknown_merge_is_refused():
    with pytest.raises(InputError, match="'sum'; expected one of softmax, mean, concat"):
        TimestepMerging(4, timesteps=3, kind="sum")

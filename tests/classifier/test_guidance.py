import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier.attention import MultiHeadAttention, attend
from bdgf_jax.classifier.cross_attention import CrossAttention
from bdgf_jax.classifier.feature_fusion import FeatureFusion
from bdgf_jax.classifier.group_channel_attention import ChannelCrossAttention, GroupChannelAttention
from bdgf_jax.classifier.guidance import MECHANISMS, Concatenation, make_mechanism
from bdgf_jax.errors import InputError


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture
def tokens():
    return random(0, 2, 49, 32)


@pytest.fixture
def guidance():
    return random(1, 2, 49, 32)


def mechanism(name, features=32):
    return make_mechanism(name, features, groups=4, reduction=16, heads=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", MECHANISMS)
def test_gradients_reach_both_inputs_and_every_parameter(name, tokens, guidance):
    graph, state = nnx.split(mechanism(name))
    loss = lambda state, *inputs: (nnx.merge(graph, state)(*inputs) ** 2).sum()
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(state, tokens, guidance)
    for gradient in jax.tree.leaves(gradients):
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("name", MECHANISMS)
def test_tokens_and_guidance_in_another_order_give_the_same_in_that_order(name, tokens, guidance):
    guide = mechanism(name)
    order = jax.random.permutation(jax.random.key(2), 49)
    np.testing.assert_allclose(
        guide(tokens, guidance)[:, order], guide(tokens[:, order], guidance[:, order]), atol=2e-5
    )


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_patch_is_guided_by_its_own_features_alone(name, tokens, guidance):
    guide = mechanism(name)
    difference = guide(tokens, guidance.at[1].add(1.0)) - guide(tokens, guidance)
    np.testing.assert_array_equal(difference[0], 0.0)
    assert jnp.abs(difference[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["fusion", "concatenation"])
def test_mechanisms_of_1x1_convolutions_look_at_their_own_place_alone(name, tokens, guidance):
    guide = mechanism(name)
    difference = guide(tokens, guidance.at[:, 7].add(1.0)) - guide(tokens, guidance)
    changed = jnp.abs(difference).max((0, 2)) > 0.0
    np.testing.assert_array_equal(np.flatnonzero(changed), [7])


def test_fusion_with_a_shut_gate_is_the_identity(tokens, guidance):
    fusion = FeatureFusion(32, rngs=nnx.Rngs(0))
    fusion.gate.bias = nnx.Param(jnp.full(32, -1e9))
    np.testing.assert_array_equal(fusion(tokens, guidance), tokens)


def test_concatenation_is_linear_in_tokens_and_guidance(tokens, guidance):
    project = Concatenation(32, rngs=nnx.Rngs(0))
    doubled = project(2.0 * tokens, 2.0 * guidance)
    bias = project(0.0 * tokens, 0.0 * guidance)
    np.testing.assert_allclose(doubled - bias, 2.0 * (project(tokens, guidance) - bias), atol=1e-5)


def test_a_group_is_weighted_by_itself_alone(tokens, guidance):
    attention = GroupChannelAttention(32, groups=4, rngs=nnx.Rngs(0))
    difference = attention(tokens.at[..., 8:].add(1.0), guidance) - attention(tokens, guidance)
    np.testing.assert_array_equal(difference[..., :8], 0.0)
    assert jnp.abs(difference[..., 8:]).min() > 0.0


def test_channel_weights_follow_the_guidance_and_lie_between_0_and_1(tokens, guidance):
    attention = GroupChannelAttention(32, groups=4, rngs=nnx.Rngs(0))
    weights = attention.channel_weights(tokens, guidance)
    assert weights.shape == (2, 1, 32)
    assert weights.min() > 0.0
    assert weights.max() < 1.0
    assert jnp.abs(weights - attention.channel_weights(tokens, guidance + 1.0)).max() > 1e-3


def test_channels_attend_inside_their_group_alone(tokens, guidance):
    attention = ChannelCrossAttention(32, groups=4, rngs=nnx.Rngs(0))
    for layer in (attention.query, attention.key, attention.value, attention.output):
        layer.kernel[...] = jnp.eye(32)
    difference = attention(tokens, guidance.at[..., 8:].add(1.0)) - attention(tokens, guidance)
    np.testing.assert_array_equal(difference[..., :8], 0.0)
    assert jnp.abs(difference[..., 8:]).min() > 0.0


def test_channel_cross_attention_follows_its_formula_in_float64():
    attention = ChannelCrossAttention(6, groups=2, rngs=nnx.Rngs(0))
    tokens, guidance = np.random.default_rng(0).normal(size=(2, 5, 6))
    linear = lambda layer, x: x @ np.float64(layer.kernel[...]) + np.float64(layer.bias[...])
    query, key, value = (linear(*pair) for pair in zip(
        (attention.query, attention.key, attention.value), (tokens, guidance, guidance)
    ))  # fmt: skip
    mixed = np.zeros((5, 6))
    for group in (slice(0, 3), slice(3, 6)):
        weights = np.exp(query[:, group].T @ key[:, group] / np.sqrt(5))
        weights /= weights.sum(1, keepdims=True)
        mixed[:, group] = (weights @ value[:, group].T).T
    expected = tokens + linear(attention.output, mixed)
    np.testing.assert_allclose(attention(jnp.float32(tokens), jnp.float32(guidance)), expected, atol=1e-5)


def test_attention_equals_jax_own(tokens, guidance):
    query, key, value = (x.reshape(2, 49, 4, 8) for x in (tokens, guidance, random(2, 2, 49, 32)))
    expected = jax.nn.dot_product_attention(query, key, value)
    ours = attend(*(jnp.swapaxes(x, 1, 2) for x in (query, key, value)))
    np.testing.assert_allclose(jnp.swapaxes(ours, 1, 2), expected, atol=1e-5)


def test_attention_survives_scores_that_would_overflow():
    query = jnp.full((1, 3, 4), 100.0)
    np.testing.assert_allclose(attend(query, query, jnp.ones((1, 3, 4))), 1.0, rtol=1e-6)


def test_cross_attention_does_not_depend_on_where_the_guidance_lies(tokens, guidance):
    attention = CrossAttention(32, heads=2, rngs=nnx.Rngs(0))
    order = jax.random.permutation(jax.random.key(2), 49)
    np.testing.assert_allclose(attention(tokens, guidance), attention(tokens, guidance[:, order]), atol=1e-5)


def test_cross_attention_takes_guidance_of_another_length(tokens, guidance):
    attention = CrossAttention(32, heads=2, rngs=nnx.Rngs(0))
    twice = jnp.concatenate([guidance, guidance], axis=1)
    np.testing.assert_allclose(attention(tokens, guidance), attention(tokens, twice), atol=1e-5)


@pytest.mark.parametrize("kind", [GroupChannelAttention, ChannelCrossAttention])
def test_a_width_that_no_group_divides_is_refused(kind):
    with pytest.raises(InputError, match=r"multiple of classifier.groups, got 30 and 4; the nearest width is 32"):
        kind(30, groups=4, rngs=nnx.Rngs(0))


def test_a_width_that_no_head_divides_is_refused():
    with pytest.raises(InputError, match=r"multiple of classifier.heads, got 30 and 4; the nearest width is 32"):
        MultiHeadAttention(30, heads=4, rngs=nnx.Rngs(0))


def test_an_unknown_mechanism_is_answered_with_those_that_exist():
    with pytest.raises(InputError, match="'fusions'; expected one of fusion, group_channel_attention"):
        mechanism("fusions")

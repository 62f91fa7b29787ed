import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.errors import InputError


def classify(graph, parameters, patches, branches=None):
    return nnx.merge(graph, parameters)(*patches, branches=branches)


# These programs run once: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
classify = jit(classify, static_argnames=("graph", "branches"))


def test_parameters_are_the_only_state(make):
    graph, parameters, others = nnx.split(make(), nnx.Param, ...)
    del graph
    assert jax.tree.leaves(parameters)
    assert not jax.tree.leaves(others)


def test_patches_of_a_batch_are_classified_each_by_itself(make, patches):
    graph, parameters = nnx.split(make())
    order = jnp.array([2, 0, 3, 1])
    shuffled = classify(graph, parameters, jax.tree.map(lambda x: x[order], patches))
    for ours, expected in zip(jax.tree.leaves(shuffled), jax.tree.leaves(classify(graph, parameters, patches))):
        np.testing.assert_allclose(ours, expected[order], atol=1e-5)


def test_the_fused_prediction_is_the_mean_of_the_branches_probabilities(make, patches):
    graph, parameters = nnx.split(make())
    predictions = classify(graph, parameters, patches)
    mean = sum(jax.nn.softmax(logits) for logits in predictions.logits.values()) / 3.0
    np.testing.assert_allclose(jnp.exp(predictions.fused), mean, rtol=1e-5)


def test_the_direct_head_has_its_share_of_the_prediction(make, patches, config):
    config.direct.landmarks = 7
    model = make()
    pixels = np.random.default_rng(0).standard_normal((7, 20)).astype(np.float32)
    model.direct_head.fit(pixels, np.arange(7) % 3, np.ones(7), ridge=0.1, seed=0)
    graph, parameters = nnx.split(model)
    predictions = classify(graph, parameters, patches)
    branches = sum(jax.nn.softmax(logits) for logits in predictions.logits.values()) / 3.0
    mixed = branches / 4.0 + 3.0 / 4.0 * jax.nn.softmax(predictions.direct)
    np.testing.assert_allclose(jnp.exp(predictions.fused), mixed, rtol=1e-4)
    assert make(levels=()).direct_head is None


def test_a_branch_left_out_changes_nothing_in_the_others(make, patches):
    graph, parameters = nnx.split(make())
    whole, part = (
        classify(graph, parameters, patches),
        classify(graph, parameters, patches, branches=("transformer", "cnn")),
    )
    assert set(part.logits) == set(part.embeddings) == {"transformer", "cnn"}
    for name, logits in part.logits.items():
        np.testing.assert_allclose(logits, whole.logits[name], atol=1e-6)
    mean = sum(jax.nn.softmax(whole.logits[name]) for name in part.logits) / 2.0
    np.testing.assert_allclose(jnp.exp(part.fused), mean, rtol=1e-5)


def test_several_seeds_run_as_one_under_vmap(make, patches):
    graph, first = nnx.split(make(seed=0))
    _, second = nnx.split(make(seed=1))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    together = jit(jax.vmap(lambda parameters: nnx.merge(graph, parameters)(*patches).fused))(both)
    for index, parameters in enumerate((first, second)):
        np.testing.assert_allclose(together[index], classify(graph, parameters, patches).fused, atol=1e-5)


def test_dropout_needs_a_key_and_repeats_with_it(config, make, patches):
    config.branches = ("cnn",)
    config.dropout = 0.5
    graph, parameters = nnx.split(make())
    predict = jit(
        lambda key: nnx.merge(graph, parameters)(*patches, rngs=None if key is None else nnx.Rngs(dropout=key)).fused
    )
    one, again, other, none = (predict(key) for key in (jax.random.key(1), jax.random.key(1), jax.random.key(2), None))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(none, predict(None))


def test_guidance_changes_every_branch_and_none_where_there_is_none(config, make, patches):
    graph, parameters = nnx.split(make())
    images, guidance = patches
    plain = classify(graph, parameters, patches)
    other = classify(graph, parameters, (images, [level + 1.0 for level in guidance]))
    for name in plain.logits:
        assert jnp.abs(plain.logits[name] - other.logits[name]).max() > 1e-3
    config.branches = ("cnn",)
    config.guidance.cnn = "none"
    for model in (make(), make(levels=())):
        assert not jax.tree.leaves(nnx.state(model.merges))
        assert model(images, ()).fused.shape == (4, 1, 1, 3)


def test_stages_share_levels_where_there_are_fewer(config, make):
    config.branches = ("cnn",)
    assert [guide.level for guide in make(levels=(6,)).branches["cnn"].guides] == [0, 0]
    assert [guide.level for guide in make(levels=(6, 4)).branches["cnn"].guides] == [0, 1]
    config.stages = 3
    assert [guide.level for guide in make(levels=(6, 4)).branches["cnn"].guides] == [0, 0, 1]


@pytest.mark.parametrize("fusion", ["mean", "head"])
def test_the_centre_of_the_patch_is_predicted_densely(config, make, patches, fusion):
    config.branches = ("cnn",)
    config.centre = 3
    config.fusion = fusion
    predictions = make()(*patches)
    assert predictions.fused.shape == predictions.logits["cnn"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branches": ("cnn", "rnn")}, r"branches is .* expected some of cnn, mamba, transformer"),
        ({"branches": ()}, "branches is"),
        ({"fusion": "vote"}, "fusion is 'vote'; expected one of mean, head"),
        ({"centre": 2}, r"must be odd .* got 5 and 2"),
        ({"centre": 7}, "no larger than the patch"),
        ({"stages": 1}, "2 levels of guidance for 1 stages"),
        ({"direct": {"share": 1.0}}, r"direct.share is 1.0; expected more than 0 and less than 1"),
        ({"direct": {"last_share": -0.1}}, "direct.last_share is -0.1; expected a share from 0 to 1"),
        ({"direct": {"discriminant": -0.1}}, "direct.discriminant is -0.1; expected 0 or more"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config, make, changes, message):
    config.update(changes)
    with pytest.raises(InputError, match=message):
        make()


def test_inputs_of_another_kind_are_refused(config, make, patches):
    config.branches = ("cnn",)
    images, guidance = patches
    model = make()
    with pytest.raises(InputError, match="made for hsi, sar; not so with lidar"):
        model(images | {"lidar": images["sar"]}, guidance)
    with pytest.raises(InputError, match="2 levels of diffusion features, got 1"):
        model(images, guidance[:1])
    with pytest.raises(InputError, match="patches of side 5"):
        model(jax.tree.map(lambda image: image[:, :3, :3], images), guidance)
    with pytest.raises(InputError, match="expected some of cnn, which were trained"):
        model(images, guidance, branches=("mamba",))


def test_a_fused_head_cannot_do_without_a_branch(config, make, patches):
    config.branches = ("cnn", "transformer")
    config.fusion = "head"
    with pytest.raises(InputError, match="the fused head reads all of cnn, transformer"):
        make()(*patches, branches=("cnn",))


def test_rematerialised_stages_give_the_same_gradients_and_keep_less(make, config, patches):
    def kept_and_gradients(rematerialise):
        config.branches, config.rematerialise = ("transformer",), rematerialise
        graph, parameters = nnx.split(make())
        loss = lambda parameters: (nnx.merge(graph, parameters)(*patches).fused ** 2).mean()
        kept = jax.tree.leaves(jax.eval_shape(lambda parameters: jax.vjp(loss, parameters)[1], parameters))
        gradients = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(parameters)
        return sum(array.size for array in kept), gradients

    (plain, expected), (less, gradients) = map(kept_and_gradients, (False, True))
    assert less < 0.7 * plain
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), gradients, expected)

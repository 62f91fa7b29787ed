import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.classifier.modality_dropout import choose, draw_hidden, hide
from bdgf_jax.classifier.objective import classification_objective
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.patches import gather

CENTRES = jnp.array([[3, 3], [8, 2], [12, 5], [5, 7], [0, 0], [15, 4], [10, 1], [7, 6]], jnp.int32)


def test_each_modality_is_lost_equally_often_and_as_often_as_asked():
    drawn = draw_hidden(jax.random.key(0), 40_000, modalities=3, probability=0.3)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), [0.7, 0.1, 0.1, 0.1], atol=0.01)
    assert (draw_hidden(jax.random.key(0), 100, modalities=2, probability=0.0) == 0).all()
    assert (draw_hidden(jax.random.key(0), 100, modalities=2, probability=1.0) > 0).all()


def test_a_sample_keeps_what_it_has_not_lost(patches):
    images, _ = patches
    hidden = jnp.array([0, 1, 2, 0])
    seen = hide(images, hidden)
    for number, name in enumerate(images, start=1):
        for sample in range(4):
            expected = jnp.zeros_like(images[name][sample]) if hidden[sample] == number else images[name][sample]
            np.testing.assert_array_equal(seen[name][sample], expected)


def test_guidance_is_that_of_the_scene_without_what_a_sample_has_lost(patches):
    _, guidance = patches
    sets = [jnp.stack([level, level + 1, level + 2], axis=3) for level in guidance]
    for chosen, level in zip(choose(sets, jnp.array([0, 1, 2, 0])), guidance, strict=True):
        for sample, added in enumerate((0, 1, 2, 0)):
            np.testing.assert_array_equal(chosen[sample], level[sample] + jnp.bfloat16(added))


def test_the_objective_sees_nothing_of_a_modality_that_every_sample_has_lost(config, data, make, train):
    config.branches = ("cnn",)
    train.update({"modality_dropout": 1.0, "jitter": 0.5})
    only = {"sar": data["images"]["sar"]}  # of one modality, that one is lost
    data |= {"images": only, "guidance": tuple(jnp.stack([level, level], axis=2) for level in data["guidance"])}
    graph, parameters = nnx.split(make(modalities={"sar": 2}))
    objective = classification_objective(graph, config, train, gather=gather)
    loss = lambda images, guidance: objective(
        parameters, (), data | {"images": images, "guidance": guidance}, CENTRES, jax.random.key(1), jnp.int32(50)
    )[0]
    of_images, of_guidance = jax.jit(jax.grad(loss, argnums=(0, 1)))(data["images"], data["guidance"])
    assert (of_images["sar"] == 0).all()
    for level in of_guidance:
        assert (level[:, :, 0] == 0).all()
        assert jnp.abs(level[:, :, 1]).max() > 0


def test_what_is_no_probability_is_refused(config, make, train):
    train.modality_dropout = 1.5
    with pytest.raises(InputError, match=r"train\.modality_dropout is a probability, expected 0 to 1, got 1\.5"):
        classification_objective(nnx.split(make())[0], config, train, gather=gather)

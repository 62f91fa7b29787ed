import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bdgf_jax.classifier.model import Predictions
from bdgf_jax.classifier.objective import classification_objective, cross_entropy, shift
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.patches import gather

CENTRES = jnp.array([[3, 3], [8, 2], [12, 5], [5, 7], [0, 0], [15, 4], [10, 1], [7, 6]], jnp.int32)
KEY = jax.random.key(0)
# These programs run once or for a few steps: compiling them is what takes time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

PUBLISHED = {"stages": 3}
ALTERNATIVES = {
    "dtype": "bfloat16",
    "centre": 3,
    "directions": "grouped",
    "convolution": "square",
    "head": "mean_and_token",
    "fusion": "head",
    "merge_timesteps": "concat",
    "guidance": {"cnn": "concatenation", "mamba": "channel_cross_attention", "transformer": "fusion"},
}


@pytest.fixture
def objective(config, train, make):
    """The objective of the config as it is when this is called, and fresh parameters."""

    def make_objective():
        graph, parameters = nnx.split(make())
        return classification_objective(graph, config, train, gather=gather), parameters

    return make_objective


@pytest.mark.parametrize("changes", [PUBLISHED, ALTERNATIVES], ids=["published", "alternatives"])
def test_gradients_reach_every_parameter_of_every_branch(config, data, objective, changes):
    config.update(changes)
    loss, parameters = objective()
    gradients = jit(jax.grad(lambda parameters: loss(parameters, (), data, CENTRES, KEY, jnp.int32(100))[0]))(
        parameters
    )
    dead = [
        jax.tree_util.keystr(path)
        for path, gradient in jax.tree_util.tree_leaves_with_path(gradients)
        if not (jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 1e-6)
    ]
    assert not dead


def test_the_loss_is_the_sum_of_its_terms_and_mutual_learning_is_ramped_up(config, data, objective):
    config.branches = ("cnn", "transformer")
    config.mutual.entropy, config.mutual.similarity = 0.3, 0.7
    loss, parameters = objective()
    loss = jit(loss)
    for step, ramp in ((0, 0.0), (5, 0.25), (20, 1.0), (99, 1.0)):
        value, (terms, carry) = loss(parameters, {"kept": jnp.ones(2)}, data, CENTRES, KEY, jnp.int32(step))
        assert set(terms) == {"loss/cnn", "loss/transformer", "loss/fused", "loss/entropy", "loss/similarity"}
        expected = terms["loss/cnn"] + terms["loss/transformer"] + terms["loss/fused"]
        expected += ramp * (0.3 * terms["loss/entropy"] + 0.7 * terms["loss/similarity"])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_array_equal(carry["kept"], 1.0)


def test_branches_are_aligned_on_patches_without_labels(config, data, train, objective):
    """What the right half shows, where no pixel has a label, matters to the alignment alone."""
    config.branches = ("cnn", "transformer")
    config.mutual.entropy = config.mutual.similarity = 0.3
    train.augment = False
    rows, columns = np.mgrid[:16, 12:16].reshape(2, -1)
    data = data | {"unlabelled": jnp.asarray(np.stack([rows, columns], axis=1), jnp.int32)}
    elsewhere = data | {"images": {name: image.at[:, 12:].add(1.0) for name, image in data["images"].items()}}
    for unlabelled in (0, 2):
        config.mutual.unlabelled = unlabelled
        loss, parameters = objective()
        loss = jit(loss)
        here, there = (loss(parameters, (), scene, CENTRES, KEY, jnp.int32(50))[1][0] for scene in (data, elsewhere))
        for name in ("cnn", "transformer", "fused"):
            np.testing.assert_allclose(here[f"loss/{name}"], there[f"loss/{name}"], rtol=1e-6)
        for name in ("entropy", "similarity"):
            assert (here[f"loss/{name}"] != there[f"loss/{name}"]) == bool(unlabelled)


def test_only_the_pixel_that_was_drawn_counts(config, data, train, objective):
    config.branches = ("cnn",)
    config.centre = 3
    config.mutual.entropy = config.mutual.similarity = 0.0
    train.augment = False
    loss, parameters = objective()
    loss = jit(loss)
    value = lambda labels: loss(parameters, (), data | {"labels": labels}, CENTRES[:1], KEY, jnp.int32(0))[0]
    row, column = CENTRES[0]
    labels = jnp.full((16, 16), -1, jnp.int32).at[row, column].set(1)
    plain = value(labels)
    assert value(labels.at[row + 1, column].set(2)) == plain
    assert value(labels.at[row, column].set(2)) != plain
    assert value(jnp.full((16, 16), -1, jnp.int32)) == 0.0


def test_cross_entropy_follows_its_formula_in_float64():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 3, 3, 4)), rng.integers(-1, 4, (6, 3, 3))
    weights = rng.uniform(0.5, 2.0, 4)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = count = 0.0
    for index in np.argwhere(labels >= 0):
        label = labels[tuple(index)]
        target = 0.9 * np.eye(4)[label] + 0.1 / 4
        total += weights[label] * -(target * log_probabilities[tuple(index)]).sum()
        count += weights[label]
    ours = cross_entropy(jnp.float32(logits), jnp.int32(labels), jnp.float32(weights), smoothing=0.1)
    np.testing.assert_allclose(ours, total / count, rtol=1e-5)


def test_a_pixel_comes_to_lie_everywhere_in_the_centre_and_patches_stay_in_the_scene():
    pixels = jnp.broadcast_to(jnp.array([5, 5], jnp.int32), (400, 2))
    moved = shift(pixels, KEY, side=3, shape=(16, 16))
    assert len(np.unique(moved, axis=0)) == 9
    assert jnp.abs(moved - pixels).max() == 1
    corners = shift(jnp.zeros((400, 2), jnp.int32), KEY, side=5, shape=(2, 16))
    assert corners.min() == 0
    assert corners[:, 0].max() == 1
    np.testing.assert_array_equal(shift(pixels, KEY, side=1, shape=(16, 16)), pixels)


def test_weights_are_read_only_where_classes_are_weighted(config, data, train, objective):
    config.branches = ("cnn",)
    train.augment = False
    skewed = data | {"class_weights": jnp.array([10.0, 1.0, 0.1])}
    for balance, matters in (("none", False), ("balanced", False), ("weighted", True)):
        train.class_balance = balance
        loss, parameters = objective()
        values = [jit(loss)(parameters, (), arrays, CENTRES, KEY, jnp.int32(0))[0] for arrays in (data, skewed)]
        assert (values[0] != values[1]) == matters
    train.class_balance = "even"
    with pytest.raises(InputError, match="'even'; expected one of none, weighted, balanced"):
        objective()


class Reader(nnx.Module):
    """Reads the class of each pixel of the centre off the images, and in another branch off the guidance."""

    def __call__(self, images, guidance, *, rngs):
        read = lambda patches: 50.0 * patches[:, 1:4, 1:4]
        logits = {"images": read(images["hsi"]), "guidance": read(guidance[0][..., 0, :])}
        return Predictions(logits, None, logits["images"], {name: values[:, 0, 0] for name, values in logits.items()})


def test_images_guidance_and_labels_are_turned_alike(config, data, train):
    config.centre = 3
    loss = jit(classification_objective(nnx.graphdef(Reader()), config, train, gather=gather))
    written = jax.nn.one_hot(data["labels"], 3)
    readable = data | {"images": {"hsi": written}, "guidance": (written[:, :, None],)}
    for seed in range(3):
        terms = loss(nnx.State({}), (), readable, CENTRES, jax.random.key(seed), jnp.int32(0))[1][0]
        assert terms["loss/images"] < 1e-6
        assert terms["loss/guidance"] < 1e-6


@pytest.mark.parametrize("augment", [False, True])
def test_patches_are_turned_at_random_only_where_asked(config, data, train, objective, augment):
    config.branches = ("cnn",)
    train.augment = augment
    loss, parameters = objective()
    loss = jit(loss)
    values = {float(loss(parameters, (), data, CENTRES, jax.random.key(seed), jnp.int32(0))[0]) for seed in range(4)}
    assert len(values) == (4 if augment else 1)


@pytest.mark.parametrize("branch", ["cnn", "mamba", "transformer"])
def test_eight_patches_are_learnt_by_heart(config, data, train, make, branch):
    config.branches = (branch,)
    config.stages = 1
    train.augment = False
    data["guidance"] = data["guidance"][:1]
    graph, parameters = nnx.split(make(levels=(6,)))
    loss = classification_objective(graph, config, train, gather=gather)
    optimiser = optax.adam(1e-2)

    @jit
    def step(parameters, moments, index):
        gradient = jax.grad(lambda parameters: loss(parameters, (), data, CENTRES, KEY, index)[0])(parameters)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes step counts with floats
            updates, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(parameters, updates), moments

    moments = optimiser.init(parameters)
    for index in range(40):
        parameters, moments = step(parameters, moments, jnp.int32(index))
    predictions = nnx.merge(graph, parameters)(*gather((data["images"], data["guidance"]), CENTRES, 5))
    np.testing.assert_array_equal(predictions.fused[:, 0, 0].argmax(-1), data["labels"][CENTRES[:, 0], CENTRES[:, 1]])

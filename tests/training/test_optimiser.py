import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bdgf_jax.training.optimiser import learning_rate_schedule, make_optimiser
from bdgf_jax.training.vector import Layout


@pytest.fixture(autouse=True)
def _promotion_as_optax_needs_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


def settings(**changes):
    base = {"learning_rate": 0.1, "warmup": 10, "steps": 110, "weight_decay": 0.0, "clip": 1.0}
    return ml_collections.ConfigDict(base | changes)


def test_the_rate_rises_linearly_and_falls_along_a_cosine():
    rate = learning_rate_schedule(settings())
    rising = [0.1 * (step + 1) / 10 for step in range(10)]
    falling = [0.05 * (1 + np.cos(np.pi * step / 100)) for step in range(101)]
    np.testing.assert_allclose([rate(step) for step in range(111)], rising + falling, atol=1e-7)


def test_a_warm_up_longer_than_half_of_a_short_run_still_reaches_the_full_rate():
    rate = learning_rate_schedule(settings(warmup=50, steps=20))
    rates = np.array([rate(step) for step in range(20)])
    assert rates.argmax() in (9, 10)
    np.testing.assert_allclose(rates.max(), 0.1, rtol=1e-6)
    assert rates[-1] < 0.01


def test_no_warm_up_starts_at_the_full_rate():
    np.testing.assert_allclose(learning_rate_schedule(settings(warmup=0))(0), 0.1, rtol=1e-6)


def test_decay_pulls_at_matrices_and_leaves_biases_and_scales_alone():
    parameters = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(())}
    layout = Layout(parameters, multiple=4)
    optimiser = make_optimiser(settings(weight_decay=0.5, warmup=0), layout)
    vector = layout.to_vector(parameters)
    update, _ = optimiser.update(jnp.zeros_like(vector), optimiser.init(vector), vector)
    new = layout.to_tree(vector + update)
    np.testing.assert_allclose(new["kernel"], 1.0 - 0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], 1.0)
    np.testing.assert_array_equal(new["scale"], 1.0)


def test_a_gradient_beyond_the_clip_counts_as_one_at_the_clip():
    parameters = {"kernel": jnp.ones((2, 2))}
    layout = Layout(parameters)
    optimiser, vector = make_optimiser(settings(clip=0.1), layout), layout.to_vector(parameters)
    moments = lambda scale: optimiser.update(jnp.full(4, 3.0 * scale), optimiser.init(vector), vector)[1]
    np.testing.assert_allclose(optax.tree.get(moments(1.0), "mu"), optax.tree.get(moments(100.0), "mu"), rtol=1e-5)
    np.testing.assert_allclose(optax.tree.get(moments(1.0), "mu"), 0.1 * 0.1 / 2, rtol=1e-5)


def test_on_one_vector_it_does_as_adamw_does_leaf_by_leaf():
    config = settings(weight_decay=0.5)
    random = np.random.default_rng(0)
    drawn = lambda: {
        "kernel": jnp.asarray(random.normal(size=(3, 2)), jnp.float32),
        "bias": jnp.asarray(random.normal(size=2), jnp.float32),
    }
    parameters = drawn()
    reference = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(learning_rate_schedule(config), weight_decay=0.5, mask={"kernel": True, "bias": False}),
    )
    layout = Layout(parameters)
    optimiser, vector = make_optimiser(config, layout), layout.to_vector(parameters)
    state, expected_state = optimiser.init(vector), reference.init(parameters)
    for _ in range(5):
        gradients = drawn()
        update, state = optimiser.update(layout.to_vector(gradients), state, vector)
        vector = vector + update
        updates, expected_state = reference.update(gradients, expected_state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    np.testing.assert_allclose(vector, layout.to_vector(parameters), rtol=1e-5)

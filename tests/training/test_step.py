import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from bdgf_jax.training.mesh import make_mesh, put_batches, put_replicated
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.state import initial_state
from bdgf_jax.training.step import SKIPPED_IN_A_ROW, make_step, make_steps

CONFIG = ml_collections.ConfigDict({"ema": 0.9, "learning_rate": 0.1, "warmup": 0, "steps": 100})
RATE = 0.1


def broken_when_the_first_centre_is_negative(parameters, carry, data, centres, key, step):
    """(x - target)²; a batch that begins with -1 breaks the loss, one that begins with -2 the gradient alone."""
    error = parameters["x"] - data["target"]
    broken_loss = jnp.where(centres[0, 0] == -1, jnp.nan, 0.0)
    # The derivative of sqrt at 0 is infinite, and times 0 not a number.
    root = jnp.sqrt(jnp.abs(parameters["y"] * jnp.where(centres[0, 0] == -2, 0.0, 1.0))).sum()
    loss = (error**2).sum() + broken_loss + root
    return loss, ({"loss/sum": loss}, carry + 1)


def alone(parameters):
    return Placement(parameters, make_mesh({"data": 1}, jax.devices()[:1]))


# As a vector: x, then y.
PARAMETERS = {"x": jnp.array([4.0, -2.0]), "y": jnp.ones(2)}
X = slice(2)


@pytest.fixture(scope="module")
def step():
    return make_step(broken_when_the_first_centre_is_negative, optax.sgd(RATE), alone(PARAMETERS), CONFIG)


def begin(parameters=PARAMETERS):
    start = initial_state(parameters, jnp.zeros((), jnp.int32), optax.sgd(RATE).init(jnp.zeros(4)))
    return alone(parameters).pack(start)


KEY = jax.random.key(3)
DATA = {"target": jnp.array([1.0, 1.0])}
GOOD, BAD_LOSS, BAD_GRADIENT = (jnp.full((4, 2), first, jnp.int32) for first in (0, -1, -2))


def test_the_parameters_and_their_average_follow_the_closed_form(step):
    state = begin()
    x = average = np.array([4.0, -2.0], np.float64)
    for count in range(30):
        state, _ = step(state, DATA, GOOD, KEY)
        x = x - RATE * 2.0 * (x - 1.0)
        decay = min(0.9, (1.0 + count) / (10.0 + count))
        average = decay * average + (1.0 - decay) * x
        np.testing.assert_allclose(state.parameters[X], x, rtol=1e-5)
        np.testing.assert_allclose(state.ema[X], average, rtol=1e-5)
    assert (int(state.step), int(state.carry), int(state.skipped)) == (30, 30, 0)


def test_several_steps_in_one_call_are_the_steps_one_by_one(step):
    together = make_steps(broken_when_the_first_centre_is_negative, optax.sgd(RATE), alone(PARAMETERS), CONFIG)
    batches = [GOOD, BAD_LOSS, GOOD]
    several, metrics = together(begin(), DATA, jnp.stack(batches), KEY)
    state, one_by_one = begin(), []
    for batch in batches:
        state, figures = step(state, DATA, batch, KEY)
        one_by_one.append(figures)
    jax.tree.map(np.testing.assert_array_equal, several, state)
    jax.tree.map(np.testing.assert_array_equal, metrics, jax.tree.map(lambda *values: jnp.stack(values), *one_by_one))


@pytest.mark.parametrize("batch", [BAD_LOSS, BAD_GRADIENT], ids=["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(step, batch):
    state, _ = step(begin(), DATA, GOOD, KEY)
    before = jax.device_get(state)
    after, metrics = step(state, DATA, batch, KEY)
    assert np.isfinite(metrics["loss"]) == (batch is BAD_GRADIENT)
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (2, 1, 1)
    for field in ("parameters", "ema", "optimiser", "carry"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, field), getattr(before, field))
    then, _ = step(after, DATA, GOOD, KEY)
    assert (int(then.skipped), int(then.skipped_in_a_row)) == (1, 0)
    assert (then.parameters[X] != before.parameters[X]).all()


def test_the_metrics_say_whose_gradient_is_not_finite(step):
    _, metrics = step(begin(), DATA, BAD_GRADIENT, KEY)
    assert int(metrics["not_finite_at"]) == 2  # the first of y
    _, metrics = step(begin(), DATA, GOOD, KEY)
    assert int(metrics["not_finite_at"]) == 4


def test_after_too_many_skipped_steps_in_a_row_a_good_one_changes_nothing(step):
    state = begin()
    first = np.asarray(state.parameters[X])
    for batch in (*[BAD_LOSS] * SKIPPED_IN_A_ROW, GOOD, GOOD):
        state, metrics = step(state, DATA, batch, KEY)
    np.testing.assert_array_equal(state.parameters[X], first)
    assert int(metrics["skipped_in_a_row"]) == SKIPPED_IN_A_ROW + 2


def drawing(parameters, carry, data, centres, key, step):
    return (parameters**2).sum(), ({"drawn": jax.random.uniform(key)}, carry)


def test_the_key_follows_from_seed_and_step_alone():
    step = make_step(drawing, optax.sgd(RATE), alone(jnp.ones(2)), CONFIG)
    state = begin(jnp.ones(2))
    for count in range(3):
        state, metrics = step(state, (), GOOD, KEY)
        expected = jax.random.uniform(jax.random.fold_in(jax.random.key(3), count))
        np.testing.assert_array_equal(metrics["terms"]["drawn"], expected)


def test_two_seeds_share_one_compiled_program():
    state = begin(jnp.ones(2))
    first, second = (
        make_step(
            drawing, optax.sgd(RATE), alone(jnp.ones(2)), ml_collections.ConfigDict(CONFIG.to_dict() | {"seed": seed})
        )
        .lower(state, (), GOOD, jax.random.key(seed))
        .as_text()
        for seed in (3, 4)
    )
    assert first == second


def test_parameters_keep_their_dtypes_and_are_updated_in_float32():
    def objective(parameters, carry, data, centres, key, step):
        return sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(parameters)), ({}, carry)

    start = {"half": jnp.array([3.0, -1.5], jnp.bfloat16), "whole": jnp.array([[3.0, -1.5]])}
    state, _ = make_step(objective, optax.sgd(RATE), alone(start), CONFIG)(begin(start), (), GOOD, KEY)
    state = alone(start).unpack(state)
    kinds = {"half": jnp.bfloat16, "whole": jnp.float32}
    for tree, share in ((state.parameters, 1.0), (state.ema, 0.9)):  # the average starts with m = 1 / 10
        assert {name: leaf.dtype for name, leaf in tree.items()} == kinds
        expected = np.array([3.0, -1.5]) * (1.0 - share * 2.0 * RATE)
        np.testing.assert_allclose(tree["whole"], expected[None], rtol=1e-6)
        np.testing.assert_array_equal(tree["half"], jnp.asarray(expected, jnp.bfloat16))


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_the_work_is_shared_out_along_data(toy, kind):
    mesh = make_mesh({"data": -1})
    parameters = toy.parameters()
    placement, optimiser = Placement(parameters, mesh, kind), optax.adam(RATE)
    step = make_step(toy.objective, optimiser, placement, CONFIG)
    state = initial_state(parameters, jnp.zeros((), jnp.int32), optimiser.init(jnp.zeros(placement.layout.size)))
    state, key = put_replicated((state, KEY), mesh)
    data = put_replicated({"image": np.ones((8, 8, 3), np.float32)}, mesh)
    centres = put_batches(np.zeros((1, 64, 2), np.int32), mesh)[0]
    compiled = step.lower(placement.pack(state), data, centres, key).compile()
    program = compiled.as_text()
    assert "all-reduce" in program
    assert "f32[8,8]" in program  # hidden layer of a device's 8 of 64 samples
    assert "f32[64,8]" not in program
    # Sharded, the parameters (40 numbers, 5 a device) are gathered once and everything that is kept stays shared out.
    assert program.count("all-gather(") == (kind == "sharded")
    kept = compiled.output_shardings[0]
    moments = optax.tree.get(kept.optimiser, "mu"), optax.tree.get(kept.optimiser, "nu")
    for sharding in (kept.parameters, kept.ema, *moments):
        assert sharding.shard_shape((40,)) == ((5,) if kind == "sharded" else (40,))

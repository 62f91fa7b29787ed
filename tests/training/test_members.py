"""Many seeds in one program come out as they do one by one."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.training.checkpoints import load_parameters
from bdgf_jax.training.indices import IndexStream
from bdgf_jax.training.members import Members
from bdgf_jax.training.mesh import make_mesh

SEEDS = (4, 5, 6)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def start(toy):
    """Parameters of each member."""
    moved = lambda seed: jax.tree.map(lambda leaf: leaf + 0.1 * seed, toy.parameters())
    return [moved(seed) for seed in SEEDS]


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(state, index):
    return jax.device_get(jax.tree.map(lambda leaf: leaf[index], state))


@pytest.fixture(scope="module")
def together(toy, start, tmp_path_factory):
    """The folder and final state of three members on eight devices, five of which train a member once more."""
    folder = tmp_path_factory.mktemp("together")
    return folder, toy.train(folder, parameters=lambda: stacked(start), seeds=SEEDS)


@pytest.fixture(scope="module")
def singles(toy, start, tmp_path_factory):
    """Folder and final state of each member trained by itself."""
    folder, mesh = tmp_path_factory.mktemp("singles"), make_mesh({"data": -1}, jax.devices()[:1])
    folders = [folder / str(seed) for seed in SEEDS]
    alone = lambda place, parameters, seed: toy.train(place, parameters=lambda: parameters, seed=seed, mesh=mesh)
    return [(place, alone(place, parameters, seed)) for place, parameters, seed in zip(folders, start, SEEDS)]


def test_each_member_is_what_a_single_run_of_its_seed_comes_to(together, singles):
    _, state = together
    close = lambda one, another: np.testing.assert_allclose(one, another, **TOLERANCE)
    for index, (_, single) in enumerate(singles):
        for part in ("parameters", "ema", "optimiser"):
            jax.tree.map(close, member(getattr(state, part), index), jax.device_get(getattr(single, part)))
        assert int(state.carry[index]) == int(single.carry)  # the same samples were seen


def test_what_is_logged_is_the_mean_over_the_members(together, singles):
    losses = lambda folder: [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    mean = np.mean([losses(folder) for folder, _ in singles], axis=0)
    np.testing.assert_allclose(losses(together[0]), mean, rtol=1e-4)


def test_the_checkpoint_holds_all_members_and_a_stopped_run_ends_as_if_it_had_not_been(toy, start, together, tmp_path):
    folder, state = together
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "30")
    again = toy.train(copy, parameters=lambda: stacked(start), seeds=SEEDS)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))
    loaded = load_parameters(folder / "checkpoints", stacked(start))
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(state.ema))


def test_a_device_holds_its_members_alone_and_learns_nothing_from_the_others(start):
    mesh = make_mesh({"data": 4, "model": 2})
    placed = Members(stacked(start * 2), mesh, SEEDS * 2)  # 6 members in 8 places
    begin = placed.beginning(lambda parameters, carry: _state(parameters, placed.layout.size))
    state = begin(stacked(start * 2), ())
    packed = placed.pack(state)
    assert packed.parameters.shape == (8, placed.layout.size)
    assert packed.parameters.addressable_shards[0].data.shape[0] == 2
    jax.tree.map(np.testing.assert_array_equal, placed.unpack(packed), state)
    step = jax.jit(placed.stepping(lambda state, data, batch, key: (state, {"loss": state.parameters.sum()})))
    program = step.lower(packed, (), jnp.zeros((8, 4)), placed.keys()).compile().as_text()
    assert "all-reduce" not in program


def _state(parameters, size):
    from bdgf_jax.training.state import initial_state

    return initial_state(parameters, (), {"mu": jnp.zeros(size)})


def test_each_member_draws_the_batches_of_its_seed():
    placed = Members({"x": jnp.zeros((3, 2))}, make_mesh({"data": 2, "model": 4}), SEEDS)
    batches = placed.streams(100, 32)[7]
    for row, seed in zip(batches, (*SEEDS, SEEDS[0]), strict=True):
        np.testing.assert_array_equal(row, IndexStream(100, batch_size=32, seed=seed)[7])


def test_a_member_that_diverges_stops_the_run_and_the_others_lose_nothing(toy, start, tmp_path):
    def objective(parameters, carry, data, centres, key, step):
        loss, more = toy.objective(parameters, carry, data, centres, key, step)
        return jnp.where((parameters["bias"][0] > 0.55) & (step > 4), jnp.nan, loss), more  # the last member's alone

    with pytest.raises(InputError, match="stopped at step 15"):
        toy.train(tmp_path, objective=objective, parameters=lambda: stacked(start), seeds=SEEDS, learning_rate=1e-4)
    saved = load_parameters(tmp_path / "checkpoints", stacked(start))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) > 10

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

from bdgf_jax.errors import InputError
from bdgf_jax.training import checkpoints as module
from bdgf_jax.training.checkpoints import Checkpoints, kept_file, load_parameters
from bdgf_jax.training.mesh import make_mesh, replicated
from bdgf_jax.training.state import TrainState, initial_state

HERE = SingleDeviceSharding(jax.devices()[0])


def state_of(value, **others):
    """A state that can be told from others, with every kind of leaf that occurs."""
    parameters = {"kernel": jnp.full((3, 4), value), "half": jnp.full(5, value, jnp.bfloat16)} | others
    carry = {"counts": jnp.arange(3), "seen": jnp.array([True, False]), "rule": ()}
    return initial_state(parameters, carry, (parameters, jnp.zeros((), jnp.int32)))


def assert_same(one, another):
    assert jax.tree.structure(one) == jax.tree.structure(another)
    assert jax.tree.map(lambda x: x.dtype, one) == jax.tree.map(lambda x: x.dtype, another)
    jax.tree.map(np.testing.assert_array_equal, one, another)


def save(folder, *values, keep=5, scores=None):
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(step, state_of(value), (scores or {}).get(step))


def restored_value(folder, keep=5):
    with Checkpoints(folder, keep=keep) as checkpoints:
        state = checkpoints.restore(state_of(0.0), HERE)
    return None if state is None else float(state.parameters["kernel"][0, 0])


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(folder, 1.0, 2.0, 3.0)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_a_state_comes_back_with_every_value_and_dtype(saved):
    with Checkpoints(saved, keep=5) as checkpoints:
        assert_same(checkpoints.restore(state_of(0.0), HERE), state_of(3.0))
        abstract = jax.eval_shape(lambda: state_of(0.0))
        assert_same(checkpoints.restore(abstract, HERE), state_of(3.0))


def test_the_state_of_an_nnx_module_comes_back(tmp_path):
    make = lambda seed: nnx.split(
        nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(seed)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    )
    graph, parameters = make(0)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, initial_state(parameters, (), ()))
    abstract = nnx.state(nnx.eval_shape(lambda: nnx.merge(*make(1))))
    loaded = load_parameters(tmp_path, abstract)
    assert_same(loaded, parameters)
    inputs = jnp.ones((4, 2))
    np.testing.assert_array_equal(nnx.merge(graph, loaded)(inputs), nnx.merge(graph, parameters)(inputs))


def test_restored_arrays_lie_where_they_are_wanted(saved):
    everywhere = replicated(make_mesh({"data": -1}))
    with Checkpoints(saved, keep=5) as checkpoints:
        state = checkpoints.restore(state_of(0.0), everywhere)
    assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {everywhere}


def test_an_empty_folder_holds_no_state(tmp_path):
    assert restored_value(tmp_path) is None


def test_a_saved_state_is_not_touched_by_the_steps_that_follow(tmp_path):
    step = jax.jit(
        lambda state: jax.tree.map(lambda x: x + x.dtype.type(1) if x.dtype != bool else x, state), donate_argnums=0
    )
    state = state_of(0.0, large=jnp.zeros((500, 500)))
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for count in (1, 2, 3):
            state = step(state)
            checkpoints.save(count, state)
            for _ in range(5):
                state = step(state)
    like = jax.eval_shape(lambda: state_of(0.0, large=jnp.zeros((500, 500)))).parameters
    np.testing.assert_array_equal(load_parameters(tmp_path, like)["large"], 13.0)


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    save(tmp_path, 1.0, 2.0, 3.0, 4.0, 5.0, keep=2, scores={1: 0.1, 2: 0.9, 4: 0.5})
    assert steps(tmp_path) == [2, 4, 5]
    like = state_of(0.0).parameters
    assert float(load_parameters(tmp_path, like, "best")["kernel"][0, 0]) == 2.0
    assert float(load_parameters(tmp_path, like, "last")["kernel"][0, 0]) == 5.0
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.last_step, checkpoints.best_step) == (5, 2)
        assert checkpoints.is_best(0.9)
        assert not checkpoints.is_best(0.89)
        assert not checkpoints.is_best(float("nan"))


def test_without_scores_the_last_is_the_best(saved):
    assert float(load_parameters(saved, state_of(0.0).parameters, "best")["kernel"][0, 0]) == 3.0


def test_files_that_go_along_are_in_every_checkpoint_and_as_well_guarded(tmp_path):
    (tmp_path / "names.json").write_text("[1]")
    folder, files = tmp_path / "checkpoints", {"kept/names.json": tmp_path / "names.json"}
    with Checkpoints(folder, keep=5, files=files) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(float(step)))
    (tmp_path / "names.json").unlink()
    assert kept_file(folder, "kept/names.json") == folder / "2" / "kept" / "names.json"
    assert (folder / "2" / "kept" / "names.json").read_text() == "[1]"
    assert restored_value(folder) == 2.0
    (folder / "2" / "kept" / "names.json").write_text("[2]")
    assert kept_file(folder, "kept/names.json") == folder / "1" / "kept" / "names.json"
    assert kept_file(folder, "other.json") is None


def test_a_flipped_byte_in_any_file_is_noticed(copy, recwarn):
    """Orbax alone restores most of these without a word, and wrongly."""
    random = np.random.default_rng(0)
    like = state_of(0.0).parameters
    # Orbax asks only whether this one is there.
    files = set((copy / "3").rglob("*")) - {copy / "3" / "commit_success.txt"}
    for path in sorted(path for path in files if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[random.integers(len(whole) // 2)] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        assert float(load_parameters(copy, like)["kernel"][0, 0]) == 2.0, path
        assert f"{copy / '3'} is damaged" in str(recwarn.pop(UserWarning).message)
        path.write_bytes(whole)
    assert float(load_parameters(copy, like)["kernel"][0, 0]) == 3.0


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before_and_its_step_saved_anew(copy):
    victim = max((copy / "3" / "ema" / "d").iterdir(), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=rf"{copy}/3 is damaged \(.*{victim.name} differs.*set aside as 3\.damaged"):
        assert restored_value(copy) == 2.0
    with Checkpoints(copy, keep=5) as checkpoints:
        checkpoints.save(3, state_of(30.0))
    assert restored_value(copy) == 30.0


def test_where_every_checkpoint_is_damaged_training_begins_anew_and_prediction_is_refused(copy):
    for step in (1, 2, 3):
        (copy / str(step) / "manifest.json").unlink()
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(InputError, match="no whole checkpoint; train first"),
    ):
        load_parameters(copy, state_of(0.0).parameters)
    with pytest.warns(UserWarning, match="damaged"):
        assert restored_value(copy) is None


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (jnp.zeros((3, 5)), r"ema/kernel is float32\[3, 4\] in the checkpoint and float32\[3, 5\] in the model"),
        (jnp.zeros((3, 4), jnp.bfloat16), r"float32\[3, 4\] in the checkpoint and bfloat16\[3, 4\] in the model"),
        (None, r"ema/kernel is float32\[3, 4\] in the checkpoint and absent in the model"),
    ],
)
def test_parameters_of_another_model_are_refused_by_name(saved, like, words):
    with pytest.raises(InputError, match=words):
        load_parameters(saved, state_of(0.0).parameters | {"kernel": like})


def test_a_save_that_fails_says_so_and_leaves_the_one_before_whole(tmp_path, monkeypatch):
    save(tmp_path, 1.0)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_manifest", no_space)
    with (
        pytest.raises(InputError, match=r"could not be saved.*No space left on device"),
        Checkpoints(tmp_path, keep=2) as c,
    ):
        c.save(2, state_of(2.0))
    monkeypatch.undo()
    assert restored_value(tmp_path) == 1.0


def test_prediction_loads_parameters_without_an_optimiser():
    program = "import sys, bdgf_jax.training.checkpoints; sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0


def test_two_leaves_of_one_path_are_refused(tmp_path):
    state = state_of(0.0)
    twice = TrainState(**(vars(state) | {"carry": {"a/b": jnp.zeros(1), "a": {"b": jnp.ones(1)}}}))
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(ValueError, match="same path"):
        checkpoints.save(1, twice)

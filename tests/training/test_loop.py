import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdgf_jax.errors import InputError
from bdgf_jax.training import batches
from bdgf_jax.training.checkpoints import load_parameters
from bdgf_jax.training.loop import steps_together
from bdgf_jax.training.mesh import make_mesh


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(one, another):
    jax.tree.map(np.testing.assert_array_equal, one, another)


def without_checkpoints_from(folder, step, copy):
    """A copy of a run that was killed before the checkpoint of `step`."""
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").iterdir():
        if int(path.name) >= step:
            shutil.rmtree(path)
    return copy


def test_training_lowers_the_loss_and_logs_it(finished):
    folder, state = finished
    log = log_of(folder)
    assert [line["step"] for line in log] == [1, 10, 20, 30]
    assert set(log[0]) == {"step", "seconds", "loss", "loss/sum", "learning_rate", "skipped"}
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert (int(state.step), int(state.skipped)) == (30, 0)
    assert list(folder.glob("events.*"))


def test_the_key_of_a_step_follows_from_the_seed_of_the_config(toy, tmp_path):
    def objective(parameters, carry, data, centres, key, step):
        loss, (_, carry) = toy.objective(parameters, carry, data, centres, key, step)
        return loss, ({"drawn": jax.random.uniform(key)}, carry)

    toy.train(tmp_path, objective=objective, seed=5, steps=3, log_every=1)
    expected = [float(jax.random.uniform(jax.random.fold_in(jax.random.key(5), step))) for step in range(3)]
    np.testing.assert_allclose([line["drawn"] for line in log_of(tmp_path)], expected, rtol=1e-5)


def test_a_finished_run_is_returned_without_a_step(finished, toy):
    folder, state = finished

    def never(*_):
        raise AssertionError("traced")

    assert_same(toy.train(folder, objective=never), state)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(finished, toy, tmp_path):
    folder, state = finished
    copy = without_checkpoints_from(folder, 30, tmp_path / "copy")
    assert_same(toy.train(copy), state)
    assert [line["step"] for line in log_of(copy)] == [1, 10, 20, 30]
    assert log_of(copy)[-1]["loss"] == log_of(folder)[-1]["loss"]


def test_a_damaged_last_checkpoint_costs_only_the_steps_since_the_one_before(finished, toy, tmp_path):
    folder, state = finished
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in (copy / "checkpoints" / "30" / "ema" / "d").iterdir():
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.warns(UserWarning, match="checkpoints/30 is damaged"):
        assert_same(toy.train(copy), state)


@pytest.mark.parametrize(("devices", "placement"), [(1, "replicated"), (2, "replicated"), (4, "sharded")])
def test_fewer_devices_come_to_the_same_within_rounding(finished, toy, tmp_path, devices, placement):
    _, state = finished
    other = toy.train(tmp_path, mesh=make_mesh({"data": -1}, jax.devices()[:devices]), placement=placement)
    close = lambda one, another: np.testing.assert_allclose(one, another, rtol=2e-4, atol=1e-5)
    jax.tree.map(close, jax.device_get(other.parameters), jax.device_get(state.parameters))
    assert int(other.carry) == int(state.carry)  # the same samples were seen


def test_a_run_may_be_continued_on_fewer_and_fewer_devices(finished, toy, tmp_path):
    folder, state = finished
    copy = without_checkpoints_from(folder, 20, tmp_path / "copy")  # 10 steps on 8 devices, then 10 on 4, 10 on 1

    def evaluate(ema):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(SystemExit):
        toy.train(copy, mesh=make_mesh({"data": -1}, jax.devices()[:4]), evaluate=evaluate, evaluate_every=20)
    other = toy.train(copy, mesh=make_mesh({"data": -1}, jax.devices()[:1]), placement="sharded")
    close = lambda one, another: np.testing.assert_allclose(one, another, rtol=2e-4, atol=1e-5)
    jax.tree.map(close, jax.device_get(other.ema), jax.device_get(state.ema))
    assert int(other.carry) == int(state.carry)


def test_on_sigterm_the_state_is_saved_and_the_program_left_with_status_0(finished, toy, tmp_path, capsys):
    _, state = finished

    def evaluate(ema):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"validation/oa": 0.5}

    with pytest.raises(SystemExit) as left:
        toy.train(tmp_path, evaluate=evaluate, evaluate_every=13)
    assert left.value.code == 0
    assert "saved after step 13 of 30" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert log_of(tmp_path)[-1]["validation/oa"] == 0.5
    assert_same(toy.train(tmp_path).parameters, state.parameters)


def test_the_best_by_validation_is_kept_beside_the_last(finished, toy, tmp_path):
    scores = iter([0.1, 0.7, 0.2, 0.7, 0.3, 0.3])
    state = toy.train(
        tmp_path, evaluate=lambda ema: {"validation/oa": next(scores)}, best="validation/oa", evaluate_every=5, keep=1
    )
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [20, 30]
    assert [line.get("validation/oa") for line in log_of(tmp_path)] == [None, 0.1, 0.7, 0.2, 0.7, 0.3, 0.3]
    _, reference = finished
    assert_same(load_parameters(tmp_path / "checkpoints", state.ema), reference.ema)
    best = load_parameters(tmp_path / "checkpoints", state.ema, "best")
    assert (best["first"] != state.ema["first"]).any()


def broken_between(toy, first, end, term="sar"):
    def objective(parameters, carry, data, centres, key, step):
        loss, (terms, carry) = toy.objective(parameters, carry, data, centres, key, step)
        loss = jnp.where((first <= step) & (step < end), jnp.nan, loss)
        return loss, (terms | {f"loss/{term}": loss}, carry)

    return objective


def test_a_few_steps_that_are_not_finite_are_skipped_and_counted(toy, tmp_path):
    state = toy.train(tmp_path, objective=broken_between(toy, 9, 12))
    assert int(state.skipped) == 3
    assert [line["skipped"] for line in log_of(tmp_path)] == [0, 1, 3, 3]
    assert log_of(tmp_path)[1]["loss"] is None
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.parameters))


def test_ten_in_a_row_stop_the_run_with_the_last_good_state_saved(toy, tmp_path):
    with pytest.raises(InputError, match=r"stopped at step 22: .* 10 steps in a row \(.*loss/sar is nan"):
        toy.train(tmp_path, objective=broken_between(toy, 12, 99), checkpoint_every=100)
    saved = load_parameters(tmp_path / "checkpoints", toy.parameters())
    good = toy.train(tmp_path / "good", objective=broken_between(toy, 12, 13))
    assert int(good.skipped) == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12"]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))


def test_after_ten_in_a_row_another_objective_continues_from_the_last_good_state(toy, finished, tmp_path):
    with pytest.raises(InputError):
        toy.train(tmp_path, objective=broken_between(toy, 12, 99), checkpoint_every=100)
    assert_same(toy.train(tmp_path), finished[1])


def test_a_gradient_that_is_not_finite_is_named(toy, tmp_path):
    def objective(parameters, *others):
        loss, more = toy.objective(parameters, *others)
        return loss + jnp.sqrt(jnp.abs(parameters["bias"] * 0.0)).sum(), more

    with pytest.raises(InputError, match="the gradient of bias is not finite"):
        toy.train(tmp_path, objective=objective)


def test_a_batch_that_the_devices_cannot_share_is_refused(toy, tmp_path):
    with pytest.raises(InputError, match=re.escape("got 20; the nearest sizes are 16 and 24.")):
        toy.train(tmp_path, batch_size=20)


def test_a_checkpoint_of_another_model_is_refused(finished, toy):
    wider = lambda: toy.parameters() | {"bias": jnp.zeros(9)}
    with pytest.raises(InputError, match=r"parameters/bias is float32\[8\] in the checkpoint and float32\[9\]"):
        toy.train(finished[0], parameters=wider)


def test_an_nnx_module_is_trained_and_continued(toy, tmp_path):
    make = lambda: nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.LayerNorm(8, rngs=nnx.Rngs(0)))
    graph, _ = nnx.split(make())

    def objective(parameters, carry, data, centres, key, step):
        outputs = nnx.merge(graph, parameters)(data["image"][centres[:, 0], centres[:, 1]])
        loss = jnp.mean((outputs - 1.0) ** 2)
        return loss, ({}, carry)

    train = lambda folder: toy.train(folder, objective=objective, parameters=lambda: nnx.state(make()))
    whole = train(tmp_path / "whole")
    assert_same(train(without_checkpoints_from(tmp_path / "whole", 30, tmp_path / "part")), whole)
    assert isinstance(whole.ema, nnx.State)
    assert_same(load_parameters(tmp_path / "part" / "checkpoints", nnx.state(make())), whole.ema)


def test_the_parameters_that_were_given_stay_usable(toy, tmp_path):
    parameters = toy.parameters()
    before = jax.device_get(parameters)
    toy.train(tmp_path, parameters=lambda: parameters, steps=3)
    assert_same(parameters, before)


def test_what_only_the_host_holds_is_refused_by_the_guard_round_the_step(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "put_batches", lambda batch, mesh: np.asarray(batch, np.int32))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        toy.train(tmp_path, steps=2)


@pytest.mark.parametrize(
    ("start", "changes", "together"),
    [
        (0, {}, 10),
        (0, {"steps_together": 0}, 1),
        (0, {"steps_together": 4}, 2),
        (15, {}, 5),
        (7, {}, 1),
        (0, {"evaluate_every": 4}, 2),
    ],
)
def test_calls_end_where_something_is_due(toy, start, changes, together):
    settings = toy.settings(**{"steps": 30, "steps_together": 12, "checkpoint_every": 10} | changes)
    assert steps_together(settings, start) == together


def test_an_accelerator_takes_ten_steps_at_once(toy, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert steps_together(toy.settings(steps=30, steps_together=0, checkpoint_every=10), 0) == 10

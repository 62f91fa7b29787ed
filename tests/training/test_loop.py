import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from bdgf_jax.training.loop import fit


def settings(**changes):
    base = {"steps": 30, "batch_size": 16, "learning_rate": 1e-2, "warmup": 3, "weight_decay": 0.01, "clip": 1.0}
    base |= {"ema": 0.99, "seed": 0, "log_every": 10, "evaluate_every": 0, "checkpoint_every": 10, "keep": 2}
    return ml_collections.ConfigDict(base | changes)


def objective(parameters, carry, data, centres, key, step):
    inputs = data["image"][centres[:, 0], centres[:, 1]]
    hidden = jnp.tanh(inputs @ parameters["first"] + parameters["bias"][None])
    noise = 0.01 * jax.random.normal(key, (centres.shape[0],))
    loss = jnp.mean((hidden @ parameters["second"] - inputs.sum(-1) + noise) ** 2)
    return loss, ({"loss/sum": loss}, carry + 1.0)


def problem():
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    random = np.random.default_rng(0)
    parameters = {
        "first": jnp.asarray(random.normal(size=(3, 8)), jnp.float32),
        "bias": jnp.zeros(8),
        "second": jnp.asarray(random.normal(size=8), jnp.float32),
    }
    return dict(
        objective=objective,
        parameters=parameters,
        carry=jnp.zeros(()),
        data={"image": jnp.asarray(random.normal(size=(8, 8, 3)), jnp.float32)},
        candidates=np.stack([rows, columns], -1).reshape(-1, 2).astype(np.int32),
        title="Test",
    )


def run(workdir, mesh=None, **changes):
    return fit(**problem(), config=settings(**changes), workdir=workdir, mesh=mesh)


def test_thin(tmp_path):
    state = run(tmp_path)
    assert int(state.step) == 30
    print((tmp_path / "log.jsonl").read_text())
    again = run(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again, state)

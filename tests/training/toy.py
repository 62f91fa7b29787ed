"""A regression of two layers that trains in a blink. As a program it trains in the folder that it is given."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import bdgf_jax
from bdgf_jax.training import checkpoints
from bdgf_jax.training.loop import fit

# Row and column of each pixel of the image that is learnt from.
PIXELS = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)


def settings(**changes):
    base = {"steps": 30, "batch_size": 16, "learning_rate": 1e-2, "warmup": 3, "weight_decay": 0.01, "clip": 1.0}
    base |= {"ema": 0.99, "seed": 0, "log_every": 10, "steps_together": 5, "evaluate_every": 0, "checkpoint_every": 10}
    base |= {"keep": 2}
    return ml_collections.ConfigDict(base | changes)


def objective(parameters, carry, data, centres, key, step):
    inputs = data["image"][centres[:, 0], centres[:, 1]]
    hidden = jnp.tanh(inputs @ parameters["first"] + parameters["bias"][None])
    noise = 0.01 * jax.random.normal(key, (centres.shape[0],))
    loss = jnp.mean((hidden @ parameters["second"] - inputs.sum(-1) + noise) ** 2)
    return loss, ({"loss/sum": loss}, carry + centres.sum())


def parameters():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(3, 8)), random.normal(size=8)
    return {"first": jnp.asarray(first, jnp.float32), "bias": jnp.zeros(8), "second": jnp.asarray(second, jnp.float32)}


class Read:
    """The toy's samples, but read when they are asked for."""

    name = "read"

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, numbers):
        return PIXELS[numbers]


def train(
    workdir,
    *,
    samples=PIXELS,
    objective=objective,
    parameters=parameters,
    mesh=None,
    evaluate=None,
    best=None,
    placement="replicated",
    seeds=(),
    **changes,
):
    return fit(
        objective,
        parameters(),
        carry=jnp.zeros(len(seeds) or (), jnp.int32),
        data={"image": jnp.asarray(np.random.default_rng(1).normal(size=(8, 8, 3)), jnp.float32)},
        samples=samples,
        config=settings(**changes),
        workdir=Path(workdir),
        title="Training",
        mesh=mesh,
        placement=placement,
        evaluate=evaluate,
        best=best,
        seeds=seeds,
    )


def slowly_compiled(*arguments):
    """The objective, in a program that XLA chews on for a while."""
    loss, more = objective(*arguments)
    sum_of_many = loss
    for count in range(60):
        sum_of_many = jnp.linalg.norm(jnp.outer(sum_of_many + jnp.arange(3.0 + count), jnp.arange(2.0)))
    return loss + 0.0 * sum_of_many, more


def slowly_saved(write=checkpoints.write_manifest):
    def write_manifest(*arguments):
        write(*arguments)
        time.sleep(1.0)

    checkpoints.write_manifest = write_manifest


def program(*arguments):
    """What `subprocess.Popen` takes to run this file: workdir, steps, checkpoint_every, and what is slow or "read"."""
    environment = os.environ | {"PYTHONPATH": str(Path(bdgf_jax.__file__).parents[1])}
    args = [sys.executable, __file__, *map(str, arguments)]
    return {
        "args": args,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }


def free_port():
    """One that nothing on this machine listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    workdir, steps, checkpoint_every, *how = sys.argv[1:]
    if how == ["save"]:
        slowly_saved()
    chosen = slowly_compiled if how == ["compile"] else objective
    samples = Read() if how == ["read"] else PIXELS
    train(workdir, samples=samples, objective=chosen, steps=int(steps), checkpoint_every=int(checkpoint_every))

"""Both trainings come to the same losses and parameters on any number of devices, and on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bdgf_jax
from bdgf_jax import cli, fitting
from bdgf_jax.training.checkpoints import load_arrays
from bdgf_jax.training.mesh import make_mesh

STAGES = ("pretrain", "train")
# Six steps of each; the second one of pre-training masks already, and its skills are part of what is compared.
COMMAND = ["train", "--config", "demo:tiny"] + [
    f"--config.{override}"
    for override in (
        "diffusion.multipliers=(1,)",
        "masking.ramp=(0.0,0.1)",
        "features.levels=(0,)",
        "pretrain.steps=6",
        "pretrain.log_every=1",
        "classifier.branches=('cnn',)",
        "classifier.patch=3",
        "classifier.centre=1",
        "classifier.stages=1",
        "features.context.components=0",
        "train.steps=6",
        "train.log_every=1",
        "train.evaluate_every=0",
    )
]
# Devices add in another order: float32 rounds at 1.2e-7, and Adam divides small gradients by themselves.
TOLERANCE = {"rtol": 2e-5, "atol": 5e-6}

pytestmark = pytest.mark.slow


def train(workdir, devices, placement, monkeypatch):
    monkeypatch.setattr(fitting, "make_mesh", lambda axes, _: make_mesh(axes, jax.devices()[:devices]))
    assert cli.main([*COMMAND, "--workdir", str(workdir), f"--config.placement={placement}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return train(tmp_path_factory.mktemp("alone"), 1, "replicated", monkeypatch)


def assert_alike(one, another):
    for stage in STAGES:
        losses = [
            [json.loads(line)["loss"] for line in (workdir / stage / "log.jsonl").read_text().splitlines()]
            for workdir in (one, another)
        ]
        assert len(losses[0]) == 6
        np.testing.assert_allclose(*losses, **TOLERANCE)
        arrays, others = (load_arrays(workdir / stage / "checkpoints") for workdir in (one, another))
        assert list(arrays) == list(others)
        assert any("skills" in name for name in arrays) == (stage == "pretrain")
        for name in arrays:
            np.testing.assert_allclose(arrays[name], others[name], **TOLERANCE, err_msg=f"{stage}: {name}")


# The toy of test_loop.py is trained on 2 and 4, too.
def test_eight_devices_that_share_the_parameters_make_no_difference(alone, tmp_path, monkeypatch):
    assert_alike(alone, train(tmp_path, 8, "sharded", monkeypatch))


def test_two_processes_make_no_difference(alone, toy, tmp_path):
    together = {
        "PYTHONPATH": str(Path(bdgf_jax.__file__).parents[1]),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(toy.free_port()),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bdgf_jax.cli", *COMMAND, "--workdir", str(tmp_path)],
            env=os.environ | together | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][-3000:] + said[1][-3000:]
    assert "Training" in said[0]
    assert "Training  " not in said[1]  # one speaks for all
    assert_alike(alone, tmp_path)

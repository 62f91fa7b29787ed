"""Cores as devices: how many there are, and which training takes how many of them."""

import os
import subprocess
import sys

import jax
import pytest

from bdgf_jax.training import cores
from bdgf_jax.training.mesh import make_mesh

AXES = {"data": -1, "model": 1}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, min(len(os.sched_getaffinity(0)), cores.MOST_DEVICES)),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ],
)
def test_every_core_becomes_a_device_unless_the_user_has_said_otherwise(environment, count):
    program = (
        "import jax; from bdgf_jax.training.distributed import join_processes; from bdgf_jax.training import cores;"
        "join_processes(); found = cores.share_of_cores({'data': -1}, 8 * jax.device_count(), 0);"
        "cores.offer_cores(); print(jax.device_count(), None if found is None else len(found))"
    )
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=plain | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(count), str(count) if not environment else "None"]


@pytest.fixture
def offered(monkeypatch):
    monkeypatch.setattr(cores, "_offered", lambda: True)


@pytest.mark.parametrize(
    ("axes", "pieces", "copied", "expected"),
    [
        (AXES, 16, 0, 8),
        (AXES, 12, 0, 6),  # a batch of 12 cannot be shared out by 8 or 7
        (AXES, 7, 0, 7),
        (AXES, 13, 0, 1),
        (AXES, 1, 0, 1),
        (AXES, 16, cores.MOST_COPIED // 5, 4),  # a large scene is copied as often as memory allows
        (AXES, 16, 2 * cores.MOST_COPIED, 1),
        ({"data": -1, "model": 2}, 16, 0, 8),
        ({"data": 2, "model": 2}, 16, 0, 4),
        ({"data": 1, "model": 1}, 16, 0, 1),
    ],
)
def test_a_training_takes_as_many_cores_as_can_share_its_batches(offered, axes, pieces, copied, expected):
    devices = cores.share_of_cores(axes, pieces, copied)
    assert devices == jax.devices()[:expected]
    assert make_mesh(axes, devices).size == expected


def test_devices_that_the_user_has_chosen_are_all_taken():
    assert cores.share_of_cores(AXES, 1, 0) is None

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import bdgf_jax
from bdgf_jax.errors import InputError
from bdgf_jax.training.checkpoints import Checkpoints
from bdgf_jax.training.distributed import Processes, find_processes, take_share

TOGETHER = Path(__file__).with_name("together.py")
TORCHRUN = {"WORLD_SIZE": "8", "RANK": "5", "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}
SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_NODELIST": "gpu[007-009,12]",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "4(x4)",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
GKE = {"TPU_WORKER_HOSTNAMES": "pod-0.tpu,pod-1.tpu,pod-2.tpu,pod-3.tpu", "TPU_WORKER_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        (TORCHRUN, Processes("node1:29500", 8, 5, local_index=1)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, Processes("node1:29500", 8, 5)),
        (TORCHRUN | {"CUDA_VISIBLE_DEVICES": "3"}, Processes("node1:29500", 8, 5)),
        (TORCHRUN | {"CUDA_VISIBLE_DEVICES": "0,1"}, Processes("node1:29500", 8, 5, local_index=1)),
        (SLURM, Processes("gpu007:61497", 16, 9, local_index=1)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, Processes("gpu007:61497", 16, 9)),
        (SLURM | {"SLURM_STEP_NODELIST": "login1,gpu[1-2]"}, Processes("login1:61497", 16, 9, local_index=1)),
        (GKE, Processes("pod-0.tpu:8476", 4, 2)),
        ({}, None),
        (TORCHRUN | {"WORLD_SIZE": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        # As sbatch leaves it, without srun: a job of several tasks, of which this is none.
        ({"SLURM_JOB_ID": "12345", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
    ],
)
def test_who_takes_part_is_read_from_the_environment(environment, processes):
    assert find_processes(environment) == processes


@pytest.mark.parametrize(
    ("environment", "name"), [(TORCHRUN, "MASTER_PORT"), (TORCHRUN, "RANK"), (SLURM, "SLURM_PROCID")]
)
def test_a_variable_that_is_missing_is_named(environment, name):
    rest = {other: value for other, value in environment.items() if other != name}
    with pytest.raises(InputError, match=f"{name} is not: set both"):
        find_processes(rest)


def test_a_share_of_independent_work_is_taken_on_a_gpu_of_its_own(monkeypatch):
    told = []
    monkeypatch.setattr(type(jax.config), "update", lambda _, *setting: told.append(setting))
    assert take_share({}) == (0, 1)
    assert take_share(GKE) == (2, 4)
    assert not told
    assert take_share(SLURM) == (9, 16)
    assert told == [("jax_cuda_visible_devices", "1")]


def two(toy, *command):
    """Two processes of two devices each that run a Python program together."""
    port = toy.free_port()
    for rank in (0, 1):
        environment = os.environ | {
            "PYTHONPATH": str(Path(bdgf_jax.__file__).parents[1]),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        yield subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def until_saved(workdir, step, processes):
    folder = workdir / "checkpoints"
    while not any(path.name.isdecimal() and int(path.name) >= step for path in folder.glob("*")):
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1][-3000:]
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step_saved(finished, toy, tmp_path):
    processes = list(two(toy, TOGETHER, tmp_path, 20_000, 100, "read"))
    until_saved(tmp_path, 100, processes)
    processes[1].terminate()
    (said, _), _ = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "Training was asked to stop (SIGTERM) and is saved after step" in said
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        assert f"after step {checkpoints.last_step} of 20000" in said
        assert checkpoints.position()["iterator"] == {"next_index": checkpoints.last_step // 5}  # five steps each


@pytest.mark.slow
def test_when_one_of_two_processes_dies_the_other_stops_with_an_error_and_one_alone_goes_on(toy, tmp_path):
    processes = list(two(toy, TOGETHER, tmp_path, 20_000, 5))
    until_saved(tmp_path, 10, processes)
    first, survivor = processes
    first.kill()
    died = time.monotonic()
    _, heard = survivor.communicate(timeout=60)
    # Heartbeats are missed after 10 s in this program.
    assert time.monotonic() - died < 40
    assert survivor.returncode != 0
    assert "another task died" in heard or "UNAVAILABLE" in heard
    first.communicate()
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        last = checkpoints.last_step
    assert last >= 10
    state = toy.train(tmp_path, steps=last + 2)
    assert int(state.step) == last + 2
    assert np.isfinite(state.parameters["second"]).all()


ONE_FAILS = """
from bdgf_jax.errors import InputError
from bdgf_jax.training import distributed

distributed.join_processes()
with distributed.failing_together():
    with distributed.first_only("save") as does:
        if does:
            raise InputError("the disk is full")
"""


@pytest.mark.slow
def test_where_one_process_meets_an_error_the_other_does_not_wait_for_it(toy):
    began = time.monotonic()
    first, second = two(toy, "-c", ONE_FAILS)
    assert first.communicate(timeout=60)[1].endswith("Process 0 of 2: the disk is full\n")
    assert first.returncode == 2
    second.communicate(timeout=60)
    assert second.returncode not in (0, None)
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_when_the_link_between_two_hosts_is_cut_both_stop_with_an_error_and_one_alone_goes_on(toy, tmp_path):
    apart = ["unshare", "--map-root-user", "--net", "--uts"]
    if not shutil.which("unshare") or subprocess.run([*apart, "ip", "link"], capture_output=True).returncode:
        pytest.skip("two hosts cannot be played here: network namespaces are refused, or `ip` is not there")
    here = Path(__file__).parent
    command = [
        *apart,
        here / "cut_link.sh",
        tmp_path,
        "10",
        sys.executable,
        here / "together.py",
        tmp_path,
        "20000",
        "5",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(bdgf_jax.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    said = re.fullmatch(r"after (\d+) seconds: (\d+) (\d+)", done.stdout.splitlines()[-1])
    assert said, done.stderr[-3000:]
    seconds, *statuses = map(int, said.groups())
    # Heartbeats are missed after 10 s in this program.
    assert seconds < 40
    assert all(statuses)
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        last = checkpoints.last_step
    assert int(toy.train(tmp_path, steps=last + 2).step) == last + 2

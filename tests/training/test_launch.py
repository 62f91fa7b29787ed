"""The launch files, each of them with two processes on this machine in place of a cluster."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import bdgf_jax
from bdgf_jax import cli
from bdgf_jax.training.checkpoints import load_arrays
from bdgf_jax.training.distributed import TPU_PORT

ROOT = Path(bdgf_jax.__file__).parents[1]
LAUNCH = ROOT / "launch"
TOGETHER = [sys.executable, str(Path(__file__).with_name("together.py"))]
# What srun sets for the processes of a step, as far as it matters here.
SRUN = """#!/bin/sh
[ "$1" = --kill-on-bad-exit=1 ] || exit 9
shift
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_LOCALID
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
SLURM_PROCID=1 SLURM_LOCALID=1 "$@"
second=$?
wait $! && exit $second
"""


@pytest.fixture
def environment(tmp_path):
    """With a srun and a scontrol first on the path."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "scontrol").write_text("#!/bin/sh\necho scontrol $@\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }


def finished_together(done, workdir, steps):
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(f"Training  {steps}/{steps} step") == 1  # one of the two speaks
    assert int(load_arrays(workdir / "checkpoints")["step"]) == steps


@pytest.mark.slow
def test_sigterm_to_the_launcher_of_one_node_stops_all_processes_saved(environment, toy, tmp_path):
    environment |= {"PROCESSES": "2", "MASTER_PORT": str(toy.free_port())}
    command = [LAUNCH / "one_node.sh", *TOGETHER, tmp_path / "run", "20000", "50"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run" / "checkpoints").glob("50")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "was asked to stop (SIGTERM) and is saved after step" in said


@pytest.mark.slow
def test_where_one_process_of_a_node_fails_the_launcher_fails(environment, tmp_path):
    program = "import os, sys, time; time.sleep(60 if os.environ['RANK'] == '0' else 0); sys.exit(3)"
    command = [LAUNCH / "one_node.sh", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment | {"PROCESSES": "2"}, timeout=30)
    assert done.returncode == 3


@pytest.mark.slow
def test_slurm(environment, tmp_path):
    environment |= {"SLURM_JOB_ID": str(os.getpid())}
    command = [LAUNCH / "slurm.sh", *TOGETHER, tmp_path / "run", "6", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finished_together(done, tmp_path / "run", 6)
    assert "scontrol" not in done.stdout


def test_slurm_queues_a_run_again_that_was_asked_to_stop(environment):
    environment |= {"SLURM_JOB_ID": "77"}
    command = [LAUNCH / "slurm.sh", "echo", "Training was asked to stop (SIGTERM) and is saved after step 5 of 30."]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("scontrol requeue 77\n")


def test_slurm_fails_where_the_run_fails(environment):
    done = subprocess.run([LAUNCH / "slurm.sh", "false"], env=environment | {"SLURM_JOB_ID": "77"}, timeout=60)
    assert done.returncode == 1


@pytest.mark.slow
def test_gke(environment, tmp_path):
    environment |= {"TPU_WORKER_HOSTNAMES": "localhost,127.0.0.1"}
    processes = [
        subprocess.Popen(
            [*TOGETHER, str(tmp_path), "6", "3"],
            env=environment | {"TPU_WORKER_ID": str(index)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    heard = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], heard[0][-3000:]
    assert int(load_arrays(tmp_path / "checkpoints")["step"]) == 6


def test_the_job_for_gke_is_of_one_piece():
    service, job = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert container["ports"][0]["containerPort"] == TPU_PORT
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert job["spec"]["completions"] * container["resources"]["limits"]["google.com/tpu"] == chips
    options, _ = cli.parse(container["command"][1:])
    mounted = container["volumeMounts"][0]
    assert str(options.workdir).startswith(mounted["mountPath"])
    assert mounted["name"] == pod["volumes"][0]["name"]

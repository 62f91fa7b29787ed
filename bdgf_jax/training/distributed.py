"""Several processes as one program: who takes part is read from what the launcher leaves in the environment."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import orbax.checkpoint as ocp

from bdgf_jax.errors import InputError
from bdgf_jax.training.cores import offer_cores

# After so many seconds without a sign of life from one of them, the others stop with an error.
HEARTBEAT = 60
# How long processes wait for the first one to do what one of them does for all, in seconds.
PATIENCE = 7 * 24 * 3600
TPU_PORT = 8476


@dataclass(frozen=True)
class Processes:
    """Who takes part.

    Attributes:
      coordinator: address of the first process.
      count: how many there are.
      index: which of them this is, from 0.
      local_index: which it is among those of its machine, where each of them takes one GPU of several; None where a
        process takes all devices that it sees.
    """

    coordinator: str
    count: int
    index: int
    local_index: int | None = None


def find_processes(environment: Mapping[str, str]) -> Processes | None:
    """Who takes part, by the variables of the launcher; None where this process works alone.

    Known are SLURM (`srun`), Cloud TPU pods on GKE, and RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which torchrun
    and many others set.

    Raises:
      InputError: some of a launcher's variables are there, and another one that is needed is not.
    """
    if int(environment.get("WORLD_SIZE", 1)) > 1:
        address, port = (_needed(environment, name, "WORLD_SIZE") for name in ("MASTER_ADDR", "MASTER_PORT"))
        count, index = int(environment["WORLD_SIZE"]), int(_needed(environment, "RANK", "WORLD_SIZE"))
        local = _own_gpu(environment, "LOCAL_RANK", alone=environment.get("LOCAL_WORLD_SIZE") == "1")
        return Processes(f"{address}:{port}", count, index, local)
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        nodes, job = (
            _needed(environment, name, "SLURM_STEP_NUM_TASKS") for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_ID")
        )
        # Two jobs on one machine take different ports, above those that systems hand out.
        port = 61440 + int(job) % 4096
        count, index = (
            int(environment["SLURM_STEP_NUM_TASKS"]),
            int(_needed(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")),
        )
        alone = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")) is not None
        return Processes(
            f"{_first_node(nodes)}:{port}", count, index, _own_gpu(environment, "SLURM_LOCALID", alone=alone)
        )
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1:
        index = int(_needed(environment, "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"))
        return Processes(f"{hosts[0]}:{TPU_PORT}", len(hosts), index)
    return None


def join_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Makes this process one of those that its launcher started, where it started several; else lets it have its cores
    as devices. Before any use of JAX.

    Raises:
      InputError: the launcher's variables are incomplete.
    """
    processes = find_processes(environment)
    if processes is None:
        offer_cores()
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        processes.coordinator,
        processes.count,
        processes.index,
        local_device_ids=None if processes.local_index is None else [processes.local_index],
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT,
    )


def take_share(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which share of work in independent pieces this process takes, and of how many; it never meets the others.

    Before any use of JAX, since of several GPUs of a machine it takes its own.

    Raises:
      InputError: the launcher's variables are incomplete.
    """
    processes = find_processes(environment)
    if processes is None:
        return 0, 1
    if processes.local_index is not None:
        jax.config.update("jax_cuda_visible_devices", str(processes.local_index))
    return processes.index, processes.count


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


@contextmanager
def first_before_others(what: str) -> Iterator[None]:
    """The first process does what is inside, then all others do; they find on disk what the first has left there."""
    if is_first():
        yield
    _wait_for_all(what)
    if not is_first():
        yield
    _wait_for_all(f"{what}, all")


@contextmanager
def first_only(what: str) -> Iterator[bool]:
    """True in the first process; the others wait until it has done what is inside."""
    yield is_first()
    _wait_for_all(what)


@contextmanager
def failing_together() -> Iterator[None]:
    """Where one process of several meets an `InputError`, it says so and ends at once with status 2.

    To leave in order would be to wait for the others, which wait for this one; so they stop as they do when it dies.
    """
    try:
        yield
    except InputError as error:
        if jax.process_count() == 1:
            raise
        print(f"Process {jax.process_index()} of {jax.process_count()}: {error}", file=sys.stderr, flush=True)
        os._exit(2)


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        ocp.multihost.sync_global_processes(what, timeout=PATIENCE)


def _needed(environment: Mapping[str, str], name: str, given: str) -> str:
    if name not in environment:
        raise InputError(f"{given} is set to {environment[given]!r} in the environment, and {name} is not: set both.")
    return environment[name]


def _own_gpu(environment: Mapping[str, str], name: str, *, alone: bool) -> int | None:
    """None where the process is alone on its machine, or shown but one GPU."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    if alone or name not in environment or (shown and "," not in shown):
        return None
    return int(environment[name])


def _first_node(nodes: str) -> str:
    """Of SLURM's compressed lists: node7, node[001-004,9], a[1-2],b7."""
    prefix, number = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return prefix + (number or "")

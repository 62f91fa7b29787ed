"""Kills both trainings at random moments, starts them again each time, and compares the end with a run left alone.

    python experiments/soak.py --kills 50

The config is `demo` at its tiny size with a checkpoint every second step, so that many kills fall into a save. The
last line is `50 kills, 50 resumed, 0 differences` where all went well; the status is 1 otherwise.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

from bdgf_jax.training.checkpoints import load_arrays

STAGES = {"pretrain": 30, "train": 60}
COMMAND = [sys.executable, "-m", "bdgf_jax.cli", "train", "--config", "demo:tiny", "--config.train.evaluate_every=0"]
COMMAND += [f"--config.{stage}.checkpoint_every=2" for stage in STAGES]
KILLS_A_RUN = 10


def main() -> int:
    """0 where every kill was followed by a run that came out bit by bit as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments, as far as the clock allows")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    kills = resumed = differences = 0
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = pathlib.Path(folder, "undisturbed")
        start(undisturbed).wait()
        reference = final_arrays(undisturbed)
        while kills < options.kills:
            workdir = pathlib.Path(folder, f"after_{kills}")
            count = min(KILLS_A_RUN, options.kills - kills)
            for stage, step in sorted(random_moment(moments) for _ in range(count)):
                process = start(workdir)
                before = saved(workdir)
                if killed(process, workdir, stage, step, moments.uniform(0.0, 0.4)):
                    kills += 1
                    resumed += saved(workdir) >= before
                    print(f"kill {kills}: {describe(workdir)}", flush=True)
            if status := start(workdir).wait():
                print(f"the run in {workdir} ended with status {status}")
                resumed -= 1
            ends = final_arrays(workdir)
            differing = [name for name in reference if not np.array_equal(reference[name], ends[name])]
            differences += len(differing)
            print(f"after {kills} kills {len(differing)} of {len(reference)} arrays differ {differing[:3]}", flush=True)
    print(f"{kills} kills, {resumed} resumed, {differences} differences")
    return int(resumed != kills or differences > 0)


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Begins the run in that folder, or continues it."""
    return subprocess.Popen([*COMMAND, "--workdir", str(workdir)], stderr=subprocess.DEVNULL)


def random_moment(moments: random.Random) -> tuple[str, int]:
    """A stage and the step whose checkpoint is waited for; the two stages in turn come in this order when sorted."""
    stage = moments.choice(list(STAGES))
    return stage, moments.randrange(STAGES[stage] - 2)


def killed(process: subprocess.Popen, workdir: pathlib.Path, stage: str, step: int, delay: float) -> bool:
    """Whether the run was still there to be killed, `delay` seconds after the checkpoint of that step."""
    while process.poll() is None and last_step(workdir, stage) < step:
        time.sleep(0.005)
    time.sleep(delay)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


def last_step(workdir: pathlib.Path, stage: str) -> int:
    """Step of the last checkpoint of a stage, 0 where there is none; -1 before the stage has begun."""
    folder = workdir / stage / "checkpoints"
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return max(steps, default=0 if folder.is_dir() else -1)


def saved(workdir: pathlib.Path) -> tuple[int, ...]:
    """The last steps of both stages."""
    return tuple(last_step(workdir, stage) for stage in STAGES)


def describe(workdir: pathlib.Path) -> str:
    """Where the kill left the run."""
    halves = sum(1 for stage in STAGES for _ in (workdir / stage / "checkpoints").glob("*tmp*"))
    steps = ", ".join(f"{stage} {last_step(workdir, stage)}" for stage in STAGES)
    return f"last checkpoints {steps}" + (", within a save" if halves else "")


def final_arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoints of both stages, optimiser and counts included."""
    return {
        f"{stage}/{name}": np.asarray(array)
        for stage in STAGES
        for name, array in load_arrays(workdir / stage / "checkpoints").items()
    }


if __name__ == "__main__":
    sys.exit(main())

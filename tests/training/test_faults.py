"""What must survive, as programs of their own: kills, signals and a full disk at chosen and at random moments."""

import shutil
import subprocess
import time
import warnings

import jax
import numpy as np
import pytest

from bdgf_jax.training.checkpoints import Checkpoints
from bdgf_jax.training.manifest import find_damage


def assert_same(one, another):
    jax.tree.map(np.testing.assert_array_equal, one, another)


def last_step(workdir):
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def wait_for(process, condition):
    while not condition():
        assert process.poll() is None, "the run ended before its moment came"
        time.sleep(0.002)


def test_a_kill_at_any_moment_costs_nothing_but_time(finished, toy, tmp_path):
    moments = np.random.default_rng()
    for saved in (1, 9, 20):
        process = subprocess.Popen(**toy.program(tmp_path, 30, 1))
        wait_for(process, lambda saved=saved: last_step(tmp_path) >= saved)
        # With a checkpoint a step, most moments lie within a save.
        time.sleep(moments.uniform(0.0, 0.1))
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
    assert 20 <= last_step(tmp_path) < 30
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what a kill leaves is no damage
        assert_same(toy.train(tmp_path, checkpoint_every=1), finished[1])


@pytest.mark.parametrize("saved", [10, 30], ids=["between steps", "at the end"])
def test_sigterm_during_a_save_lets_it_finish(toy, tmp_path, saved):
    process = subprocess.Popen(**toy.program(tmp_path, 30, 10, "save"))
    wait_for(process, lambda: list((tmp_path / "checkpoints").glob(f"{saved}.*tmp*")))
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    step = last_step(tmp_path)
    assert step >= saved
    assert said == (
        f"Training was asked to stop (SIGTERM) and is saved after step {step} of 30.\n"
        "The same command continues from there.\n"
    )
    assert find_damage(tmp_path / "checkpoints" / str(step)) is None


def test_a_full_disk_is_said_and_the_checkpoint_before_stays_whole(toy, tmp_path):
    """On a file system of its own of less than 10 checkpoints."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: namespaces are refused")
    disk, rescued = tmp_path / "disk", tmp_path / "rescued"
    disk.mkdir()
    started = toy.program(disk, 30, 1) | {"stderr": subprocess.PIPE}
    mounted = 'mount -t tmpfs -o size=400k none "$0" && "$@"; status=$?; cp -r "$0" "$1.copy"; exit $status'
    mounted = mounted.replace("$1.copy", str(rescued))
    started["args"] = ["unshare", "-rm", "sh", "-c", mounted, str(disk), *started["args"]]
    process = subprocess.Popen(**started)
    _, heard = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "InputError: A checkpoint could not be saved" in heard
    assert "No space left on device" in heard
    with Checkpoints(rescued / "checkpoints", keep=100) as checkpoints:
        assert checkpoints.last_step
        assert find_damage(rescued / "checkpoints" / str(checkpoints.last_step)) is None

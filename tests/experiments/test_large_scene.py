"""The program that maps a scene larger than memory, on one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "experiments/large_scene.py"


@pytest.mark.slow
@pytest.mark.parametrize("windows", [None, 3])
def test_all_windows_are_mapped_or_as_many_as_asked_for(windows, tmp_path):
    some = [] if windows is None else ["--windows", windows]
    command = [sys.executable, PROGRAM, "--size", 300, "--small", *some, "--folder", tmp_path]
    command = [*map(str, command), "--out", str(tmp_path / "record.json")]
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["windows"], record["windows_predicted"]) == (4, windows or 4)
    assert record["whole"] == (windows is None)
    assert len(record["pixels_per_second"]) == (windows or 4) - 1
    assert record["config"]["classifier"]["branches"] == ["cnn"]
    assert 0.2 < record["peak_gigabytes"] < 4
    assert "all of them mapped" in done.stdout or windows
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]

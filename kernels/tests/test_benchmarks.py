"""The benchmarks at tiny sizes: what they write, that a wrong result stops them, and the GPU script's rehearsal."""

import ctypes
import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan import choice
from bdgf_kernels.selective_scan.shapes import SHAPES
from benchmarks import mamba_ssm_library, series, timing
from benchmarks import selective_scan as benchmark

KERNELS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rows():
    measured = benchmark.measure("tiny", SHAPES["tiny"], jnp.dtype(jnp.float32), 3, benchmark.here())
    return list(measured)


def test_a_row_for_every_implementation_and_pass_with_all_columns(rows):
    assert all(tuple(row) == benchmark.COLUMNS for row in rows)
    peers = [peer.NAME for peer in benchmark.peers()]
    expected = [(name, kind) for kind in benchmark.PASSES for name in [*benchmark.here(), *peers]]
    assert [(row["implementation"], row["pass"]) for row in rows] == expected
    for row in rows:
        lower, upper = row["quartiles"]
        assert 0 < lower <= row["median_ms"] <= upper
        assert list(row["ratio_to_peers"]) == peers
        assert row["ratio_to_peer"] == (row["ratio_to_peers"][peers[0]] if peers else None)
    assert "chunked" in benchmark.table(rows)


def test_rows_replace_those_of_the_same_shape_and_keep_others(rows, tmp_path):
    benchmark.write(rows, tmp_path)
    benchmark.write([row | {"shape": "another"} for row in rows], tmp_path)
    benchmark.write(rows, tmp_path)
    written = json.loads(benchmark.file(tmp_path).read_text())
    assert len(written) == 2 * len(rows)
    assert [row for row in written if row["shape"] == "tiny"] == rows


def test_a_wrong_result_is_reported_and_nothing_is_timed(monkeypatch):
    right = choice.IMPLEMENTATIONS["chunked"]

    class Wrong:
        supports = staticmethod(right.supports)

        @staticmethod
        def scan(operands, options):
            y, state = right.scan(operands, options)
            return 1.01 * y, state

    def timed(*_):
        raise AssertionError("something was timed")

    monkeypatch.setitem(choice.IMPLEMENTATIONS, "chunked", Wrong)
    monkeypatch.setattr(timing, "interleaved", timed)
    with pytest.raises(benchmark.WrongError, match="chunked at tiny, forward: y is off by 1"):
        list(benchmark.measure("tiny", SHAPES["tiny"], jnp.dtype(jnp.float32), 2, ["chunked"]))


def test_the_truth_is_the_same_in_pieces_of_the_batch(monkeypatch):
    given = benchmark.random_arguments(6, 5, 4, 2, jnp.dtype(jnp.float32))
    whole = benchmark.truth(given)
    monkeypatch.setattr(benchmark, "MOST_STATES", 5 * 4 * 2 * 4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), benchmark.truth(given), whole)


def test_no_input_is_used_again_before_all_others_were(monkeypatch):
    monkeypatch.setattr(timing, "PAST_CACHES", 100)
    inputs = timing.copies(np.zeros(5))
    assert len(inputs) == 4
    used = [id(x) for turn in range(4) for x in timing.rotated(inputs, turn, 2)]
    assert used == [id(x) for x in inputs] * 2


def test_series_are_drawn(rows, tmp_path):
    of = lambda axis, place: [row | {"shape": f"{2 * i}x{7 * i}x4x4"} for i in (1, 2) for row in rows]
    series.draw({"length": of("length", 1), "batch": of("batch", 0)}, tmp_path / "series.png")
    assert (tmp_path / "series.png").stat().st_size > 10_000


@pytest.fixture
def brought_along(monkeypatch, tmp_path):
    """A library that is there, of whose kernels XLA learns nothing."""
    monkeypatch.setattr(mamba_ssm_library, "LIBRARY", tmp_path / "mamba_ssm.so")
    monkeypatch.delitem(sys.modules, "benchmarks.peer_mamba_ssm_library", raising=False)
    mamba_ssm_library.LIBRARY.touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: types.SimpleNamespace(mamba_ssm_forward=0, mamba_ssm_backward=0))
    monkeypatch.setattr(jax.ffi, "pycapsule", lambda pointer: pointer)
    monkeypatch.setattr(jax.ffi, "register_ffi_target", lambda *_, **__: None)
    return importlib.import_module("benchmarks.peer_mamba_ssm_library")


def test_the_peers_kernels_are_two_custom_calls_for_a_gpu(brought_along):
    given = benchmark.random_arguments(2, 121, 8, 4, jnp.dtype(jnp.bfloat16))
    traced = brought_along.differentiated.trace(brought_along.load(given))
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert [program.count(f"@mamba_ssm_{kernel}(") for kernel in ("forward", "backward")] == [1, 1]
    y, gradients = traced.out_info
    assert y.shape == (2, 8, 121)
    back = lambda x: (x.shape[0], x.shape[2], x.shape[1]) if len(x.shape) == 3 else x.shape
    assert {name: (back(x), x.dtype) for name, x in gradients.items()} == {
        name: (x.shape, x.dtype) for name, x in given.items() if name != "dy"
    }


def test_a_peer_that_was_not_brought_along_is_named_with_the_command_that_builds_it(brought_along):
    mamba_ssm_library.LIBRARY.unlink()
    told = r"mamba_ssm\.so is not there; `python -m benchmarks\.mamba_ssm_library SOURCE` builds it"
    with pytest.raises(ImportError, match=told):
        brought_along.register()


@pytest.mark.slow
@pytest.mark.skipif(not compatibility.HAS_MOSAIC_GPU, reason="the kernels need jax 0.11 or newer")
def test_everything_that_wants_a_gpu_is_rehearsed_in_one_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--rehearse", "--results", tmp_path]
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = clean | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, cwd=KERNELS, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stages = json.loads((tmp_path / "on_gpu_rehearsal.json").read_text())["stages"]
    assert list(stages) == ["correctness", "bits", "benchmark", "tune"]
    assert all(stage["failed"] is None and stage["rows"] for stage in stages.values())
    checked = {(row["implementation"], row["dtype"]) for row in stages["correctness"]["rows"]}
    assert checked == {(name, dtype) for name in ("mosaic_gpu", "triton") for dtype in ("float32", "bfloat16")}
    assert not any("refused" in row for row in stages["correctness"]["rows"] + stages["bits"]["rows"])

"""The Mosaic GPU kernels' machine code for an H100, compiled without one: what was reached must not be lost."""

import json
import pathlib
import subprocess
import sys

import pytest
from bdgf_kernels import compatibility
from benchmarks import deviceless, static_cost

KERNELS = pathlib.Path(__file__).parents[2]

needs_compiler = pytest.mark.skipif(
    deviceless.tools() is None or not compatibility.HAS_MOSAIC_GPU,
    reason="needs jax 0.11 or newer, its CUDA plugin, and the wheels of ptxas and nvdisasm",
)


@pytest.fixture(scope="module")
def counted():
    command = [sys.executable, "-m", "benchmarks.static_cost"]
    done = subprocess.run(command, cwd=KERNELS, capture_output=True, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("{") :])["hopper"]


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "instructions", "warps", "speedup"),
    [("forward", 7.05, 16, 5.9), ("forward_for_gradients", 7.15, 16, 5.9), ("backward", 20.5, 8, 4.5)],
)
def test_the_kernels_are_as_lean_as_they_were(counted, kind, instructions, warps, speedup):
    row = counted[kind]
    assert row["instructions_per_element"] <= instructions
    assert row["spill_bytes"] == 0
    assert row["atomics"] == 0
    assert row["warps_per_sm"] >= warps
    assert row["modelled_speedup"]["ours_121"] >= speedup


CODE = """
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   MUFU.EX2 R3, R3 ;
.L_x_2:
        /*0020*/                   MUFU.EX2 R4, R4 ;
        /*0030*/              @P1  BRA `(.L_x_2) ;
        /*0040*/              @!P0 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
.L_x_3:
        /*0060*/                   NANOSLEEP R1 ;
        /*0070*/                   BRA `(.L_x_3) ;
""".splitlines()


def test_an_instruction_counts_as_often_as_the_loops_round_it_run():
    assert static_cost.executed(CODE, [7, 4]) == {"MOV": 1, "MUFU": 7 + 28, "BRA": 28 + 7, "EXIT": 1}


def test_other_loops_than_reckoned_with_are_an_error_and_no_number():
    with pytest.raises(RuntimeError, match="has 2 loops, 1 were reckoned with"):
        static_cost.executed(CODE, [7])

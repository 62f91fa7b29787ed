"""The Mosaic GPU kernels' machine code for an H100, compiled without one: what was reached must not be lost."""

import json
import pathlib
import subprocess
import sys
from collections import Counter

import pytest
from bdgf_kernels import compatibility
from benchmarks import deviceless, issue_model, sass, static_cost

KERNELS = pathlib.Path(__file__).parents[2]

needs_compiler = pytest.mark.skipif(
    deviceless.tools() is None or not compatibility.HAS_MOSAIC_GPU,
    reason="needs jax 0.11 or newer, its CUDA plugin, and the wheels of ptxas and nvdisasm",
)


@pytest.fixture(scope="module")
def counted():
    command = [sys.executable, "-m", "benchmarks.static_cost", "--json", "--shapes", "ours_121", "lm_2048"]
    done = subprocess.run(command, cwd=KERNELS, capture_output=True, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("{") :])


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "instructions", "warps", "speedup", "shared"),
    [
        ("forward", 7.0, 16, 6.0, 16_392),
        ("forward_for_gradients", 7.15, 16, 6.0, 16_392),
        ("backward", 19.0, 8, 4.5, 113_680),
    ],
)
def test_the_kernels_are_as_lean_as_they_were(counted, kind, instructions, warps, speedup, shared):
    row = counted[kind]
    assert row["instructions_per_element"] <= instructions
    assert row["spill_bytes"] == 0
    assert row["atomics"] == 0
    assert row["warps_per_sm"] >= warps
    assert row["modelled_speedup"]["ours_121"] >= speedup
    assert row["shared_memory_bytes"] == shared


@needs_compiler
@pytest.mark.parametrize("kind", static_cost.KINDS)
def test_a_language_models_shape_is_twice_as_fast_as_its_peer_with_every_latency_counted(counted, kind):
    assert counted[kind]["other_shapes"]["lm_2048"]["bound_by"] == "latency"
    assert counted[kind]["modelled_speedup"]["lm_2048"] >= 2.0
    assert counted[kind]["other_shapes"]["lm_2048"]["spill_bytes"] == 0


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
    assert Counter(map(sass.name, sass.trace(CODE, [7, 4]))) == {"MOV": 1, "MUFU": 7 + 28, "BRA": 28 + 7, "EXIT": 1}


def test_other_loops_than_reckoned_with_are_an_error_and_no_number():
    with pytest.raises(RuntimeError, match="has 2 loops, 1 were reckoned with"):
        sass.trace(CODE, [7])


def test_arithmetic_waits_for_its_operands_and_a_second_warp_fills_in():
    chain = ["FADD R1, R1, R2"] * 100
    assert issue_model.clocks(chain, 1) == pytest.approx(400, abs=5)
    assert issue_model.clocks(chain, 4) == pytest.approx(400, abs=5)
    assert issue_model.clocks(chain, 8) == pytest.approx(800, abs=5)


def test_exponentials_queue_at_their_unit():
    assert issue_model.clocks([f"MUFU.EX2 R{i}, R0" for i in range(100)], 1) == pytest.approx(800, abs=30)


def test_a_read_at_an_address_of_the_threads_own_takes_four_passes():
    code = ["S2R R0, SR_TID.X", "SHF.L.U32 R1, R0, 0x4, RZ", "LDS.128 R4, [R1]", "MOV R1, UR4", "LDS.128 R4, [R1+UR5]"]
    assert [issue_model.passes(step) for step in issue_model.marked(code) if "LDS" in step] == [4, 1]

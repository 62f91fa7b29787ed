"""The TPU kernels compiled for chips that are not there, and their bundles: what was reached must not be lost."""

import importlib.util
import types

import pytest
from benchmarks import tpu_bundles

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
BARS = {
    "v5e": {"forward": 2.1, "forward_for_gradients": 2.2, "backward": 7.5},
    "v6e": {"forward": 2.15, "forward_for_gradients": 2.25, "backward": 7.5},
}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("chip", tpu_bundles.TOPOLOGIES)
def test_the_kernels_compile_and_are_as_lean_as_they_were(chip):
    counted = tpu_bundles.measure(chip, "float32")
    got = {kind: row["bundles_per_register_step"] for kind, row in counted.items()}
    assert all(got[kind] <= bar for kind, bar in BARS[chip].items()), got


@needs_compiler
@pytest.mark.slow
def test_half_precision_directions_and_every_option_compile():
    tpu_bundles.compiled_elsewhere("--compile-all", "v5e:2x2")


SCHEDULE = """
     0   :  { %s0 = smov 0 }
   0x1 LB: > { %v1 = vld [vmem:[%s1] sm:$0xff] }
   0x2   : > { %v2 = vmul.f32 %v1, %v1 }
   0x3 LB: >> { %v1 = vld [vmem:[%s1] sm:$0xff] }
   0x4 LB: >>> { %v1 = vmul.f32 %v1, %v1 }
   0x5   : >> { %v1 = vadd.f32 %v1, %v1 }
   0x6   : >>> { %v1 = vadd.f32 %v1, %v1 }
   0x7 LB: >> { %v1 = vld [vmem:[%s1] sm:$0xff] }
   0x8   :  {}
""".strip("\n")


def test_a_bundle_counts_as_often_as_the_loops_round_it_run():
    assert tpu_bundles.loops(SCHEDULE) == [(2, 2), (3, 2)]
    assert tpu_bundles.executed(SCHEDULE, [5, 7]) == 5 * 2 + 5 * 7 * 2


def test_other_loops_than_reckoned_with_are_an_error_and_no_number():
    with pytest.raises(RuntimeError, match="has 2 loops, 1 were reckoned with"):
        tpu_bundles.executed(SCHEDULE, [7])


def test_turns_of_the_loops_follow_from_the_tile():
    tile = types.SimpleNamespace(rows=64, channels=64)
    assert tpu_bundles.segments(tile, 121) == [(57, 1), (64, 1)]
    assert tpu_bundles.segments(tile, 64) == [(64, 1)]
    assert tpu_bundles.forward_trips(tile, 57, 32, 16) == [1, 2]

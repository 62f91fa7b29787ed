import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments import pod_plan, pod_programs
from experiments.program_costs import bytes_moved, product_flops

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
%fused (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %inside = f32[8,128]{1,0} exponential(%p)
}

ENTRY %main (scene: f32[1000,128], x: f32[8,128]) -> f32[8,128] {
  %scene = f32[1000,128]{1,0} parameter(0)
  %x = f32[8,128]{1,0} parameter(1)
  %taken = f32[8,128]{1,0} fusion(%scene), kind=kLoop, calls=%fused
  %half = bf16[8,128]{1,0} convert(%taken)
  %same = bf16[1024]{0} bitcast(%half)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} fusion(%half, %x), kind=kLoop, calls=%fused
}
"""
COLLECTIVES = """
  %one = (f32[100]{0:T(128)}, /*index=1*/bf16[10,10]{1,0}) all-reduce(%a, %b), replica_groups=[2,4]<=[8]
  %two = (f32[10]{0}, f32[80]{0}) all-gather-start(%c), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %three = f32[80]{0} all-gather-done(%two)
  %four = f32[] add(%d, %e)
"""


def counts(**changes):
    return {
        "chips": 256,
        "batch_per_chip": 64,
        "unit": "samples",
        "parameters": 10**6,
        "bytes_per_chip": 10**9,
        "flops": 197e10,
        "bytes": 819e7,
        "collectives": [{"kind": "all-reduce", "bytes": 4 * 10**6, "devices": 256}],
        "scan": None,
    } | changes


def test_collectives_are_read_off_a_compiled_program():
    one, two = pod_programs.collectives(COLLECTIVES, chips=8)
    assert one == {"kind": "all-reduce", "bytes": 600, "by_type": {"f32": 400, "bf16": 200}, "devices": 4}
    assert two == {"kind": "all-gather", "bytes": 320, "by_type": {"f32": 320}, "devices": 8}


def test_a_step_takes_what_its_slowest_part_takes():
    row = pod_plan.estimate("v5e-256", "pretrain", counts(collectives=[]))
    assert row["seconds"] == pytest.approx({"compute": 0.01, "memory": 0.01, "scan": 0.0, "collectives": 0.0})
    assert row["efficiency"] == 1.0
    slower = pod_plan.estimate("v5e-256", "pretrain", counts(collectives=[], bytes=819e8))
    assert slower["step_seconds"] == pytest.approx(0.1)
    assert slower["bound"] == "memory"


def test_what_is_said_between_chips_costs_efficiency_and_less_where_it_is_hidden():
    row = pod_plan.estimate("v5e-256", "pretrain", counts())
    ring = 2 * 255 / 256 * 4e6 / 100e9 + 2 * 2 * 15 * 1e-6
    assert row["seconds"]["collectives"] == pytest.approx(ring)
    assert row["efficiency"] == pytest.approx(0.01 / (0.01 + ring))
    assert row["efficiency_with_overlap"] == 1.0
    assert (
        pod_plan.estimate("h100-1", "pretrain", counts(collectives=[{"kind": "all-reduce", "bytes": 4, "devices": 1}]))[
            "efficiency"
        ]
        == 1.0
    )


def test_at_the_saturating_batch_a_tenth_of_the_step_does_not_grow_with_it():
    row = pod_plan.estimate("v5e-256", "pretrain", counts(bytes=819e6))
    fixed = 11 * 4e6 / 819e9
    per_sample = (0.01 - fixed) / 64
    waste = fixed + row["seconds"]["collectives"]
    share = lambda batch: waste / (waste + batch * per_sample)
    assert share(row["saturating_batch_per_chip"]) <= 0.1 < share(row["saturating_batch_per_chip"] - 1)


def test_the_scan_enters_with_what_was_counted():
    counted = json.loads(pod_plan.STATIC_COST.read_text())
    scan = {"calls": 1, "directions": 1, "b": 1024, "l": 121, "d": 128, "n": 16}
    seconds = pod_plan.scan_seconds("h100", "predict", scan)
    assert seconds == pytest.approx(
        1e-3 * counted["hopper"]["forward"]["modelled_milliseconds_with_latency"]["ours_121"]
    )
    narrow = pod_plan.scan_seconds("h100", "predict", scan | {"d": 8})
    assert narrow == pytest.approx(seconds)
    assert pod_plan.scan_seconds("v5e", "predict", scan | {"d": 8}) == pytest.approx(
        pod_plan.scan_seconds("v5e", "predict", scan) / 16
    )


def test_products_count_two_flops_a_multiply_add_and_loops_as_often_as_they_turn():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 5))
    where = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    convolve = lambda x: jax.lax.conv_general_dilated(x, kernel, **where)
    assert product_flops(jax.make_jaxpr(convolve)(x).jaxpr) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 4)
    power = lambda x: jax.lax.fori_loop(0, 7, lambda i, y: y @ x, x)
    assert product_flops(jax.make_jaxpr(jax.jit(power))(jnp.ones((16, 16))).jaxpr) == 7 * 2 * 16**3


def test_bytes_are_those_of_operands_and_results_and_of_a_scene_what_is_taken():
    wide, half = 4 * 8 * 128, 2 * 8 * 128
    assert bytes_moved(PROGRAM) == 2 * wide + (wide + half) + (half + 2 * wide)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_step_of_training_compiles_for_a_pod_and_every_chip_runs_the_scan_s_kernel():
    overrides = {"branches": "('mamba',)", "stages": "1", "patch": "3", "width": "16", "state": "4"}
    fields = [f"--config.classifier.{name}={value}" for name, value in overrides.items()]
    fields += [
        "--config.train.batch_size=64",
        "--config.features.levels=(0,)",
        "--config.classifier.direct.landmarks=0",
    ]
    command = [sys.executable, "experiments/pod_programs.py", "v5e-256", "train", "--config", "augsburg:tiny", *fields]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""})
    assert not done.returncode, done.stderr[-2000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["chips"] == 256
    assert counted["kernels"] >= 2  # forward and backward
    assert 4e6 < counted["bytes_per_chip"] < 1e9
    reduced = [one for one in counted["collectives"] if one["kind"] == "all-reduce"]
    # Gradients, in float32 at most, and hardly anything else is said.
    assert 2 * counted["parameters"] <= sum(one["bytes"] for one in reduced) <= 4 * counted["parameters"] + 200
    assert {one["kind"] for one in counted["collectives"]} == {"all-reduce"}

"""Numbers that only a measurement can choose: read by kind of device, by every implementation that has kernels."""

import jax.numpy as jnp
import pytest
from bdgf_kernels.selective_scan import mosaic_gpu, mosaic_tpu, triton, tuning
from bdgf_kernels.selective_scan.call import Operands, Options, Sizes
from scan_oracle import INTERPRETED

DEVICE = "NVIDIA H100 80GB HBM3"
SIZE = Sizes(900, 121, 128, 1, 1, 16)


def measured(monkeypatch, implementation, choices):
    """Makes the machine one whose device was measured: choices by batch, all else as in SIZE."""
    rows = [{"sizes": SIZE._replace(b=b)._asdict(), "choice": choice} for b, choice in choices.items()]
    monkeypatch.setattr(tuning.compatibility, "accelerator", lambda: DEVICE)
    monkeypatch.setattr(tuning, "table", {DEVICE: {implementation: rows}}.get)


def test_measured_numbers_serve_calls_that_differ_in_the_batch_alone(monkeypatch):
    measured(monkeypatch, "mosaic_gpu", {b: {"unroll": b} for b in (64, 1024)})
    assert tuning.tuned("mosaic_gpu", SIZE._replace(b=100)) == {"unroll": 64}
    assert tuning.tuned("mosaic_gpu", SIZE) == {"unroll": 1024}
    assert tuning.tuned("mosaic_gpu", SIZE._replace(l=122)) == {}
    assert tuning.tuned("triton", SIZE) == {}


@pytest.mark.parametrize("name", INTERPRETED)
def test_candidates_begin_with_the_default_and_say_every_number_once(name):
    usual, *others = INTERPRETED[name].candidates(SIZE)
    assert usual == INTERPRETED[name].defaults(SIZE)
    assert all(choice.keys() == usual.keys() for choice in others)
    assert len({tuple(choice.items()) for choice in (usual, *others)}) == 1 + len(others)


def operands():
    b, length, d, k, g, n = SIZE
    rows, states = jnp.zeros((b, length, d), jnp.bfloat16), jnp.zeros((b, length, k, g, n), jnp.bfloat16)
    return Operands(rows, rows[:, :, None], jnp.zeros((k, d, n)), states, states)


def test_a_tpu_kernel_takes_the_numbers_of_its_device(monkeypatch):
    assert mosaic_tpu.tiling(operands(), Options()).backward.channels == 128
    measured(monkeypatch, "mosaic_tpu", {1024: {"backward_channels": 32, "chunk": 16}})
    tiling = mosaic_tpu.tiling(operands(), Options())
    assert (tiling.backward.channels, tiling.chunk, tiling.forward_steps) == (32, 16, 8)


def test_a_triton_kernel_takes_the_numbers_of_its_device(monkeypatch):
    measured(monkeypatch, "triton", {1024: {"channels": 64}})
    assert triton.chosen(operands()) == triton.defaults(SIZE) | {"channels": 64}


def test_a_hopper_kernel_takes_the_numbers_of_its_device(monkeypatch):
    pytest.importorskip("jax", minversion="0.11")
    u, A, B = operands().u, operands().A.swapaxes(1, 2), jnp.zeros((121, 1, 900, 1, 16))
    assert mosaic_gpu.planned(Options(), True, None, u, A, B).unroll == 4
    measured(monkeypatch, "mosaic_gpu", {1024: {"unroll": 8}})
    assert mosaic_gpu.planned(Options(), True, None, u, A, B).unroll == 8

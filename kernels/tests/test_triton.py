"""The Triton kernels by the plain interpreter, beyond the suite that all share; tests/aot compiles them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from bdgf_kernels import compatibility, selective_scan
from bdgf_kernels.selective_scan import triton, tuning
from scan_oracle import SHORT, Case, arguments, check_directions, check_shard_map, copies


@pytest.fixture
def interpreted():
    """Interpreted, in shorter chunks, which are compiled sooner."""
    with triton.rehearsal(), tuning.trying(SHORT["triton"]):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("own_delta", "own_channels"), [(True, False), (False, False), (True, True)])
def test_four_directions_are_one_launch_each_way_with_the_other_implementations_numbers(
    own_delta, own_channels, interpreted
):
    program = check_directions("triton", (1, 3, 4, 16, 2), own_delta=own_delta, own_channels=own_channels)
    assert str(program).count("pallas_call[") == 2
    assert copies(program, 12, 12 * 16) == []


def test_what_the_kernels_can_not_do_is_refused_with_the_reason(monkeypatch):
    with pytest.raises(NotImplementedError, match="at most 32 of them, not 33"):
        selective_scan(**arguments(Case(n=33)), implementation="triton")
    zeros = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    rows, states = zeros((2**15, 512, 128)), zeros((2**15, 512, 16))
    scan = functools.partial(selective_scan, implementation="triton")
    with pytest.raises(NotImplementedError, match="offsets have 32 bits"):
        jax.eval_shape(scan, rows, rows, zeros((128, 16)), states, states)
    monkeypatch.setattr(compatibility, "weakest_gpu", lambda: 7.5)
    with pytest.raises(NotImplementedError, match=r"compute capability 8\.0 or higher, this machine's GPU has 7\.5"):
        scan(**arguments(Case()))


def test_the_default_for_a_gpu_below_hopper_is_this_kernel(monkeypatch):
    monkeypatch.setattr(compatibility, "weakest_gpu", lambda: 8.9)
    arrays = arguments(Case(b=1, l=16, d=8, n=4))
    scan = lambda: selective_scan(**arrays)
    assert "name=selective_scan_forward" in str(jax.make_jaxpr(scan)())


@pytest.mark.slow
def test_devices_change_nothing_inside_shard_map(interpreted):
    check_shard_map(Case(b=8, l=5, d=8, n=4), "triton", interpreted=True)

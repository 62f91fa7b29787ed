"""The TPU kernels by interpreters: the one that simulates memory, copies and their races, and the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bdgf_kernels import selective_scan, selective_scan_2d
from bdgf_kernels.selective_scan import choice, mosaic_tpu, tuning
from scan_oracle import SHORT, Case, arguments, check, check_directions, check_shard_map, check_vmap, copies


@pytest.fixture
def interpreted():
    with mosaic_tpu.rehearsal():
        yield


@pytest.fixture
def short_steps():
    """Loops that are written out less far, and shorter chunks: interpreted programs are compiled sooner."""
    with tuning.trying(SHORT["mosaic_tpu"]):
        yield


CASES = [
    Case(b=3, l=2, d=4, n=4, optional=("initial_state",)),
    Case(b=2, l=7, d=4, n=8, dtype="float16", reverse=True, optional=("D", "reset")),
    Case(b=2, l=49, d=96, n=16, softplus=True, optional=("D", "delta_bias")),
    Case(b=130, l=7, d=200, n=1),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_larger_calls_are_right_by_the_plain_interpreter(case, short_steps):
    with mosaic_tpu.interpreted(True):
        check(case, "mosaic_tpu")


@pytest.mark.slow
def test_the_steps_that_the_chip_runs_are_right():
    """With the loops as far written out as when compiled: more than one chunk, and rests of every kind."""
    with mosaic_tpu.rehearsal():
        check(
            Case(b=1, l=32 + 16 + 4 + 3, d=4, n=2, softplus=True, optional=("D", "delta_bias", "initial_state")),
            "mosaic_tpu",
        )


@pytest.mark.slow
def test_a_patch_is_right_with_every_constant_as_on_the_chip():
    with mosaic_tpu.interpreted(True):
        check(Case(b=2, l=121, d=16, n=16, softplus=True, optional=("D", "delta_bias", "initial_state")), "mosaic_tpu")


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_sequence_comes_in_segments(reverse, interpreted):
    case = Case(b=1, l=37, d=16, n=2, reverse=reverse, softplus=True, optional=("delta_bias", "initial_state", "reset"))
    with tuning.trying(SHORT["mosaic_tpu"] | {"rows": 16, "forward_channels": 8}):
        check(case, "mosaic_tpu")


@pytest.mark.slow
@pytest.mark.parametrize(("own_delta", "own_channels"), [(True, False), (False, False), (True, True)])
def test_four_directions_are_one_launch_each_way_with_the_other_implementations_numbers(
    own_delta, own_channels, interpreted, short_steps
):
    program = check_directions("mosaic_tpu", (1, 3, 4, 8, 2), own_delta=own_delta, own_channels=own_channels)
    assert str(program).count("pallas_call[") == 2
    assert "rev" not in copies(program, 12, 1)


@pytest.mark.parametrize("directions", ["one", "four"])
def test_what_the_kernels_can_not_do_is_refused_with_the_reason(directions):
    with pytest.raises(NotImplementedError, match="at most 32 states, not 33"):
        selective_scan(**arguments(Case(n=33)), implementation="mosaic_tpu")
    zeros = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    k = {"one": 1, "four": 4}[directions]
    grid = (1, 128, 128)
    given = zeros((*grid, 8)), zeros((*grid, 8)), zeros((k, 8, 4)), zeros((*grid, k, 4)), zeros((*grid, k, 4))
    scan = lambda *x: selective_scan_2d(*x, implementation="mosaic_tpu")
    if directions == "one":
        assert jax.eval_shape(scan, *given).shape == (*grid, 8)
    else:
        with pytest.raises(NotImplementedError, match="need all 16384 rows of 8 channels in VMEM at a time"):
            jax.eval_shape(scan, *given)


def test_arrays_of_more_than_31_bits_are_refused_before_an_offset_wraps():
    def shape_of(b):
        array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
        rows, states, rates = array((b, 512, 128)), array((b, 512, 16)), array((128, 16))
        scan = functools.partial(selective_scan, implementation="mosaic_tpu")
        return jax.eval_shape(scan, rows, rows, rates, states, states).shape

    assert shape_of(2**15 - 128) == (2**15 - 128, 512, 128)
    with pytest.raises(NotImplementedError, match="an array would have 2147483648 elements"):
        shape_of(2**15 - 127)


def test_the_default_for_a_tpu_is_this_kernel_where_the_batch_fills_its_lanes():
    """Lowered for a chip that is not there, from a machine without any."""

    def program(b):
        arrays = arguments(Case(b=b, l=16, d=8, n=4))
        scan = lambda: selective_scan(**arrays)
        return jax.jit(scan).trace().lower(lowering_platforms=("tpu",)).as_text()

    assert "tpu_custom_call" in program(64)
    assert "stablehlo.while" not in program(64)
    assert "tpu_custom_call" not in program(63)
    assert choice.FASTEST_FIRST["tpu"][0] == "mosaic_tpu"


@pytest.mark.slow
def test_vmap_and_devices_change_nothing(short_steps):
    with mosaic_tpu.interpreted(True):
        check_vmap(Case(b=8, l=3, d=4, n=2), "mosaic_tpu")


def test_the_default_works_inside_shard_map_with_gradients_of_what_devices_share():
    check_shard_map(Case(b=512, l=4, d=8, n=2))


@pytest.mark.slow
def test_twenty_runs_give_the_same_bits(short_steps):
    arrays = arguments(Case(b=2, l=9, d=12, n=2, softplus=True))
    with mosaic_tpu.interpreted(True):
        loss = lambda arrays: selective_scan(**arrays, delta_softplus=True, implementation="mosaic_tpu").sum()
        step = jax.jit(jax.value_and_grad(loss)).lower(arrays).compile()
    first = step(arrays)
    for _ in range(19):
        jax.tree.map(np.testing.assert_array_equal, step(arrays), first)

"""The Mosaic GPU kernels under the race-detecting interpreter, which simulates memory, copies, barriers, threads."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bdgf_kernels import compatibility, selective_scan
from bdgf_kernels.selective_scan import mosaic_gpu, tuning
from bdgf_kernels.selective_scan.call import Sizes
from scan_oracle import Case, arguments, check, check_directions, check_shard_map, check_vmap, copies

needs_new_jax = pytest.mark.skipif(not compatibility.HAS_MOSAIC_GPU, reason="the kernels need jax 0.11 or newer")


@pytest.fixture
def interpreted():
    with mosaic_gpu.rehearsal():
        yield


@needs_new_jax
def test_parts_that_share_sixteen_states_are_the_oracles(interpreted):
    optional = ("D", "delta_bias", "initial_state")
    check(Case(b=1, l=33, d=128, n=16, softplus=True, optional=optional), "mosaic_gpu")


@needs_new_jax
@pytest.mark.parametrize("length", [24, 37])
def test_calls_that_fill_the_chip_are_walked_otherwise_with_the_same_result(length, interpreted):
    case = Case(b=1, l=length, d=128, n=8, softplus=True, reverse=True, optional=("D", "delta_bias"))
    alone, crowded = (mosaic_gpu.defaults(Sizes(b, case.l, case.d, 1, 1, case.n)) for b in (1, 1000))
    assert (alone["parts"], crowded["parts"]) == (2, 1)
    with tuning.trying(crowded):
        check(case, "mosaic_gpu")


@needs_new_jax
def test_a_long_sequence_is_staged_in_segments(interpreted, monkeypatch):
    monkeypatch.setattr(mosaic_gpu, "STAGED_ALONE", 2)
    arrays = arguments(Case(b=1, l=70, d=128, n=4))
    loss = lambda x, name: (selective_scan(**x, implementation=name) ** 2).sum()
    got, want = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(arrays, n) for n in ("mosaic_gpu", "chunked"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-3), got, want)


@needs_new_jax
@pytest.mark.parametrize("own_delta", [True, False])
def test_four_directions_are_one_launch_each_way_with_the_other_implementations_numbers(own_delta, interpreted):
    program = check_directions("mosaic_gpu", (1, 3, 3, 128, 4), own_delta=own_delta)
    assert str(program).count("mpmd_map[") <= 2
    assert copies(program, 9, 9 * 128) == []


@needs_new_jax
def test_directions_over_channels_of_their_own_copy_none_of_them(interpreted):
    program = check_directions("mosaic_gpu", (1, 3, 3, 128, 4), own_delta=True, own_channels=True)
    assert str(program).count("mpmd_map[") <= 2
    assert copies(program, 9, 9 * 128) == []


@needs_new_jax
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(optional=("reset",)), "take no reset"),
        (Case(n=17), "at most 16 of them, not 17"),
        (Case(d=200, g=2), "a group has 100"),
    ],
    ids=str,
)
def test_what_the_kernels_can_not_do_is_refused_with_the_reason(case, reason):
    with pytest.raises(NotImplementedError, match=reason):
        selective_scan(**arguments(case), implementation="mosaic_gpu")


def traced(b, length):
    """The program for so many sequences, of which nothing is allocated."""
    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
    rows, states, rates = array((b, length, 128)), array((b, length, 16)), array((128, 16))
    return jax.make_jaxpr(functools.partial(selective_scan, implementation="mosaic_gpu"))(
        rows, rows, rates, states, states
    )


@needs_new_jax
def test_arrays_of_more_than_31_bits_are_refused_before_an_offset_wraps():
    traced(2**15 - 1, 512)
    with pytest.raises(NotImplementedError, match="an array would have 2147483648 elements"):
        traced(2**15, 512)


@needs_new_jax
def test_blocks_lie_along_the_one_axis_of_a_launch_that_holds_more_than_65535():
    assert "grid=(70000,)" in str(traced(70_000, 2))


@pytest.mark.skipif(compatibility.HAS_MOSAIC_GPU, reason="about older versions")
def test_an_older_jax_is_refused_with_the_version_that_is_needed():
    with pytest.raises(NotImplementedError, match=r"jax 0\.11 and newer"):
        selective_scan(**arguments(Case()), implementation="mosaic_gpu")


@needs_new_jax
def test_the_kernels_softplus_is_right_to_3e_6_of_itself_from_1e_7_up():
    from bdgf_kernels.selective_scan import exponentials, mosaic_gpu_plan

    softplus, x = types.SimpleNamespace(softplus=True), np.linspace(-16.0, 80.0, 100_001)
    got = exponentials.LN2 * mosaic_gpu_plan.step_size(softplus, jnp.asarray(x, jnp.float32), 0.0)
    np.testing.assert_allclose(got, np.logaddexp(0.0, x.astype(np.float32).astype(np.float64)), rtol=3e-6)


@needs_new_jax
def test_every_thread_adds_four_columns_up_over_half_its_warp():
    from bdgf_kernels.selective_scan import channel_sums as sums

    random = np.random.default_rng(0)
    terms = random.standard_normal((sums.WARPS, sums.WARP, sums.TURNS, sums.COLUMNS))
    memory = np.full(sums.WARPS * sums.WARP * sums.STRIDE, np.nan)
    memory[sums.written(*np.indices(terms.shape))] = terms
    halves = terms.reshape(sums.WARPS, 2, sums.ROWS, sums.TURNS, sums.COLUMNS).sum(2)
    for turn in range(sums.TURNS):
        warp, lane, place, row = np.indices((sums.WARPS, sums.WARP, 4, sums.ROWS))
        read = memory[sums.read(warp, lane, turn, row) + place]
        np.testing.assert_allclose(read.sum(3).ravel(), halves[:, :, turn].ravel(), rtol=1e-12)


@needs_new_jax
@pytest.mark.parametrize("access", ["written", "read"])
def test_eight_neighbouring_threads_meet_banks_of_their_own(access):
    from bdgf_kernels.selective_scan import channel_sums as sums

    for start in range(0, sums.WARP, 8):
        words = getattr(sums, access)(0, np.arange(start, start + 8)[:, None], 1, 12) + np.arange(4)
        assert (words[:, 0] % 4 == 0).all()
        assert len(set((words % 32).ravel())) == 32


@needs_new_jax
def test_step_sizes_of_zero_and_beyond_keep_and_forget_the_state_with_the_same_bits_every_time(interpreted):
    arrays = arguments(Case(b=1, l=3, d=128, n=4, optional=("initial_state",)))
    still = arrays | {"delta": jnp.zeros_like(arrays["delta"])}
    broken = arrays | {"delta": arrays["delta"].at[:, 1].set(1e4)}

    @jax.jit
    def step(arrays):
        def loss(arrays):
            y, state = selective_scan(**arrays, return_final_state=True, implementation="mosaic_gpu")
            return y.sum(), (y, state)

        return jax.value_and_grad(loss, has_aux=True)(arrays)

    (_, (_, state)), _ = step(still)
    np.testing.assert_array_equal(state, still["initial_state"])
    (_, (y, _)), gradients = first = step(broken)
    (_, (changed, _)), _ = step(broken | {"initial_state": broken["initial_state"] + 100.0})
    np.testing.assert_array_equal(changed[:, 1:], y[:, 1:])
    assert all(jnp.isfinite(g).all() for g in gradients.values())
    for _ in range(3):
        jax.tree.map(np.testing.assert_array_equal, step(broken), first)


@needs_new_jax
def test_vmap_and_devices_change_nothing(interpreted):
    check_vmap(Case(b=8, l=2, d=128, n=4), "mosaic_gpu")


@needs_new_jax
def test_the_default_for_a_gpu_is_this_kernel_even_where_there_is_none():
    arrays = arguments(Case(b=1, l=16, d=128, n=4))
    program = jax.jit(lambda: selective_scan(**arrays)).trace().lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in program
    assert "stablehlo.while" not in program


@needs_new_jax
def test_the_default_works_inside_shard_map_with_gradients_of_what_devices_share():
    check_shard_map(Case(b=8, l=16, d=128, n=4))

"""One suite for every implementation, against the float64 oracle: outputs, final state, every gradient."""

import contextlib
import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bdgf_kernels import compatibility, selective_scan
from bdgf_kernels.selective_scan import triton, tuning
from bdgf_kernels.selective_scan.choice import implementations
from scan_oracle import EVERYTHING, EVERYWHERE, INTERPRETED, LARGEST, SHORT, Case, arguments, check, truth

pytestmark = pytest.mark.slow

CASES = [
    Case.named("one"),
    Case.named("two_steps", optional=("D",)),
    Case.named("tiny"),
    Case.named("tiny", dtype="float16", optional=("initial_state",)),
    Case.named("ragged", g=3, reverse=True, optional=("reset", "D")),
    Case.named("patch_49", softplus=True, optional=("D", "delta_bias")),
    Case.named("patch_49", dtype="bfloat16", softplus=True, optional=EVERYTHING),
    Case.named("patch_121", softplus=True, optional=EVERYTHING),
    Case.named("patch_121", g=2, dtype="bfloat16", reverse=True, softplus=True, optional=("D", "z", "delta_bias")),
    Case.named("whole_chunks", reverse=True, optional=("z",)),
    Case.named("whole_chunks", reverse=True, softplus=True, optional=EVERYTHING),
    Case.named("patch_289", optional=("initial_state",)),
    Case.named("long", softplus=True, optional=("delta_bias",)),
    Case.named("wide", g=2, softplus=True, optional=EVERYTHING),
]
LAST_OF_EACH_SHAPE = list({(case.b, case.l, case.d, case.n): case for case in CASES}.values())
"""All shapes, types and options once more, for what takes long."""
SMALL = Case(l=11, d=6, n=4, softplus=True, optional=("D", "z", "delta_bias", "initial_state"))


@contextlib.contextmanager
def ready(name):
    """What has to hold for an implementation to run here: kernels are interpreted."""
    module = INTERPRETED.get(name)
    with module.interpreted(True) if module else contextlib.nullcontext(), tuning.trying(SHORT.get(name, {})):
        yield


@pytest.fixture(params=[*EVERYWHERE, "triton"])
def implementation(request):
    with ready(request.param):
        yield request.param


@pytest.fixture(params=[*EVERYWHERE, "triton", "mosaic_tpu"])
def any_implementation(request):
    """With the TPU kernels too, which take long to interpret; more of them is in `test_mosaic_tpu`."""
    with ready(request.param):
        yield request.param


@functools.partial(jax.jit, static_argnums=(1, 2))
def run(arrays, case, implementation):
    return selective_scan(
        **arrays,
        delta_softplus=case.softplus,
        reverse=case.reverse,
        return_final_state=True,
        implementation=implementation,
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_state_and_every_gradient_are_the_oracles(case, implementation):
    check(case, implementation)


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("case", LAST_OF_EACH_SHAPE, ids=str)
def test_kernels_are_the_oracles_under_interpreters_that_find_races(case, name):
    if name == "mosaic_gpu" and not compatibility.HAS_MOSAIC_GPU:
        pytest.skip("the kernels need jax 0.11 or newer")
    case = case.within(*LARGEST[name])
    with INTERPRETED[name].rehearsal(), tuning.trying(SHORT[name]):
        if name == "mosaic_gpu" and "reset" in case.optional:
            with pytest.raises(NotImplementedError, match="take no reset"):
                selective_scan(**arguments(case), implementation=name)
            case = dataclasses.replace(case, optional=tuple(x for x in case.optional if x != "reset"))
        check(case, name)


@hypothesis.settings(max_examples=4, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_any_shape_with_any_options_is_right(data):
    size = lambda most: data.draw(st.integers(1, most))
    g = size(3)
    case = Case(
        b=size(3), l=size(40), d=g * size(5), n=size(9), g=g,
        optional=tuple(name for name in EVERYTHING if data.draw(st.booleans())),
        softplus=data.draw(st.booleans()), reverse=data.draw(st.booleans()),
    )  # fmt: skip
    with triton.interpreted(True):
        for name in ("chunked", "triton"):
            check(case, name)


def test_the_oracles_gradients_are_those_of_its_outputs():
    case = Case(b=1, l=5, d=2, n=2, g=2, softplus=True, reverse=True, optional=EVERYTHING)
    arrays = arguments(case)
    random = np.random.default_rng(2)
    dy, dstate = random.standard_normal((1, 5, 2)), random.standard_normal((1, 2, 2))
    loss = lambda arrays: sum(
        (a * b).sum() for a, b in zip(truth(arrays, softplus=True, reverse=True)[:2], (dy, dstate))
    )
    gradients = truth(arrays, softplus=True, reverse=True, dy=dy, dstate=dstate).gradients
    for name, gradient in gradients.items():
        direction = random.standard_normal(gradient.shape).astype(np.float32)
        step = 2.0**-6
        ahead, behind = (arrays | {name: arrays[name] + jnp.asarray(s * direction)} for s in (step, -step))
        slope = (loss(ahead) - loss(behind)) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum(), rel=2e-3, abs=2e-3), name


def test_a_sequence_in_two_parts_with_the_state_passed_on_is_the_whole(any_implementation):
    case = Case(l=13, d=4, n=4, optional=("D", "delta_bias"), softplus=True)
    arrays = arguments(case)
    y, state = run(arrays, case, any_implementation)
    by_time = {"u", "delta", "B", "C"}
    part = lambda s: {k: v[:, s] if k in by_time else v for k, v in arrays.items()}
    first, middle = run(part(slice(0, 5)), case, any_implementation)
    second, last = run(part(slice(5, 13)) | {"initial_state": middle}, case, any_implementation)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), y, atol=1e-5)
    np.testing.assert_allclose(last, state, atol=1e-5)


def test_reverse_is_flip_scan_flip(implementation):
    case = Case(l=9, optional=("reset", "z"))
    arrays = arguments(case)
    flipped = {k: v if k == "A" else v[:, ::-1] for k, v in arrays.items()}
    y, state = selective_scan(**arrays, reverse=True, return_final_state=True, implementation=implementation)
    other, other_state = selective_scan(**flipped, return_final_state=True, implementation=implementation)
    np.testing.assert_allclose(y, other[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(state, other_state, atol=1e-6)


def test_outputs_are_linear_in_u(implementation):
    arrays = arguments(Case(optional=("D",)))
    scan = jax.jit(lambda u: selective_scan(**(arrays | {"u": u}), implementation=implementation))
    other = arrays["u"][:, ::-1]
    np.testing.assert_allclose(scan(2.0 * arrays["u"] - other), 2.0 * scan(arrays["u"]) - scan(other), atol=1e-5)


def test_a_step_size_of_zero_keeps_the_state(any_implementation):
    arrays = arguments(Case(optional=("initial_state",)))
    arrays["delta"] = jnp.zeros_like(arrays["delta"])
    _, state = selective_scan(**arrays, return_final_state=True, implementation=any_implementation)
    np.testing.assert_array_equal(state, arrays["initial_state"])


def test_a_huge_step_size_forgets_the_past_and_stays_finite(any_implementation):
    case = Case(optional=("initial_state",))
    arrays = arguments(case)
    arrays["delta"] = arrays["delta"].at[:, 3].set(1e4)

    def scan(initial_state, delta):
        given = arrays | {"initial_state": initial_state, "delta": delta}
        return selective_scan(**given, implementation=any_implementation)

    changed = scan(arrays["initial_state"] + 100.0, arrays["delta"])
    np.testing.assert_array_equal(changed[:, 3:], scan(arrays["initial_state"], arrays["delta"])[:, 3:])
    gradients = jax.grad(lambda *a: scan(*a).sum(), argnums=(0, 1))(arrays["initial_state"], arrays["delta"])
    assert all(jnp.isfinite(g).all() for g in gradients)


def test_packed_sequences_scan_as_if_they_were_apart(any_implementation):
    case = Case(l=10)
    arrays = arguments(case)
    packed = arrays | {"reset": jnp.zeros((2, 10), bool).at[:, 4].set(True)}
    y = selective_scan(**packed, implementation=any_implementation)
    part = {k: v if k == "A" else v[:, 4:] for k, v in arrays.items()}
    np.testing.assert_allclose(y[:, 4:], selective_scan(**part, implementation=any_implementation), atol=1e-6)


def test_vmap_adds_an_axis_and_changes_nothing(implementation):
    cases = [arguments(SMALL, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *cases)
    y, state = jax.vmap(lambda arrays: run(arrays, SMALL, implementation))(stacked)
    for i, arrays in enumerate(cases):
        want, want_state = run(arrays, SMALL, implementation)
        np.testing.assert_allclose(y[i], want, atol=1e-5)
        np.testing.assert_allclose(state[i], want_state, atol=1e-5)


def test_gradients_pass_through_vmap_over_the_batch_alone(implementation):
    arrays = arguments(SMALL)
    loss = lambda arrays: (run(arrays, SMALL, implementation)[0] ** 2).sum()
    shared = {k: v for k, v in arrays.items() if k in ("A", "D", "delta_bias")}
    each = {k: v for k, v in arrays.items() if k not in shared}
    one = lambda shared, row: loss(shared | jax.tree.map(lambda x: x[None], row))
    together = lambda shared: jax.vmap(one, in_axes=(None, 0))(shared, each).sum()
    got, want = jax.jit(jax.grad(together))(shared), jax.jit(jax.grad(lambda shared: loss(shared | each)))(shared)
    for name in shared:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-4)


def test_a_batch_over_eight_devices_is_the_batch_on_one(implementation):
    if implementation == "triton":
        pytest.skip("see test_triton")
    case = Case(b=8, l=6, softplus=True, optional=("D", "delta_bias"))
    arrays = arguments(case)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    batch, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    specs = {k: whole if k in ("A", "D", "delta_bias") else batch for k in arrays}
    one = lambda arrays: run(arrays, case, implementation)[0]
    spread = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(specs,), out_specs=batch))
    np.testing.assert_allclose(spread(arrays), one(arrays), atol=1e-6)


@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 3)])
def test_leading_axes_are_free(leading, implementation):
    arrays = arguments(Case(b=6, l=4))
    flat = selective_scan(**arrays, implementation=implementation)
    count = int(np.prod(leading))
    shaped = {k: v if k == "A" else v[:count].reshape(*leading, *v.shape[1:]) for k, v in arrays.items()}
    y = selective_scan(**shaped, implementation=implementation)
    np.testing.assert_allclose(y.reshape(-1, 4, 4), flat[:count], atol=1e-6)


@pytest.mark.parametrize("implementation", implementations())
def test_an_empty_batch_gives_an_empty_result_with_gradients(implementation):
    arrays = arguments(Case(b=0, optional=("initial_state",)))
    y, state = selective_scan(**arrays, return_final_state=True, implementation=implementation)
    assert y.shape == (0, 7, 4)
    assert state.shape == (0, 4, 4)
    loss = lambda A: selective_scan(**(arrays | {"A": A}), implementation=implementation).sum()
    gradient = jax.grad(loss)(arrays["A"])
    np.testing.assert_array_equal(gradient, 0.0)


def test_twenty_runs_give_the_same_bits(implementation):
    arrays = arguments(SMALL)
    step = jax.jit(jax.value_and_grad(lambda arrays: run(arrays, SMALL, implementation)[0].sum()))
    first = step(arrays)
    for _ in range(19):
        jax.tree.map(np.testing.assert_array_equal, step(arrays), first)


def test_outputs_have_the_type_of_u_and_states_are_float32(implementation):
    arrays = arguments(Case(dtype="bfloat16"))
    y, state = selective_scan(**arrays, return_final_state=True, implementation=implementation)
    assert y.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32


def test_the_state_keeps_what_bfloat16_would_lose(implementation):
    length = 600
    one = jnp.ones((1, length, 1), jnp.bfloat16)
    y = selective_scan(one, one, jnp.zeros((1, 1)), one, one, implementation=implementation)
    assert y[0, -1, 0] == 600.0

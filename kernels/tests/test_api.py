"""What a caller may and may not write, and which implementation is picked."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from bdgf_kernels import selective_scan, selective_scan_2d
from bdgf_kernels.selective_scan import choice
from bdgf_kernels.selective_scan.choice import IMPLEMENTATIONS
from scan_oracle import EVERYWHERE, Case, arguments


@pytest.fixture
def unchecked():
    """As users run it: without jaxtyping's checks, which would be first to object."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": jnp.zeros((2, 6, 4))}, r"delta must have the shape \(2, 7, 4\), that of u, got \(2, 6, 4\)"),
        ({"A": jnp.zeros((3, 4))}, r"A must have the shape \(4, 4\)"),
        ({"A": jnp.zeros(4)}, r"A must be \(d, n\)"),
        ({"B": jnp.zeros((2, 7, 5))}, r"B must be \(2, 7, 4\) or \(2, 7, g, 4\)"),
        ({"B": jnp.zeros((2, 7, 3, 4)), "C": jnp.zeros((2, 7, 3, 4))}, "multiple of the groups of B and C, got 3"),
        ({"B": jnp.zeros((2, 7, 2, 4))}, "same number of groups, got 2 and 1"),
        ({"initial_state": jnp.zeros((4, 4))}, r"initial_state must have the shape \(2, 4, 4\)"),
        ({"D": jnp.zeros(3)}, r"D must have the shape \(4,\)"),
        ({"u": jnp.zeros(4)}, r"u must be \(\.\.\., l, d\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        selective_scan(**(arguments(Case()) | change))


def test_integers_are_refused_with_the_remedy(unchecked):
    with pytest.raises(TypeError, match="u must be float32, bfloat16 or float16, got int32; cast it first"):
        selective_scan(**(arguments(Case()) | {"u": jnp.zeros((2, 7, 4), jnp.int32)}))


def test_an_unknown_implementation_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="'cuda' does not exist; there are reference, associative"):
        selective_scan(**arguments(Case()), implementation="cuda")


def test_a_refused_call_says_every_reason_and_another_name_is_tried(monkeypatch):
    for name, reason in {"associative": "too long", "chunked": "too wide"}.items():
        monkeypatch.setattr(IMPLEMENTATIONS[name], "supports", lambda *_, reason=reason: reason)
    arrays = arguments(Case())
    with pytest.raises(NotImplementedError, match="associative: too long chunked: too wide"):
        selective_scan(**arrays, implementation=("associative", "chunked"))
    y = selective_scan(**arrays, implementation=("chunked", "reference"))
    np.testing.assert_array_equal(y, selective_scan(**arrays, implementation="reference"))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_default_follows_the_platform_that_is_compiled_for(platform, monkeypatch):
    monkeypatch.setitem(choice.FASTEST_FIRST, platform, ("associative",))
    arrays = arguments(Case(l=16))
    program = lambda **how: jax.jit(lambda: selective_scan(**arrays, **how)).trace()
    here = lambda **how: program(**how).lower(lowering_platforms=("cpu",)).as_text()
    there = lambda **how: program(**how).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in here()
    assert "stablehlo.while" not in there()


def test_gradients_pass_through_a_choice_between_platforms(monkeypatch):
    monkeypatch.setitem(choice.FASTEST_FIRST, "cuda", ("associative",))
    arrays = arguments(Case())
    loss = lambda u, **how: jax.vmap(lambda u: selective_scan(**(arrays | {"u": u}), **how).sum())(u[None]).sum()
    got, want = (
        jax.jit(jax.grad(loss))(arrays["u"]),
        jax.grad(lambda u: loss(u, implementation="reference"))(arrays["u"]),
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("implementation", EVERYWHERE)
@pytest.mark.parametrize(("directions", "own_delta"), [(4, True), (4, False), (2, False), (1, True)])
def test_directions_over_a_grid_are_as_many_scans_added_up(implementation, directions, own_delta):
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
    b, height, width, d, n, k = 2, 3, 4, 4, 3, directions
    u, z, D, bias = normal(b, height, width, d), normal(b, height, width, d), normal(k, d), normal(k, d)
    delta = normal(b, height, width, *((k,) if own_delta else ()), d)
    A, B, C = -jnp.exp(normal(k, d, n)), normal(b, height, width, k, n), normal(b, height, width, k, n)
    reset = jnp.asarray(random.random((b, height, width)) < 0.2)

    def one_by_one(u, delta, A, B, C, D, bias, z):
        total = 0.0
        for i in range(k):
            flat = lambda x, i=i: (x.swapaxes(1, 2) if i >= 2 else x).reshape(b, height * width, *x.shape[3:])
            own = delta[..., i, :] if own_delta else delta
            y = selective_scan(
                flat(u), flat(own), A[i], flat(B[..., i, :]), flat(C[..., i, :]), D[i], None, bias[i],
                delta_softplus=True, reset=flat(reset), reverse=i % 2 == 1, implementation="reference",
            )  # fmt: skip
            y = y.reshape(b, width, height, d).swapaxes(1, 2) if i >= 2 else y.reshape(b, height, width, d)
            total = total + y
        return total * jax.nn.silu(z)

    def at_once(u, delta, A, B, C, D, bias, z):
        how = {"delta_softplus": True, "reset": reset, "implementation": implementation}
        return selective_scan_2d(u, delta, A, B, C, D, z, bias, **how)

    given = (u, delta, A, B, C, D, bias, z)
    loss = lambda scan: jax.jit(jax.value_and_grad(lambda *x: jnp.sin(scan(*x)).sum(), argnums=tuple(range(8))))
    got, want = loss(at_once)(*given), loss(one_by_one)(*given)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4), got[1], want[1])


@pytest.mark.parametrize("implementation", EVERYWHERE)
def test_directions_over_channels_of_their_own_are_scans_side_by_side(implementation):
    random = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
    grid, k, e, n = (2, 3, 4), 4, 3, 2
    u, z, delta = normal(*grid, k * e), normal(*grid, k * e), normal(*grid, k, e)
    B, C = normal(*grid, k, n), normal(*grid, k, n)
    given = u, delta, -jnp.exp(normal(k, e, n)), B, C, normal(k, e), z, normal(k, e)

    def one_by_one(u, delta, A, B, C, D, z, bias):
        scans = []
        for i in range(k):
            only = jnp.zeros((k, 1)).at[i].set(1.0)
            mine = slice(i * e, (i + 1) * e)
            shared = (x * only[None, None, None] for x in (B, C))
            A_i, bias_i = (jnp.broadcast_to(x[i], (k, *x.shape[1:])) for x in (A, bias))
            given = u[..., mine], delta[..., i, :], A_i, *shared, D * only, z[..., mine], bias_i
            scans.append(selective_scan_2d(*given, delta_softplus=True, implementation="reference"))
        return jnp.concatenate(scans, axis=-1)

    at_once = lambda *x: selective_scan_2d(*x, delta_softplus=True, implementation=implementation)
    loss = lambda scan: jax.jit(jax.value_and_grad(lambda *x: jnp.sin(scan(*x)).sum(), argnums=tuple(range(8))))
    got, want = loss(at_once)(*given), loss(one_by_one)(*given)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4), got[1], want[1])


def test_channels_of_their_own_are_a_share_with_steps_of_their_own(unchecked):
    zeros = jnp.zeros
    states = zeros((2, 2, 4, 1))
    with pytest.raises(ValueError, match=r"A must be of the 8 channels of u, or of 8 / 4 a direction, got \(4, 3, 1\)"):
        selective_scan_2d(zeros((2, 2, 8)), zeros((2, 2, 8)), zeros((4, 3, 1)), states, states)
    with pytest.raises(ValueError, match=r"delta must have the shape \(2, 2, 4, 2\), \(\.\.\., h, w, k, d / k\)"):
        selective_scan_2d(zeros((2, 2, 8)), zeros((2, 2, 8)), zeros((4, 2, 1)), states, states)


def test_directions_other_than_one_two_or_four_are_refused(unchecked):
    zeros = jnp.zeros
    with pytest.raises(ValueError, match="k = 1, 2 or 4 directions"):
        selective_scan_2d(
            zeros((2, 2, 3)), zeros((2, 2, 3)), zeros((3, 3, 1)), zeros((2, 2, 3, 1)), zeros((2, 2, 3, 1))
        )

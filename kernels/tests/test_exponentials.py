"""Powers of 2 and softplus by polynomials: their errors, their extremes, their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
from bdgf_kernels.selective_scan.exponentials import power_of_2, softplus


def test_every_normal_power_is_within_3e_7_of_itself():
    x = np.linspace(-126.0, 127.99, 1_000_001).astype(np.float32)
    got = np.asarray(jax.jit(power_of_2)(x), np.float64)
    assert np.abs(got / np.exp2(x.astype(np.float64)) - 1.0).max() < 3e-7


def test_beyond_the_range_are_zero_infinity_and_no_number():
    x = jnp.asarray([-jnp.inf, -1e30, -127.0, 128.0, 1e30, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(jax.jit(power_of_2)(x), [0.0, 0.0, 0.0, jnp.inf, jnp.inf, jnp.inf, jnp.nan])
    assert 0.0 <= float(power_of_2(jnp.float32(-126.6))) <= 2.0**-126


def test_derivatives_of_every_order_are_the_powers_own():
    first, second = jax.grad(power_of_2), jax.grad(jax.grad(power_of_2))
    np.testing.assert_allclose(first(jnp.float32(1.5)), np.log(2.0) * 2.0**1.5, rtol=1e-6)
    np.testing.assert_allclose(second(jnp.float32(1.5)), np.log(2.0) ** 2 * 2.0**1.5, rtol=1e-6)


def test_softplus_is_as_near_to_itself_as_it_says():
    x = np.linspace(-87.0, 100.0, 1_000_001).astype(np.float32)
    got = np.asarray(jax.jit(softplus)(x), np.float64)
    error = np.abs(got / np.logaddexp(0.0, x.astype(np.float64)) - 1.0)
    assert (error < 3e-7 + 8e-8 * np.maximum(-x, 0.0)).all()


def test_softplus_at_the_ends_of_the_line():
    x = jnp.asarray([-jnp.inf, -1e30, 1e30, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(jax.jit(softplus)(x), np.float32([0.0, 0.0, 1e30, np.inf, np.nan]))
    slope = jax.vmap(jax.grad(softplus))(jnp.asarray([-jnp.inf, -1e30, 0.0, 1e30, jnp.inf]))
    np.testing.assert_array_equal(slope, [0.0, 0.0, 0.5, 1.0, 1.0])


def test_derivatives_of_softplus_are_those_of_the_logistic_function():
    x = np.linspace(-20.0, 20.0, 4001).astype(np.float32)
    logistic = 1.0 / (1.0 + np.exp(-x.astype(np.float64)))
    first, second = jax.vmap(jax.grad(softplus)), jax.vmap(jax.grad(jax.grad(softplus)))
    np.testing.assert_allclose(first(x), logistic, rtol=2e-6)
    np.testing.assert_allclose(second(x), logistic * (1.0 - logistic), rtol=1e-5)

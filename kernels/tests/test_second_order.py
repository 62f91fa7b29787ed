"""Gradients of gradients, which a Hessian-vector product through a whole model needs of the scan inside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bdgf_kernels import selective_scan
from bdgf_kernels.selective_scan import triton

LENGTH, CHANNELS, STATES = 5, 16, 2


def arrays(seed):
    shapes = {
        "u": (1, LENGTH, CHANNELS),
        "delta": (1, LENGTH, CHANNELS),
        "A": (CHANNELS, STATES),
        "B": (1, LENGTH, STATES),
        "C": (1, LENGTH, STATES),
        "D": (CHANNELS,),
    }
    drawn = {
        name: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return drawn | {"A": -jnp.exp(drawn["A"])}


OPERANDS, DIRECTION = arrays(0), arrays(1)


def gradient(implementation):
    loss = lambda x: jnp.sin(selective_scan(**x, delta_softplus=True, implementation=implementation)).sum()
    return jax.grad(loss)


def product(implementation):
    """H v, by differentiating the gradient's inner product with v."""
    along = lambda x: sum(jnp.vdot(x, v) for x, v in zip(jax.tree.leaves(x), jax.tree.leaves(DIRECTION), strict=True))
    return jax.jit(jax.grad(lambda x: along(gradient(implementation)(x))))(OPERANDS)


@pytest.fixture(scope="module")
def forward_over_reverse():
    """H v as JAX derives it of plain operations: the truth here."""
    return jax.jit(lambda x, v: jax.jvp(gradient("associative"), (x,), (v,))[1])(OPERANDS, DIRECTION)


@pytest.mark.parametrize("implementation", ["associative", "chunked", "triton"])
def test_a_gradient_can_be_differentiated_again(implementation, forward_over_reverse):
    with triton.interpreted(True):
        found = product(implementation)
    for name, expected in forward_over_reverse.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-5 * jnp.abs(expected).max(), err_msg=name)


def test_the_default_can_be_differentiated_again_though_other_platforms_would_run_kernels(forward_over_reverse):
    found = product(None)
    for name, expected in forward_over_reverse.items():
        np.testing.assert_allclose(found[name], expected, rtol=2e-4, atol=2e-5 * jnp.abs(expected).max(), err_msg=name)

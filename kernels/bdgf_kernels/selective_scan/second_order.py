"""Gradients of a kernel's gradients: a Pallas kernel has no derivative of its own, so the plain scan lends its."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Bool

from bdgf_kernels.selective_scan import associative
from bdgf_kernels.selective_scan.call import Operands, Options, Outputs

Scan = Callable[[Operands, Options], Outputs]


def differentiable_twice(scan: Scan) -> Scan:
    """A scan that runs as the given one, forward and backward, and whose backward pass can be differentiated in turn.

    Derivatives of the gradient are those of the associative scan's gradient: the same function, whose operations JAX
    can differentiate as often as it likes, in time and memory that a Hessian-vector product can afford.

    Args:
      scan: from operands and options to outputs, with a gradient of its own (`jax.custom_vjp`).
    """

    def run(operands: Operands, options: Options) -> Outputs:
        @jax.custom_vjp
        def forward(operands: Operands, reset: Bool[Array, "b l"] | None) -> Outputs:
            return scan(operands._replace(reset=reset), options)

        def forward_rule(operands, reset):
            outputs, kept = keeping(operands, reset)
            return outputs, (kept, operands, reset)

        def backward(residuals, cotangents):
            return gradient(*residuals, cotangents), None

        structures = []  # of the pullback; every trace of the same scan has the same one

        # The forward rule is differentiated too, whenever a gradient is; what it keeps has no derivative to give.
        @jax.custom_vjp
        def keeping(operands, reset):
            outputs, pullback = jax.vjp(lambda operands: scan(operands._replace(reset=reset), options), operands)
            kept, structure = jax.tree.flatten(pullback)
            structures.append(structure)
            return outputs, kept

        def keeping_rule(operands, reset):
            outputs, kept = keeping(operands, reset)
            return (outputs, kept), (kept, operands, reset)

        def keeping_backward(residuals, cotangents):
            return backward(residuals, cotangents[0])

        @jax.custom_vjp
        def gradient(kept, operands, reset, cotangents):
            return jax.tree.unflatten(structures[0], kept)(cotangents)[0]

        def gradient_rule(kept, operands, reset, cotangents):
            return gradient(kept, operands, reset, cotangents), (operands, reset, cotangents)

        def gradient_backward(residuals, cotangents_of_gradient):
            operands, reset, cotangents = residuals

            def plain_gradient(operands, cotangents):
                plain = lambda operands: associative.scan(operands._replace(reset=reset), options)
                return jax.vjp(plain, operands)[1](cotangents)[0]

            _, pullback = jax.vjp(plain_gradient, operands, cotangents)
            of_operands, of_cotangents = pullback(cotangents_of_gradient)
            return None, of_operands, None, of_cotangents

        forward.defvjp(forward_rule, backward)
        keeping.defvjp(keeping_rule, keeping_backward)
        gradient.defvjp(gradient_rule, gradient_backward)
        return forward(operands._replace(reset=None), operands.reset)

    return run

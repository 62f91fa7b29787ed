"""The two public functions: arguments are checked and brought to one form here, once, for every implementation."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from bdgf_kernels.compatibility import vary_alike
from bdgf_kernels.selective_scan import choice
from bdgf_kernels.selective_scan.call import Operands, Options, Order, Outputs

RASTER_AND_COLUMN = (False, False), (True, False), (False, True), (True, True)


def selective_scan(
    u: Float[Array, "*b l d"],
    delta: Float[Array, "*b l d"],
    A: Float[Array, "d n"],
    B: Float[Array, "*b l n"] | Float[Array, "*b l g n"],
    C: Float[Array, "*b l n"] | Float[Array, "*b l g n"],
    D: Float[Array, " d"] | None = None,
    z: Float[Array, "*b l d"] | None = None,
    delta_bias: Float[Array, " d"] | None = None,
    *,
    delta_softplus: bool = False,
    initial_state: Float[Array, "*b d n"] | None = None,
    reset: Bool[Array, "*b l"] | None = None,
    reverse: bool = False,
    return_final_state: bool = False,
    implementation: str | Sequence[str] | None = None,
) -> Float[Array, "*b l d"] | tuple[Float[Array, "*b l d"], Float32[Array, "*b d n"]]:
    """Runs Mamba's selective scan over the axis l.

    With the step size Δ = delta + delta_bias, through a softplus where asked, for every channel d and state n

        h[l] = exp(Δ[l, d] A[d, n]) h[l-1] + Δ[l, d] B[l, n] u[l, d],
        y[l, d] = Σ_n C[l, n] h[l, n] + D[d] u[l, d],    and y silu(z) where z is given.

    States are float32 whatever the inputs are; the output has the type of `u`. Everything is differentiable, the
    initial and the final state too. Gu and Dao, 2023, arXiv 2312.00752, equations 2 and 3 with B by Euler's rule.

    Args:
      u: the inputs.
      delta: step sizes before bias and softplus.
      A: decay rates, negative for a stable system.
      B: how inputs enter the state; with a group axis, channel c belongs to group c // (d / g).
      C: how states leave it; as B.
      D: the skip from input to output.
      z: the gate's argument.
      delta_bias: added to delta.
      delta_softplus: whether delta (with its bias) passes through a softplus.
      initial_state: the state before the first step; zeros by default.
      reset: where true, the carried state is zeroed before the step: packed sequences start there.
      reverse: run from the last step to the first; the final state is then the one at l = 0.
      return_final_state: return (y, state after the last step).
      implementation: a name such as "reference", or several in order of preference; by default the fastest that
        serves the call on the platform that it is compiled for.

    Raises:
      ValueError: an argument's shape does not fit the others'.
      TypeError: an argument is not a floating-point array of 16 or 32 bits.
      NotImplementedError: no implementation that was named serves the call; it says why, for each.
    """
    check_rank("u", u, at_least=2, axes="(..., l, d)")
    check_rank("A", A, exactly=2, axes="(d, n)")
    *batch, length, d = u.shape
    n = A.shape[1]
    B, C = with_groups("B", B, (*batch, length), n), with_groups("C", C, (*batch, length), n)
    g = check_groups(B, C, d)
    check_shape("delta", delta, (*batch, length, d), "that of u")
    check_shape("A", A, (d, n), "(d, n)")
    check_shape("D", D, (d,), "(d,)")
    check_shape("z", z, (*batch, length, d), "that of u")
    check_shape("delta_bias", delta_bias, (d,), "(d,)")
    check_shape("initial_state", initial_state, (*batch, d, n), "(..., d, n)")
    check_shape("reset", reset, (*batch, length), "(..., l)")
    check_types(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    check_reset(reset)

    b = math.prod(batch)
    operands = Operands(
        u=u.reshape(b, length, d),
        delta=delta.reshape(b, length, 1, d),
        A=A.astype(jnp.float32)[None],
        B=B.reshape(b, length, 1, g, n),
        C=C.reshape(b, length, 1, g, n),
        D=None if D is None else D.astype(jnp.float32)[None],
        z=None if z is None else z.reshape(b, length, d),
        delta_bias=None if delta_bias is None else delta_bias.astype(jnp.float32)[None],
        initial_state=None if initial_state is None else initial_state.astype(jnp.float32).reshape(b, 1, d, n),
        reset=None if reset is None else reset.reshape(b, length),
    )
    options = Options((Order(reverse),), delta_softplus, return_final_state)
    y, state = run(operands, options, implementation)
    y = y.reshape(*batch, length, d)
    return y if state is None else (y, state.reshape(*batch, d, n))


def selective_scan_2d(
    u: Float[Array, "*b h w d"],
    delta: Float[Array, "*b h w d"] | Float[Array, "*b h w k e"],
    A: Float[Array, "k e n"],
    B: Float[Array, "*b h w k n"] | Float[Array, "*b h w k g n"],
    C: Float[Array, "*b h w k n"] | Float[Array, "*b h w k g n"],
    D: Float[Array, "k e"] | None = None,
    z: Float[Array, "*b h w d"] | None = None,
    delta_bias: Float[Array, "k e"] | None = None,
    *,
    delta_softplus: bool = False,
    reset: Bool[Array, "*b h w"] | None = None,
    implementation: str | Sequence[str] | None = None,
) -> Float[Array, "*b h w d"]:
    """Scans a grid of tokens in several directions in one call.

    Direction 0 walks the rows (raster), 1 the same backwards, 2 walks down the columns, 3 the same backwards; k is 1,
    2 or 4, the first so many of them. Each direction has parameters of its own, A[k], B[.., k], C[.., k], D[k] and
    delta_bias[k]. Where these are of e = d channels, every direction scans all channels, with its own step size
    delta[.., k, :] or, when delta has no such axis, with one that all share, and the directions are added up: the
    cross-scan of VMamba, Liu et al., 2024, arXiv 2401.10166. Where e = d / k, direction k scans the channels k e to
    (k + 1) e - 1 of u alone, with delta[.., k, :], and its result takes their place: the grouped scan of GroupMamba,
    Shaker et al., 2024, arXiv 2407.13772. Either way y_k is as in `selective_scan`, put back in the grid's order, and
    all is gated by silu(z) where z is given. `reset`, `implementation` and errors: as in `selective_scan`.
    """
    check_rank("u", u, at_least=3, axes="(..., h, w, d)")
    check_rank("A", A, exactly=3, axes="(k, d, n) or (k, d / k, n)")
    *batch, height, width, d = u.shape
    k, e, n = A.shape
    if k not in (1, 2, 4):
        raise ValueError(
            f"A must be (k, d, n) for k = 1, 2 or 4 directions (raster, reverse, column, reverse column), got k = {k}."
        )
    grid = (*batch, height, width)
    B, C = with_groups("B", B, (*grid, k), n), with_groups("C", C, (*grid, k), n)
    if e not in (d, d / k):
        raise ValueError(f"A must be of the {d} channels of u, or of {d} / {k} a direction, got {A.shape}.")
    g = check_groups(B, C, e)
    if delta.ndim == u.ndim and e == d:
        delta = delta[..., None, :]
    kd = delta.shape[-2] if delta.ndim > u.ndim and e == d else k
    wanted = "that of u, or (..., h, w, k, d)" if e == d else "(..., h, w, k, d / k)"
    check_shape("delta", delta, (*grid, k if kd != 1 else 1, e), wanted)
    check_shape("D", D, (k, e), "that of A without n")
    check_shape("z", z, (*grid, d), "that of u")
    check_shape("delta_bias", delta_bias, (k, e), "that of A without n")
    check_shape("reset", reset, grid, "(..., h, w)")
    check_types(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    check_reset(reset)

    b, length = math.prod(batch), height * width
    operands = Operands(
        u=u.reshape(b, length, d),
        delta=delta.reshape(b, length, kd, e),
        A=A.astype(jnp.float32),
        B=B.reshape(b, length, k, g, n),
        C=C.reshape(b, length, k, g, n),
        D=None if D is None else D.astype(jnp.float32),
        z=None if z is None else z.reshape(b, length, d),
        delta_bias=None if delta_bias is None else delta_bias.astype(jnp.float32),
        reset=None if reset is None else reset.reshape(b, length),
    )
    orders = tuple(Order(reverse, (height, width) if column else None) for reverse, column in RASTER_AND_COLUMN[:k])
    y, _ = run(operands, Options(orders, delta_softplus), implementation)
    return y.reshape(u.shape)


def run(operands: Operands, options: Options, implementation: str | Sequence[str] | None) -> Outputs:
    """Hands a canonical call to an implementation; a call without elements needs none."""
    if operands.u.size:
        return choice.scan(vary_alike(operands), options, implementation)
    b = operands.u.shape[0]
    state = operands.initial_state
    if state is None:
        state = jnp.zeros((b, *operands.A.shape), jnp.float32)
    return jnp.zeros_like(operands.u), state if options.final_state else None


def with_groups(name: str, x: Array, leading: tuple[int, ...], n: int) -> Array:
    """Gives B or C its group axis where it has none: (..., n) becomes (..., 1, n)."""
    if x.ndim == len(leading) + 1:
        x = x[..., None, :]
    if x.ndim != len(leading) + 2 or x.shape[:-2] != leading or x.shape[-1] != n:
        wanted = ", ".join(map(str, leading))
        raise ValueError(f"{name} must be ({wanted}, {n}) or ({wanted}, g, {n}) to fit u and A, got {x.shape}.")
    return x


def check_groups(B: Array, C: Array, d: int) -> int:
    """Returns the number of groups, the same in B and C and a divisor of the channels."""
    g = B.shape[-2]
    if C.shape[-2] != g:
        raise ValueError(f"B and C must have the same number of groups, got {g} and {C.shape[-2]}.")
    if g == 0 or d % g:
        raise ValueError(f"The {d} channels of u must be a multiple of the groups of B and C, got {g} groups.")
    return g


def check_rank(name: str, x: Array, *, axes: str, exactly: int | None = None, at_least: int = 0) -> None:
    """Raises ValueError where `x` has too few axes, or not exactly as many as wanted."""
    if x.ndim < at_least or (exactly is not None and x.ndim != exactly):
        raise ValueError(f"{name} must be {axes}, got an array of shape {x.shape}.")


def check_shape(name: str, x: Array | None, wanted: tuple[int, ...], meaning: str) -> None:
    """Raises ValueError where an array that is there has another shape than wanted."""
    if x is not None and x.shape != wanted:
        raise ValueError(f"{name} must have the shape {wanted}, {meaning}, got {x.shape}.")


def check_types(**arrays: Array | None) -> None:
    """Raises TypeError for anything but real floating-point numbers of 16 or 32 bits."""
    for name, x in arrays.items():
        if x is not None and x.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
            raise TypeError(f"{name} must be float32, bfloat16 or float16, got {x.dtype}; cast it first.")


def check_reset(reset: Array | None) -> None:
    """Raises TypeError where `reset` is not boolean."""
    if reset is not None and reset.dtype != jnp.bool_:
        raise TypeError(f"reset must be boolean, got {reset.dtype}.")

"""The canonical form of a call: what `api` hands to every implementation, so that none has to validate again."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def divided(number: Any, by: int) -> tuple[Any, Any]:
    """Quotient and remainder of what is not negative; traced, one instruction each, which kernels everywhere have."""
    if by == 1:
        return number, 0
    if not isinstance(number, jax.Array):
        return divmod(number, by)
    divisor = number.dtype.type(by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


@dataclasses.dataclass(frozen=True)
class Order:
    """The sequence in which a scan visits the L rows of its inputs.

    Args:
      reverse: start at the last row.
      grid: (height, width) of the grid that the rows tile; given, the scan walks down its columns,
        not along its rows.
    """

    reverse: bool = False
    grid: tuple[int, int] | None = None

    def row(self, step: Any, length: int) -> Any:
        """Returns the row visited at `step`: integers, NumPy arrays and traced indices alike."""
        if self.reverse:
            step = length - 1 - step
        if self.grid is None:
            return step
        height, width = self.grid
        column, within = divided(step, height)
        return within * width + column

    def arrange(self, x: Shaped[Array, "l ..."]) -> Shaped[Array, "l ..."]:
        """Brings rows into the sequence of visits."""
        if self.grid is not None:
            x = x.reshape(*self.grid, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
        return x[::-1] if self.reverse else x

    def restore(self, x: Shaped[Array, "l ..."]) -> Shaped[Array, "l ..."]:
        """Brings what was computed in the sequence of visits back to the rows' own: the inverse of `arrange`."""
        x = x[::-1] if self.reverse else x
        if self.grid is not None:
            x = x.reshape(*self.grid[::-1], *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
        return x


def row_of(orders: tuple[Order, ...], direction: Any, step: Any, length: int) -> Any:
    """Returns the row that one of several scans visits at a step; which scan it is may be traced."""
    row = orders[0].row(step, length)
    for i, order in enumerate(orders[1:], start=1):
        row = jnp.where(direction == i, order.row(step, length), row)
    return row


class Operands(NamedTuple):
    """The arrays of a call with k scans (directions) over the same b sequences of L rows.

    Each scan walks d channels: all of them the same (c = d), or each its own, those of a row side by side (c = k d).
    `delta` may have one entry for all scans (k' = 1) or one each (k' = k), which scans with channels of their own have.
    Of a scan's channels, number i belongs to group i // (d / g).
    `A`, `D`, `delta_bias` and `initial_state` are float32, the others float32 or one of the half-precision types.
    """

    u: Float[Array, "b l c"]
    delta: Float[Array, "b l kd d"]
    A: Float[Array, "k d n"]
    B: Float[Array, "b l k g n"]
    C: Float[Array, "b l k g n"]
    D: Float[Array, "k d"] | None = None
    z: Float[Array, "b l c"] | None = None
    delta_bias: Float[Array, "k d"] | None = None
    initial_state: Float[Array, "b k d n"] | None = None
    reset: Bool[Array, "b l"] | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """What of a call is known while tracing.

    Args:
      orders: the order of each of the k scans.
      delta_softplus: whether the step size is softplus(delta + delta_bias).
      final_state: whether the caller wants the state after the last step; an implementation returns None otherwise.
    """

    orders: tuple[Order, ...] = (Order(),)
    delta_softplus: bool = False
    final_state: bool = False


class Sizes(NamedTuple):
    """Lengths of a call's axes: batch, rows, channels of a scan, scans, groups, states."""

    b: int
    l: int  # noqa: E741 -- the field's name for the axis
    d: int
    k: int
    g: int
    n: int


def sizes(operands: Operands) -> Sizes:
    """Reads the axes' lengths off the arrays."""
    b, length, _ = operands.u.shape
    _, d, _ = operands.A.shape
    k, g, n = operands.B.shape[2:]
    return Sizes(b, length, d, k, g, n)


def own_channels(operands: Operands) -> bool:
    """Whether each of several scans walks channels of its own."""
    return operands.u.shape[2] != operands.A.shape[1]


def by_scan(operands: Operands) -> Float[Array, "b l ku d"]:
    """The inputs in float32, one entry for all scans or one each."""
    b, length, _ = operands.u.shape
    return operands.u.astype(jnp.float32).reshape(b, length, -1, operands.A.shape[1])


def apart(x: Shaped[Array, "..."], axis: int) -> list[Shaped[Array, "..."]]:
    """The entries along an axis, each by itself.

    By `jnp.split`, whose gradient is one concatenation; that of indexing is a padded copy for each, all added up.
    """
    return [part.squeeze(axis) for part in jnp.split(x, x.shape[axis], axis)]


Outputs = tuple[Float[Array, "b l c"], Float[Array, "b k d n"] | None]


def in_orders(x: Shaped[Array, "b l kx *rest"], options: Options) -> list[Shaped[Array, "b l *rest"]]:
    """The rows of each scan in its own order; an array with one entry for all scans is repeated."""
    entries = apart(x, 2)
    return [jax.vmap(order.arrange)(entries[min(i, len(entries) - 1)]) for i, order in enumerate(options.orders)]


def by_step(x: Shaped[Array, "b l kx *rest"], options: Options) -> Shaped[Array, "l k b *rest"]:
    """Puts steps first, in each scan's own order."""
    return jnp.stack([jnp.moveaxis(rows, 0, 1) for rows in in_orders(x, options)], axis=1)


def by_row(y: Float[Array, "l k b d"], operands: Operands, options: Options) -> Float[Array, "b l c"]:
    """Adds the scans up, or lays their own channels side by side, each put back into the order of the rows."""
    each = [order.restore(rows) for rows, order in zip(apart(y, 1), options.orders)]
    together = jnp.concatenate(each, axis=-1) if own_channels(operands) else jnp.asarray(sum(each))
    return jnp.moveaxis(together, 0, 1)

"""Selective scans of a grid of tokens by rows and by columns, forwards and backwards."""

import math

import jax
import jax.numpy as jnp
from bdgf_kernels import selective_scan_2d
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from bdgf_jax.errors import InputError

DIRECTIONS = 4
SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1


class ScanParameters(nnx.Module):
    """The parameters of four selective scans, one a direction.

    Each has its projection from its inputs to the step Δ (through a bottleneck), to B and to C, its decay A and its
    skip D. A = -(1 … n) at the start (S4D-real, arXiv 2206.11893), and softplus of the step's bias is log-uniform in
    0.001 … 0.1, both as in Mamba, arXiv 2312.00752. A, D, the bias and the state are float32 whatever the inputs are.

    Args:
      width: channels that one direction scans.
      state: n, states a channel.
    """

    def __init__(self, width: int, *, state: int, rngs: nnx.Rngs):
        self.state = state
        self.rank = -(-width // 16)
        uniform = lambda shape, bound: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        decays = jnp.arange(1.0, state + 1.0)
        self.project = nnx.Param(uniform((DIRECTIONS, width, self.rank + 2 * state), width**-0.5))
        self.step = nnx.Param(uniform((DIRECTIONS, self.rank, width), self.rank**-0.5))
        self.step_bias = nnx.Param(step_bias(rngs.params(), (DIRECTIONS, width)))
        self.A_log = nnx.Param(jnp.broadcast_to(jnp.log(decays), (DIRECTIONS, width, state)))
        self.D = nnx.Param(jnp.ones((DIRECTIONS, width)))

    @property
    def A(self) -> Float[Array, "4 w n"]:
        """Decay rates, negative whatever the parameter."""
        return -jnp.exp(self.A_log[...])

    def step_B_C(
        self, projected: Float[Array, "*b 4 e"]
    ) -> tuple[Float[Array, "*b 4 w"], Float[Array, "*b 4 n"], Float[Array, "*b 4 n"]]:
        """Step before its bias and softplus, B and C, from each direction's projected inputs."""
        step, B, C = jnp.split(projected, [self.rank, self.rank + self.state], axis=-1)
        return jnp.einsum("...kr,krw->...kw", step, self.step[...].astype(step.dtype)), B, C


class CrossScan(ScanParameters):
    """Every direction scans all channels; the four results are summed [kin: MSFMamba, arXiv 2408.14255].

    Args:
      features: channels d.
      state: n, states a channel.
    """

    def __call__(self, grid: Float[Array, "b p p d"]) -> Float[Array, "b p p d"]:
        """The sum over the directions."""
        step, B, C = self.step_B_C(jnp.einsum("...w,kwe->...ke", grid, self.project[...].astype(grid.dtype)))
        return scanned(grid, step, self.A, B, C, self.D[...], self.step_bias[...])


class GroupedScan(ScanParameters):
    """Each direction scans its own quarter of the channels, at a quarter of the cost.

    [kin: GroupMamba, arXiv 2407.13772]; the layers around it mix the quarters.

    Args:
      features: channels d, a multiple of 4.
      state: n, states a channel.

    Raises:
      InputError: if four does not divide the channels.
    """

    def __init__(self, features: int, *, state: int, rngs: nnx.Rngs):
        if features % DIRECTIONS:
            raise InputError(
                "classifier.width * classifier.expansion must be a multiple of 4 for classifier.directions = grouped,"
                f" got {features}; the nearest is {max(1, round(features / 4)) * 4}."
            )
        super().__init__(features // DIRECTIONS, state=state, rngs=rngs)

    def __call__(self, grid: Float[Array, "b p p d"]) -> Float[Array, "b p p d"]:
        """The four quarters side by side, each scanned its own way."""
        quarters = grid.reshape(*grid.shape[:3], DIRECTIONS, -1)
        step, B, C = self.step_B_C(jnp.einsum("...kw,kwe->...ke", quarters, self.project[...].astype(grid.dtype)))
        return scanned(grid, step, self.A, B, C, self.D[...], self.step_bias[...])


def scanned(
    grid: Float[Array, "b p p d"],
    step: Float[Array, "b p p 4 w"],
    A: Float[Array, "4 w n"],
    B: Float[Array, "b p p 4 n"],
    C: Float[Array, "b p p 4 n"],
    D: Float[Array, "4 w"],
    step_bias: Float[Array, "4 w"],
) -> Float[Array, "b p p d"]:
    """The selective scans of a grid, by every device of a mesh for its own samples.

    XLA shares out what it knows, and refuses to share out a kernel; so the batch is cut here, along the axis `data` of
    the mesh that the step is traced for.
    """
    given = grid, step, A, B, C, D, step_bias
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size == 1 or "data" not in mesh.axis_names or "data" in mesh.manual_axes:
        return scan_grid(*given)
    sample, whole = PartitionSpec("data"), PartitionSpec()
    specs = sample, sample, whole, sample, sample, whole, whole
    return jax.shard_map(scan_grid, mesh=mesh, in_specs=specs, out_specs=sample)(*given)


@jax.jit
def scan_grid(grid: Array, step: Array, A: Array, B: Array, C: Array, D: Array, step_bias: Array) -> Array:
    """The scans that `scanned` is of; jitted so that all stages of a classifier share one trace of them."""
    return selective_scan_2d(grid, step, A, B, C, D, delta_bias=step_bias, delta_softplus=True)


def step_bias(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Biases whose softplus is log-uniform between the shortest and the longest step."""
    low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
    step = jnp.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
    return step + jnp.log(-jnp.expm1(-step))

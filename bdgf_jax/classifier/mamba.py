"""The stages of the Mamba branch: gated selective scans over the patch in four directions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.branch import Stage
from bdgf_jax.classifier.directional_scan import CrossScan, GroupedScan
from bdgf_jax.errors import InputError

SCANS = {"four": CrossScan, "grouped": GroupedScan}
CONVOLUTIONS = {"causal": ((0, 0), (0, -1), (0, -2)), "square": tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))}


class MambaStage(Stage):
    """A gated selective scan with a residual, then guidance.

        u, z = W_in LN F,    F <- F + W_out (LN(Σ_directions scan(silu(conv u))) * silu(z)).

    [kin] the block of Mamba, arXiv 2312.00752; the four directions, their sum, the normalisation and the gate after it
    as in MSFMamba, arXiv 2408.14255.

    Args:
      features: width d of the branch.
      expansion: width of the scanned channels over d.
      state: n, states a channel.
      directions: `four`, each over all channels, or `grouped`, each over a quarter.
      convolution: `causal` or `square`, see DepthwiseConvolution.
      dtype: of the matrix products and of what is scanned; the scan's state is float32.

    Raises:
      InputError: if the directions or the convolution are unknown.
    """

    def __init__(
        self,
        features: int,
        *,
        expansion: float,
        state: int,
        directions: str,
        convolution: str,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if directions not in SCANS:
            raise InputError(f"classifier.directions is '{directions}'; expected one of {', '.join(SCANS)}.")
        inner = round(features * expansion)
        self.norm = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.expand = nnx.Linear(features, 2 * inner, dtype=dtype, rngs=rngs)
        self.convolve = DepthwiseConvolution(inner, kind=convolution, rngs=rngs)
        self.scan = SCANS[directions](inner, state=state, rngs=rngs)
        self.norm_scanned = nnx.LayerNorm(inner, dtype=jnp.float32, rngs=rngs)
        self.contract = nnx.Linear(inner, features, dtype=dtype, rngs=rngs)

    def __call__(self, grid: Float[Array, "b p p d"], guide: Callable[[Array], Array]) -> Float[Array, "b p p d"]:
        """The grid after scan and guidance."""
        inputs, gate = jnp.split(self.expand(self.norm(grid)), 2, axis=-1)
        scanned = self.norm_scanned(self.scan(nnx.silu(self.convolve(inputs))))
        return guide(grid + self.contract(scanned.astype(gate.dtype) * nnx.silu(gate)))


class DepthwiseConvolution(nnx.Module):
    """Mixes each channel with itself at the neighbouring tokens, before the scans.

    `causal`: the token and the two before it in its row, as in Mamba; since the four scans share their input, it looks
    the same way for all of them. `square`: the 3×3 tokens around, as in VMamba, arXiv 2401.10166.

    Args:
      features: channels d.
      kind: `causal` or `square`.

    Raises:
      InputError: if `kind` is unknown.
    """

    def __init__(self, features: int, *, kind: str, rngs: nnx.Rngs):
        if kind not in CONVOLUTIONS:
            raise InputError(f"classifier.convolution is '{kind}'; expected one of {', '.join(CONVOLUTIONS)}.")
        self.offsets = CONVOLUTIONS[kind]
        shape, bound = (len(self.offsets), features), len(self.offsets) ** -0.5
        self.taps = nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, grid: Float[Array, "b p p d"]) -> Float[Array, "b p p d"]:
        """The convolved grid, with zeros around the patch."""
        side = grid.shape[1]
        padded = jnp.pad(grid, [(0, 0), (2, 2), (2, 2), (0, 0)])
        shifted = lambda row, column: padded[:, 2 + row : 2 + row + side, 2 + column : 2 + column + side]
        spread = lambda values: jnp.broadcast_to(values.astype(grid.dtype), grid.shape)
        return sum(
            (shifted(*offset) * spread(taps) for offset, taps in zip(self.offsets, self.taps)), spread(self.bias)
        )

"""What the three branches share: a stem, guided stages on the token grid, and a last normalisation."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.dropout import drop_channels
from bdgf_jax.classifier.guidance import Guide


class Stem(nnx.Module):
    """Every modality's pixels, embedded by themselves and summed in the branch's width.

        F = W relu(LN Σ_m W_m x_m).

    Args:
      modalities: channels of each modality.
      features: width d of the branch.
      dtype: of the matrix products, and of the tokens.
    """

    def __init__(self, modalities: Mapping[str, int], features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.embed = nnx.Dict(
            {name: nnx.Linear(channels, features, dtype=dtype, rngs=rngs) for name, channels in modalities.items()}
        )
        self.norm = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)
        self.mix = nnx.Linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, images: Mapping[str, Array]) -> Float[Array, "b p p d"]:
        """Tokens from patches (b p p c) of each modality."""
        return self.mix(nnx.relu(self.norm(sum(self.embed[name](image) for name, image in images.items()))))


class Stage(nnx.Module):
    """One stage of a branch, `stage(grid, guide)`: mixes the tokens and calls `guide` where its design has guidance."""

    def __call__(self, grid: Float[Array, "b p p d"], guide: Callable[[Array], Array]) -> Float[Array, "b p p d"]:
        """The grid after the stage."""
        raise NotImplementedError


class Branch(nnx.Module):
    """A subnetwork: stem, then stages that are each guided by one level of the diffusion features.

    Args:
      features: width d.
      modalities: channels of each modality.
      stages: the stages in order.
      guides: one a stage, or none at all.
      patch: given where tokens are to be told their place by a learned embedding: the side of the patch.
      dropout: probability that a channel of a patch is dropped after a stage, in training.
      dtype: of the tokens between the stages; the branch's last normalisation gives float32.
    """

    def __init__(
        self,
        features: int,
        *,
        modalities: Mapping[str, int],
        stages: Sequence[Stage],
        guides: Sequence[Guide],
        patch: int | None,
        dropout: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.stem = Stem(modalities, features, dtype=dtype, rngs=rngs)
        place = None if patch is None else 0.02 * jax.random.normal(rngs.params(), (patch, patch, features))
        self.positions = None if place is None else nnx.Param(place)
        self.stages = nnx.List(stages)
        self.guides = nnx.List(guides)
        self.norm = nnx.LayerNorm(features, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self, images: Mapping[str, Array], levels: Sequence[Array], *, rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b p p d"]:
        """The branch's token grid, normalised, for patches (b p p c) of modalities and levels."""
        grid = self.stem(images)
        if self.positions is not None:
            grid = grid + jnp.broadcast_to(self.positions[...].astype(grid.dtype), grid.shape)
        for index, stage in enumerate(self.stages):
            grid = stage(grid, self._guide(index, levels))
            grid = drop_channels(grid, self.dropout, rngs)
        return self.norm(grid)

    def _guide(self, stage: int, levels: Sequence[Array]) -> Callable[[Array], Array]:
        if not self.guides:
            return lambda grid: grid
        return lambda grid: self.guides[stage](grid, levels)

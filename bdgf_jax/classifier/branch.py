"""What the three branches share: a stem, guided stages on the token grid, and a last normalisation."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from bdgf_jax.classifier.dropout import channel_scales
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
      rematerialise: compute what lies inside a stage again for its gradient instead of keeping it.
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
        rematerialise: bool = False,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.rematerialise = rematerialise
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
        run = nnx.remat(run_stage) if self.rematerialise else run_stage
        scales = channel_scales(len(self.stages), len(grid), grid.shape[-1], rate=self.dropout, rngs=rngs)
        for index, (stage, guide) in enumerate(zip(self.stages, self.guides or [None] * len(self.stages))):
            grid = run(stage, guide, grid, levels)
            if scales is not None:
                grid = grid * jnp.broadcast_to(scales[index], grid.shape).astype(grid.dtype)
        return self.norm(grid)


def run_stage(stage: Stage, guide: Guide | None, grid: Float[Array, "b p p d"], levels: Sequence[Array]) -> Array:
    """The grid after a stage, which calls its guide, where it has one, with the levels of the diffusion features."""
    return stage(grid, (lambda grid: grid) if guide is None else lambda grid: guide(grid, levels))

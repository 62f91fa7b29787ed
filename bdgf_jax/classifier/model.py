"""The guided classifier: three branches, and their prediction for the pixels in the middle of a patch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bdgf_jax.classifier.branch import Branch, Stage
from bdgf_jax.classifier.cnn import ConvolutionStage
from bdgf_jax.classifier.direct_head import DirectHead
from bdgf_jax.classifier.guidance import Guide, make_mechanism
from bdgf_jax.classifier.heads import DenseHead
from bdgf_jax.classifier.mamba import MambaStage
from bdgf_jax.classifier.timesteps import TimestepMerging
from bdgf_jax.classifier.transformer import TransformerStage
from bdgf_jax.errors import InputError
from bdgf_jax.precision import compute_dtype

BRANCHES = ("cnn", "mamba", "transformer")
FUSIONS = ("mean", "head")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Predictions:
    """What the classifier says of the centre s×s pixels of each patch.

    Attributes:
      logits: of each branch, (b s s k).
      direct: logits of the direct head, (b s s k); None where there is no such head.
      fused: log-probabilities of the mean over the branches, or of the fused head, mixed with those of the direct head
        where there is one, whose share is `direct.share`, (b s s k).
      embeddings: each branch's feature z of the patch, the mean of its tokens, (b d).
    """

    logits: dict[str, Float[Array, "b s s k"]]
    direct: Float[Array, "b s s k"] | None
    fused: Float[Array, "b s s k"]
    embeddings: dict[str, Float[Array, "b d"]]

    def all_logits(self) -> dict[str, Float[Array, "b s s k"]]:
        """The logits of every branch by its name, `direct` where there is such a head, and `fused`."""
        direct = {} if self.direct is None else {"direct": self.direct}
        return {**self.logits, **direct, "fused": self.fused}


class GuidedClassifier(nnx.Module):
    """Classifies the centre of patches by up to three branches under the guidance of diffusion features.

    [paper: arXiv 2509.23310] a CNN guided by feature fusion, a Mamba by group channel attention, a transformer by
    cross-attention. Parameters are its only state; `nnx.split` it once and keep the functions pure.

    Args:
      config: the `classifier` section, an `ml_collections.ConfigDict` with `branches`, `width`, `stages`, `patch`,
        `centre`, `dropout`, `guidance` (a mechanism for each branch), `merge_timesteps`, `groups`, `reduction`,
        `heads`, `state`, `expansion`, `directions`, `convolution`, `head`, `direct`, `fusion`, `dtype` and
        `rematerialise`.
      modalities: channels of each modality, as they enter the stems.
      guidance: timesteps and channels of each level of guidance; empty for a classifier without.
      classes: number k of classes.

    Raises:
      InputError: for a configuration that no classifier can be made of.
    """

    def __init__(
        self,
        config: Any,
        *,
        modalities: Mapping[str, int],
        guidance: Sequence[tuple[int, int]],
        classes: int,
        rngs: nnx.Rngs,
    ):
        check(config, guidance)
        dtype = compute_dtype("classifier.dtype", config.dtype)
        self.modalities = tuple(modalities)
        self.patch = config.patch
        self.fusion = config.fusion
        self.direct_share = config.direct.share
        guided = any(config.guidance[name] != "none" for name in config.branches)
        self.merges = nnx.List(
            [
                TimestepMerging(channels, timesteps=timesteps, kind=config.merge_timesteps, dtype=dtype)
                for timesteps, channels in (guidance if guided else ())
            ]
        )
        channels = [merge.channels for merge in self.merges]
        self.branches = nnx.Dict(
            {
                name: make_branch(name, config, modalities=modalities, levels=channels, rngs=rngs)
                for name in config.branches
            }
        )
        head = partial(DenseHead, classes=classes, centre=config.centre, kind=config.head, rngs=rngs)
        self.heads = nnx.Dict({name: head(config.width) for name in config.branches})
        self.fused_head = head(config.width * len(config.branches)) if config.fusion == "head" else None
        self.direct_head = (
            DirectHead(
                [timesteps * channels for timesteps, channels in guidance],
                classes,
                landmarks=config.direct.landmarks,
                gamma=config.direct.gamma,
                last_share=config.direct.last_share,
                discriminant=config.direct.discriminant,
                centre=config.centre,
            )
            if guided and guidance and config.direct.landmarks
            else None
        )

    def __call__(
        self,
        images: Mapping[str, Array],
        guidance: Sequence[Array],
        *,
        branches: Sequence[str] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Predictions:
        """Predicts from patches of each modality (b p p c) and of each level of diffusion features (b p p t c).

        Args:
          images: patches by modality.
          guidance: patches of diffusion features by level.
          branches: those to compute, all by default; the fused prediction is theirs alone.
          rngs: keys for dropout (stream `dropout`); without them the prediction is deterministic.

        Raises:
          InputError: if modalities, levels, patch or branches are not those that the classifier was made for.
        """
        names = tuple(self.heads) if branches is None else tuple(branches)
        self._check(images, guidance, names)
        levels = [merge(level) for merge, level in zip(self.merges, guidance)]
        grids = {name: self.branches[name](images, levels, rngs=rngs) for name in names}
        logits = {name: self.heads[name](grid) for name, grid in grids.items()}
        direct = None if self.direct_head is None else self.direct_head(guidance)
        if self.fused_head is None:
            fused = log_mixture([logits[name] for name in names], [1.0 / len(names)] * len(names))
        else:
            fused = nnx.log_softmax(self.fused_head(jnp.concatenate([grids[name] for name in names], axis=-1)))
        if direct is not None:
            fused = log_mixture([fused, direct], [1.0 - self.direct_share, self.direct_share])
        return Predictions(logits, direct, fused, {name: grid.mean((1, 2)) for name, grid in grids.items()})

    def _check(self, images: Mapping[str, Array], guidance: Sequence[Array], branches: Sequence[str]) -> None:
        if set(images) != set(self.modalities):
            odd = sorted(set(images) ^ set(self.modalities))
            raise InputError(f"The classifier was made for {', '.join(self.modalities)}; not so with {', '.join(odd)}.")
        if len(self.merges) not in (0, len(guidance)):
            raise InputError(
                f"The classifier was made for {len(self.merges)} levels of diffusion features, got {len(guidance)}."
            )
        sides = {name: image.shape[1:3] for name, image in images.items() if image.shape[1:3] != (self.patch,) * 2}
        if sides:
            raise InputError(f"The classifier was made for patches of side {self.patch}, got {sides}.")
        absent = [name for name in branches if name not in self.heads]
        if absent or not branches:
            raise InputError(
                f"predict.branches is {tuple(branches)}; expected some of {', '.join(self.heads)}, which were trained."
            )
        if self.fused_head is not None and len(branches) < len(self.heads):
            raise InputError(
                f"predict.branches is {tuple(branches)}, but the fused head reads all of {', '.join(self.heads)};"
                " a classifier trained with classifier.fusion = mean can leave branches out."
            )


def log_mixture(logits: Sequence[Float[Array, "*b k"]], shares: Sequence[float]) -> Float[Array, "*b k"]:
    """log Σ_i share_i softmax(logits_i): logits of the mixed prediction."""
    return nnx.logsumexp(
        jnp.stack([nnx.log_softmax(values) + math.log(share) for values, share in zip(logits, shares, strict=True)]),
        axis=0,
    )


def make_branch(
    name: str, config: Any, *, modalities: Mapping[str, int], levels: Sequence[int], rngs: nnx.Rngs
) -> Branch:
    """A branch with its guidance. Where there are fewer levels than stages, neighbouring stages share one.

    Args:
      name: one of `BRANCHES`.
      config: the `classifier` section.
      modalities: channels of each modality.
      levels: channels of each level of guidance, timesteps merged.
    """
    dtype = compute_dtype("classifier.dtype", config.dtype)
    mechanism = partial(
        make_mechanism,
        config.guidance[name],
        config.width,
        groups=config.groups,
        reduction=config.reduction,
        heads=config.heads,
        dtype=dtype,
        rngs=rngs,
    )
    guiding = [stage * len(levels) // config.stages for stage in range(config.stages)]
    unguided = not levels or config.guidance[name] == "none"
    return Branch(
        config.width,
        modalities=modalities,
        stages=[make_stage(name, config, rngs) for _ in range(config.stages)],
        guides=[]
        if unguided
        else [
            Guide(config.width, level=level, channels=levels[level], mechanism=mechanism(), dtype=dtype, rngs=rngs)
            for level in guiding
        ],
        patch=config.patch if name == "transformer" else None,
        dropout=config.dropout,
        rematerialise=config.rematerialise,
        dtype=dtype,
        rngs=rngs,
    )


def make_stage(branch: str, config: Any, rngs: nnx.Rngs) -> Stage:
    """One stage of the branch of that name, from the `classifier` section."""
    dtype = compute_dtype("classifier.dtype", config.dtype)
    if branch == "cnn":
        return ConvolutionStage(config.width, rngs=rngs)
    if branch == "transformer":
        return TransformerStage(config.width, heads=config.heads, dtype=dtype, rngs=rngs)
    return MambaStage(
        config.width,
        expansion=config.expansion,
        state=config.state,
        directions=config.directions,
        convolution=config.convolution,
        dtype=dtype,
        rngs=rngs,
    )


def check(config: Any, guidance: Sequence[tuple[int, int]]) -> None:
    """Refuses a `classifier` section that no classifier can be made of, with an InputError."""
    unknown = [name for name in config.branches if name not in BRANCHES]
    if unknown or not config.branches:
        raise InputError(f"classifier.branches is {tuple(config.branches)}; expected some of {', '.join(BRANCHES)}.")
    if config.fusion not in FUSIONS:
        raise InputError(f"classifier.fusion is '{config.fusion}'; expected one of {', '.join(FUSIONS)}.")
    if config.centre % 2 == 0 or config.patch % 2 == 0 or config.centre > config.patch:
        raise InputError(
            "classifier.patch and classifier.centre must be odd and the centre no larger than the patch,"
            f" got {config.patch} and {config.centre}."
        )
    if not 0.0 < config.direct.share < 1.0:
        raise InputError(
            f"classifier.direct.share is {config.direct.share}; expected more than 0 and less than 1, the rest is the"
            " branches'. classifier.direct.landmarks = 0 leaves the direct head out."
        )
    if not 0.0 <= config.direct.last_share <= 1.0:
        raise InputError(f"classifier.direct.last_share is {config.direct.last_share}; expected a share from 0 to 1.")
    if config.direct.discriminant < 0.0:
        raise InputError(f"classifier.direct.discriminant is {config.direct.discriminant}; expected 0 or more.")
    if len(guidance) > config.stages:
        raise InputError(
            f"There are {len(guidance)} levels of guidance for {config.stages} stages, so that some would guide none;"
            f" set classifier.stages to {len(guidance)}, or use fewer of features.levels, or no features.context."
        )

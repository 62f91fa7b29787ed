"""The multimodal U-Net: a stem and a head for each modality round one shared encoder and decoder."""

from collections.abc import Mapping

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from bdgf_jax.errors import InputError
from bdgf_jax.precision import compute_dtype


def timestep_embedding(t: Int[Array, " b"], features: int) -> Float[Array, "b d"]:
    """Sines and cosines of t at geometric frequencies from 1 to 1e-4 a timestep (arXiv 1706.03762)."""
    frequencies = jnp.geomspace(1.0, 1e-4, features // 2, dtype=jnp.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def convolution(
    features_in: int, features_out: int, *, size: int, dtype, rngs: nnx.Rngs, zero: bool = False
) -> nnx.Conv:
    """A 'same' convolution; `zero` starts it at zero, so that what it feeds starts as the identity."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_uniform()
    return nnx.Conv(features_in, features_out, (size, size), dtype=dtype, kernel_init=init, rngs=rngs)


class ResidualBlock(nnx.Module):
    """x + conv(silu(scale_t * norm(conv(silu(norm(x)))) + shift_t)), with scale and shift from the timestep.

    Normalisation is over the channels of each pixel and never over space, so that a pixel's features depend on its
    receptive field alone and a scene may be cut into tiles without a seam [ours; the usual U-Net has group norm].
    """

    def __init__(self, features_in: int, features_out: int, *, time_features: int, dtype, rngs: nnx.Rngs):
        self.norm_in = nnx.LayerNorm(features_in, dtype=jnp.float32, rngs=rngs)
        self.conv_in = convolution(features_in, features_out, size=3, dtype=dtype, rngs=rngs)
        self.modulation = nnx.Linear(time_features, 2 * features_out, rngs=rngs)
        self.norm_out = nnx.LayerNorm(features_out, dtype=jnp.float32, use_bias=False, use_scale=False, rngs=rngs)
        self.conv_out = convolution(features_out, features_out, size=3, dtype=dtype, zero=True, rngs=rngs)
        self.shortcut = (
            convolution(features_in, features_out, size=1, dtype=dtype, rngs=rngs)
            if features_in != features_out
            else None
        )

    def __call__(self, x: Float[Array, "b h w _"], time: Float[Array, "b e"]) -> Float[Array, "b h w d"]:
        """The block at one resolution."""
        scale, shift = jnp.split(self.modulation(time)[:, None, None, :], 2, axis=-1)
        hidden = self.conv_in(nnx.silu(self.norm_in(x)))
        hidden = self.conv_out(nnx.silu(self.norm_out(hidden) * (1.0 + scale) + shift))
        return hidden + (x if self.shortcut is None else self.shortcut(x))


class Denoiser(nnx.Module):
    """A U-Net that sees several co-registered modalities at once (stems summed in a shared width [ours]).

    Hidden pixels, and those without data, are replaced by a learned token of their modality. The head of a modality
    answers two questions at every pixel: the schedule's target where the pixel is visible, and the clean image where
    it is hidden (the noise of a hidden pixel cannot be known).

    Args:
      config: the `diffusion` section: width, multipliers (one a level), blocks (a level), dtype, and rematerialise:
        compute what lies inside a block again for its gradient instead of keeping it.
      modalities: channels of each modality, in the order of the scene.

    Raises:
      InputError: there is no such dtype.
    """

    def __init__(self, config, *, modalities: Mapping[str, int], rngs: nnx.Rngs):
        widths = [config.width * multiplier for multiplier in config.multipliers]
        time_features, dtype = 4 * config.width, compute_dtype("diffusion.dtype", config.dtype)
        block = lambda i, o: ResidualBlock(i, o, time_features=time_features, dtype=dtype, rngs=rngs)
        conv = lambda i, o, **options: convolution(i, o, dtype=dtype, rngs=rngs, **options)

        self.modalities = tuple(modalities)
        self.width = config.width
        self.rematerialise = config.rematerialise
        self.stride = 2 ** (len(widths) - 1)
        self.levels = tuple(reversed(widths))
        self.tokens = nnx.Dict({name: nnx.Param(jnp.zeros(channels)) for name, channels in modalities.items()})
        self.stems = nnx.Dict({name: conv(channels, widths[0], size=3) for name, channels in modalities.items()})
        self.time = nnx.List(
            [nnx.Linear(config.width, time_features, rngs=rngs), nnx.Linear(time_features, time_features, rngs=rngs)]
        )
        encoder, decoder = [], []
        for before, width in zip([widths[0], *widths], widths):
            encoder.append(nnx.List([block(before if i == 0 else width, width) for i in range(config.blocks)]))
        for below, width in zip([*widths[1:], 0], widths):
            decoder.append(nnx.List([block(width + below if i == 0 else width, width) for i in range(config.blocks)]))
        self.encoder, self.decoder = nnx.List(encoder), nnx.List(decoder)
        self.norm = nnx.LayerNorm(widths[0], dtype=jnp.float32, rngs=rngs)
        self.heads = nnx.Dict({name: conv(widths[0], 2 * c, size=3, zero=True) for name, c in modalities.items()})

    def __call__(
        self,
        images: Mapping[str, Float[Array, "b h w _"]],
        t: Int[Array, " b"],
        hidden: Mapping[str, Bool[Array, "b h w"]],
    ) -> tuple[dict[str, tuple[Array, Array]], tuple[Float[Array, "b _ _ _"], ...]]:
        """Denoises a batch.

        Args:
          images: noisy crops x_t; their sides are multiples of 2 ** (levels - 1).
          t: timestep of each sample, the same for all its modalities.
          hidden: pixels whose values are withheld.

        Returns:
          for each modality (prediction at visible pixels, clean image at hidden pixels), and the decoder's
          activations, coarsest level first.
        """
        height, width = next(iter(images.values())).shape[1:3]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"a crop of {height}×{width} does not fit a U-Net of {len(self.levels)} levels: both sides must be"
                f" multiples of {self.stride}. Change pretrain.crop or features.tile."
            )
        embedding = self.time[0](timestep_embedding(t, self.width))
        embedding = nnx.silu(self.time[1](nnx.silu(embedding)))
        seen = lambda name: jnp.where(hidden[name][..., None], self.tokens[name][...], images[name])
        x = sum(
            (self.stems[name](seen(name)) for name in self.modalities[1:]),
            self.stems[self.modalities[0]](seen(self.modalities[0])),
        )

        run = nnx.remat(ResidualBlock.__call__) if self.rematerialise else ResidualBlock.__call__
        skips = []
        for level, blocks in enumerate(self.encoder):
            x = x if level == 0 else halve(x)
            for block in blocks:
                x = run(block, x, embedding)
            skips.append(x)

        activations = []
        for level in reversed(range(len(self.decoder))):
            x = skips[level] if level == len(self.decoder) - 1 else jnp.concatenate([skips[level], double(x)], axis=-1)
            for block in self.decoder[level]:
                x = run(block, x, embedding)
            activations.append(x)

        x = nnx.silu(self.norm(x))
        outputs = {}
        for name in self.modalities:
            at_visible, at_hidden = jnp.split(self.heads[name](x).astype(jnp.float32), 2, axis=-1)
            outputs[name] = (at_visible, at_hidden)
        return outputs, tuple(activations)


def halve(x: Float[Array, "b h w d"]) -> Float[Array, "b h_2 w_2 d"]:
    """Means of 2×2 pixels."""
    return einops.reduce(x, "b (h i) (w j) d -> b h w d", "mean", i=2, j=2)


def double(x: Float[Array, "b h w d"]) -> Float[Array, "b h_2 w_2 d"]:
    """Each pixel becomes 2×2 equal ones; the convolution that follows smooths them."""
    return einops.repeat(x, "b h w d -> b (h i) (w j) d", i=2, j=2)


def build_denoiser(config, modalities: Mapping[str, int], seed: int) -> tuple[nnx.GraphDef, nnx.State]:
    """The denoiser split into its graph and its parameters, as every function of this package takes it."""
    # RBG keys: threefry's code, unrolled for every weight, takes four times as long to compile.
    key = jax.random.key(seed, impl="rbg")
    return nnx.split(nnx.jit(lambda: Denoiser(config, modalities=modalities, rngs=nnx.Rngs(key)))())

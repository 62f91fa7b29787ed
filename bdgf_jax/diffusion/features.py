"""Diffusion features: what the frozen DDPM knows of every pixel of a scene, computed once, by overlapping tiles."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Bool, Float, Float32, Int

from bdgf_jax.diffusion.schedule import NoiseSchedule, add_noise
from bdgf_jax.errors import InputError

Level = Float[np.ndarray, "h w _ _"]


def noise_field(
    channels: Mapping[str, int],
    seed: int,
    draws: int,
    rows: Int[np.ndarray, " h"],
    columns: Int[np.ndarray, " w"],
    *,
    width: int,
) -> dict[str, Float[Array, "h w r _"]]:
    """Fixed draws of noise at these rows and columns of a scene: they depend on the pixel's place in it and on nothing
    else, so that its features do not depend on the tile, or the window of the scene, that it lies in.

    They are those that `jax.random.normal` gives for the whole scene at once, (height, width, draws, channels): its
    i-th number is made from a hash (threefry) of i and the key.

    Args:
      channels: of each modality.
      seed: of the noise.
      draws: at each pixel.
      rows: in the scene, in any order, and
      columns: likewise.
      width: of the scene, in pixels.

    Raises:
      InputError: if there is not one draw.
    """
    if draws < 1:
        raise InputError(f"features.draws must be 1 or more, got {draws}.")
    key = jax.random.key(seed, impl="threefry2x32")
    pixels = rows.astype(np.uint64)[:, None] * np.uint64(width) + columns.astype(np.uint64)[None, :]
    noise = {}
    for index, (name, count) in enumerate(channels.items()):
        first = pixels * np.uint64(draws * count)
        counter = (first >> np.uint64(32)).astype(np.uint32), first.astype(np.uint32)
        noise[name] = _normal_at(jax.random.key_data(jax.random.fold_in(key, index)), *counter, draws, count)
    return noise


@partial(jax.jit, static_argnums=(3, 4))
def _normal_at(key_data, high, low, draws: int, count: int):
    """The normal numbers from a 64-bit counter on, draws × count of them; each step is that of `jax.random.normal`."""
    offsets = jnp.arange(draws * count, dtype=jnp.uint32).reshape(1, 1, draws, count)
    lows = low[..., None, None] + offsets
    highs = high[..., None, None] + (lows < offsets).astype(jnp.uint32)
    hashed = threefry_2x32(key_data, jnp.stack([highs, lows]))
    mantissas = (hashed[0] ^ hashed[1]) >> np.uint32(9)
    from_one_to_two = jax.lax.bitcast_convert_type(mantissas | np.float32(1.0).view(np.uint32), jnp.float32)
    lowest = np.nextafter(np.float32(-1.0), np.float32(0.0))
    uniform = jnp.maximum(lowest, (from_one_to_two - 1.0) * (np.float32(1.0) - lowest) + lowest)
    return np.float32(np.sqrt(2.0)) * jax.lax.erf_inv(uniform)


def tile_activations(
    graph: nnx.GraphDef,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    levels: Sequence[int],
    tile: int,
    margin: int,
    gather: Callable,
) -> Callable:
    """(parameters, arrays, centre) -> the decoder's activations on one tile, each level "tile tile t d".

    The tile is cut with `margin` pixels round it, which are thrown away: they are there for the receptive field. Each
    level is upsampled bilinearly to the pixels of the scene. Activations are averaged over the draws of noise, since
    what one draw happens to hide another shows [ours].

    Args:
      graph: of the denoiser.
      schedule: the forward process that it was trained with.
      timesteps: at which the image is noised.
      levels: of the decoder, 0 the coarsest.
      tile: side of the tiles that are kept, and
      margin: round them, multiples of the U-Net's stride so that every tile is cut on the same coarse grid.
      gather: (arrays, centres, side) -> crops.

    Raises:
      InputError: when traced, if a level, timestep, tile or margin does not fit the denoiser.
    """
    side = tile + 2 * margin

    @jax.jit
    def activations(parameters, arrays, centre):
        model = nnx.merge(graph, parameters)
        _check(model, schedule, timesteps, levels, tile, margin)
        once_a_timestep = lambda array: jnp.repeat(array, len(timesteps), axis=0)
        crop = jax.tree.map(once_a_timestep, gather(arrays, centre[None, :], side))
        t = jnp.asarray(timesteps, jnp.int32)
        hidden = {name: ~valid for name, valid in crop["valid"].items()}

        def chosen_levels(noise):
            _, decoder = model(add_noise(schedule, crop["images"], noise, t), t, hidden)
            return [decoder[index] for index in levels]

        draws = jax.tree.map(lambda noise: jnp.moveaxis(noise, 3, 0), crop["noise"])
        inner = slice(margin, margin + tile)
        maps = []
        for level in (level.mean(0) for level in jax.lax.map(chosen_levels, draws)):
            whole = jax.image.resize(level, (len(timesteps), side, side, level.shape[-1]), "bilinear")
            maps.append(jnp.moveaxis(whole[:, inner, inner], 0, 2).astype(jnp.bfloat16))
        return tuple(maps)

    return activations


def _check(model, schedule: NoiseSchedule, timesteps, levels, tile: int, margin: int) -> None:
    if tile % model.stride or margin % model.stride:
        raise InputError(
            f"features.tile and features.margin must be multiples of {model.stride}, the stride of a U-Net of"
            f" {len(model.levels)} levels; got {tile} and {margin}."
        )
    if not levels or not set(levels) <= set(range(len(model.levels))):
        raise InputError(
            f"features.levels must be some of 0 … {len(model.levels) - 1}, coarsest first; got {tuple(levels)}."
        )
    last = len(schedule.alpha_bar) - 1
    if not timesteps or not all(0 <= t <= last for t in timesteps):
        raise InputError(f"features.timesteps must be some of 0 … {last}; got {tuple(timesteps)}.")


def scene_features(
    activations: Callable,
    parameters: nnx.State,
    arrays: Mapping,
    shape: tuple[int, int],
    *,
    tile: int,
    on_progress: Callable[[int], None] = lambda tiles: None,
) -> tuple[Level, ...]:
    """The feature maps of a whole scene in bfloat16, coarsest level of the decoder first.

    Args:
      activations: made by `tile_activations` with the same tile.
      parameters: of the denoiser.
      arrays: images, noise (its draws beside each other, h w r c) and valid of the scene, by modality.
      shape: rows and columns of the scene.
      tile: side of the tiles whose centres are kept.
      on_progress: told the number of tiles done, after each.
    """
    height, width = shape
    maps: list[np.ndarray] = []
    for row in range(0, height, tile):
        for column in range(0, width, tile):
            centre = jnp.array([row + tile // 2, column + tile // 2], jnp.int32)
            levels = [np.asarray(level) for level in activations(parameters, arrays, centre)]
            if not maps:
                maps = [np.zeros((height, width, *level.shape[2:]), ml_dtypes.bfloat16) for level in levels]
            for target, level in zip(maps, levels):
                window = target[row : row + tile, column : column + tile]
                window[...] = level[: window.shape[0], : window.shape[1]]
            on_progress(1)
    return tuple(maps)


def even_tile(shape: tuple[int, int], longest: int, *, multiple: int) -> int:
    """Side of the tiles that cover a scene evenly: as few as `longest` allows, and no larger than they have to be.

    Args:
      shape: rows and columns of the scene.
      longest: side that is allowed.
      multiple: what the side must be a multiple of, as `longest` is.
    """
    needed = max(-(-size // -(-size // longest)) for size in shape)
    return min(longest, -(-needed // multiple) * multiple)


def tile_count(shape: tuple[int, int], tile: int) -> int:
    """Number of tiles that cover a scene."""
    return -(-shape[0] // tile) * -(-shape[1] // tile)


def pixel_features(levels: Sequence[Level], mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "n _"]:
    """The features of a mask's pixels, in raster order: all levels and timesteps of a pixel side by side."""
    return np.concatenate([level[mask].reshape(mask.sum(), -1).astype(np.float32) for level in levels], axis=1)


class FeatureStatistics(NamedTuple):
    """Mean and deviation of each level's channels over a scene, for each timestep; they travel with the model."""

    mean: tuple[Float32[np.ndarray, "t _"], ...]
    deviation: tuple[Float32[np.ndarray, "t _"], ...]


def fit_feature_statistics(levels: Sequence[Level], valid: Bool[np.ndarray, "h w"]) -> FeatureStatistics:
    """Statistics over at most 65 536 valid pixels, spread evenly over the scene."""
    pixels = np.flatnonzero(valid)
    pixels = pixels[:: max(1, len(pixels) // 65536)]
    samples = [level.reshape(-1, *level.shape[2:])[pixels].astype(np.float32) for level in levels]
    return FeatureStatistics(
        tuple(sample.mean(0) for sample in samples), tuple(np.maximum(sample.std(0), 1e-6) for sample in samples)
    )


def standardise_features(levels: Sequence[Level], statistics: FeatureStatistics) -> tuple[Level, ...]:
    """Every channel with zero mean and unit deviation: what the classifier is guided by [ours]."""
    rows = lambda level, mean, deviation: np.stack(
        [((row.astype(np.float32) - mean) / deviation).astype(ml_dtypes.bfloat16) for row in level]
    )
    return tuple(map(rows, levels, *statistics))

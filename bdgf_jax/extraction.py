"""What guides the classifier, pixel by pixel: the DDPM's features of a scene, and its classical context."""

import functools
import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jaxtyping import Float

from bdgf_jax import networks
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.denoiser import Denoiser
from bdgf_jax.diffusion.features import (
    FeatureStatistics,
    even_tile,
    fit_feature_statistics,
    noise_field,
    scene_features,
    standardise_features,
    tile_activations,
    tile_count,
)
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.progress import progress
from bdgf_jax.run import Run, read_json, write_json
from bdgf_jax.scenes.context import context_maps, map_count
from bdgf_jax.scenes.feature_files import read_feature_maps
from bdgf_jax.scenes.patches import gather

FEATURE_STATISTICS = "features/statistics.npz"
FEATURE_SOURCES = ("ddpm", "untrained", "none")  # or files of feature maps


def features(run: Run) -> tuple[Float[np.ndarray, "h w _ _"], ...]:
    """What guides the classifier, level by level: diffusion features, and then the classical context of each pixel.

    Raises:
      InputError: as of `diffusion_features`.
    """
    return (*diffusion_features(run), *context_features(run))


def diffusion_features(run: Run) -> tuple[Float[np.ndarray, "h w t _"], ...]:
    """The DDPM's features of every pixel, standardised by channel, coarsest level first.

    Diffusion features are kept in the workdir and reused where still true; those of other models come from files. A
    modality that is absent is hidden from the DDPM everywhere, as whole modalities are in its pre-training; what it
    gives then is standardised by the statistics of the scene with all of its modalities.

    Raises:
      InputError: the DDPM is not pre-trained yet, or `features.source` is neither a known name nor files that fit, or
        is files of a scene that has lost a modality since.
    """
    config, folder = run.config.features, run.workdir / "features"
    if config.source == "none":
        return ()
    if run.scene.absent:
        folder /= f"without_{'_'.join(run.scene.absent)}"
    if config.source not in FEATURE_SOURCES:
        if run.scene.absent:
            raise InputError(
                f"features.source is {config.source}: maps of all modalities, of which nothing says what they would be"
                f" without {', '.join(run.scene.absent)}; neither --without nor train.modality_dropout goes with them."
            )
        levels = read_feature_maps(config.source, run.scene.valid)
        return standardise_features(levels, fit_feature_statistics(levels, run.scene.valid))
    graph, parameters = networks.denoiser(run)
    settings = {name: value for name, value in config.to_dict().items() if name != "context"}
    current = fingerprint(repr((settings, run.config.diffusion.to_dict())), run.images, parameters)
    if read_json(folder / "features.json").get("fingerprint") == current:
        files = [folder / f"level_{level}.npy" for level in config.levels]
        return tuple(np.load(file).view(ml_dtypes.bfloat16) for file in files)

    # A kill among the writes below must not leave new maps under an old fingerprint.
    (folder / "features.json").unlink(missing_ok=True)
    began = time.monotonic()
    levels = raw_features(run, graph, parameters)
    known = run.model or run.scene.absent
    statistics = load_feature_statistics(run) if known else fit_feature_statistics(levels, run.scene.valid)
    levels = standardise_features(levels, statistics)
    folder.mkdir(parents=True, exist_ok=True)
    for index, level in zip(config.levels, levels):
        np.save(folder / f"level_{index}.npy", level)
    if not run.scene.absent:
        _save_statistics(run.workdir / FEATURE_STATISTICS, config.levels, statistics)
    write_json(folder / "features.json", {"fingerprint": current, "seconds": time.monotonic() - began})
    return levels


def feature_shapes(run: Run) -> tuple[Any, ...]:
    """Levels as those of `features`, of which no more is known than their shapes: nothing is computed for them.

    Raises:
      InputError: as of `diffusion_features`, for what the config asks.
    """
    config, context = run.config.features, run.config.features.context
    of = lambda *axes, dtype=jnp.float32: jax.ShapeDtypeStruct((*run.scene.shape, *axes), dtype)
    levels: tuple[Any, ...] = ()
    if config.source in ("ddpm", "untrained"):
        denoiser = nnx.eval_shape(lambda: Denoiser(run.config.diffusion, modalities=run.channels, rngs=nnx.Rngs(0)))
        graph, parameters = nnx.split(denoiser)
        arrays = {
            "images": {name: of(count) for name, count in run.channels.items()},
            "valid": {name: of(dtype=bool) for name in run.channels},
            "noise": {name: of(config.draws, count) for name, count in run.channels.items()},
        }
        centre = jax.ShapeDtypeStruct((2,), jnp.int32)
        of_tile = jax.eval_shape(feature_program(run.config, graph, scene_tile(run)), parameters, arrays, centre)
        levels = tuple(of(*level.shape[-2:], dtype=level.dtype) for level in of_tile)
    elif config.source != "none":
        levels = read_feature_maps(config.source, run.scene.valid)
    return (*levels, *([of(1, map_count(run.channels, **context))] if context.components else []))


def context_features(run: Run) -> tuple[Float[np.ndarray, "h w 1 c"], ...]:
    """The classical context of every pixel as one level of guidance; none where `features.context` asks for none."""
    context = run.config.features.context
    return (as_level(context_maps(run.images, **context)),) if context.components else ()


def as_level(maps: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 1 c"]:
    """Maps that know no timestep as a level of guidance."""
    return maps[:, :, None].astype(ml_dtypes.bfloat16)


def raw_features(run: Run, graph: nnx.GraphDef, parameters: nnx.State) -> tuple[Float[np.ndarray, "h w t _"], ...]:
    """The chosen levels of this denoiser's decoder at the chosen timesteps, for the whole scene."""
    tile = scene_tile(run)
    activations, arrays = feature_extractor(run, graph, tile)
    with progress("Features", total=tile_count(run.scene.shape, tile), unit="tile") as bar:
        return scene_features(activations, parameters, arrays, run.scene.shape, tile=tile, on_progress=bar.advance)


def scene_tile(run: Run) -> int:
    """Side of the tiles that the scene is passed through the DDPM in."""
    config = run.config
    return even_tile(run.scene.shape, config.features.tile, multiple=2 ** (len(config.diffusion.multipliers) - 1))


def feature_extractor(run: Run, graph: nnx.GraphDef, tile: int) -> tuple[Callable, dict[str, Any]]:
    """What computes the features of a tile by this denoiser, see `tile_activations`, and the arrays that it reads."""
    config, (height, width) = run.config.features, run.scene.shape
    noise = noise_field(run.channels, config.seed, config.draws, np.arange(height), np.arange(width), width=width)
    images, valid = jax.tree.map(jnp.asarray, (run.images, run.valid))
    return feature_program(run.config, graph, tile), {"images": images, "valid": valid, "noise": noise}


def feature_program(config: Config, graph: nnx.GraphDef, tile: int) -> Callable:
    """What computes the features of a tile by this denoiser, see `tile_activations`; one program for all scenes."""
    diffusion, features = config.diffusion, config.features
    chosen = (tuple(features.timesteps), tuple(features.levels), tile, features.margin)
    return _feature_program(graph, diffusion.schedule, diffusion.timesteps, *chosen)


@functools.lru_cache(maxsize=4)
def _feature_program(
    graph: nnx.GraphDef, schedule: str, steps: int, timesteps: tuple, levels: tuple, tile: int, margin: int
) -> Callable:
    settings = {"levels": levels, "tile": tile, "margin": margin, "gather": gather}
    return tile_activations(graph, noise_schedule(schedule, steps), timesteps, **settings)


def load_feature_statistics(run: networks.Trained) -> FeatureStatistics:
    """The statistics that the features of the run's model were standardised by.

    Raises:
      InputError: they are not there.
    """
    path = networks.model_file(run.weights, FEATURE_STATISTICS)
    if not path.is_file():
        raise InputError(f"{path}: not there; `bdgf features` with the config and workdir of the model makes it.")
    levels = run.config.features.levels
    with np.load(path, allow_pickle=False) as arrays:
        of_levels = lambda name: tuple(arrays[f"{name}_{level}"] for level in levels)
        return FeatureStatistics(of_levels("mean"), of_levels("deviation"))


def _save_statistics(path: pathlib.Path, levels: Sequence[int], statistics: FeatureStatistics) -> None:
    arrays: dict[str, Any] = {f"mean_{level}": mean for level, mean in zip(levels, statistics.mean)}
    arrays |= {f"deviation_{level}": deviation for level, deviation in zip(levels, statistics.deviation)}
    np.savez(path, **arrays)


def fingerprint(settings: str, *trees) -> str:
    """SHA-256 of these settings and of the bytes of all arrays."""
    digest = hashlib.sha256(settings.encode())
    for leaf in jax.tree.leaves(trees):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()

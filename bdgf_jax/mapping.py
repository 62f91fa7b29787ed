"""The stretches of the road that need trained models and no optimiser: features and prediction."""

import functools
import hashlib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from bdgf_jax.classifier.model import GuidedClassifier
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.denoiser import build_denoiser
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
from bdgf_jax.evaluation.disagreement import jensen_shannon_divergence
from bdgf_jax.evaluation.map_picture import draw_map
from bdgf_jax.evaluation.maps import write_map, write_shares
from bdgf_jax.evaluation.prediction import predict_scene, window_centres
from bdgf_jax.evaluation.windowed_maps import JOURNAL
from bdgf_jax.progress import progress
from bdgf_jax.run import Run, read_json, write_json
from bdgf_jax.scenes.context import context_maps
from bdgf_jax.scenes.feature_files import read_feature_maps
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.scene import UNLABELLED, LandCover
from bdgf_jax.training.checkpoints import kept_file, load_parameters

MAP, CONFIDENCE, UNCERTAINTY, PROBABILITIES = "map.tif", "confidence.tif", "uncertainty.tif", "probabilities.tif"
MEMBERS = "members.json"  # how each of several classifiers that were trained together does by itself
RECORDS = ("config.json", "scene.json")
FEATURE_STATISTICS = "features/statistics.npz"
FEATURE_SOURCES = ("ddpm", "untrained", "none")  # or files of feature maps


@runtime_checkable
class Trained(Protocol):
    """What the networks are built and loaded from: a `Run`, or the `Model` that one has left."""

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        ...

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each modality as the models see it."""
        ...

    @property
    def classes(self) -> tuple[LandCover, ...]:
        """The class table."""
        ...

    @property
    def weights(self) -> pathlib.Path:
        """The folder that the checkpoints lie in."""
        ...

    @property
    def used(self) -> Literal["last", "best"]:
        """Which of the classifier's checkpoints is used."""
        ...


def denoiser(run: Trained) -> tuple[nnx.GraphDef, nnx.State]:
    """The pre-trained denoiser, or, as a control, an untrained one.

    Raises:
      InputError: there is no pre-trained one yet.
    """
    config = run.config
    graph, parameters = build_denoiser(config.diffusion, run.channels, config.pretrain.seed)
    if config.features.source == "untrained":
        return graph, parameters
    return graph, _load(run, "pretrain", parameters, "last")


def features(run: Run) -> tuple[Float[np.ndarray, "h w _ _"], ...]:
    """What guides the classifier, level by level: diffusion features, and then the classical context of each pixel.

    Raises:
      InputError: as of `diffusion_features`.
    """
    return (*diffusion_features(run), *context_features(run))


def context_features(run: Run) -> tuple[Float[np.ndarray, "h w 1 c"], ...]:
    """The classical context of every pixel as one level of guidance; none where `features.context` asks for none."""
    context = run.config.features.context
    return (as_level(context_maps(run.images, **context)),) if context.components else ()


def as_level(maps: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w 1 c"]:
    """Maps that know no timestep as a level of guidance."""
    return maps[:, :, None].astype(ml_dtypes.bfloat16)


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
    graph, parameters = denoiser(run)
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


def seeds(config: Config) -> tuple[int, ...]:
    """Those of the classifiers that are trained together.

    Raises:
      InputError: there is not one.
    """
    if config.train.num_seeds < 1:
        raise InputError(f"train.num_seeds must be 1 or more, got {config.train.num_seeds}.")
    return tuple(range(config.train.seed, config.train.seed + config.train.num_seeds))


def build(run: Trained, guidance: tuple[np.ndarray, ...]) -> tuple[nnx.GraphDef, nnx.State]:
    """The classifier as it starts, split into graph and parameters; of several seeds these have a leading axis."""
    create = lambda key: GuidedClassifier(
        run.config.classifier,
        modalities=run.channels,
        guidance=[level.shape[-2:] for level in guidance],
        classes=len(run.classes),
        rngs=nnx.Rngs(key),
    )
    created = nnx.jit(create)
    # RBG keys: threefry's code, unrolled for every weight, takes four times as long to compile. Under vmap they would
    # give other numbers than one by one.
    members = [nnx.split(created(jax.random.key(seed, impl="rbg"))) for seed in seeds(run.config)]
    graph, states = members[0][0], [state for _, state in members]
    return graph, stacked(states) if len(states) > 1 else states[0]


def stacked(members: Sequence[nnx.State]) -> nnx.State:
    """The parameters of several classifiers as one state, along a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def separate(parameters: nnx.State, config: Config) -> list[nnx.State]:
    """The parameters of each classifier of a training: the inverse of `stacked`, where there are several."""
    count = len(seeds(config))
    of = lambda member: jax.tree.map(lambda leaf: leaf[member], parameters)
    return [parameters] if count == 1 else [of(member) for member in range(count)]


def trained_classifier(run: Trained, guidance: tuple[np.ndarray, ...]) -> tuple[nnx.GraphDef, nnx.State]:
    """The classifier as it was trained: the best one where that is known, else the last.

    Raises:
      InputError: the classifier is not trained yet.
    """
    graph, fresh = build(run, guidance)
    return graph, _load(run, "train", fresh, run.used)


def classifier_function(
    run: Trained, graph: nnx.GraphDef, branches: Sequence[str] | None = None, *, alone: bool = False
) -> Callable:
    """(parameters, data, centres) -> class probabilities by branch, of the direct head and of all together, jitted.

    Args:
      run: that the classifier was trained in.
      graph: of the classifier.
      branches: those to compute, all by default; all together then means these.
      alone: by one classifier, and not by the mean of all that were trained together.
    """
    side = run.config.classifier.patch
    probabilities = patch_probabilities(run, graph, branches, alone=alone)

    @jax.jit
    def classify(parameters, data, centres):
        patches = gather(data, centres, side)
        return probabilities(parameters, patches["images"], patches["guidance"])

    return classify


def patch_probabilities(
    run: Trained, graph: nnx.GraphDef, branches: Sequence[str] | None = None, *, alone: bool = False
) -> Callable:
    """(parameters, images, guidance) -> class probabilities of patches; all else as of `classifier_function`."""

    def of_one(parameters, images, guidance):
        predictions = nnx.merge(graph, parameters)(images, guidance, branches=branches)
        return {name: jax.nn.softmax(values.astype(jnp.float32)) for name, values in predictions.all_logits().items()}

    def of_all(parameters, images, guidance):
        found = jax.vmap(of_one, in_axes=(0, None, None))(parameters, images, guidance)
        return {name: values.mean(0) for name, values in found.items()}

    return of_one if alone or len(seeds(run.config)) == 1 else of_all


def predict(
    run: Run, guidance: tuple[np.ndarray, ...], where: np.ndarray | None = None
) -> dict[str, Float[np.ndarray, "h w k"]]:
    """Class probabilities of every pixel by branch, of `predict.branches`, and `fused`; 0 where there is no data.

    Args:
      run: its classifier is trained.
      guidance: diffusion features of the scene, by level.
      where: pixels that are wanted; those of `mapped_pixels` by default.

    Raises:
      InputError: the classifier is not trained yet, or no pixel is labelled where only those are wanted.
    """
    graph, parameters = trained_classifier(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    classify = classifier_function(run, graph, tuple(run.config.predict.branches) or None)
    wanted = mapped_pixels(run) if where is None else where
    stride = map_stride(run.config)
    total = len(window_centres(run.scene.shape, stride=stride, side=run.config.classifier.centre, where=wanted))
    with progress("Predicting", total=total, unit="window") as bar:
        return predict_scene(
            lambda centres: classify(parameters, data, centres),
            run.scene.shape,
            stride=stride,
            batch_size=run.config.predict.batch_size,
            where=wanted,
            on_progress=bar.advance,
        )


def map_stride(config: Config) -> int:
    """Distance between the patches of a map, in pixels: that of `predict.stride`, or the side of what one predicts."""
    return config.predict.stride or config.classifier.centre


def mapped_pixels(run: Run) -> Bool[np.ndarray, "h w"]:
    """The pixels that a map shows: all with data, or the labelled ones of them where `predict.labelled_only` says so.

    Raises:
      InputError: only labelled pixels are wanted, and there is none.
    """
    if not run.config.predict.labelled_only:
        return run.scene.valid
    labelled = run.scene.valid & (run.scene.labels != UNLABELLED)
    if not labelled.any():
        raise InputError(
            f"predict.labelled_only is set, and '{run.scene.name}' has no labelled pixel; leave it out to map them all."
        )
    return labelled


def write_maps(run: Run, predictions: Mapping[str, Float[np.ndarray, "h w k"]]) -> None:
    """Writes what a prediction says of every pixel with data; nodata stays nodata.

    `map.tif`, the same as `map.png`, `confidence.tif`, the probability of the class shown, where there are several
    branches, `uncertainty.tif`, how far they disagree, and, where `predict.probabilities` asks for it,
    `probabilities.tif`, a band a class.

    Args:
      run: its workdir takes the files.
      predictions: what `predict` gave.
    """
    scene, folder, fused, mapped = run.scene, run.workdir, predictions["fused"], mapped_pixels(run)
    prediction = np.where(mapped, fused.argmax(-1), -1).astype(np.int32)
    write_map(folder / MAP, prediction, scene.classes, scene.georeference, without=scene.absent)
    counts = np.bincount(prediction[prediction >= 0], minlength=len(scene.classes))
    draw_map(folder / "map.png", scene.name, scene, scene.classes, prediction, counts)
    for name in (UNCERTAINTY, JOURNAL):  # of an earlier prediction, by more branches or by windows perhaps
        (folder / name).unlink(missing_ok=True)
    descriptions = described_shares(run.config, scene.classes)
    for name, layers in shares(run.config, predictions).items():
        write_shares(folder / name, layers, mapped, descriptions[name], scene.georeference)


def described_shares(config: Config, classes: Sequence[LandCover]) -> dict[str, list[str]]:
    """The files that go with a map, and the names of their bands."""
    files = {CONFIDENCE: ["confidence"]}
    if len(config.predict.branches or config.classifier.branches) > 1:
        files[UNCERTAINTY] = ["disagreement of the branches"]
    if config.predict.probabilities:
        files[PROBABILITIES] = [cover.name for cover in classes]
    return files


def shares(config: Config, predictions: Mapping[str, Float[np.ndarray, "h w k"]]) -> dict[str, np.ndarray]:
    """What these files hold of the pixels that were predicted, by file."""
    fused = predictions["fused"]
    branches = [predictions[name] for name in config.classifier.branches if name in predictions]
    layers = {CONFIDENCE: fused.max(-1, keepdims=True), PROBABILITIES: fused}
    if len(branches) > 1:
        layers[UNCERTAINTY] = jensen_shannon_divergence(branches)[..., None]
    return {name: layers[name] for name in described_shares(config, [])}


def _load(run: Trained, stretch: str, fresh: nnx.State, which: Literal["last", "best"]) -> nnx.State:
    folder = run.weights / stretch / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: nothing was trained yet. `bdgf {stretch}` with the same --config and --workdir does."
        )
    return load_parameters(folder, jax.eval_shape(lambda: fresh), which)


def model_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A file that belongs to a model: in its folder, or else in the checkpoints of its classifier."""
    path = folder / name
    return path if path.is_file() else kept_file(folder / "train" / "checkpoints", name) or path


def fingerprint(settings: str, *trees) -> str:
    """SHA-256 of these settings and of the bytes of all arrays."""
    digest = hashlib.sha256(settings.encode())
    for leaf in jax.tree.leaves(trees):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def load_feature_statistics(run: Trained) -> FeatureStatistics:
    """The statistics that the features of the run's model were standardised by.

    Raises:
      InputError: they are not there.
    """
    path = model_file(run.weights, FEATURE_STATISTICS)
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

"""The stretches of the road that need trained models and no optimiser: features, prediction, evaluation, report."""

import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import rasterio
from flax import nnx
from jaxtyping import Float

from bdgf_jax.classifier.model import GuidedClassifier
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.features import (
    FeatureStatistics,
    fit_feature_statistics,
    noise_field,
    scene_features,
    standardise_features,
    tile_activations,
    tile_count,
)
from bdgf_jax.diffusion.sampling import sample
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.assessment import assess
from bdgf_jax.evaluation.maps import read_map, write_confidence, write_map, write_probabilities
from bdgf_jax.evaluation.prediction import predict_scene, window_centres
from bdgf_jax.evaluation.report import write_report
from bdgf_jax.progress import progress
from bdgf_jax.run import Run, read_json, write_json
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.statistics import invert_band_transform
from bdgf_jax.training.checkpoints import load_parameters

MAP, CONFIDENCE = "map.tif", "confidence.tif"
FEATURE_STATISTICS = "features/statistics.npz"
FEATURE_SOURCES = ("ddpm", "untrained", "none")


def denoiser(run: Run) -> tuple[nnx.GraphDef, nnx.State]:
    """The pre-trained denoiser of a run, or, as a control, an untrained one.

    Raises:
      InputError: there is no pre-trained one yet, or `features.source` is unknown.
    """
    config = run.config
    if config.features.source not in FEATURE_SOURCES:
        raise InputError(
            f"features.source must be one of {', '.join(FEATURE_SOURCES)}, got {config.features.source!r}."
        )
    graph, parameters = build_denoiser(config.diffusion, run.channels, config.pretrain.seed)
    if config.features.source == "untrained":
        return graph, parameters
    return graph, _load(run, "pretrain", parameters, "last")


def features(run: Run) -> tuple[Float[np.ndarray, "h w t _"], ...]:
    """Diffusion features of the scene, standardised by channel, coarsest level first; reused where still true.

    Raises:
      InputError: the DDPM is not pre-trained yet.
    """
    config, folder = run.config.features, run.workdir / "features"
    if config.source == "none":
        return ()
    graph, parameters = denoiser(run)
    fingerprint = _fingerprint(repr((config.to_dict(), run.config.diffusion.to_dict())), run.images, parameters)
    if read_json(folder / "features.json").get("fingerprint") == fingerprint:
        files = [folder / f"level_{level}.npy" for level in config.levels]
        return tuple(np.load(file).view(ml_dtypes.bfloat16) for file in files)

    # A kill among the writes below must not leave new maps under an old fingerprint.
    (folder / "features.json").unlink(missing_ok=True)
    began = time.monotonic()
    levels = raw_features(run, graph, parameters)
    statistics = load_feature_statistics(run) if run.model else fit_feature_statistics(levels, run.scene.valid)
    levels = standardise_features(levels, statistics)
    folder.mkdir(parents=True, exist_ok=True)
    for index, level in zip(config.levels, levels):
        np.save(folder / f"level_{index}.npy", level)
    _save_statistics(run.workdir / FEATURE_STATISTICS, config.levels, statistics)
    write_json(folder / "features.json", {"fingerprint": fingerprint, "seconds": time.monotonic() - began})
    return levels


def raw_features(run: Run, graph: nnx.GraphDef, parameters: nnx.State) -> tuple[Float[np.ndarray, "h w t _"], ...]:
    """The chosen levels of this denoiser's decoder at the chosen timesteps, for the whole scene."""
    config = run.config.features
    schedule = noise_schedule(run.config.diffusion.schedule, run.config.diffusion.timesteps)
    activations = tile_activations(
        graph,
        schedule,
        config.timesteps,
        levels=config.levels,
        tile=config.tile,
        margin=config.margin,
        gather=gather,
    )
    images, valid = jax.tree.map(jnp.asarray, (run.images, run.valid))
    arrays = {"images": images, "valid": valid, "noise": noise_field(images, config.seed, config.draws)}
    with progress("Features", total=tile_count(run.scene.shape, config.tile), unit="tile") as bar:
        return scene_features(
            activations, parameters, arrays, run.scene.shape, tile=config.tile, on_progress=bar.advance
        )


def build(run: Run, guidance: tuple[np.ndarray, ...]) -> tuple[nnx.GraphDef, nnx.State]:
    """The classifier as it starts, split into graph and parameters."""
    # RBG keys: threefry's code, unrolled for every weight, takes four times as long to compile.
    key = jax.random.key(run.config.train.seed, impl="rbg")
    create = lambda: GuidedClassifier(
        run.config.classifier,
        modalities=run.channels,
        guidance=[level.shape[-1] for level in guidance],
        timesteps=guidance[0].shape[-2] if guidance else 0,
        classes=len(run.scene.classes),
        rngs=nnx.Rngs(key),
    )
    return nnx.split(nnx.jit(create)())


def trained_classifier(run: Run, guidance: tuple[np.ndarray, ...]) -> tuple[nnx.GraphDef, nnx.State]:
    """The classifier as it was trained: the best one where that is known, else the last.

    Raises:
      InputError: the classifier is not trained yet.
    """
    graph, fresh = build(run, guidance)
    return graph, _load(run, "train", fresh, "best" if run.watched or run.model else "last")


def classifier_function(run: Run, graph: nnx.GraphDef) -> Callable:
    """(parameters, data, centres) -> class probabilities by branch, of the direct head and of all together, jitted."""
    side = run.config.classifier.patch

    @jax.jit
    def classify(parameters, data, centres):
        patches = gather(data, centres, side)
        predictions = nnx.merge(graph, parameters)(patches["images"], patches["guidance"])
        return {name: jax.nn.softmax(values.astype(jnp.float32)) for name, values in predictions.all_logits().items()}

    return classify


def predict(
    run: Run, guidance: tuple[np.ndarray, ...], where: np.ndarray | None = None
) -> dict[str, Float[np.ndarray, "h w k"]]:
    """Class probabilities of every pixel by branch, and `fused`; 0 where no modality holds data.

    Args:
      run: its classifier is trained.
      guidance: diffusion features of the scene, by level.
      where: pixels that are wanted; all with data by default.

    Raises:
      InputError: the classifier is not trained yet.
    """
    graph, parameters = trained_classifier(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    classify = classifier_function(run, graph)
    wanted = run.scene.valid if where is None else where
    stride = run.config.predict.stride
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


def write_maps(run: Run, probabilities: Float[np.ndarray, "h w k"], *, with_probabilities: bool) -> None:
    """Writes `map.tif` and `confidence.tif`, and `probabilities.tif` where asked; nodata stays nodata.

    Args:
      run: its workdir takes the files.
      probabilities: of the fused prediction.
      with_probabilities: whether to write one band a class, too.
    """
    scene = run.scene
    prediction = np.where(scene.valid, probabilities.argmax(-1), -1).astype(np.int32)
    write_map(run.workdir / MAP, prediction, scene.classes, scene.georeference)
    write_confidence(run.workdir / CONFIDENCE, probabilities.max(-1), scene.valid, scene.georeference)
    if with_probabilities:
        path = run.workdir / "probabilities.tif"
        write_probabilities(path, probabilities, scene.valid, scene.classes, scene.georeference)


def evaluate(run: Run, map_file: pathlib.Path | None = None, predict_seconds: float | None = None) -> dict[str, Any]:
    """Scores a map on the test pixels and writes `metrics.json`.

    Args:
      run: its test pixels are the reference.
      map_file: the run's own map by default.
      predict_seconds: how long the prediction took, where it was just made.

    Raises:
      InputError: there is no such map, it does not fit the scene, or there is no test pixel.
    """
    path = map_file or run.workdir / MAP
    prediction, classes, _ = read_map(path)
    if prediction.shape != run.scene.shape:
        raise InputError(f"{path} has {prediction.shape} pixels where the scene has {run.scene.shape}.")
    if classes != run.scene.classes:
        names = [[cover.name for cover in table] for table in (classes, run.scene.classes)]
        raise InputError(f"{path} shows the classes {names[0]} where the scene has {names[1]}.")
    before = read_json(run.workdir / "metrics.json").get("seconds", {})
    seconds = {
        "pretrain": _training_seconds(run, "pretrain"),
        "features": read_json(run.workdir / "features" / "features.json").get("seconds"),
        "train": _training_seconds(run, "train"),
        "predict": before.get("predict") if predict_seconds is None else predict_seconds,
    }
    metrics = assess(run.scene, prediction, reach=run.config.classifier.patch - 1)
    metrics |= {"seed": run.config.train.seed, "seconds": seconds}
    write_json(run.workdir / "metrics.json", metrics)
    return metrics


def report(run: Run, metrics: dict[str, Any], map_file: pathlib.Path | None = None) -> pathlib.Path:
    """Writes `report.html`, everything that the run left in one page; where it lies.

    Args:
      run: with its maps written.
      metrics: of the map that is shown.
      map_file: the run's own map by default; another one's confidence is not known.
    """
    prediction, _, _ = read_map(map_file or run.workdir / MAP)
    confidence = None if map_file else _read_confidence(run)
    samples, crops = _samples(run) if run.config.features.source == "ddpm" else ({}, {})
    path = run.workdir / "report.html"
    write_report(
        path,
        scene=run.scene,
        prediction=prediction,
        confidence=confidence,
        metrics=metrics,
        pretrain_log=_read_log(run, "pretrain"),
        train_log=_read_log(run, "train"),
        samples=samples,
        crops=crops,
        config=run.config.to_dict(),
    )
    return path


def _read_confidence(run: Run) -> Float[np.ndarray, "h w"]:
    with rasterio.open(run.workdir / CONFIDENCE) as file:
        return np.where(run.scene.valid, file.read(1), 0.0).astype(np.float32)


def _samples(run: Run) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images drawn from the DDPM, and real crops of the same size, both in the sensors' own units."""
    config, count, side = run.config, run.config.report.samples, run.config.pretrain.crop
    graph, parameters = denoiser(run)
    drawn = jax.jit(
        lambda parameters, key: sample(
            nnx.merge(graph, parameters),
            noise_schedule(config.diffusion.schedule, config.diffusion.timesteps),
            target=config.diffusion.target,
            shape=(count, side, side),
            channels=run.channels,
            key=key,
            steps=config.report.sampling_steps,
        )
    )(parameters, jax.random.key(config.pretrain.seed))
    places = np.argwhere(run.scene.valid).astype(np.int32)
    centres = jnp.asarray(places[:: max(1, len(places) // count)][:count])
    real = gather(jax.tree.map(jnp.asarray, run.images), centres, side)
    units = lambda images: {
        name: invert_band_transform(run.transforms[name], np.asarray(images[name])) for name in run.channels
    }
    return units(drawn), units(real)


def _load(run: Run, stretch: str, fresh: nnx.State, which: Literal["last", "best"]) -> nnx.State:
    folder = run.weights / stretch / "checkpoints"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: nothing was trained yet. `bdgf {stretch}` with the same --config and --workdir does."
        )
    return load_parameters(folder, jax.eval_shape(lambda: fresh), which)


def _fingerprint(settings: str, *trees) -> str:
    digest = hashlib.sha256(settings.encode())
    for leaf in jax.tree.leaves(trees):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def load_feature_statistics(run: Run) -> FeatureStatistics:
    """The statistics that the features of the run's model were standardised by.

    Raises:
      InputError: they are not there.
    """
    path = run.weights / FEATURE_STATISTICS
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


def _read_log(run: Run, stretch: str) -> list[dict[str, Any]]:
    path = run.workdir / stretch / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _training_seconds(run: Run, stretch: str) -> float | None:
    log = _read_log(run, stretch)
    return log[-1]["seconds"] if log else None

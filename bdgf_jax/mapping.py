"""Maps by trained classifiers: class probabilities of every pixel, and the files that they make."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from bdgf_jax import networks, smoothing, voting
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.disagreement import jensen_shannon_divergence
from bdgf_jax.evaluation.map_picture import draw_map
from bdgf_jax.evaluation.maps import write_map, write_shares
from bdgf_jax.evaluation.prediction import predict_scene, window_centres
from bdgf_jax.evaluation.windowed_maps import JOURNAL
from bdgf_jax.progress import progress
from bdgf_jax.run import Run
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.scene import UNLABELLED, LandCover

MAP, CONFIDENCE, UNCERTAINTY, PROBABILITIES = "map.tif", "confidence.tif", "uncertainty.tif", "probabilities.tif"
MEMBERS = "members.json"  # how each of several classifiers that were trained together does by itself


def predict(
    run: Run, guidance: tuple[np.ndarray, ...], where: np.ndarray | None = None
) -> dict[str, Float[np.ndarray, "h w k"]]:
    """Class probabilities of every pixel by branch, of `predict.branches`, and `fused`; 0 where there is no data.

    Where `predict.average_with_vote` asks for it, `fused` is the mean of `network` and `vote`, which are there too.
    Where `predict.smoothing` does, it is smoothed, and `rough` is what it was before, also of the pixels round the
    wanted ones.

    Args:
      run: its classifier is trained.
      guidance: diffusion features of the scene, by level.
      where: pixels that are wanted; those of `mapped_pixels` by default.

    Raises:
      InputError: the classifier is not trained yet, no pixel is labelled where only those are wanted, or there is
        nothing that a vote could learn from, or that a smoothing could be chosen by.
    """
    graph, parameters = networks.trained_classifier(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    classify = classifier_function(run, graph, tuple(run.config.predict.branches) or None)
    shown = mapped_pixels(run) if where is None else where
    wanted = smoothing.looked_at(run, shown) if run.config.predict.smoothing else shown
    stride, side = map_stride(run.config), run.config.classifier.centre
    total = len(window_centres(run.scene.shape, stride=stride, side=side, where=wanted))
    with progress("Predicting", total=total, unit="window") as bar:
        predictions = probabilities(run, partial(classify, parameters, data), wanted, on_progress=bar.advance)
    if run.config.predict.average_with_vote:
        network, votes = predictions["fused"], voting.vote(run, guidance, wanted)
        predictions |= {"network": network, "vote": votes, "fused": (network + votes) / 2}
    if run.config.predict.smoothing:
        rough = predictions["fused"]
        smoothed = smoothing.smooth(run.images, rough, smoothing.choose_radius(run, rough)[0])
        predictions = {name: np.where(shown[..., None], values, 0.0) for name, values in predictions.items()}
        predictions |= {"rough": rough, "fused": np.where(shown[..., None], smoothed, np.float32(0.0))}
    return predictions


def probabilities(
    run: Run,
    classify: Callable[[Array], dict[str, Array]],
    where: Bool[np.ndarray, "h w"],
    *,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Float[np.ndarray, "h w k"]]:
    """Class probabilities of these pixels of the scene by a classifier, at the run's stride; see `predict_scene`.

    Args:
      run: of the scene.
      classify: from centres of patches; a function of `classifier_function` with its parameters and data given.
      where: pixels that are wanted.
      on_progress: called with the number of windows that a batch has added.
    """
    stride, batch_size = map_stride(run.config), run.config.predict.batch_size
    settings = {"stride": stride, "batch_size": batch_size, "where": where, "on_progress": on_progress}
    return predict_scene(classify, run.scene.shape, **settings)


def classifier_function(
    run: networks.Trained, graph: nnx.GraphDef, branches: Sequence[str] | None = None, *, alone: bool = False
) -> Callable:
    """(parameters, data, centres) -> class probabilities by branch, of the direct head and of all together, jitted.

    Args:
      run: that the classifier was trained in.
      graph: of the classifier.
      branches: those to compute, all by default; all together then means these.
      alone: by one classifier, and not by the mean of all that were trained together.
    """
    side = run.config.classifier.patch
    of_patches = patch_probabilities(run, graph, branches, alone=alone)

    @jax.jit
    def classify(parameters, data, centres):
        patches = gather(data, centres, side)
        return of_patches(parameters, patches["images"], patches["guidance"])

    return classify


def patch_probabilities(
    run: networks.Trained, graph: nnx.GraphDef, branches: Sequence[str] | None = None, *, alone: bool = False
) -> Callable:
    """(parameters, images, guidance) -> class probabilities of patches; all else as of `classifier_function`."""

    def of_one(parameters, images, guidance):
        predictions = nnx.merge(graph, parameters)(images, guidance, branches=branches)
        return {name: jax.nn.softmax(values.astype(jnp.float32)) for name, values in predictions.all_logits().items()}

    def of_all(parameters, images, guidance):
        found = jax.vmap(of_one, in_axes=(0, None, None))(parameters, images, guidance)
        return {name: values.mean(0) for name, values in found.items()}

    return of_one if alone or len(networks.seeds(run.config)) == 1 else of_all


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

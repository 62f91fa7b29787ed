"""The two stretches of the road that train: the DDPM without labels, then the classifier that it guides."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from bdgf_jax import extraction, mapping, networks, smoothing
from bdgf_jax.classifier.augmentation import random_symmetries, transform
from bdgf_jax.classifier.class_balance import balanced_candidates, class_weights
from bdgf_jax.classifier.objective import classification_objective
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.features import pixel_features
from bdgf_jax.diffusion.masking import masking_rule
from bdgf_jax.diffusion.objective import initial_carry, pretraining_objective
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES, confusion_matrix, scores
from bdgf_jax.evaluation.prediction import predict_scene
from bdgf_jax.run import Run, without
from bdgf_jax.scenes.crops import random_crops, transform_crops
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.statistics import BandTransform
from bdgf_jax.training.batches import Samples
from bdgf_jax.training.cores import share_of_cores
from bdgf_jax.training.distributed import first_before_others
from bdgf_jax.training.loop import fit
from bdgf_jax.training.mesh import check_batch_size, make_mesh
from bdgf_jax.training.state import TrainState

if TYPE_CHECKING:
    from bdgf_jax.scenes.corpus import Corpus


class Task(NamedTuple):
    """What a training is to learn and from what, as `fit` is given it; `graph` goes with the parameters."""

    graph: nnx.GraphDef
    objective: Callable
    parameters: nnx.State
    carry: PyTree
    data: PyTree
    samples: Samples


def pretrain(run: Run) -> nnx.State:
    """Pre-trains the multimodal DDPM, or continues to; the exponential average of its parameters.

    Raises:
      InputError: the config asks for something that does not exist or does not fit.
    """
    return _fit(run, "pretrain", "Pre-training", pretraining_task(run)).ema


def pretraining_task(run: Run) -> Task:
    """The pre-training of the DDPM, from its beginning.

    Raises:
      InputError: the config asks for something that does not exist or does not fit.
    """
    config = run.config
    graph, parameters = build_denoiser(config.diffusion, run.channels, config.pretrain.seed)
    rule = masking_rule(config.masking, len(run.channels), config.pretrain.batch_size)
    on_corpus = bool(config.pretrain.corpus)
    objective = pretraining_objective(
        graph,
        noise_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        rule,
        config.diffusion,
        config.masking,
        modalities=tuple(run.channels),
        crop=config.pretrain.crop,
        steps=config.pretrain.steps,
        gather=(lambda data, crops, side: crops) if on_corpus else gather,
    )
    return Task(
        graph,
        cropped(objective, run.transforms, config.pretrain.crop) if on_corpus else objective,
        parameters,
        carry=initial_carry(rule, len(run.channels)),
        data={} if on_corpus else {"images": run.images, "valid": run.valid},
        samples=corpus_of(run) if on_corpus else np.argwhere(run.scene.valid).astype(np.int32),
    )


def corpus_of(run: Run) -> "Corpus":
    """The corpus that the run's DDPM is pre-trained on.

    Raises:
      InputError: it is not there, or its tiles are smaller than the crops.
    """
    from bdgf_jax.scenes.corpus import open_corpus

    config = run.config.pretrain
    with first_before_others("corpus"):
        corpus = open_corpus(config.corpus, run.config.scene, tile=config.tile)
    if corpus.tile < config.crop:
        raise InputError(
            f"pretrain.crop is {config.crop}, and the tiles of the corpus '{corpus.name}' have a side of {corpus.tile}"
            " pixels; set pretrain.tile to twice the crop, say."
        )
    return corpus


def cropped(objective: Callable, transforms: Mapping[str, BandTransform], crop: int) -> Callable:
    """The objective on tiles in the sensors' units, of which it sees a random crop, turned or mirrored at random.

    Args:
      objective: on crops as the models see them.
      transforms: of each modality.
      crop: side of the crops.
    """

    def on_tiles(parameters, carry, data, tiles, key, step):
        for_places, for_symmetries, for_objective = jax.random.split(key, 3)
        crops = random_crops(tiles, crop, for_places)
        count = jax.tree.leaves(crops)[0].shape[0]
        crops = transform(crops, random_symmetries(for_symmetries, count))
        images = {
            name: transform_crops(transforms[name], image, crops["valid"][name])
            for name, image in crops["images"].items()
        }
        return objective(parameters, carry, data, {"images": images, "valid": crops["valid"]}, for_objective, step)

    return on_tiles


def train(run: Run, guidance: tuple[np.ndarray, ...]) -> nnx.State:
    """Trains the guided classifier, or continues to; the exponential average of its parameters.

    Args:
      run: its `train` pixels are learnt from, its `validation` pixels watched.
      guidance: diffusion features of the scene, by level.

    Raises:
      InputError: there is no training pixel, or the config asks for something that does not exist or does not fit.
    """
    masks = watched_masks(run)
    task = training_task(run, guidance)
    data = {"images": run.images, "guidance": guidance}
    return _fit(
        run,
        "train",
        "Training",
        task,
        evaluate=watch(run, task.graph, data, masks) if masks else None,
        best="validation/aa" if run.watched else None,
    ).ema


def check_training(run: Run) -> None:
    """Refuses what `train` would refuse, in a second and before anything has been computed for it.

    Raises:
      InputError: as of `train`.
    """
    config = run.config
    watched_masks(run)
    training_pixels(run)
    if config.classifier.mutual.unlabelled:
        unlabelled_pixels(run)
    smoothing.check_smoothing(run)
    networks.seeds(config)
    check_batch_size(config.train.batch_size, mesh_of(config, pieces=1))
    classifier = nnx.eval_shape(networks.initialiser(run, extraction.feature_shapes(run)), jax.random.key(0))
    classification_objective(nnx.graphdef(classifier), config.classifier, config.train, gather=gather)


def training_pixels(run: Run) -> Int[np.ndarray, "n 2"]:
    """Rows and columns of the pixels that are learnt from.

    Raises:
      InputError: there is none.
    """
    pixels = run.scene.centres("train")
    if not len(pixels):
        raise InputError(
            "the scene has no training pixel: check scene.labels and scene.split (`bdgf inspect` shows them)."
        )
    return pixels


def unlabelled_pixels(run: Run) -> Int[np.ndarray, "n 2"]:
    """Rows and columns of the pixels that branches may be aligned on without labels: all with data but training pixels.

    Raises:
      InputError: there is none.
    """
    pixels = np.argwhere(run.scene.valid & ~run.scene.masks["train"]).astype(np.int32)
    if not len(pixels):
        raise InputError(
            f"classifier.mutual.unlabelled is {run.config.classifier.mutual.unlabelled}, and every pixel with data of"
            f" '{run.scene.name}' is a training pixel; leave it 0."
        )
    return pixels


def training_task(run: Run, guidance: tuple[np.ndarray, ...]) -> Task:
    """The training of the classifier, from its beginning; its direct head is fitted already.

    Where several are trained together, their parameters have a leading axis, and all else is shared.

    Args:
      run: its `train` pixels are learnt from.
      guidance: diffusion features of the scene, by level.

    Raises:
      InputError: there is no training pixel, or the config asks for something that does not exist or does not fit.
    """
    config, scene, candidates = run.config, run.scene, training_pixels(run)
    labels = np.where(scene.masks["train"], scene.labels, -1).astype(np.int32)
    graph, parameters = networks.build(run, guidance)
    sets = guidance_sets(run, guidance)
    members = [
        start_direct_head(run, graph, member, sets, labels, seed)
        for member, seed in zip(networks.separate(parameters, config), networks.seeds(config), strict=True)
    ]
    parameters = networks.stacked(members) if len(members) > 1 else members[0]
    if config.train.class_balance == "balanced":
        candidates = balanced_candidates(candidates, labels)
    weights = class_weights(labels, len(scene.classes))
    unlabelled = {"unlabelled": unlabelled_pixels(run)} if config.classifier.mutual.unlabelled else {}
    return Task(
        graph,
        classification_objective(graph, config.classifier, config.train, gather=gather),
        parameters,
        carry=(),
        data={
            "images": run.images,
            "guidance": guidance if len(sets) == 1 else tuple(np.stack(levels, axis=2) for levels in zip(*sets)),
            "labels": labels,
            "class_weights": weights,
            **unlabelled,
        },
        samples=candidates,
    )


def mesh_of(config: Config, *, pieces: int, copied: int = 0) -> Mesh:
    """The devices of a training, see `cores.share_of_cores`.

    Raises:
      InputError: the mesh that the config asks for cannot be laid over them.
    """
    axes = config.mesh.to_dict()
    return make_mesh(axes, share_of_cores(axes, pieces, copied))


def _fit(run: Run, stretch: str, title: str, task: Task, **watching: Any) -> TrainState:
    # The cores of a CPU share the pre-training's batches, see `cores`.
    pieces = run.config.pretrain.batch_size if stretch == "pretrain" else 1
    needed = [*networks.RECORDS, *([extraction.FEATURE_STATISTICS] if stretch == "train" else [])]
    return fit(
        task.objective,
        task.parameters,
        carry=task.carry,
        data=task.data,
        samples=task.samples,
        config=run.config[stretch],
        workdir=run.workdir / stretch,
        title=title,
        mesh=mesh_of(run.config, pieces=pieces, copied=sum(array.nbytes for array in jax.tree.leaves(task.data))),
        placement=run.config.placement,
        seeds=networks.seeds(run.config) if stretch == "train" and run.config.train.num_seeds > 1 else (),
        files={name: run.workdir / name for name in needed if (run.workdir / name).is_file()},
        **watching,
    )


def guidance_sets(run: Run, guidance: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, ...]]:
    """The guidance that training draws from: this one and, with `train.modality_dropout`, that without each modality.

    Raises:
      InputError: the guidance without a modality cannot be known, since it is another model's.
    """
    sets = [guidance]
    for name in run.images if run.config.train.modality_dropout else ():
        with first_before_others(f"features without {name}"):
            sets.append(extraction.features(without(run, [name])))
    return sets


def start_direct_head(
    run: Run,
    graph: nnx.GraphDef,
    parameters: nnx.State,
    sets: Sequence[tuple[np.ndarray, ...]],
    labels: Int[np.ndarray, "h w"],
    seed: int,
) -> nnx.State:
    """The classifier's parameters with its direct head, where it has one, fitted to the training pixels.

    Args:
      run: of the scene.
      graph: of the classifier.
      parameters: of the classifier.
      sets: of guidance, see `guidance_sets`; each counts as often as training draws it.
      labels: -1 wherever there is no training pixel.
      seed: of the classifier.
    """
    model = nnx.merge(graph, parameters)
    if model.direct_head is None:
        return parameters
    trained, classes = labels >= 0, len(run.scene.classes)
    balance = run.config.train.class_balance
    counts = np.ones(classes, np.float32) if balance == "none" else class_weights(labels, classes)
    dropout = run.config.train.modality_dropout
    shares = [1.0 - dropout, *[dropout / len(run.images)] * len(run.images)][: len(sets)]
    model.direct_head.fit(
        np.concatenate([pixel_features(guidance, trained) for guidance in sets]),
        np.tile(labels[trained], len(sets)),
        np.concatenate([np.float32(share) * counts[labels[trained]] for share in shares]),
        ridge=run.config.classifier.direct.ridge,
        seed=seed,
    )
    return nnx.state(model)


def watched_masks(run: Run) -> list[str]:
    """Which pixels' accuracies are logged: validation pixels, by which the best step is chosen, and, for the literature
    protocol, test pixels, by which nothing is.

    Raises:
      InputError: the literature protocol is asked for and training is never evaluated.
    """
    literature = run.config.evaluate.literature_protocol
    if literature and not run.config.train.evaluate_every:
        raise InputError(
            "evaluate.literature_protocol looks at the test pixels every train.evaluate_every steps, which is 0; set it"
            " to 20, say."
        )
    return ["validation"] * run.watched + ["test"] * literature


def watch(run: Run, graph: nnx.GraphDef, data: PyTree, masks: Sequence[str]) -> Callable[[nnx.State], dict[str, float]]:
    """(parameters) -> accuracies on the pixels of each mask, as in "validation/oa".

    Args:
      run: with pixels in these masks.
      graph: of the classifier.
      data: its images and guidance.
      masks: names of the scene's masks.
    """
    scene, wanted = run.scene, np.any([run.scene.masks[mask] for mask in masks], axis=0)
    on_device = jax.tree.map(jnp.asarray, data)
    classify = mapping.classifier_function(run, graph)

    def evaluate(parameters: nnx.State) -> dict[str, float]:
        probabilities = predict_scene(
            lambda centres: classify(parameters, on_device, centres),
            scene.shape,
            stride=run.config.classifier.centre,
            batch_size=run.config.predict.batch_size,
            where=wanted,
        )
        prediction = probabilities["fused"].argmax(-1)
        figures = {}
        for mask in masks:
            pixels = scene.masks[mask]
            found = scores(confusion_matrix(scene.labels[pixels], prediction[pixels], len(scene.classes)))
            figures |= {f"{mask}/{name}": float(found[name]) for name in FIGURES}
        return figures

    return evaluate

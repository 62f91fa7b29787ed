"""The two stretches of the road that train: the DDPM without labels, then the classifier that it guides."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int, PyTree

from bdgf_jax import mapping
from bdgf_jax.classifier.class_balance import balanced_candidates, class_weights
from bdgf_jax.classifier.direct_head import fit_direct_head
from bdgf_jax.classifier.objective import classification_objective
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.features import pixel_features
from bdgf_jax.diffusion.masking import masking_rule
from bdgf_jax.diffusion.objective import initial_carry, pretraining_objective
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.evaluation.prediction import predict_scene
from bdgf_jax.run import Run
from bdgf_jax.scenes.patches import gather
from bdgf_jax.training.loop import fit
from bdgf_jax.training.mesh import make_mesh


def pretrain(run: Run) -> nnx.State:
    """Pre-trains the multimodal DDPM, or continues to; the exponential average of its parameters.

    Raises:
      InputError: the config asks for something that does not exist or does not fit.
    """
    config = run.config
    graph, parameters = build_denoiser(config.diffusion, run.channels, config.pretrain.seed)
    rule = masking_rule(config.masking, len(run.channels), config.pretrain.batch_size)
    objective = pretraining_objective(
        graph,
        noise_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        rule,
        config.diffusion,
        config.masking,
        modalities=tuple(run.channels),
        crop=config.pretrain.crop,
        steps=config.pretrain.steps,
        gather=gather,
    )
    state = fit(
        objective,
        parameters,
        carry=initial_carry(rule, len(run.channels)),
        data={"images": run.images, "valid": run.valid},
        candidates=np.argwhere(run.scene.valid).astype(np.int32),
        config=config.pretrain,
        workdir=run.workdir / "pretrain",
        title="Pre-training",
        mesh=make_mesh(config.mesh.to_dict()),
        placement=config.placement,
    )
    return state.ema


def train(run: Run, guidance: tuple[np.ndarray, ...]) -> nnx.State:
    """Trains the guided classifier, or continues to; the exponential average of its parameters.

    Args:
      run: its `train` pixels are learnt from, its `validation` pixels watched.
      guidance: diffusion features of the scene, by level.

    Raises:
      InputError: there is no training pixel, or the config asks for something that does not exist or does not fit.
    """
    config, scene = run.config, run.scene
    candidates = scene.centres("train")
    if not len(candidates):
        raise InputError(
            "the scene has no training pixel: check scene.labels and scene.split (`bdgf inspect` shows them)."
        )
    labels = np.where(scene.masks["train"], scene.labels, -1).astype(np.int32)
    graph, parameters = mapping.build(run, guidance)
    parameters = start_direct_head(run, graph, parameters, guidance, labels)
    if config.train.class_balance == "balanced":
        candidates = balanced_candidates(candidates, labels)
    data = {"images": run.images, "guidance": guidance}
    state = fit(
        classification_objective(graph, config.classifier, config.train, gather=gather),
        parameters,
        carry=(),
        data=data | {"labels": labels, "class_weights": class_weights(labels, len(scene.classes))},
        candidates=candidates,
        config=config.train,
        workdir=run.workdir / "train",
        title="Training",
        evaluate=watch(run, graph, data) if run.watched else None,
        best="validation/aa" if run.watched else None,
        mesh=make_mesh(config.mesh.to_dict()),
        placement=config.placement,
    )
    return state.ema


def start_direct_head(
    run: Run, graph: nnx.GraphDef, parameters: nnx.State, guidance: Sequence[np.ndarray], labels: Int[np.ndarray, "h w"]
) -> nnx.State:
    """The classifier's parameters with its direct head, where it has one, fitted to the training pixels.

    Args:
      run: of the scene.
      graph: of the classifier.
      parameters: of the classifier.
      guidance: diffusion features of the scene, by level.
      labels: -1 wherever there is no training pixel.
    """
    model = nnx.merge(graph, parameters)
    if model.direct_head is None:
        return parameters
    trained, classes = labels >= 0, len(run.scene.classes)
    balance = run.config.train.class_balance
    counts = np.ones(classes, np.float32) if balance == "none" else class_weights(labels, classes)
    ridge = run.config.classifier.direct_ridge
    weights, bias = fit_direct_head(
        pixel_features(guidance, trained), labels[trained], counts[labels[trained]], classes=classes, ridge=ridge
    )
    model.direct_head.assign(weights, bias)
    return nnx.state(model)


def watch(run: Run, graph: nnx.GraphDef, data: PyTree) -> Callable[[nnx.State], dict[str, float]]:
    """(parameters) -> accuracies on the validation pixels.

    Args:
      run: with validation pixels.
      graph: of the classifier.
      data: its images and guidance.
    """
    scene, validation = run.scene, run.scene.masks["validation"]
    on_device = jax.tree.map(jnp.asarray, data)
    classify = mapping.classifier_function(run, graph)

    def evaluate(parameters: nnx.State) -> dict[str, float]:
        probabilities = predict_scene(
            lambda centres: classify(parameters, on_device, centres),
            scene.shape,
            stride=run.config.classifier.centre,
            batch_size=run.config.predict.batch_size,
            where=validation,
        )
        prediction = probabilities["fused"][validation].argmax(-1)
        figures = scores(confusion_matrix(scene.labels[validation], prediction, len(scene.classes)))
        return {f"validation/{name}": float(figures[name]) for name in ("oa", "aa", "kappa")}

    return evaluate

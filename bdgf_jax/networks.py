"""The two networks of a run: built as they start, and loaded as they were trained."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from bdgf_jax.classifier.model import GuidedClassifier
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import LandCover
from bdgf_jax.training.checkpoints import kept_file, load_parameters

RECORDS = ("config.json", "scene.json")


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


def initialiser(run: Trained, guidance: Sequence[Any]) -> Callable[[Array], GuidedClassifier]:
    """(key) -> the run's classifier as it starts.

    Args:
      run: of the classifier.
      guidance: by level; only their shapes count.
    """
    return lambda key: GuidedClassifier(
        run.config.classifier,
        modalities=run.channels,
        guidance=[level.shape[-2:] for level in guidance],
        classes=len(run.classes),
        rngs=nnx.Rngs(key),
    )


def build(run: Trained, guidance: tuple[np.ndarray, ...]) -> tuple[nnx.GraphDef, nnx.State]:
    """The classifier as it starts, split into graph and parameters; of several seeds these have a leading axis."""
    created = nnx.jit(initialiser(run, guidance))
    # RBG keys: threefry's code, unrolled for every weight, takes four times as long to compile. Under vmap they would
    # give other numbers than one by one.
    members = [nnx.split(created(jax.random.key(seed, impl="rbg"))) for seed in seeds(run.config)]
    graph, states = members[0][0], [state for _, state in members]
    return graph, stacked(states) if len(states) > 1 else states[0]


def seeds(config: Config) -> tuple[int, ...]:
    """Those of the classifiers that are trained together.

    Raises:
      InputError: there is not one.
    """
    if config.train.num_seeds < 1:
        raise InputError(f"train.num_seeds must be 1 or more, got {config.train.num_seeds}.")
    return tuple(range(config.train.seed, config.train.seed + config.train.num_seeds))


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

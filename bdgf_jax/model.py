"""A trained model as one folder, and its use on scenes that it was not trained on.

The folder holds what the model needs and nothing else of its run, under the same names: `config.json`, `scene.json`
(statistics, band names, class table), the feature statistics, and one checkpoint of each stage. So the workdir of a run
is such a folder too. The checkpoints of a training hold copies of these files, and count where the files are gone.
"""

import copy
import dataclasses
import pathlib
import shutil
from typing import Literal

import jax
import jax.export
import ml_collections
import numpy as np

from bdgf_jax import configuration, extraction, mapping, networks
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.run import Run, as_trained_on, open_run, read_json, recorded_transforms
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import UNLABELLED, LandCover, Scene, check_absent, empty_masks
from bdgf_jax.scenes.statistics import BandTransform
from bdgf_jax.training.listing import list_checkpoints

PLATFORMS = ("cpu", "cuda", "tpu")
# What the selective scan's kernels are compiled to; only the jax that wrote them is sure to read them.
KERNELS = ("__gpu$xla.gpu.triton", "mosaic_gpu_v2")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model, apart from any scene.

    Args:
      config: as it was trained with, but for the sections `scene` and `predict`, which say what is mapped and how.
      weights: the folder that its checkpoints lie in.
      transforms: statistics of its modalities, in its order.
      classes: the class table.
    """

    config: Config
    weights: pathlib.Path
    transforms: dict[str, BandTransform]
    classes: tuple[LandCover, ...]

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each modality as the networks see it."""
        return {name: transform.projection.shape[1] for name, transform in self.transforms.items()}

    @property
    def used(self) -> Literal["last", "best"]:
        """Which of the classifier's checkpoints is used."""
        return "best"


def export_model(run: Run, folder: pathlib.Path) -> None:
    """Writes the run's trained model into a new folder, in one move.

    Raises:
      InputError: the folder exists, the model is guided by feature maps from files, or something that it needs is not
        there or damaged.
    """
    _check_portable(run.config, f"--workdir {run.workdir}")
    if folder.exists():
        raise InputError(f"--out {folder}: exists already; name a folder that does not.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    needed: list[str] = [*networks.RECORDS]
    if run.config.features.source != "none":
        needed.append(extraction.FEATURE_STATISTICS)
    needed.append(_chosen(run, "train", "best"))
    if run.config.features.source == "ddpm":
        needed.append(_chosen(run, "pretrain", "last"))
    for name in needed:
        source, target = run.workdir / name, partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise InputError(f"{source}: not there; `bdgf train` with the same --config and --workdir makes it.")
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    for platform, artefact in export_classifier(run).items():
        (partial / f"classifier.{platform}.stablehlo").write_bytes(artefact)
    partial.rename(folder)


def export_classifier(run: Run) -> dict[str, bytes]:
    """The classifier with its weights as StableHLO, serialised by `jax.export`, by platform: cpu, cuda, tpu.

    `jax.export.deserialize(artefact).call(images, guidance)` gives class probabilities "b s s k" of
    `predict.batch_size` patches: `images` maps each modality to its patches "b p p c" as the model sees them, after
    its transform; `guidance` holds the patches "b p p t d" of each level of the standardised diffusion features. The
    artefact for cuda may hold kernels that need the version of jax that wrote it; cpu and tpu are portable.
    """
    config = run.config
    guidance = extraction.features(run)
    graph, parameters = networks.trained_classifier(run, guidance)
    count, side = config.predict.batch_size, config.classifier.patch
    patches = lambda array: jax.ShapeDtypeStruct((count, side, side, *array.shape[2:]), array.dtype)
    shapes = jax.tree.map(patches, (run.images, list(guidance)))

    probabilities = mapping.patch_probabilities(run, graph)
    classify = jax.jit(lambda images, guidance: probabilities(parameters, images, guidance)["fused"])

    checked = [jax.export.DisabledSafetyCheck.custom_call(kernel) for kernel in KERNELS]
    artefact = lambda platform: jax.export.export(classify, platforms=[platform], disabled_checks=checked)(*shapes)
    return {platform: bytes(artefact(platform).serialize()) for platform in PLATFORMS}


def open_model(folder: pathlib.Path, config: Config, workdir: pathlib.Path, *, force: bool = False) -> Run:
    """A run that predicts another scene with the model; says where the scene lies far off the model's own.

    Args:
      folder: of the model.
      config: its `scene` and `predict` sections count, all else is the model's.
      workdir: that the maps are written to.
      force: as of `open_run`.

    Raises:
      InputError: the folder holds no model, or one that files guide; modalities, but for those of `predict.without`,
        or bands are not the scene's, by name.
    """
    if folder.resolve() == workdir.resolve():
        raise InputError(f"--workdir {workdir} is the model's own folder; name another one for the maps.")
    model = read_model(folder, config)
    without = config.predict.without
    check_absent(without, model.transforms)
    scene = _as_the_model_knows_it(load_scene(config.scene, without), model)
    return open_run(model.config, workdir, scene, force=force, transforms=model.transforms, model=folder)


def read_model(folder: pathlib.Path, config: Config) -> Model:
    """What a folder says of the model in it.

    Args:
      folder: of the model, or the workdir of a run.
      config: its `scene` and `predict` sections take the place of the model's.

    Raises:
      InputError: the folder holds no model, or one that files guide.
    """
    records = {name: read_json(networks.model_file(folder, name)) for name in networks.RECORDS}
    for name, record in records.items():
        if not record:
            raise InputError(f"--model {folder}: holds no {name}, so it is no model; `bdgf export` writes one.")
    resolved = ml_collections.ConfigDict(configuration.from_json(records["config.json"]["config"]))
    _check_portable(resolved, f"--model {folder}")
    resolved.scene, resolved.predict = copy.deepcopy(config.scene), copy.deepcopy(config.predict)
    described = records["scene.json"]
    transforms = recorded_transforms(described)
    return Model(resolved, folder, transforms, tuple(LandCover(**cover) for cover in described["classes"]))


def _check_portable(config: Config, what: str) -> None:
    if config.features.source not in extraction.FEATURE_SOURCES:
        raise InputError(
            f"{what} holds a model that is guided by feature maps from {config.features.source}; it cannot leave its"
            " scene, since nothing here makes these maps of another one."
        )


def _as_the_model_knows_it(scene: Scene, model: Model) -> Scene:
    # The scene's own labels may be of another class table, and prediction needs none.
    return dataclasses.replace(
        as_trained_on(scene, model.transforms),
        classes=model.classes,
        labels=np.full(scene.shape, UNLABELLED, np.int32),
        masks=empty_masks(scene.shape),
    )


def _chosen(run: Run, stage: str, role: str) -> str:
    """Path of the checkpoint that prediction would use; the last one where no other was found the best."""
    folder = f"{stage}/checkpoints"
    whole = [entry for entry in list_checkpoints(run.workdir / folder) if entry.roles]
    if not whole:
        raise InputError(f"{run.workdir / folder} holds no whole checkpoint; `bdgf {stage}` makes one.")
    (best, *_) = [entry for entry in whole if role in entry.roles] or whole
    return f"{folder}/{best.name}"

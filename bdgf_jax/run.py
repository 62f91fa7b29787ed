"""A run: its workdir, its configuration and its scene, and the records that it keeps of them."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from bdgf_jax import configuration
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.drift import find_drift
from bdgf_jax.scenes.inspection import inspect_scene, refuse_errors
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import Finding, LandCover, Modality, Scene, check_absent, check_modalities
from bdgf_jax.scenes.statistics import BandTransform, apply_band_transform, fit_band_transform
from bdgf_jax.training.distributed import is_first
from bdgf_jax.versions import versions

# A run that was started with other values of these cannot be continued; the other sections only shape what is shown.
TRAINING_SECTIONS = ("scene", "diffusion", "masking", "pretrain", "features", "classifier", "train")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What every stretch of the road is given: `images` are the scene's modalities as the models see them."""

    config: Config
    workdir: pathlib.Path
    scene: Scene
    transforms: dict[str, BandTransform]
    images: dict[str, Float[ndarray, "h w _"]]
    model: pathlib.Path | None = None

    @property
    def weights(self) -> pathlib.Path:
        """The folder that the checkpoints lie in: the run's own, or that of the model which another run has left."""
        return self.model or self.workdir

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each modality as the models see it."""
        return {name: image.shape[-1] for name, image in self.images.items()}

    @property
    def classes(self) -> tuple[LandCover, ...]:
        """The class table."""
        return self.scene.classes

    @property
    def used(self) -> Literal["last", "best"]:
        """Which of the classifier's checkpoints is used: the best one where that is known."""
        return "best" if self.watched or self.model else "last"

    @property
    def valid(self) -> dict[str, Bool[ndarray, "h w"]]:
        """Pixels of each modality that hold data; none of one that is absent."""
        return validity(self.images, self.scene.modalities)

    @property
    def watched(self) -> bool:
        """Whether training is evaluated on validation pixels, so that the best step is known and used."""
        return bool(self.config.train.evaluate_every and self.scene.masks["validation"].any())


def open_run(
    config: Config,
    workdir: pathlib.Path,
    scene: Scene | None = None,
    *,
    force: bool = False,
    transforms: dict[str, BandTransform] | None = None,
    model: pathlib.Path | None = None,
    without: Sequence[str] = (),
) -> Run:
    """Checks that the workdir can be used by this config, reads the scene, and notes both in the workdir.

    Args:
      config: the resolved configuration.
      workdir: made if it is not there.
      scene: given when it was read already.
      force: go on with a run of another configuration, and say which fields that overrides.
      transforms: of each modality, those of `model`; fitted on the scene by default.
      model: the folder of the trained model that is used; the workdir by default.
      without: modalities that the scene is read without.

    Raises:
      InputError: the workdir cannot be written or holds a run of another configuration; the scene cannot be used; the
        workdir's model knows no such modality, or no other.
    """
    check_workdir(config, workdir, force=force)
    if without:
        check_absent(without, _recorded_modalities(workdir))
    scene = load_scene(config.scene, without) if scene is None else scene
    findings = inspect_scene(scene, patch=configuration.side_seen(config))
    refuse_errors(findings)
    transforms = _transforms(config, workdir, scene) if transforms is None else transforms
    images = seen_by_models(transforms, scene.modalities)
    if config.pretrain.corpus:
        findings = [*findings, *find_drift(scene.modalities, transforms)]
    workdir.mkdir(parents=True, exist_ok=True)
    if is_first():
        write_json(workdir / "config.json", {"config": config.to_dict(), "versions": versions()})
        write_json(workdir / "scene.json", describe_scene(scene, transforms, findings))
    return Run(config, workdir, scene, transforms, images, model)


def describe_scene(scene: Scene, transforms: dict[str, BandTransform], findings: list[Finding]) -> dict[str, Any]:
    """What was read, as `scene.json` keeps it; statistics, band names and class table travel with the model in it."""
    return {
        "name": scene.name,
        "shape": list(scene.shape),
        "georeference": dataclasses.asdict(scene.georeference) if scene.georeference else None,
        "sources": [dataclasses.asdict(source) for source in scene.sources],
        "modalities": {
            name: _describe_modality(scene.modalities.get(name), transform) for name, transform in transforms.items()
        },
        "classes": [dataclasses.asdict(cover) for cover in scene.classes],
        "split": {"description": scene.split, **{name: int(mask.sum()) for name, mask in scene.masks.items()}},
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _describe_modality(modality: Modality | None, transform: BandTransform) -> dict[str, Any]:
    """Of one that is absent, what the model has to know of it."""
    known = {"bands": list(transform.bands), "statistics": transform.to_dict()}
    if modality is None:
        return {"absent": True, **known}
    pixels = modality.image[modality.valid]
    return {
        "kind": modality.kind,
        "range": [float(pixels.min()), float(pixels.max())],
        "nodata_pixels": int((~modality.valid).sum()),
        **known,
    }


def _recorded_modalities(workdir: pathlib.Path) -> list[str]:
    described = read_json(workdir / "scene.json")
    if not (workdir / "train" / "checkpoints").is_dir() or not described:
        raise InputError(f"{workdir}: nothing was trained yet, so there is no model that could do without a sensor.")
    return list(described["modalities"])


def seen_by_models(
    transforms: Mapping[str, BandTransform], modalities: Mapping[str, Modality]
) -> dict[str, Float[ndarray, "h w _"]]:
    """Every modality that the transforms know as the models see it: 0 everywhere where it is absent.

    Raises:
      InputError: the bands of a modality are not its transform's.
    """
    shape = next(iter(modalities.values())).valid.shape
    nothing = lambda transform: np.zeros((*shape, transform.projection.shape[1]), np.float32)
    return {
        name: transformed(name, transform, modalities[name]) if name in modalities else nothing(transform)
        for name, transform in transforms.items()
    }


def validity(names: Iterable[str], modalities: Mapping[str, Modality]) -> dict[str, Bool[ndarray, "h w"]]:
    """Pixels of each of these modalities that hold data: none of one that is absent."""
    nothing = np.zeros(next(iter(modalities.values())).valid.shape, bool)
    return {name: modalities[name].valid if name in modalities else nothing for name in names}


def without(run: Run, absent: Sequence[str]) -> Run:
    """The run as it would be if these modalities of its scene were absent.

    Raises:
      InputError: the scene has no such modality, or no other.
    """
    check_absent(absent, run.images)
    left = {name: modality for name, modality in run.scene.modalities.items() if name not in absent}
    scene = dataclasses.replace(run.scene, modalities=left, absent=(*run.scene.absent, *absent))
    images = {name: np.zeros_like(image) if name in absent else image for name, image in run.images.items()}
    return dataclasses.replace(run, scene=scene, images=images)


def recorded_transforms(described: dict[str, Any]) -> dict[str, BandTransform]:
    """The statistics in a `scene.json`, in the order of the model's modalities, which is that of the JSON object."""
    return {name: BandTransform.from_dict(modality["statistics"]) for name, modality in described["modalities"].items()}


def as_trained_on(scene: Scene, transforms: dict[str, BandTransform]) -> Scene:
    """The scene with its modalities in the order of a model's; says, and notes, where it lies far off the model's own.

    Raises:
      InputError: modalities or bands are not those of the transforms, by name.
    """
    check_modalities(transforms, [*scene.modalities, *scene.absent])
    modalities = {name: scene.modalities[name] for name in transforms if name in scene.modalities}
    findings = find_drift(modalities, transforms)
    for found in findings:
        print(f"{found.subject} {found.message}", file=sys.stderr, flush=True)
    return dataclasses.replace(scene, modalities=modalities, findings=(*scene.findings, *findings))


def _transforms(config: Config, workdir: pathlib.Path, scene: Scene) -> dict[str, BandTransform]:
    """Statistics that the workdir's models were trained with; where there are none yet, the corpus's or scene's own.

    Raises:
      InputError: the models know other classes, or the corpus cannot be used.
    """
    trained = any((workdir / stretch / "checkpoints").is_dir() for stretch in ("pretrain", "train"))
    before = read_json(workdir / "scene.json") if trained else {}
    if not before and config.pretrain.corpus:
        return _corpus_transforms(config, scene)
    if not before:
        return {
            name: fit_band_transform(modality, **config.scene.statistics) for name, modality in scene.modalities.items()
        }
    known, found = [cover["name"] for cover in before["classes"]], [cover.name for cover in scene.classes]
    if known != found:
        raise InputError(
            f"--workdir {workdir} holds a model of the classes {', '.join(known)}; the scene has {', '.join(found)}."
            " Use the label file that it was trained with, or another --workdir."
        )
    transforms = recorded_transforms(before)
    names = [*scene.modalities, *scene.absent]
    check_modalities(transforms, names)
    return {name: transforms[name] for name in transforms if name in names}


def _corpus_transforms(config: Config, scene: Scene) -> dict[str, BandTransform]:
    # Imported here: TensorFlow Datasets is slow to import, and no other run needs it.
    from bdgf_jax.scenes.corpus import open_corpus

    corpus = open_corpus(config.pretrain.corpus, config.scene, tile=config.pretrain.tile)
    transforms = corpus.transforms(**config.scene.statistics)
    check_modalities(transforms, scene.modalities)
    return {name: transforms[name] for name in scene.modalities}


def transformed(name: str, transform: BandTransform, modality: Modality) -> Float[ndarray, "h w _"]:
    """A modality as the models see it.

    Raises:
      InputError: its bands are not the transform's.
    """
    try:
        return apply_band_transform(transform, modality)
    except InputError as error:
        raise InputError(f"modality '{name}': {error}") from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The record in a file, or nothing where there is no such file.

    Raises:
      InputError: the file is not JSON.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}). Delete it, or use another --workdir.") from error


def write_json(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes a record in one move, so that a reader never meets half of one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    partial.replace(path)


def check_writable(workdir: pathlib.Path) -> None:
    """Makes a workdir, and raises an InputError where nothing can be written there."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--workdir {workdir}: cannot be written ({error.strerror}).") from error


def check_workdir(config: Config, workdir: pathlib.Path, *, force: bool) -> None:
    """Makes the workdir.

    Raises:
      InputError: it cannot be written, or holds a run of another configuration and `force` is not given.
    """
    check_writable(workdir)
    before = read_json(workdir / "config.json").get("config")
    if before is None:
        return
    after = json.loads(json.dumps(config.to_dict()))
    if changed := configuration.differences(before, after, TRAINING_SECTIONS):
        listed = "\n  ".join(changed)
        if force:
            print(f"--force: the run in {workdir} goes on with another configuration:\n  {listed}", flush=True)
            return
        raise InputError(
            f"--workdir {workdir} holds a run of another configuration:\n  {listed}\n"
            "Take these fields back to continue it, start afresh in another --workdir, or go on regardless with"
            " --force."
        )

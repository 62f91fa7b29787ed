"""A DDPM that another run has pre-trained, on another scene or on a corpus, as what guides the classifier of this one.

It is taken over into the workdir with its statistics, so that a run is whole by itself whatever becomes of the other.
"""

import copy
import pathlib
import shutil
from collections.abc import Sequence

from bdgf_jax.configuration import Config, from_json
from bdgf_jax.errors import InputError
from bdgf_jax.run import Run, as_trained_on, check_writable, open_run, read_json, recorded_transforms
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import Scene, check_absent
from bdgf_jax.training.distributed import is_first
from bdgf_jax.training.listing import list_checkpoints

CHECKPOINTS = pathlib.Path("pretrain") / "checkpoints"


def open_guided(
    config: Config,
    workdir: pathlib.Path,
    scene: Scene | None = None,
    *,
    force: bool = False,
    without: Sequence[str] = (),
) -> Run:
    """A run whose DDPM is that of `features.checkpoint`; says where the scene lies far off what that one has seen.

    The `diffusion` section, the statistics and the order of the modalities are the pre-training's.

    Args:
      config: the resolved configuration.
      workdir: as of `open_run`.
      scene: given when it was read already.
      force: as of `open_run`.
      without: as of `open_run`.

    Raises:
      InputError: there is no whole checkpoint of a pre-training, the workdir holds another one, or modalities or bands
        are not the scene's, by name.
    """
    _check_use(config)
    check_writable(workdir)
    given = config.features.checkpoint
    before = read_json(workdir / "config.json").get("config", {}).get("features", {}).get("checkpoint")
    taken_over = before == given and (workdir / CHECKPOINTS).is_dir()
    if not taken_over and (workdir / CHECKPOINTS).is_dir():
        raise InputError(
            f"--workdir {workdir} holds another DDPM than that of features.checkpoint {given}; use another one."
        )
    root, checkpoint = (workdir, None) if taken_over else _find(pathlib.Path(given).expanduser())
    described, pretraining = (read_json(root / name) for name in ("scene.json", "config.json"))
    if not described or not pretraining:
        raise InputError(f"features.checkpoint {given}: {root} holds no scene.json or no config.json, so it is no run.")
    config = copy.deepcopy(config)
    config.diffusion.update(from_json(pretraining["config"]["diffusion"]))
    transforms = recorded_transforms(described)
    check_absent(without, transforms)
    scene = load_scene(config.scene, without) if scene is None else scene
    try:
        scene = as_trained_on(scene, transforms)
    except InputError as error:
        raise InputError(f"features.checkpoint {given}: {error}") from error
    known = None if taken_over else transforms
    run = open_run(config, workdir, scene, force=force, transforms=known, without=without)
    if checkpoint is not None and is_first():
        _take_over(checkpoint, workdir / CHECKPOINTS)
    return run


def _check_use(config: Config) -> None:
    given = config.features.checkpoint
    if config.features.source != "ddpm":
        raise InputError(
            f"features.checkpoint is {given}, and features.source is '{config.features.source}', which uses no"
            " checkpoint; set features.source to 'ddpm'."
        )
    if config.pretrain.corpus:
        raise InputError(
            f"features.checkpoint is {given}, so nothing is pre-trained; leave pretrain.corpus empty (it is"
            f" {config.pretrain.corpus})."
        )


def _find(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The folder of the run, and its checkpoint: the one that is named, else the last whole one."""
    roots = [folder for folder in (path, *path.absolute().parents[:3]) if (folder / CHECKPOINTS).is_dir()]
    if not path.exists() or not roots:
        raise InputError(
            f"features.checkpoint {path}: no pre-training is there; name the --workdir of `bdgf pretrain`, a folder"
            " from `bdgf export`, or a checkpoint in one of them."
        )
    found = list_checkpoints(roots[0] / CHECKPOINTS)
    whole = {entry.name for entry in found if entry.health == "whole"}
    named = [entry for entry in found if path.name == entry.name and path.parent.name == CHECKPOINTS.name]
    chosen = named or [entry for entry in found if "last" in entry.roles]
    if not chosen or chosen[0].name not in whole:
        health = ", ".join(f"{entry.name}: {entry.health}" for entry in named or found) or "it is empty"
        raise InputError(f"features.checkpoint {path}: there is no whole checkpoint to use ({health}).")
    return roots[0], roots[0] / CHECKPOINTS / chosen[0].name


def _take_over(checkpoint: pathlib.Path, folder: pathlib.Path) -> None:
    """In one move, after everything else is noted, so that what lies there is never half a pre-training."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial / checkpoint.name)
    partial.rename(folder)

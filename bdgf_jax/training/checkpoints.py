"""Checkpoints: written while training goes on, the last and the best kept, never restored damaged.

A checkpoint is a folder named by its step. It holds `ema`, the weights that prediction needs, and `training`, the rest
of the train state, each a flat mapping from path to array, so that no library's structures are part of the format.
Where batches are read from files, `batches` says from which, and how far.
"""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from jaxtyping import PyTree

from bdgf_jax.errors import InputError
from bdgf_jax.training.manifest import Manifest, find_damage, read_manifest, write_manifest
from bdgf_jax.training.state import TrainState

Flat = dict[str, jax.Array | jax.ShapeDtypeStruct]

# Where checkpoints go that are no longer kept, whole, so that a kill while they are deleted leaves no half of one.
DELETED = "deleted"
POSITION = "batches"


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save when it is left.

    What is found damaged is set aside under another name, and a warning says so.

    Args:
      folder: where they lie; made if need be.
      keep: how many of the latest are kept, besides the one with the highest score.
      files: copied into each checkpoint, by their path in it: what is needed to use it apart from its run.
    """

    def __init__(self, folder: Path, *, keep: int, files: Mapping[str, Path] | None = None):
        self._folder = folder.absolute()
        self._keep = max(keep, 1)
        self._files = files or {}
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._delete()
            _set_damaged_aside(self._folder)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._scores = {step: read_manifest(self._folder / str(step)).score for step in _steps(self._folder)}
        self._saving: Manifest | None = None
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LastAndBest(self._is_kept),
                todelete_subdir=DELETED,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._manager.close()
            if jax.process_index() == 0:
                self._delete()

    @property
    def last_step(self) -> int | None:
        """Step of the latest checkpoint, or None."""
        return max(self._scores, default=None)

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest score, the later of equals, or None."""
        return _best(self._scores)

    def is_best(self, score: float) -> bool:
        """Whether no checkpoint has a higher score."""
        return score >= max((other for other in self._scores.values() if other is not None), default=score)

    def save(
        self, step: int, state: TrainState, score: float | None = None, position: dict[str, Any] | None = None
    ) -> None:
        """Starts to save, and returns as soon as the state's memory may be overwritten.

        Does nothing where `step` is saved already.

        Args:
          step: steps done.
          state: all that is saved.
          score: higher is better; None where the state was not evaluated.
          position: where the batches are, for JSON; None where the step says it.

        Raises:
          InputError: the save before this one failed.
        """
        if step in self._scores:
            return
        self.wait()
        flat = _flat(state)
        ema, training = _parts(flat)
        self._saving = Manifest(step, score, _described(flat))
        self._scores[step] = score
        items: dict[str, Any] = {"ema": ocp.args.PyTreeSave(ema), "training": ocp.args.PyTreeSave(training)}
        if position is not None:
            items[POSITION] = ocp.args.JsonSave(position)
        self._manager.save(step, args=ocp.args.Composite(**items))
        self._scores = {step: self._scores[step] for step in self._manager.all_steps()}

    def restore(self, like: TrainState, sharding: Sharding) -> TrainState | None:
        """The latest state, or None where there is none.

        Args:
          like: a state, or `jax.ShapeDtypeStruct`s, of the same structure, shapes and dtypes.
          sharding: where each array goes.

        Raises:
          InputError: the checkpoint holds arrays of other names, shapes or dtypes.
        """
        if self.last_step is None:
            return None
        checkpoint, flat = self._folder / str(self.last_step), _flat(like)
        _check_fit(checkpoint, flat)
        ema, training = _parts(flat)
        arrays = _read(checkpoint / "ema", ema, sharding) | _read(checkpoint / "training", training, sharding)
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in flat])

    def position(self) -> dict[str, Any] | None:
        """Where the batches were at the latest state; None where it did not say."""
        if self.last_step is None or not (self._folder / str(self.last_step) / POSITION).is_dir():
            return None
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            return checkpointer.restore(self._folder / str(self.last_step) / POSITION)

    def wait(self) -> None:
        """Returns when the last save is committed.

        Raises:
          InputError: it failed, such as on a full disk; the checkpoints before it are whole.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise InputError(
                f"A checkpoint could not be saved in {self._folder}: {error}. Those before it are whole; once"
                " the folder can be written and the disk has room, the same command continues from the last one."
            ) from error

    def _before_commit(self) -> None:
        self._delete()
        assert self._saving is not None
        (checkpoint,) = self._folder.glob(f"{self._saving.step}.orbax-checkpoint-tmp*")
        for name, path in self._files.items():
            (checkpoint / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, checkpoint / name)
        write_manifest(checkpoint, self._saving)

    def _delete(self) -> None:
        shutil.rmtree(self._folder / DELETED, ignore_errors=True)

    def _is_kept(self, step: int, steps: list[int]) -> bool:
        return step in steps[-self._keep :] or step == self.best_step


class _LastAndBest:
    """What Orbax asks which checkpoints to keep."""

    def __init__(self, is_kept):
        self._is_kept = is_kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [self._is_kept(step, steps) for step in steps]


def load_parameters(folder: Path, abstract: PyTree, which: Literal["last", "best"] = "last") -> PyTree:
    """The averaged parameters of a run, for use without training.

    Args:
      folder: of the run's checkpoints.
      abstract: arrays or `jax.ShapeDtypeStruct`s of the same structure, shapes and dtypes as the parameters.
      which: `last`, or `best` by validation; without any score the last is the best. Damaged ones are passed over with
        a warning.

    Raises:
      InputError: no whole checkpoint is there, or it holds arrays of other names, shapes or dtypes.
    """
    damages = {step: find_damage(folder / str(step)) for step in _steps(folder)}
    for step, damage in damages.items():
        if damage:
            warnings.warn(f"The checkpoint {folder / str(step)} is damaged ({damage}) and is not used.", stacklevel=2)
    scores = {step: read_manifest(folder / str(step)).score for step, damage in damages.items() if not damage}
    if not scores:
        raise InputError(f"{folder} holds no whole checkpoint; train first, or check --workdir.")
    step = _best(scores) if which == "best" else None
    checkpoint = folder.absolute() / str(max(scores) if step is None else step)
    flat = _flat({"ema": abstract})
    _check_fit(checkpoint, flat, only="ema/")
    arrays = _read(checkpoint / "ema", flat, None)
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in flat])


def load_arrays(folder: Path) -> dict[str, jax.Array]:
    """All arrays of the last checkpoint by name, such as "parameters/kernel", the optimiser's included.

    Args:
      folder: of the run's checkpoints.

    Raises:
      InputError: there is no checkpoint, or the last one is damaged.
    """
    steps = _steps(folder)
    damage = find_damage(folder / str(steps[-1])) if steps else "there is none"
    if damage:
        raise InputError(f"{folder}: the last checkpoint cannot be used: {damage}.")
    checkpoint = folder.absolute() / str(steps[-1])
    ema, training = _parts({name: jax.ShapeDtypeStruct((), "float32") for name in read_manifest(checkpoint).arrays})
    return _read(checkpoint / "ema", ema, None) | _read(checkpoint / "training", training, None)


def kept_file(folder: Path, name: str) -> Path | None:
    """A file that was copied into the checkpoints, in the last that is whole and holds it; None where none does."""
    for step in reversed(_steps(folder)):
        checkpoint = folder / str(step)
        if (checkpoint / name).is_file() and find_damage(checkpoint) is None:
            return checkpoint / name
    return None


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _best(scores: dict[int, float | None]) -> int | None:
    scored = [(score, step) for step, score in scores.items() if score is not None]
    return max(scored)[1] if scored else None


def _set_damaged_aside(folder: Path) -> None:
    for step in _steps(folder):
        checkpoint = folder / str(step)
        damage = find_damage(checkpoint)
        if damage is None:
            continue
        aside, copy = checkpoint.with_name(f"{step}.damaged"), 1
        while aside.exists():
            copy += 1
            aside = checkpoint.with_name(f"{step}.damaged-{copy}")
        checkpoint.rename(aside)
        warnings.warn(
            f"The checkpoint {checkpoint} is damaged ({damage}). It is set aside as {aside.name}, and the one before"
            " it is used.",
            stacklevel=4,
        )


def _flat(tree: PyTree) -> Flat:
    """Path -> leaf, in the tree's order."""
    leaves = jax.tree.leaves_with_path(tree)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(flat) < len(leaves):
        raise ValueError("Two leaves of the tree have the same path; no key of a mapping may hold a '/'.")
    return flat


def _parts(flat: Flat) -> tuple[Flat, Flat]:
    ema = {name: leaf for name, leaf in flat.items() if name.startswith("ema/")}
    return ema, {name: leaf for name, leaf in flat.items() if name not in ema}


def _described(flat: Flat) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in flat.items()}


def _check_fit(checkpoint: Path, flat: Flat, only: str = "") -> None:
    there = {name: kind for name, kind in read_manifest(checkpoint).arrays.items() if name.startswith(only)}
    here = _described(flat)
    differing = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if differing:
        name = differing[0]
        raise InputError(
            f"The checkpoint {checkpoint} does not fit the model: {name} is {there.get(name, 'absent')} in the"
            f" checkpoint and {here.get(name, 'absent')} in the model ({len(differing)} differ in all). Use the"
            " configuration that it was trained with, or another --workdir."
        )


def _read(item: Path, flat: Flat, sharding: Sharding | None) -> dict[str, jax.Array]:
    """The arrays of an item, put where `sharding` says, or else left free to go where they are used."""
    if not flat:
        return {}
    if sharding is None:
        kinds = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in flat}
        # Not by a checkpointer, which waits for all processes to read: one may read by itself.
        handler, arguments = ocp.PyTreeCheckpointHandler(), ocp.args.PyTreeRestore(dict(flat), restore_args=kinds)
        arrays = handler.restore(item, args=arguments)  # pyright: ignore[reportArgumentType]
    else:
        kinds = {name: ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape) for name, leaf in flat.items()}
        with ocp.PyTreeCheckpointer() as checkpointer:
            arrays = checkpointer.restore(item, args=ocp.args.PyTreeRestore(dict(flat), restore_args=kinds))
    return {name: jnp.asarray(array) for name, array in arrays.items()}

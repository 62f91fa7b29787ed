"""Finds a config by name or file, applies overrides, and says which fields of two configs differ."""

import difflib
import pathlib
import re
import runpy
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from bdgf_jax.errors import InputError
from bdgf_jax.ranges import check_ranges

# An ml_collections.ConfigDict, whose fields are known at run time only.
Config = Any

INSTALLED = pathlib.Path(__file__).parent / "configs"
CHECKOUT = pathlib.Path(__file__).parent.parent / "configs"
SIZES = ("", "tiny", "paper")
# What the size `paper` changes: everything that the abstract of arXiv 2509.23310 names is on, and what is ours is off.
PAPER = {
    "features.timesteps": (50, 100, 400),
    "features.draws": 1,
    "features.levels": (0, 1, 2),
    "features.context.components": 0,
    "classifier.patch": 11,
    "classifier.centre": 1,
    "classifier.directions": "four",
    "classifier.direct.landmarks": 0,
    "train.jitter": 0.0,
}
# Sections whose fields are the user's to name.
FREE = ("scene.modalities.", "scene.labels.names.", "scene.labels.colours.")
# Fields that shape how a training runs and not what comes out, so that a run may go on with other ones.
HAVE_NO_SAY = (".steps_together", ".log_every", ".keep", ".rematerialise")


def from_json(value: Any) -> Any:
    """What a config held before it was written as JSON, which knows lists only where a config holds tuples."""
    if isinstance(value, dict):
        return {name: from_json(one) for name, one in value.items()}
    return tuple(map(from_json, value)) if isinstance(value, list) else value


def config_folder() -> pathlib.Path:
    """Where the named configs lie: in the installed package, or beside it in a checkout."""
    return INSTALLED if INSTALLED.is_dir() else CHECKOUT


def config_names() -> list[str]:
    """Names that `load` knows."""
    return sorted(path.stem for path in config_folder().glob("*.py") if path.stem != "__init__")


def load(name_or_file: str, overrides: Iterable[str] = ()) -> Config:
    """The config of that name (`demo`) or in that file (`my_scene.py`), overrides applied.

    Args:
      name_or_file: `:tiny` behind it asks for the size that tests run, `:paper` for the method as its paper has it,
        without what is ours.
      overrides: `--config.train.steps=200` and the like.

    Raises:
      InputError: no such config or field, or a value of the wrong type or out of its range.
    """
    name, _, size = name_or_file.partition(":")
    path = pathlib.Path(name) if name.endswith(".py") else config_folder() / f"{name}.py"
    if not path.is_file():
        known = ", ".join(config_names())
        raise InputError(f"--config {name}: no such config. It is the path of a .py file or one of: {known}.")
    if size not in SIZES:
        raise InputError(
            f"--config {name_or_file}: no such size. {name}:tiny is the one that tests run,"
            f" {name}:paper the method as its paper has it."
        )
    config = _run_file(path, "" if size == "paper" else size)
    if size == "paper":
        config.update_from_flattened_dict(PAPER)
    if path.stem != "base":
        _check_fields(path, _defaults(), dict(flatten(config)))
    config = _override(config, list(overrides))
    check_ranges(dict(flatten(config)))
    return config


def _run_file(path: pathlib.Path, size: str) -> Config:
    try:
        return runpy.run_path(str(path))["get_config"](size)
    except InputError:
        raise
    except KeyError as error:
        if error.args != ("get_config",):
            raise _in_file(path, error) from error
        raise InputError(f"--config {path}: there is no function get_config(size) in it; see `base`.") from error
    # A config is the user's program, which may fail in any way.
    except Exception as error:
        raise _in_file(path, error) from error


def _in_file(path: pathlib.Path, error: Exception) -> InputError:
    """The line of the config that failed, which names the field, and why."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f", line {lines[-1].lineno}: `{lines[-1].line}`" if lines else ""
    return InputError(f"--config {path}{place} cannot be used: {type(error).__name__}: {error}")


def _check_fields(path: pathlib.Path, base: dict[str, object], given: dict[str, object]) -> None:
    """Raises an InputError for a field that `base` does not have, and for one that is gone."""
    for field in given:
        if field not in base and not field.startswith(FREE):
            near = difflib.get_close_matches(field, base, n=1, cutoff=0.0)
            raise InputError(f"--config {path}: there is no field config.{field}. Did you mean config.{near[0]}?")
    for field in base:
        if field not in given and not any(one.startswith(f"{field}.") for one in given):
            section, _, _ = field.rpartition(".")
            raise InputError(
                f"--config {path}: config.{field} is gone, since config.{section} was replaced as a whole; set its"
                f" fields one by one, as in config.{field} = {base[field]!r}."
            )


def last_of_each(overrides: list[str]) -> list[str]:
    """Without those that a later one of the same field replaces; ml_collections would put tuples one behind another."""
    last = {override.partition("=")[0]: place for place, override in enumerate(overrides)}
    return [one for place, one in enumerate(overrides) if "=" not in one or last[one.partition("=")[0]] == place]


def _override(config: Config, overrides: list[str]) -> Config:
    arguments = ["bdgf", *last_of_each(overrides)]
    values = flags.FlagValues()
    defaults = dict(flatten(config))
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=False, sys_argv=arguments)
        values(arguments)
        return values["config"].value
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(_explain(error, overrides, defaults)) from error


def flatten(config: ml_collections.ConfigDict | dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted field name, value) of every leaf; tuples and lists are alike."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict | dict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            plain = dict(value) if isinstance(value, ml_collections.ConfigDict) else value
            yield f"{prefix}{key}", list(plain) if isinstance(plain, tuple) else plain


def side_seen(config: Config) -> int:
    """Side of the square round a pixel that its prediction may see, in pixels: its patch, whose centre it lies in."""
    return config.classifier.patch + config.classifier.centre - 1


def differences(before: dict, after: dict, sections: Iterable[str]) -> list[str]:
    """`field: before -> after` for every field of these sections that differs and has a say in what is learnt.

    A field that `before` does not know came later than it: its default does what was done then.
    """
    wanted = tuple(f"{section}." for section in sections)
    defaults = {field: value for field, value in _defaults().items() if not f"{field}.".startswith(FREE)}
    old, new = defaults | dict(flatten(before)), defaults | dict(flatten(after))
    has_a_say = lambda field: field.startswith(wanted) and not field.endswith(HAVE_NO_SAY)
    fields = [field for field in {**old, **new} if has_a_say(field)]
    return [
        f"{field}: {old.get(field)!r} -> {new.get(field)!r}" for field in fields if old.get(field) != new.get(field)
    ]


def _defaults() -> dict[str, object]:
    """What `base` has in every field."""
    return dict(flatten(_run_file(config_folder() / "base.py", "")))


def _explain(error: Exception, overrides: list[str], fields: dict[str, object]) -> str:
    for override in overrides:
        match = re.fullmatch(r"--config\.([\w.]+)(?:=(.*))?", override)
        if match is None:
            return f"{override}: not understood. Overrides look like --config.train.steps=200."
        field, value = match.groups()
        if field not in fields:
            near = difflib.get_close_matches(field, fields, n=1, cutoff=0.0)
            return f"--config.{field}: there is no such field. Did you mean --config.{near[0]}?"
        if isinstance(fields[field], int | float) and not isinstance(fields[field], bool) and value:
            try:
                (float if isinstance(fields[field], float) else int)(value)
            except ValueError:
                expected = type(fields[field]).__name__
                return f"--config.{field}={value}: expected {expected}, such as {fields[field]!r}."
    return f"the config can't be used with {' '.join(overrides) or 'its own values'}: {error}"

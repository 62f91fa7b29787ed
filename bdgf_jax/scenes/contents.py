"""The files that a configuration names, read onto the scene's grid: images, labels and masks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid, resample
from bdgf_jax.scenes.raster import Raster
from bdgf_jax.scenes.readers import ARRAY_SUFFIXES, describe_source, read_array, read_raster
from bdgf_jax.scenes.scene import Finding, Source
from bdgf_jax.scenes.vector_labels import burn_polygons, is_vector

SIDE_FILES = (".hdr", ".dbf", ".prj")  # that belong to an ENVI image or a shapefile


@dataclass(frozen=True, eq=False)
class LabelValues:
    """Labels as they are stored, on the scene's grid.

    Args:
      values: what a pixel holds.
      valid: where it holds anything.
      names: class names by value, as far as they are known.
      what: the file, for messages.
      findings: what was noticed.
    """

    values: Shaped[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]
    names: Mapping[str, str]
    what: str
    findings: tuple[Finding, ...] = ()


@runtime_checkable
class Contents(Protocol):
    """What a scene is put together from."""

    def image(self, name: str, options: Mapping[str, Any], onto: Grid | None) -> Raster:
        """The image of a modality, as much of it as resampling it onto a grid needs."""
        ...

    def labels(self, grid: Grid) -> LabelValues | None:
        """The labels, None where none are given."""
        ...

    def mask(self, name: str, grid: Grid) -> Shaped[np.ndarray, "h w"] | None:
        """The "train" or "test" mask, not 0 where it holds; None where it is not given."""
        ...

    def sources(self) -> tuple[Source, ...]:
        """The files behind all this."""
        ...


class FileContents:
    """The contents of the files that the `scene` section of a configuration names.

    Args:
      config: the section.
      without: modalities whose files are left alone.
    """

    def __init__(self, config: Any, without: Sequence[str] = ()):
        self.config, self._without = config, without

    def image(self, name: str, options: Mapping[str, Any], onto: Grid | None) -> Raster:
        """Reads the file of a modality."""
        return read_raster(
            self.path(options["file"]),
            key=options.get("key", ""),
            bands=tuple(options.get("bands", ())),
            nodata=options.get("nodata"),
            onto=onto,
        )

    def labels(self, grid: Grid) -> LabelValues | None:
        """Reads the label image or polygons, or where there are none, training and test images that hold classes."""
        options, names = self.config.labels, names_by_value(self.config)
        path = self.path(options.file)
        if options.file and is_vector(path):
            values, valid, names, findings = burn_polygons(
                path, grid, attribute=options.attribute, layer=options.layer, names=names
            )
            return LabelValues(values, valid, names, path.name, tuple(findings))
        if options.file:
            values, valid, findings = _read_codes(path, options.key, grid, "the label image")
            return LabelValues(values, valid, names, path.name, tuple(findings))
        if self.config.split.kind != "masks" or (train := self.mask("train", grid)) is None:
            return None
        test = self.mask("test", grid)
        values = train if test is None else np.where(train != 0, train, test)
        message = "no label file is given: classes are those in the training and test images."
        name = Path(self.config.split.train_file).name
        return LabelValues(values, np.ones(grid.shape, bool), names, name, (Finding("note", "labels", message),))

    def mask(self, name: str, grid: Grid) -> Shaped[np.ndarray, "h w"] | None:
        """Reads a mask from an image, or from a list of (row, column) pairs counted from 0."""
        file, key = self.config.split[f"{name}_file"], self.config.split[f"{name}_key"]
        if not file:
            return None
        path = self.path(file)
        if path.suffix.lower() in ARRAY_SUFFIXES:
            values = read_array(path, key=key)
            if values.ndim == 2 and values.shape[1] == 2 and values.shape != grid.shape:
                return _mask_of_indices(values, grid.shape, f"{path} ({name} mask)")
        values, valid, _ = _read_codes(path, key, grid, f"the {name} mask")
        return np.where(valid, values, 0)

    def sources(self) -> tuple[Source, ...]:
        """Describes every file and those beside it that belong to it."""
        return tuple(describe_source(path) for path in with_side_files(self.files()))

    def files(self) -> list[Path]:
        """Every file that the configuration names, once."""
        images = [options.file for name, options in self.config.modalities.items() if name not in self._without]
        files = [*images, self.config.labels.file]
        if self.config.split.kind == "masks":
            files += [self.config.split.train_file, self.config.split.test_file]
        return [self.path(file) for file in dict.fromkeys(files) if file]

    def path(self, file: str) -> Path:
        """Where a file of the configuration lies."""
        return Path(self.config.folder).expanduser() / Path(file).expanduser()


def with_side_files(paths: Iterable[Path]) -> list[Path]:
    """The files, each once, and those beside them that belong to them."""
    found = []
    for path in paths:
        found += [path, *(side for side in map(path.with_suffix, SIDE_FILES) if side.is_file() and side != path)]
    return list(dict.fromkeys(found))


def names_by_value(config: Any) -> dict[str, str]:
    """The class names of the `scene` section, whether their values are written as strings or as numbers."""
    return {str(value): name for value, name in config.labels.names.items()}


def _read_codes(path: Path, key: str, grid: Grid, what: str):
    """An image whose values are codes, of which neighbours have no mean; values, validity, findings."""
    raster = read_raster(path, key=key, onto=grid, overviews=False)
    return _on_grid(raster, grid, what)


def _on_grid(raster: Raster, grid: Grid, what: str) -> tuple[Shaped[np.ndarray, "h w"], Bool[np.ndarray, "h w"], list]:
    if len(raster.bands) > 1:
        raise InputError(f"{raster.path}: {what} must have one band, it has {len(raster.bands)}.")
    values, valid = raster.values, raster.valid[..., 0]
    own = Grid(raster.shape, raster.georeference)
    findings = [Finding("note", "labels", remark) for remark in raster.remarks]
    if grid.holds(own):
        return values[..., 0], valid, findings
    values, valid = resample(values, valid, own, grid, "nearest", what=what)
    message = f"{what} resampled (nearest) from {own.describe()} to {grid.describe()}."
    return values[..., 0], valid, [*findings, Finding("note", "labels", message)]


def _mask_of_indices(indices: Shaped[np.ndarray, "n 2"], shape: tuple[int, int], what: str) -> Bool[np.ndarray, "h w"]:
    mask = np.zeros(shape, bool)
    if not len(indices):
        raise InputError(f"{what} lists no pixel.")
    low, high = indices.min(axis=0), indices.max(axis=0)
    if (low < 0).any() or (high >= shape).any() or (indices != np.round(indices)).any():
        counted_from_one = (low >= 1).all() and (high <= shape).all()
        fix = "they seem to be counted from 1: subtract 1" if counted_from_one else "is it the right file?"
        raise InputError(
            f"{what} holds rows {low[0]:g} to {high[0]:g} and columns {low[1]:g} to {high[1]:g}; whole numbers inside"
            f" {shape[0]} × {shape[1]}, counted from 0, are expected: {fix}."
        )
    rows, columns = indices.astype(np.int64).T
    mask[rows, columns] = True
    return mask

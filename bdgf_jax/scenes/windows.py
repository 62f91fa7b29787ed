"""A scene that is read window by window, since it may be larger than memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped

from bdgf_jax.scenes.array_files import read_array_file
from bdgf_jax.scenes.contents import FileContents, with_side_files
from bdgf_jax.scenes.georeferenced_files import georeferenced_grid, read_georeferenced_file
from bdgf_jax.scenes.grids import Grid, check_resampling
from bdgf_jax.scenes.loading import load_scene, modality_fields, reference_grid, reference_name
from bdgf_jax.scenes.modalities import build_window, check_options, holds_linear_power
from bdgf_jax.scenes.patches import reflect
from bdgf_jax.scenes.raster import Raster, mark_nodata, raster_of_array
from bdgf_jax.scenes.readers import ARRAY_SUFFIXES, existing_file
from bdgf_jax.scenes.scene import Modality, Scene

LOOK = 512  # side of the windows in which a file is looked through before it is mapped, pixels


@runtime_checkable
class SceneWindows(Protocol):
    """Two or more modalities on one grid, of which any part can be read."""

    @property
    def name(self) -> str:
        """What the scene is called."""
        ...

    @property
    def grid(self) -> Grid:
        """Its size and place."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is read from; none where it is held in memory."""
        ...

    def read(self, rows: slice, columns: slice) -> dict[str, Modality]:
        """The modalities in these rows and columns, both ends given and inside the grid."""
        ...


def open_windows(config: Any, without: Sequence[str] = ()) -> SceneWindows:
    """The scene that the `scene` section of a configuration describes, without its labels.

    GeoTIFF and ENVI images and `.npy` arrays stay on disk; other array files, and scenes that are prepared or
    synthetic, are read whole.

    Args:
      config: the section.
      without: modalities that are left out, as of `load_scene`.

    Raises:
      InputError: for a file, field or value that cannot be used, with the likely fix.
    """
    return _FileWindows(config, without) if config.source == "files" else _LoadedWindows(load_scene(config, without))


def read_reflected(
    windows: SceneWindows, rows: Int[np.ndarray, " h"], columns: Int[np.ndarray, " w"]
) -> dict[str, Modality]:
    """The modalities at rows and columns, each in rising order, that may reach over the border.

    Beyond it lies the scene's mirror image, as in `scenes.patches.gather`; no more of the scene is read than it shows.
    """
    folded = [mirrored(index, size) for index, size in zip((rows, columns), windows.grid.shape)]
    first = [int(index.min()) for index in folded]
    read = windows.read(*(slice(start, int(index.max()) + 1) for start, index in zip(first, folded)))
    place = np.ix_(*(index - start for start, index in zip(first, folded)))
    return {
        name: Modality(modality.image[place], modality.valid[place], modality.bands, modality.kind)
        for name, modality in read.items()
    }


def mirrored(index: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " n"]:
    """Rows or columns that may lie over the border, as those inside that are seen there."""
    return np.asarray(reflect(jnp.asarray(index, jnp.int32), size))


@dataclass(frozen=True, eq=False)
class _LoadedWindows:
    scene: Scene

    @property
    def name(self) -> str:
        return self.scene.name

    @property
    def grid(self) -> Grid:
        return Grid(self.scene.shape, self.scene.georeference)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.scene.modalities)

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, rows: slice, columns: slice) -> dict[str, Modality]:
        return {
            name: Modality(modality.image[rows, columns], modality.valid[rows, columns], modality.bands, modality.kind)
            for name, modality in self.scene.modalities.items()
        }


class _FileWindows:
    def __init__(self, config: Any, without: Sequence[str]):
        fields, contents = modality_fields(config, without), FileContents(config, without)
        for name, options in fields.items():
            check_options(name, options)
        self.name: str = config.name
        self.names = tuple(fields)
        paths = {name: existing_file(contents.path(options["file"])) for name, options in fields.items()}
        self.files = tuple(with_side_files(paths.values()))
        images = {name: _ImageFile(path, fields[name]) for name, path in paths.items()}
        self.grid, _ = reference_grid(reference_name(config, fields), {name: i.grid for name, i in images.items()})
        self._resampling = config.resampling
        for name, image in images.items():
            if not self.grid.holds(image.grid):
                check_resampling(image.grid, self.grid, config.resampling, what=f"modality '{name}'")
        self._images = images
        self._linear_power = {
            name: holds_linear_power(name, self._look_through(image), image.options) for name, image in images.items()
        }

    def read(self, rows: slice, columns: slice) -> dict[str, Modality]:
        part = self.grid.part(rows, columns)
        return {
            name: build_window(
                name,
                self._raster(image, rows, columns),
                image.options,
                part,
                self._resampling,
                linear_power=self._linear_power[name],
            )
            for name, image in self._images.items()
        }

    def _raster(self, image: "_ImageFile", rows: slice, columns: slice) -> Raster:
        if self.grid.holds(image.grid):
            return image.read(rows, columns)
        return image.read_onto(self.grid.part(rows, columns))

    def _look_through(self, image: "_ImageFile") -> Iterator[Raster]:
        height, width = self.grid.shape
        for row in range(0, height, LOOK):
            for column in range(0, width, LOOK):
                yield self._raster(image, slice(row, min(row + LOOK, height)), slice(column, min(column + LOOK, width)))


class _ImageFile:
    """The file of a modality, of which windows are read."""

    def __init__(self, path: Path, options: Mapping[str, Any]):
        self.path, self.options = path, options
        self._array: Shaped[np.ndarray, "h w *c"] | None = None
        if path.suffix.lower() in ARRAY_SUFFIXES:
            array = self._open()
            _, width = raster_of_array(path, array[:1]).shape
            self.grid = Grid((len(array), width), None)
            if not isinstance(array, np.memmap):
                self._array = array
        else:
            self.grid = georeferenced_grid(path)

    def _open(self) -> Shaped[np.ndarray, "h w *c"]:
        return read_array_file(self.path, self.options.get("key", ""), mapped=True)

    def read(self, rows: slice, columns: slice) -> Raster:
        """These of its own rows and columns."""
        bands, nodata = tuple(self.options.get("bands", ())), self.options.get("nodata")
        if self.path.suffix.lower() in ARRAY_SUFFIXES:
            # Mapped anew each time, so that the pages that were read do not stay in memory.
            array = self._open() if self._array is None else self._array
            return raster_of_array(self.path, array[rows, columns], bands=bands, nodata=nodata)
        return mark_nodata(read_georeferenced_file(self.path, bands, window=(rows, columns)), nodata)

    def read_onto(self, part: Grid) -> Raster:
        """What resampling onto part of the scene needs; one pixel where there is nothing to sample."""
        if not part.overlaps(self.grid):
            return self.read(slice(0, 1), slice(0, 1))
        bands, nodata = tuple(self.options.get("bands", ())), self.options.get("nodata")
        return mark_nodata(read_georeferenced_file(self.path, bands, onto=part), nodata)

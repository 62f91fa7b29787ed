"""One door to every file format: whatever the file is, a `Raster` comes out, and nothing in it is ever executed."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.scene import Georeference, Source

ARRAY_SUFFIXES = (".mat", ".npy", ".npz", ".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class Raster:
    """The contents of one file, in its own data type.

    Args:
      path: the file, for messages.
      values: rows, columns, bands; also where there is one band only.
      valid: by pixel and band: a finite number that no declared nodata value marks.
      bands: the names in the file, else "band 1" and so on.
      wavelengths: band centres in nanometres, None where the file does not say.
      georeference: None where the file does not say.
      units: scale and offset by band, as the file declares them: what was measured is value × scale + offset.
      remarks: what its user ought to know of how it was read.
    """

    path: Path
    values: Shaped[np.ndarray, "h w c"]
    valid: Bool[np.ndarray, "h w c"]
    bands: tuple[str, ...]
    wavelengths: tuple[float, ...] | None = None
    georeference: Georeference | None = None
    units: tuple[tuple[float, float], ...] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = self.values.shape[:2]
        return height, width


def read_raster(
    path: Path,
    *,
    key: str = "",
    bands: Sequence[int] = (),
    nodata: float | int | None = None,
    onto: Grid | None = None,
    overviews: bool = True,
) -> Raster:
    """Reads an image from GeoTIFF, ENVI (compressed or not), MATLAB v5 or v7.3, HDF5, `.npy` or `.npz`.

    Args:
      path: the file; for ENVI the data file or its header.
      key: the variable inside a .mat, .npz or HDF5 file; may be empty where there is only one.
      bands: bands to keep, counted from 1, in the wanted order; empty keeps all.
      nodata: a value that marks missing pixels, besides the one that the file declares and NaN.
      onto: the grid that the image will be resampled onto; of a geo-referenced file no more is read than that needs.
      overviews: whether a coarser grid is served from an overview; labels are not, which someone may have averaged.

    Raises:
      InputError: where the file is missing, is cut short, is not what its name says, holds pickled objects or no such
        key.
    """
    path = existing_file(path)
    # Imported where they are needed: both modules build upon this one.
    if path.suffix.lower() in ARRAY_SUFFIXES:
        from bdgf_jax.scenes.array_files import read_array_file

        return raster_of_array(path, read_array_file(path, key), bands=bands, nodata=nodata)
    from bdgf_jax.scenes.georeferenced_files import read_georeferenced_file

    return mark_nodata(read_georeferenced_file(path, bands, onto, overviews), nodata)


def raster_of_array(
    path: Path, values: Shaped[np.ndarray, "..."], *, bands: Sequence[int] = (), nodata: float | int | None = None
) -> Raster:
    """The raster that a bare array stands for.

    Args:
      path: where it comes from, for messages.
      values: rows, columns and, unless there is only one, bands.
      bands: as in `read_raster`.
      nodata: as in `read_raster`.

    Raises:
      InputError: where it is no image of numbers, or lacks a band.
    """
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        raise InputError(
            f"{path}: an image of rows × columns × bands is expected, it holds {values.dtype} values of shape"
            f" {' × '.join(map(str, values.shape))}."
        )
    names = tuple(f"band {number}" for number in range(1, values.shape[2] + 1))
    if check_bands(path, bands, len(names)):
        index = [band - 1 for band in bands]
        values, names = values[..., index], tuple(names[i] for i in index)
    return mark_nodata(Raster(path, values, _finite(values), names), nodata)


def read_array(path: Path, *, key: str = "") -> Shaped[np.ndarray, "..."]:
    """The bare array in a file, whatever its rank: lists of pixel indices as well as images."""
    path = existing_file(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        from bdgf_jax.scenes.array_files import read_array_file

        return read_array_file(path, key)
    return read_raster(path, key=key).values


def existing_file(path: Path) -> Path:
    """The path with `~` expanded.

    Raises:
      InputError: where no such file exists, with the nearest folder that does and what lies there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{path} is a folder, a file is expected.")
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    present = sorted(entry.name for entry in folder.iterdir())[:8]
    raise InputError(
        f"{path} does not exist; {folder} holds {', '.join(present) or 'nothing'}. Check scene.folder and the file's"
        " name."
    )


def check_bands(path: Path, bands: Sequence[int], count: int) -> Sequence[int]:
    """The selection, counted from 1.

    Raises:
      InputError: where it names a band that the file does not have, or one twice.
    """
    for band in bands:
        if not 1 <= band <= count:
            raise InputError(f"{path}: band {band} was selected, the file has bands 1 to {count}.")
    if len(set(bands)) < len(bands):
        raise InputError(f"{path}: the selection {tuple(bands)} names a band twice.")
    return bands


def describe_source(path: Path) -> Source:
    """Size and SHA-256 of a file."""
    path = existing_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(str(path), path.stat().st_size, digest)


def refuse_beyond_memory(path: Path, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises an InputError where a header promises more than this machine's memory: a broken or a hostile file."""
    size = int(np.prod([int(side) for side in shape], dtype=object)) * np.dtype(dtype).itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**36
    if size > memory:
        raise InputError(
            f"{path} says that it holds {' × '.join(map(str, shape))} values of type {dtype}, {size / 2**30:.0f} GiB;"
            f" this machine has {memory / 2**30:.0f} GiB. Cut the scene into parts, or check the file."
        )


def mark_nodata(raster: Raster, nodata: float | int | None) -> Raster:
    """The raster, with pixels of this value not valid."""
    if nodata is None or np.isnan(nodata):
        return raster
    return replace(raster, valid=raster.valid & (raster.values != nodata))


def _finite(values: Shaped[np.ndarray, "h w c"]) -> Bool[np.ndarray, "h w c"]:
    return np.isfinite(values) if np.issubdtype(values.dtype, np.inexact) else np.ones(values.shape, bool)

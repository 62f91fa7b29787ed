"""The contents of a file of any format, and what must hold of them whatever the format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Georeference


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


def raster_of_array(
    path: Path, values: Shaped[np.ndarray, "..."], *, bands: Sequence[int] = (), nodata: float | int | None = None
) -> Raster:
    """The raster that a bare array stands for.

    Args:
      path: where it comes from, for messages.
      values: rows, columns and, unless there is only one, bands.
      bands: as of `readers.read_raster`.
      nodata: as of `readers.read_raster`.

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


def mark_nodata(raster: Raster, nodata: float | int | None) -> Raster:
    """The raster, with pixels of this value not valid."""
    if nodata is None or np.isnan(nodata):
        return raster
    return replace(raster, valid=raster.valid & (raster.values != nodata))


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


def refuse_beyond_memory(path: Path, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises an InputError where a header promises more than this machine's memory: a broken or a hostile file."""
    size = int(np.prod([int(side) for side in shape], dtype=object)) * np.dtype(dtype).itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**36
    if size > memory:
        raise InputError(
            f"{path} says that it holds {' × '.join(map(str, shape))} values of type {dtype}, {size / 2**30:.0f} GiB;"
            f" this machine has {memory / 2**30:.0f} GiB. Cut the scene into parts, or check the file."
        )


def _finite(values: Shaped[np.ndarray, "h w c"]) -> Bool[np.ndarray, "h w c"]:
    return np.isfinite(values) if np.issubdtype(values.dtype, np.inexact) else np.ones(values.shape, bool)

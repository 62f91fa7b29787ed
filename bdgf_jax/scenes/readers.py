"""One door to every file format: whatever the file is, a `Raster` comes out, and nothing in it is ever executed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.georeferenced_files import read_georeferenced_file
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.raster import Raster, mark_nodata, raster_of_array
from bdgf_jax.scenes.scene import Source

ARRAY_SUFFIXES = (".mat", ".npy", ".npz", ".h5", ".hdf5")


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
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return raster_of_array(path, read_array(path, key=key), bands=bands, nodata=nodata)
    return mark_nodata(read_georeferenced_file(path, bands, onto, overviews), nodata)


def read_array(path: Path, *, key: str = "") -> Shaped[np.ndarray, "..."]:
    """The bare array in a file, whatever its rank: lists of pixel indices as well as images."""
    path = existing_file(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        # With libraries that take a moment to import, for those who have such files.
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


def describe_source(path: Path) -> Source:
    """Size and SHA-256 of a file."""
    path = existing_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Source(str(path), path.stat().st_size, digest)

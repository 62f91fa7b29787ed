"""Arrays from MATLAB v5 and v7.3, HDF5, .npy and .npz files."""

import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from jaxtyping import Shaped
from numpy.lib import format as npy_format

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.raster import refuse_beyond_memory

BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, IndexError, MemoryError, NotImplementedError)
BROKEN_ARCHIVE = (*BROKEN, zipfile.BadZipFile, zlib.error)


def read_array_file(path: Path, key: str, *, mapped: bool = False) -> Shaped[np.ndarray, "..."]:
    """Reads one variable, in the axis order in which its author wrote it.

    MATLAB v7.3 is HDF5 with the axes reversed (column-major data in a row-major file), which is undone here; plain HDF5
    files are left as they are.

    Args:
      path: the file.
      key: the variable; may be empty where the file holds only one numeric array.
      mapped: leaves what can be mapped into memory, which is .npy, on disk.

    Raises:
      InputError: where the file cannot be read as what its suffix says, holds objects, or no such variable.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _read_npy(path, mapped=mapped)
    if suffix == ".npz":
        return _read_npz(path, key)
    if h5py.is_hdf5(path):
        return _read_hdf5(path, key)
    if suffix == ".mat":
        return _read_matlab(path, key)
    raise InputError(f"{path} is no HDF5 file, though its name says so; it may be cut short or renamed.")


def _read_npy(path: Path, *, mapped: bool) -> Shaped[np.ndarray, "..."]:
    try:
        with path.open("rb") as file:
            shape, dtype = _npy_header(file)
        _refuse_objects(path, "", dtype)
        if not mapped:
            refuse_beyond_memory(path, shape, dtype)
        return np.load(path, allow_pickle=False, mmap_mode="r" if mapped else None)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(f"{path} cannot be read as .npy ({error}); it may be cut short or renamed.") from error


def _read_npz(path: Path, key: str) -> Shaped[np.ndarray, "..."]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            key = _choose(path, key, names)
            # Read from the archive's stream: nothing is unpacked to disk, whatever path a member's name spells.
            with archive.open(key + ".npy") as member:
                shape, dtype = _npy_header(member)
            _refuse_objects(path, key, dtype)
            refuse_beyond_memory(path, shape, dtype)
            with archive.open(key + ".npy") as member:
                return npy_format.read_array(member, allow_pickle=False)
    except InputError:
        raise
    except BROKEN_ARCHIVE as error:
        raise InputError(f"{path} cannot be read as .npz ({error}); it may be cut short or renamed.") from error


def _read_matlab(path: Path, key: str) -> Shaped[np.ndarray, "..."]:
    try:
        variables = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(str(path))}
        key = _choose(path, key, list(variables))
        shape, kind = variables[key]
        if kind in ("cell", "struct", "object", "opaque", "function", "char", "sparse"):
            raise InputError(f"{path}, variable '{key}' is a MATLAB {kind}, a numeric array is expected.")
        refuse_beyond_memory(path, shape, np.dtype("bool" if kind == "logical" else kind))
        return scipy.io.loadmat(str(path), variable_names=[key])[key]
    except InputError:
        raise
    # scipy raises whatever its parser trips over; every one of them means the same to the user.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a MATLAB file ({error}); it may be cut short or renamed."
        ) from error


def _read_hdf5(path: Path, key: str) -> Shaped[np.ndarray, "..."]:
    try:
        with h5py.File(path, "r") as file:
            datasets = _datasets(file)
            key = _choose(path, key, list(datasets))
            dataset = datasets[key]
            if dataset.dtype.kind not in "biuf":
                raise InputError(f"{path}, variable '{key}' holds {dataset.dtype} values, a numeric array is expected.")
            refuse_beyond_memory(path, dataset.shape, dataset.dtype)
            values = dataset[()]
            reversed_axes = path.suffix.lower() == ".mat" or "MATLAB_class" in dataset.attrs
            return np.ascontiguousarray(values.T) if reversed_axes else values
    except InputError:
        raise
    except (*BROKEN, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as HDF5 ({error}); it may be cut short or renamed.") from error


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Arrays that lie in this very file (links to others are not followed), without MATLAB's internal ones."""
    datasets = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("#"):
            datasets[name] = item

    file.visititems(note)
    return datasets


def _choose(path: Path, key: str, names: list[str]) -> str:
    if key in names:
        return key
    held = ", ".join(names) or "nothing"
    if key:
        raise InputError(f"{path} holds no variable '{key}'; it holds {held}. Set `key` to one of them.")
    if len(names) == 1:
        return names[0]
    raise InputError(f"{path} holds {held}; set `key` to the wanted one.")


def _npy_header(file) -> tuple[tuple[int, ...], np.dtype]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _refuse_objects(path: Path, key: str, dtype: np.dtype) -> None:
    if dtype.hasobject:
        place = f"{path}, array '{key}'," if key else f"{path}"
        raise InputError(
            f"{place} holds pickled Python objects, which can run code when opened and are never read; save a numeric"
            " array."
        )

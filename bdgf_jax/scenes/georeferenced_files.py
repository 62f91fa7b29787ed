"""GeoTIFF and ENVI images through rasterio."""

import zlib
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.readers import Raster, refuse_beyond_memory
from bdgf_jax.scenes.scene import Georeference

TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
ENVI_DATA_SUFFIXES = ("", ".img", ".bsq", ".bil", ".bip", ".dat", ".raw", ".bin")
NANOMETRES = {"nanometers": 1.0, "nm": 1.0, "micrometers": 1000.0, "um": 1000.0, "µm": 1000.0, "microns": 1000.0}


def read_georeferenced_file(path: Path) -> Raster:
    """Reads a GeoTIFF or ENVI image with its band names, wavelengths, nodata and place.

    ENVI's `file compression = 1` (gzip around the data file) is inflated on the way.

    Raises:
      InputError: where the file is neither, or is cut short or damaged.
    """
    path = _envi_data_file(path)
    # GDAL would otherwise leave a .properties file beside a gzip-compressed image, in a folder that is not ours.
    with rasterio.Env(CPL_VSIL_GZIP_WRITE_PROPERTIES="NO", GDAL_PAM_ENABLED="NO"):
        try:
            with rasterio.open(path, driver=_driver(path)) as dataset:
                refuse_beyond_memory(path, (dataset.count, *dataset.shape), np.dtype(dataset.dtypes[0]))
                if dataset.driver == "ENVI":
                    _check_envi_size(path, dataset)
                values = np.moveaxis(dataset.read(), 0, -1)
                return Raster(
                    path=path,
                    values=values,
                    valid=_valid(values, dataset),
                    bands=_band_names(dataset),
                    wavelengths=_wavelengths(dataset),
                    georeference=_georeference(dataset),
                )
        except RasterioError as error:
            raise InputError(
                f"{path} cannot be read as GeoTIFF or ENVI ({error}); it may be cut short, damaged or of another"
                " format."
            ) from error


def _driver(path: Path) -> str:
    """One of two drivers: the others open further files, or addresses, that a hostile text file names."""
    with path.open("rb") as file:
        return "GTiff" if file.read(4) in TIFF_SIGNATURES else "ENVI"


def _envi_data_file(path: Path) -> Path:
    if path.suffix.lower() != ".hdr":
        return path
    for suffix in ENVI_DATA_SUFFIXES:
        candidate = path.with_suffix(suffix)
        if candidate.is_file():
            return candidate
    raise InputError(f"{path} is an ENVI header without its data file; put it beside the header, under the same name.")


def _check_envi_size(path: Path, dataset: rasterio.DatasetReader) -> None:
    """GDAL reads what is missing at the end of an ENVI file as zeros, so the length is checked here."""
    tags = dataset.tags(ns="ENVI")
    expected = dataset.count * dataset.height * dataset.width * np.dtype(dataset.dtypes[0]).itemsize
    expected += int(tags.get("header_offset", 0))
    compressed = tags.get("file_compression", "0").strip() == "1"
    found = _inflated_size(path) if compressed else path.stat().st_size
    if found < expected:
        raise InputError(f"{path} is cut short: its header promises {expected} bytes, the file holds {found}.")


def _inflated_size(path: Path) -> int:
    """Length of a gzip file's content, which also checks it against its CRC-32."""
    size = 0
    inflate = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while block := file.read(2**16):
                size += len(inflate.decompress(block))
    except zlib.error as error:
        raise InputError(f"{path} is damaged: its compressed content cannot be inflated ({error}).") from error
    return size


def _valid(values: np.ndarray, dataset: rasterio.DatasetReader) -> np.ndarray:
    valid = np.isfinite(values) if np.issubdtype(values.dtype, np.inexact) else np.ones(values.shape, bool)
    for band, nodata in enumerate(dataset.nodatavals):
        if nodata is not None and not np.isnan(nodata):
            valid[..., band] &= values[..., band] != nodata
    return valid


def _band_names(dataset: rasterio.DatasetReader) -> tuple[str, ...]:
    names = tuple(dataset.descriptions)
    # Some writers give every band the same description, which names none of them.
    if any(not name for name in names) or len(set(names)) < len(names):
        return tuple(f"band {number}" for number in range(1, dataset.count + 1))
    return tuple(str(name) for name in names)


def _wavelengths(dataset: rasterio.DatasetReader) -> tuple[float, ...] | None:
    tags = [dataset.tags(number) for number in range(1, dataset.count + 1)]
    if not all("wavelength" in tag for tag in tags):
        return None
    factors = [NANOMETRES.get(tag.get("wavelength_units", "nanometers").strip().lower()) for tag in tags]
    if None in factors:
        return None
    return tuple(round(float(tag["wavelength"]) * factor, 3) for tag, factor in zip(tags, factors) if factor)


def _georeference(dataset: rasterio.DatasetReader) -> Georeference | None:
    if dataset.transform.is_identity:
        return None
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    return Georeference(dataset.crs.to_string() if dataset.crs else None, (a, b, c, d, e, f))

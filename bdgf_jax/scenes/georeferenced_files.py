"""GeoTIFF and ENVI images through rasterio."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.raster import Raster, check_bands, refuse_beyond_memory
from bdgf_jax.scenes.scene import Georeference

TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
ENVI_DATA_SUFFIXES = ("", ".img", ".bsq", ".bil", ".bip", ".dat", ".raw", ".bin")
NANOMETRES = {"nanometers": 1.0, "nm": 1.0, "micrometers": 1000.0, "um": 1000.0, "µm": 1000.0, "microns": 1000.0}
KERNEL_REACH = 3  # pixels of the coarser grid, of the widest resampling kernel
ROW_BYTES = 2**26  # read at a time
LARGE_BYTES = 2**26  # from here on a file without tiles is worth a word


def read_georeferenced_file(
    path: Path,
    bands: Sequence[int] = (),
    onto: Grid | None = None,
    overviews: bool = True,
    window: tuple[slice, slice] | None = None,
) -> Raster:
    """Reads a GeoTIFF or ENVI image with its band names, wavelengths, nodata and place.

    ENVI's `file compression = 1` (gzip around the data file) is inflated on the way.

    Args:
      path: the file; for ENVI the data file or its header.
      bands: bands to read, counted from 1; empty reads all.
      onto: a grid that the image will be resampled onto. Of a geo-referenced image no more is read than it needs: the
        rows and columns that it covers, from the coarsest overview that is not coarser than it.
      overviews: whether they may stand in for the pixels.
      window: rows and columns that are read, in place of `onto`; inside the image, with both ends given.

    Raises:
      InputError: where the file is neither, or is cut short or damaged, or lacks a band.
    """
    with _opened(path) as dataset:
        level = _overview(dataset, onto) if overviews and window is None else None
        storage = _storage(dataset)
        if level is None:
            return _read(
                dataset, bands, _needed(dataset, onto) if window is None else Window.from_slices(*window), storage
            )
    with _opened(path, overview_level=level) as dataset:
        remarks = [*storage, f"read from its overview {_size(dataset.shape)}."]
        return _read(dataset, bands, _needed(dataset, onto), remarks)


def georeferenced_grid(path: Path) -> Grid:
    """Size and place of a GeoTIFF or ENVI image.

    Raises:
      InputError: as of `read_georeferenced_file`.
    """
    with _opened(path) as dataset:
        return Grid(dataset.shape, _georeference(dataset))


@contextmanager
def _opened(path: Path, **options: Any) -> Iterator[rasterio.DatasetReader]:
    path = _envi_data_file(path)
    driver = _driver(path)
    # GDAL would otherwise leave a .properties file beside a gzip-compressed image, in a folder that is not ours.
    with rasterio.Env(CPL_VSIL_GZIP_WRITE_PROPERTIES="NO", GDAL_PAM_ENABLED="NO"):
        try:
            with rasterio.open(path, driver=driver, **options) as dataset:
                if driver == "ENVI":
                    _check_envi_size(path, dataset)
                yield dataset
        except InputError:
            raise
        # A ValueError is a number in the header that is none.
        except (RasterioError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as GeoTIFF or ENVI ({error}); it may be cut short, damaged or of another"
                " format."
            ) from error


def _read(dataset, bands: Sequence[int], window: Window, remarks: list[str]) -> Raster:
    path = Path(dataset.name)
    indices = list(check_bands(path, bands, dataset.count) or dataset.indexes)
    chosen = lambda of_file: tuple(of_file[index - 1] for index in indices)
    values, valid = _read_rows(path, dataset, indices, window)
    if values.shape[:2] != dataset.shape:
        rows, columns = window.toslices()
        remarks = [
            *remarks,
            f"rows {rows.start} to {rows.stop - 1} and columns {columns.start} to {columns.stop - 1} of"
            f" {_size(dataset.shape)} were read: no more is needed.",
        ]
    wavelengths, units = _wavelengths(dataset), _declared_units(dataset)
    return Raster(
        path=path,
        values=values,
        valid=valid,
        bands=chosen(_band_names(dataset)),
        wavelengths=wavelengths and chosen(wavelengths),
        georeference=_georeference(dataset, window),
        units=units and chosen(units),
        remarks=tuple(remarks),
    )


def _overview(dataset: rasterio.DatasetReader, onto: Grid | None) -> int | None:
    """The coarsest overview that is no coarser than the grid, None where the full resolution is needed."""
    # Rounding must not decide, else neighbouring windows of one scene would be read from different overviews.
    pitch = _pitch(dataset, onto) * (1 + 1e-6)
    fitting = [level for level, factor in enumerate(dataset.overviews(1)) if factor <= pitch]
    return max(fitting, default=None)


def _pitch(dataset: rasterio.DatasetReader, onto: Grid | None) -> float:
    """How many of the file's pixels a pixel of the grid is wide or high, the smaller of both."""
    outline = _outline(dataset, onto)
    if outline is None or onto is None:
        return 1.0
    upper, _, left, _ = np.split(outline, 4, axis=1)
    length = lambda edge: float(np.hypot(*(edge[:, -1] - edge[:, 0])))
    return min(length(left) / onto.shape[0], length(upper) / onto.shape[1])


def _outline(dataset: rasterio.DatasetReader, onto: Grid | None):
    """Rows and columns in the file of points round the grid's edge; None where the places cannot be compared."""
    own = Grid(dataset.shape, _georeference(dataset))
    if onto is None or onto.georeference is None or own.georeference is None:
        return None
    outline = onto.outline_on(own)
    return outline if np.isfinite(outline).all() else None


def _needed(dataset: rasterio.DatasetReader, onto: Grid | None) -> Window:
    """What resampling onto a grid can draw upon; all of a file that does not overlap it, which is for others to say."""
    whole = Window(0, 0, dataset.width, dataset.height)  # type: ignore[reportCallIssue]
    outline = _outline(dataset, onto)
    if outline is None:
        return whole
    margin = KERNEL_REACH * max(1.0, _pitch(dataset, onto))
    first = np.maximum(np.floor(outline.min(axis=1) - margin), 0).astype(int)
    last = np.minimum(np.ceil(outline.max(axis=1) + margin), dataset.shape).astype(int)
    (top, left), (height, width) = first.tolist(), (last - first).tolist()
    if min(height, width) < 1:
        return whole
    return Window(left, top, width, height)  # type: ignore[reportCallIssue]


def _read_rows(path: Path, dataset: rasterio.DatasetReader, indices: list[int], window: Window):
    """Values and validity, by blocks of rows: a strip is decoded once for all bands, and nothing is held twice."""
    height, width, count = int(window.height), int(window.width), len(indices)
    dtype = np.result_type(*(dataset.dtypes[index - 1] for index in indices))
    refuse_beyond_memory(path, (height, width, count), dtype)
    values = np.empty((height, width, count), dtype)
    valid = np.empty(values.shape, bool)
    nodatavals = [dataset.nodatavals[index - 1] for index in indices]
    strip = max(shape[0] for shape in dataset.block_shapes)
    step = max(1, ROW_BYTES // (width * count * dtype.itemsize) // strip) * strip
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        part = Window(window.col_off, window.row_off + start, width, rows.stop - start)  # type: ignore[reportCallIssue]
        values[rows] = np.moveaxis(dataset.read(indices, window=part), 0, -1)
        valid[rows] = _valid(values[rows], nodatavals)
    return values, valid


def _declared_units(dataset: rasterio.DatasetReader) -> tuple[tuple[float, float], ...] | None:
    """Scale and offset by band: GDAL's, or ENVI's divisor of reflectance."""
    divisor = float(dataset.tags(ns="ENVI").get("reflectance_scale_factor") or 1)
    units = tuple((scale / divisor, offset) for scale, offset in zip(dataset.scales, dataset.offsets))
    return None if set(units) == {(1.0, 0.0)} else units


def _storage(dataset: rasterio.DatasetReader) -> list[str]:
    size = dataset.height * dataset.width * dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    if dataset.driver != "GTiff" or dataset.profile.get("tiled") or size < LARGE_BYTES:
        return []
    return [
        f"has no internal tiles ({size / 2**20:.0f} MiB in strips of {dataset.block_shapes[0][0]} rows) and is read by"
        " blocks of rows, which is slow; `gdal_translate -of COG` makes a file that is fast."
    ]


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]}"


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


def _valid(values: np.ndarray, nodatavals: Sequence[float | None]) -> np.ndarray:
    valid = np.isfinite(values) if np.issubdtype(values.dtype, np.inexact) else np.ones(values.shape, bool)
    for band, nodata in enumerate(nodatavals):
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


def _georeference(dataset: rasterio.DatasetReader, window: Window | None = None) -> Georeference | None:
    if dataset.transform.is_identity:
        return None
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    column, row = (window.col_off, window.row_off) if window else (0, 0)
    corner = a * column + b * row + c, d * column + e * row + f
    return Georeference(dataset.crs.to_string() if dataset.crs else None, (a, b, corner[0], d, e, corner[1]))

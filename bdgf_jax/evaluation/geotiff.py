"""Cloud-optimised GeoTIFF: tiles and overviews in the order in which a viewer asks for them over a network."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Shaped
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from bdgf_jax.scenes.scene import Georeference

# The class of an overview's pixel is that of a pixel under it: neither classes nor nodata can be averaged.
LAYOUT = {"compress": "DEFLATE", "overview_resampling": "NEAREST", "bigtiff": "IF_SAFER"}


# Of GDAL's cache of blocks, which would else grow to a share of the machine's memory.
CACHE_BYTES = 2**26


@dataclass(frozen=True)
class Bands:
    """What the bands of a file hold.

    Args:
      descriptions: a name for each band.
      dtype: of their values.
      nodata: the value that stands for no data.
      colours: of values of the only band, (red, green, blue, alpha), each up to 255.
      remarks: what the file says of itself, by name.
    """

    descriptions: tuple[str, ...]
    dtype: str
    nodata: int
    colours: Mapping[int, tuple[int, ...]] | None = None
    remarks: Mapping[str, str] = field(default_factory=dict)


def write_geotiff(
    path: Path, layers: Shaped[np.ndarray, "h w n"], bands: Bands, georeference: Georeference | None
) -> None:
    """Writes one band a layer; the file takes its name only once it is whole.

    Args:
      path: of the file.
      layers: its bands, last.
      bands: what they hold.
      georeference: where it lies, None for bare pixels.
    """
    try:
        begin_geotiff(path, layers.shape[:2], bands, georeference)
        write_window(path, layers, 0, 0)
        finish_geotiff(path)
    finally:
        plain_file(path).unlink(missing_ok=True)


def plain_file(path: Path) -> Path:
    """The uncompressed file beside it that it is made from, since GDAL knows the order of its parts only in the end."""
    return path.with_name(path.name + ".plain")


def begin_geotiff(path: Path, shape: tuple[int, int], bands: Bands, georeference: Georeference | None) -> None:
    """Writes the plain file of a GeoTIFF, of which every pixel holds no data yet.

    All of its blocks have their places from the beginning: windows are written into it where they belong, so a program
    that is killed spoils no window but the one that it was writing.
    """
    place: dict[str, Any] = {}
    if georeference is not None:
        place = {"transform": rasterio.Affine(*georeference.transform), "crs": georeference.crs}
    layout = {"tiled": True, "interleave": "band", "bigtiff": LAYOUT["bigtiff"]}
    size = {"height": shape[0], "width": shape[1], "count": len(bands.descriptions)}
    values = {"dtype": bands.dtype, "nodata": bands.nodata}
    with quiet(), rasterio.open(plain_file(path), "w", driver="GTiff", **size, **values, **layout, **place) as file:
        for band, description in enumerate(bands.descriptions, start=1):
            file.set_band_description(band, description)
        file.update_tags(**bands.remarks)
        if bands.colours is not None:
            file.write_colormap(1, bands.colours)


def write_window(path: Path, layers: Shaped[np.ndarray, "h w n"], row: int, column: int) -> None:
    """Writes a window into the plain file of a GeoTIFF, its upper left pixel at this row and column."""
    height, width, _ = layers.shape
    window = Window(column, row, width, height)  # type: ignore[reportCallIssue]
    with quiet(), rasterio.open(plain_file(path), "r+") as file:
        file.write(np.moveaxis(layers, -1, 0), window=window)


def finish_geotiff(path: Path) -> None:
    """Makes the GeoTIFF from its plain file, which is removed."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with quiet():
            rasterio.shutil.copy(plain_file(path), unfinished, driver="COG", **LAYOUT)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    plain_file(path).unlink()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """GDAL with a cache that does not grow with the file, and without its warning of files that lie nowhere."""
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield

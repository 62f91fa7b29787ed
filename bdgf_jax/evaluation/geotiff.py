"""Cloud-optimised GeoTIFF: tiles and overviews in the order in which a viewer asks for them over a network."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from jaxtyping import Shaped
from rasterio.errors import NotGeoreferencedWarning

from bdgf_jax.scenes.scene import Georeference

# The class of an overview's pixel is that of a pixel under it: neither classes nor nodata can be averaged.
LAYOUT = {"compress": "DEFLATE", "overview_resampling": "NEAREST", "bigtiff": "IF_SAFER"}


def write_geotiff(
    path: Path,
    layers: Shaped[np.ndarray, "h w n"],
    *,
    descriptions: Sequence[str],
    nodata: int,
    georeference: Georeference | None,
    colours: Mapping[int, tuple[int, ...]] | None = None,
) -> None:
    """Writes one band a layer; the file takes its name only once it is whole.

    GDAL makes such a file from another one, since its order is known only in the end: an uncompressed one beside it,
    which is removed again.

    Args:
      path: of the file.
      layers: its bands, last.
      descriptions: a name for each band.
      nodata: the value that stands for no data.
      georeference: where it lies, None for bare pixels.
      colours: of values of the only band, (red, green, blue, alpha), each up to 255.
    """
    height, width, bands = layers.shape
    place: dict[str, Any] = {}
    if georeference is not None:
        place = {"transform": rasterio.Affine(*georeference.transform), "crs": georeference.crs}
    with _unfinished(path, ".plain") as plain, _unfinished(path, ".unfinished") as unfinished:
        shape = {"height": height, "width": width, "count": bands, "dtype": layers.dtype, "nodata": nodata}
        layout = {"tiled": True, "interleave": "band", "bigtiff": LAYOUT["bigtiff"]}
        with rasterio.open(plain, "w", driver="GTiff", **shape, **layout, **place) as file:
            for band, description in enumerate(descriptions, start=1):
                file.write(layers[..., band - 1], band)
                file.set_band_description(band, description)
            if colours is not None:
                file.write_colormap(1, colours)
        rasterio.shutil.copy(plain, unfinished, driver="COG", **LAYOUT)
        os.replace(unfinished, path)


@contextlib.contextmanager
def _unfinished(path: Path, suffix: str) -> Iterator[Path]:
    partial = path.with_name(path.name + suffix)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield partial
    finally:
        partial.unlink(missing_ok=True)

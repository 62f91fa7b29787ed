"""Maps as GeoTIFF: classes with colours and names, confidence, probabilities; and back."""

import contextlib
import os
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Int
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.io import DatasetWriter

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Georeference, LandCover

NODATA_CLASS = 0
NODATA_PROBABILITY = -1
LAYOUT = {"driver": "GTiff", "compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}


def write_map(
    path: Path,
    classes_of_pixels: Int[np.ndarray, "h w"],
    classes: Sequence[LandCover],
    georeference: Georeference | None,
) -> None:
    """Writes a map that geographic information systems show in the classes' colours and with their names.

    A pixel holds the index of its class + 1, and 0, which is drawn transparent, where the index is -1. The names go
    to the `.aux.xml` beside it, where GDAL looks for them.

    Raises:
      InputError: there are more classes than a byte can tell apart.
    """
    if len(classes) > 255:
        raise InputError(f"A map holds at most 255 classes, got {len(classes)}; merge some in scene.labels.")
    colours = {NODATA_CLASS: (0, 0, 0, 0)}
    colours |= {value: (*bytes.fromhex(cover.colour[1:]), 255) for value, cover in enumerate(classes, start=1)}
    values = (classes_of_pixels + 1).astype(np.uint8)
    with _create(path, values.shape, 1, "uint8", NODATA_CLASS, georeference) as file:
        file.write(values, 1)
        file.write_colormap(1, colours)
        file.set_band_description(1, "land cover")
    _write_category_names(path, ["no data", *(cover.name for cover in classes)])


def write_confidence(
    path: Path, confidence: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], georeference: Georeference | None
) -> None:
    """Writes the probability of the mapped class as float32, nodata (-1) where not valid."""
    with _create(path, valid.shape, 1, "float32", NODATA_PROBABILITY, georeference) as file:
        file.write(np.where(valid, confidence, NODATA_PROBABILITY).astype(np.float32), 1)
        file.set_band_description(1, "confidence")


def write_probabilities(
    path: Path,
    probabilities: Float[np.ndarray, "h w k"],
    valid: Bool[np.ndarray, "h w"],
    classes: Sequence[LandCover],
    georeference: Georeference | None,
) -> None:
    """Writes a float32 band for each class, described by its name, nodata (-1) where not valid."""
    with _create(path, valid.shape, len(classes), "float32", NODATA_PROBABILITY, georeference) as file:
        for band, cover in enumerate(classes, start=1):
            file.write(np.where(valid, probabilities[..., band - 1], NODATA_PROBABILITY).astype(np.float32), band)
            file.set_band_description(band, cover.name)


def read_map(path: Path) -> tuple[Int[np.ndarray, "h w"], tuple[LandCover, ...], Georeference | None]:
    """Reads what `write_map` wrote: class indices with -1 for nodata, the class table, the geo-reference.

    Raises:
      InputError: the file cannot be read, or is not a map with a colour table and class names.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                values = file.read(1)
                colours = file.colormap(1)
                crs = file.crs.to_wkt() if file.crs else None
                transform = file.transform
        names = _read_category_names(path)
    except (RasterioIOError, OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(
            f"{path} is not a map that `bdgf` wrote ({error}); expected a GeoTIFF with a colour table, and the"
            f" {_sidecar(path).name} with the names of its classes beside it."
        ) from None
    classes = tuple(
        LandCover(name, "#" + bytes(colours[value][:3]).hex()) for value, name in enumerate(names[1:], start=1)
    )
    if values.max() > len(classes):
        raise InputError(
            f"{path} holds the value {values.max()}, but {_sidecar(path).name} names {len(classes)} classes only;"
            " the two files do not belong together."
        )
    georeference = None if crs is None and transform.is_identity else Georeference(crs, tuple(transform)[:6])
    return values.astype(np.int32) - 1, classes, georeference


@contextlib.contextmanager
def _create(
    path: Path, shape: tuple[int, int], bands: int, dtype: str, nodata: int, georeference: Georeference | None
) -> Iterator[DatasetWriter]:
    """A GeoTIFF to write to, which takes its name only once it is whole."""
    layout: dict[str, Any] = dict(LAYOUT)
    if georeference is not None:
        layout |= {"transform": rasterio.Affine(*georeference.transform), "crs": georeference.crs}
    unfinished = path.with_name(path.name + ".unfinished")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            unfinished, "w", height=shape[0], width=shape[1], count=bands, dtype=dtype, nodata=nodata, **layout
        ) as file:
            yield file
    os.replace(unfinished, path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".aux.xml")


def _write_category_names(path: Path, names: Sequence[str]) -> None:
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = name
    ElementTree.indent(dataset)
    ElementTree.ElementTree(dataset).write(_sidecar(path), encoding="utf-8")


def _read_category_names(path: Path) -> list[str]:
    categories = ElementTree.parse(_sidecar(path)).iterfind("PAMRasterBand/CategoryNames/Category")
    return [category.text or "" for category in categories]

"""Maps as GeoTIFF: classes with colours and names, confidence, disagreement, probabilities; and back."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float, Float32, Int, UInt8
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.class_tables import names_file, read_names, write_names, write_qgis_style
from bdgf_jax.evaluation.geotiff import Bands, quiet, write_geotiff
from bdgf_jax.evaluation.pictures import thinning
from bdgf_jax.scenes.scene import Georeference, LandCover, Scene

NODATA_CLASS = 0
NODATA_SHARE = -1
WITHOUT = "WITHOUT_MODALITIES"  # in a map's metadata
STRIPE = 512  # rows read at a time


def write_map(
    path: Path,
    classes_of_pixels: Int[np.ndarray, "h w"],
    classes: Sequence[LandCover],
    georeference: Georeference | None,
    without: Sequence[str] = (),
) -> None:
    """Writes a map that geographic information systems show in the classes' colours and with their names.

    A pixel holds the index of its class + 1, and 0, which is drawn transparent, where the index is -1. The names go
    to `map.tif.aux.xml` for GDAL, names and colours to `map.qml` for QGIS.

    Args:
      path: of the map.
      classes_of_pixels: index of each pixel's class.
      classes: the class table.
      georeference: where the map lies.
      without: modalities that it was made without, which its metadata tell.

    Raises:
      InputError: there are more classes than a byte can tell apart.
    """
    write_geotiff(path, map_layer(classes_of_pixels), map_bands(classes, without), georeference)
    write_legend(path, classes)


def write_shares(
    path: Path,
    shares: Float[np.ndarray, "h w n"],
    valid: Bool[np.ndarray, "h w"],
    descriptions: Sequence[str],
    georeference: Georeference | None,
) -> None:
    """Writes probabilities, or other shares, as float32 bands with these names, nodata (-1) where not valid."""
    write_geotiff(path, share_layers(shares, valid), share_bands(descriptions), georeference)


def map_bands(classes: Sequence[LandCover], without: Sequence[str] = ()) -> Bands:
    """The band of a map, with the classes' colours, and the modalities that it was made without.

    Raises:
      InputError: there are more classes than a byte can tell apart.
    """
    if len(classes) > 255:
        raise InputError(f"A map holds at most 255 classes, got {len(classes)}; merge some in scene.labels.")
    colours = {NODATA_CLASS: (0, 0, 0, 0)}
    colours |= {value: (*bytes.fromhex(cover.colour[1:]), 255) for value, cover in enumerate(classes, start=1)}
    remarks = {WITHOUT: ", ".join(without)} if without else {}
    return Bands(("land cover",), "uint8", NODATA_CLASS, colours, remarks)


def map_layer(classes_of_pixels: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 1"]:
    """Class indices, -1 for no data, as a map stores them."""
    return (classes_of_pixels + 1).astype(np.uint8)[..., None]


def share_bands(descriptions: Sequence[str]) -> Bands:
    """Bands of shares with these names."""
    return Bands(tuple(descriptions), "float32", NODATA_SHARE)


def share_layers(shares: Float[np.ndarray, "h w n"], valid: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w n"]:
    """Shares as their bands store them."""
    return np.where(valid[..., None], shares, NODATA_SHARE).astype(np.float32)


def write_legend(path: Path, classes: Sequence[LandCover]) -> None:
    """Writes the class table beside a map: for GDAL, and for QGIS."""
    write_names(path, ["no data", *(cover.name for cover in classes)])
    write_qgis_style(path, classes)


def read_shares(path: Path) -> Float[np.ndarray, "h w n"]:
    """Reads what `write_shares` wrote, -1 where there is no data.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with quiet(), rasterio.open(path) as file:
            return np.moveaxis(file.read(), 0, -1)
    except RasterioIOError as error:
        raise InputError(f"{path}: cannot be read ({error}). `bdgf predict` writes it anew.") from None


def read_map(path: Path) -> tuple[Int[np.ndarray, "h w"], tuple[LandCover, ...], Georeference | None]:
    """Reads what `write_map` wrote: class indices with -1 for nodata, the class table, the geo-reference.

    Raises:
      InputError: the file cannot be read, or is not a map with a colour table and class names.
    """
    try:
        with quiet(), rasterio.open(path) as file:
            values = file.read(1)
            colours = file.colormap(1)
            crs = file.crs.to_wkt() if file.crs else None
            transform = file.transform
        names = read_names(path)
    except (RasterioIOError, OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(
            f"{path} is not a map that `bdgf` wrote ({error}); expected a GeoTIFF with a colour table, and the"
            f" {names_file(path).name} with the names of its classes beside it."
        ) from None
    classes = tuple(
        LandCover(name, "#" + bytes(colours[value][:3]).hex()) for value, name in enumerate(names[1:], start=1)
    )
    if values.max() > len(classes):
        raise InputError(
            f"{path} holds the value {values.max()}, but {names_file(path).name} names {len(classes)} classes only;"
            " the two files do not belong together."
        )
    georeference = None if crs is None and transform.is_identity else Georeference(crs, tuple(transform)[:6])
    return values.astype(np.int32) - 1, classes, georeference


def read_absent(path: Path) -> list[str]:
    """The modalities that a map was made without, as its metadata tell.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with quiet(), rasterio.open(path) as file:
            told = file.tags().get(WITHOUT, "")
    except RasterioIOError as error:
        raise InputError(f"{path}: cannot be read ({error}). `bdgf predict` writes it anew.") from None
    return told.split(", ") if told else []


def survey_map(path: Path, classes: int) -> tuple[Int[np.ndarray, "_ _"], Int[np.ndarray, " k"]]:
    """A map that `write_map` wrote, thinned for a picture, and the pixels of each class; no more than a stripe of it is
    held at once."""
    with quiet(), rasterio.open(path) as file:
        height, width = file.shape
        step, counts, rows = thinning(file.shape), np.zeros(classes + 1, np.int64), []
        for top in range(0, height, STRIPE):
            window = Window(0, top, width, min(STRIPE, height - top))  # type: ignore[reportCallIssue]
            values = file.read(1, window=window)
            counts += np.bincount(values.ravel(), minlength=classes + 1)
            rows.append(values[-top % step :: step, ::step])
    return np.concatenate(rows).astype(np.int32) - 1, counts[1:]


def read_map_of(scene: Scene, path: Path) -> Int[np.ndarray, "h w"]:
    """Reads a map of this scene: class indices, -1 for nodata.

    Raises:
      InputError: the file cannot be read, or shows other pixels, another place or other classes than the scene's.
    """
    prediction, classes, georeference = read_map(path)
    if prediction.shape != scene.shape:
        raise InputError(f"{path} has {prediction.shape} pixels where the scene has {scene.shape}.")
    if classes != scene.classes:
        names = [[cover.name for cover in table] for table in (classes, scene.classes)]
        raise InputError(f"{path} shows the classes {names[0]} where the scene has {names[1]}.")
    if georeference is not None and scene.georeference is not None:
        own, other = (np.array(place.transform) for place in (scene.georeference, georeference))
        if np.abs(own - other).max() > 0.01 * np.abs(own[[0, 1, 3, 4]]).max():
            raise InputError(
                f"{path} lies elsewhere: its transform is {tuple(other.tolist())}, the scene's {tuple(own.tolist())};"
                " resample it onto the scene's grid."
            )
    return prediction

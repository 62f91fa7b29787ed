"""Reference polygons burnt onto a scene's grid."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from affine import Affine
from jaxtyping import Bool, Int, Shaped
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.features import rasterize
from rasterio.warp import transform

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.readers import existing_file
from bdgf_jax.scenes.scene import Finding

# How a file of each kind begins: GDAL goes by the content, and would follow a text that names other files.
SIGNATURES = {".shp": b"\x00\x00\x27\x0a", ".gpkg": b"SQLite format 3\x00", ".geojson": b"{"}


def is_vector(path: Path) -> bool:
    """Whether the file's name is that of a shapefile, GeoPackage or GeoJSON."""
    return path.suffix.lower() in SIGNATURES


def burn_polygons(
    path: Path, grid: Grid, *, attribute: str, layer: str = "", names: Mapping[str, str] | None = None
) -> tuple[Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"], dict[str, str], list[Finding]]:
    """Labels from the polygons of a vector file: a pixel takes the class of the polygon that its centre lies in.

    Polygons in another reference system are transformed. A pixel that polygons of two classes claim is unlabelled, and
    so is one whose polygon has no value.

    Args:
      path: a shapefile, GeoPackage or GeoJSON.
      grid: the scene's grid, geo-referenced.
      attribute: the field that holds the class, as a number or in words.
      layer: which layer of the file; may be empty where there is one only.
      names: from a value, as a string, to the class's name. Classes in words are found in it whatever their case;
        where it is empty they are numbered from 1 in alphabetical order.

    Returns:
      Values, where they hold, names by value, and what was noticed.

    Raises:
      InputError: where the file, layer, attribute or a class cannot be used, or no polygon covers a pixel's centre.
    """
    path = existing_file(path)
    if grid.georeference is None:
        raise InputError(
            f"{path} holds polygons, and the reference grid ({grid.describe()}) does not say where it lies; use a"
            " geo-referenced image as scene.reference."
        )
    geometries, raw_values, findings = _read(path, grid, attribute, layer)
    classes, names = _numbered(path, attribute, raw_values, dict(names or {}))
    place = Affine(*grid.georeference.transform)
    values, claims = np.zeros(grid.shape, np.int64), np.zeros(grid.shape, np.int64)
    for value in np.unique(classes).tolist():
        covered = np.asarray(rasterize(geometries[classes == value], grid.shape, transform=place, dtype="uint8")) > 0
        values[covered] = value
        claims += covered
    if not claims.any():
        raise InputError(
            f"{path}: no polygon covers the centre of a pixel of the reference grid ({grid.describe()}); check that"
            " both show one place, and that the polygons are not smaller than a pixel."
        )
    if contested := int((claims > 1).sum()):
        message = f"{path.name}: {contested} pixels lie in polygons of two classes or more and are left unlabelled."
        findings.append(Finding("warning", "labels", message))
    message = f"{path.name}: {len(geometries)} polygons burnt onto {grid.describe()} by '{attribute}'."
    findings.append(Finding("note", "labels", message))
    return values, claims == 1, names, findings


def _read(path: Path, grid: Grid, attribute: str, layer: str):
    """Geometries in the grid's reference system, and the attribute's value of each."""
    with path.open("rb") as file:
        if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(SIGNATURES[path.suffix.lower()]):
            raise InputError(f"{path} is not what its name says; it may be cut short or renamed.")
    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        if layer not in layers and (layer or len(layers) != 1):
            raise InputError(
                f"{path} holds the layers {', '.join(layers) or 'none'}; set scene.labels.layer to the wanted one."
            )
        meta, _, wkb, columns = pyogrio.raw.read(path, layer=layer or layers[0], force_2d=True)
    except (DataSourceError, DataLayerError) as error:
        raise InputError(
            f"{path} cannot be read as a vector file ({error}); it may be cut short or renamed."
        ) from error
    fields = [str(field) for field in meta["fields"]]
    if attribute not in fields:
        given = f"scene.labels.attribute is '{attribute}'" if attribute else "scene.labels.attribute is empty"
        raise InputError(
            f"{given}; {path} has the attributes {', '.join(fields)}: name the one that holds the classes."
        )
    raw_values = columns[fields.index(attribute)]
    findings = []
    known = np.array([_is_known(value) for value in raw_values], bool) & np.array(
        [one is not None for one in wkb], bool
    )
    if not known.all():
        message = f"{path.name}: {int((~known).sum())} features have no geometry or no '{attribute}' and are left out."
        findings.append(Finding("warning", "labels", message))
    geometries = shapely.from_wkb(wkb[known])
    here = meta["crs"]
    if here is None:
        message = f"{path.name} names no reference system; that of the reference grid is taken."
        findings.append(Finding("warning", "labels", message))
    elif grid.georeference is not None and grid.georeference.crs is not None:
        there = grid.georeference.crs
        move = lambda points: np.column_stack(transform(here, there, points[:, 0], points[:, 1]))
        geometries = shapely.transform(geometries, move)
    return np.asarray(geometries, object), raw_values[known], findings


def _is_known(value) -> bool:
    return value is not None and value == value and str(value).strip() != ""


def _numbered(
    path: Path, attribute: str, raw_values: Shaped[np.ndarray, " n"], names: dict[str, str]
) -> tuple[Int[np.ndarray, " n"], dict[str, str]]:
    """The value of each polygon as a whole number, and the class names by value."""
    if raw_values.dtype.kind in "iuf":
        if (raw_values != np.round(raw_values)).any():
            fractions = ", ".join(
                f"{value:g}" for value in np.unique(raw_values[raw_values != np.round(raw_values)])[:5]
            )
            raise InputError(f"{path}: attribute '{attribute}' holds fractions such as {fractions}; it names no class.")
        return raw_values.astype(np.int64), names
    words = np.array([str(value).strip() for value in raw_values], object)
    found = sorted(set(words))
    if not names:
        names = {str(number): word for number, word in enumerate(found, start=1)}
    value_of = {name.casefold(): int(value) for value, name in names.items()}
    if unknown := [word for word in found if word.casefold() not in value_of]:
        raise InputError(
            f"{path}: attribute '{attribute}' holds the classes {', '.join(found)}, but scene.labels.names has no"
            f" {', '.join(unknown)}; it holds {', '.join(names.values())}."
        )
    return np.array([value_of[word.casefold()] for word in words], np.int64), names

"""The class table beside a map: names where GDAL looks for them, names and colours where QGIS does."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from bdgf_jax.scenes.scene import LandCover


def names_file(path: Path) -> Path:
    """`map.tif.aux.xml` beside `map.tif`."""
    return path.with_name(path.name + ".aux.xml")


def write_names(path: Path, names: Sequence[str]) -> None:
    """Writes names of the values 0, 1, … of a raster as its category names, which GDAL reads with it."""
    dataset = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(dataset, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    for name in names:
        ElementTree.SubElement(categories, "Category").text = name
    ElementTree.indent(dataset)
    ElementTree.ElementTree(dataset).write(names_file(path), encoding="utf-8")


def read_names(path: Path) -> list[str]:
    """The names that `write_names` wrote beside a raster.

    Raises:
      OSError: there is no such file.
      ElementTree.ParseError: it is not XML.
    """
    categories = ElementTree.parse(names_file(path)).iterfind("PAMRasterBand/CategoryNames/Category")
    return [category.text or "" for category in categories]


def write_qgis_style(path: Path, classes: Sequence[LandCover]) -> None:
    """Writes `map.qml` beside `map.tif`: QGIS opens the layer with these names and colours, nodata left out.

    Value 1 is the first class, as in the map.
    """
    style = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(style, "pipe")
    renderer = ElementTree.SubElement(pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for value, cover in enumerate(classes, start=1):
        entry = {"value": str(value), "color": cover.colour, "alpha": "255", "label": cover.name}
        ElementTree.SubElement(palette, "paletteEntry", entry)
    ElementTree.indent(style)
    ElementTree.ElementTree(style).write(path.with_suffix(".qml"), encoding="utf-8")

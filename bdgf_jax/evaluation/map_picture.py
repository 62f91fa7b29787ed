"""The map as a picture for people who open no geographic information system: legend, shares of the classes, scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bdgf_jax.evaluation.pictures import class_picture, thinned
from bdgf_jax.scenes.drawing import draw_scale_bar
from bdgf_jax.scenes.ground import Placed
from bdgf_jax.scenes.scene import LandCover

INCHES = 7.0  # longest side of the map
LEGEND_INCHES = 2.6
DOTS = 160  # an inch


def draw_map(
    path: Path,
    name: str,
    place: Placed,
    classes: Sequence[LandCover],
    prediction: Int[np.ndarray, "_ _"],
    counts: Int[np.ndarray, " k"],
) -> None:
    """Writes a PNG of the map; nodata is transparent.

    Args:
      path: of the PNG.
      name: of the scene.
      place: the scene, or its grid.
      classes: the class table.
      prediction: class of each pixel, or of every nth of them, -1 for nodata.
      counts: pixels of each class in the whole map.
    """
    rows, columns = place.shape
    height, width = (INCHES * side / max(place.shape) for side in (rows, columns))
    figure = Figure(figsize=(width + LEGEND_INCHES, max(height, 2.0) + 0.6), layout="constrained", dpi=DOTS)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.imshow(thinned(class_picture(prediction, classes)), interpolation="nearest", extent=(0, columns, rows, 0))
    axis.set_title(name, loc="left", fontsize=13, fontweight="bold")
    draw_scale_bar(axis, place)
    shares = counts / max(1, counts.sum())
    axis.legend(
        handles=[
            Patch(facecolor=cover.colour, label=f"{cover.name}  {share:.1%}") for cover, share in zip(classes, shares)
        ],
        title="share of the mapped area",
        title_fontsize=9,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=10,
        handlelength=1.1,
        handleheight=1.1,
        borderaxespad=0,
    )
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)

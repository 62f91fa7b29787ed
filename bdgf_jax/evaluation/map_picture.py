"""The map as a picture for people who open no geographic information system: legend, shares of the classes, scale."""

from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bdgf_jax.evaluation.pictures import class_picture, thinned
from bdgf_jax.scenes.drawing import draw_scale_bar
from bdgf_jax.scenes.scene import Scene

INCHES = 7.0  # longest side of the map
LEGEND_INCHES = 2.6
DOTS = 160  # an inch


def draw_map(path: Path, scene: Scene, prediction: Int[np.ndarray, "h w"]) -> None:
    """Writes a PNG of the map; nodata is transparent.

    Args:
      path: of the PNG.
      scene: whose classes and place these are.
      prediction: class of each pixel, -1 for nodata.
    """
    rows, columns = scene.shape
    height, width = (INCHES * side / max(scene.shape) for side in (rows, columns))
    figure = Figure(figsize=(width + LEGEND_INCHES, max(height, 2.0) + 0.6), layout="constrained", dpi=DOTS)
    axis = figure.subplots()
    axis.set_axis_off()
    axis.imshow(
        thinned(class_picture(prediction, scene.classes)), interpolation="nearest", extent=(0, columns, rows, 0)
    )
    axis.set_title(scene.name, loc="left", fontsize=13, fontweight="bold")
    draw_scale_bar(axis, scene)
    mapped = prediction[prediction >= 0]
    shares = np.bincount(mapped, minlength=len(scene.classes)) / max(1, mapped.size)
    axis.legend(
        handles=[
            Patch(facecolor=cover.colour, label=f"{cover.name}  {share:.1%}")
            for cover, share in zip(scene.classes, shares)
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

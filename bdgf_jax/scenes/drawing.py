"""The picture of a scene that `bdgf inspect` leaves: every modality, the labels and the split."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.ground import Placed, metres_per_pixel
from bdgf_jax.scenes.rendering import render_modality
from bdgf_jax.scenes.scene import MASK_NAMES, UNLABELLED, Scene, class_counts
from bdgf_jax.scenes.splits import within_reach

MASK_COLOURS = {"train": "#d1205c", "validation": "#f2a900", "test": "#2b8cbe"}
PANEL_INCHES = 4.2
LONGEST_ROW = 4


def draw_scene(scene: Scene, path: Path) -> None:
    """Writes a PNG with a panel for each modality, one for the labels and one for the split, with legends."""
    labelled = bool((scene.labels != UNLABELLED).any())
    panels = len(scene.modalities) + 2 * labelled
    columns = min(panels, LONGEST_ROW if panels != 5 else 5)
    rows = -(-panels // columns)
    aspect = min(max(scene.shape[0] / scene.shape[1], 0.3), 2.5)
    figure = Figure(
        figsize=(columns * PANEL_INCHES, rows * PANEL_INCHES * aspect + 1.35), layout="constrained", dpi=120
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, modality) in zip(axes, scene.modalities.items()):
        bands = f"{len(modality.bands)} band{'s' if len(modality.bands) > 1 else ''}"
        _show(axis, render_modality(modality), f"{name}  ({modality.kind}, {bands})")
    backdrop = _backdrop(scene)
    if labelled:
        _draw_labels(axes[panels - 2], scene, backdrop)
        _draw_split(axes[panels - 1], scene, backdrop)
    draw_scale_bar(axes[0], scene)
    grid = Grid(scene.shape, scene.georeference)
    figure.suptitle(f"{scene.name}   {grid.describe()}", x=0.01, ha="left", fontsize=15, fontweight="bold")
    figure.savefig(path)


def paint_labels(scene: Scene, backdrop: Float[np.ndarray, "h w 3"] | None = None) -> Float[np.ndarray, "h w 3"]:
    """Labels in the colours of their classes; white, or the backdrop, where there are none."""
    picture = np.ones((*scene.shape, 3), np.float32) if backdrop is None else backdrop.copy()
    for k, entry in enumerate(scene.classes):
        picture[scene.labels == k] = to_rgb(entry.colour)
    return picture


def draw_scale_bar(axis: Axes, scene: Placed) -> None:
    """Draws a bar of a round length, at most a third of the scene, where it is known how large a pixel is."""
    pixel = metres_per_pixel(scene)
    if pixel is None:
        return
    height, width = scene.shape
    limit = pixel * width / 3
    decade = 10.0 ** np.floor(np.log10(limit))
    length = max(factor * decade for factor in (1, 2, 5) if factor * decade <= limit)
    left, bottom = 0.04 * width, 0.95 * height
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    for colour, thickness in (("black", 4.5), ("white", 2.5)):
        axis.plot([left, left + length / pixel], [bottom, bottom], color=colour, lw=thickness, solid_capstyle="butt")
    box = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.5}
    axis.text(left, bottom - 0.03 * height, label, color="white", fontsize=9, va="bottom", bbox=box)


def _draw_labels(axis: Axes, scene: Scene, backdrop) -> None:
    _show(axis, paint_labels(scene, backdrop), "labels")
    counts = class_counts(scene.labels, scene.labels != UNLABELLED, len(scene.classes))
    entries = [(entry.colour, f"{entry.name}  {count:,}") for entry, count in zip(scene.classes, counts)]
    _legend(axis, entries)


def _draw_split(axis: Axes, scene: Scene, backdrop) -> None:
    picture = backdrop.copy()
    entries = []
    # Single training pixels would vanish in a picture of this size; they are drawn last, and larger than they are.
    enlarged = max(scene.shape) // 250
    for name in reversed(MASK_NAMES):
        mask = scene.masks[name]
        if not mask.any():
            continue
        picture[within_reach(mask, enlarged) if name == "train" else mask] = to_rgb(MASK_COLOURS[name])
        entries.append((MASK_COLOURS[name], f"{name}  {int(mask.sum()):,}"))
    _show(axis, picture, "split")
    _legend(axis, entries[::-1])


def clearest(scene: Scene, pictures: Mapping[str, Float[np.ndarray, "_ _ _"]]) -> str:
    """The modality to draw other things over: the optical one whose picture shows most detail, else the first."""
    optical = [name for name, modality in scene.modalities.items() if modality.kind == "optical"]
    return max(optical or list(pictures)[:1], key=lambda name: np.abs(np.diff(pictures[name], axis=0)).mean())


def _backdrop(scene: Scene) -> Float[np.ndarray, "h w 3"]:
    """In pale grey: it shows what lies around sparse labels."""
    pictures = {name: render_modality(modality) for name, modality in scene.modalities.items()}
    grey = pictures[clearest(scene, pictures)].mean(axis=2, keepdims=True)
    return np.repeat(0.72 + 0.28 * grey, 3, axis=2).astype(np.float32)


def _show(axis: Axes, picture: Float[np.ndarray, "h w 3"], title: str) -> None:
    axis.imshow(picture, interpolation="nearest" if max(picture.shape) < 400 else "antialiased")
    axis.set_title(title, loc="left", fontsize=11)


def _legend(axis: Axes, entries: list[tuple[str, str]]) -> None:
    handles = [Patch(facecolor=colour, label=label) for colour, label in entries]
    axis.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.01),
        ncols=2,
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        handleheight=1.1,
        borderaxespad=0,
        columnspacing=1.2,
    )

"""Pictures of maps, errors, confidence and samples, as pixels and as the PNG that a page can hold."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from bdgf_jax.scenes.rendering import render_modality
from bdgf_jax.scenes.scene import LandCover, Modality, Scene

LARGEST_SIDE = 1200
RIGHT, WRONG, TRAINING = "#7fb9a6", "#d1452f", "#51606b"
SPLIT_COLOURS = {"train": "#2b7a94", "validation": "#d19a2a", "test": "#a9bac2"}
CONFIDENCE_COLOURS = matplotlib.colormaps["YlGnBu_r"]
DISAGREEMENT_COLOURS = matplotlib.colormaps["magma_r"]


def thinned(array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "_ _ *c"]:
    """Every nth row and column, so that neither side of a picture is longer than `LARGEST_SIDE` pixels."""
    step = thinning(array.shape[:2])
    return array[::step, ::step]


def thinning(shape: tuple[int, ...]) -> int:
    """Of how many rows and columns one is shown."""
    return -(-max(shape) // LARGEST_SIDE)


def class_picture(values: Int[np.ndarray, "h w"], classes: Sequence[LandCover]) -> UInt8[np.ndarray, "h w 4"]:
    """Each pixel in the colour of its class, transparent where the value is -1."""
    palette = np.array([_rgba(cover.colour) for cover in classes] + [(0, 0, 0, 0)], np.uint8)
    return palette[values]


def error_picture(scene: Scene, prediction: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """Test pixels as right or wrong, training pixels dark, the rest transparent."""
    test, right = scene.masks["test"], prediction == scene.labels
    return _painted({TRAINING: scene.masks["train"], RIGHT: test & right, WRONG: test & ~right})


def split_picture(scene: Scene) -> UInt8[np.ndarray, "h w 4"]:
    """Training, validation and test pixels, the rest transparent."""
    return _painted({colour: scene.masks[name] for name, colour in SPLIT_COLOURS.items()})


def confidence_picture(
    confidence: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], chance: float
) -> UInt8[np.ndarray, "h w 4"]:
    """Confidence from the chance level to 1 on a scale that is even to the eye, transparent where not valid."""
    colours = CONFIDENCE_COLOURS((confidence - chance) / (1.0 - chance), bytes=True)
    return np.where(valid[..., None], colours, np.uint8(0))


def disagreement_picture(
    disagreement: Float[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], highest: float
) -> UInt8[np.ndarray, "h w 4"]:
    """Disagreement from 0 to `highest` on a scale that is even to the eye, transparent where not valid."""
    return np.where(valid[..., None], DISAGREEMENT_COLOURS(disagreement / highest, bytes=True), np.uint8(0))


def crop_centres(valid: Bool[np.ndarray, "h w"], *, side: int, count: int) -> Int[np.ndarray, "_ 2"]:
    """Centres of crops spread over the valid pixels; where the scene allows, none reaches over its border.

    Beyond the border a crop holds its own mirror image, which looks like nothing that a sensor ever saw.
    """
    inside = np.zeros_like(valid)
    half = side // 2
    inside[half : valid.shape[0] - half, half : valid.shape[1] - half] = True
    places = np.argwhere(valid & inside if (valid & inside).any() else valid).astype(np.int32)
    return places[np.linspace(0, len(places) - 1, count + 2).astype(int)[1:-1]]


def sample_pictures(
    modality: Modality, crops: Float[np.ndarray, "n p p c"], samples: Float[np.ndarray, "m p p c"]
) -> tuple[Float[np.ndarray, "n p p 3"], Float[np.ndarray, "m p p 3"]]:
    """Real crops and drawn samples in the modality's own colours, both through one stretch.

    Drawn values beyond the range of the real ones are shown at its end, so that they do not pale the rest.
    """
    drawn = np.clip(samples, crops.min(axis=(0, 1, 2)), crops.max(axis=(0, 1, 2)))
    # A margin round each tile, so that a height model's hillshade sees no step between neighbours.
    tiles = np.pad(np.concatenate([crops, drawn]), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge").astype(np.float32)
    count, side = tiles.shape[:2]
    mosaic = tiles.reshape(count * side, side, -1)
    picture = render_modality(dataclasses.replace(modality, image=mosaic, valid=np.ones(mosaic.shape[:2], bool)))
    pictures = picture.reshape(count, side, side, 3)[:, 1:-1, 1:-1]
    return pictures[: len(crops)], pictures[len(crops) :]


def png(picture: Shaped[np.ndarray, "h w c"]) -> bytes:
    """A picture of three or four channels, uint8 or in 0 … 1, as a PNG file."""
    file = io.BytesIO()
    matplotlib.image.imsave(file, np.ascontiguousarray(picture), format="png")
    return file.getvalue()


def data_uri(picture: Shaped[np.ndarray, "h w c"]) -> str:
    """A picture as an address that holds it, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def _painted(areas: dict[str, Bool[np.ndarray, "h w"]]) -> UInt8[np.ndarray, "h w 4"]:
    picture = np.zeros((*next(iter(areas.values())).shape, 4), np.uint8)
    for colour, area in areas.items():
        picture[area] = _rgba(colour)
    return picture


def _rgba(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * level) for level in matplotlib.colors.to_rgba(colour))

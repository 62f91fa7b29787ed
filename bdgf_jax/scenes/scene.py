"""A scene: what several sensors saw of one place, on one grid, with labels and the masks that split them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from bdgf_jax.errors import InputError

UNLABELLED = -1
MASK_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Modality:
    """The image of one sensor.

    Args:
      image: float32 in the sensor's own units (reflectance, dB, metres), 0 where not valid.
      valid: pixels that hold a measurement in every band.
      bands: the bands' names; they travel with a model, which refuses others.
      kind: "optical", "sar" or "height": how the image is drawn and described, nothing else.
      wavelengths: the bands' centres in nanometres, where they are known.
    """

    image: Float[np.ndarray, "h w c"]
    valid: Bool[np.ndarray, "h w"]
    bands: tuple[str, ...]
    kind: str = "optical"
    wavelengths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Georeference:
    """Where the grid lies: x = a column + b row + c, y = d column + e row + f, in the units of `crs` (WKT or EPSG)."""

    crs: str | None
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class LandCover:
    """A class of the map: its name, and its colour as "#rrggbb"."""

    name: str
    colour: str


@dataclass(frozen=True)
class Source:
    """An input file, with what is needed to tell later whether it is still the same."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Finding:
    """Something about a scene that its user ought to know; `severity` is "note", "warning" or "error"."""

    severity: str
    subject: str
    message: str


class SceneErrors(InputError):
    """A scene that cannot be used: all that was found wrong with it, one line each, not only the first.

    Args:
      findings: everything noticed, of which the message holds the errors.
    """

    def __init__(self, findings: Iterable[Finding]):
        self.findings = tuple(findings)
        super().__init__("\n".join(finding.message for finding in self.findings if finding.severity == "error"))


@dataclass(frozen=True, eq=False)
class Scene:
    """Two or more modalities on one grid, with reference labels and how they are split.

    Args:
      name: what the scene is called in reports.
      modalities: by name, in the order that the configuration gives.
      labels: index into `classes`, -1 where unlabelled.
      masks: "train", "validation" and "test": disjoint, and holding only labelled pixels that some modality sees.
      classes: the class table.
      georeference: where the grid lies, None for bare arrays.
      sources: the files that the scene was read from.
      findings: what was noticed, and what was changed, while the scene was read.
      split: how the masks were made, in words for the report.
      absent: names of modalities that a model knows and that this scene is mapped without; they count towards the two.

    Raises:
      InputError: where the modalities or masks contradict each other.
    """

    name: str
    modalities: dict[str, Modality]
    labels: Int[np.ndarray, "h w"]
    masks: dict[str, Bool[np.ndarray, "h w"]]
    classes: tuple[LandCover, ...]
    georeference: Georeference | None
    sources: tuple[Source, ...] = ()
    findings: tuple[Finding, ...] = ()
    split: str = "no split"
    absent: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.modalities) + len(self.absent) < 2 or not self.modalities:
            raise InputError(
                f"scene.modalities holds {sorted(self.modalities)}; a multimodal scene needs two modalities or more."
            )
        for name, modality in self.modalities.items():
            if modality.valid.shape != self.shape:
                raise InputError(
                    f"modality '{name}' is {_size(modality.valid.shape)} pixels, the scene's labels are"
                    f" {_size(self.shape)}; all must lie on one grid."
                )
        shared = self.masks["train"] & self.masks["test"]
        if shared.any():
            raise InputError(
                f"{shared.sum()} pixels are in the training and in the test mask, the first at row and column"
                f" {tuple(int(i) for i in np.argwhere(shared)[0])}; take them out of one of the two."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        height, width = self.labels.shape
        return height, width

    @property
    def valid(self) -> Bool[np.ndarray, "h w"]:
        """Pixels that at least one modality sees; the others are nodata in every map."""
        return np.any([modality.valid for modality in self.modalities.values()], axis=0)

    def centres(self, mask: str) -> Int[np.ndarray, "n 2"]:
        """Rows and columns of a mask's pixels, in raster order."""
        return np.argwhere(self.masks[mask]).astype(np.int32)


def check_modalities(expected: Iterable[str], given: Iterable[str]) -> None:
    """Raises an InputError that names the odd one, unless both hold the same modalities."""
    expected, given = list(expected), list(given)
    for name in given:
        if name not in expected:
            raise InputError(f"modality '{name}' was given, expected are {_listed(expected)}; check the names.")
    for name in expected:
        if name not in given:
            raise InputError(
                f"modality '{name}' is missing, given are {_listed(given)}; none is ever filled with zeros. Where the"
                f" sensor has nothing to give, `bdgf predict --without {name}` maps without it."
            )


def check_absent(absent: Iterable[str], known: Iterable[str]) -> None:
    """Raises an InputError unless these are some, and not all, of the modalities that a model knows."""
    absent, known = list(absent), list(known)
    for name in absent:
        if name not in known:
            raise InputError(f"--without {name}: the model knows no such modality; it knows {_listed(known)}.")
    if absent and set(absent) == set(known):
        raise InputError(f"--without {' '.join(absent)}: no modality is left; the model knows {_listed(known)}.")


def empty_masks(shape: tuple[int, int]) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Masks of a scene that nobody has split yet."""
    return {name: np.zeros(shape, bool) for name in MASK_NAMES}


def class_counts(labels: Int[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], classes: int) -> Int[np.ndarray, " k"]:
    """Labelled pixels of each class inside a mask."""
    inside = labels[mask & (labels != UNLABELLED)]
    return np.bincount(inside, minlength=classes)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)

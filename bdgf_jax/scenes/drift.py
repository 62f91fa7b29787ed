"""How far a scene lies off the one that a model was trained on, by the statistics that travel with the model."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Finding, Modality
from bdgf_jax.scenes.statistics import BandTransform, apply_band_transform

# In deviations of the training scene. A model is not expected to hold beyond them [ours].
FARTHEST_SHIFT = 1.0
WIDEST_SPREAD = 2.0


class Drift(NamedTuple):
    """Of a modality: 0 and 1 on the scene that the statistics were fitted on.

    Attributes:
      shift: distance of the mean, in deviations.
      spread: deviation, as a multiple.
    """

    shift: float
    spread: float


def measure_drift(
    image: Float[np.ndarray, "h w k"], valid: Bool[np.ndarray, "h w"], explained: Float[np.ndarray, " k"]
) -> Drift:
    """Root mean squares over the components, each counted by the share of the variance that it explained.

    With m and s the mean and the deviation of each component of the transformed image and w the shares, the shift is
    sqrt(sum w m^2 / sum w) and the spread sqrt(sum w s^2 / sum w).

    Args:
      image: as the model sees it, by the model's transform.
      valid: pixels that count; there must be one.
      explained: of the transform's outputs.
    """
    pixels = image[valid].astype(np.float64)
    mean_square = lambda values: float(np.sqrt(np.average(values**2, weights=explained)))
    return Drift(mean_square(pixels.mean(0)), mean_square(pixels.std(0)))


def describe_drift(name: str, drift: Drift) -> Finding | None:
    """A warning where the modality lies far off, else None."""
    if drift.shift <= FARTHEST_SHIFT and 1.0 / WIDEST_SPREAD <= drift.spread <= WIDEST_SPREAD:
        return None
    return Finding(
        "warning",
        name,
        f"lies far off what the model was trained on: its mean is {drift.shift:.1f} deviations away, its spread"
        f" {drift.spread:.1f} times as large (0 and 1 are alike). Check units, sensor and season; the map may be"
        " wrong.",
    )


def find_drift(modalities: Mapping[str, Modality], transforms: Mapping[str, BandTransform]) -> list[Finding]:
    """A warning for each modality that lies far off what its transform was fitted on.

    Raises:
      InputError: the bands of a modality are not those of its transform.
    """
    findings = []
    for name, modality in modalities.items():
        try:
            image = apply_band_transform(transforms[name], modality)
        except InputError as error:
            raise InputError(f"modality '{name}': {error}") from error
        findings.append(describe_drift(name, measure_drift(image, modality.valid, transforms[name].explained)))
    return [found for found in findings if found is not None]

"""Statistics of a modality's bands: principal components of unit variance, or bands of unit variance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.moments import ROWS_AT_ONCE, Moments
from bdgf_jax.scenes.scene import Modality

# float32 images carry about 7 digits: variance below this share of the largest is rounding, not signal.
NUMERICALLY_ZERO = 1e-10


@dataclass(frozen=True, eq=False)
class BandTransform:
    """An affine map of a pixel's bands, y = (clip(x) - mean) projection; it travels with the model trained on it.

    Args:
      mean: mean of each band, in the sensor's units.
      projection: principal directions divided by their standard deviation ("whiten"), or a diagonal ("standardise").
      explained: share of the bands' total variance that each output carries.
      bands: names of the bands, in the order that the columns stand for.
      mode: "whiten" or "standardise".
      limits: lowest and highest value of each band, beyond which it is clipped; None where it is not.
    """

    mean: Float[np.ndarray, " c"]
    projection: Float[np.ndarray, "c k"]
    explained: Float[np.ndarray, " k"]
    bands: tuple[str, ...]
    mode: str
    limits: Float[np.ndarray, "2 c"] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Lists and strings for JSON, exact to the last bit."""
        return {
            "mean": self.mean.tolist(),
            "projection": self.projection.tolist(),
            "explained": self.explained.tolist(),
            "bands": list(self.bands),
            "mode": self.mode,
            "limits": None if self.limits is None else self.limits.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "BandTransform":
        """The transform that `to_dict` described."""
        return cls(
            mean=np.asarray(fields["mean"], np.float64),
            projection=np.asarray(fields["projection"], np.float64),
            explained=np.asarray(fields["explained"], np.float64),
            bands=tuple(fields["bands"]),
            mode=fields["mode"],
            limits=None if fields["limits"] is None else np.asarray(fields["limits"], np.float64),
        )


def fit_band_transform(
    modality: Modality, *, mode: str = "whiten", components: int = 30, percentiles: Sequence[float | int] = (0, 100)
) -> BandTransform:
    """Fits a transform on the valid pixels of a modality, in float64.

    "whiten" keeps the leading principal components, each divided by its standard deviation; neighbouring bands are so
    alike that a denoiser would otherwise average the noise away. "standardise" divides each band by its own standard
    deviation and keeps all of them; a constant band becomes 0.

    Args:
      modality: the image whose bands are described.
      mode: "whiten" or "standardise".
      components: at most so many components are kept by "whiten"; those without variance never are.
      percentiles: of its valid pixels, by band, to which every band is clipped: (1, 99) takes glints and spikes off,
        (0, 100) nothing.

    Raises:
      InputError: for an unknown mode, percentiles that are none, and an image without a valid pixel or with one value
        everywhere.
    """
    if not modality.valid.any():
        raise InputError(
            f"band '{modality.bands[0]}' has no valid pixel; check the nodata value of this modality in the"
            " configuration."
        )
    pixels = modality.image[modality.valid]
    limits = _limits(pixels, percentiles)
    moments = Moments.of(_clipped(pixels, limits))
    return transform_of_moments(moments, modality.bands, mode=mode, components=components, limits=limits)


def transform_of_moments(
    moments: Moments,
    bands: tuple[str, ...],
    *,
    mode: str,
    components: int,
    limits: Float[np.ndarray, "2 c"] | None = None,
) -> BandTransform:
    """The transform that `fit_band_transform` fits, from the moments of the (clipped) pixels alone.

    Args:
      moments: of the pixels.
      bands: names of the bands.
      mode: as of `fit_band_transform`.
      components: as of `fit_band_transform`.
      limits: that the pixels were clipped to.

    Raises:
      InputError: for an unknown mode, and for one value everywhere.
    """
    if mode not in ("whiten", "standardise"):
        raise InputError(f"scene.statistics.mode is '{mode}', expected 'whiten' or 'standardise'.")
    if mode == "whiten" and components < 1:
        raise InputError(f"scene.statistics.components is {components}, expected 1 or more.")
    mean, covariance = moments.mean, moments.covariance
    variance = np.diag(covariance)
    if not variance.max() > 0:
        raise InputError(
            f"band '{bands[0]}' holds {mean[0]:g} at every pixel, and no other band of its modality varies;"
            " leave this modality out of scene.modalities."
        )
    if mode == "standardise":
        varies = variance > 0
        scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
        return BandTransform(mean, np.diag(scale), variance / variance.sum(), bands, mode, limits)
    eigenvalues, directions = np.linalg.eigh(covariance)
    eigenvalues, directions = eigenvalues[::-1], directions[:, ::-1]
    kept = min(components, int((eigenvalues > NUMERICALLY_ZERO * eigenvalues[0]).sum()))
    eigenvalues, directions = eigenvalues[:kept], directions[:, :kept]
    # An eigenvector's sign is arbitrary; its largest entry is made positive, so that two machines agree.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(kept)])
    explained = eigenvalues / variance.sum()
    return BandTransform(mean, directions / np.sqrt(eigenvalues), explained, bands, mode, limits)


def apply_band_transform(transform: BandTransform, modality: Modality) -> Float[np.ndarray, "h w k"]:
    """Transforms an image; float32, exactly 0 where it is not valid.

    Raises:
      InputError: where the bands are not those, in that order, that the transform was fitted on.
    """
    _check_bands(transform.bands, modality.bands)
    height, width, bands = modality.image.shape
    pixels = modality.image.reshape(-1, bands)
    transformed = np.empty((len(pixels), transform.projection.shape[1]), np.float32)
    for start in range(0, len(pixels), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        inside = _clipped(pixels[rows].astype(np.float64), transform.limits)
        transformed[rows] = (inside - transform.mean) @ transform.projection
    transformed = transformed.reshape(height, width, -1)
    transformed[~modality.valid] = 0
    return transformed


def invert_band_transform(transform: BandTransform, image: Float[np.ndarray, "*b k"]) -> Float[np.ndarray, "*b c"]:
    """Bands in the sensor's units from transformed ones; what the left-out components held comes back as the mean."""
    return (image @ np.linalg.pinv(transform.projection) + transform.mean).astype(np.float32)


def _limits(pixels: Float[np.ndarray, "n c"], percentiles: Sequence[float | int]) -> Float[np.ndarray, "2 c"] | None:
    low, high = percentiles if len(percentiles) == 2 else (0, 0)
    if not 0 <= low < high <= 100:
        raise InputError(
            f"scene.statistics.percentiles is {tuple(percentiles)}, expected two rising numbers from 0 to 100, such as"
            " (1, 99)."
        )
    if (low, high) == (0, 100):
        return None
    # A percentile that is one of the pixels' own values leaves a band clipped to it in float32.
    return np.percentile(pixels, (low, high), axis=0, method="nearest").astype(np.float64)


def _clipped(pixels: Float[np.ndarray, "n c"], limits: Float[np.ndarray, "2 c"] | None) -> Float[np.ndarray, "n c"]:
    return pixels if limits is None else np.clip(pixels, *limits.astype(pixels.dtype))


def _check_bands(expected: tuple[str, ...], given: tuple[str, ...]) -> None:
    if expected == given:
        return
    missing = [band for band in expected if band not in given]
    foreign = [band for band in given if band not in expected]
    if missing or foreign or len(expected) != len(given):
        raise InputError(
            f"the bands are not those that the model was trained on: missing {missing[:8]}, not known to it"
            f" {foreign[:8]}; select the model's bands with `bands` in scene.modalities."
        )
    place = next(i for i, (band, other) in enumerate(zip(expected, given)) if band != other)
    raise InputError(
        f"band {place + 1} is '{given[place]}' where the model was trained on '{expected[place]}': the same bands in"
        " another order; put them in the model's order with `bands` in scene.modalities."
    )

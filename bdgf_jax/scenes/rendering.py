"""How a modality looks to a person: one array of colours, whatever the sensor."""

import numpy as np
from jaxtyping import Bool, Float

from bdgf_jax.scenes.scene import Modality

RED_GREEN_BLUE = (650.0, 550.0, 470.0)  # nm
FARTHEST = 60.0  # nm by which a band may miss its colour
NODATA = 1.0  # white, as the page behind it
# Elevation tints from green lowland over ochre to nearly white, after the usual hypsometric scale.
HYPSOMETRIC = np.array(
    [(0.33, 0.52, 0.42), (0.62, 0.70, 0.47), (0.87, 0.80, 0.56), (0.71, 0.56, 0.42), (0.95, 0.94, 0.92)]
)


def render_modality(modality: Modality) -> Float[np.ndarray, "h w 3"]:
    """Paints a modality in colours of 0 … 1; pixels without a measurement are white.

    Optical images show red, green and blue where their wavelengths say which bands those are, else their three leading
    principal components; SAR images their co-polarised channel as magenta and their cross-polarised one as green, in
    dB; height models elevation tints under a light from the north-west. All are stretched between percentiles.
    """
    painters = {"sar": _sar, "height": _height}
    picture = painters.get(modality.kind, _optical)(modality.image.astype(np.float64), modality.valid, modality)
    picture = np.clip(picture, 0, 1)
    picture[~modality.valid] = NODATA
    return picture.astype(np.float32)


def colour_bands(modality: Modality) -> tuple[int, int, int] | None:
    """Bands nearest to red, green and blue, or None where they are not known or not there."""
    if modality.wavelengths is None or len(modality.wavelengths) < 3:
        return None
    distance = np.abs(np.asarray(modality.wavelengths)[:, None] - RED_GREEN_BLUE)
    red, green, blue = (int(i) for i in distance.argmin(axis=0))
    near = distance.min(axis=0).max() <= FARTHEST
    return (red, green, blue) if near and len({red, green, blue}) == 3 else None


def is_linear_power(modality: Modality) -> bool:
    """Whether SAR values look like linear power or amplitude rather than dB: nowhere negative."""
    return bool((modality.image[modality.valid] >= 0).all())


def _optical(image, valid, modality: Modality) -> Float[np.ndarray, "h w 3"]:
    bands = colour_bands(modality)
    if bands is None:
        return _stretch(_leading_components(image, valid), valid)
    # Reflectance is linear in light; the root lifts the shadows as a camera does.
    return np.sqrt(_stretch(image[..., list(bands)], valid))


def _leading_components(image, valid) -> Float[np.ndarray, "h w 3"]:
    if image.shape[2] < 3:
        return np.repeat(image[..., :1], 3, axis=2)
    pixels = image[valid]
    centred = pixels - pixels.mean(axis=0)
    # As many rows as fix the directions well enough to look at.
    sample = centred[:: max(1, len(centred) // 20_000)]
    _, _, directions = np.linalg.svd(sample, full_matrices=False)
    directions = directions[:3] * np.sign(directions[:3].sum(axis=1, keepdims=True) + 1e-12)
    components = np.zeros((*valid.shape, len(directions)))
    components[valid] = centred @ directions.T
    return components


def _sar(image, valid, modality: Modality) -> Float[np.ndarray, "h w 3"]:
    if is_linear_power(modality):
        image = 10 * np.log10(np.maximum(image, 1e-6))
    if image.shape[2] == 1:
        return np.repeat(_stretch(image, valid), 3, axis=2)
    stretched = _stretch(image[..., :2], valid)
    # Grey where both polarisations agree, magenta where the surface scatters back, green where a volume depolarises.
    return np.stack([stretched[..., 0], stretched[..., 1], stretched.mean(axis=2)], axis=-1)


def _height(image, valid, modality: Modality) -> Float[np.ndarray, "h w 3"]:
    surface = np.where(valid, image[..., 0], image[..., 0][valid].mean() if valid.any() else 0.0)
    share = _stretch(surface[..., None], valid)[..., 0]
    stops = np.linspace(0, 1, len(HYPSOMETRIC))
    tint = np.stack([np.interp(share, stops, HYPSOMETRIC[:, channel]) for channel in range(3)], axis=-1)
    return tint * hillshade(surface)[..., None]


def hillshade(
    surface: Float[np.ndarray, "h w"], altitude: float = 45.0, azimuth: float = 315.0
) -> Float[np.ndarray, "h w"]:
    """Lambertian shading of a surface, around 1 on level ground, exaggerated so that the roughest tenth shows.

    Args:
      surface: heights in any unit.
      altitude: of the light, degrees above the horizon.
      azimuth: of the light, degrees clockwise from north.
    """
    if min(surface.shape) < 2:
        return np.ones_like(surface)
    down, right = np.gradient(surface)
    steep = np.percentile(np.hypot(down, right), 90)
    exaggeration = 0.6 / steep if steep > 0 else 0.0
    slope = np.arctan(exaggeration * np.hypot(down, right))
    aspect = np.arctan2(-right, down)
    light, zenith = np.deg2rad(azimuth), np.deg2rad(90 - altitude)
    shade = np.cos(zenith) * np.cos(slope) + np.sin(zenith) * np.sin(slope) * np.cos(light - aspect)
    return np.clip(0.45 + 0.55 * shade / np.cos(zenith), 0, 1.25)


def _stretch(
    image: Float[np.ndarray, "h w c"], valid: Bool[np.ndarray, "h w"], percentiles: tuple[float, float] = (2.0, 98.0)
) -> Float[np.ndarray, "h w c"]:
    if not valid.any():
        return np.zeros_like(image)
    low, high = np.percentile(image[valid], percentiles, axis=0)
    return np.clip((image - low) / np.where(high > low, high - low, 1.0), 0, 1)

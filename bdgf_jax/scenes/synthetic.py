"""A scene made on the spot, worth classifying: no single sensor separates its classes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Georeference, LandCover, Modality, Scene, empty_masks

PIXEL_METRES = 10.0
LOOKS = 2  # of the SAR image: speckle is gamma-distributed with this shape


@dataclass(frozen=True)
class Cover:
    """What a class looks like to each sensor.

    Args:
      name: of the class.
      colour: of the class, "#rrggbb".
      spectrum: name of its endmember; classes that share one differ in backscatter or height.
      backscatter: in the two polarisations, dB.
      height: above ground, metres.
    """

    name: str
    colour: str
    spectrum: str
    backscatter: tuple[float, float]
    height: float


# Ordered so that the first six are pairs which one sensor confuses and another tells apart.
COVERS = (
    Cover("water", "#2f6fb5", "dark", (-17.0, -24.0), 0.0),
    Cover("grass", "#9bcf63", "vegetation", (-13.0, -19.5), 0.0),
    Cover("trees", "#1b6e3c", "vegetation", (-9.5, -15.0), 7.0),
    Cover("pavement", "#7a7a85", "mineral", (-16.0, -23.0), 0.0),
    Cover("roof", "#c0392b", "mineral", (-8.5, -17.5), 6.5),
    Cover("wetland", "#5fb3a8", "dark", (-8.0, -15.5), 0.0),
    Cover("crops", "#e6b422", "vegetation", (-8.5, -14.0), 1.0),
    Cover("soil", "#9c6b3f", "soil", (-13.0, -19.0), 0.0),
    Cover("solar panels", "#46305f", "dark", (-12.0, -21.0), 3.0),
    Cover("rubble", "#d9a77f", "soil", (-8.5, -16.0), 3.0),
)


def synthetic_scene(
    *, height: int = 96, width: int = 96, bands: int = 48, classes: int = 6, seed: int = 0, difficulty: float = 1.0
) -> Scene:
    """Makes a scene with a spectral image, a SAR image and a height model, fully labelled and not yet split.

    Spectra are mixtures of smooth class endmembers, x = i (A E + v) + e, with abundances A that blend across borders,
    illumination i, variation v within a class and sensor noise e. The SAR image is the local mean power times
    gamma-distributed speckle, in dB; the height model is terrain plus the height of what stands on it.

    Args:
      height: rows, in pixels.
      width: columns, in pixels.
      bands: spectral bands between 400 and 2400 nm.
      classes: how many of the ten classes there are.
      seed: of everything random.
      difficulty: factor on illumination, variation and noise.

    Raises:
      InputError: for a number of classes that is not offered, or a scene too small to hold them.
    """
    if not 2 <= classes <= len(COVERS):
        raise InputError(f"scene.synthetic.classes is {classes}, expected 2 to {len(COVERS)}.")
    if bands < 2 or min(height, width) < 8:
        raise InputError(
            f"scene.synthetic: {bands} bands and {height} × {width} pixels; expected 2 bands and 8 × 8 pixels or more."
        )
    random = np.random.default_rng(seed)
    covers = COVERS[:classes]
    labels = _coherent_labels(random, (height, width), classes)
    one_hot = np.eye(classes)[labels]
    abundances = gaussian_filter(one_hot, (0.8, 0.8, 0))
    valid = np.ones((height, width), bool)
    wavelengths = np.linspace(400.0, 2400.0, bands)
    modalities = {
        "hsi": Modality(
            _spectral_image(random, abundances, covers, wavelengths, difficulty),
            valid,
            tuple(f"{wavelength:.0f} nm" for wavelength in wavelengths),
            "optical",
            tuple(float(wavelength) for wavelength in wavelengths),
        ),
        "sar": Modality(_sar_image(random, abundances, covers, difficulty), valid, ("VV", "VH"), "sar"),
        "height": Modality(_height_model(random, abundances, covers, difficulty), valid, ("height",), "height"),
    }
    return Scene(
        name="synthetic",
        modalities=modalities,
        labels=labels,
        masks=empty_masks((height, width)),
        classes=tuple(LandCover(cover.name, cover.colour) for cover in covers),
        georeference=Georeference("EPSG:32633", (PIXEL_METRES, 0.0, 390_000.0, 0.0, -PIXEL_METRES, 5_820_000.0)),
    )


def endmember(name: str, wavelengths: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """Reflectance of a surface at the given wavelengths (nm): a few smooth features for each surface."""
    bump = lambda centre, width: np.exp(-0.5 * ((wavelengths - centre) / width) ** 2)
    step = lambda centre, width: 1 / (1 + np.exp(-(wavelengths - centre) / width))
    water_bands = 1 - 0.55 * bump(1450, 70) - 0.7 * bump(1940, 90)
    return {
        "vegetation": (0.04 + 0.05 * bump(550, 35) + 0.42 * step(715, 15) * (1 - 0.45 * step(1350, 150))) * water_bands,
        "mineral": 0.16 + 0.06 * step(650, 150) + 0.03 * bump(2000, 300),
        "soil": 0.08 + 0.27 * step(800, 250) - 0.06 * bump(2200, 80) - 0.05 * bump(1930, 60),
        "dark": 0.07 * bump(480, 160) + 0.02 + 0.02 * step(700, 100) * (1 - step(1300, 200)),
    }[name]


def _coherent_labels(random, shape: tuple[int, int], classes: int) -> Int[np.ndarray, "h w"]:
    """Each pixel belongs to the class whose smooth random field is highest there."""
    scale = max(1.5, min(shape) / 24)
    fields = [gaussian_filter(random.standard_normal(shape), scale, mode="wrap") for _ in range(classes)]
    standard = [(field - field.mean()) / field.std() for field in fields]
    return np.argmax(standard, axis=0).astype(np.int32)


def _smooth_field(random, shape: tuple[int, int], scale: float) -> Float[np.ndarray, "h w"]:
    field = gaussian_filter(random.standard_normal(shape), scale, mode="reflect")
    return (field - field.mean()) / field.std()


def _spectral_image(random, abundances, covers, wavelengths, difficulty: float) -> Float[np.ndarray, "h w c"]:
    shape = abundances.shape[:2]
    endmembers = np.stack([endmember(cover.spectrum, wavelengths) for cover in covers])
    # Smooth spectral shapes by which one field of a class differs from the next, in every class alike.
    shapes = np.stack([endmember(name, wavelengths) for name in ("vegetation", "mineral", "soil")])
    variation = np.stack(
        [0.7 * _smooth_field(random, shape, 3.0) + 1.2 * random.standard_normal(shape) for _ in shapes], axis=-1
    )
    illumination = 1 + difficulty * (
        0.15 * _smooth_field(random, shape, min(shape) / 6) + 0.2 * random.standard_normal(shape)
    )
    clean = abundances @ endmembers
    # Dark surfaces vary less in absolute terms, but never so little that they give themselves away.
    brightness = 0.03 + 0.5 * clean.mean(axis=-1, keepdims=True)
    varied = clean + difficulty * 0.9 * brightness * (variation @ shapes)
    noise = difficulty * 0.02 * random.standard_normal((*shape, len(wavelengths)))
    return (np.maximum(illumination, 0.2)[..., None] * varied + noise).astype(np.float32)


def _sar_image(random, abundances, covers, difficulty: float) -> Float[np.ndarray, "h w c"]:
    decibels = np.array([cover.backscatter for cover in covers])
    power = abundances @ 10 ** (decibels / 10)
    texture = np.stack([_smooth_field(random, power.shape[:2], 2.0)] * power.shape[2], axis=-1)
    looks = LOOKS / max(difficulty, 1e-3)
    speckle = random.gamma(looks, 1 / looks, power.shape)
    return (10 * np.log10(power * speckle) + 0.8 * difficulty * texture).astype(np.float32)


def _height_model(random, abundances, covers, difficulty: float) -> Float[np.ndarray, "h w c"]:
    shape = abundances.shape[:2]
    objects = abundances @ np.array([cover.height for cover in covers])
    roughness = 1 + difficulty * 0.35 * random.standard_normal(shape)
    terrain = 40.0 + 1.5 * difficulty * _smooth_field(random, shape, min(shape) / 5)
    noise = 0.9 * difficulty * random.standard_normal(shape)
    return (terrain + objects * roughness + noise)[..., None].astype(np.float32)

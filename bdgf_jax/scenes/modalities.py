"""From the raster in a file to a modality on the scene's grid."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid, resample, warp
from bdgf_jax.scenes.raster import Raster
from bdgf_jax.scenes.scene import Finding, Modality

KINDS = ("optical", "sar", "height")
SCALES = ("", "none", "db")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, Sequence) and not isinstance(values, str) and all(map(check, values))


# Of every field of a modality: whether a value will do, and what does.
OPTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "file": (lambda value: isinstance(value, str), "a file name"),
    "key": (lambda value: isinstance(value, str), "the name of a variable in the file"),
    "bands": (_are(lambda value: isinstance(value, int)), "band numbers counted from 1, such as (1, 2, 3)"),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "nodata": (lambda value: value is None or _is_number(value), "a number, such as -9999"),
    "scale": (
        lambda value: value in SCALES or (_is_number(value) and np.isfinite(value) and value != 0),
        "'' (what the kind calls for), 'none', 'db' or a factor such as 0.0001",
    ),
    "names": (_are(lambda value: isinstance(value, str)), "a name for each band, such as ('VV', 'VH')"),
    "wavelengths": (_are(_is_number), "a number of nanometres for each band"),
}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks the fields of a modality before any file is opened.

    Raises:
      InputError: for a field that no modality has, with the nearest one, for a value of the wrong type, and where there
        is no file.
    """
    for field in options:
        if field not in OPTIONS:
            near = difflib.get_close_matches(field, OPTIONS, n=1)
            meant = f"did you mean '{near[0]}'?" if near else f"it may hold {', '.join(OPTIONS)}."
            raise InputError(f"scene.modalities.{name} has no field '{field}'; {meant}")
    if not options.get("file"):
        raise InputError(f"scene.modalities.{name}.file is empty; give the file's name, relative to scene.folder.")
    for field, value in options.items():
        fits, expected = OPTIONS[field]
        if not fits(value):
            raise InputError(f"scene.modalities.{name}.{field} is {value!r}, expected {expected}.")


def build_modality(
    name: str, raster: Raster, options: Mapping[str, Any], grid: Grid, resampling: str
) -> tuple[Modality, list[Finding]]:
    """Puts a raster on the scene's grid, in float32, with one validity for all of its bands.

    A pixel that lacks one band lacks all of them: neither statistics nor networks take a hole in a spectrum.

    Args:
      name: the modality's name, for messages.
      raster: what the file holds.
      options: as `check_options` lets through: `kind`, `scale` ("db" makes 10 log10 of linear power, "" does so for
        SAR images of which no value is negative, a number is a factor), `names` and `wavelengths` of the bands
        (nanometres) where the file has none.
      grid: the scene's grid.
      resampling: how an image on another grid is sampled.

    Raises:
      InputError: naming the band that has no valid pixel, or the field that cannot be used.
    """
    kind = options.get("kind", "optical")
    bands, wavelengths = _described(name, raster, options)
    findings = [Finding("note", name, remark) for remark in raster.remarks]
    image, measured, said = _scaled(name, raster, kind, options.get("scale", ""))
    findings += [Finding("note", name, message) for message in said]
    for band, any_valid in zip(bands, np.any(measured, axis=(0, 1)).tolist()):
        if not any_valid:
            raise InputError(
                f"{raster.path}: band '{band}' of modality '{name}' has no valid pixel; leave it out with `bands`, or"
                " check the nodata value."
            )
    valid = np.asarray(measured.all(axis=2))
    holes = int((measured.any(axis=2) & ~valid).sum())
    if holes:
        findings.append(Finding("warning", name, f"{holes} pixels lack some of the bands and are left out altogether."))
    if not valid.any():
        raise InputError(
            f"{raster.path}: no pixel of modality '{name}' is valid in every band; check the nodata value."
        )
    image[~valid] = 0
    own = Grid(raster.shape, raster.georeference)
    if not grid.holds(own):
        image, valid = resample(image, valid, own, grid, resampling, what=f"modality '{name}'")
        findings.append(Finding("note", name, f"resampled ({resampling}) from {own.describe()} to {grid.describe()}."))
    return Modality(image, valid, bands, kind, wavelengths), findings


def build_window(
    name: str, raster: Raster, options: Mapping[str, Any], grid: Grid, resampling: str, *, linear_power: bool
) -> Modality:
    """What `build_modality` makes of part of a scene, which may lack any valid pixel.

    Args:
      name: the modality's name, for messages.
      raster: what the file holds of this part, and of its surroundings where it lies on another grid.
      options: as of `build_modality`.
      grid: of this part of the scene.
      resampling: how an image on another grid is sampled.
      linear_power: what `holds_linear_power` says of all parts together.

    Raises:
      InputError: naming the field that cannot be used.
    """
    kind, scale = options.get("kind", "optical"), options.get("scale", "")
    bands, wavelengths = _described(name, raster, options)
    if scale == "":
        # The first makes no difference but that the part is not asked by itself; units hold in both.
        scale = "db" if linear_power else 1.0
    image, measured, _ = _scaled(name, raster, kind, scale)
    valid = np.asarray(measured.all(axis=2))
    image[~valid] = 0
    own = Grid(raster.shape, raster.georeference)
    if not grid.holds(own):
        image, valid = warp(image, valid, own, grid, resampling)
    return Modality(image, valid, bands, kind, wavelengths)


def holds_linear_power(name: str, rasters: Iterable[Raster], options: Mapping[str, Any]) -> bool:
    """Whether a modality of which parts are given holds linear power, of which decibels are to be taken.

    No more parts are looked at than it takes to tell.
    """
    if options.get("kind", "optical") != "sar" or options.get("scale", "") != "":
        return False
    found = False
    for raster in rasters:
        image, measured, _ = _scaled(name, raster, "sar", 1.0)
        pixels = image[measured]
        if pixels.min(initial=0) < 0:
            return False
        found |= bool(pixels.any())
    return found


def _described(
    name: str, raster: Raster, options: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """Names and wavelengths of the bands: those of the configuration, else those of the file."""
    bands = _named(name, "names", options.get("names", ()), len(raster.bands)) or raster.bands
    wavelengths = _named(name, "wavelengths", options.get("wavelengths", ()), len(bands)) or raster.wavelengths
    if wavelengths is not None:
        wavelengths = tuple(float(wavelength) for wavelength in wavelengths)
    return tuple(str(band) for band in bands), wavelengths


def _named(name: str, field: str, given, count: int) -> tuple | None:
    if not given:
        return None
    if len(given) != count:
        raise InputError(f"scene.modalities.{name}.{field} lists {len(given)} entries, the image has {count} bands.")
    if len(set(given)) < count and field == "names":
        raise InputError(f"scene.modalities.{name}.names lists a name twice: {tuple(given)}.")
    return tuple(given)


def _scaled(
    name: str, raster: Raster, kind: str, scale: str | float
) -> tuple[Float[np.ndarray, "h w c"], Bool[np.ndarray, "h w c"], list[str]]:
    """The image in the sensor's units, where it holds a measurement, and what was done to it, in words."""
    if np.iscomplexobj(raster.values):
        raise InputError(
            f"{raster.path}: modality '{name}' holds complex values; give amplitudes, phases or intensities as real"
            " bands."
        )
    said = []
    # Power of 0 or less has no logarithm, and a float64 sentinel may not fit into float32.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        image = raster.values.astype(np.float32)
        if raster.units is not None and scale != "none":
            gains, offsets = np.array(raster.units, np.float32).T
            image = image * gains + offsets
            said.append(f"scaled as the file declares, the first band by {gains[0]:g} and {offsets[0]:+g}.")
        if isinstance(scale, int | float):
            image *= np.float32(scale)
        elif scale == "" and kind == "sar" and _is_linear_power(image[raster.valid]):
            said.append(
                "no value is negative, so it holds linear power: 10 log10 of it, decibels, is taken. Set `scale` to"
                " 'none' to leave it."
            )
            scale = "db"
        if scale == "db":
            image = 10 * np.log10(image)
    return image, raster.valid & np.isfinite(image), said


def _is_linear_power(values: Float[np.ndarray, " n"]) -> bool:
    """Decibels of natural surfaces are negative somewhere; power, amplitude and counts are so nowhere."""
    return bool(values.min(initial=0) >= 0 and values.any())

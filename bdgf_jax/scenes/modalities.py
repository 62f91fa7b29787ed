"""From the raster in a file to a modality on the scene's grid."""

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid, resample
from bdgf_jax.scenes.readers import Raster
from bdgf_jax.scenes.scene import Finding, Modality

KINDS = ("optical", "sar", "height")
OPTIONS = ("file", "key", "bands", "kind", "nodata", "scale", "names", "wavelengths")


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises an InputError for a field that no modality has, with the nearest one, and for a missing file."""
    for field in options:
        if field not in OPTIONS:
            near = difflib.get_close_matches(field, OPTIONS, n=1)
            meant = f"did you mean '{near[0]}'?" if near else f"it may hold {', '.join(OPTIONS)}."
            raise InputError(f"scene.modalities.{name} has no field '{field}'; {meant}")
    if not options.get("file"):
        raise InputError(f"scene.modalities.{name}.file is empty; give the file's name, relative to scene.folder.")


def build_modality(
    name: str, raster: Raster, options: Mapping[str, Any], grid: Grid, resampling: str
) -> tuple[Modality, list[Finding]]:
    """Puts a raster on the scene's grid, in float32, with one validity for all of its bands.

    A pixel that lacks one band lacks all of them: neither statistics nor networks take a hole in a spectrum.

    Args:
      name: the modality's name, for messages.
      raster: what the file holds.
      options: `kind`, `scale` ("" leaves the values, "db" makes 10 log10 of linear power), `names` and `wavelengths` of
        the bands (nanometres) where the file has none.
      grid: the scene's grid.
      resampling: how an image on another grid is sampled.

    Raises:
      InputError: naming the band that has no valid pixel, or the field that cannot be used.
    """
    kind = options.get("kind", "optical")
    if kind not in KINDS:
        raise InputError(f"scene.modalities.{name}.kind is '{kind}', expected one of {', '.join(KINDS)}.")
    bands = _named(name, "names", options.get("names", ()), len(raster.bands)) or raster.bands
    wavelengths = _named(name, "wavelengths", options.get("wavelengths", ()), len(bands)) or raster.wavelengths
    if wavelengths is not None:
        wavelengths = tuple(float(wavelength) for wavelength in wavelengths)
    image, measured = _scaled(name, raster, options.get("scale", ""))
    for band, any_valid in zip(bands, np.any(measured, axis=(0, 1)).tolist()):
        if not any_valid:
            raise InputError(
                f"{raster.path}: band '{band}' of modality '{name}' has no valid pixel; leave it out with `bands`, or"
                " check the nodata value."
            )
    findings = []
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
        findings.append(Finding("info", name, f"resampled ({resampling}) from {own.describe()} to {grid.describe()}."))
    return Modality(image, valid, tuple(str(band) for band in bands), kind, wavelengths), findings


def _named(name: str, field: str, given, count: int) -> tuple | None:
    if not given:
        return None
    if len(given) != count:
        raise InputError(f"scene.modalities.{name}.{field} lists {len(given)} entries, the image has {count} bands.")
    if len(set(given)) < count and field == "names":
        raise InputError(f"scene.modalities.{name}.names lists a name twice: {tuple(given)}.")
    return tuple(given)


def _scaled(name: str, raster: Raster, scale: str) -> tuple[Float[np.ndarray, "h w c"], Bool[np.ndarray, "h w c"]]:
    if scale not in ("", "db"):
        raise InputError(
            f"scene.modalities.{name}.scale is '{scale}', expected '' (as it is) or 'db' (10 log10 of linear power)."
        )
    if np.iscomplexobj(raster.values):
        raise InputError(
            f"{raster.path}: modality '{name}' holds complex values; give amplitudes, phases or intensities as real"
            " bands."
        )
    measured = raster.valid
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        image = raster.values.astype(np.float32)
        if scale == "db":
            image = 10 * np.log10(image)
    # Power of 0 or less has no logarithm, and a float64 sentinel may not fit into float32.
    measured = measured & np.isfinite(image)
    return image, measured

"""Feature maps that another model made of the scene, read to guide the classifier in place of diffusion features."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.readers import read_raster


def read_feature_maps(files: str, valid: Bool[np.ndarray, "h w"]) -> tuple[Float32[np.ndarray, "h w 1 _"], ...]:
    """Feature maps on the scene's grid, one file a level; they stand where those of a single timestep would.

    Args:
      files: names with commas between them, coarsest level first, of any format in which a modality may come.
      valid: pixels where features are needed; elsewhere they are 0.

    Raises:
      InputError: a file cannot be read, lies on another grid, or lacks a feature of a pixel that is needed.
    """
    return tuple(_read_level(Path(file.strip()).expanduser(), valid) for file in files.split(","))


def _read_level(path: Path, valid: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 1 _"]:
    if not path.is_file():
        raise InputError(
            f"features.source: there is no file {path}. It is ddpm, untrained, none, or files of feature maps with"
            " commas between them."
        )
    raster = read_raster(path)
    if raster.shape != valid.shape:
        raise InputError(
            f"features.source: {path} has {raster.shape[0]} × {raster.shape[1]} pixels where the scene has"
            f" {valid.shape[0]} × {valid.shape[1]}; feature maps must lie on the grid of the scene."
        )
    if missing := int((valid & ~raster.valid.all(-1)).sum()):
        raise InputError(f"features.source: {path} lacks features of {missing} pixels where the scene holds data.")
    return np.where(valid[..., None], raster.values, 0).astype(np.float32)[:, :, None]

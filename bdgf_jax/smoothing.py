"""Maps that are smooth within fields and not across their edges (`predict.smoothing`) [kin].

Class probabilities are filtered under the guidance of the images, after Kang et al., *Spectral-spatial hyperspectral
image classification with edge-preserving filtering*, IEEE TGRS 52(5), 2014. Where reference maps are smooth themselves,
as land-cover products are, that is worth points of accuracy, and where they are not it costs some: so the filter is no
default, and its radius can be left to the validation pixels.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import maximum_filter

from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.guided_filter import guided_filter
from bdgf_jax.evaluation.metrics import agreement
from bdgf_jax.run import Run

FILE = "smoothing.json"  # which radius was taken, and how the map does without it, where that is known
EDGE = 0.3  # ε of the filter, whose guides have unit variance over the scene
CHANNELS = 2  # the leading ones of each modality guide


def radii(config: Config) -> tuple[int, ...]:
    """Those of `predict.smoothing`, none where a map is not to be smoothed.

    Raises:
      InputError: one is no whole number.
    """
    radii = tuple(config.predict.smoothing)
    if not all(isinstance(radius, int) for radius in radii):
        raise InputError(f"predict.smoothing is {radii}; expected whole numbers of pixels.")
    return radii


def check_smoothing(run: Run) -> None:
    """Raises an InputError for radii that are no whole numbers, and where there is nothing to choose one by."""
    found = radii(run.config)
    if len(found) > 1 and not run.scene.masks["validation"].any():
        raise InputError(
            f"predict.smoothing is {found}, of which the validation pixels choose, and '{run.scene.name}' has none: set"
            " scene.split.validation_blocks to 0.3, say, or give one radius."
        )


def looked_at(run: Run, wanted: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The pixels whose probabilities are needed to smooth those of the wanted ones, and to choose a radius.

    Raises:
      InputError: as of `check_smoothing`.
    """
    check_smoothing(run)
    found = radii(run.config)
    if len(found) > 1:
        wanted = wanted | run.scene.masks["validation"]
    return run.scene.valid & maximum_filter(wanted, 2 * reach(max(found)) + 1)


def reach(radius: int) -> int:
    """How far from a pixel lies what its smoothed probabilities depend on, pixels: a window's window."""
    return 2 * radius


def choose_radius(run: Run, probabilities: Float[ndarray, "h w k"]) -> tuple[int, dict[int, float]]:
    """The radius that is best on the validation pixels, the smaller of equals, and the average accuracy by radius.

    One radius alone is taken as it is, and nothing is known of it.

    Args:
      run: of the scene.
      probabilities: before the filter; at least those of the pixels that `looked_at` names.
    """
    candidates = sorted(radii(run.config))
    if len(candidates) == 1:
        return candidates[0], {}
    pixels = run.scene.masks["validation"]
    reached = {
        radius: float(agreement(run.scene.labels[pixels], smooth(run.images, probabilities, radius)[pixels])["aa"])
        for radius in candidates
    }
    return max(reached, key=reached.__getitem__), reached


def smooth(
    images: Mapping[str, Float[ndarray, "h w _"]], probabilities: Float[ndarray, "h w k"], radius: int
) -> Float[ndarray, "h w k"]:
    """Probabilities that follow the images; the same where the radius is 0.

    Args:
      images: by modality, as the models see them.
      probabilities: of the classes, all 0 at pixels that were not predicted, which count for nothing.
      radius: of the filter's windows, pixels; `reach` says how far a pixel depends on others.
    """
    if radius == 0:
        return probabilities
    predicted = probabilities.sum(axis=-1) > 0.0
    guide = np.concatenate([image[..., :CHANNELS] for image in images.values()], axis=-1)
    filtered = np.maximum(guided_filter(probabilities, guide, predicted, radius=radius, edge=EDGE), 0.0)
    filtered /= np.maximum(filtered.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return np.where(predicted[..., None], filtered, 0.0).astype(np.float32)

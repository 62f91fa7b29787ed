"""Maps that are smooth within fields and not across their edges (`predict.smoothing`) [kin].

Class probabilities are filtered under the guidance of the images, after Kang et al., *Spectral-spatial hyperspectral
image classification with edge-preserving filtering*, IEEE TGRS 52(5), 2014. Where reference maps are smooth themselves,
as land-cover products are, that is worth points of accuracy, and where they are not it costs some: so the filter is no
default, and its radius can be left to the validation pixels.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import maximum_filter

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.guided_filter import guided_filter
from bdgf_jax.evaluation.metrics import agreement
from bdgf_jax.run import Run

FILE = "smoothing.json"  # which radius was taken, and how the map does without it
EDGE = 0.3  # ε of the filter, whose guides have unit variance over the scene
CHANNELS = 2  # the leading ones of each modality guide


def check_smoothing(run: Run) -> None:
    """Raises an InputError for radii that are no whole numbers, and where there is nothing to choose one by."""
    radii = tuple(run.config.predict.smoothing)
    if not all(isinstance(radius, int) for radius in radii):
        raise InputError(f"predict.smoothing is {radii}; expected whole numbers of pixels.")
    if len(radii) > 1 and not run.scene.masks["validation"].any():
        raise InputError(
            f"predict.smoothing is {radii}, of which the validation pixels choose, and '{run.scene.name}' has none: set"
            " scene.split.validation_blocks to 0.3, say, or give one radius."
        )


def looked_at(run: Run, wanted: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The pixels whose probabilities are needed to smooth those of the wanted ones, and to choose a radius.

    Raises:
      InputError: as of `check_smoothing`.
    """
    check_smoothing(run)
    radii = run.config.predict.smoothing
    if len(radii) > 1:
        wanted = wanted | run.scene.masks["validation"]
    return run.scene.valid & maximum_filter(wanted, 4 * max(radii) + 1)


def choose_radius(run: Run, probabilities: Float[ndarray, "h w k"]) -> tuple[int, dict[int, float]]:
    """The radius that is best on the validation pixels, the smaller of equals, and the average accuracy by radius.

    One radius alone is taken as it is, and nothing is known of it.

    Args:
      run: of the scene.
      probabilities: before the filter; at least those of the pixels that `looked_at` names.
    """
    radii = sorted(run.config.predict.smoothing)
    if len(radii) == 1:
        return radii[0], {}
    pixels = run.scene.masks["validation"]
    reached = {
        radius: float(agreement(run.scene.labels[pixels], smooth(run, probabilities, radius)[pixels])["aa"])
        for radius in radii
    }
    return max(reached, key=reached.__getitem__), reached


def smooth(run: Run, probabilities: Float[ndarray, "h w k"], radius: int) -> Float[ndarray, "h w k"]:
    """Probabilities that follow the images; the same where the radius is 0.

    Args:
      run: of the scene.
      probabilities: of the classes, all 0 at pixels that were not predicted, which count for nothing.
      radius: of the filter's windows, pixels; one pixel depends on others up to twice as far away.
    """
    if radius == 0:
        return probabilities
    predicted = probabilities.sum(axis=-1) > 0.0
    guide = np.concatenate([image[..., :CHANNELS] for image in run.images.values()], axis=-1)
    filtered = np.maximum(guided_filter(probabilities, guide, predicted, radius=radius, edge=EDGE), 0.0)
    filtered /= np.maximum(filtered.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return np.where(predicted[..., None], filtered, 0.0).astype(np.float32)

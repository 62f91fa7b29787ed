"""What shallow classifiers reach on the same pixels: forests, support vectors and votes on pixels and on profiles."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from bdgf_jax import voting
from bdgf_jax.scenes.context import channel_maps
from bdgf_jax.scenes.scene import UNLABELLED, Scene
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform

COMPONENTS = 4  # of each modality, that profiles and windows are made of
RADII = (2, 4, 8)
WINDOWS = (3, 7, 11)
METHODS = ("rf_pixels", "svm_pixels", "rf_profiles", "svm_profiles", "lda_profiles", "soft_vote")
VOTERS = tuple(f"{name}_profiles" for name in voting.VOTERS)
JOBS = 2


@dataclass(frozen=True, eq=False)
class BaselineFeatures:
    """Features of a scene's labelled pixels, one row each; every column has mean 0 and variance 1, or is constant.

    Args:
      rows: row of each pixel, -1 where it is unlabelled.
      columns: the bands of all modalities, then profiles and windows of their leading components.
      modality: number of the modality from which each column comes.
      band_count: how many of the columns are bands.
    """

    rows: Int[np.ndarray, "h w"]
    columns: Float[np.ndarray, "n f"]
    modality: Int[np.ndarray, " f"]
    band_count: int

    @property
    def bands(self) -> Float[np.ndarray, "n c"]:
        """The spectrum of each pixel alone."""
        return self.columns[:, : self.band_count]

    @property
    def balanced(self) -> Float[np.ndarray, "n f"]:
        """All columns, scaled so that every modality has the same total variance, however many bands it has."""
        return self.columns / np.sqrt(np.bincount(self.modality)[self.modality]).astype(np.float32)


def baseline_features(scene: Scene) -> BaselineFeatures:
    """Computes the features that all baselines and all seeds of a scene share; labels say only where they are kept."""
    labelled = scene.labels != UNLABELLED
    rows = np.full(scene.shape, -1, np.int32)
    rows[labelled] = np.arange(labelled.sum())
    bands, filtered = [], []
    for modality in scene.modalities.values():
        standardising = fit_band_transform(modality, mode="standardise")
        whitening = fit_band_transform(modality, mode="whiten", components=COMPONENTS)
        bands.append(apply_band_transform(standardising, modality)[labelled])
        components = np.moveaxis(apply_band_transform(whitening, modality), -1, 0)
        images = [image for each in components for image in channel_maps(each, radii=RADII, windows=WINDOWS)]
        filtered.append(np.stack([image[labelled] for image in images], axis=1))
    blocks = bands + filtered
    numbers = 2 * [*range(len(scene.modalities))]
    columns = np.concatenate(blocks, axis=1)
    deviation = columns.std(axis=0)
    return BaselineFeatures(
        rows=rows,
        columns=((columns - columns.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32),
        modality=np.repeat(numbers, [block.shape[1] for block in blocks]),
        band_count=sum(block.shape[1] for block in bands),
    )


def baselines(
    scene: Scene, features: BaselineFeatures, seed: int, methods: Iterable[str] = METHODS
) -> dict[str, Float[np.ndarray, "n k"]]:
    """Trains each method on the training pixels; its class probabilities at the test pixels, in raster order.

    Those of support vector machines are the softmax of their decision values: right in their order, not calibrated.

    Raises:
      ValueError: the features lack a training or test pixel, since they were computed when it had no label.
    """
    train, test = (features.rows[scene.masks[name]] for name in ("train", "test"))
    if min(train.min(), test.min()) < 0:
        raise ValueError("The features were computed for a scene with fewer labels; compute them anew for this split.")
    labels = scene.labels[scene.masks["train"]]
    bands, everything, balanced = features.bands, features.columns, features.balanced
    models = {
        "rf_pixels": (voting.voters(seed)["rf"], bands),
        "svm_pixels": (_support_vectors(bands[train], labels, seed), bands),
        "svm_profiles": (_support_vectors(balanced[train], labels, seed), balanced),
        **{f"{name}_profiles": (voter, everything) for name, voter in voting.voters(seed).items()},
    }

    @functools.cache
    def probabilities(method: str) -> Float[np.ndarray, "n k"]:
        if method == "soft_vote":
            return np.mean([probabilities(voter) for voter in VOTERS], axis=0)
        model, inputs = models[method]
        # On so few pixels boosting's threads mostly wait for each other: minutes on a busy machine, seconds with one.
        with threadpool_limits(1, user_api="openmp"):
            return _probabilities(model.fit(inputs[train], labels), inputs[test], len(scene.classes))

    return {method: probabilities(method) for method in methods}


def _support_vectors(inputs: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"], seed: int) -> GridSearchCV:
    """A machine with a Gaussian kernel, its C and γ chosen by cross-validation on the training pixels."""
    gamma = 1.0 / (inputs.shape[1] * inputs.var())
    grid = {"C": [1.0, 10.0, 100.0, 1000.0], "gamma": [0.1 * gamma, 0.3 * gamma, gamma, 3.0 * gamma]}
    smallest = np.unique(labels, return_counts=True)[1].min()
    folds = StratifiedKFold(int(np.clip(smallest, 2, 5)), shuffle=True, random_state=seed)
    return GridSearchCV(SVC(break_ties=True), grid, cv=folds, n_jobs=JOBS)


def _probabilities(model: Any, inputs: Float[np.ndarray, "n f"], classes: int) -> Float[np.ndarray, "n k"]:
    if hasattr(model, "predict_proba"):
        known = model.predict_proba(inputs)
    else:
        values = model.decision_function(inputs)
        known = softmax(values if values.ndim == 2 else np.stack([-values, values], axis=1), axis=1)
    probabilities = np.zeros((len(inputs), classes), np.float32)
    probabilities[:, model.classes_] = known  # classes without a training pixel stay at 0
    return probabilities

"""What can be made of a trained classifier's probabilities that is no option of the library, since it does not pay.

Both are rows of `ablation.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from bdgf_jax import mapping, networks
from bdgf_jax.classifier.augmentation import pixel_orders, transform
from bdgf_jax.run import Run
from bdgf_jax.scenes.patches import gather

Predictions = dict[str, Float[np.ndarray, "h w k"]]
ITERATIONS = 100


def over_symmetries(run: Run, guidance: tuple[np.ndarray, ...], where: Bool[np.ndarray, "h w"]) -> Predictions:
    """Each patch is predicted in the square's eight symmetries, and the mean taken [ours].

    Args:
      run: its classifier is trained.
      guidance: diffusion features of the scene, by level.
      where: pixels that are wanted.
    """
    graph, parameters = networks.trained_classifier(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    of_patches, side = mapping.patch_probabilities(run, graph), run.config.classifier.patch

    @jax.jit
    def classify(centres):
        patches = gather(data, centres, side)

        def turned(there_and_back):
            there, back = (jnp.full(len(centres), symmetry) for symmetry in there_and_back)
            seen = transform(patches, there)
            return transform(of_patches(parameters, seen["images"], seen["guidance"]), back)

        # One after the other, so that one network is compiled and not eight.
        found = jax.lax.map(turned, (jnp.arange(8), jnp.asarray(inverses())))
        return jax.tree.map(lambda values: values.mean(axis=0), found)

    return mapping.probabilities(run, classify, where)


def inverses() -> Int[np.ndarray, "8"]:
    """For each of the square's symmetries the one that takes it back."""
    orders = pixel_orders(3)
    returned = orders[:, orders] == np.arange(orders.shape[1])
    return returned.all(-1).argmax(axis=1)


def with_proportions(run: Run, guidance: tuple[np.ndarray, ...], where: Bool[np.ndarray, "h w"]) -> Predictions:
    """The classes weighed by their proportions in the scene, estimated from the classifier's own probabilities [kin].

    The classifier learns all classes equally often, and the scene does not hold them so. Saerens, Latinne and
    Decaestecker, *Adjusting the outputs of a classifier to new a priori probabilities*, Neural Computation 14, 2002: an
    EM over all pixels with data, of which no label is looked at.

    Args:
      run: its classifier is trained.
      guidance: diffusion features of the scene, by level.
      where: pixels that are wanted.
    """
    everywhere = run.scene.valid
    predictions = mapping.predict(run, guidance, where=everywhere)
    weights = proportions(predictions["fused"][everywhere]) * len(run.classes)
    weighed = predictions["fused"] * weights
    fused = weighed / np.maximum(weighed.sum(-1, keepdims=True), np.finfo(np.float32).tiny)
    chosen = predictions | {"fused": fused.astype(np.float32)}
    return {name: np.where(where[..., None], values, np.float32(0.0)) for name, values in chosen.items()}


def proportions(probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Shares of the classes among samples, given what a classifier that took all for equally likely says of each."""
    shares = np.full(probabilities.shape[1], 1.0 / probabilities.shape[1])
    for _ in range(ITERATIONS):
        weighed = probabilities * shares
        shares = (weighed / weighed.sum(-1, keepdims=True)).mean(axis=0)
    return shares


AFTERWARDS: dict[str, Callable[..., Predictions]] = {
    "mean over flips and turns": over_symmetries,
    "estimated class proportions": with_proportions,
}

"""The direct head: what a pixel's own guidance says by itself, without any branch, by kernel logistic regression."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import log_softmax

from bdgf_jax.classifier.heads import centre_of


class DirectHead(nnx.Module):
    """Logits of the centre s×s pixels from their likeness to known pixels, the landmarks [ours].

        logits(g) = Σ_j exp(-γ ‖g - g_j‖²) α_j + b,

    with g a pixel's guidance, every level scaled to the same variance and all of them together to 1. It is held down so
    firmly that it learns little by heart: it speaks for pixels unlike those that the branches were trained on.
    `fit` finds its parameters before the branches train, and no gradient reaches them.

    Args:
      features: of a pixel at each level, all timesteps together.
      classes: number k of classes.
      landmarks: number m of landmarks.
      gamma: γ, how fast likeness falls off with distance.
      centre: side s of the predicted block; odd.
    """

    def __init__(self, features: Sequence[int], classes: int, *, landmarks: int, gamma: float, centre: int):
        self.centre = centre
        self.gamma = gamma
        self.features = tuple(features)
        self.classes = classes
        # Vectors all, since weight decay pulls at matrices: these are held down already.
        self.landmarks = nnx.Param(jnp.zeros(landmarks * sum(features)))
        self.weights = nnx.Param(jnp.zeros(landmarks * classes))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, guidance: Sequence[Float[Array, "b p p _ _"]]) -> Float[Array, "b s s k"]:
        """Logits of each pixel of the centre, from patches of every level."""
        seen = [centre_of(level, self.centre) for level in guidance]
        pixels = jnp.concatenate([level.reshape(*level.shape[:3], -1) for level in seen], axis=-1)
        scaled = pixels.reshape(-1, sum(self.features)).astype(jnp.float32) * level_scales(self.features)[None]
        landmarks = self.landmarks[...].reshape(-1, sum(self.features))
        squares = (scaled**2).sum(-1)[:, None] + (landmarks**2).sum(-1)[None]
        likeness = jnp.exp(-self.gamma * jnp.maximum(squares - 2.0 * scaled @ landmarks.T, 0.0))
        logits = likeness @ self.weights[...].reshape(-1, self.classes) + self.bias[...][None]
        return jax.lax.stop_gradient(logits.reshape(*pixels.shape[:3], -1))

    def fit(
        self,
        pixels: Float[np.ndarray, "n f"],
        labels: Int[np.ndarray, " n"],
        sample_weights: Float[np.ndarray, " n"],
        *,
        ridge: float,
        seed: int,
    ) -> None:
        """Takes pixels as landmarks, a random share of them where they are more, and finds the parameters.

        Args:
          pixels: features of the training pixels, all levels and timesteps side by side.
          labels: their classes.
          sample_weights: how much each of them counts.
          ridge: how strongly the function is held down, in the loss of a training pixel.
          seed: of the share.
        """
        pixels = pixels.astype(np.float64) * level_scales(self.features)
        room = self.landmarks.size // sum(self.features)
        landmarks = pixels[np.sort(np.random.default_rng(seed).permutation(len(pixels))[:room])]
        likeness = lambda others: np.exp(-self.gamma * cdist(others, landmarks, "sqeuclidean"))
        # In the basis φ = k(·, landmarks) U e^(-1/2), the norm of weights is that of the function that they make.
        values, vectors = np.linalg.eigh(likeness(landmarks))
        kept = values > 1e-8 * values[-1]
        basis = vectors[:, kept] / np.sqrt(values[kept])
        weights, bias = ridge_logistic_regression(
            likeness(pixels) @ basis, labels, sample_weights, classes=self.classes, ridge=ridge
        )
        absent = room - len(landmarks)
        pad = lambda rows: jnp.asarray(np.pad(rows, ((0, absent), (0, 0))).ravel(), jnp.float32)
        self.landmarks[...], self.weights[...] = pad(landmarks), pad(basis @ weights.T)
        self.bias[...] = jnp.asarray(bias, jnp.float32)


def level_scales(features: Sequence[int]) -> Float[np.ndarray, " f"]:
    """Factors that give standardised channels the total variance 1, and every level the same share of it."""
    return np.repeat([1.0 / math.sqrt(count * len(features)) for count in features], features).astype(np.float32)


def ridge_logistic_regression(
    features: Float[np.ndarray, "n f"],
    labels: Int[np.ndarray, " n"],
    sample_weights: Float[np.ndarray, " n"],
    *,
    classes: int,
    ridge: float,
) -> tuple[Float[np.ndarray, "k f"], Float[np.ndarray, " k"]]:
    """Weights W and bias b of the ridge logistic regression: the minimum of Σ_i v_i CE_i(W, b) + ridge/2 ‖W‖².

    Solved by L-BFGS in float64, for a gradient step on minibatches weighs all features alike and ends at a worse place.

    Args:
      features: of the training pixels.
      labels: their classes.
      sample_weights: v, how much each pixel counts.
      classes: number k of classes; one without a pixel gets what the others leave it.
      ridge: how strongly weights are held down.
    """
    features = features.astype(np.float64)
    truth = np.eye(classes)[labels]

    def loss_and_gradient(flat):
        weights, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
        log_probabilities = log_softmax(features @ weights.T + bias, axis=1)
        residual = sample_weights[:, None] * (np.exp(log_probabilities) - truth)
        loss = -(sample_weights[:, None] * truth * log_probabilities).sum() + ridge / 2 * (weights**2).sum()
        return loss, np.concatenate([(residual.T @ features + ridge * weights).ravel(), residual.sum(0)])

    start = np.zeros(classes * (features.shape[1] + 1))
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return found[:-classes].reshape(classes, -1), found[-classes:]

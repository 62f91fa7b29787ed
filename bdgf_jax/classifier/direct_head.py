"""The direct head: what the diffusion features say of a pixel by themselves, without any branch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax

from bdgf_jax.classifier.heads import centre_of


class DirectHead(nnx.Module):
    """Logits of the centre s×s pixels, linear in their own diffusion features [ours].

    It has so few parameters, and they are held down so firmly, that it learns little by heart: it speaks for pixels
    unlike those that the branches were trained on. `fit_direct_head` finds its parameters before the branches train,
    and no gradient reaches them.

    Args:
      features: of a pixel, all levels and timesteps together.
      classes: number k of classes.
      centre: side s of the predicted block; odd.
    """

    def __init__(self, features: int, classes: int, *, centre: int):
        self.centre = centre
        # A vector for each class, since weight decay pulls at matrices: these are held down already.
        self.weights = nnx.List([nnx.Param(jnp.zeros(features)) for _ in range(classes)])
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, guidance: Sequence[Float[Array, "b p p t _"]]) -> Float[Array, "b s s k"]:
        """Logits of each pixel of the centre, from patches of every level."""
        seen = [centre_of(level, self.centre) for level in guidance]
        features = jnp.concatenate([level.reshape(*level.shape[:3], -1) for level in seen], axis=-1)
        kernel = jnp.stack([weights[...] for weights in self.weights], axis=-1)
        logits = features.astype(jnp.float32) @ kernel
        return jax.lax.stop_gradient(logits + jnp.broadcast_to(self.bias[...], logits.shape))

    def assign(self, weights: Float[np.ndarray, "k f"], bias: Float[np.ndarray, " k"]) -> None:
        """Takes over fitted parameters."""
        for own, given in zip(self.weights, weights, strict=True):
            own[...] = jnp.asarray(given, jnp.float32)
        self.bias[...] = jnp.asarray(bias, jnp.float32)


def fit_direct_head(
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

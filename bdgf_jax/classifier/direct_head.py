"""The direct head: what a pixel's own guidance says by itself, without any branch, by kernel logistic regression."""

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

SQUASH = 1.5  # standard deviations, beyond which a feature's differences count less and less
POINTS_TOGETHER, FEATURES_TOGETHER = 64, 16  # distances to 512 landmarks of so many points stay in a core's cache
FARTHEST = 4.0  # standard deviations, to which the linear discriminant's features are clipped


class DirectHead(nnx.Module):
    """Logits of the centre s×s pixels from their likeness to known pixels, the landmarks [ours].

        logits(g) = Σ_j exp(-γ d(g, g_j)) α_j + δ V g_L + b,
        d(g, h) = Σ_l w_l mean_i |tanh(g_li / 1.5) - tanh(h_li / 1.5)|,

    with g_li channel i of level l of a pixel's guidance, L the last level.

    The Laplace kernel is what a forest of randomly grown trees becomes in the limit (Mondrian forests, arXiv
    1606.05241): features count one by one, as trees see them, and the hyperbolic tangent keeps one that is far off from
    counting for more than the others, as thresholds do. The last level has a share of its own, since it is the
    classical context, unlike the DDPM's levels in kind and number. V is the linear discriminant on this level alone:
    where likeness to the few known pixels of a class says little, their mean and the shape that all classes share may
    say more.

    The head is held down so firmly that it learns little by heart: it speaks for pixels unlike those that the branches
    were trained on. `fit` finds its parameters before the branches train, and no gradient reaches them.

    Args:
      features: of a pixel at each level, all timesteps together.
      classes: number k of classes.
      landmarks: number m of landmarks.
      gamma: γ, how fast likeness falls off with distance.
      last_share: w of the last level; the others share the rest evenly.
      discriminant: δ, how much the linear discriminant's logits count; 0 leaves it out.
      centre: side s of the predicted block; odd.
    """

    def __init__(
        self,
        features: Sequence[int],
        classes: int,
        *,
        landmarks: int,
        gamma: float,
        last_share: float,
        discriminant: float,
        centre: int,
    ):
        self.centre = centre
        self.gamma = gamma
        self.features = tuple(features)
        self.last_share = last_share
        self.discriminant = discriminant
        self.classes = classes
        # Vectors all, since weight decay pulls at matrices: these are held down already.
        self.landmarks = nnx.Param(jnp.zeros(landmarks * sum(features)))
        self.weights = nnx.Param(jnp.zeros(landmarks * classes))
        self.slopes = nnx.Param(jnp.zeros(features[-1] * classes))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, guidance: Sequence[Float[Array, "b p p _ _"]]) -> Float[Array, "b s s k"]:
        """Logits of each pixel of the centre, from patches of every level."""
        seen = [centre_of(level, self.centre) for level in guidance]
        pixels = jnp.concatenate([level.reshape(*level.shape[:3], -1) for level in seen], axis=-1)
        # Before all else, so that nothing is kept for a gradient that is not wanted.
        values, landmarks, weights, slopes, bias = jax.lax.stop_gradient(
            (pixels.astype(jnp.float32), *(x[...] for x in (self.landmarks, self.weights, self.slopes, self.bias)))
        )
        flat = values.reshape(-1, sum(self.features))
        squashed = jnp.tanh(flat / SQUASH) * level_scales(self.features, self.last_share)[None]
        likeness = jnp.exp(-self.gamma * manhattan(squashed, landmarks.reshape(-1, sum(self.features))))
        logits = likeness @ weights.reshape(-1, self.classes) + bias[None]
        logits += jnp.clip(flat[:, -self.features[-1] :], -FARTHEST, FARTHEST) @ slopes.reshape(-1, self.classes)
        return logits.reshape(*pixels.shape[:3], -1)

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
          sample_weights: how much each of them counts in the regression; the linear discriminant counts them alike.
          ridge: how strongly the function is held down, in the loss of a training pixel.
          seed: of the share.
        """
        last = np.clip(pixels[:, -self.features[-1] :].astype(np.float64), -FARTHEST, FARTHEST)
        pixels = np.tanh(pixels.astype(np.float64) / SQUASH) * level_scales(self.features, self.last_share)
        room = self.landmarks.size // sum(self.features)
        landmarks = pixels[np.sort(np.random.default_rng(seed).permutation(len(pixels))[:room])]
        likeness = lambda others: np.exp(-self.gamma * cdist(others, landmarks, "cityblock"))
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
        if self.discriminant:
            slopes, offset = linear_discriminant(last, labels, classes=self.classes)
            self.slopes[...] = jnp.asarray(self.discriminant * slopes.T.ravel(), jnp.float32)
            bias = bias + self.discriminant * offset
        self.bias[...] = jnp.asarray(bias, jnp.float32)


def level_scales(features: Sequence[int], last_share: float) -> Float[np.ndarray, " f"]:
    """Factors that make sums over channels the weighted means over levels of the means over their channels."""
    others = len(features) - 1
    shares = [*[(1.0 - last_share) / others] * others, last_share] if others else [1.0]
    return np.repeat([share / count for share, count in zip(shares, features)], features).astype(np.float32)


def manhattan(points: Float[Array, "n f"], others: Float[Array, "m f"]) -> Float[Array, "n m"]:
    """Σ |difference| of all pairs. No matrix product, so that on a CPU it takes care to stay within caches."""
    return jax.lax.platform_dependent(points, others, cpu=manhattan_by_blocks, default=manhattan_at_once)


def manhattan_at_once(points: Float[Array, "n f"], others: Float[Array, "m f"]) -> Float[Array, "n m"]:
    """One fused reduction."""
    return jnp.abs(points[:, None] - others[None]).sum(-1)


def manhattan_by_blocks(points: Float[Array, "n f"], others: Float[Array, "m f"]) -> Float[Array, "n m"]:
    """Blocks of points, and of these a few features at a time, so that the sums stay where they are added up."""
    count, features = points.shape
    fill = lambda array, rows: jnp.pad(array, ((0, -len(array) % rows), (0, -features % FEATURES_TOGETHER)))
    by_feature = lambda array: array.T.reshape(-1, FEATURES_TOGETHER, len(array))
    landmarks = by_feature(fill(others, 1))

    def block(points):
        def add(distances, given):
            ours, theirs = given
            return distances + sum(jnp.abs(one[:, None] - other[None]) for one, other in zip(ours, theirs)), None

        start = jnp.zeros((POINTS_TOGETHER, len(others)))
        return jax.lax.scan(add, start, (by_feature(points), landmarks))[0]

    filled = fill(points, POINTS_TOGETHER)
    blocks = jax.lax.map(block, filled.reshape(-1, POINTS_TOGETHER, filled.shape[1]))
    return blocks.reshape(-1, len(others))[:count]


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


def linear_discriminant(
    features: Float[np.ndarray, "n f"], labels: Int[np.ndarray, " n"], *, classes: int
) -> tuple[Float[np.ndarray, "k f"], Float[np.ndarray, " k"]]:
    """Slopes V and offsets of the logits of Gaussian classes of one shrunk covariance, each as likely as the others.

    A class without a pixel gets the mean of the others' logits, and so says nothing; of a single class nothing is said.

    Args:
      features: of the training pixels.
      labels: their classes.
      classes: number k of classes.
    """
    # Half a second of imports, for those who train.
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    known = np.unique(labels)
    slopes, offsets = np.zeros((classes, features.shape[1])), np.zeros(classes)
    if len(known) < 2:
        return slopes, offsets
    even = np.full(len(known), 1.0 / len(known))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=even).fit(features, labels)
    # Of two classes scikit-learn keeps the difference alone.
    both = (lambda values: np.stack([-values[0] / 2, values[0] / 2])) if len(known) == 2 else np.asarray
    slopes[:], offsets[:] = both(model.coef_).mean(0), both(model.intercept_).mean(0)
    slopes[known], offsets[known] = both(model.coef_), both(model.intercept_)
    return slopes, offsets

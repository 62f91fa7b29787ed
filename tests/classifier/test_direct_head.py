import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import laplacian_kernel

from bdgf_jax.classifier.direct_head import (
    DirectHead,
    level_scales,
    linear_discriminant,
    manhattan_at_once,
    manhattan_by_blocks,
    ridge_logistic_regression,
)

CLASSES = 3
LEVELS = [6, 2]


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 90)
    features = random.standard_normal((90, 8)).astype(np.float32)
    features[:, :CLASSES] += 1.5 * np.eye(CLASSES, dtype=np.float32)[labels]
    return features, labels.astype(np.int32)


def regression(samples, weights=None, ridge=4.0):
    features, labels = samples
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    return ridge_logistic_regression(features, labels, weights, classes=CLASSES, ridge=ridge)


def fitted(samples, landmarks=90, gamma=2.0, ridge=0.3, discriminant=0.0, centre=1):
    sizes = {"landmarks": landmarks, "gamma": gamma, "last_share": 0.25, "discriminant": discriminant}
    head = DirectHead(LEVELS, CLASSES, **sizes, centre=centre)
    features, labels = samples
    head.fit(features, labels, np.ones(len(labels), np.float32), ridge=ridge, seed=0)
    return head


def as_patches(features):
    """Pixels as patches of one pixel, by level: two timesteps of three channels, one of two."""
    first, second = np.split(features, [LEVELS[0]], axis=1)
    return [jnp.asarray(first).reshape(-1, 1, 1, 2, 3), jnp.asarray(second).reshape(-1, 1, 1, 1, 2)]


@pytest.mark.parametrize("ridge", [0.5, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_regression_is_scikit_learns(samples, ridge, weighted):
    features, labels = samples
    counts = np.random.default_rng(1).uniform(0.2, 3.0, 90).astype(np.float32) if weighted else np.ones(90, np.float32)
    weights, bias = regression(samples, counts, ridge)
    model = LogisticRegression(C=1.0 / ridge, tol=1e-8, max_iter=2000).fit(features, labels, sample_weight=counts)
    np.testing.assert_allclose(weights, model.coef_, atol=2e-3 * np.abs(model.coef_).max())
    np.testing.assert_allclose(bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=5e-3)


def test_twice_the_weight_is_twice_the_pixel(samples):
    features, labels = samples
    doubled = np.where(np.arange(90) < 20, 2.0, 1.0).astype(np.float32)
    repeated = np.concatenate([features, features[:20]]), np.concatenate([labels, labels[:20]])
    for one, other in zip(regression(samples, doubled), regression(repeated), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_the_head_is_the_optimum_among_all_functions_of_the_kernels_space(samples):
    """Kuhn and Tucker: ridge α_j = truth_j - p_j at the landmarks, whichever way the optimum was found."""
    features, labels = samples
    head = fitted(samples)
    logits = head(as_patches(features))[:, 0, 0]
    residual = np.eye(CLASSES)[labels] - jax.nn.softmax(logits)
    order = np.sort(np.random.default_rng(0).permutation(90))
    np.testing.assert_allclose(head.weights[...].reshape(90, CLASSES), residual[order] / 0.3, atol=0.02)


def squashed(features):
    return np.tanh(features / 1.5) * level_scales(LEVELS, 0.25)


def test_likeness_is_the_laplace_kernel_of_squashed_features(samples):
    features, _ = samples
    head = fitted(samples, gamma=0.7)
    kernel = laplacian_kernel(squashed(features), gamma=0.7)
    expected = kernel @ np.asarray(head.weights[...]).reshape(90, CLASSES) + np.asarray(head.bias[...])
    np.testing.assert_allclose(head(as_patches(features))[:, 0, 0], expected, atol=1e-4)


def test_a_level_weighs_its_share_however_many_channels_it_has():
    scales = level_scales([6, 4, 2], 0.5)
    np.testing.assert_allclose([scales[:6].sum(), scales[6:10].sum(), scales[10:].sum()], [0.25, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(level_scales([3], 0.5).sum(), 1.0, rtol=1e-6)


def logits_of_gaussians(samples):
    """Log-densities of classes of one covariance, up to what all have in common: the mean of the classes' covariances,
    each of which Ledoit and Wolf's shrinkage has made of features scaled to variance 1."""
    features, labels = samples
    features = features.astype(np.float64)
    means = np.stack([features[labels == label].mean(0) for label in range(CLASSES)])
    covariance = np.zeros((features.shape[1],) * 2)
    for label in range(CLASSES):
        own = features[labels == label]
        scale = own.std(0)
        covariance += scale[:, None] * ledoit_wolf((own - own.mean(0)) / scale)[0] * scale / CLASSES
    directions = np.linalg.solve(covariance, means.T)
    return features @ directions - 0.5 * np.einsum("cf,fc->c", means, directions)


def test_the_discriminant_is_that_of_gaussian_classes_as_likely_as_each_other(samples):
    features, labels = samples
    slopes, offsets = linear_discriminant(features, labels, classes=CLASSES)
    uncommon = lambda logits: logits - logits.mean(1, keepdims=True)
    expected = uncommon(logits_of_gaussians(samples))
    np.testing.assert_allclose(uncommon(features @ slopes.T + offsets), expected, atol=1e-6)


def test_a_class_without_a_pixel_and_a_single_class_say_nothing(samples):
    features, labels = samples
    slopes, offsets = linear_discriminant(features[labels != 1], labels[labels != 1], classes=CLASSES)
    logits = features @ slopes.T + offsets
    np.testing.assert_allclose(logits[:, 1], (logits[:, 0] + logits[:, 2]) / 2, atol=1e-9)
    assert (logits[labels != 1][:, [0, 2]].argmax(1) == labels[labels != 1] // 2).mean() > 0.8
    assert not np.any(linear_discriminant(features[labels == 1], labels[labels == 1], classes=CLASSES)[0])


def test_the_heads_logits_gain_its_share_of_the_discriminants_on_the_last_level(samples):
    features, labels = samples
    gained = fitted(samples, discriminant=0.5)(as_patches(features)) - fitted(samples)(as_patches(features))
    last = np.clip(features[:, LEVELS[0] :], -4.0, 4.0)
    slopes, offsets = linear_discriminant(last, labels, classes=CLASSES)
    np.testing.assert_allclose(gained[:, 0, 0], 0.5 * (last @ slopes.T + offsets), atol=1e-4)
    far = as_patches(features + np.float32([0.0] * 6 + [1e6] * 2))
    assert np.abs(fitted(samples, discriminant=0.5)(far)).max() < 100.0, "what is far off must not have all the say"


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 5, 16), (130, 7, 33)])
@pytest.mark.parametrize("distance", [manhattan_at_once, manhattan_by_blocks])
def test_distances_are_scipys_whole_blocks_or_not(distance, shape):
    count, landmarks, features = shape
    random = np.random.default_rng(0)
    points, others = (random.standard_normal((rows, features)).astype(np.float32) for rows in (count, landmarks))
    np.testing.assert_allclose(jax.jit(distance)(points, others), cdist(points, others, "cityblock"), rtol=1e-5)


def test_more_landmarks_than_pixels_change_nothing_and_fewer_are_a_share_of_them(samples):
    patches = as_patches(samples[0])
    whole = fitted(samples)(patches)
    np.testing.assert_allclose(fitted(samples, landmarks=120)(patches), whole, atol=1e-5)
    some = fitted(samples, landmarks=40)
    known = np.asarray(some.landmarks[...]).reshape(40, 8)
    assert all(np.isclose(squashed(samples[0]), row, atol=1e-6).all(axis=1).any() for row in known)
    assert (some(patches).argmax(-1) == whole.argmax(-1)).mean() > 0.85


def test_a_class_without_a_pixel_is_never_the_likeliest(samples):
    features, labels = samples
    head = fitted((features[labels != 1], labels[labels != 1]))
    assert not (head(as_patches(features)).argmax(-1) == 1).any()


def test_the_head_reads_the_pixels_of_the_centre_alone(samples):
    head = fitted(samples, centre=3)
    level, other = jax.random.normal(jax.random.key(0), (5, 7, 7, 2, 3)), jnp.ones((5, 7, 7, 1, 2))
    logits = head([level, other])
    assert logits.shape == (5, 3, 3, CLASSES)
    np.testing.assert_array_equal(head([level.at[:, 0].add(1.0), other]), logits)
    alone = fitted(samples)([level[:, 3:4, 3:4], other[:, 3:4, 3:4]])
    np.testing.assert_allclose(logits[:, 1, 1], alone[:, 0, 0], atol=1e-5)


def test_training_leaves_the_head_alone():
    head = DirectHead([4], CLASSES, landmarks=5, gamma=0.5, last_share=0.5, discriminant=0.1, centre=1)
    graph, parameters = nnx.split(head)
    level = jnp.ones((2, 1, 1, 1, 4), jnp.bfloat16)
    gradients = jax.grad(lambda parameters: nnx.merge(graph, parameters)([level]).sum())(parameters)
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(gradients))
    assert all(leaf.ndim < 2 for leaf in jax.tree.leaves(parameters)), "weight decay pulls at matrices"

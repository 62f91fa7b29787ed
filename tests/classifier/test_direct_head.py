import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression

from bdgf_jax.classifier.direct_head import DirectHead, fit_direct_head

CLASSES = 3


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, 90)
    features = random.standard_normal((90, 8)).astype(np.float32)
    features[:, :CLASSES] += 1.5 * np.eye(CLASSES, dtype=np.float32)[labels]
    return features, labels.astype(np.int32)


def fitted(samples, weights=None, ridge=4.0):
    features, labels = samples
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    return fit_direct_head(features, labels, weights, classes=CLASSES, ridge=ridge)


@pytest.mark.parametrize("ridge", [0.5, 100.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_fit_is_scikit_learns(samples, ridge, weighted):
    features, labels = samples
    counts = np.random.default_rng(1).uniform(0.2, 3.0, 90).astype(np.float32) if weighted else np.ones(90, np.float32)
    weights, bias = fitted(samples, counts, ridge)
    model = LogisticRegression(C=1.0 / ridge, tol=1e-8, max_iter=2000).fit(features, labels, sample_weight=counts)
    np.testing.assert_allclose(weights, model.coef_, atol=2e-3 * np.abs(model.coef_).max())
    np.testing.assert_allclose(bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=5e-3)


def test_twice_the_weight_is_twice_the_pixel(samples):
    features, labels = samples
    doubled = np.where(np.arange(90) < 20, 2.0, 1.0).astype(np.float32)
    repeated = np.concatenate([features, features[:20]]), np.concatenate([labels, labels[:20]])
    for one, other in zip(fitted(samples, doubled), fitted(repeated), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_class_without_a_pixel_is_never_the_likeliest(samples):
    features, labels = samples
    weights, bias = fitted((features[labels != 1], labels[labels != 1]))
    assert 1 not in (features @ weights.T + bias).argmax(axis=1)


def test_the_head_reads_the_pixels_of_the_centre_alone(samples):
    head = DirectHead(2 * 4, CLASSES, centre=3)
    head.assign(*fitted(samples))
    level = jax.random.normal(jax.random.key(0), (5, 7, 7, 2, 4))
    logits = head([level])
    assert logits.shape == (5, 3, 3, CLASSES)
    np.testing.assert_array_equal(head([level.at[:, 0].add(1.0)]), logits)
    weights, bias = (array.astype(np.float32) for array in fitted(samples))
    np.testing.assert_allclose(logits[:, 1, 1], np.asarray(level[:, 3, 3]).reshape(5, 8) @ weights.T + bias, atol=1e-5)


def test_training_leaves_the_head_alone():
    graph, parameters = nnx.split(DirectHead(4, CLASSES, centre=1))
    level = jnp.ones((2, 1, 1, 1, 4), jnp.bfloat16)
    gradients = jax.grad(lambda parameters: nnx.merge(graph, parameters)([level]).sum())(parameters)
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(gradients))
    assert all(leaf.ndim < 2 for leaf in jax.tree.leaves(parameters)), "weight decay pulls at matrices"

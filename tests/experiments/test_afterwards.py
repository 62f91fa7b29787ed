import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax import configuration, extraction, mapping
from bdgf_jax.classifier.augmentation import transform
from bdgf_jax.fitting import train
from bdgf_jax.run import open_run
from experiments.afterwards import inverses, over_symmetries, proportions, with_proportions


def test_every_symmetry_is_taken_back():
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 5, 2)))
    there = transform(patches, jnp.arange(8))
    assert (
        len({np.asarray(patch).tobytes() for patch in transform(jnp.repeat(patches[:1], 8, axis=0), jnp.arange(8))})
        == 8
    )
    np.testing.assert_array_equal(transform(there, jnp.asarray(inverses())), patches)


def test_proportions_are_those_that_the_samples_were_drawn_with():
    """Of Gaussians whose posterior is known, for a classifier that takes all classes for equally likely."""
    rng, means, shares = np.random.default_rng(0), np.array([-1.0, 0.5, 2.0]), np.array([0.7, 0.25, 0.05])
    values = rng.normal(means[rng.choice(3, 40_000, p=shares)])
    likelihoods = np.exp(-0.5 * (values[:, None] - means) ** 2)
    posterior = likelihoods / likelihoods.sum(-1, keepdims=True)
    np.testing.assert_allclose(proportions(posterior), shares, atol=0.02)


@pytest.mark.slow
def test_maps_are_turned_back_and_classes_weighed(tmp_path):
    fields = ["features.source=none", "classifier.stages=1", "classifier.branches=('cnn',)", "train.steps=30"]
    run = open_run(configuration.load("demo:tiny", [f"--config.{field}" for field in fields]), tmp_path / "run")
    guidance, test = extraction.features(run), run.scene.masks["test"]
    train(run, guidance)
    plain, turned = mapping.predict(run, guidance, where=test), over_symmetries(run, guidance, test)
    accuracy = lambda found: (found["fused"][test].argmax(-1) == run.scene.labels[test]).mean()
    assert accuracy(turned) > accuracy(plain) - 0.03
    # The direct head sees single pixels, which no symmetry changes: it comes back where it was.
    np.testing.assert_allclose(turned["direct"], plain["direct"], atol=1e-5)
    weighed = with_proportions(run, guidance, test)
    np.testing.assert_allclose(weighed["fused"][test].sum(-1), 1.0, atol=1e-5)
    counts = lambda found: np.bincount(found["fused"][test].argmax(-1), minlength=len(run.classes))
    assert counts(weighed).std() > counts(plain).std()  # what is frequent becomes more so

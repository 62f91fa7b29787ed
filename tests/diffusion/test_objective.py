import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax.diffusion.masking import TIME_BINS, masking_rule
from bdgf_jax.diffusion.objective import TARGETS, clean_estimate, initial_carry, pretraining_objective, visible_target
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.errors import InputError
from bdgf_jax.scenes.patches import gather

BATCH = 8


def make(denoiser, settings, masking, rule="fixed", **changes):
    settings, masking = (section.copy_and_resolve_references() for section in (settings, masking))
    masking.rule = rule
    masking.update(changes)
    graph, parameters = denoiser
    made = masking_rule(masking, 2, BATCH)
    objective = pretraining_objective(
        graph,
        noise_schedule("cosine", 100),
        made,
        settings,
        masking,
        modalities=("hsi", "sar"),
        crop=16,
        steps=100,
        gather=gather,
    )
    return jax.jit(objective), parameters, initial_carry(made, 2)


@pytest.fixture(scope="module")
def data():
    key = jax.random.key(0)
    images = {"hsi": jax.random.normal(key, (40, 40, 4)), "sar": jax.random.normal(key, (40, 40, 2))}
    return {"images": images, "valid": {name: jnp.ones((40, 40), bool) for name in images}}


@pytest.fixture(scope="module")
def centres():
    return jax.random.randint(jax.random.key(1), (BATCH, 2), 0, 40)


@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_prediction_of_any_target_gives_the_clean_image(target):
    key, other = jax.random.split(jax.random.key(0))
    clean, noise = jax.random.normal(key, (5,)), jax.random.normal(other, (5,))
    signal, sigma = jnp.float32(0.8), jnp.float32(0.6)
    noisy = signal * clean + sigma * noise
    prediction = visible_target(target, clean, noise, signal, sigma)
    np.testing.assert_allclose(clean_estimate(target, prediction, noisy, signal, sigma), clean, atol=1e-6)


def test_a_network_that_says_nothing_loses_the_variance_of_the_noise(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "none")
    silent = jax.tree.map(jnp.zeros_like, parameters)
    loss, (terms, _) = objective(silent, carry, data, centres, jax.random.key(0), jnp.int32(0))
    np.testing.assert_allclose(loss, 1.0, atol=0.05)
    assert terms["masking/hsi"] == terms["masking/sar"] == 0.0


def test_hidden_pixels_are_asked_for_the_clean_image(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "fixed", ratio=0.5, ramp=(0.0, 0.0))
    silent = jax.tree.map(jnp.zeros_like, parameters)
    blank = data | {"images": jax.tree.map(jnp.zeros_like, data["images"])}
    _, (terms, _) = objective(silent, carry, blank, centres, jax.random.key(0), jnp.int32(1))
    assert 0.2 < terms["masking/hsi"] < 0.6
    np.testing.assert_allclose(terms["loss/hsi"], 1.0, atol=0.1)


def test_pixels_without_data_count_for_nothing(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "none")
    left = jnp.broadcast_to(jnp.arange(40)[None, :] < 20, (40, 40))
    holed = data | {"valid": data["valid"] | {"sar": left}}
    garbage = holed | {"images": holed["images"] | {"sar": jnp.where(left[..., None], holed["images"]["sar"], 9e9)}}
    key = jax.random.key(0)
    clean, _ = objective(parameters, carry, holed, centres, key, jnp.int32(0))
    dirty, _ = objective(parameters, carry, garbage, centres, key, jnp.int32(0))
    np.testing.assert_allclose(clean, dirty, rtol=1e-6)


def test_a_modality_absent_from_the_whole_batch_loses_nothing(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "none")
    absent = data | {"valid": data["valid"] | {"sar": jnp.zeros((40, 40), bool)}}
    loss, (terms, carry) = objective(parameters, carry, absent, centres, jax.random.key(0), jnp.int32(0))
    assert terms["loss/sar"] == 0.0
    assert jnp.isfinite(loss)
    np.testing.assert_array_equal(carry["skills"][1], jnp.zeros(TIME_BINS))


def test_masking_grows_along_its_ramp(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "fixed", ratio=0.5, ramp=(0.5, 0.9))
    share = lambda step: objective(parameters, carry, data, centres, jax.random.key(0), jnp.int32(step))[1][0][
        "masking/hsi"
    ]
    assert share(40) == 0.0
    assert 0.0 < share(70) < share(95)


def test_every_parameter_is_trained_when_pixels_are_hidden(denoiser, settings, masking, data, centres):
    objective, parameters, carry = make(denoiser, settings, masking, "fixed", ratio=0.5)
    loss = lambda p: objective(p, carry, data, centres, jax.random.key(0), jnp.int32(1))[0]
    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(parameters)):
        assert jnp.abs(gradient).max() > 0.0, jax.tree_util.keystr(path)


def test_training_lowers_the_loss(denoiser, settings, masking, data, centres):
    smooth = jnp.cumsum(jnp.cumsum(data["images"]["hsi"], 0), 1)
    images = {"hsi": (smooth - smooth.mean()) / smooth.std(), "sar": (smooth[..., :2] - smooth.mean()) / smooth.std()}
    objective, parameters, carry = make(denoiser, settings, masking, "none")

    @jax.jit
    def step(parameters, index):
        key = jax.random.fold_in(jax.random.key(0), index)
        loss, gradients = jax.value_and_grad(
            lambda p: objective(p, carry, data | {"images": images}, centres, key, jnp.int32(1))[0]
        )(parameters)
        return jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), parameters, gradients), loss

    losses = []
    for index in range(60):
        parameters, loss = step(parameters, jnp.int32(index))
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_an_unknown_target_is_refused(denoiser, settings, masking):
    wrong = settings.copy_and_resolve_references()
    wrong.target = "score"
    with pytest.raises(InputError, match=r"diffusion.target must be one of noise, clean, velocity, got 'score'"):
        make(denoiser, wrong, masking)

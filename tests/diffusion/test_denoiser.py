import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from bdgf_jax.diffusion.denoiser import build_denoiser, timestep_embedding
from bdgf_jax.errors import InputError


def denoise(denoiser, images, t, hidden):
    return nnx.merge(*denoiser)(images, t, hidden)


def test_each_modality_is_answered_in_its_own_channels(denoiser, channels, images, nothing_hidden):
    outputs, levels = denoise(denoiser, images, jnp.zeros(3, jnp.int32), nothing_hidden)
    assert {name: [o.shape for o in pair] for name, pair in outputs.items()} == {
        name: [(3, 16, 16, c)] * 2 for name, c in channels.items()
    }
    assert [level.shape for level in levels] == [(3, 8, 8, 16), (3, 16, 16, 8)]


def test_hidden_pixels_cannot_be_seen(denoiser, images, nothing_hidden):
    hidden = nothing_hidden | {"sar": jnp.ones((3, 16, 16), bool)}
    changed = images | {"sar": images["sar"] + 100.0}
    t = jnp.zeros(3, jnp.int32)
    before, _ = denoise(denoiser, images, t, hidden)
    after, _ = denoise(denoiser, changed, t, hidden)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_one_modality_informs_the_other(denoiser, images, nothing_hidden):
    t = jnp.zeros(3, jnp.int32)
    before, _ = denoise(denoiser, images, t, nothing_hidden)
    after, _ = denoise(denoiser, images | {"sar": images["sar"] + 1.0}, t, nothing_hidden)
    assert jnp.abs(before["hsi"][0] - after["hsi"][0]).max() > 1e-3


def test_the_timestep_matters(denoiser, images, nothing_hidden):
    early, _ = denoise(denoiser, images, jnp.zeros(3, jnp.int32), nothing_hidden)
    late, _ = denoise(denoiser, images, jnp.full(3, 900), nothing_hidden)
    assert jnp.abs(early["hsi"][0] - late["hsi"][0]).max() > 1e-3


def test_a_pixel_depends_on_its_receptive_field_alone(denoiser, images, nothing_hidden):
    side = 64
    wide = {name: jnp.tile(image, (1, 4, 4, 1)) for name, image in images.items()}
    hidden = {name: jnp.zeros((3, side, side), bool) for name in images}
    t = jnp.zeros(3, jnp.int32)
    before, _ = denoise(denoiser, wide, t, hidden)
    after, _ = denoise(denoiser, {name: image.at[:, -1].add(10.0) for name, image in wide.items()}, t, hidden)
    np.testing.assert_array_equal(before["hsi"][0][:, :16], after["hsi"][0][:, :16])


def test_timesteps_are_told_apart():
    embedding = np.asarray(timestep_embedding(jnp.arange(1000), 32))
    distance = np.linalg.norm(embedding[:-1] - embedding[1:], axis=1)
    assert distance.min() > 0.1


def test_bfloat16_convolutions_stay_close_to_float32(settings, channels, images, nothing_hidden):
    answers = {}
    for dtype in ("float32", "bfloat16"):
        half = settings.copy_and_resolve_references()
        half.dtype = dtype
        answers[dtype] = denoise(build_denoiser(half, channels, 0), images, jnp.zeros(3, jnp.int32), nothing_hidden)[1]
    for exact, rounded in zip(answers["float32"], answers["bfloat16"]):
        np.testing.assert_allclose(exact, rounded.astype(jnp.float32), atol=0.05)


def test_a_crop_that_the_levels_do_not_divide_is_refused(denoiser, channels):
    images = {name: jnp.zeros((1, 15, 16, c)) for name, c in channels.items()}
    hidden = {name: jnp.zeros((1, 15, 16), bool) for name in channels}
    with pytest.raises(InputError, match=r"a crop of 15×16 does not fit a U-Net of 2 levels: .* multiples of 2"):
        denoise(denoiser, images, jnp.zeros(1, jnp.int32), hidden)


def test_rematerialised_blocks_give_the_same_gradients_and_keep_less(settings, channels, images, nothing_hidden):
    def kept_and_gradients(rematerialise):
        changed = ConfigDict(settings.to_dict() | {"rematerialise": rematerialise})
        graph, parameters = build_denoiser(changed, channels, seed=0)
        loss = lambda parameters: sum(
            (level**2).mean() for level in denoise((graph, parameters), images, jnp.arange(3), nothing_hidden)[1]
        )
        kept = jax.tree.leaves(jax.eval_shape(lambda parameters: jax.vjp(loss, parameters)[1], parameters))
        gradients = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(parameters)
        return sum(array.size for array in kept), gradients

    (plain, expected), (less, gradients) = map(kept_and_gradients, (False, True))
    assert less < 0.7 * plain
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), gradients, expected)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.prediction import predict_scene, window_centres

MARGIN = 5
WORLD = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)  # no two pixels alike, beyond the border too


@functools.cache
def windows_of_truth(side):
    @jax.jit
    def predict(centres):
        offsets = jnp.arange(side) - side // 2
        rows = centres[:, 0, None, None] + offsets[None, :, None]
        columns = centres[:, 1, None, None] + offsets[None, None, :]
        right = jnp.asarray(WORLD)[rows + MARGIN, columns + MARGIN]
        return {"fused": right, "cnn": 2.0 * right}

    return predict


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.integers(1, 13), st.integers(1, 13)), st.sampled_from([1, 3, 5]), st.data())
def test_every_pixel_of_any_scene_gets_its_own_answer(shape, side, data):
    stride = data.draw(st.integers(1, side))
    result = predict_scene(windows_of_truth(side), shape, stride=stride, batch_size=7)
    np.testing.assert_allclose(
        result["fused"], WORLD[MARGIN : MARGIN + shape[0], MARGIN : MARGIN + shape[1]], rtol=1e-5
    )
    np.testing.assert_allclose(result["cnn"], 2.0 * result["fused"], rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 2), (3, 3), (5, 2)]))
def test_wanted_pixels_come_out_as_without_where_and_others_are_zero(seed, side_and_stride):
    side, stride = side_and_stride
    wanted = np.random.default_rng(seed).random((14, 11)) < 0.1

    def predict(centres):  # windows that disagree, so that a window left out would show in the mean
        key = (10 * centres[:, 0, None, None, None] + centres[:, 1, None, None, None]).astype(np.float32)
        return {"fused": jnp.broadcast_to(key, (len(centres), side, side, 2))}

    whole = predict_scene(predict, wanted.shape, stride=stride, batch_size=8)["fused"]
    part = predict_scene(predict, wanted.shape, stride=stride, batch_size=8, where=wanted)["fused"]
    np.testing.assert_allclose(part, whole * wanted[..., None], rtol=1e-6)


def test_overlapping_windows_are_averaged():
    def predict(centres):  # every window says its own column, everywhere
        columns = centres[:, 1, None, None, None].astype(np.float32)
        return {"fused": jnp.broadcast_to(columns, (len(centres), 3, 3, 1))}

    result = predict_scene(predict, (1, 4), stride=1, batch_size=2)["fused"][0, :, 0]
    np.testing.assert_allclose(result, [0.5, 1.0, 2.0, 2.5])


def test_one_shape_is_compiled_and_the_padding_is_dropped():
    seen = []

    def predict(centres):
        seen.append(centres.shape)
        return windows_of_truth(1)(centres)

    progress = []
    predict_scene(predict, (5, 5), stride=1, batch_size=8, on_progress=progress.append)
    assert set(seen) == {(8, 2)}
    assert progress == [8, 8, 8, 1]


def test_windows_without_a_wanted_pixel_are_not_computed():
    wanted = np.zeros((30, 30), bool)
    wanted[20, 20] = True
    assert len(window_centres((30, 30), stride=3, side=3, where=wanted)) == 1
    assert len(window_centres((30, 30), stride=1, side=3, where=wanted)) == 9
    nothing = predict_scene(windows_of_truth(3), (30, 30), stride=3, batch_size=4, where=wanted & False)
    assert not nothing["fused"].any()


@pytest.mark.parametrize("stride", [0, 4])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(InputError, match=f"stride {stride} and centre 3; a stride of 3 covers"):
        predict_scene(windows_of_truth(3), (9, 9), stride=stride, batch_size=4)


def test_a_branch_that_predicts_nan_is_named_with_the_place():
    def predict(centres):
        good = windows_of_truth(1)(centres)["cnn"]
        return {"cnn": good, "mamba": jnp.where(centres[:, 1, None, None, None] == 2, jnp.nan, good)}

    with pytest.raises(FloatingPointError, match=r"'mamba' .* at 3 pixels, the first at row 0, column 2"):
        predict_scene(predict, (3, 4), stride=1, batch_size=5)

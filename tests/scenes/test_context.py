import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bdgf_jax.scenes.context import BLOCK, context_maps, local_statistics, morphological_profile

RADII, WINDOWS = (2, 4, 8), (3, 7, 11)
IMAGES = hnp.arrays(np.float32, (13, 17), elements=st.integers(-20, 20).map(float))


@settings(max_examples=20, deadline=None)
@given(IMAGES)
def test_openings_only_lower_and_closings_only_raise_the_more_the_larger_the_disk(image):
    profile = list(morphological_profile(image, RADII))
    for opening in profile[::2]:
        assert (opening <= image).all()
    for closing in profile[1::2]:
        assert (closing >= image).all()
    assert (profile[4] <= profile[0]).all()
    assert (profile[5] >= profile[1]).all()


def test_reconstruction_keeps_the_shape_of_what_is_larger_than_the_disk():
    """A plain opening by a disk would round the corners of the square; the small speck goes either way."""
    image = np.zeros((40, 40), np.float32)
    image[5:25, 5:25] = 1.0
    speck = image.copy()
    speck[33:35, 33:35] = 1.0
    opening = next(iter(morphological_profile(speck, RADII)))
    np.testing.assert_array_equal(opening, image)


def test_local_statistics_are_those_of_the_window():
    image = np.random.default_rng(0).normal(1000.0, 1.0, (20, 20)).astype(np.float32)
    statistics = list(local_statistics(image, WINDOWS))
    for index, side in enumerate(WINDOWS):
        window = image[9 - side // 2 : 10 + side // 2, 10 - side // 2 : 11 + side // 2].astype(np.float64)
        assert statistics[2 * index][9, 10] == pytest.approx(window.mean(), rel=1e-6)
        assert statistics[2 * index + 1][9, 10] == pytest.approx(window.std(), rel=1e-4)


def test_maps_lie_side_by_side_by_channel_and_only_the_first_channels_are_used():
    random = np.random.default_rng(0)
    images = {name: random.normal(size=(9, 12, bands)).astype(np.float32) for name, bands in (("hsi", 5), ("dsm", 1))}
    maps = context_maps(images, components=2, radii=(2,), windows=(3, 5))
    channels = [images["hsi"][..., 0], images["hsi"][..., 1], images["dsm"][..., 0]]
    expected = [m for c in channels for m in (*morphological_profile(c, (2,)), *local_statistics(c, (3, 5)))]
    np.testing.assert_allclose(maps, np.stack(expected, axis=-1), atol=1e-6)


def test_a_scene_of_several_blocks_has_no_seams():
    """Structures smaller than the margin are reconstructed alike in one piece and block by block."""
    rows, columns = np.mgrid[: BLOCK + 20, : BLOCK + 30]
    image = (np.sin(rows / 5.0) * np.cos(columns / 7.0)).astype(np.float32)
    maps = context_maps({"dsm": image[..., None]}, components=1, radii=(2, 4), windows=(11,))
    whole = [*morphological_profile(image, (2, 4)), *local_statistics(image, (11,))]
    np.testing.assert_allclose(maps, np.stack(whole, axis=-1), atol=1e-5)

from dataclasses import replace

import numpy as np
import pytest

from bdgf_jax.scenes.drawing import clearest
from bdgf_jax.scenes.rendering import render_modality
from bdgf_jax.scenes.synthetic import synthetic_scene


@pytest.fixture(scope="module")
def scene():
    return synthetic_scene(height=32, width=32, bands=8, classes=3)


def test_other_things_are_drawn_over_the_optical_image_with_most_detail(scene):
    sharp = scene.modalities["hsi"]
    blurred = replace(sharp, image=np.repeat(np.repeat(sharp.image[::8, ::8], 8, axis=0), 8, axis=1))
    both = replace(scene, modalities={"blurred": blurred, **scene.modalities})
    pictures = {name: render_modality(modality) for name, modality in both.modalities.items()}
    assert clearest(both, pictures) == "hsi"
    without = replace(scene, modalities={name: scene.modalities[name] for name in ("height", "sar")})
    assert clearest(without, {name: pictures[name] for name in without.modalities}) == "height"

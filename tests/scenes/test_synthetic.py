import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.splits import Blocks, split_blocks
from bdgf_jax.scenes.synthetic import endmember, synthetic_scene


def forest_accuracy(features, labels, masks):
    forest = RandomForestClassifier(60, random_state=0).fit(features[masks["train"]], labels[masks["train"]])
    return forest.score(features[masks["test"]], labels[masks["test"]])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_forest_on_all_modalities_beats_every_single_one_by_twenty_points(seed):
    scene = synthetic_scene(seed=seed)
    masks = split_blocks(scene.labels, Blocks()).masks
    images = {name: modality.image for name, modality in scene.modalities.items()}
    alone = {name: forest_accuracy(image, scene.labels, masks) for name, image in images.items()}
    together = forest_accuracy(np.concatenate(list(images.values()), axis=-1), scene.labels, masks)
    assert together > max(alone.values()) + 0.2
    assert 0.7 < together < 0.92
    # Each one alone says something: more than the 1/6 of a guess.
    assert min(alone.values()) > 0.2


def test_the_scene_is_a_function_of_its_seed():
    first, again, other = (synthetic_scene(height=32, width=40, bands=7, seed=seed) for seed in (1, 1, 2))
    for name in first.modalities:
        np.testing.assert_array_equal(first.modalities[name].image, again.modalities[name].image)
    assert (first.labels != other.labels).any()


@pytest.mark.parametrize("classes", [2, 6, 10])
def test_size_bands_and_classes_are_arguments(classes):
    scene = synthetic_scene(height=40, width=56, bands=12, classes=classes, seed=0)
    assert scene.shape == (40, 56)
    assert scene.modalities["hsi"].image.shape == (40, 56, 12)
    assert [modality.kind for modality in scene.modalities.values()] == ["optical", "sar", "height"]
    assert np.unique(scene.labels).tolist() == list(range(classes))
    assert len({entry.colour for entry in scene.classes}) == classes


def test_classes_are_spatially_coherent():
    labels = synthetic_scene(seed=0).labels
    same = (labels[:, 1:] == labels[:, :-1]).mean()
    assert same > 0.85


def test_speckle_is_multiplicative_and_of_unit_mean():
    scene = synthetic_scene(height=128, width=128, classes=2, seed=0)
    power = 10 ** (scene.modalities["sar"].image[..., 0].astype(np.float64) / 10)
    spread = [power[scene.labels == k].std() / power[scene.labels == k].mean() for k in (0, 1)]
    assert spread[0] / spread[1] == pytest.approx(1, abs=0.5)
    assert min(spread) > 0.5


def test_endmembers_are_reflectances():
    wavelengths = np.linspace(400, 2400, 200)
    for name in ("vegetation", "mineral", "soil", "dark"):
        spectrum = endmember(name, wavelengths)
        assert spectrum.min() > 0
        assert spectrum.max() < 0.7
        assert np.abs(np.diff(spectrum)).max() < 0.1


@pytest.mark.parametrize(
    ("fields", "message"), [({"classes": 1}, "expected 2 to 10"), ({"classes": 11}, "is 11"), ({"height": 4}, "4 × 96")]
)
def test_what_cannot_be_made_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        synthetic_scene(**fields)

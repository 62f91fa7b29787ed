import pytest

from bdgf_jax import configuration
from bdgf_jax.errors import InputError


@pytest.mark.parametrize("name", configuration.config_names())
def test_every_config_loads_in_full_and_in_its_tiny_size(name):
    base = dict(configuration.flatten(configuration.load("base")))
    for size in ("", ":tiny"):
        fields = dict(configuration.flatten(configuration.load(name + size)))
        free = ("scene.modalities.", "scene.labels.names", "scene.labels.colours")
        strangers = [field for field in fields if field not in base and not field.startswith(free)]
        assert not strangers


@pytest.mark.parametrize("name", sorted(set(configuration.config_names()) - {"base"}))
def test_the_tiny_size_is_one_that_a_test_can_wait_for(name):
    config = configuration.load(f"{name}:tiny")
    assert config.diffusion.width <= 8
    assert config.pretrain.steps <= 50
    assert config.train.steps <= 100


def test_a_size_that_is_not_offered_is_refused():
    with pytest.raises(InputError, match=r"--config demo:huge: no such size\. demo:tiny is the one"):
        configuration.load("demo:huge")


def test_overrides_replace_fields_of_any_type():
    overrides = [
        "--config.train.steps=7",
        "--config.features.timesteps=(3, 4)",
        "--config.scene.folder=a/b",
        "--config.train.augment=False",
    ]
    config = configuration.load("demo", overrides)
    assert (config.train.steps, config.features.timesteps) == (7, (3, 4))
    assert (config.scene.folder, config.train.augment) == ("a/b", False)


def test_of_two_overrides_of_a_field_the_later_one_holds():
    twice = ["--config.features.timesteps=(3, 4)", "--config.train.steps=7", "--config.features.timesteps=(5,)"]
    config = configuration.load("demo", [*twice, "--config.train.steps=8"])
    assert (config.features.timesteps, config.train.steps) == ((5,), 8)


def test_modalities_keep_the_order_in_which_they_are_named():
    config = configuration.load("base")
    config.scene.modalities.optical = {"file": "o.tif"}
    config.scene.modalities.height = {"file": "h.tif"}
    assert list(config.scene.modalities) == ["optical", "height"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.step=7", r"no such field. Did you mean --config.train.steps\?"),
        ("--config.train.steps=many", r"--config.train.steps=many: expected int, such as \d+"),
        ("--steps=7", r"--steps=7: not understood. Overrides look like --config.train.steps=200"),
    ],
)
def test_a_wrong_override_is_explained(override, message):
    with pytest.raises(InputError, match=message):
        configuration.load("demo", [override])


def test_an_unknown_config_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"--config dmo: no such config. .* base, .* demo"):
        configuration.load("dmo")


def test_the_paper_s_preset_differs_from_the_default_in_what_is_ours():
    default, paper = (configuration.load(name).to_dict() for name in ("sentinel_lulc", "sentinel_lulc:paper"))
    changed = configuration.differences(default, paper, default)
    assert {difference.partition(":")[0] for difference in changed} <= set(configuration.PAPER)
    assert len(changed) >= 7
    assert paper["classifier"]["direct"]["landmarks"] == 0


def test_differences_are_told_field_by_field():
    before, after = (
        {"train": {"steps": 1, "seed": 0, "log_every": 20}, "predict": {"stride": 1}},
        {
            "train": {"steps": 2, "seed": 0, "log_every": 1, "steps_together": 10},
            "predict": {"stride": 3},
        },
    )
    assert configuration.differences(before, after, ("train",)) == ["train.steps: 1 -> 2"]


def test_a_field_that_came_later_had_its_default_before():
    before, after = (configuration.load("sentinel_lulc").to_dict() for _ in range(2))
    del before["classifier"]["mutual"]["unlabelled"]
    del before["scene"]["modalities"]["s1"]
    changed = configuration.differences(before, after, ("scene", "classifier"))
    assert changed
    assert all(difference.startswith("scene.modalities.s1.") for difference in changed)
    after["classifier"]["mutual"]["unlabelled"] = 2
    assert configuration.differences(before, after, ("classifier",)) == ["classifier.mutual.unlabelled: 0 -> 2"]


def test_tuples_and_lists_do_not_differ():
    assert not configuration.differences({"a": {"b": [1, 2]}}, {"a": {"b": (1, 2)}}, ("a",))

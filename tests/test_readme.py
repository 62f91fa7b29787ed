"""What the README shows is run, and what it and the other documents name is there."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdgf_jax import configuration

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```python\n(.*?)```", README, flags=re.DOTALL))
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "kernels/README.md", *(ROOT / "docs").glob("*.md"))
LINKS = [
    (str(document.relative_to(ROOT)), target)
    for document in sorted(DOCUMENTS)
    for target in sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", document.read_text())))
]


def test_every_python_block_is_tested():
    assert len(BLOCKS) == README.count("```python")


def test_the_scene_of_one_s_own_is_a_config(tmp_path):
    path = tmp_path / "my_scene.py"
    path.write_text(BLOCKS["my_scene.py"])
    config = configuration.load(str(path), ["--config.train.steps=5"])
    assert list(config.scene.modalities) == ["optical", "sar"]
    assert config.train.steps == 5


@pytest.mark.slow
def test_the_functional_example_runs_by_the_branch_that_scans():
    given = 'configuration.load("demo:tiny")'
    assert given in BLOCKS["functional"]
    small = ["--config.classifier.branches=('mamba',)", "--config.classifier.stages=2"]
    names: dict = {}
    exec(BLOCKS["functional"].replace(given, f'configuration.load("demo:tiny", {small})'), names)
    leading = {leaf.shape[0] for leaf in names["jax"].tree.leaves(names["gradients"])}
    assert leading == {8}
    curvature = names["jax"].tree.leaves(names["curvature"])
    assert all(np.isfinite(leaf).all() for leaf in curvature)
    assert any((leaf != 0).any() for leaf in curvature)
    one, other = names["ensemble"][:2]
    assert names["ensemble"].shape[:2] == (3, 8)
    assert (one != other).any()


def test_a_branch_and_a_mechanism_of_one_s_own_are_trained_like_the_others():
    names: dict = {}
    exec(BLOCKS["branch"], names)
    side = names["config"].patch
    images = {name: jnp.ones((2, side, side, channels)) for name, channels in names["modalities"].items()}
    guidance = [jnp.ones((2, side, side, *level)) for level in names["levels"]]
    of = lambda parameters: names["nnx"].merge(names["graph"], parameters)(images, guidance).logits["cnn"][..., 0].sum()
    gradients = jax.jit(jax.grad(of))(names["parameters"])["branches"]["cnn"]
    for reached in (gradients["guides"][1]["project"]["kernel"], gradients["stages"][0]["expand"]["kernel"]):
        assert (reached[...] != 0).any()


def test_the_diffusion_example_runs():
    names: dict = {}
    exec(BLOCKS["diffusion"], names)
    assert names["translated"].shape == (1, 16, 16, 12)
    assert np.isfinite(names["translated"]).all()
    assert np.isfinite(names["loss"])
    assert names["carry"]["skills"].shape == (2, 4)


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_what_the_documents_link_to_is_there(document, target):
    assert (ROOT / document).parent.joinpath(target).exists()


def test_the_commands_of_the_readme_name_real_configs_and_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for name in re.findall(r"--config (\w+)(?!\.py)\b", README):
        assert name in [*configuration.config_names(), "my_scene"]


def test_every_config_names_its_command_and_the_command_resolves():
    for name in configuration.config_names():
        text = (configuration.config_folder() / f"{name}.py").read_text()
        for config, overrides in re.findall(r"^Command: bdgf run --config (\S+)(.*)$", text, flags=re.MULTILINE):
            assert config == name
            configuration.load(config, overrides.split())

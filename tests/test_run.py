import json

import pytest

from bdgf_jax import cli, configuration
from bdgf_jax.errors import InputError
from bdgf_jax.run import open_run


def test_another_config_is_refused_unless_forced_and_the_fields_are_named(tmp_path, capsys):
    run = open_run(configuration.load("demo:tiny"), tmp_path)
    other = configuration.load("demo:tiny", ["--config.train.steps=99"])
    with pytest.raises(InputError, match=r"train\.steps: 60 -> 99\n.*--force"):
        open_run(other, tmp_path, run.scene)
    open_run(other, tmp_path, run.scene, force=True)
    assert "--force" in (said := capsys.readouterr().out)
    assert "train.steps: 60 -> 99" in said
    assert json.loads((tmp_path / "config.json").read_text())["config"]["train"]["steps"] == 99


def test_force_is_an_option_of_every_stretch_of_the_road():
    options, _ = cli.parse(["train", "--config", "demo", "--force"])
    assert options.force
    options, _ = cli.parse(["run", "--config", "demo"])
    assert not options.force

"""The page 'Bring your own scene', followed on the data it is written for."""

import pathlib
import re

import pytest

from bdgf_jax import configuration
from bdgf_jax.cli import main

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring_your_own_scene.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\S+) -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
BERLIN = ROOT.parent / "shared" / "data" / "berlin_urban_gradient"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "my_berlin.py"
    path.write_text(BLOCKS["my_berlin.py"])
    return path


def test_the_scene_of_the_page_is_a_config(config):
    scene = configuration.load(str(config)).scene
    assert list(scene.modalities) == ["enmap", "hymap"]
    assert len(BLOCKS) == PAGE.count("```python")


@pytest.mark.slow
@pytest.mark.skipif(not BERLIN.is_dir(), reason="the folder of real scenes is not beside this repository")
def test_inspecting_it_finds_what_the_page_says(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    workdir = str(tmp_path / "run")
    assert main(["inspect", "--config", str(config), "--workdir", workdir, f"--config.scene.folder={BERLIN}"]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out.replace("│", " "))
    findings = PAGE.split("For Berlin, shortened:")[1].split("```")[1]
    told = re.split(r"\n(?=warning|note)", findings.strip())
    assert len(told) == 7
    for finding in told:
        assert re.sub(r"\s+", " ", finding) in said


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", PAGE))))
def test_what_the_page_links_to_is_there(target):
    assert (ROOT / "docs" / target).exists()


def test_the_configs_that_the_page_names_are_there():
    named = PAGE.split("## The field's benchmark scenes")[1].split("```bash")[0]
    assert set(re.findall(r"`(\w+)`", named)) <= set(configuration.config_names())


def test_the_findings_that_the_page_explains_are_ones_that_are_made():
    sources = "".join(path.read_text() for path in (ROOT / "bdgf_jax" / "scenes").glob("*.py"))
    plain = re.sub(r'"\s*\n\s*f?"', "", sources)
    table = PAGE.split("| --- | --- |\n")[1].split("\n\n")[0]
    for row in table.splitlines():
        finding = row.split(" | ")[0].removeprefix("| ")
        for part in filter(None, re.split(r" ?… ?|1\.5|-1 and 0", finding)):
            assert part in plain

"""The tables of results are those that the records give, to the last digit."""

import json
import pathlib
import re

import numpy as np
import pytest

from bdgf_jax.evaluation.metrics import FIGURES
from experiments import ablation, real_scenes

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
DOCUMENT = (ROOT / "docs" / "results.md").read_text()
MAPS = [
    scene
    for name in ("real_scenes_sentinel", "real_scenes_berlin", "real_scenes_282D_afterwards", "fresh_scene")
    for scene in json.loads((RESULTS / f"{name}.json").read_text())["scenes"]
]
PARTS = [json.loads((RESULTS / f"ablation_{name}.json").read_text())["scenes"][0] for name in ("433D", "282D")]


@pytest.mark.parametrize("record", MAPS, ids=lambda record: f"{record['scene']}_{record['seeds'][0]}")
def test_the_tables_of_maps_are_those_of_the_records(record):
    assert real_scenes.table(record) in DOCUMENT


@pytest.mark.parametrize("record", PARTS, ids=lambda record: record["scene"])
def test_the_tables_of_parts_are_those_of_the_records(record):
    assert ablation.table(record) in DOCUMENT


def test_the_summary_in_the_readme_is_of_the_same_records():
    _, _, after = (ROOT / "README.md").read_text().partition("| OA, AA, κ |")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in after.split("\n\n")[0].splitlines()[2:]]
    assert {"bdgf", "bdgf_paper", "soft_vote", "probe_untrained"} <= {row[0] for row in rows}
    for method, *cells in rows:
        for scene, cell in zip(MAPS[:3], cells, strict=True):
            figures = scene["methods"].get(method)
            means = [100 * np.mean(figures[figure]) for figure in FIGURES] if figures else []
            assert cell == ", ".join(f"{mean:.1f}" for mean in means)


def test_the_document_s_contents_are_its_headings():
    headings = re.findall(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
    assert re.findall(r"\]\(#([^)]+)\)", DOCUMENT) == [one.lower().replace(" ", "-") for one in headings]
